//! Every option of every command, with values at the ends of every type.
//!
//! Commands, options and what a command needs come from `--help`, so a new option is walked by itself. A value is either
//! refused in words (exit 2; the line names the option, the value, and what would do), or it works: a server then says that it
//! listens, and is killed; a simulation computes until its time is over; every other command ends at once because it may have
//! one file only. No value makes the program panic, hang or take all memory.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use rustix::process::Signal;

use crate::support::{DEADLINE, node, peerloop, peerloop_under, run, wait};

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

/// Values that no number of an option can have.
const NO_NUMBERS: [&str; 5] = ["-1", "NaN", "inf", "-inf", ""];

/// Zero, one, the greatest of 16, 32 and 64 bits and what follows them, and floats that overflow what is made of them.
const NUMBERS: [&str; 11] = [
    "0",
    "1",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e300",
    "1e-300",
];

const NO_ADDRESSES: [&str; 4] = ["", "127.0.0.1", "127.0.0.1:65536", "[::1]:1"];

/// These take addresses of IPv6 too.
const IPV6_COMMANDS: &str = "index";

/// Values of these names are text; empty text works or is refused.
const TEXTS: [&str; 4] = ["NAME", "WORDS", "FILE", "DIR"];

/// A command that does something, as its help shows it.
struct Leaf {
    words: Vec<String>,
    /// What cannot be left out: a value, with the option that it belongs to if it is not positional.
    needed: Vec<(Option<String>, String)>,
    /// Options with the names of their values.
    options: Vec<(String, String)>,
}

/// All commands below these words.
fn leaves(words: &[String]) -> Vec<Leaf> {
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let help = run(&mut peerloop(&[&args[..], &["--help"]].concat()), "");
    let help = String::from_utf8(help.stdout).expect("text");
    let section = |title: &'static str| {
        let lines = help.lines().skip_while(move |line| *line != title).skip(1);
        lines.take_while(|line| !line.is_empty())
    };
    let commands = section("Commands:").filter_map(|line| line.split_whitespace().next());
    let commands: Vec<&str> = commands.filter(|command| *command != "help").collect();
    if !commands.is_empty() {
        let below = |command: &&str| leaves(&[words, &[command.to_string()]].concat());
        return commands.iter().flat_map(below).collect();
    }
    let usage = help.lines().find_map(|line| line.strip_prefix("Usage: "));
    let mut usage = usage.expect("a usage").split(' ').skip(1 + words.len());
    let mut needed = Vec::new();
    while let Some(word) = usage.next() {
        if let Some(option) = word.strip_prefix("--") {
            needed.push((Some(option.into()), name(usage.next().expect("a value"))));
        } else if word.starts_with('<') || word == "[NAME]" {
            needed.push((None, name(word)));
        }
    }
    let option = |line: &str| {
        let (_, option) = line.split_once("--")?;
        let (option, rest) = option.split_once(' ')?;
        rest.starts_with('<').then(|| (option.into(), name(rest)))
    };
    vec![Leaf {
        words: words.to_vec(),
        needed,
        options: section("Options:").filter_map(option).collect(),
    }]
}

/// The name of a value, without what stands around it.
fn name(word: &str) -> String {
    let end = word.find(['>', ']']).expect("a bracket");
    word[1..end].into()
}

