//! The works: what is sent over which line, and what the goal is.

use std::time::Duration;

use zrelay_lab::LinkSettings;
use zrelay_tests::{Body, Mail};

use crate::contenders::Contender;
use crate::goals::Goal;
use crate::options::Options;

pub(crate) const NAMES: [&str; 14] = ["A", "B", "BT", "C", "CT", "CK", "CI", "D", "E", "FB", "FC", "GR", "GS", "GL"];

/// Octets of a message.
const MESSAGE_OCTETS: usize = 4096;

/// Most messages for Postfix on one connection.
const MESSAGES_MAX_ONE: usize = 40;

/// Runs of a work in which chance plays a part.
const RUNS: u64 = 8;

/// What must be left, on a line that loses packets, of the share of the plain transfer that is reached without loss: all of
/// it but for what a median of that few runs wavers.
const LOSSY_PART: f64 = 0.8;

/// Connections that a thread may have in the works about them.
pub(crate) const AGENTS: u32 = 4;

/// What a work consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Messages with as many recipients each as `recipients` says.
    Posts,
    /// Messages to one recipient each.
    Personal,
}

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timed {
    /// From the connection's beginning to the last reply.
    All,
    /// From the last reply for the first message to that for the last.
    Behind,
    /// The last third of the recipients: what goes on when everybody has found their pace.
    Last,
}

/// How the far side comes to TLS, if it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Clear,
    StartTls,
    Implicit,
}

/// What the hub knows of the far side when the time begins to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Acquaintance {
    Stranger,
    /// It has sent a message there before, and learned that it offers PIPECONNECT.
    Known,
}

/// How long a far side takes over each message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slowness {
    None,
    /// So long, on each connection.
    Each(Duration),
    /// So long, one message at a time over all connections.
    Shared(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    what: &'static str,
    pub(crate) line: LinkSettings,
    pub(crate) chunking: bool,
    /// Postfix and the plain transfer stay in the clear.
    pub(crate) tls: Way,
    pub(crate) acquaintance: Acquaintance,
    shape: Shape,
    messages: usize,
    recipients: usize,
    address_octets: usize,
    pub(crate) timed: Timed,
    pub(crate) goals: &'static [Goal],
    /// Messages for Postfix, if it takes part.
    pub(crate) peers: usize,
    /// Messages for zrelay with [`AGENTS`] connections allowed, if it takes part.
    several: usize,
    pub(crate) slowness: Slowness,
    /// How often it is done; the run in the middle counts.
    pub(crate) runs: u64,
}

impl Work {
    /// The name, and what it is.
    pub(crate) fn title(&self, contender: Contender) -> String {
        let count = self.count(contender);
        match self.shape {
            Shape::Posts => format!("{} {} to {} recipients", self.name, self.what, self.recipients),
            Shape::Personal => format!("{} {count} {}", self.name, self.what),
        }
    }

    /// Whether it has a part in this work.
    pub(crate) fn takes(&self, contender: Contender) -> bool {
        match contender {
            Contender::Zrelay => true,
            // The line is not what holds a slow far side back.
            Contender::Plain => self.slowness == Slowness::None,
            Contender::Several => self.several > 0,
            Contender::Postfix | Contender::PostfixOne => self.peers > 0 && self.tls == Way::Clear,
        }
    }

    /// What to send.
    pub(crate) fn mails(&self, contender: Contender) -> Vec<Mail> {
        let mails = (0..self.count(contender)).map(|number| {
            let recipients: Vec<String> = match self.shape {
                Shape::Posts => (0..self.recipients).map(|index| self.address(index)).collect(),
                Shape::Personal => vec![self.address(number)],
            };
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let sender = match self.shape {
                Shape::Posts => "list-bounces@list.test".to_owned(),
                Shape::Personal => format!("list-bounces+{number}@list.test"),
            };
            Mail::generate(&format!("{}-{number}", self.name), MESSAGE_OCTETS, Body::Text, &sender, &recipients)
        });
        mails.collect()
    }

    pub(crate) fn count(&self, contender: Contender) -> usize {
        match contender {
            Contender::Zrelay | Contender::Plain => self.messages,
            Contender::Several => self.several,
            Contender::Postfix => self.peers,
            // Three round trips for each.
            Contender::PostfixOne => self.peers.min(MESSAGES_MAX_ONE),
        }
    }

    fn address(&self, number: usize) -> String {
        let domain = "@far.test";
        format!("{:x>width$}{domain}", format!("{number:05}"), width = self.address_octets - domain.len())
    }
}

