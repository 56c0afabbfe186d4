//! Changes of the ring: who joins and leaves, and which range moves with it.
//!
//! - `lock`: one change of membership at a time; the other requests wait.
//! - `connect`: serves CONNECT, hands a range to a joiner. `rejoin`: a CONNECT with the id of our next.
//! - `disconnect`: serves DISCONNECT, takes the range of a leaver. `relay`: a DISCONNECT for another member.
//! - `join`, `leave`: our own join and leave.
//! - `address_policy`: which addresses a peer may announce.

pub(crate) mod address_policy;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub(crate) mod join;
pub(crate) mod leave;
pub(crate) mod lock;
pub(crate) mod rejoin;
pub(crate) mod relay;
pub(crate) mod repeated;
