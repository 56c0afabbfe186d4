//! What no lint checks of the sources: which layer may import which, that files do not import each other in a circle, how
//! long they are, and that nothing sleeps. `clippy.toml` and `[lints]` in `Cargo.toml` check the rest.
//!
//! The import graph has an edge where a path in one file leads to another. A path through a re-export leads to the
//! file that defines the name, so a `mod.rs` that only re-exports is in no circle.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

const SRC_LINES_MAX: usize = 650;
const TEST_LINES_MAX: usize = 600;

/// Which layers a layer may import, besides itself. `None`: any.
fn may_import(layer: &str) -> Option<&'static [&'static str]> {
    match layer {
        "engine" | "store" => Some(&[]),
        "proto" => Some(&["engine"]),
        "workers" => Some(&["proto", "engine", "store"]),
        "net" | "sim" => Some(&["engine", "workers"]),
        "lab" => Some(&["sim", "workers", "proto", "engine"]),
        "cli" | "main" | "lib" => None,
        other => panic!("src/{other} is in no layer; say here what it may import"),
    }
}

/// Files that still are in a circle. One that no longer is must leave this list.
const IN_CIRCLES: &[&str] = &[
    // `Service` is lent a `Hub<Self>`, and a `Hub<S>` has the types of its `Service`.
    "src/engine/hub.rs",
    "src/engine/service.rs",
    // The parts of a DHT node, which all import the node.
    "src/proto/dht/membership/absorb.rs",
    "src/proto/dht/membership/address_policy.rs",
    "src/proto/dht/membership/confirm.rs",
    "src/proto/dht/membership/connect.rs",
    "src/proto/dht/membership/disconnect.rs",
    "src/proto/dht/membership/heartbeat.rs",
    "src/proto/dht/membership/join.rs",
    "src/proto/dht/membership/leave.rs",
    "src/proto/dht/membership/lock.rs",
    "src/proto/dht/membership/rejoin.rs",
    "src/proto/dht/membership/relay.rs",
    "src/proto/dht/membership/repeated.rs",
    "src/proto/dht/membership/seeds.rs",
    "src/proto/dht/membership/stall.rs",
    "src/proto/dht/node/kinds.rs",
    "src/proto/dht/node/mod.rs",
    "src/proto/dht/replication/copies/mod.rs",
    "src/proto/dht/replication/drive.rs",
    "src/proto/dht/replication/mod.rs",
    "src/proto/dht/replication/serve.rs",
    "src/proto/dht/replication/serve_sync.rs",
    "src/proto/dht/replication/syncs.rs",
    "src/proto/dht/routing/fingers.rs",
    "src/proto/dht/routing/mod.rs",
    "src/proto/dht/routing/predecessor.rs",
    "src/proto/dht/rpc/client.rs",
    "src/proto/dht/rpc/failure_detector.rs",
    "src/proto/dht/rpc/operation/mod.rs",
    "src/proto/dht/storage/commit.rs",
    "src/proto/dht/storage/fenced_writes.rs",
    "src/proto/dht/storage/memory.rs",
    "src/proto/dht/storage/range_sweep.rs",
    "src/proto/dht/storage/recovered_entries.rs",
];

/// `crate`, `engine`, `Tick`.
type Names = Vec<String>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Own,
    /// Named for others, by `pub use`.
    Reexport,
    InTests,
}

/// A path as it is written, and the module that it stands in.
struct Written {
    names: Names,
    module: Names,
    kind: Kind,
}

struct Source {
    path: String,
    module: Names,
    paths: Vec<Written>,
    /// The path of each name that a `use` brings in.
    uses: HashMap<String, usize>,
}

impl Source {
    fn parse(path: &str, text: &str) -> Source {
        let parts = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Names = parts.split('/').map(str::to_owned).collect();
        module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
        let mut source = Source {
            path: path.into(),
            module: module.clone(),
            paths: Vec::new(),
            uses: HashMap::new(),
        };
        let in_tests = module.iter().any(|name| name == "tests");
        let kind = if in_tests { Kind::InTests } else { Kind::Own };
        source.read(text.parse().expect("Rust"), &module, kind, None);
        source
    }