impl Leaf {
    /// The command with one option as given and whatever else it needs.
    fn command(&self, option: &str, value: &str, folder: &Path) -> Command {
        let mut args = self.words.clone();
        for (needed, name) in &self.needed {
            let value = match &name[..] {
                "IP:PORT" => NOBODY.into(),
                "ID" | "SEQ" => "1".into(),
                "NAME" | "WORDS" | "WANTED" => "sky".into(),
                "DIR" => folder.display().to_string(),
                "FILE" => folder.join("items").display().to_string(),
                name => panic!("{args:?} needs a {name}: which one?"),
            };
            match needed {
                None => args.push(value),
                Some(needed) if needed == option => {}
                Some(needed) => args.push(format!("--{needed}={value}")),
            }
        }
        args.push(format!("--{option}={value}"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = if self.serves() {
            peerloop(&args)
        } else if self.computes() {
            peerloop_under("-c 0 && ulimit -S -t 1", &args)
        } else {
            peerloop_under("-n 4", &args)
        };
        for home in ["HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
            command.env(home, folder);
        }
        command
            .env("PEERLOOP_PASSWORD", "a password")
            .env("USER", "sky");
        command
    }

    fn serves(&self) -> bool {
        self.options.iter().any(|(option, _)| option == "listen")
    }

    /// It needs no files, and its length is what it is told.
    fn computes(&self) -> bool {
        self.words[0] == "sim"
    }

    /// Gives `option` a value; what is wrong with what comes of it.
    fn fault(&self, option: &str, value: &str, must_refuse: bool, folder: &Path) -> Option<String> {
        let mut command = self.command(option, value, folder);
        let (code, stderr) = if self.serves() {
            until_it_listens(&mut command)
        } else {
            let ended = run(&mut command, "");
            let out_of_time = ended.signal == Some(Signal::XCPU.as_raw());
            let works = (self.computes() && out_of_time).then_some(0);
            (works.or(ended.code), ended.stderr)
        };
        let line = stderr.lines().next().unwrap_or_default();
        let wrong = match line.strip_prefix("error: ") {
            _ if !matches!(code, Some(0..=2)) => "it does not end well",
            Some(_) if code != Some(2) => "another exit code than 2",
            Some(line) if !line.contains(&format!("--{option}")) => "the option is not named",
            // What it excludes is named, and not what it was to be.
            Some(line) if line.contains("cannot be used with") => return None,
            Some(line) if !line.contains(value) => "the value is not named",
            Some(_) => return None,
            None if must_refuse => "not refused",
            None if code == Some(2) && !line.starts_with("peerloop: ") => "no clear line",
            None => return None,
        };
        let words = self.words.join(" ");
        let shown: String = stderr.chars().take(300).collect();
        Some(format!(
            "{words} --{option}={value}: {wrong}, {code:?}: {shown}\n"
        ))
    }
}

/// How a server ended before it listened, or 0; and what it wrote to stderr.
fn until_it_listens(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let stdout = child.stdout.take().expect("piped");
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = tell.send(line);
    });
    let line = told.recv_timeout(DEADLINE).unwrap_or_default();
    let listens = line.starts_with("listening ");
    if listens {
        child.kill().expect("kill");
    }
    let status = wait(&mut child, DEADLINE).expect("it ends");
    let mut stderr = String::new();
    let mut from = child.stderr.take().expect("piped");
    from.read_to_string(&mut stderr).expect("text");
    (if listens { Some(0) } else { status.code() }, stderr)
}

#[test]
fn every_option_refuses_in_words_or_works() {
    let all = leaves(&[]);
    assert!(all.len() > 30, "{} commands", all.len());
    let walk = |leaf: &Leaf| {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        std::fs::write(folder.join("items"), "sky\n").expect("write");
        let mut faults = Vec::new();
        for (option, name) in &leaf.options {
            let (no, maybe) = match &name[..] {
                "IP:PORT" if leaf.words[0] == IPV6_COMMANDS => NO_ADDRESSES.split_at(3),
                "IP:PORT" => (&NO_ADDRESSES[..], &[][..]),
                "IP" => (&["", "1.2.3"][..], &["0.0.0.0", "::1"][..]),
                name if TEXTS.contains(&name) => (&[][..], &[""][..]),
                _ => (&NO_NUMBERS[..], &NUMBERS[..]),
            };
            for (values, must_refuse) in [(no, true), (maybe, false)] {
                let of = |value: &&str| leaf.fault(option, value, must_refuse, folder);
                faults.extend(values.iter().filter_map(of));
            }
        }
        faults
    };
    let faults = thread::scope(|scope| {
        let halves = all.chunks(all.len().div_ceil(2));
        let walks = halves
            .map(|half| scope.spawn(move || half.iter().flat_map(walk).collect::<Vec<String>>()));
        let walks: Vec<_> = walks.collect();
        walks
            .into_iter()
            .flat_map(|half| half.join().expect("joined"))
            .collect::<Vec<_>>()
    });
    assert!(faults.is_empty(), "{}", faults.concat());
}

/// What is done with a value once a load runs.
#[test]
fn a_load_at_the_ends_of_its_range() {
    let node = node(&[]);
    let at = node.addr.to_string();
    for (options, words) in [
        (&["--rate", "0.001"][..], &["answers"][..]),
        (&["--rate", "1e8"], &["answers"]),
        (&["--warm-up", "1e-9"], &["answers"]),
        (&["-s", "0.01"], &["answers"]),
        (&["-d", "4096", "-c", "1"], &["answers"]),
        (
            &["-d", "4096", "-c", "1000000"],
            &["--connections 1000000", "--depth 4096", "lower"],
        ),
    ] {
        let fixed = [["--keys", "1"], ["--warm-up", "0"], ["-s", "0.1"]];
        let fixed = fixed.iter().filter(|pair| !options.contains(&pair[0]));
        let fixed: Vec<&str> = fixed.flatten().copied().collect();
        let args = [&["load", "dht", &at], &fixed[..], options].concat();
        let ended = run(&mut peerloop(&args), "");
        let text = String::from_utf8_lossy(&ended.stdout).into_owned() + &ended.stderr;
        assert!(matches!(ended.code, Some(0..=2)), "{options:?}: {text}");
        words
            .iter()
            .for_each(|word| assert!(text.contains(word), "{options:?}: {text}"));
    }
}
