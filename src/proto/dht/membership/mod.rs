//! Changes of the ring: who joins and leaves, and which range moves with it.
//!
//! - `lock`: one change of membership at a time; the other requests wait.
//! - `connect`: serves CONNECT, hands a range to a joiner. `rejoin`: a CONNECT with the id of our next. `confirm`: the joiner
//!   is a member before its entries are removed here. `stall`: a joiner that does nothing does not hold up the others.
//! - `disconnect`: serves DISCONNECT, takes the range of a leaver. `repeated`: one whose range is ours already.
//!   `relay`: a DISCONNECT for another member.
//! - `join`, `leave`: our own join and leave. `seeds`: nodes that are started with one list, and who founds their ring.
//! - `heartbeat`: leases, and who lives. `absorb`: takes the range of a dead next.
//! - `address_policy`: which addresses a peer may announce.

pub(crate) mod absorb;
pub(crate) mod address_policy;
pub(crate) mod confirm;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub(crate) mod heartbeat;
pub(crate) mod join;
pub(crate) mod leave;
pub(crate) mod lock;
pub(crate) mod rejoin;
pub(crate) mod relay;
pub(crate) mod repeated;
pub(crate) mod seeds;
pub(crate) mod stall;