    /// Reads tokens that stand in `module`, or in the braces of a `use` after `outer`.
    fn read(&mut self, tokens: TokenStream, module: &Names, kind: Kind, outer: Option<&Names>) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let text = |at: usize| match tokens.get(at) {
            Some(TokenTree::Group(_)) | None => String::new(),
            Some(token) => token.to_string(),
        };
        let (mut in_use, mut use_kind, mut at) = (outer.is_some(), kind, 0);
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(word) if word == "use" => {
                    in_use = true;
                    // After `pub` or `pub(crate)`; the brackets of an attribute may stand there too.
                    let is_pub = (1..=2).any(|back| at >= back && text(at - back) == "pub");
                    use_kind = if is_pub { Kind::Reexport } else { kind };
                }
                TokenTree::Ident(_) => {
                    let mut names = outer.cloned().unwrap_or_default();
                    names.push(text(at));
                    while text(at + 1) == ":" && text(at + 2) == ":" {
                        at += 3;
                        names.push(text(at));
                    }
                    // Not a name: braces, a star, generic arguments.
                    names.pop_if(|last| !last.starts_with(|c: char| c == '_' || c.is_alphabetic()));
                    match tokens.get(at) {
                        Some(TokenTree::Group(braces)) if in_use => {
                            self.read(braces.stream(), module, use_kind, Some(&names));
                        }
                        _ if in_use => self.add_use(names, module, use_kind),
                        _ if names.len() > 1 => self.add(names, module, kind),
                        _ => {}
                    }
                }
                TokenTree::Group(group) => {
                    let (mut module, mut kind) = (module.clone(), kind);
                    if at >= 2 && text(at - 2) == "mod" {
                        module.push(text(at - 1));
                    }
                    if module.last().is_some_and(|name| name == "tests") {
                        kind = Kind::InTests;
                    }
                    self.read(group.stream(), &module, kind, None);
                }
                TokenTree::Punct(sign) => in_use &= sign.as_char() != ';',
                TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    fn add(&mut self, names: Names, module: &Names, kind: Kind) {
        let module = module.clone();
        let written = Written {
            names,
            module,
            kind,
        };
        self.paths.push(written);
    }

    fn add_use(&mut self, mut names: Names, module: &Names, kind: Kind) {
        names.pop_if(|last| last == "self");
        let Some(last) = names.last() else { return };
        if kind != Kind::InTests {
            self.uses.insert(last.clone(), self.paths.len());
        }
        self.add(names, module, kind);
    }
}

struct Graph {
    files: Vec<Source>,
    of_module: HashMap<Names, usize>,
}

impl Graph {
    fn new(files: &[(String, String)]) -> Graph {
        let files: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::parse(path, text))
            .collect();
        let modules = files.iter().map(|file| file.module.clone()).zip(0..);
        let of_module = modules.filter(|(module, _)| !module.is_empty()).collect();
        Graph { files, of_module }
    }

    fn used(&self, file: usize, name: &String) -> Option<&Written> {
        let file = &self.files[file];
        file.uses.get(name).map(|at| &file.paths[*at])
    }

    /// The file that a path of `file` leads to; `None` for other crates and for names of its own.
    fn target(&self, file: usize, path: &Written) -> Option<usize> {
        match self.used(file, &path.names[0]) {
            Some(used) => self.follow(used, &path.names[1..]),
            None => self.follow(path, &[]),
        }
    }

    /// Where a path that does not begin with an imported name leads, with `more` after it.
    fn follow(&self, path: &Written, more: &[String]) -> Option<usize> {
        let supers = path
            .names
            .iter()
            .take_while(|name| *name == "super")
            .count();
        let depth = path.module.len();
        let (base, skipped) = match path.names[0].as_str() {
            "crate" | "peerloop" => (0, 1),
            "self" => (depth, 1),
            _ => (depth - supers, supers),
        };
        let names = [&path.module[..base], &path.names[skipped..], more].concat();
        // Neither rooted nor a child: another crate, or a name of the file itself.
        if skipped == 0 && !self.of_module.contains_key(&names[..=base]) {
            return None;
        }
        let mut found = None;
        for (at, name) in names.iter().enumerate() {
            let Some(file) = self.of_module.get(&names[..=at]) else {
                let reexport = found.and_then(|file| self.used(file, name));
                let leads_to = reexport.and_then(|used| self.follow(used, &names[at + 1..]));
                return leads_to.or(found);
            };
            found = Some(*file);
        }
        found
    }

    fn layer_faults(&self) -> BTreeSet<String> {
        let mut faults = BTreeSet::new();
        for (from, file) in self.files.iter().enumerate() {
            let layer = file.module.first().map_or("lib", String::as_str);
            for path in &file.paths {
                let other = self
                    .target(from, path)
                    .map_or(layer, |to| &self.files[to].module[0]);
                let is_allowed = may_import(layer).is_none_or(|allowed| allowed.contains(&other));
                // Protocols are tested in the simulator, by tests that stand beside them.
                let is_tested = path.kind == Kind::InTests && ["sim", "lab"].contains(&other);
                if other != layer && !is_allowed && !is_tested {
                    faults.insert(format!("{}: {layer} imports {other}", file.path));
                }
            }
        }
        faults
    }

    /// The files that lead back to themselves, tests aside. What is in a folder may use what its `mod.rs` defines.
    fn in_circles(&self) -> BTreeSet<&str> {
        let targets = |from: usize| {
            let file = &self.files[from];
            let paths = file.paths.iter().filter(|path| path.kind == Kind::Own);
            let targets = paths.filter_map(move |path| self.target(from, path));
            targets.filter(|to| !file.module.starts_with(&self.files[*to].module))
        };
        let targets: Vec<BTreeSet<usize>> = (0..self.files.len())
            .map(|from| targets(from).collect())
            .collect();
        let leads_back = |from: &usize| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![*from]);
            while let Some(at) = next.pop() {
                next.extend(targets[at].iter().filter(|to| seen.insert(**to)));
            }
            seen.contains(from)
        };
        let files = (0..self.files.len()).filter(leads_back);
        files.map(|file| self.files[file].path.as_str()).collect()
    }
}

