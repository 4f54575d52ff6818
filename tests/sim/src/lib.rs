//! The whole hub under virtual time, from a seed.
//!
//! ```text
//!   seed ──▶ plan: mail, limits, hosts with tempers, faults
//!              │
//!              ▼
//!            world: agenda of events ──▶ spool, router, scheduler, engine, notary (the real ones) ──▶ far sides
//!              │                                                                                       │
//!              └──────────────▶ books: what has become of every recipient ◀───────────────────────────┘
//! ```
//!
//! Disk, network, resolver, clients and far sides are simulated, and time is a number: a day passes in seconds, and the
//! same seed gives the same history. Hosts are slow, dead, flapping, rate limiting, greylisting, full, or answer what
//! nobody asked; connections break in the middle; agents die; the hub is killed and loses its power at any moment, and
//! the disk fills up and fails.
//!
//! What is looked at behind every event:
//!
//! - a recipient whose message was answered 250 comes to exactly one end; it is delivered only if a far side took it, and
//!   a failure is reported to its sender exactly once ([`Figures`]; across crashes);
//! - no thread has more agents than its clause allows, nor the hub;
//! - no thread waits that could run, and no agent with credit is left without work;
//! - what waits in memory is bounded: an agent keeps no batch that it does not answer for, a connection no more than its
//!   window, and in the end the scheduler and the spool are empty;
//! - every reply is matched to its command: what the engine says of a recipient is what the far side said of that
//!   recipient, every message arrives octet by octet in its own envelope, and a connection with a reply too many ends;
//! - what operators hold does not move and does not expire, what they drop or send elsewhere is dropped or moved at once,
//!   and all of it is still so behind a crash (`queue.rs`); a hold that stands catches the mail that comes (`holds.rs`);
//! - every recipient is routed once, where the routes say (`routes.rs`);
//! - what waits beyond the window of the scheduler is what is known of it, operators reach it, and what its sender was
//!   promised is kept there too (`queue.rs`);
//! - sites get no more than their rates, nothing while they want less, one connection when they were down, and few to
//!   begin with (`manners.rs`);
//! - a recipient gets its message twice only where a connection, an agent or the hub died in between.
//!
//! What is not simulated: TLS handshakes (they work, at once), the intake's own sessions, and threads: the rooms are
//! driven in turn, and a mailbox is never full.
#![forbid(unsafe_code)]
// A simulation fails loudly, and its numbers are small.
#![allow(clippy::cast_possible_truncation)]

mod agent;
mod books;
mod chance;
mod far;
mod holds;
mod mail;
mod manners;
mod meter;
mod plan;
mod queue;
mod routes;
mod site;
mod world;

pub use books::{End, Figures};
pub use site::SitePace;

/// How a simulation went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Events that happened.
    pub events: u64,
    /// Times that the hub died.
    pub crashes: u64,
    /// What happened in it.
    pub seen: Seen,
    /// Virtual time that passed.
    pub time: std::time::Duration,
    /// What became of the mail.
    pub figures: Figures,
    /// What each site got, the largest first.
    pub sites: Vec<SitePace>,
}

/// What happened in a simulation: of something that never happens nothing is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Times that an operator did something.
    pub operations: u64,
    /// Times that a thread was seen to wait for a rate.
    pub rates: u64,
    /// Times that a thread was seen to wait for a site that wants less mail.
    pub suspensions: u64,
    /// Batches that were written to wait beyond the window.
    pub spilled: u64,
}

/// Whether every step is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum History {
    /// To standard output.
    Printed,
    /// Not at all.
    Silent,
}

/// A world of a few hosts and a few dozen messages, in which everything breaks.
///
/// # Panics
/// When anything is not as it must be.
pub fn small(seed: u64, history: History) -> Ended {
    run(plan::small(seed), history)
}

/// A day of a busy hub with this many recipients in this many domains.
///
/// # Panics
/// When anything is not as it must be.
pub fn day(seed: u64, recipients: u32, domains: u32, history: History) -> Ended {
    run(plan::day(seed, recipients, domains), history)
}

fn run(mut world: world::World, history: History) -> Ended {
    world.tells = history == History::Printed;
    let begin = world.now;
    world.run();
    let time = world.now.since(begin);
    Ended {
        events: world.events,
        crashes: world.crashes,
        seen: world.seen,
        time,
        figures: world.books.figures.clone(),
        sites: world.paces(),
    }
}
