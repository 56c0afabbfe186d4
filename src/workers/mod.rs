//! What the worker threads of a node do: the jobs that would block its loop.
//!
//! ```text
//!   proto: a service        submits a job                        gets the result (on_done)
//!                               |                                      ^
//!   engine::Work            run(jobs, results), on a worker thread (net) or at a virtual time (sim)
//!                               |                                      |
//!   workers  commit         durable writes of any protocol, one commit for all that are waiting
//!            dht, tracker   their writes as changes of a table; what a table holds, at the start
//!            index          the same of the index server, and password hashes
//!            files          reads of the files that are shared, writes of those that are downloaded
//!                               |
//!   store                   tables (memory, redb), a shared directory, a partial file
//! ```
//! Protocols know no store and no file. The formats of keys, and of values that are no protocol's, are defined here, one
//! module for each protocol; a change of one is a change of the format on disk.
//!
//! What they do not do: start threads (`net` does), order jobs beyond the group they are given, retry.
//!
//! Invariants: every job has exactly one result, and a thread gives them in the order of its jobs; a write is reported as committed only after
//! [`Store::commit`] returned `Ok` for it; a stored entry that cannot be read ends the start with an error, it is never
//! left out.
//!
//! [`Store::commit`]: crate::store::Store::commit

pub mod commit;
pub mod dht;
#[cfg(feature = "storage")]
pub mod files;
pub mod index;
pub mod load_error;
pub mod tracker;
