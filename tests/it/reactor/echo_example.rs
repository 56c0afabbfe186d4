//! The examples: they work, they end, and the first is as short as the README says.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{DEADLINE, Peer, Server, noise, wait_until};

fn echo() -> Command {
    example("echo")
}

/// `cargo test` builds the examples beside the tests, `cargo test --test it` does not.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("our own path");
    let target: PathBuf = test
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/it")
        .into();
    let example = target.join("examples").join(name);
    if !example.exists() {
        let profile = target
            .file_name()
            .expect("a profile")
            .to_str()
            .expect("UTF-8");
        let profile = if profile == "debug" { "dev" } else { profile };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", name, "--profile", profile])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .arg("--target-dir")
            .arg(target.parent().expect("target"))
            .status();
        assert!(built.expect("cargo").success());
    }
    Command::new(example)
}

#[test]
fn the_example_answers_each_line_in_upper_case() {
    let mut server = Server::start(&mut echo());
    let (mut one, mut other) = (server.connect(), server.connect());
    one.expect("hello\n").send("Good mor");
    other
        .expect("hello\n")
        .send("a\n\nb\r\n")
        .expect("A\n\nB\r\n");
    one.send("ning\n").expect("GOOD MORNING\n");
    one.send([&[b'x'; 1023][..], b"\n"].concat())
        .expect([&[b'X'; 1023][..], b"\n"].concat());
    one.send("last\nwords")
        .finish()
        .expect("LAST\n")
        .expect_closed();
    other.send([b'x'; 2000]).expect_closed();
    // Also when its end is in the same read.
    let mut long = server.connect();
    long.expect("hello\n")
        .send([&[b'x'; 1025][..], b"\n"].concat())
        .expect_closed();
    let many = noise(1, 300_000)
        .escape_ascii()
        .to_string()
        .replace("\\n", "\n");
    let many: String = many
        .lines()
        .map(|line| format!("{:.900}\n", line))
        .collect();
    let mut third = server.connect();
    third.expect("hello\n");
    std::thread::scope(|scope| {
        let mut from = crate::support::Peer::over(third.socket.try_clone().expect("clone"));
        scope.spawn(|| third.send(&many));
        from.expect(many.to_uppercase());
    });
    server.signal(Signal::TERM);
    assert_eq!(server.wait(DEADLINE), Some(0), "{}", server.log());
    third.expect_closed();
}

#[test]
fn two_services_answer_side_by_side() {
    let mut server = Server::start(&mut example("two_services"));
    let counting = wait_until(DEADLINE, || server.said().contains("counting "));
    assert!(counting, "{}", server.log());
    let said = server.said();
    let count = said.trim().trim_start_matches("counting ").parse();
    let count = count.expect("an address");
    Peer::connect(count).expect("0 lines\n").expect_closed();
    let mut echo = server.connect();
    echo.send("one\ntwo\n").expect("one\ntwo\n");
    Peer::connect(count).expect("2 lines\n").expect_closed();
    server.signal(Signal::TERM);
    let ended = server.wait(Duration::from_secs(1));
    assert_eq!(ended, Some(0), "{}", server.log());
    echo.expect_closed();
}

#[test]
fn the_example_refuses_a_bad_address() {
    let ended = crate::support::run(echo().arg("nonsense"), "");
    assert_ne!(ended.code, Some(0));
    assert!(ended.stdout.is_empty());
}

#[test]
fn the_example_is_under_sixty_lines() {
    let lines = include_str!("../../../examples/echo.rs").lines().count();
    assert!(lines < 60, "{lines} lines");
}
