//! What a node is told at its start.

use std::net::SocketAddrV4;

use crate::engine::Limits;

use super::wire;

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that others reach this node at; its id is the SHA-1 of it.
    pub advertise: SocketAddrV4,
    /// The local address that a leaver dials from, so that its heir sees who it is (RELIABILITY.md A11); `None`:
    /// what the kernel chooses.
    pub dial_from: Option<SocketAddrV4>,
    /// Writes are acknowledged once the worker has committed them.
    pub durable: bool,
    /// Longest value that is stored. 64 MiB as the specification has it.
    pub value_bytes_max: u64,
    /// Bytes of values that are being received and not complete, over all connections.
    pub staged_bytes_max: u64,
    /// Memory of all entries, writes under way included; a write beyond it is answered `0`.
    pub entries_bytes_max: u64,
}

/// Default of [`Config::value_bytes_max`], from "Bad input" of the specification.
pub const VALUE_BYTES_MAX: u64 = 64 << 20;

impl Config {
    pub fn new(advertise: SocketAddrV4) -> Config {
        Config {
            advertise,
            dial_from: None,
            durable: false,
            value_bytes_max: VALUE_BYTES_MAX,
            // Eight of the largest values at once: what a small machine can spare.
            staged_bytes_max: 512 << 20,
            entries_bytes_max: 8 << 30,
        }
    }

    /// `limits` with room for the largest answer of this node.
    pub fn fit(&self, limits: Limits) -> Limits {
        let answer = usize::try_from(self.value_bytes_max).unwrap_or(usize::MAX / 2);
        let least = limits.output_bytes_high + answer + wire::LINE_BYTES_MAX;
        Limits {
            output_bytes_max: limits.output_bytes_max.max(least),
            ..limits
        }
    }
}
