//! Engine and reactor: limits, allocations, and the example of a service.

pub mod allocations;
mod echo_example;
mod limits;
