//! What a connection of a peer is for, and what the peers act through.

use crate::proto::host;

/// Bytes that a newcomer may send although nothing was asked of it: some programs do.
const SPARE_BYTES_MAX: u16 = 1024;

/// What is expected next on a connection, of the peer of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conn {
    /// A newcomer in our table: nothing; so many bytes more are ignored.
    Welcomed { peer: u32, spare_bytes: u16 },
    /// We dialled: a packet.
    Dialled { peer: u32 },
    /// It welcomed us: nothing, and what comes is padding.
    Joined { peer: u32 },
    /// Nothing; it is about to end.
    Closing,
}

impl Conn {
    pub(super) fn welcomed(peer: u32) -> Conn {
        Conn::Welcomed {
            peer,
            spare_bytes: SPARE_BYTES_MAX,
        }
    }
}

/// An idle link is to cost as little as can be: this stands beside the engine's half of every connection.
const _: () = assert!(size_of::<Option<Conn>>() <= 8);

/// The timer of the peer of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer(pub(super) u32);

/// What a peer acts through.
pub trait Host: host::Host<Conn, Timer> {}

impl<H: host::Host<Conn, Timer> + ?Sized> Host for H {}
