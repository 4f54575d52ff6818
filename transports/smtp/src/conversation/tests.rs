//! The engine against a strict far side in memory.

mod approach;
mod contract;
mod enough;
mod far;
mod first_flight;
mod flights;
mod harness;
mod levels;
mod overdue;
mod patience;
mod portions;
mod presumed;
mod random;
mod refusals;
mod rules;
mod session;
