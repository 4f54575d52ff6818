//! Questions to the scheduler's thread, and its answers.

use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_holds::Terms;
use zrelay_mailbox::{Received, Sender, mailbox};
use zrelay_spool::{MessageId, ThreadKey};

use crate::beyond::RunId;
use crate::holds::{HoldView, Stood};
use crate::operator::{Action, Changed, Chosen, Selector};
use crate::scheduler::Scheduler;
use crate::snapshot::{
    AgeView, BatchMark, BatchView, ChannelView, RingMark, RingView, ThreadView, ThreadZoom, TotalsView,
};

/// Rows in one answer at most: a page costs the scheduler well under a millisecond, also where each thread has to come from
/// the far end of the memory (two microseconds; see `tests/bench-scale`). Between two pages it does whatever else there is.
pub const PAGE_MAX: usize = 256;
/// Threads that one answer looks through at most, for a message or for a hold: a quarter of the work for each.
pub const SCAN_MAX: usize = 1024;
/// How long [`SchedulerHandle::ask`] waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A question with a mailbox for the answer.
#[derive(Debug)]
pub struct Query {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes.
    pub reply: Sender<Answer>,
}

/// What can be asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The sums of everything.
    Totals,
    /// All channels.
    Channels,
    /// The next [`PAGE_MAX`] rings.
    Rings {
        /// Where the page before ended.
        after: Option<RingMark>,
    },
    /// The next [`PAGE_MAX`] threads behind this one.
    Threads {
        /// The last thread of the page before.
        after: Option<ThreadKey>,
    },
    /// How long the recipients of the next [`PAGE_MAX`] threads behind this one have been in the queue.
    Ages {
        /// The last thread of the page before.
        after: Option<ThreadKey>,
    },
    /// One thread.
    Thread(ThreadKey),
    /// The next batches, of one thread or of all: [`PAGE_MAX`], less one for each thread that is passed over.
    Batches {
        /// The thread.
        thread: Option<ThreadKey>,
        /// Where the page before ended.
        after: Option<BatchMark>,
    },
    /// What is in the next run beyond the window, of one thread or of all; the run stays where it is. Only the driver can
    /// read it.
    Run {
        /// The thread.
        thread: Option<ThreadKey>,
        /// Only one that may hold a batch of this message.
        message: Option<MessageId>,
        /// The run before.
        after: Option<RunId>,
    },
    /// The batches of a message in the next [`SCAN_MAX`] threads.
    Message {
        /// The message.
        message: MessageId,
        /// The last thread of the page before.
        after: Option<ThreadKey>,
    },
    /// To do something.
    Operate {
        /// What.
        action: Action,
        /// To what.
        selector: Selector,
    },
    /// To do something to these batches; at most [`PAGE_MAX`].
    OperateOn {
        /// What.
        action: Action,
        /// To what.
        batches: Vec<Chosen>,
    },
    /// The holds that stand.
    Holds,
    /// Those of the next [`SCAN_MAX`] threads behind this one that are held by their own names.
    HeldThreads {
        /// The last thread of the page before.
        after: Option<ThreadKey>,
    },
    /// That a hold stands from now on.
    Stand {
        /// What it is for.
        terms: Terms,
        /// Who wants it.
        by: Arc<str>,
    },
    /// That holds which these terms cover stand no more.
    Lift(Terms),
    /// To send mail to another thread.
    Reroute {
        /// Which.
        what: Moving,
        /// Where it goes.
        to: ThreadKey,
    },
    /// To let the agents finish; the loop ends when they have.
    Drain,
    /// To end the loop now.
    Stop,
}

