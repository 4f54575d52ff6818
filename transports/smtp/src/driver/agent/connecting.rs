//! From the thread's host to a connection that talks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::Interest;
use mio::net::TcpStream;
use zrelay_agent::Release;
use zrelay_clock::Timestamp;
use zrelay_config::TlsPolicy;
use zrelay_dns::{DnsError, Question, Target};
use zrelay_spool::{Diagnostic, Status};

use super::{Agent, Fate, Shared, Stage};
use crate::conversation::{Conversation, Protocol, Security, Settings};
use crate::driver::agent_loop::Letters;
use crate::driver::hop::Hop;
use crate::driver::link::{self, FirstWord, Link, Started};
use crate::driver::memory::Encounter;
use crate::driver::pipe::Pipe;
use crate::driver::race::Race;
use crate::driver::resolve::{self, Candidate};
use crate::letter::Letter;

/// RFC 3463: no answer from the host.
const NO_ANSWER: Status = Status(4, 4, 1);

impl<L: Letter> Agent<L> {
    /// Looks the host up.
    pub(crate) fn begin<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        let Some(hop) = Hop::parse(&self.thread.host) else {
            let text = format!("{} is not a host that mail can be sent to", self.thread.host);
            let reason = Arc::new(Diagnostic::local(Status(4, 3, 5), text));
            return self.release(shared, Release::Failed(reason));
        };
        let token = self.token.0 as u64;
        match &hop {
            Hop::Domain(name) => shared.dns.resolve(now, token, Question::Mx(name.clone())),
            Hop::Host { name, .. } => shared.dns.resolve(now, token, Question::Hosts(name.clone())),
            Hop::Address { address, .. } => {
                let address = SocketAddr::new(*address, hop.port(self.clause.port));
                let name = address.ip().to_string().into();
                self.report_site(shared, self.thread.host.to_string());
                self.candidates.push_back(Candidate { name, address, preference: None });
                self.stage = Stage::Located;
                return Fate::Waits;
            }
        }
        self.report_link(now, shared);
        Fate::Waits
    }

    /// The look-up has ended.
    pub(crate) fn resolved<S: Letters<Letter = L>>(
        &mut self,
        shared: &mut Shared<S>,
        answer: Result<Target, DnsError>,
    ) -> Fate {
        if !matches!(self.stage, Stage::Resolving) {
            return Fate::Waits;
        }
        let Some(hop) = Hop::parse(&self.thread.host) else {
            return Fate::Waits;
        };
        let is_domain = matches!(hop, Hop::Domain(_));
        let target = match answer {
            Ok(target) if is_domain => target.beyond(&shared.hostname),
            other => other,
        };
        let target = match target {
            Ok(target) => target,
            Err(error) => return self.release(shared, resolve::release(&hop, &self.thread.host, &error)),
        };
        let site = if is_domain { target.site.clone() } else { self.thread.host.to_string() };
        self.report_site(shared, site);
        let port = hop.port(self.clause.port);
        self.candidates = resolve::candidates(target, port, self.clause.source, &mut shared.dice).into();
        self.stage = Stage::Located;
        Fate::Waits
    }

    /// The scheduler knows the site, and that it is free for this agent.
    pub(crate) fn connect<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        match self.stage {
            Stage::Located => self.connect_next(now, shared),
            _ => Fate::Waits,
        }
    }

    /// Tries the next addresses, as far as it is their turn, or gives up when none is left.
    pub(super) fn connect_next<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        let mut race = match std::mem::replace(&mut self.stage, Stage::Resolving) {
            Stage::Connecting(race) => race,
            Stage::Resolving | Stage::Located | Stage::Talking(_) => Race::new(),
        };
        while let Some(candidate) = self.candidates.pop_front_if(|next| race.starts(next) <= now) {
            let encounter = Encounter::new(candidate.address, shared, &self.clause);
            let early = shared.memory.offered(now, &encounter).is_some_and(|offered| offered.is_early());
            if early {
                self.ask_early(shared);
            }
            // With the first octets goes what may happen twice: never a message.
            match self.open(shared, &candidate, if early { FirstWord::Ours } else { FirstWord::Theirs }) {
                Ok((stream, Started::Open)) if race.is_empty() => return self.talk(now, shared, stream, candidate),
                Ok((stream, _)) => {
                    self.note(now, shared, || format!("connecting to {}", candidate.peer()));
                    race.begin(now, candidate, stream, self.clause.connect_timeout);
                }
                Err(error) => self.unreachable(&candidate, &link::words(&error)),
            }
        }
        if !race.is_empty() {
            self.stage = Stage::Connecting(race);
            self.report_link(now, shared);
            return Fate::Waits;
        }
        let reason = self.failure.take().unwrap_or_else(|| {
            let text = format!("no address of {} can be connected to from here", self.thread.host);
            Arc::new(Diagnostic::local(NO_ANSWER, text))
        });
        self.note(now, shared, || format!("given up: {reason}"));
        self.release(shared, Release::Failed(reason))
    }

    /// A socket on its way.
    fn open<S>(
        &mut self,
        shared: &mut Shared<S>,
        candidate: &Candidate,
        first: FirstWord,
    ) -> io::Result<(TcpStream, Started)> {
        let (mut stream, started) = link::connect(candidate.address, self.clause.source, first)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        shared.registry.register(&mut stream, self.token, interest)?;
        Ok((stream, started))
    }

    /// Ends all attempts.
    pub(super) fn abandon_race<S>(&mut self, shared: &mut Shared<S>) {
        if let Stage::Connecting(race) = &mut self.stage {
            for attempt in race.attempts_mut() {
                // Closing the descriptor would do; a failure here changes nothing.
                let _ = shared.registry.deregister(&mut attempt.socket);
            }
        }
    }

    pub(super) fn unreachable(&mut self, candidate: &Candidate, why: &str) {
        let text = format!("connect to {}: {why}", candidate.peer());
        log::info!("{text}");
        self.failure = Some(Arc::new(Diagnostic::local(NO_ANSWER, text)));
    }

    /// Something has happened to one of the sockets on their way.
    pub(super) fn maybe_connected<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        let Stage::Connecting(race) = &mut self.stage else {
            return Fate::Waits;
        };
        let settled = race.settle(link::is_connected);
        if settled.is_empty() {
            return Fate::Waits;
        }
        let mut winner = None;
        for (mut attempt, result) in settled {
            match result {
                Ok(()) if winner.is_none() => winner = Some(attempt),
                Ok(()) => drop(attempt),
                Err(error) => {
                    // Closing the descriptor would do; a failure here changes nothing.
                    let _ = shared.registry.deregister(&mut attempt.socket);
                    self.unreachable(&attempt.candidate, &link::words(&error));
                }
            }
        }
        let Some(attempt) = winner else {
            return self.connect_next(now, shared);
        };
        self.abandon_race(shared);
        self.talk(now, shared, attempt.socket, attempt.candidate)
    }

    pub(super) fn talk<S: Letters<Letter = L>>(
        &mut self,
        now: Timestamp,
        shared: &mut Shared<S>,
        stream: TcpStream,
        candidate: Candidate,
    ) -> Fate {
        let clause = &self.clause;
        let host = candidate.address;
        let pipe = Pipe::new(super::limits(clause));
        let room = pipe.room();
        let settings = Settings {
            protocol: if &*self.thread.channel == "lmtp" { Protocol::Lmtp } else { Protocol::Smtp },
            hostname: Arc::clone(&shared.hostname),
            peer: candidate.peer().into(),
            security: match clause.tls {
                _ if clause.implicit_tls => Security::Implicit,
                TlsPolicy::None => Security::Clear,
                TlsPolicy::May if shared.memory.is_clear(now, host) => Security::Clear,
                TlsPolicy::May => Security::Opportunistic,
                TlsPolicy::Encrypt | TlsPolicy::Verify => Security::Required,
            },
            highest: shared.memory.level(now, host, clause.pipelining),
            recipients: shared.memory.recipients(now, host, clause.recipients),
            messages: shared.memory.messages(now, host, clause.connection_messages),
            age: clause.connection_age,
            unacknowledged_messages: room.messages,
            unacknowledged_bytes: room.octets,
            timeout: clause.timeout,
            begun: self.begun,
        };
        let mut conversation = Conversation::new(settings, now);
        conversation.set_approach(shared.memory.approach(now, host));
        let known = shared.memory.offered(now, &Encounter::new(host, shared, clause));
        self.note(now, shared, || format!("connected to {}", candidate.peer()));
        self.stage = Stage::Talking(Box::new(Link::new(stream, host, candidate.name, conversation, pipe)));
        self.tap(shared);
        if let (Some(offered), Stage::Talking(link)) = (known, &mut self.stage) {
            link.conversation.presume(now, offered);
        }
        for ticket in std::mem::take(&mut self.waiting) {
            self.carry(now, shared, ticket);
        }
        self.report_link(now, shared);
        Fate::Runs
    }
}
