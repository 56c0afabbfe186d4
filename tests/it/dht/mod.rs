//! `peerloop dht`: nodes, rings of them, and the commands that ask them.

mod churn;
mod commands;
mod costs;
mod crashes;
mod durability;
mod joining;
mod leaving;
mod mixed_rings;
mod reference;
mod restarts;
mod rings;
pub mod shell;
mod support;
mod wire;