/// What [`Ask::Reroute`] is about.
#[derive(Clone, Debug)]
pub enum Moving {
    /// All that the scheduler itself can tell.
    Selected(Selector),
    /// These batches; at most [`PAGE_MAX`].
    Chosen(Vec<Chosen>),
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Ask::Totals`].
    Totals(TotalsView),
    /// To [`Ask::Channels`].
    Channels(Vec<ChannelView>),
    /// To [`Ask::Rings`].
    Rings {
        /// The rings.
        views: Vec<RingView>,
        /// Where to go on, if there are more.
        next: Option<RingMark>,
    },
    /// To [`Ask::Threads`]; the last page has less than [`PAGE_MAX`].
    Threads(Vec<ThreadView>),
    /// To [`Ask::Ages`].
    Ages {
        /// The threads that are not empty.
        views: Vec<AgeView>,
        /// Where to go on, if there are more threads.
        next: Option<ThreadKey>,
    },
    /// To [`Ask::Thread`].
    Thread(Option<Box<ThreadZoom>>),
    /// To [`Ask::Batches`].
    Batches {
        /// The batches.
        views: Vec<BatchView>,
        /// Where to go on, if there may be more.
        next: Option<BatchMark>,
    },
    /// To [`Ask::Run`]: `None` when there is no other.
    Run(Option<RunView>),
    /// To [`Ask::Message`].
    Message {
        /// What was found.
        batches: Vec<BatchView>,
        /// Where to go on, if there are more threads.
        next: Option<ThreadKey>,
    },
    /// To [`Ask::Operate`], [`Ask::OperateOn`] and [`Ask::Reroute`].
    Changed(Changed),
    /// To [`Ask::Holds`].
    Holds(Vec<HoldView>),
    /// To [`Ask::HeldThreads`].
    HeldThreads {
        /// Those that are.
        threads: Vec<ThreadKey>,
        /// Where to go on, if there are more threads.
        next: Option<ThreadKey>,
    },
    /// To [`Ask::Stand`].
    Stood(Stood),
    /// To [`Ask::Lift`]: how many.
    Lifted(u64),
    /// To [`Ask::Drain`] and [`Ask::Stop`].
    Done,
}

/// A run beyond the window.
#[derive(Clone, Debug)]
pub struct RunView {
    /// Its name.
    pub run: RunId,
    /// What is in it; `None` when it could not be read.
    pub batches: Option<Vec<BatchView>>,
}

impl Scheduler {
    /// Answers one question.
    pub fn answer(&mut self, now: Timestamp, ask: &Ask) -> Answer {
        match ask {
            Ask::Totals => Answer::Totals(self.totals()),
            Ask::Channels => Answer::Channels(self.channels()),
            Ask::Rings { after } => {
                let (views, next) = self.rings(after.as_ref(), PAGE_MAX);
                Answer::Rings { views, next }
            }
            Ask::Threads { after } => Answer::Threads(self.threads(now, after.as_ref(), PAGE_MAX)),
            Ask::Ages { after } => {
                let (views, next) = self.ages(now, after.as_ref(), PAGE_MAX);
                Answer::Ages { views, next }
            }
            Ask::Thread(key) => Answer::Thread(self.thread(now, key).map(Box::new)),
            Ask::Batches { thread, after } => {
                let (views, next) = self.batches(now, thread.as_ref(), after.as_ref(), PAGE_MAX);
                Answer::Batches { views, next }
            }
            Ask::Run { .. } => Answer::Run(None),
            Ask::Message { message, after } => {
                let (batches, next) = self.message(now, *message, after.as_ref(), SCAN_MAX);
                Answer::Message { batches, next }
            }
            Ask::Operate { action, selector } => Answer::Changed(self.operate(now, *action, selector)),
            Ask::OperateOn { action, batches } => Answer::Changed(self.operate_on(now, *action, batches)),
            Ask::Holds => Answer::Holds(self.holds()),
            Ask::HeldThreads { after } => {
                let (threads, next) = self.held_threads(after.as_ref(), SCAN_MAX);
                Answer::HeldThreads { threads, next }
            }
            Ask::Stand { terms, by } => Answer::Stood(self.stand(now, terms, by)),
            Ask::Lift(terms) => Answer::Lifted(self.lift(now, terms)),
            Ask::Reroute { what: Moving::Selected(selector), to } => Answer::Changed(self.reroute(now, selector, to)),
            Ask::Reroute { what: Moving::Chosen(batches), to } => {
                Answer::Changed(self.reroute_chosen(now, batches, to))
            }
            Ask::Drain => {
                self.drain(now);
                Answer::Done
            }
            Ask::Stop => Answer::Done,
        }
    }
}

/// Talks to the scheduler's thread from another thread. Clone it freely.
#[derive(Clone, Debug)]
pub struct SchedulerHandle {
    queries: Sender<Query>,
}

/// The scheduler's thread does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unavailable {
    /// Too many questions, or too much else to do.
    #[error("the scheduler is busy and does not answer; try again")]
    Busy,
    /// It has ended.
    #[error("the hub is shutting down")]
    Ended,
}

impl SchedulerHandle {
    pub(crate) fn new(queries: Sender<Query>) -> Self {
        Self { queries }
    }

    /// Asks, and waits for the answer, at most [`PATIENCE`]. Not for threads that must not block.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn ask(&self, ask: Ask) -> Result<Answer, Unavailable> {
        let (reply, answers) = mailbox(1);
        self.queries.try_send(Query { ask, reply }).map_err(|error| match error {
            zrelay_mailbox::SendError::Full(_) => Unavailable::Busy,
            zrelay_mailbox::SendError::Closed(_) => Unavailable::Ended,
        })?;
        match answers.wait(PATIENCE) {
            Received::Item(answer) => Ok(answer),
            Received::Nothing => Err(Unavailable::Busy),
            Received::Closed => Err(Unavailable::Ended),
        }
    }

    /// Lets the agents finish what is under way; the scheduler's thread ends when they have.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn drain(&self) -> Result<(), Unavailable> {
        self.ask(Ask::Drain).map(drop)
    }

    /// Ends the scheduler's thread now. What is under way stays in the spool.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn stop(&self) -> Result<(), Unavailable> {
        self.ask(Ask::Stop).map(drop)
    }
}
