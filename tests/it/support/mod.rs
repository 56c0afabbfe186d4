//! Processes, raw sockets and the figures of /proc, for all tests.

pub mod talker;
pub mod terminal;
pub mod tools;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use peerloop::proto::dht::id::Id;

use self::talker::{Lines, Talker};

/// The longest wait for anything; far over what a busy machine needs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// Tests that use many descriptors or measure: one at a time.
static BIG: Mutex<()> = Mutex::new(());

pub fn big_test() -> MutexGuard<'static, ()> {
    // A failed test poisons the lock and leaves no other state.
    BIG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` is true; false when it is not within `deadline`.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + deadline;
    while !condition() {
        if Instant::now() > until {
            return false;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    true
}

/// Lets time pass in which something is watched that must not happen, or that is to be counted.
pub fn window(length: Duration) {
    let until = Instant::now() + length;
    wait_until(length, || Instant::now() >= until);
}

pub fn peerloop(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerloop"));
    command.args(args).env_remove("RUST_LOG");
    command
}

/// The program in a shell `script`, in which `"$0" "$@"` stands for it.
pub fn shell(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_peerloop")])
        .args(args)
        .env_remove("RUST_LOG");
    command
}

/// The program under `ulimit LIMIT`, hard and soft. It replaces the shell, so signals reach it.
pub fn peerloop_under(limit: &str, args: &[&str]) -> Command {
    shell(&format!("ulimit {limit} && exec \"$0\" \"$@\""), args)
}

/// What a command that ended left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Ended {
    /// Asserts an error as the program reports them: exit 2, nothing on stdout, one line that has all `words`.
    #[track_caller]
    pub fn expect_error(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{}", self.stderr);
        assert!(self.stdout.is_empty());
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{}", self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no {word:?} in: {}",
                self.stderr
            );
        }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command, stdin: impl Into<Vec<u8>>) -> Ended {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let (mut to, from) = (child.stdin.take(), stdin.into());
    let stdin = std::thread::spawn(move || {
        // A program that ends early does not read it all.
        let _ = to.take().expect("piped").write_all(&from);
    });
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = wait(&mut child, DEADLINE);
    let took = start.elapsed();
    stdin.join().expect("writer");
    let stderr = stderr.join().expect("reader");
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end"));
    Ended {
        code: status.code(),
        signal: status.signal(),
        stdout: stdout.join().expect("reader"),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        took,
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("read a pipe");
        all
    })
}

/// The status of a child that ends within `deadline`; one that does not is killed.
pub fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let mut status = None;
    wait_until(deadline, || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// A server process that is killed, by its id, when the test is over.
pub struct Server {
    talker: Talker,
    pub addr: SocketAddrV4,
    log: Lines,
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} said:\n{}", self.addr, self.log());
        }
    }
}

/// A DHT node with `options`.
pub fn node(options: &[&str]) -> Server {
    Server::start(&mut peerloop(&[&["dht", "node"], options].concat()))
}

impl Server {
    /// Starts a server and waits for its line `listening IP:PORT`.
    #[track_caller]
    pub fn start(command: &mut Command) -> Server {
        let mut talker = Talker::start(command.stderr(Stdio::piped()));
        let log = Lines::of(talker.child.stderr.take());
        let Some(addr) = talker.listening() else {
            panic!("no listening line; stderr: {}", log.text(0));
        };
        Server { talker, addr, log }
    }

    /// `IP:PORT`.
    pub fn at(&self) -> String {
        self.addr.to_string()
    }

    /// What it has said on stderr so far.
    pub fn log(&self) -> String {
        self.log.text(0)
    }

    /// What it has said on stdout after its first line.
    pub fn said(&self) -> String {
        self.talker.lines.text(1)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.talker.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("kill");
    }

    /// kill -9, and the end of the process.
    pub fn kill(&mut self) {
        let _ = self.talker.child.kill();
        let _ = self.talker.child.wait();
    }

    /// The exit code of a server that ends by itself within `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Option<i32> {
        wait(&mut self.talker.child, deadline)?.code()
    }

    pub fn is_alive(&mut self) -> bool {
        self.talker.child.try_wait().expect("wait").is_none()
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(self.addr)
    }

    /// Sets the soft limit of a resource while the process runs; `None` is our own hard limit.
    pub fn limit(&self, resource: Resource, current: Option<u64>) {
        let maximum = getrlimit(resource).maximum;
        let current = current.or(maximum);
        prlimit(Some(self.pid()), resource, Rlimit { current, maximum }).expect("prlimit");
    }

    pub fn has_open(&self, path: &Path) -> bool {
        let files = format!("/proc/{}/fd", self.talker.child.id());
        let mut files = std::fs::read_dir(files).expect("the process lives");
        files.any(|file| {
            let file = std::fs::read_link(file.expect("a descriptor").path());
            file.is_ok_and(|file| file == path)
        })
    }

    /// A field of /proc/PID/status.
    fn status_text(&self, field: &str) -> String {
        let text = self.proc("status");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value = line.and_then(|line| line.strip_prefix(':')?.split_whitespace().next());
        value.expect("a field of status").into()
    }

    fn status(&self, field: &str) -> u64 {
        self.status_text(field).parse().expect("a number")
    }

    /// A letter of the kernel's: `T` is stopped.
    pub fn state(&self) -> String {
        self.status_text("State")
    }

    pub fn ignores(&self, signal: Signal) -> bool {
        let mask = u64::from_str_radix(&self.status_text("SigIgn"), 16).expect("a mask");
        mask >> (signal.as_raw() - 1) & 1 == 1
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.talker.child.id());
        std::fs::read_to_string(path).expect("the process lives")
    }

    pub fn rss_bytes(&self) -> u64 {
        self.status("VmRSS") * 1024
    }

    /// The peak of [`Server::rss_bytes`].
    pub fn peak_rss_bytes(&self) -> u64 {
        self.status("VmHWM") * 1024
    }

    /// Times that the main thread went to sleep, which for a loop that polls is how often it woke up.
    pub fn sleeps(&self) -> u64 {
        self.status("voluntary_ctxt_switches")
    }

    /// Waits until it has done what there was to do.
    #[track_caller]
    pub fn settle(&self) {
        let mut before = 0;
        let is_quiet = wait_until(DEADLINE, || {
            let now = self.sleeps();
            window(Duration::from_millis(100));
            std::mem::replace(&mut before, now) == now
        });
        assert!(is_quiet, "a process without work does not come to rest");
    }

    /// CPU time of all its threads, in the kernel's ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        // The second field is the name in parentheses; utime and stime are the 14th and 15th.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |field: usize| fields[field - 3].parse::<u64>().expect("a number");
        ticks(14) + ticks(15)
    }

    /// The lowest descriptor that is not open, which is the limit under which not one more can be opened.
    pub fn first_free_file(&self) -> u64 {
        let link = |fd: &u64| format!("/proc/{}/fd/{fd}", self.talker.child.id());
        let free = (0..).find(|fd| std::fs::symlink_metadata(link(fd)).is_err());
        free.expect("descriptors are fewer than numbers")
    }
}

