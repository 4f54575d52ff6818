//! The scheduler: which agent carries which thread, and when.
//!
//! ```text
//!   spool ──Queue──▶ ┌───────────────────────────────┐ ──Request──▶ spool     outcomes, back-offs, holds
//!                    │ thread ─▶ ring ─▶ channel ─▶ all │
//!   agents ─Report─▶ └───────────────────────────────┘ ──Order────▶ agents    lease, carry, idle, close
//!                          ▲ Query        │ views
//!                          └── control ◀──┘ ◀── JSON-RPC lines ── zrelay threads, hold, ...
//! ```
//!
//! [`Scheduler`] is a state machine without input or output; [`SchedulerLoop`] is the thread around it; [`control`] is the
//! socket through which the command line sees and moves it; [`snapshot`] is what it shows.
//!
//! # How a batch goes
//!
//! A batch comes from the spool into its **thread**, queued by the time at which something is to be done with it: when it
//! is due, or when it has come to its expiry. A thread with a due batch gets a **lease** if the limits `thread_agents ≤
//! ring_agents ≤ channel_agents ≤ agents` allow it, else a place in the line before the innermost limit that is full. A
//! place that becomes free goes to the first in line among those it can serve. An agent that says how
//! much it can take is given batches as long as its **credit** lasts, those of different senders in turns (see below);
//! without work it is idle and keeps its connection,
//! for new mail of its thread, for another thread of its **ring** (same channel, clause and site), or until others
//! need its place. A thread that has kept an agent busy for [`SLICE`] gives way to threads that wait.
//!
//! # Whose turn it is
//!
//! - Between threads: a place goes to hosts that are known to work, then to those that nothing is known of, then to those
//!   that failed; among these to the more urgent, by the priority of what they have due and of their clause; among equals,
//!   and one time in four among all, to who has waited longest.
//! - A thread that others wait for keeps its place for a slice: until it has sent [`QUANTUM`] or had it for [`SLICE`],
//!   both times the `weight` of its clause; and without a greeting for [`STARTING_SLICE`]: its host has failed then. What
//!   a slice overdraws, one batch at most, is taken from the next one (deficit round robin, where the line before each
//!   limit is the round). So a thread with `n` before it in line for `p` places of weight 1 begins within
//!   `4 × (n / p + 1)` slices of a quantum, what was carried already, and a batch each, however large their posts are.
//!   Hosts known to be down hold a quarter of the places at most while better ones wait, or give way after that time.
//!   Of many hosts that nothing is known of, those that are down are known when each has had its first slice.
//! - Inside a thread: the due batches are divided by priority (RFC 6710), each with its share, and those of one priority
//!   into **flows** by sender domain or what the configuration says ([`zrelay_spool::Flow`]); the flows are served alike,
//!   by weight: octets of the message, as often as it is sent, plus
//!   [`RECIPIENT_WEIGHT`](zrelay_agent::RECIPIENT_WEIGHT) per recipient. No priority starves another: the lowest has 1/64
//!   of the highest one's share. Where the host is so slow that its time
//!   counts more than octets, flows are charged its time.
//! - **The bound.** A message to a thread that is busy with another flow's post of a hundred thousand recipients goes out
//!   next: behind what its agents were given before it came, one credit at most. That is what the path holds, and no more
//!   than the host is known to do in half a second ([`IN_HAND`](zrelay_agent::IN_HAND)) and four round trips, and one part of
//!   a batch, which takes another half second. Where a message itself takes so long that to divide the post would cost it
//!   a good part of its rate, a transaction takes up to five times that, and a part is two of them. A host that has not answered yet has
//!   100 recipients in hand, one that is far away up to a batch of 1000.
//! - A batch goes whole to a host that is fast, in **parts** to one that is slow or where a rate is in the way. Recipients
//!   that are put off in one part wait; the next parts do not wait for them.
//!
//! # What ends and what comes again
//!
//! - Recipients put off by a reply wait, as the rest of their batch, for `interval × retries[attempts - 1] × (1 ± jitter)`.
//!   If some recipients of a batch were put off and others not answered, all wait that long; if none was put off, the
//!   batch stays due.
//! - A host that fails is left alone by the same formula, counted in failures in a row, whatever arrives meanwhile. Each
//!   due batch is reported as deferred once in such a back-off, not with each failure; new arrivals with the next failure.
//!   Any reply of the host ends the back-off. A failure beside agents of the thread that work concerns only the number of
//!   agents.
//! - A batch leaves as expired when it is put off at the age of `expiry` or beyond, or reaches that age while it waits. A
//!   batch that is due is tried once more however old it is. Held batches and threads do not expire, nor does anything
//!   while the spool cannot record outcomes.
//! - A message with a time of its own (DELIVERBY, `R`) is returned at that time wherever it rests, unless it is under
//!   way; with `N` its sender is told then. Behind `delay_warning` the sender of what is still here is told once.
//! - What an agent did not answer returns unchanged. [`FRUITLESS_MAX`] leases in a row that end without a single verdict
//!   count as a failure of the host. There is no watchdog over silent agents: their own timeouts end them.
//! - Threads of the channel `hold` are never leased, and stay held until their batches are dropped or rerouted.
//!
//! # What replies change
//!
//! What a host says, or fails to say, is about its site as often as about one recipient. Each refusal falls into one
//! class; the words of the reply decide before its code, and the `[[thread.reply]]` rules of the clause before both. A
//! site is a ring: the threads of one clause with the same MX set. `n` counts such events in a row; *wait(n)* is
//! `interval × retries[n - 1] × (1 ± jitter)`, or the rule's `suspend`.
//!
//! | class | recognised by | connections to the site | the site and its threads | recipients |
//! |---|---|---|---|---|
//! | `connect` | no address, refused, timed out, lost before mail | beside others that work: no more than those for wait(n); else 1 | down for wait(n), then one probe | due ones deferred once per back-off |
//! | `tls` | TLS required and not to be had | the same | the same | the same |
//! | `greeting-4xx` | 4xx as greeting, to EHLO or STARTTLS | the same | the same | the same |
//! | `greeting-5xx` | 5xx there, when no other address does better | the same | down for wait(n + 2) | the same |
//! | `unavailable` | 421, limits of one connection | none behind mail that was answered; else as `connect` at the third in a row | none, or down | unanswered ones stay due |
//! | `connections` | "too many connections" and the like, 4xx or in the greeting | no more than the others for wait(n) | none while others work, else down | by the reply |
//! | `rate` | "too much mail", "rate limit", "throttled"; any other 4.7.x to MAIL or the message | halved | nothing is sent for wait(n): `suspended` | those answered: by the reply; others stay due |
//! | `reputation` | "reputation", "blocklist", "client host rejected" in a 4xx | 1 | `suspended` for wait(n + 2) | the same |
//! | `recipient` | any other 4xx or 5xx to MAIL or RCPT, greylisting | none | none | by the reply |
//! | `content` | any other 4xx or 5xx to the message | none | none | by the reply |
//!
//! - **Slow start.** A site begins with `initial_agents` connections; each that delivers allows another, up to
//!   `ring_agents`. Where more were refused, one is tried when the hold is over and mail is delivered, then the next.
//! - **A site that is down** has no connection. Its threads back off as it would be their turn, each reporting its due
//!   batches once. When the time is over, one thread's agent probes it, and the others wait for that (`limit:probe`);
//!   when it has answered, the site starts slowly. A thousand threads that are due at once make one connection.
//! - **A new domain** has its agent wait for a word before it connects, since the domain may turn out to be one of a
//!   thousand at a site that is known to be down, or has as many connections as it may have.
//! - What was learned of a site is kept for [`SITE_MEMORY`] in the hub's store of sites, over restarts too.
//!
//! # How many agents a thread has
//!
//! One. Where the clause allows more, a second is tried while the first has all hands full: what they finish in some
//! seconds is compared with what the first did alone, in octets and with [`RECIPIENT_WEIGHT`](zrelay_agent::RECIPIENT_WEIGHT)
//! for each recipient. As long as each connection brings three quarters of an even share, twice as many are tried next.
//! With the first step that does not, as many stay as it was worth, and then one more is tried at a time: it is kept when
//! it brought half of an even share; else it is closed, and the pause until the next trial doubles, from one minute to an
//! hour. Between, it is tried to do with one fewer. Where the agents report that the path is used to nine tenths, nothing is
//! tried; where connections of a trial do not come about, it ends with those that are there. A receiver that takes 5 ms for
//! each recipient has twenty connections within 20 s, one that is the limit as a whole and a path that is full stay at one.
//!
//! # Rates
//!
//! Before each site, each clause and each source address there are doors: one for mail, one for connections. A door is
//! shut while one of its limiters is: `ring_rates`, `clause_rates`, the day of a warm-up; that of a site also while it is
//! suspended. A thread that finds one shut waits there (`limit:rate`, with what is used up and when there is more); when
//! the time has come those that wait are let in one by one, in the order in which they came, until it is shut again.
//! Nobody looks in vain. A rate is spread evenly over its period, and a tenth of it can be saved up: at most 1.1 times the
//! amount goes out in any period, and one more. A batch with more recipients than may go is carried in parts. A host that
//! takes fewer recipients in a message than the clause's `recipients` makes more messages of a batch than were counted when
//! it was handed out: the further ones are paid for when they are answered. Connections are counted when they are begun, those to a domain whose site is not known yet when it is.
//!
//! # What it costs
//!
//! A batch takes about 500 octets, a thread with a ring of its own about 2 KiB. Batches beyond a window of so many wait on
//! disk ([`Scheduler::set_window`]), at two or three octets each; a thread with a hundred thousand of them costs what one
//! with a thousand does. Work on all batches of a thread (a dead
//! host, a drop, a back-off that is over) is done [`SWEEP_MAX`] batches a turn. Sums are counted, never scanned for; listings are copied in pages of
//! [`PAGE_MAX`], between which everything else goes on.
//!
//! The work for an event does not grow with the queue, but for a comparison or two with each doubling in the maps that keep an
//! order: from 1,000 to 100,000 batches in a tenth as many threads, an arrival goes from 4,500 to 5,200 instructions, a
//! delivery with the next lease or batch from 14,000 to 16,300, a wake-up from 4,400 to 4,900 (`tests/bench-scale
//! --instructions`). Its time grows as that of a read of memory does, since less of what it needs is in the caches;
//! `tests/bench-scale` shows both.
#![forbid(unsafe_code)]

