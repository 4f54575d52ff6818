//! The engine against a strict far side in memory.

mod far;
mod flights;
mod harness;
mod levels;
mod random;
mod refusals;
mod session;
