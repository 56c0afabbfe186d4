//! The command line: arguments, printing, exit codes; one file a command group, and no protocol logic.
//!
//! stdout is data, stderr is logs and messages. Exit codes: 0 done, 1 "no" (not found), 2 usage or error.

mod addr;
mod background;
mod demo;
mod dht;
mod index;
mod load;
mod options;
mod overlay;
mod print;
mod prompt;
mod ring;
mod sim;
mod stress;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use log::LevelFilter;

use peerloop::net::survive_file_size_limit;

/// Peer-to-peer nodes with very many connections on one event loop.
///
/// None of the protocols has authentication: run nodes on trusted networks only. Everything listens on
/// loopback unless told otherwise.
#[derive(Parser)]
#[command(name = "peerloop", version, propagate_version = true)]
struct Cli {
    /// Say more on stderr: -v what happens, -vv also each connection. RUST_LOG=filter overrides it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The DHT ring: run a node, or talk to one
    Dht {
        #[command(subcommand)]
        command: dht::Command,
    },
    /// The cPTP overlay: run a peer, or map one
    Overlay {
        #[command(subcommand)]
        command: overlay::Command,
    },
    /// The tracker and its neighbour ring: run a tracker or a peer, or ask one
    Ring {
        #[command(subcommand)]
        command: ring::Command,
    },
    /// The index server and file sharing: run a server, or ask one
    Index {
        #[command(subcommand)]
        command: index::Command,
    },
    /// Many nodes on loopback under load: does everything hold that was promised?
    Stress {
        #[command(subcommand)]
        command: stress::Command,
    },
    /// A ring in the simulator: what do crashes, stalls and churn do to it?
    Sim {
        #[command(subcommand)]
        command: sim::Command,
    },
    /// Ask one node on many connections and measure how fast it answers
    Load {
        #[command(subcommand)]
        command: load::Command,
    },
    /// Start what there is on loopback, put real input through it, and clean up
    Demo(demo::Demo),
}

/// The exit code of a command that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    /// Not found, declined.
    No,
}

impl Answer {
    fn yes_if(yes: bool) -> Answer {
        if yes { Answer::Yes } else { Answer::No }
    }
}

#[cfg(test)]
fn parses(line: &str) -> bool {
    Cli::try_parse_from(format!("peerloop {line}").split(' ')).is_ok()
}

/// Parses, runs, reports.
pub fn run() -> ExitCode {
    let matches = options::negative_values(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let runs_node = matches!(
        cli.command,
        Command::Dht {
            command: dht::Command::Node(_)
        }
    );
    init_log(cli.verbose, runs_node);
    if let Err(e) = survive_file_size_limit() {
        log::warn!("a file that reaches its size limit will end the program: {e}");
    }
    let result = match cli.command {
        Command::Dht { command } => command.run(),
        Command::Overlay { command } => command.run(),
        Command::Ring { command } => command.run(),
        Command::Index { command } => command.run(),
        Command::Stress { command } => command.run(),
        Command::Sim { command } => command.run(),
        Command::Load { command } => command.run(),
        Command::Demo(demo) => demo.run(),
    };
    match result {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        // The reader of our output closed it.
        Err(e) if print::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("peerloop: {}", print::error(&e));
            ExitCode::from(2)
        }
    }
}

fn init_log(verbose: u8, runs_node: bool) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    if runs_node && verbose == 0 && std::env::var_os("RUST_LOG").is_none() {
        // Whoever starts a node waits for it to be a member.
        for module in ["join", "seeds"] {
            let module = format!("peerloop::proto::dht::membership::{module}");
            builder.filter_module(&module, LevelFilter::Info);
        }
    }
    builder
        .filter_level(level)
        .parse_default_env()
        // A message may quote a peer.
        .format(|to, record| {
            let (now, level, target) = (to.timestamp(), record.level(), record.target());
            let style = to.default_level_style(level);
            let text = print::escaped(&record.args().to_string());
            writeln!(to, "[{now} {style}{level:<5}{style:#} {target}] {text}")
        })
        .init();
}