mod ages;
mod batch;
mod beyond;
mod carry;
mod class;
mod clause;
pub mod control;
mod door;
mod driver;
mod flows;
mod gain;
mod grant;
mod holds;
mod lease;
mod limit;
mod limiter;
mod line;
mod mute;
mod names;
mod operator;
mod pace;
mod promises;
mod query;
mod recent;
mod reroute;
mod retry;
mod scheduler;
mod settle;
mod site;
pub mod snapshot;
mod sweep;
#[cfg(any(test, feature = "testing"))]
mod testing;
mod thread;
mod turns;

pub use ages::{AGE_LIMITS, AgeTable};
pub use beyond::{BATCH_OCTETS, RUN_MAX, RunId, SpillOrder, Spilled};
pub use clause::Settings;
pub use driver::{Inlets, Outlets, QUERIES_MAX, QUEUE_MAX, REPORTS_MAX, SchedulerLoop};
pub use grant::{QUANTUM, SLICE};
pub use holds::{Envelopes, HOLDS_MAX, HoldView, Stood};
pub use limiter::{Allowance, Unit};
pub use mute::{STARTING_SLICE, STARTING_SLICE_AMONG_FAILED};
pub use operator::{Action, Changed, Chosen, Selector, SelectorError};
pub use query::{Answer, Ask, Moving, PAGE_MAX, PATIENCE, Query, RunView, SCAN_MAX, SchedulerHandle, Unavailable};
pub use recent::{Heard, RECENT_MAX};
pub use retry::WAIT_MIN;
pub use scheduler::{MEMORY, MEMORY_THREADS_MAX, OUTCOMES_MAX, Scheduler};
pub use settle::FRUITLESS_MAX;
pub use site::SITE_MEMORY;
pub use sweep::SWEEP_MAX;

#[cfg(test)]
mod tests;
