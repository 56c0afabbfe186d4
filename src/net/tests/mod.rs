//! The reactor with small services on real sockets.

mod starts;
