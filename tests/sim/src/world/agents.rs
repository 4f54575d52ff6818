//! Orders to agents, and what they report.

use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{LeaseId, Order, Release, Report};
use zrelay_clock::Timestamp;
use zrelay_config::Clause;
use zrelay_scheduler::snapshot::State;
use zrelay_spool::ThreadKey;

use super::{Event, World, tell};
use crate::agent::{self, Agent, AgentKey, ConnectionKey, Fate, Stage};

impl World {
    pub(super) fn hear(&mut self, report: Report) {
        let lease = report.lease();
        if let Some(key) = self.leases.get(&lease)
            && let Some(agent) = self.agents.get(*key)
        {
            self.touched.push(agent.thread.clone());
        }
        if !matches!(report, Report::Hungry { .. }) {
            tell!(self, "agent   {report:?}");
        }
        match &report {
            Report::Settled { lease, batch, verdicts, .. } => {
                self.manners.settled(self.now, *lease, *batch, verdicts);
            }
            Report::Released { lease, reason, .. } => {
                let failed = matches!(reason, Release::Failed(_)) && self.counts(*lease);
                self.manners.released(self.now, *lease, failed);
            }
            _ => {}
        }
        self.queue.heard(&report);
        self.scheduler.handle_report(self.now, report);
    }

    /// Whether a failure of this lease's host is news to the scheduler: of one that has nothing in its queue, or backs off
    /// already, it is not.
    fn counts(&self, lease: LeaseId) -> bool {
        let Some(thread) = self.queue.thread_of(lease) else { return false };
        let state = self.scheduler.state(self.now, thread);
        state.is_some_and(|state| !matches!(state, State::Idle | State::Retry(_)))
    }

    pub(super) fn order(&mut self, order: Order) {
        match &order {
            Order::Lease { lease, thread, .. } => tell!(self, "lease   {lease} {thread}"),
            Order::Carry { lease, batch } => tell!(self, "carry   {lease} {} {:?}", batch.id, batch.recipients),
            other => tell!(self, "order   {other:?}"),
        }
        if let Order::Carry { lease, batch } = &order {
            self.queue.carried(self.now, *lease, batch);
            self.manners.carried(self.now, *lease, batch);
        }
        match order {
            Order::Lease { lease, thread, clause, takes_over } => {
                self.queue.leased(lease, &thread, takes_over);
                let way = self.manners.way(&thread, &clause, self.site_of_thread(&thread));
                self.manners.leased(self.now, lease, way, takes_over);
                self.touched.push(thread.clone());
                if matches!(&*thread.channel, "smtp" | "lmtp") {
                    return self.lease(lease, thread, clause, takes_over);
                }
                self.local.handle_order(self.now, Order::Lease { lease, thread, clause, takes_over });
            }
            Order::Connect { lease } => self.connect(lease),
            Order::Carry { lease, .. } | Order::Idle { lease } | Order::Close { lease }
                if !self.leases.contains_key(&lease) =>
            {
                if matches!(order, Order::Idle { .. }) {
                    self.agenda.set(self.now + self.plan.idle + Duration::from_secs(1), Event::Local);
                }
                // Of no SMTP agent, or of one that has ended meanwhile: the local ones ignore those as well.
                self.local.handle_order(self.now, order);
            }
            Order::Carry { lease, batch } => self.with_lease(lease, |agent, with| {
                agent.carry(batch, with);
                agent.listen(with)
            }),
            Order::Idle { lease } => self.with_lease(lease, |agent, with| {
                agent.idle_since = Some(with.now);
                Fate::GoesOn
            }),
            Order::Close { lease } => self.with_lease(lease, |agent, with| match agent.close(with) {
                Fate::GoesOn => agent.listen(with),
                Fate::Gone => Fate::Gone,
            }),
        }
    }

