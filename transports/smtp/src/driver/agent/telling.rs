//! What an agent tells the scheduler.

use std::time::Duration;

use zrelay_agent::{LeaseId, Link as LinkReport, Release, Report, Rest, Site, Statistics, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::BatchId;

use super::{Agent, Fate, Shared, Stage, Voice};
use crate::letter::Letter;

/// How often the tools are told how a connection does while it works.
const LINK_REPORT_TIME: Duration = Duration::from_secs(1);

/// Shortest time over which a rate is counted.
const RATE_TIME: Duration = Duration::from_millis(100);

impl<L: Letter> Agent<L> {
    pub(super) fn settled<S>(&mut self, shared: &mut Shared<S>, batch: BatchId, verdicts: Vec<Verdict>, rest: Rest) {
        if rest == Rest::Done {
            self.let_go(batch);
        }
        self.say(shared, |lease| Report::Settled { lease, batch, verdicts, rest });
    }

    pub(super) fn returned<S>(&mut self, shared: &mut Shared<S>, batch: BatchId) {
        self.let_go(batch);
        self.say(shared, |lease| Report::Returned { lease, batch });
    }

    pub(super) fn let_go(&mut self, batch: BatchId) {
        if let Some(size) = self.held.remove(&batch) {
            self.window.release(size);
        }
    }

    pub(super) fn ask_for_more<S>(&mut self, shared: &mut Shared<S>) {
        let Stage::Talking(link) = &mut self.stage else {
            return;
        };
        if !link.conversation.is_ready() || link.conversation.is_ending() {
            return;
        }
        // Ahead of the credit that it bounds.
        let pace = link.pace();
        if self.paced.is_none_or(|paced| pace.is_notable(&paced)) {
            self.paced = Some(pace);
            self.say(shared, |lease| Report::Pace { lease, pace });
        }
        if let Some(credit) = self.window.open() {
            self.say(shared, |lease| Report::Hungry { lease, credit });
        }
    }

    /// Asks for a first batch to send ahead of the greeting.
    pub(super) fn ask_early<S>(&mut self, shared: &mut Shared<S>) {
        if !self.waiting.is_empty() {
            return;
        }
        if let Some(credit) = self.window.open_early() {
            self.say(shared, |lease| Report::Early { lease, credit });
        }
    }

    /// Ends the lease.
    pub(super) fn release<S>(&mut self, shared: &mut Shared<S>, reason: Release) -> Fate {
        for ticket in std::mem::take(&mut self.waiting) {
            self.say(shared, |lease| Report::Returned { lease, batch: ticket.id });
        }
        debug_assert!(self.held.is_empty(), "batches are left behind");
        let statistics = self.statistics;
        self.say(shared, |lease| Report::Released { lease, reason, statistics });
        Fate::Gone
    }

    pub(super) fn report_site<S>(&self, shared: &mut Shared<S>, site: String) {
        let site = Site(site.to_ascii_lowercase().into());
        self.say(shared, |lease| Report::Site { lease, site });
    }

    pub(super) fn report_link<S>(&mut self, now: Timestamp, shared: &mut Shared<S>) {
        self.link_due = now + LINK_REPORT_TIME;
        let mut report = LinkReport::default();
        match &mut self.stage {
            Stage::Resolving | Stage::Located => report.state = "resolving",
            Stage::Connecting(race) => {
                report.state = "connecting";
                report.peer = race.first().map(|attempt| attempt.candidate.peer()).unwrap_or_default();
            }
            Stage::Talking(link) => {
                let statistics = link.conversation.take_statistics();
                let conversation = &link.conversation;
                report.peer = format!("{}[{}]:{}", link.name, link.address.ip(), link.address.port());
                report.state = match () {
                    () if conversation.is_ending() => "closing",
                    () if !conversation.is_ready() => "greeting",
                    () if conversation.is_idle() => "idle",
                    () => "working",
                };
                report.level = if conversation.is_ready() { level_name(conversation.level()) } else { "" };
                report.encrypted = conversation.is_encrypted();
                report.replies = u32::try_from(conversation.replies_awaited()).unwrap_or(u32::MAX);
                report.bytes_in_flight = conversation.bytes_in_flight();
                report.rtt = zrelay_sys::tcp_info(&link.stream).ok().map(|info| info.rtt);
                let room = link.pipe.room();
                report.window_messages = room.messages;
                report.window_bytes = room.octets;
                report.delivery_rate = link.pipe.delivery_rate();
                self.count(statistics);
            }
        }
        report.delivered = self.statistics.delivered;
        self.told.tell(now, self.statistics, report.delivery_rate);
        report.recipient_rate = self.told.recipient_rate;
        report.link_use = self.told.link_use;
        report.bytes = self.statistics.bytes;
        self.say(shared, |lease| Report::Link { lease, link: Box::new(report) });
    }

    pub(super) fn count(&mut self, more: Statistics) {
        self.statistics.transactions += more.transactions;
        self.statistics.delivered += more.delivered;
        self.statistics.bytes = self.statistics.bytes.saturating_add(more.bytes);
        self.statistics.at_risk += more.at_risk;
    }

    /// Lets those who watch the thread see the conversation, and no others.
    pub(super) fn tap<S>(&mut self, shared: &Shared<S>) {
        self.watches = shared.tracing.version();
        if let Stage::Talking(link) = &mut self.stage {
            link.conversation.set_tap(shared.tracing.tap(&self.thread, self.lease.0));
        }
    }

    /// Tells those who watch the thread what happens to the connection.
    pub(super) fn note<S>(&self, now: Timestamp, shared: &Shared<S>, text: impl FnOnce() -> String) {
        shared.tracing.note(now, &self.thread, self.lease.0, text);
    }

    pub(super) fn say<S>(&self, shared: &mut Shared<S>, report: impl FnOnce(LeaseId) -> Report) {
        if self.voice == Voice::Heard {
            shared.reports.push(report(self.lease));
        }
    }
}

/// The rates that the tools were told last, and from what they are counted on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    at: Timestamp,
    until: Statistics,
    recipient_rate: f64,
    link_use: Option<f64>,
}

