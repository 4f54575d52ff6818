//! Any far side, at any pace: the books balance. Every batch comes back exactly once, no recipient has two verdicts,
//! nothing is called delivered without a 2xx, and what waits to be written is bounded.
//!
//! The first octets choose the settings; the others are a script of events, with the far side's words in it.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use zrelay_agent::{Judgement, Rest, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_smtp::{Addressee, Conversation, Event, Letter, Offered, Protocol, Security, Settings};
use zrelay_spool::{BatchId, ByMode, Content, DeliverBy, Handling, MessageId, Notify, Ret};
use zrelay_wire::Capabilities;

const START: Timestamp = Timestamp::from_secs(1_800_000_000);
/// Batches carried at most: a driver's window bounds them.
const BATCHES_MAX: u64 = 40;

/// What far sides say, to be said with one octet.
const WORDS: [&str; 24] = [
    "220 far ESMTP\r\n",
    "250-far\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-DSN\r\n250 SIZE\r\n",
    "250-far\r\n250-PIPELINING\r\n250-MT-PRIORITY MIXER\r\n250-DELIVERBY 60\r\n250 SMTPUTF8\r\n",
    "250-far\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-LIMITS RCPTMAX=2 MAILMAX=3\r\n250 SIZE 200\r\n",
    "250-far\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-PIPECONNECT\r\n250 STARTTLS\r\n",
    "250 2.0.0 ok\r\n",
    "250 ok\r\n250 ok\r\n250 ok\r\n",
    "250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n",
    "354 go\r\n",
    "421 4.3.2 enough\r\n",
    "450 4.2.0 later\r\n",
    "451 4.3.0 later\r\n",
    "452 4.5.3 too many recipients\r\n",
    "452 4.3.1 full\r\n",
    "500 what\r\n",
    "503 5.5.1 sequence\r\n",
    "550 5.1.1 unknown\r\n",
    "552 5.3.4 too big\r\n",
    "554 5.5.1 no valid recipients\r\n",
    "221 bye\r\n",
    "250-more\r\n",
    "999 odd\r\n",
    "\r\n",
    "25",
];

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, window], script)) = input.split_first_chunk() else { return };
    let mut driver = Driver::new(kind, window);
    let mut script = script.iter().copied();
    while let Some(octet) = script.next() {
        driver.now = driver.now + Duration::from_millis(7);
        match octet {
            0..24 => driver.hear(WORDS[usize::from(octet)].as_bytes()),
            24..48 => driver.carry(octet),
            48..96 => driver.write(usize::from(octet - 47) * 40),
            96..200 => driver.write(usize::MAX),
            200..240 => {
                let raw: Vec<u8> = script.by_ref().take(usize::from(octet - 199)).collect();
                driver.hear(&raw);
            }
            240..245 => driver.wait(),
            245 => driver.conversation.close(driver.now),
            246 => driver.conversation.handle_lost(driver.now, "Connection reset by peer"),
            247.. => driver.conversation.handle_secured(driver.now),
        }
        driver.look();
    }
    driver.end();
});

struct Parcel {
    number: u8,
    body: Vec<u8>,
    addresses: Vec<String>,
}

impl Letter for Parcel {
    fn size(&self) -> u64 {
        self.body.len() as u64
    }

    fn slices(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        self.body[from as usize..].chunks(100)
    }

    fn content(&self) -> Content {
        Content { eight_bit: self.number.is_multiple_of(5), smtputf8: false }
    }

    fn envid(&self) -> Option<&str> {
        self.number.is_multiple_of(2).then_some("id")
    }

    fn ret(&self) -> Option<Ret> {
        None
    }

    fn handling(&self) -> Handling {
        let deliver_by = self.number.is_multiple_of(7).then_some(DeliverBy {
            deadline: START,
            mode: if self.number.is_multiple_of(2) { ByMode::Return } else { ByMode::Notify },
            trace: true,
        });
        Handling { flow: None, priority: (self.number % 4) as i8, deliver_by }
    }

    fn recipient(&self, index: u32) -> Option<Addressee<'_>> {
        // Two senders in turn, so that a batch takes several transactions; the last recipient is missing at times.
        let address = self.addresses.get(index as usize)?;
        let sender_number = if self.number.is_multiple_of(3) { index % 2 } else { 0 };
        let sender = if sender_number == 0 { "" } else { "a@b" };
        Some(Addressee { address, sender, sender_number, orcpt: None, notify: Notify::Default })
    }
}

struct Driver {
    conversation: Conversation<Parcel>,
    /// Whether the far side is taken for one that was met before.
    known: bool,
    now: Timestamp,
    /// Batches in the conversation, with the recipients that have no verdict.
    carried: BTreeMap<BatchId, BTreeSet<u32>>,
    next: u64,
    /// Replies that may mean a delivery.
    positive: bool,
    closed: bool,
}

/// What a far side offered that takes commands ahead of its greeting.
fn offered(kind: u8) -> Offered {
    let clear = Capabilities {
        pipelining: true,
        pipeconnect: true,
        chunking: kind & 1 != 0,
        eight_bit_mime: true,
        starttls: kind & 4 != 0,
        ..Capabilities::default()
    };
    Offered { encrypted: Some(Capabilities { starttls: false, ..clear.clone() }), clear: Some(clear) }
}