/// Asserts that for two seconds they neither wake up nor use CPU.
#[track_caller]
pub fn expect_idle(servers: &[&Server]) {
    let done = || servers.iter().map(|it| (it.sleeps(), it.cpu_ticks()));
    let before: Vec<_> = done().collect();
    window(Duration::from_secs(2));
    assert!(done().eq(before), "an idle process does something");
}

/// One raw connection, with deadlines.
pub struct Peer {
    pub socket: TcpStream,
}

impl Peer {
    pub fn connect(to: SocketAddrV4) -> Peer {
        Peer::over(TcpStream::connect(to).expect("connect"))
    }

    pub fn over(socket: TcpStream) -> Peer {
        socket.set_nodelay(true).expect("nodelay");
        socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
        socket.set_write_timeout(Some(DEADLINE)).expect("timeout");
        Peer { socket }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Peer {
        self.socket.write_all(bytes.as_ref()).expect("send");
        self
    }

    /// The next bytes are exactly these.
    #[track_caller]
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) -> &mut Peer {
        let bytes = bytes.as_ref();
        let mut got = vec![0; bytes.len()];
        if let Err(e) = self.socket.read_exact(&mut got) {
            panic!(
                "{e}, waiting for {}",
                bytes[..bytes.len().min(80)].escape_ascii()
            );
        }
        assert!(
            got == bytes,
            "got {:?} and not {:?}",
            got[..got.len().min(80)].escape_ascii().to_string(),
            bytes[..bytes.len().min(80)].escape_ascii().to_string()
        );
        self
    }

    /// A line without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            self.socket.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
    }

    /// Everything up to the end, whether it is orderly or a reset.
    pub fn rest(&mut self) -> Vec<u8> {
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return all,
                Ok(n) => all.extend_from_slice(&piece[..n]),
                Err(e) if is_reset(&e) => return all,
                Err(e) => panic!("the connection is not closed: {e}"),
            }
        }
    }

    /// Closed without a further byte. A reset counts: it is what a peer gets whose input was not read.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more came: {}", rest.escape_ascii());
    }

    /// Ends our direction of the connection.
    pub fn finish(&mut self) -> &mut Peer {
        self.socket.shutdown(Shutdown::Write).expect("shutdown");
        self
    }

    /// Ends the connection with a reset, which leaves no port waiting.
    pub fn reset(self) {
        reset(self.socket);
    }

    /// One GET; `None` when the answer is length 0.
    pub fn get(&mut self, key: Id) -> io::Result<Option<Vec<u8>>> {
        self.socket.write_all(command("GET", key).as_bytes())?;
        let owned = self.line()?;
        assert_eq!(owned, "1");
        let length = self.line()?.parse().expect("a length");
        let mut value = vec![0; length];
        self.socket.read_exact(&mut value)?;
        Ok((length > 0).then_some(value))
    }

    /// One INSERT; whether it was acknowledged.
    pub fn insert(&mut self, key: Id, value: &[u8]) -> io::Result<bool> {
        self.socket.write_all(command("INSERT", key).as_bytes())?;
        assert_eq!(self.line()?, "1");
        self.socket
            .write_all(&[format!("{}\n", value.len()).as_bytes(), value].concat())?;
        Ok(self.line()? == "1")
    }

    pub fn remove(&mut self, key: Id) -> io::Result<bool> {
        self.socket.write_all(command("REMOVE", key).as_bytes())?;
        assert_eq!(self.line()?, "1");
        Ok(self.line()? == "1")
    }

    pub fn contains(&mut self, key: Id) -> io::Result<bool> {
        self.socket.write_all(command("CONTAINS", key).as_bytes())?;
        assert_eq!(self.line()?, "1");
        Ok(self.line()? == "1")
    }
}

pub fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
}

pub fn is_reset(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// The lines of a command.
pub fn command(word: &str, key: Id) -> String {
    format!("{word}\n{key}\n")
}

pub fn key(name: &str) -> Id {
    Id::of(name.as_bytes())
}

/// Bytes without a pattern, the same for the same `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
