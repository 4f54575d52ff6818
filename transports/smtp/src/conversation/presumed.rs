//! The first flight to a host that is known: commands ahead of its greeting, as Exim does it (`PIPECONNECT`).
//!
//! A host that announced PIPECONNECT and PIPELINING when it was met last may be sent EHLO and what follows from it at
//! once. What follows is written on the presumption that it offers what it offered then; the reply to EHLO confirms
//! that, and from there on nothing differs from a connection that was begun in the usual way.
//!
//! | | written before the greeting | behind EHLO's reply |
//! |---|---|---|
//! | in the clear, or behind a handshake | `EHLO MAIL RCPT* [DATA]` of one transaction | `BDAT n LAST`, or the body behind 354; the rest |
//! | with STARTTLS | `EHLO STARTTLS` | the handshake, then as above, if the host announces PIPECONNECT behind it too |
//!
//! Octets of a message are never written on a presumption. A host that has stopped to offer CHUNKING would run them as
//! commands, and whoever wrote the message could speak to it in our name. That costs a round trip that a bolder client
//! saves, and makes the presumption free of risk: until it is confirmed nothing can have been delivered, so that the
//! connection can be dropped and everything returned as it was, should it turn out wrong ([`End::Stale`]): the host
//! greets with something else than 220, hangs up, or does not offer what the commands rest on.

use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::Diagnostic;
use zrelay_wire::Capabilities;

use super::diagnostic::status;
use super::replies::What;
use super::{Conversation, End, Protocol, Security, State};
use crate::letter::Letter;

/// What a host offered in reply to EHLO.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offered {
    /// In the clear.
    pub clear: Option<Capabilities>,
    /// Behind a TLS handshake.
    pub encrypted: Option<Capabilities>,
}

impl Offered {
    /// Whether commands may come before the greeting, or would behind a handshake.
    pub fn is_early(&self) -> bool {
        self.clear.iter().chain(&self.encrypted).any(takes_early)
    }
}

fn takes_early(offered: &Capabilities) -> bool {
    offered.pipeconnect && offered.pipelining
}

/// What the commands of a conversation rest on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// On what the host has said on this connection.
    Confirmed,
    /// On what it said on an earlier one.
    Presumed,
}

impl<L: Letter> Conversation<L> {
    /// The host offered this when it was met last. To be called before anything else.
    pub fn presume(&mut self, now: Timestamp, offered: Offered) {
        self.presumed = Some(Box::new(offered));
        if self.state == State::Greeting {
            self.leap(now);
        }
    }

    /// What the host has offered on this connection so far.
    pub fn offered(&self) -> &Offered {
        &self.offered
    }

    /// Says EHLO and what may follow it without having heard anything, if the host takes that. Returns whether it did.
    pub(super) fn leap(&mut self, now: Timestamp) -> bool {
        let known = self.presumed.as_deref();
        let known =
            known.and_then(|known| if self.encrypted { known.encrypted.as_ref() } else { known.clear.as_ref() });
        let Some(known) = known.filter(|known| takes_early(known)).cloned() else {
            return false;
        };
        let stepped_down = self.settings.highest == Pipelining::Lockstep;
        let impossible = self.settings.security == Security::Required && !self.encrypted && !known.starttls;
        if stepped_down || impossible || self.settings.protocol == Protocol::Lmtp {
            return false;
        }
        self.basis = Basis::Presumed;
        self.say_hello();
        if self.wants_starttls(&known) {
            self.say_starttls();
        } else {
            self.capabilities = known;
            self.settle_terms(now);
            self.state = State::Ready;
            self.pump(now);
        }
        true
    }

    /// Whether the next step is STARTTLS, given what is offered.
    pub(super) fn wants_starttls(&self, offered: &Capabilities) -> bool {
        let wanted = matches!(self.settings.security, Security::Opportunistic | Security::Required);
        wanted && !self.encrypted && offered.starttls
    }

    /// The reply to an EHLO that was followed by commands already.
    pub(super) fn confirm(&mut self, now: Timestamp, real: Capabilities) {
        let security = self.awaited.front().is_some_and(|awaited| awaited.what == What::StartTls);
        let holds = match security {
            true => real.starttls,
            false => covers(&real, &self.capabilities) && !self.wants_starttls(&real),
        };
        if !holds {
            return self.end(End::Stale(self.changed()));
        }
        self.basis = Basis::Confirmed;
        if security {
            self.state = State::StartTls;
        } else {
            self.capabilities = real;
            self.ready(now);
        }
    }

    fn changed(&self) -> Arc<Diagnostic> {
        let text = format!("{} offers something else than it did", self.settings.peer);
        self.reason(status::PROTOCOL, &text)
    }
}

/// Whether a host that offers `real` takes what was written to one that offered `known`.
fn covers(real: &Capabilities, known: &Capabilities) -> bool {
    let kept = |known: bool, real: bool| real || !known;
    let limit = |known: Option<u64>, real: Option<u64>| match (known, real) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(known), Some(real)) => real >= known,
    };
    let size = match (known.size, real.size) {
        (None, _) | (Some(_), Some(None)) => true,
        (Some(_), None) => false,
        (Some(known), Some(Some(real))) => limit(known, Some(real)),
    };
    kept(known.pipelining, real.pipelining)
        && kept(known.chunking, real.chunking)
        && kept(known.eight_bit_mime, real.eight_bit_mime)
        && kept(known.smtputf8, real.smtputf8)
        && kept(known.dsn, real.dsn)
        && size
        && limit(known.limits.rcptmax, real.limits.rcptmax)
        && limit(known.limits.mailmax, real.limits.mailmax)
}
