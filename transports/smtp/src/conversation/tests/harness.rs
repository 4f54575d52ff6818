//! Runs a conversation against a far side, octets cut at random, and keeps the books.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Judgement, Rest, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::{BatchId, MessageId};
use zrelay_wire::INPUT_REPLY_MAX;

use super::far::Far;
use crate::conversation::writing::REPLIES_OWED_MAX;
use crate::conversation::{BACKLOG_OCTETS, Conversation, End, Event, Protocol, Security, Settings};
use crate::letter::Letter;
use crate::testing::Parcel;

/// Small and good enough to cut octets.
pub(super) struct Dice(u64);

impl Dice {
    /// Neighbouring seeds give sequences that have nothing in common.
    pub(super) fn new(seed: u64) -> Self {
        let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 27)) | 1)
    }

    /// A seed for other dice.
    pub(super) fn seed(&mut self) -> u64 {
        self.roll(1 << 50)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        protocol: Protocol::Smtp,
        hostname: "hub.example".into(),
        peer: "far.example[192.0.2.1]:25".into(),
        security: Security::Clear,
        highest: Pipelining::Stream,
        recipients: 1000,
        messages: u32::MAX,
        age: Duration::from_secs(3600),
        unacknowledged_messages: 64,
        unacknowledged_bytes: 1 << 20,
        timeout: Duration::from_secs(300),
        begun: Timestamp::ZERO,
    }
}

/// What became of one batch.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Verdicts by recipient index.
    pub(super) verdicts: BTreeMap<u32, Verdict>,
    pub(super) done: bool,
    pub(super) returned: bool,
}

/// How the TLS handshake goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handshake {
    Works,
    Fails,
}

/// A conversation, its far side and the books of the batches carried.
pub(super) struct Run {
    pub(super) conversation: Conversation<Parcel>,
    pub(super) far: Far,
    pub(super) letters: Vec<Arc<Parcel>>,
    pub(super) books: Vec<Books>,
    pub(super) end: Option<End>,
    pub(super) now: Timestamp,
    pub(super) ready: bool,
    pub(super) starttls: bool,
    /// What follows [`Event::StartTls`], unless the test sees to it.
    pub(super) handshake: Option<Handshake>,
    dice: Dice,
    /// Octets of the largest letter.
    largest: u64,
    buffer: Vec<u8>,
    largest_step: u64,
}

const STEPS_MAX: usize = 2_000_000;

impl Run {
    pub(super) fn new(settings: Settings, far: Far, seed: u64) -> Self {
        Self {
            conversation: Conversation::new(settings, Timestamp::ZERO),
            far,
            letters: Vec::new(),
            books: Vec::new(),
            end: None,
            now: Timestamp::ZERO,
            ready: false,
            starttls: false,
            handshake: None,
            dice: Dice::new(seed),
            largest: 0,
            buffer: Vec::new(),
            largest_step: 5000,
        }
    }

    /// Everything of a kind is moved at once.
    pub(super) fn in_one_piece(mut self) -> Self {
        self.largest_step = 0;
        self
    }

    pub(super) fn carry(&mut self, letter: Parcel) {
        let number = self.letters.len() as u64;
        let letter = Arc::new(letter);
        let ticket = Ticket {
            id: BatchId { message: MessageId(number), number: 0 },
            recipients: (0..letter.recipients.len() as u32).collect(),
            size: letter.size(),
            weight: letter.size(),
            received: Timestamp::ZERO,
            due: Timestamp::ZERO,
            carried: Timestamp::ZERO,
        };
        self.largest = self.largest.max(letter.size());
        self.letters.push(Arc::clone(&letter));
        self.books.push(Books::default());
        self.conversation.carry(self.now, ticket, letter);
        self.events();
    }

    pub(super) fn events(&mut self) {
        while let Some(event) = self.conversation.poll_event() {
            assert!(self.end.is_none(), "{event:?} behind the end");
            match event {
                Event::Ready => self.ready = true,
                Event::StartTls => {
                    self.starttls = true;
                    match self.handshake {
                        Some(Handshake::Works) => self.conversation.handle_secured(self.now),
                        Some(Handshake::Fails) => self.conversation.handle_lost(self.now, "bad record"),
                        None => {}
                    }
                }
                Event::Closed(end) => self.end = Some(end),
                Event::Returned { batch } => {
                    let books = &mut self.books[batch.message.0 as usize];
                    assert!(!books.done && !books.returned && books.verdicts.is_empty(), "returned after all");
                    books.returned = true;
                }
                Event::Settled { batch, verdicts, rest } => self.settle(batch, verdicts, rest),
            }
        }
    }

    fn settle(&mut self, batch: BatchId, verdicts: Vec<Verdict>, rest: Rest) {
        let books = &mut self.books[batch.message.0 as usize];
        assert!(!books.done && !books.returned, "settled after all");
        books.done = rest == Rest::Done;
        for verdict in verdicts {
            assert!(!verdict.recipients.is_empty() && verdict.recipients.is_sorted());
            for &recipient in &verdict.recipients {
                let before = books.verdicts.insert(recipient, verdict.clone());
                assert!(before.is_none(), "two verdicts for recipient {recipient} of {batch}");
            }
        }
    }

    fn step(&mut self, there: usize) -> usize {
        match self.largest_step {
            0 => there,
            largest => there.min(1 + self.dice.roll(largest) as usize),
        }
    }

    /// Moves octets one way or the other. Returns whether there were any.
    pub(super) fn exchange(&mut self) -> bool {
        let first = self.dice.roll(2) == 0;
        (if first { self.write() } else { self.read() }) || (if first { self.read() } else { self.write() })
    }

