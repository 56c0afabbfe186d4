//! `peerloop index register`, `login`, `logout`.

use std::net::IpAddr;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use peerloop::proto::index::call::Call;
use peerloop::proto::index::fields::PeerId;

use super::ServerAt;
use super::credentials::{Identity, UserArgs};
use crate::cli::{Answer, print};

/// The port that a login names by default.
pub(super) const PORT: u16 = 9999;

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
    #[arg(long, value_name = "PORT", default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// The `--json` output.
#[derive(Serialize)]
struct Report {
    user: String,
    id: String,
    online: bool,
}

/// Registers a user without files and saves the id.
pub(super) fn register(server: &ServerAt, identity: &mut Identity) -> Result<()> {
    identity.id = Some(server.register(identity.who())?);
    identity.save()
}

/// The user and the id of an earlier registration.
pub(super) fn registered(server: &ServerAt, user: &UserArgs) -> Result<(Identity, PeerId)> {
    let identity = user.identity(server.addr)?;
    let id = identity
        .id
        .context("not registered at this server: register first")?;
    Ok((identity, id))
}

impl AccountCommand {
    pub(super) fn register(self) -> Result<Answer> {
        let mut identity = self.user.identity(self.server.addr)?;
        register(&self.server, &mut identity)?;
        self.report(&identity, false)
    }

    pub(super) fn logout(self) -> Result<Answer> {
        let (identity, id) = registered(&self.server, &self.user)?;
        let who = identity.who();
        self.server.ask(Call::Logout { who, id })?;
        self.report(&identity, false)
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
        let AccountCommand { server, user, .. } = &self.account;
        let (identity, id) = registered(server, user)?;
        server.ask(Call::Login {
            who: identity.who(),
            id,
            ip: self.ip,
            port: self.port,
        })?;
        self.account.report(&identity, true)
    }
}
