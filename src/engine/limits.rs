//! Every bound of the engine, each with its unit in its name.

use super::Ticks;
use super::time::TICK_MS;

/// The limits of one node. Reaching one is a counted event with a defined result; nothing grows past it.
///
/// Written as `Limits { idle, ..Limits::default() }`, which a further limit does not break. (For that syntax it is not
/// `#[non_exhaustive]`: outside of the crate that would forbid it.)
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, dialled ones included. The driver lowers it to what the file limit allows; at the
    /// limit it stops accepting (the kernel's backlog holds the rest) and dials fail. One million is far
    /// over what one process gets here, so that the file limit decides.
    pub conns_max: usize,
    /// Dials under way at once; a further one ends as [`super::End::Limit`]. Keeps a node that is told many
    /// addresses from becoming a scanner.
    pub dials_max: usize,
    /// Bytes read from one connection in one turn, and the size of the shared read buffer. 64 KiB is
    /// where a larger read no longer saves time on loopback, and costs the others about 10 us.
    pub read_bytes_per_turn: usize,
    /// Steps ([`super::Step`]: messages, or parts of longer ones) of one connection in one turn: 64 small ones
    /// cost the others about 20 us.
    pub steps_per_turn: usize,
    /// Bytes offered to one connection in one write; the rest goes in the next turn.
    pub write_bytes_per_turn: usize,
    /// Connections accepted in one turn: enough to empty a burst in a few turns while those that are
    /// open wait less than a millisecond.
    pub accepts_per_turn: usize,
    /// Unconsumed input of one connection. A message that a service takes only whole must fit. Not below
    /// `read_bytes_per_turn`, since what one read brought must find room when the service waits.
    pub input_bytes_max: usize,
    /// Queued output at which a connection's input is no longer served.
    pub output_bytes_high: usize,
    /// Queued output at which it is served again.
    pub output_bytes_low: usize,
    /// Queued output at which a connection is closed: what a service may write in one go (its largest
    /// message) on top of the high-water mark.
    pub output_bytes_max: usize,
    /// Memory of all output queues together that peers have not read, what is queued by reference excepted (the service
    /// that holds it counts it). Beyond it, a connection whose queue still grows is closed. The default is 2048 peers at
    /// their high-water mark.
    pub queued_bytes_max: usize,
    /// Values of at least this many bytes are queued by reference, smaller ones are copied: below a page
    /// or so the copy is cheaper than one more slice in the write.
    pub shared_bytes_min: usize,
    /// Spare buffers kept for the next connections that need one.
    pub pool_buffers_max: usize,
    /// Buffers that grew beyond this are given back to the allocator instead.
    pub pool_buffer_bytes_max: usize,
    /// Notes queued and not delivered; one more is dropped and counted, and ends the connection that it was for.
    pub notes_max: usize,
    /// Jobs handed to the worker and not done; one more is refused, which the service answers.
    pub jobs_max: usize,
    /// Finished jobs of one worker that are taken in one turn; the rest comes in the next ones. 1024 results cost the
    /// connections about a millisecond.
    pub jobs_done_per_turn: usize,
    /// Timers that services armed; one more is refused.
    pub timers_max: usize,
    /// Due timers that fire in one turn, connections' deadlines included; the rest fires in the next ones. 1024 cost the
    /// connections about a millisecond.
    pub timers_per_turn: usize,
    /// A dialled peer must accept within this.
    pub dial: Ticks,
    /// A connection between two messages may be silent for this long. [`Ticks::NEVER`]: for ever, and then it has no
    /// timer.
    pub idle: Ticks,
    /// For connections that may be silent for ever: the driver has the kernel ask a peer that was silent for this
    /// long whether it is still there, and end the connection when it is not. [`Ticks::NEVER`]: the kernel does not ask.
    pub keepalive: Ticks,
    /// A message must be complete within this after its first byte, or else move on at
    /// `pace_bytes_per_sec`, averaged over this long: each byte buys the time that it needs at that pace, but
    /// the deadline is never further off than this. A byte now and then is not enough, and neither are
    /// many that came long ago.
    pub message: Ticks,
    /// A peer must have taken what we sent it within this, or else take it at the least pace, averaged
    /// over this long.
    pub drain: Ticks,
    /// After the last byte to a connection that we close, how long we read on and throw away, so that
    /// the kernel does not reset the connection before the peer has read the answer.
    pub linger: Ticks,
    /// The least pace of a transfer in either direction.
    pub pace_bytes_per_sec: u64,
}

const TICKS_PER_SEC: u64 = 1000 / TICK_MS;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            conns_max: 1_000_000,
            dials_max: 1024,
            read_bytes_per_turn: 64 * KIB,
            steps_per_turn: 64,
            write_bytes_per_turn: 256 * KIB,
            accepts_per_turn: 64,
            input_bytes_max: 64 * KIB,
            output_bytes_high: 256 * KIB,
            output_bytes_low: 64 * KIB,
            output_bytes_max: MIB,
            queued_bytes_max: 512 * MIB,
            shared_bytes_min: 4 * KIB,
            pool_buffers_max: 1024,
            pool_buffer_bytes_max: 16 * KIB,
            notes_max: 65_536,
            jobs_max: 65_536,
            jobs_done_per_turn: 1024,
            timers_max: 4_000_000,
            timers_per_turn: 1024,
            dial: Ticks::from_secs(3),
            idle: Ticks::from_secs(60),
            keepalive: Ticks::NEVER,
            message: Ticks::from_secs(10),
            drain: Ticks::from_secs(30),
            linger: Ticks::from_secs(2),
            pace_bytes_per_sec: 1024,
        }
    }
}

impl Limits {
    /// Asserts the relations between the limits. The engine calls it once, at the start.
    pub fn validate(&self) {
        assert!(
            self.output_bytes_low < self.output_bytes_high,
            "low-water mark below the high one"
        );
        assert!(
            self.output_bytes_high < self.output_bytes_max,
            "high-water mark below the cap"
        );
        assert!(self.read_bytes_per_turn > 0, "a turn reads something");
        assert!(
            self.read_bytes_per_turn <= self.input_bytes_max,
            "one read fits the input"
        );
        assert!(
            self.steps_per_turn > 0 && self.write_bytes_per_turn > 0,
            "a turn does something"
        );
        assert!(
            self.accepts_per_turn > 0 && self.conns_max > 0,
            "a node has connections"
        );
        assert!(
            self.jobs_done_per_turn > 0 && self.timers_per_turn > 0,
            "what is done or due is told sooner or later"
        );
        assert!(self.pace_bytes_per_sec > 0, "the least pace is a pace");
        // The last slots name what is no connection in a driver's tokens.
        assert!(
            self.conns_max < u32::MAX as usize - 16,
            "a slot is 32 bits of a token"
        );
    }

    /// The whole ticks that `moved_bytes` need at the least pace, and how many bytes these ticks stand for.
    pub(super) fn pace(&self, moved_bytes: u64) -> (Ticks, u64) {
        let ticks = moved_bytes.saturating_mul(TICKS_PER_SEC) / self.pace_bytes_per_sec;
        let paid_bytes = ticks
            .saturating_mul(self.pace_bytes_per_sec)
            .div_ceil(TICKS_PER_SEC);
        (Ticks(ticks), paid_bytes.min(moved_bytes))
    }
}
