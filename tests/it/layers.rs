//! The layers of the crate, walked file by file: who may know whom, who may do I/O, and what no source may contain.
//!
//! The compiler proves the same of `--no-default-features`; this also sees the files that are built with them.

use std::path::Path;

const SRC_LINES_MAX: usize = 650;
const TEST_LINES_MAX: usize = 600;

/// Which layers a layer may name, besides itself. `None`: any.
fn may_know(layer: &str) -> Option<&'static [&'static str]> {
    match layer {
        "engine" | "store" => Some(&[]),
        "proto" => Some(&["engine"]),
        "workers" => Some(&["proto", "engine", "store"]),
        "net" | "sim" => Some(&["engine", "workers"]),
        "cli" | "main" | "lib" => None,
        other => panic!("src/{other} is in no layer; say here what it may know"),
    }
}

const DOES_IO: [&str; 4] = ["net", "store", "cli", "main"];

/// Crates and types of sockets, clocks, files, threads and the system's randomness.
const IO_NAMES: [&str; 19] = [
    "mio",
    "socket2",
    "rustix",
    "signal_hook",
    "signal_hook_mio",
    "tempfile",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "UnixDatagram",
    "Instant",
    "SystemTime",
    "File",
    "OpenOptions",
    "ThreadRng",
    "OsRng",
    "SysRng",
];
const IO_PATHS: [(&str, &str); 5] = [
    ("std", "thread"),
    ("std", "fs"),
    ("std", "process"),
    ("rand", "rng"),
    ("rand", "random"),
];

/// What is wrong with a source file; `path` begins with `src/` or `tests/`.
fn faults(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let in_src = path.starts_with("src/");
    let lines_max = if in_src {
        SRC_LINES_MAX
    } else {
        TEST_LINES_MAX
    };
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > lines_max {
        faults.push(format!("{lines} lines, over {lines_max}"));
    }
    let has = |pattern: &[&str]| {
        tokens
            .windows(pattern.len())
            .any(|window| window == pattern)
    };
    for name in ["todo", "unimplemented", "dbg"] {
        if has(&[name, "!"]) {
            faults.push(format!("{name}! is left in it"));
        }
    }
    // The program may pace itself and a stress run; what is tested or serves may not.
    if has(&["thread", "::", "sleep"]) && !path.starts_with("src/cli/") {
        faults.push("thread::sleep instead of waiting for a condition".into());
    }
    if !in_src {
        return faults;
    }
    if has(&["unsafe"]) {
        faults.push("unsafe".into());
    }
    if has(&["#", "[", "allow"]) || has(&["#", "!", "[", "allow"]) {
        faults.push("allow where expect says when it is no longer needed".into());
    }
    let module = module(path);
    let layer = module.first().map_or("lib", String::as_str);
    if !DOES_IO.contains(&layer) {
        let names = IO_NAMES.iter().filter(|name| has(&[name]));
        faults.extend(names.map(|name| format!("{layer} names {name}")));
        let paths = paths(&tokens, module.len());
        let named = IO_PATHS
            .iter()
            .filter(|(root, name)| paths.contains(&(root, name)));
        faults.extend(named.map(|(root, name)| format!("{layer} names {root}::{name}")));
    }
    // Protocols are tested in the simulator, by tests that stand beside them.
    let in_tests = module.iter().any(|part| part == "tests");
    if let Some(known) = may_know(layer) {
        for (root, name) in paths(&tokens, module.len()) {
            let simulates = in_tests && name == "sim";
            if root == "crate" && name != layer && !known.contains(&name) && !simulates {
                faults.push(format!("{layer} knows {name}"));
            }
        }
    }
    faults
}

/// `src/engine/wheel/tests.rs` is `engine`, `wheel`, `tests`.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    module
}

/// Every root of a path with the name after it, those in braces one by one. A chain of `super` that reaches the top is
/// `crate`, seen from a file whose module is `depth` below it.
fn paths<'a>(tokens: &[&'a str], depth: usize) -> Vec<(&'a str, &'a str)> {
    let mut paths = Vec::new();
    // Braces that are open; true for one of a module in the file.
    let mut open = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let start = at;
        match tokens[at] {
            "{" => open.push(at >= 2 && tokens[at - 2] == "mod"),
            "}" => _ = open.pop(),
            _ => {}
        }
        at += 1;
        let is_root = start == 0 || tokens[start - 1] != "::";
        if !is_root || tokens.get(at) != Some(&"::") {
            continue;
        }
        let mut root = tokens[start];
        if root == "super" {
            let chain = tokens[start..]
                .chunks(2)
                .take_while(|pair| *pair == ["super", "::"]);
            let levels = chain.count();
            let inline = open.iter().filter(|is_module| **is_module).count();
            if levels < depth + inline {
                continue;
            }
            root = "crate";
            at = start + 2 * levels - 1;
        }
        match tokens.get(at + 1) {
            Some(&"{") => paths.extend(group(&tokens[at + 2..]).map(|name| (root, name))),
            Some(name) => paths.push((root, name)),
            None => {}
        }
    }
    paths
}

