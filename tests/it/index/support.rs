//! An index server, sharers and plain holders for the tests of file sharing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::support::{DEADLINE, Ended, LOOPBACK, Peer, Server, peerloop, run, wait_until};

/// A server with nothing on disk, and a folder for everything else.
pub struct Place {
    pub root: tempfile::TempDir,
    pub index: Server,
}

impl Place {
    pub fn new() -> Place {
        // Passwords are not what is tested here: the cheapest hash.
        let hash = ["--hash-memory", "8", "--hash-passes", "1"];
        let args = [&["index", "server", "--memory"][..], &hash].concat();
        Place {
            root: tempfile::tempdir().expect("a directory"),
            index: Server::start(&mut peerloop(&args)),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes a file in a folder of this place.
    pub fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, bytes).expect("written");
        path
    }

    /// With the users' state in this place.
    pub fn env<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let state = self.path("state");
        command
            .env("XDG_STATE_HOME", state)
            .env("PEERLOOP_PASSWORD", "secret")
    }

    /// `peerloop index ARGS --server ...`
    pub fn command(&self, args: &[&str]) -> Command {
        let at = self.index.at();
        let mut command = peerloop(&[&["index"], args, &["--server", &at]].concat());
        self.env(&mut command);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        run(&mut self.command(args), "")
    }

    /// Shares a folder as `user` and is online.
    pub fn share(&self, folder: &str, user: &str, options: &[&str]) -> Server {
        let path = self.path(folder);
        let path = path.to_str().expect("UTF-8");
        let args = [&["-v", "share", path, "--user", user], options].concat();
        let server = Server::start(&mut self.command(&args));
        let online = wait_until(DEADLINE, || server.log().contains("online as"));
        assert!(online, "{}", server.log());
        server
    }

    /// Downloads into `out` and returns what `--json` says.
    pub fn download(&self, wanted: &str) -> (Ended, Value) {
        let ended = run(self.download_command(wanted).arg("--json"), "");
        let json = serde_json::from_slice(&ended.stdout).unwrap_or(Value::Null);
        (ended, json)
    }

    /// A download into the folder `out`, for a test that does something meanwhile.
    pub fn download_command(&self, wanted: &str) -> Command {
        let out = self.path("out");
        self.command(&["download", wanted, "--out", out.to_str().expect("UTF-8")])
    }

    pub fn downloaded(&self, name: &str) -> Vec<u8> {
        fs::read(self.path("out").join(name)).expect("downloaded")
    }

    /// Registers `name` for a plain holder, and logs it in.
    pub fn announce(&self, holder: &Plain, name: &str, content: &[u8]) {
        self.announce_as(holder, name, content, content.len() as u64);
    }

    /// The same, with another size.
    pub fn announce_as(&self, holder: &Plain, name: &str, content: &[u8], size_bytes: u64) {
        let mut index = Peer::connect(self.index.addr);
        let user = format!("plain-{}", holder.addr.port());
        let (whole, rest) = (size_bytes / 1_000_000, size_bytes % 1_000_000);
        let line = format!("{name}|{whole}.{rest:06}|{}", hex(content));
        index.send(frame(1, &format!("{user}\npw\n{line}\n")));
        let (kind, text) = read_frame(&mut index.socket).expect("answered");
        assert_eq!(kind, 101, "{text}");
        let id = text.lines().nth(1).expect("an id").to_owned();
        let port = holder.addr.port();
        index.send(frame(2, &format!("{user}\npw\n{id}\n127.0.0.1\n{port}\n")));
        let (kind, text) = read_frame(&mut index.socket).expect("answered");
        assert_eq!(kind, 102, "{text}");
    }
}

pub fn hex(content: &[u8]) -> String {
    let digest: [u8; 20] = Sha1::digest(content).into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn frame(kind: u16, text: &str) -> Vec<u8> {
    let mut frame = (text.len() as u16).to_le_bytes().to_vec();
    frame.extend(kind.to_le_bytes());
    frame.extend(text.as_bytes());
    frame
}

pub fn read_frame(socket: &mut TcpStream) -> std::io::Result<(u16, String)> {
    let mut header = [0; 4];
    socket.read_exact(&mut header)?;
    let mut text = vec![0; usize::from(u16::from_le_bytes([header[0], header[1]]))];
    socket.read_exact(&mut text)?;
    let kind = u16::from_le_bytes([header[2], header[3]]);
    Ok((kind, String::from_utf8_lossy(&text).into_owned()))
}

/// What a plain holder does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Nature {
    /// Waits this long before each range.
    Waits(Duration),
    /// A byte of each range is wrong.
    Lies,
    /// Refuses, and would like to clear the terminal.
    Rants,
    /// Ends, with its listener, in the middle of its second range.
    Dies,
}

/// A holder of one file that knows only the specification: blocking calls, a thread a connection.
pub struct Plain {
    pub addr: SocketAddrV4,
}

impl Plain {
    pub fn start(content: &[u8], nature: Nature) -> Plain {
        let listener = TcpListener::bind(LOOPBACK).expect("bind");
        let std::net::SocketAddr::V4(addr) = listener.local_addr().expect("bound") else {
            panic!("bound to IPv4");
        };
        let content = content.to_vec();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.expect("accept");
                if nature == Nature::Dies {
                    // Its listener goes with it.
                    drop(listener);
                    return serve(socket, &content, nature);
                }
                let content = content.clone();
                std::thread::spawn(move || serve(socket, &content, nature));
            }
        });
        Plain { addr }
    }
}

fn serve(mut socket: TcpStream, content: &[u8], nature: Nature) {
    let mut sent = 0;
    loop {
        let request = match read_frame(&mut socket) {
            Ok((8, request)) => request,
            Ok((kind, _)) => panic!("type {kind}"),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return,
            Err(_) => return,
        };
        let mut fields = request.lines().skip(1).map(str::parse::<usize>);
        let mut number = || fields.next().expect("a field").expect("a number");
        let (offset, length) = (number(), number());
        let mut range = content[offset..offset + length].to_vec();
        match nature {
            Nature::Waits(pause) => std::thread::park_timeout(pause),
            Nature::Rants => {
                if socket
                    .write_all(&frame(208, "no\u{1b}[2J\u{202e}!"))
                    .is_err()
                {
                    return;
                }
                continue;
            }
            Nature::Lies => range[length / 2] ^= 0x20,
            Nature::Dies if sent == 1 => range.truncate(length / 2),
            Nature::Dies => {}
        }
        let header = format!("{}\n{offset}\n{length}", content.len());
        let answer = [frame(108, &header), range].concat();
        if socket.write_all(&answer).is_err() || (nature == Nature::Dies && sent == 1) {
            return;
        }
        sent += 1;
    }
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("entry").file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
