//! The user of an index server: name, password and id, saved in a file that only the user can read.
//!
//! The password is read, in this order, from `--password-file`, PEERLOOP_PASSWORD, the file of an earlier run, or a prompt
//! without echo. Never from the command line, which every user of the machine can read.

use std::env::VarError;
use std::fs::DirBuilder;
use std::io::{self, BufRead, IsTerminal};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use peerloop::proto::index::call::Credentials;
use peerloop::proto::index::fields::{PASSWORD_BYTES_MAX, PeerId, check_password, check_user};

use crate::cli::print;
use crate::cli::prompt::Interrupted;

const PASSWORD_VARIABLE: &str = "PEERLOOP_PASSWORD";

#[derive(Args, Clone)]
pub(in crate::cli) struct UserArgs {
    /// The user [default: the one of an earlier run, or $USER; for a download a guest with a random name]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) user: Option<String>,
    /// Read the password from this file (its first line), instead of PEERLOOP_PASSWORD or a prompt
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) password_file: Option<PathBuf>,
    /// Where name, password and id are saved [default: under $XDG_STATE_HOME/peerloop, by server and user]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) credentials: Option<PathBuf>,
}

/// The format of the file.
#[derive(Serialize, Deserialize)]
struct Saved {
    server: SocketAddr,
    user: String,
    password: String,
    id: Option<String>,
}

impl Saved {
    fn id(&self, path: &Path) -> Result<Option<PeerId>> {
        let id = self.id.as_deref().map(str::parse).transpose();
        id.with_context(|| format!("the id in {}", path.display()))
    }
}

/// A user of a server.
pub(in crate::cli) struct Identity {
    path: PathBuf,
    server: SocketAddr,
    who: Arc<Credentials>,
    /// Set once the user is registered.
    pub(in crate::cli) id: Option<PeerId>,
}

impl UserArgs {
    /// Loads the user of `server`; prompts for what is missing.
    pub(in crate::cli) fn identity(&self, server: SocketAddr) -> Result<Identity> {
        let user = match &self.user {
            Some(user) => user.clone(),
            None => self.usual_user()?,
        };
        check_user(&user).with_context(|| format!("--user {user:?}"))?;
        let path = match &self.credentials {
            Some(path) => path.clone(),
            None => state_dir()?.join(format!("index-{server}-{}.json", file_safe(&user))),
        };
        let saved = read(&path)?.filter(|saved| saved.server == server && saved.user == user);
        let id = saved.as_ref().map_or(Ok(None), |saved| saved.id(&path))?;
        let known = || saved.map_or_else(|| prompt(&user), |saved| Ok(saved.password));
        let password = self.given_password()?.map_or_else(known, Ok)?;
        check_password(&password)?;
        let who = Arc::new(Credentials { user, password });
        Ok(Identity {
            path,
            server,
            who,
            id,
        })
    }

    fn usual_user(&self) -> Result<String> {
        if let Some(path) = &self.credentials
            && let Some(saved) = read(path)?
        {
            return Ok(saved.user);
        }
        std::env::var("USER").context("no user: give one with --user NAME")
    }

    fn given_password(&self) -> Result<Option<String>> {
        if let Some(path) = &self.password_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
        }
        match std::env::var(PASSWORD_VARIABLE) {
            Ok(password) => Ok(Some(password)),
            Err(VarError::NotPresent) => Ok(None),
            // The error would print the value.
            Err(VarError::NotUnicode(_)) => bail!("{PASSWORD_VARIABLE} is no UTF-8"),
        }
    }
}

impl Identity {
    /// A user for downloads without `--user`: the one of an earlier run, or a new one with a random name and password.
    pub(in crate::cli) fn guest(server: SocketAddr, path: Option<PathBuf>) -> Result<Identity> {
        let path = match path {
            Some(path) => path,
            None => state_dir()?.join(format!("index-{server}-guest.json")),
        };
        let saved = read(&path)?.filter(|saved| saved.server == server);
        let (who, id) = match saved {
            Some(saved) => {
                let id = saved.id(&path)?;
                let (user, password) = (saved.user, saved.password);
                (Credentials { user, password }, id)
            }
            None => {
                let user = format!("guest-{:08x}", rand::random::<u32>());
                let password = format!("{:032x}", rand::random::<u128>());
                (Credentials { user, password }, None)
            }
        };
        Ok(Identity {
            path,
            server,
            who: Arc::new(who),
            id,
        })
    }