/// The first name of each path in the braces that `tokens` begins in.
fn group<'a>(tokens: &[&'a str]) -> impl Iterator<Item = &'a str> {
    let mut depth = 1;
    let mut names = Vec::new();
    let mut is_first = true;
    for token in tokens {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 1 && is_first => names.push(name),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        is_first = depth == 1 && *token == ",";
    }
    names.into_iter()
}

/// Identifiers, `::` and single signs, without comments and literals.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_len(rest)
        } else if let Some(len) = literal_len(rest) {
            len
        } else if first.is_whitespace() {
            first.len_utf8()
        } else {
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let sign = if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let len = word.max(if word == 0 { sign } else { 0 });
            tokens.push(&rest[..len]);
            len
        };
        rest = &rest[len..];
    }
    tokens
}

fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
        if depth == 0 || at >= text.len() {
            return at;
        }
    }
}

/// The length of the string or character that `text` begins with, `None` when it begins with neither.
fn literal_len(text: &str) -> Option<usize> {
    let prefix = ["br", "b", "r", "cr", "c", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix);
        let rest = rest.map(|rest| {
            if prefix.ends_with('r') {
                rest.trim_start_matches('#')
            } else {
                rest
            }
        });
        rest.is_some_and(|rest| rest.starts_with('"') || (*prefix == "b" && rest.starts_with('\'')))
    });
    let Some(prefix) = prefix else {
        return character_len(text);
    };
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let inner = body[hashes + 1..]
            .find(&end)
            .unwrap_or(body.len() - hashes - 1 - end.len());
        return Some(prefix.len() + hashes + 1 + inner + end.len());
    }
    if body.starts_with('\'') {
        return character_len(body).map(|len| prefix.len() + len);
    }
    let mut escaped = false;
    let end = body[1..].find(|c| {
        let is_end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        is_end
    });
    Some(prefix.len() + end.map_or(body.len(), |end| end + 2))
}

/// A character, and not a lifetime.
fn character_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        // The escaped sign itself may be a quote.
        return body[2..].find('\'').map(|end| end + 4);
    }
    body[first.len_utf8()..]
        .starts_with('\'')
        .then(|| first.len_utf8() + 2)
}

fn walk(root: &Path, dir: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(dir)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = format!("{dir}/{}", entry.file_name().to_str().expect("UTF-8"));
        if entry.file_type().expect("a type").is_dir() {
            walk(root, &path, found);
        } else if path.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_sources_keep_their_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, "src", &mut files);
    walk(root, "tests", &mut files);
    assert!(files.len() > 30, "only {} files found", files.len());
    let mut all = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(root.join(&path)).expect("UTF-8");
        all.extend(
            faults(&path, &text)
                .into_iter()
                .map(|fault| format!("{path}: {fault}\n")),
        );
    }
    assert!(all.is_empty(), "\n{}", all.concat());
}

#[track_caller]
fn expect_fault(path: &str, text: &str, fault: &str) {
    let found = faults(path, text);
    assert!(
        found.iter().any(|found| found.contains(fault)),
        "{path}: {text}: {found:?}"
    );
}

