//! `peerloop index shell`: the commands at a prompt, with history.

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use peerloop::proto::index::call::Call;

use super::ServerAt;
use super::account::{PORT, register, registered};
use super::credentials::UserArgs;
use super::download::DownloadArgs;
use super::query::{Query, Status};
use crate::cli::prompt::{self, Commands, Then, split_word};
use crate::cli::{Answer, print};

/// Hits that the prompt lists.
const HITS_MAX: usize = 100;

const HELP: &str = "\
search WORDS            files whose names have every word
peers [online|offline|all]
browse ID               what a peer shares
download NAME-OR-SHA1   into the current directory
register                as the user of the prompt, without files; prints the id
login [PORT]            for the time of one keep-alive
logout
quit                    end
";

#[derive(Args)]
pub(in crate::cli) struct ShellArgs {
    #[command(flatten)]
    server: ServerAt,
    #[command(flatten)]
    user: UserArgs,
}

impl ShellArgs {
    pub(super) fn run(self) -> Result<Answer> {
        prompt::run(&self)
    }

    fn query(&self) -> Query {
        Query {
            server: self.server,
            json: false,
        }
    }
}

impl Commands for ShellArgs {
    fn sign(&self) -> String {
        format!("{}> ", self.server.addr)
    }

    fn on_interrupt(&self) -> Option<&'static str> {
        None
    }

    fn obey(&self, line: &str) -> Result<Then> {
        let (word, rest) = split_word(line);
        match word {
            "" => {}
            "search" => {
                ensure!(!rest.is_empty(), "search takes WORDS");
                if self.query().search(rest, HITS_MAX)? == Answer::No {
                    print::stdout(b"nothing found\n")?;
                }
            }
            "peers" => {
                let which = if rest.is_empty() { "online" } else { rest };
                let which = Status::from_str(which.trim(), true);
                _ = self.query().peers(which.map_err(anyhow::Error::msg)?)?;
            }
            "browse" => _ = self.query().browse(rest.trim().parse()?)?,
            "download" => {
                ensure!(!rest.is_empty(), "download takes a NAME or a SHA-1");
                let wanted = rest.trim_end().to_owned();
                DownloadArgs::of(wanted, self.server, self.user.clone()).run()?;
            }
            "register" => {
                let mut identity = self.user.identity(self.server.addr)?;
                register(&self.server, &mut identity)?;
                let id = identity.id.map(|id| id.to_string()).unwrap_or_default();
                print::stdout(format!("{id}\n").as_bytes())?;
            }
            "login" | "logout" => {
                let (identity, id) = registered(&self.server, &self.user)?;
                let who = identity.who();
                self.server.ask(match word {
                    "logout" => Call::Logout { who, id },
                    _ => Call::Login {
                        who,
                        id,
                        ip: None,
                        port: if rest.is_empty() {
                            PORT
                        } else {
                            rest.trim().parse()?
                        },
                    },
                })?;
            }
            "help" => print::stdout(HELP.as_bytes())?,
            "quit" => return Ok(Then::End),
            other => bail!("there is no command {other:?}; help lists them"),
        }
        Ok(Then::Next)
    }
}
