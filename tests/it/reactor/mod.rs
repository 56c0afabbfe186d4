//! Engine and reactor: limits, allocations, signals, stops, and the example of a service.

pub mod allocations;
mod echo_example;
mod limits;
mod signals;
mod stops;