/// The Rust files below a folder, with their text.
fn files(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().to_str().expect("UTF-8"));
        if entry.file_type().expect("a type").is_dir() {
            found.extend(files(&path));
        } else if path.ends_with(".rs") {
            let text = std::fs::read_to_string(entry.path()).expect("UTF-8");
            found.push((path, text));
        }
    }
    found.sort();
    found
}

#[test]
fn the_sources_keep_their_layers() {
    let files = files("src");
    assert!(files.len() > 100, "only {} files found", files.len());
    assert_eq!(Graph::new(&files).layer_faults(), BTreeSet::new());
}

#[test]
fn files_do_not_import_each_other() {
    let graph = Graph::new(&files("src"));
    let found = graph.in_circles();
    let listed: BTreeSet<&str> = IN_CIRCLES.iter().copied().collect();
    let (new, gone) = (&found - &listed, &listed - &found);
    assert!(new.is_empty(), "they lead back to themselves: {new:#?}");
    assert!(
        gone.is_empty(),
        "no longer in a circle, and still listed: {gone:#?}"
    );
}

#[test]
fn files_are_short_and_do_not_sleep() {
    let mut faults = Vec::new();
    for (path, text) in [files("src"), files("tests")].concat() {
        let in_src = path.starts_with("src/");
        let (lines, lines_max) = (
            text.lines().count(),
            if in_src {
                SRC_LINES_MAX
            } else {
                TEST_LINES_MAX
            },
        );
        if lines > lines_max {
            faults.push(format!("{path}: {lines} lines, over {lines_max}"));
        }
        // The program may pace itself and a stress run; what is tested or serves may not.
        if text.contains(concat!("thread::", "sleep")) && !path.starts_with("src/cli/") {
            faults.push(format!("{path}: sleeps instead of waiting for a condition"));
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

/// Files below `src`, separated by `|`, each with its path before its text.
fn graph(files: &str) -> Graph {
    let parse = |file: &str| {
        let (path, text) = file.trim().split_once(' ').unwrap_or((file.trim(), ""));
        (format!("src/{path}"), text.into())
    };
    Graph::new(&files.split('|').map(parse).collect::<Vec<_>>())
}

#[test]
fn an_import_upwards_is_found() {
    let fault = |file: &str| {
        let layers = ["workers", "net", "proto", "sim"].map(|layer| format!("{layer}/mod.rs |"));
        graph(&(layers.concat() + file))
            .layer_faults()
            .into_iter()
            .collect::<String>()
    };
    for (file, imported) in [
        ("engine/a.rs use crate::proto::dht::Id;", "proto"),
        ("engine/mod.rs use super::net::Reactor;", "net"),
        (
            "engine/a.rs mod tests { use super::super::super::workers::X; }",
            "workers",
        ),
        ("engine/a.rs fn f() { assert!(crate::net::run()) }", "net"),
        ("engine/a.rs use crate::{engine::{Cx, Hub}, sim};", "sim"),
        ("engine/a/tests.rs use crate::net;", "net"),
    ] {
        assert!(
            fault(file).ends_with(&format!("engine imports {imported}")),
            "{file}"
        );
    }
    for file in [
        "engine/a.rs use super::node::X; mod tests { use super::*; } // crate::net",
        "engine/mod.rs use std::net::SocketAddr; const TEXT: &str = \"crate::net\";",
        "engine/a/tests.rs use crate::sim::World;",
        "cli/a.rs use peerloop::sim; use std::fs;",
    ] {
        assert_eq!(fault(file), "", "{file}");
    }
}

#[test]
fn a_circle_is_found() {
    let circle = |top: &str, files: &str| {
        let found = graph(&format!("x/mod.rs {top} | {files}"));
        let paths = found.in_circles().into_iter();
        paths.map(|path| &path[6..7]).collect::<String>()
    };
    let files = "x/a.rs use super::b::X; |x/b.rs use super::c; |x/c.rs ";
    assert_eq!(
        circle("", &format!("{files} fn f() {{ super::a::g() }}")),
        "abc"
    );
    assert_eq!(circle("", &format!("{files} use std::a;")), "");
    let documented = "x/a.rs #![x] use super::b::X; |x/b.rs #![x] use super::a;";
    assert_eq!(circle("", documented), "ab");
    let tests = "mod tests { use super::super::a; }";
    assert_eq!(circle("", &format!("{files} {tests}")), "");
    let reexports = "mod a; pub use a::{A, B}; use b::C;";
    let files = "x/a.rs use super::C; |x/b.rs use crate::x::A;";
    assert_eq!(circle(reexports, files), "ab");
    assert_eq!(circle("pub struct A; pub struct C;", files), "");
}