    pub(in crate::cli) fn who(&self) -> Arc<Credentials> {
        self.who.clone()
    }

    /// Saves the file, readable by its user alone.
    pub(in crate::cli) fn save(&self) -> Result<()> {
        let saved = Saved {
            server: self.server,
            user: self.who.user.clone(),
            password: self.who.password.clone(),
            id: self.id.map(|id| id.to_string()),
        };
        let write = || -> io::Result<()> {
            let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
            if let Some(folder) = folder {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder)?;
            }
            let text = serde_json::to_string_pretty(&saved)? + "\n";
            print::replace_file(&self.path, 0o600, text.as_bytes())
        };
        write().with_context(|| format!("cannot keep the credentials in {}", self.path.display()))
    }
}

fn read(path: &Path) -> Result<Option<Saved>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} does not hold credentials", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The folder of this program under $XDG_STATE_HOME, or its default.
fn state_dir() -> Result<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
        .context("no place for credentials: give --credentials FILE")
}

/// The folder of this program under the folder that `variable` names, or `below_home` in $HOME.
pub(super) fn user_dir(variable: &str, below_home: &str) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = match set(variable) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(set("HOME").context("neither HOME nor the XDG folders are set")?)
            .join(below_home),
    };
    Ok(base.join("peerloop"))
}

/// A user name as part of a file name: ASCII letters and digits as they are, other bytes as %xx.
fn file_safe(user: &str) -> String {
    let mut safe = String::new();
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            safe.push(byte.into());
        } else {
            safe += &format!("%{byte:02x}");
        }
    }
    safe
}

/// Prompts on the terminal, without echo.
fn prompt(user: &str) -> Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("no password for {user}: give --password-file FILE or set {PASSWORD_VARIABLE}");
    }
    eprint!("password of {user}: ");
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    // Without ISIG Ctrl-C is read as a key. As a signal it would leave the terminal without echo.
    let modes = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    silent.local_modes.remove(modes);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let read = read_secret(stdin.lock());
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    eprintln!();
    read
}

/// Reads a line key by key, with the editing keys of a terminal.
fn read_secret(keys: impl BufRead) -> Result<String> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const BACKSPACE: u8 = 8;
    const CTRL_U: u8 = 0x15;
    const CTRL_BACKSLASH: u8 = 0x1c;
    const DELETE: u8 = 0x7f;
    let mut line = Vec::new();
    for key in keys.bytes() {
        match key? {
            b'\r' | b'\n' => return String::from_utf8(line).context("the password is no UTF-8"),
            CTRL_C | CTRL_BACKSLASH => bail!(Interrupted("")),
            CTRL_D if line.is_empty() => break,
            BACKSPACE | DELETE => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            CTRL_U => line.clear(),
            // The rest of a line that is too long is dropped; the password is refused by its length.
            key if (key == b'\t' || key >= b' ') && line.len() <= PASSWORD_BYTES_MAX => {
                line.push(key)
            }
            _ => {}
        }
    }
    bail!("no password was given");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_typed() {
        let typed = |keys: &[u8]| read_secret(keys);
        for (keys, password) in [
            (&b"secret\n"[..], "secret"),
            (b"secret\rmore", "secret"),
            (b"x\x7f\x7fsecrf\x08et\n", "secret"),
            ("s\u{e9}\u{20ac}\u{7f}\n".as_bytes(), "s\u{e9}"),
            (b"wrong\x15se\x1b\x1ac\n", "sec"),
            (b"a\x04b\tc\n", "ab\tc"),
        ] {
            assert_eq!(typed(keys).unwrap(), password, "{keys:?}");
        }
        for keys in [&b""[..], b"\x04", b"cut", b"\xff\n"] {
            assert!(typed(keys).is_err(), "{keys:?}");
        }
        assert!(typed(b"sec\x03\n").unwrap_err().is::<Interrupted>());
        let long = typed(&[&[b'x'; 5000][..], b"\n"].concat()).unwrap();
        assert!(check_password(&long).is_err());
    }
}
