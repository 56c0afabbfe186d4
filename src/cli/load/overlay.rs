//! `peerloop load overlay`: joins. Each takes a connection, which ends when the packet is there, so the slot is free again.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;

use peerloop::engine::Input;
use peerloop::proto::overlay::packet::{self, Kind};

use super::generator::{Heard, Talk};
use super::{Common, load};
use crate::cli::Answer;

#[derive(Args)]
pub(in crate::cli) struct OverlayArgs {
    #[command(flatten)]
    common: Common,
}

impl OverlayArgs {
    pub(super) fn run(self) -> Result<Answer> {
        load(&self.common, "overlay", "JOIN".into(), OverlayTalk)
    }
}

struct OverlayTalk;

impl Talk for OverlayTalk {
    type Reading = ();

    fn is_once(&self) -> bool {
        true
    }

    /// The acceptor speaks first.
    fn request(&mut self, _out: &mut Vec<u8>) -> Option<Bytes> {
        None
    }

    fn answer(&mut self, (): &mut (), input: Input<'_>) -> Result<Heard, &'static str> {
        let packet = packet::parse(input.bytes).map_err(|violation| violation.what)?;
        Ok(match packet {
            Some((packet, used)) => Heard::Answer {
                used,
                yes: packet.kind == Kind::Welcome,
            },
            None => Heard::More,
        })
    }
}
