//! The scheduler's thread: mailboxes in, outboxes out, and a clock.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use zrelay_agent::{LeaseId, Order, Report};
use zrelay_clock::{Clock, Timestamp};
use zrelay_mailbox::{Outbox, Receiver, Sender, mailbox_waking};
use zrelay_spool::{MessageId, Queue, Request, Spill, ThreadKey};

use crate::beyond::{RUN_MAX, RunId, SpillOrder, Spilled};
use crate::query::{Answer, Ask, Query, RunView, SchedulerHandle};
use crate::scheduler::Scheduler;

/// Items from the spool that wait for the scheduler.
pub const QUEUE_MAX: usize = 4096;
/// Reports that wait for the scheduler.
pub const REPORTS_MAX: usize = 16 * 1024;
/// Questions that wait for the scheduler.
pub const QUERIES_MAX: usize = 64;
/// Items of each kind that one round takes, so that all kinds have their turn.
const ROUND_MAX: usize = 512;
/// Requests that wait for the spool before the scheduler takes nothing more that makes further ones. The spool is
/// then the slowest part of the hub, and the agents' reports wait with the agents.
const RECORDS_WAITING_MAX: usize = 64;
/// Batches that are written or read in one round: about ten milliseconds.
const SPILL_ROUND_BATCHES: usize = 8 * RUN_MAX;
/// How soon to look again whether a full mailbox of another loop has room.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);
/// How long a stop waits for the other loops to take what is ready for them.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Longest sleep: nothing depends on it, but a clock should be looked at now and then.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The receiving ends of the scheduler's thread. Make it, hand the [`Inlets`] to the other rooms, then
/// [`run`](SchedulerLoop::run) it in a thread of its own.
#[derive(Debug)]
pub struct SchedulerLoop {
    poll: Poll,
    queue: Receiver<Queue>,
    reports: Receiver<Report>,
    queries: Receiver<Query>,
    /// Where batches beyond the window go.
    spill: Option<Spill>,
}

/// Where the other rooms send to.
#[derive(Clone, Debug)]
pub struct Inlets {
    /// For the spool.
    pub queue: Sender<Queue>,
    /// For the agents.
    pub reports: Sender<Report>,
    /// For the control socket and whoever ends the hub.
    pub handle: SchedulerHandle,
}

/// Where the scheduler sends to.
#[derive(Debug)]
pub struct Outlets {
    /// The spool's appender.
    pub spool: Sender<Request>,
    /// The loops of the channels `smtp` and `lmtp`; leases go to them in turn.
    pub smtp: Vec<Sender<Order>>,
    /// The loop of all other channels.
    pub local: Sender<Order>,
}