impl Driver {
    fn new(kind: u8, window: u8) -> Self {
        let highest = [Pipelining::Lockstep, Pipelining::Transaction, Pipelining::Pipelined, Pipelining::Stream];
        let security = [Security::Clear, Security::Implicit, Security::Opportunistic, Security::Required];
        let settings = Settings {
            protocol: if kind & 64 == 0 { Protocol::Smtp } else { Protocol::Lmtp },
            hostname: "hub.example".into(),
            peer: "far[192.0.2.1]:25".into(),
            security: security[usize::from(kind >> 2 & 3)],
            highest: highest[usize::from(kind & 3)],
            recipients: 1 + u32::from(kind >> 4 & 3),
            unacknowledged_messages: 1 + u32::from(window & 15),
            unacknowledged_bytes: 1 + u64::from(window >> 4) * 300,
            messages: u32::MAX,
            age: Duration::from_secs(3600),
            timeout: Duration::from_secs(300),
            begun: START,
        };
        let known = kind & 128 != 0;
        let mut conversation = Conversation::new(settings, START);
        if known {
            conversation.presume(START, offered(kind));
        }
        Self {
            conversation,
            known,
            now: START,
            carried: BTreeMap::new(),
            next: 0,
            positive: false,
            closed: false,
        }
    }

    fn carry(&mut self, octet: u8) {
        // The driver carries nothing before the conversation is ready, but one batch to a host that is known, and
        // within its window.
        let early = self.known && self.next == 0;
        if self.closed || !(early || self.conversation.is_ready()) || self.next >= BATCHES_MAX {
            return;
        }
        let count = u32::from(octet % 5) + 1;
        let mut addresses: Vec<String> = (0..count).map(|index| format!("r{index}@dst")).collect();
        match octet % 7 {
            0 => drop(addresses.pop()),
            1 => addresses[0] = "r\u{fc}@dst".to_owned(),
            2 => addresses[0] = "r\r\nQUIT@dst".to_owned(),
            3 => addresses.iter_mut().zip(["r\u{fc}@dst", "r\n@dst"]).for_each(|(one, bad)| *one = bad.to_owned()),
            _ => {}
        }
        let body = b"Subject: x\r\n\r\n.\r\n..\xfc\r\n".repeat(usize::from(octet % 11));
        let id = BatchId { message: MessageId(self.next), number: u32::from(octet % 2) };
        self.next += 1;
        self.carried.insert(id, (0..count).collect());
        let ticket = Ticket {
            id,
            recipients: (0..count).collect(),
            size: body.len() as u64,
            weight: body.len() as u64,
            received: START,
            due: START,
            carried: self.now,
        };
        self.conversation.carry(self.now, ticket, Arc::new(Parcel { number: octet, body, addresses }));
    }

    fn hear(&mut self, octets: &[u8]) {
        self.positive |= octets.contains(&b'2');
        self.conversation.handle_input(self.now, octets);
    }

    fn write(&mut self, limit: usize) {
        let (mut there, mut octets) = (0, Vec::new());
        self.conversation.gather(|slice| {
            there += slice.len();
            octets.extend_from_slice(slice);
            there < limit
        });
        // The driver asks first; and no recipient can put commands on the wire.
        assert_eq!(there > 0, self.conversation.wants_write());
        assert!(!octets.windows(6).any(|window| window == b"QUIT@d"), "an address became a command");
        let written = there.min(limit);
        if written > 0 {
            self.conversation.handle_written(self.now, written);
        }
    }

    fn wait(&mut self) {
        let Some(deadline) = self.conversation.poll_timeout() else { return };
        self.now = self.now.max(deadline);
        self.conversation.handle_timeout(self.now);
        // A deadline that is not met would be met again at once, for ever.
        assert!(self.conversation.poll_timeout().is_none_or(|next| next > self.now), "a deadline stays");
    }

    fn look(&mut self) {
        while let Some(event) = self.conversation.poll_event() {
            assert!(!self.closed, "something behind the end: {event:?}");
            match event {
                Event::Ready | Event::StartTls => {}
                Event::Settled { batch, verdicts, rest } => self.settled(batch, &verdicts, rest),
                Event::Returned { batch } => assert!(self.carried.remove(&batch).is_some(), "returned twice"),
                Event::Closed(_) => self.closed = true,
            }
        }
        assert_eq!(self.conversation.is_idle(), self.carried.is_empty());
        assert!(self.conversation.replies_awaited() < 10_000);
    }

    fn settled(&mut self, batch: BatchId, verdicts: &[Verdict], rest: Rest) {
        let open = self.carried.get_mut(&batch).expect("a batch that is not here");
        for verdict in verdicts {
            assert!(!verdict.recipients.is_empty() && verdict.recipients.is_sorted());
            for recipient in &verdict.recipients {
                assert!(open.remove(recipient), "{recipient} of {batch} has two verdicts");
            }
            if let Judgement::Delivered { .. } = verdict.judgement {
                assert!(self.positive && (200..300).contains(&verdict.diagnostic.code));
            }
        }
        if rest == Rest::Done {
            // While the connection goes on, nobody is left out: the scheduler would not know when to try again.
            assert!(open.is_empty() || self.conversation.is_ending(), "unanswered and not ending");
            self.carried.remove(&batch);
        }
    }

    fn end(&mut self) {
        self.conversation.close(self.now);
        self.look();
        for _ in 0..100 {
            if self.closed {
                break;
            }
            self.wait();
            self.look();
        }
        assert!(self.closed && self.carried.is_empty(), "the conversation does not end");
        assert!(self.conversation.poll_timeout().is_none());
    }
}