/// The works that were asked for.
pub(crate) fn all(options: &Options) -> Vec<Work> {
    let mut long = LinkSettings::new(Duration::from_millis(130), 100_000_000);
    let mut slow = LinkSettings::new(Duration::from_millis(120), 64_000);
    if let Some(queue) = options.queue {
        (long.queue, slow.queue) = (queue, queue);
    }
    let lossy = LinkSettings { loss: 0.01, ..long };
    let post = Work {
        name: "A",
        what: "one message",
        line: long,
        chunking: true,
        tls: Way::Clear,
        acquaintance: Acquaintance::Stranger,
        shape: Shape::Posts,
        messages: 1,
        recipients: 10_000,
        address_octets: 20,
        timed: Timed::All,
        goals: &[Goal::Rate(6300.0), Goal::OfPlain(0.6)],
        peers: 1,
        several: 0,
        slowness: Slowness::None,
        runs: 1,
    };
    let second = Work {
        name: "B",
        what: "a second message",
        messages: 2,
        peers: 2,
        timed: Timed::Behind,
        goals: &[Goal::Rate(25_000.0)],
        ..post.clone()
    };
    let personal = Work {
        name: "C",
        what: "messages to one recipient each",
        shape: Shape::Personal,
        messages: 2000,
        peers: 300,
        goals: &[Goal::OfPlain(0.8), Goal::OfPostfix(100.0, 10.0)],
        ..post.clone()
    };
    let works = [
        post.clone(),
        second.clone(),
        Work { name: "BT", what: "a second message under TLS", tls: Way::StartTls, ..second.clone() },
        personal.clone(),
        Work {
            name: "CT",
            what: "messages to one recipient each under TLS",
            tls: Way::StartTls,
            // STARTTLS, the handshake, and EHLO again.
            goals: &[Goal::OfPlainLater(0.8, 3)],
            ..personal.clone()
        },
        Work {
            name: "CK",
            what: "messages to one recipient each under TLS, host known",
            tls: Way::StartTls,
            acquaintance: Acquaintance::Known,
            // Two more for TLS, one less than in C because the greeting is not waited for.
            goals: &[Goal::OfPlainLater(0.8, 1)],
            ..personal.clone()
        },
        Work {
            name: "CI",
            what: "messages to one recipient each under implicit TLS",
            tls: Way::Implicit,
            // The handshake.
            goals: &[Goal::OfPlainLater(0.8, 1)],
            ..personal.clone()
        },
        Work {
            name: "D",
            what: "messages to one recipient each, no CHUNKING",
            chunking: false,
            messages: 200,
            // One round trip each, and a tenth.
            goals: &[Goal::Rate(1.0 / (0.130 * 1.1))],
            ..personal.clone()
        },
        Work {
            name: "E",
            what: "one message at 64 kbit/s",
            line: slow,
            recipients: 500,
            // `RCPT TO:<` and `>` with CRLF make 80 of it.
            address_octets: 68,
            goals: &[Goal::OfPlain(0.95)],
            ..post
        },
        Work {
            name: "FB",
            what: "further messages, 1 % lost,",
            line: lossy,
            messages: 4,
            goals: &[Goal::AsWithoutLoss("B", LOSSY_PART), Goal::Smooth],
            peers: 0,
            // Each has only a handful of losses.
            runs: 2 * RUNS,
            ..second
        },
        Work {
            name: "FC",
            what: "messages to one recipient each, 1 % lost",
            line: lossy,
            messages: 1000,
            goals: &[Goal::AsWithoutLoss("C", LOSSY_PART), Goal::Smooth],
            peers: 0,
            runs: RUNS,
            ..personal.clone()
        },
        Work {
            name: "GR",
            what: "messages at a far side that takes 10 ms for each",
            messages: 1000,
            several: 5000,
            slowness: Slowness::Each(Duration::from_millis(10)),
            timed: Timed::Last,
            goals: &[Goal::OfOne(2.5, 3..=AGENTS as usize)],
            peers: 0,
            ..personal.clone()
        },
        Work {
            name: "GS",
            what: "messages at a far side that takes 10 ms for each, one at a time",
            messages: 1000,
            several: 2500,
            slowness: Slowness::Shared(Duration::from_millis(10)),
            timed: Timed::Last,
            goals: &[Goal::OfOne(0.9, 1..=1)],
            peers: 0,
            ..personal.clone()
        },
        Work {
            name: "GL",
            what: "messages on a line of 10 Mbit/s",
            line: LinkSettings::new(Duration::from_millis(130), 10_000_000),
            messages: 2500,
            several: 6000,
            timed: Timed::Last,
            goals: &[Goal::OfOne(0.9, 1..=1)],
            peers: 0,
            ..personal
        },
    ];
    works.into_iter().filter(|work| options.wants(work.name)).collect()
}