impl SchedulerLoop {
    /// The mailboxes.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new() -> io::Result<(Self, Inlets)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
        let (queue_in, queue) = mailbox_waking(QUEUE_MAX, waker.clone());
        let (reports_in, reports) = mailbox_waking(REPORTS_MAX, waker.clone());
        let (queries_in, queries) = mailbox_waking(QUERIES_MAX, waker);
        let inlets = Inlets { queue: queue_in, reports: reports_in, handle: SchedulerHandle::new(queries_in) };
        Ok((Self { poll, queue, reports, queries, spill: None }, inlets))
    }

    /// Keeps what is beyond the window in `spill`; to be called when the scheduler has one.
    #[must_use]
    pub fn with_spill(mut self, spill: Spill) -> Self {
        self.spill = Some(spill);
        self
    }

    /// Runs until a drain is over or a stop is asked for. Blocks; never waits for another loop meanwhile.
    pub fn run(mut self, mut scheduler: Scheduler, outlets: Outlets, clock: &Clock) {
        let mut switch = Switch::new(outlets);
        let mut events = Events::with_capacity(4);
        loop {
            if self.round(&mut scheduler, &mut switch, clock.now()) == Next::Stop {
                break;
            }
            if scheduler.is_drained() && switch.flush() {
                return;
            }
            let sleep = self.sleep(&scheduler, &switch, clock.now());
            if let Err(error) = self.poll.poll(&mut events, Some(sleep))
                && error.kind() != ErrorKind::Interrupted
            {
                log::error!("the scheduler cannot wait for events: {error}");
                std::thread::sleep(FLUSH_PAUSE);
            }
        }
        let until = clock.now() + STOP_PATIENCE;
        while !switch.flush() && clock.now() < until {
            std::thread::sleep(FLUSH_PAUSE);
        }
    }

    fn round(&mut self, scheduler: &mut Scheduler, switch: &mut Switch, now: Timestamp) -> Next {
        let mut next = Next::Go;
        let mut answers = Vec::new();
        for query in self.queries.drain(QUERIES_MAX) {
            if matches!(query.ask, Ask::Stop) {
                next = Next::Stop;
            }
            let answer = match &query.ask {
                Ask::Run { thread, message, after } => {
                    Answer::Run(self.look_into(scheduler, now, (thread.as_ref(), *message, *after)))
                }
                ask => scheduler.answer(now, ask),
            };
            answers.push((answer, query.reply));
        }
        if !switch.is_congested() {
            for report in self.reports.drain(ROUND_MAX) {
                switch.note(&report);
                scheduler.handle_report(now, report);
            }
            if scheduler.poll_timeout().is_some_and(|due| due <= now) {
                scheduler.handle_timeout(now);
            }
            self.spill(scheduler, now);
            // What is on its way to the disk is in memory: no more comes in before it is there.
            if !scheduler.has_spill_orders() {
                for item in self.queue.drain(ROUND_MAX) {
                    scheduler.handle_queue(now, item);
                }
                self.spill(scheduler, now);
            }
        }
        while let Some(order) = scheduler.poll_order() {
            switch.order(order);
        }
        while let Some(record) = scheduler.poll_record() {
            switch.spool.push(record);
        }
        switch.flush();
        // Behind what is to be recorded, so that who asked can wait until it is durable. Who asked may have given up.
        for (answer, reply) in answers {
            let _ = reply.try_send(answer);
        }
        next
    }

    /// Reads the next run beyond the window for somebody who looks through the queue.
    fn look_into(
        &self,
        scheduler: &Scheduler,
        now: Timestamp,
        (thread, message, after): (Option<&ThreadKey>, Option<MessageId>, Option<RunId>),
    ) -> Option<RunView> {
        let (run, thread) = scheduler.next_run(thread, message, after)?;
        let mut unwritten = scheduler.unwritten(run).peekable();
        let written = match self.spill.as_ref().map(|spill| spill.read(run.0, &thread)) {
            Some(Ok(batches)) => Some(batches),
            Some(Err(error)) if error.kind() == ErrorKind::NotFound && unwritten.peek().is_some() => Some(Vec::new()),
            Some(Err(_)) | None => None,
        };
        let batches = written.map(|written| written.into_iter().chain(unwritten.cloned()).collect());
        let batches = batches.map(|batches| scheduler.views_of(now, (run, &thread), batches));
        if batches.is_none() {
            log::error!("batches of {thread} that wait on disk cannot be looked at");
        }
        Some(RunView { run, batches })
    }

    /// Writes and reads what is beyond the window. The file is not synced, so that this mostly takes a copy in memory.
    fn spill(&mut self, scheduler: &mut Scheduler, now: Timestamp) {
        let mut moved = 0;
        while moved < SPILL_ROUND_BATCHES {
            let Some(order) = scheduler.poll_spill() else { return };
            let spilled = match order {
                SpillOrder::Write { run, batches } => {
                    moved += batches.len();
                    let written = self.spill.as_mut().map(|spill| spill.write(run.0, &batches));
                    let Some(Err(error)) = written else { continue };
                    log::error!("{} batches cannot wait on disk and stay in memory: {error}", batches.len());
                    Spilled::NotWritten { run, batches }
                }
                SpillOrder::Read { run, thread } => match self.spill.as_ref().map(|spill| spill.read(run.0, &thread)) {
                    Some(Ok(batches)) => {
                        moved += batches.len();
                        Spilled::Read { run, batches }
                    }
                    Some(Err(error)) => {
                        moved += RUN_MAX;
                        log::error!("batches of {thread} that wait on disk cannot be read: {error}; trying again");
                        Spilled::NotRead { run }
                    }
                    None => Spilled::NotRead { run },
                },
            };
            if let (Spilled::Read { run, .. }, Some(spill)) = (&spilled, self.spill.as_mut()) {
                spill.forget(run.0);
            }
            scheduler.handle_spill(now, spilled);
        }
    }

    fn sleep(&self, scheduler: &Scheduler, switch: &Switch, now: Timestamp) -> Duration {
        if switch.is_congested() {
            return FLUSH_PAUSE;
        }
        if scheduler.has_spill_orders() {
            return Duration::ZERO;
        }
        let timer = scheduler.poll_timeout().map_or(SLEEP_MAX, |due| due.since(now)).min(SLEEP_MAX);
        match switch.is_empty() {
            true => timer,
            false => timer.min(FLUSH_PAUSE),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

/// Sends each lease's orders to the loop that has its agent.
struct Switch {
    spool: Outbox<Request>,
    /// The SMTP loops, and the local one behind them.
    loops: Vec<Outbox<Order>>,
    homes: HashMap<LeaseId, usize>,
    turn: usize,
}

impl Switch {
    fn new(outlets: Outlets) -> Self {
        let loops = outlets.smtp.into_iter().chain([outlets.local]).map(Outbox::new).collect();
        Self { spool: Outbox::new(outlets.spool), loops, homes: HashMap::new(), turn: 0 }
    }

    fn order(&mut self, order: Order) {
        let home = match &order {
            Order::Lease { lease, thread, takes_over, .. } => {
                let inherited = takes_over.and_then(|old| self.homes.remove(&old));
                let home = inherited.unwrap_or_else(|| self.home_for(&thread.channel));
                self.homes.insert(*lease, home);
                Some(home)
            }
            Order::Connect { lease } | Order::Carry { lease, .. } | Order::Idle { lease } | Order::Close { lease } => {
                self.homes.get(lease).copied()
            }
        };
        if let Some(outbox) = home.and_then(|home| self.loops.get_mut(home)) {
            outbox.push(order);
        }
    }

    fn home_for(&mut self, channel: &str) -> usize {
        let local = self.loops.len() - 1;
        if local == 0 || !matches!(channel, "smtp" | "lmtp") {
            return local;
        }
        self.turn = (self.turn + 1) % local;
        self.turn
    }

    fn note(&mut self, report: &Report) {
        if let Report::Released { lease, .. } = report {
            self.homes.remove(lease);
        }
    }

    fn is_congested(&self) -> bool {
        self.spool.len() > RECORDS_WAITING_MAX
    }

    fn is_empty(&self) -> bool {
        self.spool.is_empty() && self.loops.iter().all(Outbox::is_empty)
    }

    fn flush(&mut self) -> bool {
        let spool = self.spool.flush();
        self.loops.iter_mut().fold(spool, |done, outbox| outbox.flush() && done)
    }
}