    pub(super) fn lease(
        &mut self,
        lease: LeaseId,
        thread: ThreadKey,
        clause: Arc<Clause>,
        takes_over: Option<LeaseId>,
    ) {
        if let Some(old) = takes_over.and_then(|old| self.leases.remove(&old)) {
            self.leave(old);
            let now = self.now;
            if self.agents.get(old).is_some_and(|agent| agent.is_free(now)) {
                self.leases.insert(lease, old);
                self.enter(&thread, &clause);
                return self.with(old, |agent, with| {
                    agent.taken_over(with.now, lease, thread, clause);
                    agent.listen(with)
                });
            }
            self.with(old, |agent, with| {
                agent.hush();
                match agent.close(with) {
                    Fate::GoesOn => agent.listen(with),
                    Fate::Gone => Fate::Gone,
                }
            });
        }
        self.enter(&thread, &clause);
        let key = self.agents.insert(Agent::new(self.now, lease, thread, clause));
        self.leases.insert(lease, key);
        let time = self.dice.between(Duration::from_micros(100), Duration::from_millis(40));
        self.agenda.set(self.now + time, Event::Resolved(key));
    }

    /// A thread has one agent more.
    pub(super) fn enter(&mut self, thread: &ThreadKey, clause: &Clause) {
        let agents = self.agents_of.entry(thread.clone()).or_default();
        *agents += 1;
        assert!(*agents <= clause.thread_agents, "{thread} has {agents} agents");
        assert!(self.leases.len() <= self.config.agents as usize, "there are too many agents");
    }

    /// A thread has one agent less.
    pub(super) fn leave(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get(key) else { return };
        if let Some(agents) = self.agents_of.get_mut(&agent.thread) {
            *agents -= 1;
            if *agents == 0 {
                self.agents_of.remove(&agent.thread);
            }
        }
    }

    pub(super) fn with_lease(
        &mut self,
        lease: LeaseId,
        act: impl FnOnce(&mut Agent, &mut agent::Surroundings<'_>) -> Fate,
    ) {
        if let Some(key) = self.leases.get(&lease) {
            self.with(*key, act);
        }
    }

    /// Lets something happen to an agent, and draws the consequences.
    pub(super) fn with(&mut self, key: AgentKey, act: impl FnOnce(&mut Agent, &mut agent::Surroundings<'_>) -> Fate) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        let mut with = agent::Surroundings {
            now: self.now,
            reader: &self.reader,
            books: &mut self.books,
            reports: &mut self.reports,
        };
        if act(agent, &mut with) == Fate::Gone {
            return self.gone(key);
        }
        self.write(key);
        self.arm(key);
    }

    pub(super) fn arm(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        let deadline = agent.deadline();
        if deadline < agent.armed {
            agent.armed = deadline;
            self.agenda.set(deadline.max(self.now), Event::Timer(key));
        }
    }

    pub(super) fn timer(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        agent.armed = Timestamp::NEVER;
        self.with(key, |agent, with| {
            if agent.deadline() > with.now {
                return Fate::GoesOn;
            }
            agent.timeout(with.now);
            agent.listen(with)
        });
    }

    /// An agent has ended: its connection is closed.
    pub(super) fn gone(&mut self, key: AgentKey) {
        // One whose lease was taken over has left its thread before.
        if self.agents.get(key).is_some_and(|agent| self.leases.get(&agent.lease) == Some(&key)) {
            self.leave(key);
        }
        let Some(agent) = self.agents.remove(key) else { return };
        self.touched.push(agent.thread);
        if self.leases.get(&agent.lease) == Some(&key) {
            self.leases.remove(&agent.lease);
        }
        if let Stage::Talking { connection, .. } = agent.stage {
            self.hang_up(connection);
        }
    }

    /// The hub's end of a connection is closed; what is on the way arrives all the same.
    pub(super) fn hang_up(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.agent = None;
        let at = (self.now + connection.rtt / 2).max(connection.up);
        self.agenda.set(at, Event::Gone(key));
    }
}