    /// Everything that may be written arrives there.
    pub(super) fn send_all(&mut self) {
        while self.conversation.wants_write() {
            let mut flight = Vec::new();
            self.conversation.gather(|slice| {
                flight.extend_from_slice(slice);
                true
            });
            self.conversation.handle_written(self.now, flight.len());
            self.far.receive(&flight);
        }
        self.events();
    }

    /// Everything that was said arrives here.
    pub(super) fn hear_all(&mut self) {
        let octets = std::mem::take(&mut self.far.output);
        self.conversation.handle_input(self.now, &octets);
        self.events();
    }

    fn write(&mut self) -> bool {
        let backlog = self.conversation.output.backlog();
        assert!(backlog <= BACKLOG_OCTETS + self.largest + 4096, "{backlog} octets are queued");
        let owed = self.conversation.replies_awaited();
        assert!(owed <= REPLIES_OWED_MAX + 1, "{owed} replies are owed");
        let mut octets = std::mem::take(&mut self.buffer);
        octets.clear();
        self.conversation.gather(|slice| {
            octets.extend_from_slice(slice);
            octets.len() < 8192
        });
        if octets.is_empty() || self.far.closed {
            self.buffer = octets;
            return false;
        }
        let part = self.step(octets.len());
        self.conversation.handle_written(self.now, part);
        self.far.receive(&octets[..part]);
        self.buffer = octets;
        self.events();
        true
    }

    fn read(&mut self) -> bool {
        let part = self.step(self.far.output.len());
        if part == 0 {
            return false;
        }
        let octets: Vec<u8> = self.far.output.drain(..part).collect();
        self.conversation.handle_input(self.now, &octets);
        let kept = self.conversation.parser.buffered();
        assert!(kept <= INPUT_REPLY_MAX, "{kept} octets of a reply are kept");
        self.events();
        true
    }

    /// Until nothing moves.
    pub(super) fn settle_down(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.end.is_some() {
                return;
            }
            self.now = self.now + Duration::from_millis(1);
            if self.exchange() {
                continue;
            }
            if !self.far.closed {
                return;
            }
            self.conversation.handle_lost(self.now, "");
            self.events();
        }
        panic!("no end of it");
    }

    /// Until it is over, time passing where nothing else happens.
    pub(super) fn finish(&mut self) {
        for _ in 0..1000 {
            self.settle_down();
            if self.end.is_some() {
                return self.audit();
            }
            match self.conversation.poll_timeout() {
                Some(deadline) => {
                    self.now = deadline;
                    self.conversation.handle_timeout(deadline);
                }
                None => {
                    assert!(self.conversation.is_idle(), "waiting for nothing with work in hand");
                    self.conversation.close(self.now);
                }
            }
            self.events();
        }
        panic!("it never ends");
    }

    /// What must hold however it went.
    fn audit(&self) {
        assert!(
            !self.conversation.wants_write() && self.conversation.poll_timeout().is_none(),
            "nothing is left to do"
        );
        assert_eq!((self.conversation.bytes_in_flight(), self.conversation.under_way()), (0, 0));
        for (books, letter) in self.books.iter().zip(&self.letters) {
            assert!(books.done != books.returned, "a batch came back {books:?}");
            for (&index, verdict) in &books.verdicts {
                if matches!(verdict.judgement, Judgement::Delivered { .. }) {
                    assert!(
                        self.copies(letter, index) > 0,
                        "{} was not delivered:\n{}",
                        letter.recipients[index as usize].0,
                        self.far.transcript.join("\n")
                    );
                }
            }
        }
        if self.far.deceives {
            return;
        }
        for delivery in &self.far.deliveries {
            for recipient in &delivery.recipients {
                let right = self.letters.iter().any(|letter| {
                    letter.recipients.iter().any(|(address, sender, ..)| {
                        address == recipient && *sender == delivery.sender && same_body(letter, &delivery.body)
                    })
                });
                assert!(right, "{recipient} got a wrong message or envelope:\n{}", self.far.transcript.join("\n"));
            }
        }
    }

    /// How often a recipient got its message.
    pub(super) fn copies(&self, letter: &Parcel, index: u32) -> usize {
        let (address, sender, ..) = &letter.recipients[index as usize];
        let mine = |delivery: &&super::far::Delivery| {
            delivery.sender == *sender && delivery.recipients.contains(address) && same_body(letter, &delivery.body)
        };
        self.far.deliveries.iter().filter(mine).count()
    }

    /// That everything was delivered once.
    pub(super) fn assert_all_delivered(&self) {
        for (books, letter) in self.books.iter().zip(&self.letters) {
            for index in 0..letter.recipients.len() as u32 {
                let verdict = books.verdicts.get(&index).expect("a verdict");
                assert!(matches!(verdict.judgement, Judgement::Delivered { .. }), "{verdict:?}");
                assert_eq!(self.copies(letter, index), 1);
            }
        }
    }

    /// The judgement and the words on a recipient.
    pub(super) fn verdict(&self, batch: usize, index: u32) -> (Judgement, String) {
        let verdict = &self.books[batch].verdicts[&index];
        (verdict.judgement, verdict.diagnostic.to_string())
    }

    pub(super) fn is_unanswered(&self, batch: usize, index: u32) -> bool {
        !self.books[batch].verdicts.contains_key(&index)
    }
}

fn same_body(letter: &Parcel, body: &[u8]) -> bool {
    letter.body == body || (!letter.body.ends_with(b"\r\n") && [&letter.body[..], b"\r\n"].concat() == body)
}

/// A message of this number to these recipients.
pub(super) fn letter(number: usize, recipients: &[&str]) -> Parcel {
    let body = format!("Subject: {number}\r\n\r\n.dot\r\n..\r\nThis is message {number}.\r\n");
    Parcel::new(body.as_bytes()).in_slices_of(17).to(&format!("s{number}@src.example"), recipients)
}
