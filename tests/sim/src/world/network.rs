//! Names, connections and what goes over them.

use std::sync::Arc;

use zrelay_agent::{LeaseId, Release, Report, Site as SiteName};
use zrelay_smtp::Protocol;
use zrelay_spool::{Diagnostic, Status, ThreadKey};

use super::{Connection, Event, SEND_BUFFER, WRITE_MAX, World};
use crate::agent::{self, Agent, AgentKey, ConnectionKey, Fate, Stage};
use crate::far::{Session, Surroundings};
use crate::site::{Door, Site, Temper};

impl World {
    /// The site of a host, by its number.
    pub(super) fn site_of(&self, host: &str) -> Option<usize> {
        let number = host.strip_suffix(".example")?;
        let site = match number.strip_prefix("lists") {
            Some(_) => 0,
            None => self.plan.site_of(number.strip_prefix('d')?.parse().ok()?),
        };
        Some(site)
    }

    /// The site of a thread's host, if its mail goes to one.
    pub(super) fn site_of_thread(&self, thread: &ThreadKey) -> Option<usize> {
        matches!(&*thread.channel, "smtp" | "lmtp").then(|| self.site_of(&thread.host)).flatten()
    }

    pub(super) fn resolved(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        let host = agent.thread.host.clone();
        let site = self.site_of(&host).unwrap_or_else(|| panic!("{host} is no host of the simulation"));
        let Site { name, temper, .. } = &self.sites[site];
        let name = name.clone();
        if *temper == Temper::Unknown {
            let reason = Diagnostic::local(Status(5, 1, 2), format!("{host} does not exist"));
            return self.with(key, |agent, with| agent.release(Release::Rejected(Arc::new(reason)), with));
        }
        self.with(key, |agent, with| {
            agent.say(with, |lease| Report::Site { lease, site: SiteName(name) });
            Fate::GoesOn
        });
    }

    /// The site is free for an agent that has found it.
    pub(super) fn connect(&mut self, lease: LeaseId) {
        let Some(key) = self.leases.get(&lease).copied() else { return };
        let Some(agent) = self.agents.get_mut(key) else { return };
        self.manners.connects(self.now, lease);
        agent.stage = Stage::Connecting;
        let (host, patience) = (agent.thread.host.clone(), agent.clause.connect_timeout);
        let Some(site) = self.site_of(&host).map(|site| &self.sites[site]) else { return };
        let wait = if site.door(self.now) == Door::Silent { patience } else { site.rtt };
        self.agenda.set(self.now + wait, Event::Connected(key));
    }

    pub(super) fn connected(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get(key) else { return };
        let Some(number) = self.site_of(&agent.thread.host) else { return };
        let site = &mut self.sites[number];
        let words = match site.door(self.now) {
            Door::Open => None,
            Door::Shut => Some("Connection refused"),
            Door::Silent => Some("Connection timed out"),
        };
        if let Some(words) = words {
            let text = format!("connect to {}: {words}", site.name);
            let reason = Arc::new(Diagnostic::local(Status(4, 4, 1), text));
            return self.with(key, |agent, with| agent.release(Release::Failed(reason), with));
        }
        site.enter();
        let way = self.manners.way(&agent.thread, &agent.clause, Some(number));
        let speaks = if agent.speaks_lmtp() { Protocol::Lmtp } else { Protocol::Smtp };
        let window = agent.clause.unacknowledged_messages;
        let (rtt, peer, encrypts) = (site.rtt, format!("{}[192.0.2.9]:25", site.name), site.encrypts);
        let connection = self.connections.insert(Connection {
            site: number,
            session: Session::new(speaks),
            way,
            agent: Some(key),
            rtt,
            unread: 0,
            finals: 0,
            window,
            up: self.now,
            down: self.now,
        });
        if let Some(agent) = self.agents.get_mut(key) {
            agent.talk(self.now, connection, &peer, encrypts);
        }
        self.with_session(connection, |session, with| session.greet(with));
        self.arm(key);
    }