#[track_caller]
fn expect_fine(path: &str, text: &str) {
    assert_eq!(faults(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn an_import_upwards_is_found() {
    expect_fault(
        "src/engine/node.rs",
        "use crate::proto::dht::Id;",
        "engine knows proto",
    );
    expect_fault(
        "src/engine/mod.rs",
        "use super::net::Reactor;",
        "engine knows net",
    );
    expect_fault(
        "src/engine/a/b.rs",
        "use super::super::super::store::Store;",
        "engine knows store",
    );
    expect_fault(
        "src/engine/a.rs",
        "mod tests { use super::super::super::workers::X; }",
        "knows workers",
    );
    expect_fault(
        "src/engine/a.rs",
        "fn f() { crate::net::run() }",
        "engine knows net",
    );
    expect_fault(
        "src/proto/dht/node.rs",
        "use crate::{engine::{Cx, Hub}, store};",
        "proto knows store",
    );
    expect_fault(
        "src/proto/mod.rs",
        "fn f(x: &crate::workers::X) {}",
        "proto knows workers",
    );
    expect_fault(
        "src/proto/dht/node.rs",
        "use crate::sim;",
        "proto knows sim",
    );
    expect_fault(
        "src/proto/dht/node/tests.rs",
        "use crate::net;",
        "proto knows net",
    );
    assert!(faults("src/proto/dht/node/tests.rs", "use crate::sim::World;").is_empty());
    expect_fault("src/workers/mod.rs", "use crate::net;", "workers knows net");
    expect_fault(
        "src/net/mod.rs",
        "use crate::proto::dht;",
        "net knows proto",
    );
    expect_fault(
        "src/sim/mod.rs",
        "use crate::store::Store;",
        "sim knows store",
    );
    expect_fault(
        "src/store/mod.rs",
        "use crate::engine::Tick;",
        "store knows engine",
    );
}

#[test]
fn io_below_the_reactor_is_found() {
    for text in [
        "use mio::Poll;",
        "type T = std::net::TcpStream;",
        "fn f(x: File) {}",
        "Instant::now()",
    ] {
        for path in [
            "src/engine/a.rs",
            "src/proto/dht/a.rs",
            "src/workers/mod.rs",
            "src/sim/a.rs",
            "src/lib.rs",
        ] {
            expect_fault(path, text, "names");
            expect_fine("src/net/a.rs", text);
        }
    }
    expect_fault(
        "src/engine/a.rs",
        "use std::{io, thread::{self, X}};",
        "names std::thread",
    );
    expect_fault("src/proto/a.rs", "std::fs::read(x)", "names std::fs");
    expect_fault(
        "src/sim/a.rs",
        "let x = rand::random();",
        "names rand::random",
    );
    expect_fault(
        "src/store/mod.rs",
        "use crate::net::X; use std::fs;",
        "store knows net",
    );
}

#[test]
fn what_is_allowed_is_not_found() {
    expect_fine(
        "src/engine/a.rs",
        "use std::net::SocketAddrV4; use std::io::{self, ErrorKind};",
    );
    expect_fine(
        "src/engine/a.rs",
        "use super::node::X; use crate::engine::Y; mod tests { use super::*; }",
    );
    expect_fine(
        "src/engine/mod.rs",
        "mod tests { use super::X; use super::super::engine::Y; }",
    );
    expect_fine(
        "src/proto/dht/a.rs",
        "use crate::engine::{Cx, Hub}; use super::{id, wire};",
    );
    expect_fine(
        "src/proto/dht/a.rs",
        "// crate::net, TcpStream\n/* unsafe /* File */ dbg!() */ fn f<'a>(x: &'a X) {}",
    );
    expect_fine(
        "src/engine/a.rs",
        r###"f("use crate::net; \" unsafe", r#"" Instant "#, b'"', '\'', "x\\")"###,
    );
    expect_fine("src/cli/a.rs", "use std::fs::File; use crate::anything;");
    expect_fine(
        "src/engine/a.rs",
        "#[expect(clippy::vec_box)] fn f(file: X) {}",
    );
    expect_fine("tests/it/a.rs", "use std::thread; unsafe {}");
}

#[test]
fn leftovers_are_found() {
    expect_fault("src/cli/a.rs", "fn f() { todo!() }", "todo!");
    expect_fault("src/net/a.rs", "unimplemented!(\"x\")", "unimplemented!");
    expect_fault("tests/it/a.rs", "dbg!(x);", "dbg!");
    expect_fault("src/net/a.rs", "let x = '\"'; unsafe { y }", "unsafe");
    expect_fault("src/engine/a.rs", "#[allow(dead_code)] fn f() {}", "allow");
    expect_fault("src/lib.rs", "#![allow(dead_code)]", "allow");
    expect_fault("tests/it/a.rs", "std::thread::sleep(x)", "sleep");
    expect_fault("src/net/a.rs", "use std::thread; thread::sleep(x)", "sleep");
    expect_fault("src/net/a.rs", &"\n".repeat(SRC_LINES_MAX + 1), "651 lines");
    expect_fault(
        "tests/it/a.rs",
        &"\n".repeat(TEST_LINES_MAX + 1),
        "601 lines",
    );
    expect_fine("src/net/a.rs", &"\n".repeat(SRC_LINES_MAX));
}
