//! From the greeting to readiness: EHLO, HELO, LHLO, STARTTLS.

use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::Diagnostic;
use zrelay_wire::{Capabilities, Reply};

use super::diagnostic::{said, status};
use super::presumed::Basis;
use super::replies::What;
use super::{Conversation, End, Event, Protocol, Security, State};
use crate::letter::Letter;

/// The words that open a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hello {
    Ehlo,
    Helo,
    Lhlo,
}

impl Hello {
    /// As it is written and logged.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ehlo => "EHLO",
            Self::Helo => "HELO",
            Self::Lhlo => "LHLO",
        }
    }
}

impl<L: Letter> Conversation<L> {
    pub(super) fn handle_greeting(&mut self, reply: &Reply) {
        if reply.code != 220 {
            return self.end(End::Unready(said(reply, &self.settings.peer, "")));
        }
        if self.basis == Basis::Confirmed {
            self.say_hello();
        }
    }

    /// The TLS handshake is through: behind STARTTLS the far side waits for EHLO, else it greets first.
    pub(super) fn secured(&mut self, now: Timestamp) {
        let greets = self.awaited.front().is_some_and(|awaited| awaited.what == What::Greeting);
        if self.leap(now) {
            return;
        }
        match greets {
            true => self.state = State::Greeting,
            false => self.say_hello(),
        }
    }

    /// EHLO or LHLO, at the beginning and again behind the TLS handshake (RFC 3207 §4.2).
    pub(super) fn say_hello(&mut self) {
        let word = match self.settings.protocol {
            Protocol::Smtp => Hello::Ehlo,
            Protocol::Lmtp => Hello::Lhlo,
        };
        self.hello(word);
    }

    fn hello(&mut self, word: Hello) {
        self.state = State::Hello;
        let hostname = Arc::clone(&self.settings.hostname);
        self.command(What::Hello(word), |out| {
            out.extend_from_slice(word.word().as_bytes());
            out.push(b' ');
            out.extend_from_slice(hostname.as_bytes());
            out.extend_from_slice(b"\r\n");
        });
    }

    pub(super) fn handle_hello(&mut self, now: Timestamp, word: Hello, reply: &Reply) {
        match reply.code {
            250 if word == Hello::Helo => self.capabilities = Capabilities::default(),
            250 => {
                let real = Capabilities::from_reply(reply);
                let place = if self.encrypted { &mut self.offered.encrypted } else { &mut self.offered.clear };
                *place = Some(real.clone());
                if self.basis == Basis::Presumed {
                    return self.confirm(now, real);
                }
                self.capabilities = real;
            }
            _ if self.basis == Basis::Presumed => {
                return self.end(End::Stale(said(reply, &self.settings.peer, word.word())));
            }
            500..=599 if word == Hello::Ehlo => return self.hello(Hello::Helo),
            _ => return self.end(End::Unready(said(reply, &self.settings.peer, word.word()))),
        }
        if self.wants_starttls(&self.capabilities) {
            self.state = State::StartTls;
            return self.say_starttls();
        }
        if self.settings.security == Security::Required && !self.encrypted {
            let text = format!("TLS is required, but was not offered by host {}", self.settings.peer);
            return self.end(End::Unready(self.reason(status::NO_TLS, &text)));
        }
        self.ready(now);
    }

    pub(super) fn say_starttls(&mut self) {
        self.command(What::StartTls, |out| out.extend_from_slice(b"STARTTLS\r\n"));
    }

    pub(super) fn handle_starttls(&mut self, now: Timestamp, reply: &Reply) {
        if reply.code != 220 {
            let diagnostic = said(reply, &self.settings.peer, "STARTTLS");
            return self.end(match self.settings.security {
                Security::Required | Security::Implicit => End::Unready(diagnostic),
                Security::Clear | Security::Opportunistic => End::ClearOnly(diagnostic),
            });
        }
        if self.parser.buffered() > 0 {
            return self.violated("unexpected octets before the TLS handshake");
        }
        self.state = State::Securing;
        self.activity = now;
        self.capabilities = Capabilities::default();
        self.events.push_back(Event::StartTls);
    }

    pub(super) fn ready(&mut self, now: Timestamp) {
        self.settle_terms(now);
        self.state = State::Ready;
        self.events.push_back(Event::Ready);
    }

    /// Level and limits, by what is offered.
    pub(super) fn settle_terms(&mut self, now: Timestamp) {
        let offered = match (self.capabilities.pipelining, self.capabilities.chunking) {
            (false, _) => Pipelining::Lockstep,
            (true, false) => Pipelining::Pipelined,
            (true, true) => Pipelining::Stream,
        };
        self.level = offered.min(self.settings.highest);
        if let Some(announced) = self.capabilities.limits.rcptmax {
            let announced = u32::try_from(announced).unwrap_or(u32::MAX);
            self.recipients_max = self.recipients_max.min(announced.max(1));
        }
        if self.carried == 0 {
            self.setting_up = now.since(self.settings.begun);
        }
    }

    /// A reason of our own that names the far side.
    pub(super) fn reason(&self, status: zrelay_spool::Status, text: &str) -> Arc<Diagnostic> {
        Arc::new(Diagnostic {
            peer: self.settings.peer.to_string(),
            ..Diagnostic::local(status, super::sanitise(text))
        })
    }
}
