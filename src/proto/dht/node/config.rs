//! What a node is told at its start: its address, what it may hold, how long a membership change may take, and how much it
//! does in one turn.

use std::net::SocketAddrV4;

use crate::engine::{Limits, Ticks};

use crate::proto::dht::wire;

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that others reach this node at; its id is the SHA-1 of it.
    pub advertise: SocketAddrV4,
    /// The local address that a leaver dials from, by which its heir recognises it. `None`: what the kernel chooses.
    pub dial_from: Option<SocketAddrV4>,
    /// Writes are acknowledged once the worker has committed them.
    pub durable: bool,
    /// Longest value that is stored.
    pub value_bytes_max: u64,
    /// Bytes of values that are being received and not complete, over all connections. They count towards
    /// `memory_bytes_max` as well; this keeps unfinished values from filling all of it.
    pub staged_bytes_max: u64,
    /// Memory for entries and values, wherever in the node they are (see [`crate::proto::dht::node::DhtNode::held_bytes`]). A
    /// write beyond it is answered `0`, a join or a DISCONNECT that does not fit is refused.
    pub memory_bytes_max: u64,
    /// Wall-clock time of the start, in milliseconds since 1970: versions of nodes that never met follow it. 0: none is known.
    pub started_millis: u64,
    /// Members that have each entry, its owner counted. 1: no copies, no tombstones, no extension of the protocol.
    pub replicas: u8,
    pub transfer: TransferLimits,
    /// A leave takes at most this long. Then the process ends with what nobody took.
    pub leave_within: Ticks,
    pub quanta: Quanta,
}

/// How long one membership change with its transfer of entries may take. No other node can join or leave here meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct TransferLimits {
    /// A transfer as a whole. A range that takes longer is too large, or the path too slow, to be moved.
    pub within: Ticks,
    /// Entries move at least this fast, averaged over each `pace_over`. A tenth of a slow uplink of 1 Mbit/s. The engine's
    /// least pace is lower: it bounds what one connection costs, this bounds how long the others wait.
    pub pace_bytes_per_sec: u64,
    pub pace_over: Ticks,
    /// From the last entry of a CONNECT to the joiner's address: the joiner has its next to dial meanwhile.
    pub answer_within: Ticks,
}

impl Default for TransferLimits {
    fn default() -> TransferLimits {
        TransferLimits {
            within: Ticks::from_secs(600),
            pace_bytes_per_sec: 12 << 10,
            pace_over: Ticks::from_secs(60),
            answer_within: Ticks::from_secs(30),
        }
    }
}

/// How much of a long piece of work is done in one turn: all connections wait that long. Each is at least 1.
#[derive(Debug, Clone, Copy)]
pub struct Quanta {
    /// Entries counted before they are sent: about 30 us.
    pub counted_per_turn: u64,
    /// Entries sent: about 10 us. With 64 the p99 of other commands was 3.5 times the quiet one; with 16 it is the quiet
    /// one, and a million entries take 0.9 s and not 0.5.
    pub sent_per_turn: usize,
    /// Entries removed from memory: about 30 us.
    pub swept_per_turn: usize,
    /// Recovered entries taken over into our own range: as in a sweep.
    pub recovered_per_turn: usize,
    /// A part of a range in which the peer has at most this many entries is compared key by key. Half of what one reply may
    /// have, as some are written meanwhile.
    pub keys_per_part: u64,
    /// Received entries that a durable node gives to the worker in one job: enough to make the commit's cost per entry
    /// small.
    pub entries_per_job: usize,
}

impl Default for Quanta {
    fn default() -> Quanta {
        Quanta {
            counted_per_turn: 4096,
            sent_per_turn: 16,
            swept_per_turn: 128,
            recovered_per_turn: 128,
            keys_per_part: 512,
            entries_per_job: 1024,
        }
    }
}

/// Default of [`Config::value_bytes_max`]: the protocol's own limit.
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
            memory_bytes_max: 8 << 30,
            replicas: 1,
            started_millis: 0,
            transfer: TransferLimits::default(),
            leave_within: Ticks::from_secs(20),
            quanta: Quanta::default(),
        }
    }

    /// `limits` with room for the largest answer of this node.
    pub fn fit(&self, limits: Limits) -> Limits {
        let answer = usize::try_from(self.value_bytes_max).unwrap_or(usize::MAX);
        let least = limits
            .output_bytes_high
            .saturating_add(answer)
            .saturating_add(wire::LINE_BYTES_MAX);
        Limits {
            output_bytes_max: limits.output_bytes_max.max(least),
            ..limits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--value-max 18446744073709551615` overflowed.
    #[test]
    fn limits_fit_any_value_length() {
        for value_bytes_max in [0, 1, VALUE_BYTES_MAX, u64::MAX - 1, u64::MAX] {
            let config = Config {
                value_bytes_max,
                ..Config::new(SocketAddrV4::new([10, 0, 0, 1].into(), 4000))
            };
            config.fit(Limits::default()).validate();
        }
    }
}
