//! `peerloop load overlay`: joins. Each takes a connection of its own, which ends with the first packet.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;

use peerloop::engine::Input;
use peerloop::proto::overlay::packet::{self, Kind};

use super::connections::{Heard, Talker};
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

impl Talker for OverlayTalk {
    type Request = ();
    type Reading = ();

    fn is_once(&self) -> bool {
        true
    }

    fn next(&mut self) {}

    /// The acceptor speaks first.
    fn write(&mut self, (): &mut (), _out: &mut Vec<u8>) -> Option<Bytes> {
        None
    }

    fn answer(
        &mut self,
        (): &mut (),
        (): &mut (),
        input: Input<'_>,
    ) -> Result<Heard, &'static str> {
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
