//! `peerloop index register`, `login`, `logout`.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use peerloop::proto::index::exchange::{Answer as Told, Call};

use super::ServerAt;
use super::credentials::{Identity, UserArgs};
use crate::cli::{Answer, print};

#[derive(Args)]
pub(in crate::cli) struct AccountCommand {
    #[command(flatten)]
    server: ServerAt,
    #[command(flatten)]
    user: UserArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(in crate::cli) struct LoginCommand {
    #[command(flatten)]
    account: AccountCommand,
    /// The address to be listed under [default: the one that the connection comes from]
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// The port to be listed under
    #[arg(long, value_name = "PORT", default_value_t = 9999, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    user: String,
    id: String,
    online: bool,
}

/// Registers a user without files and keeps the id.
pub(super) fn register(server: &ServerAt, identity: &mut Identity) -> Result<()> {
    let (who, files) = (identity.who(), [].into());
    let Told::Registered(id) = server.ask(Call::Register { who, files })? else {
        bail!("REGISTER came to something else");
    };
    identity.id = Some(id);
    identity.save()
}

impl AccountCommand {
    pub(super) fn register(self) -> Result<Answer> {
        let mut identity = self.user.identity(self.server.addr)?;
        register(&self.server, &mut identity)?;
        self.report(&identity, false)
    }

    pub(super) fn logout(self) -> Result<Answer> {
        let (identity, id) = self.registered()?;
        let who = identity.who();
        self.server.ask(Call::Logout { who, id })?;
        self.report(&identity, false)
    }

    fn registered(&self) -> Result<(Identity, peerloop::proto::index::fields::PeerId)> {
        let identity = self.user.identity(self.server.addr)?;
        let id = identity
            .id
            .context("not registered at this server: register first")?;
        Ok((identity, id))
    }

    fn report(&self, identity: &Identity, online: bool) -> Result<Answer> {
        let id = identity.id.map(|id| id.to_string()).unwrap_or_default();
        if self.json {
            let user = identity.who().user.clone();
            print::json(&Report { user, id, online })?;
        } else {
            print::stdout(format!("{id}\n").as_bytes())?;
        }
        Ok(Answer::Yes)
    }
}

impl LoginCommand {
    pub(super) fn run(self) -> Result<Answer> {
        let (identity, id) = self.account.registered()?;
        self.account.server.ask(Call::Login {
            who: identity.who(),
            id,
            ip: self.ip,
            port: self.port,
        })?;
        self.account.report(&identity, true)
    }
}