impl Told {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { at: now, until: Statistics::default(), recipient_rate: 0.0, link_use: None }
    }

    /// Counts from the last time until now; between two reports at one moment everything stays as it was.
    fn tell(&mut self, now: Timestamp, statistics: Statistics, delivery_rate: u64) {
        let elapsed = now.since(self.at).as_secs_f64();
        if elapsed < RATE_TIME.as_secs_f64() {
            return;
        }
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed;
        self.recipient_rate = per_second(statistics.delivered, self.until.delivered);
        let written = per_second(statistics.bytes, self.until.bytes);
        // What is written in one moment is sent in the next: more than all of it cannot be used.
        self.link_use = (delivery_rate > 0).then(|| (written / delivery_rate as f64).min(1.0));
        (self.at, self.until) = (now, statistics);
    }
}

/// As the tools and the logs call it.
pub(super) fn level_name(level: Pipelining) -> &'static str {
    match level {
        Pipelining::Lockstep => "lockstep",
        Pipelining::Transaction => "transaction",
        Pipelining::Pipelined => "pipelined",
        Pipelining::Stream => "stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_they_were_last_told_and_the_link_is_used_to_the_full_at_most() {
        let start = Timestamp::from_secs(1000);
        let mut told = Told::new(start);
        let statistics = Statistics { delivered: 50, bytes: 250_000, ..Statistics::default() };
        told.tell(start + Duration::from_millis(10), statistics, 1_000_000);
        assert_eq!((told.recipient_rate, told.link_use), (0.0, None), "too soon to be told");
        told.tell(start + Duration::from_secs(1), statistics, 1_000_000);
        assert_eq!((told.recipient_rate, told.link_use), (50.0, Some(0.25)));
        let statistics = Statistics { delivered: 150, bytes: 5_000_000, ..Statistics::default() };
        told.tell(start + Duration::from_secs(3), statistics, 1_000_000);
        assert_eq!((told.recipient_rate, told.link_use), (50.0, Some(1.0)));
        told.tell(start + Duration::from_secs(4), statistics, 0);
        assert_eq!((told.recipient_rate, told.link_use), (0.0, None));
    }
}