    /// What an agent has to write goes on its way.
    pub(super) fn write(&mut self, key: AgentKey) {
        loop {
            let Some(agent) = self.agents.get_mut(key) else { return };
            let Stage::Talking { conversation, connection: at } = &mut agent.stage else { return };
            let Some(connection) = self.connections.get_mut(*at) else { return };
            if !conversation.wants_write() || connection.unread >= SEND_BUFFER {
                return;
            }
            let written = &mut self.written;
            written.clear();
            conversation.gather(|slice| {
                written.extend_from_slice(slice);
                written.len() < WRITE_MAX
            });
            let mut octets = written.clone();
            if octets.is_empty() {
                return;
            }
            if self.plan.splits {
                octets.truncate(1 + self.dice.below(octets.len() as u64) as usize);
            }
            conversation.handle_written(self.now, octets.len());
            connection.unread += octets.len();
            connection.up = (self.now + connection.rtt / 2).max(connection.up);
            self.agenda.set(connection.up, Event::ToFar(*at, octets));
            let mut with = agent::Surroundings {
                now: self.now,
                reader: &self.reader,
                books: &mut self.books,
                reports: &mut self.reports,
            };
            if agent.listen(&mut with) == Fate::Gone {
                return self.gone(key);
            }
        }
    }

    pub(super) fn reaches_far_side(&mut self, key: ConnectionKey, octets: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.unread -= octets.len();
        let agent = connection.agent;
        self.with_session(key, |session, with| session.hear(octets, with));
        if let Some(agent) = agent {
            self.with(agent, |_, _| Fate::GoesOn);
        }
    }

    /// Lets the far side do something, and sends its replies.
    pub(super) fn with_session(&mut self, key: ConnectionKey, act: impl FnOnce(&mut Session, &mut Surroundings<'_>)) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.session.closed {
            return;
        }
        let mut with = Surroundings {
            now: self.now,
            site: &mut self.sites[connection.site],
            books: &mut self.books,
            dice: &mut self.dice,
            awaited: connection.agent.is_some(),
        };
        act(&mut connection.session, &mut with);
        let unanswered = connection.session.finals - connection.finals;
        let window = connection.window;
        assert!(unanswered <= window.into(), "{unanswered} messages are under way at a time, of {window}");
        let oldest = connection.agent.and_then(|agent| self.agents.get(agent)).and_then(Agent::oldest);
        let session = &mut connection.session;
        for (recipients, octets) in session.came.drain(..) {
            if let Some(oldest) = oldest {
                self.manners.arrives(self.now, &connection.way, recipients, octets, self.now.since(oldest));
            }
        }
        if session.output.is_empty() && !session.closed {
            return;
        }
        let mut output = session.output.clone();
        session.output.clear();
        let done = self.now.max(connection.down) + std::mem::take(&mut session.cost);
        let half = connection.rtt / 2;
        let sent = (self.now + half).max(done + half).max(connection.down);
        connection.down = sent;
        if self.plan.splits && !session.whole && output.len() > 1 {
            let rest = output.split_off(1 + self.dice.below(output.len() as u64 - 1) as usize);
            self.agenda.set(sent, Event::FromFar(key, output, connection.finals, false));
            output = rest;
        }
        self.agenda.set(sent, Event::FromFar(key, output, session.finals, session.closed));
    }

    pub(super) fn reaches_hub(&mut self, key: ConnectionKey, octets: &[u8], finals: u64, closed: bool) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.finals = connection.finals.max(finals);
        }
        let Some(agent) = self.connections.get(key).and_then(|connection| connection.agent) else { return };
        let mut secured = false;
        self.with(agent, |agent, with| {
            if let Stage::Talking { conversation, .. } = &mut agent.stage {
                let before = conversation.is_encrypted();
                conversation.handle_input(with.now, octets);
                let fate = agent.listen(with);
                if let Stage::Talking { conversation, .. } = &agent.stage {
                    secured = conversation.is_encrypted() != before;
                }
                return fate;
            }
            Fate::GoesOn
        });
        if secured && let Some(connection) = self.connections.get_mut(key) {
            connection.session.secured();
        }
        if closed {
            self.with(agent, |agent, with| {
                if let Stage::Talking { conversation, .. } = &mut agent.stage {
                    conversation.handle_lost(with.now, "Connection reset by peer");
                }
                agent.listen(with)
            });
        }
    }
}
