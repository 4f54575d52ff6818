//! The steady path: what a recipient and a message cost in allocations and copies once a connection is under way.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use zrelay_agent::Ticket;
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_smtp::{Addressee, Conversation, Event, Letter, Protocol, Security, Settings};
use zrelay_spool::{BatchId, Content, MessageId, Notify, Ret};

/// A message to as many recipients as one likes, that needs no memory for them.
struct Post {
    body: Vec<u8>,
    recipients: u32,
}

impl Letter for Post {
    fn size(&self) -> u64 {
        self.body.len() as u64
    }

    fn slices(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        self.body.get(usize::try_from(from).unwrap()..).into_iter()
    }

    fn content(&self) -> Content {
        Content::default()
    }

    fn envid(&self) -> Option<&str> {
        None
    }

    fn ret(&self) -> Option<Ret> {
        None
    }

    fn handling(&self) -> zrelay_spool::Handling {
        zrelay_spool::Handling::default()
    }

    fn recipient(&self, index: u32) -> Option<Addressee<'_>> {
        (index < self.recipients).then_some(Addressee {
            address: "someone@far.example",
            sender: "list-bounces@hub.example",
            sender_number: 0,
            orcpt: None,
            notify: Notify::Default,
        })
    }
}

fn conversation(offers: &str) -> Conversation<Post> {
    let settings = Settings {
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
    };
    let mut conversation = Conversation::new(settings, Timestamp::ZERO);
    conversation.handle_input(Timestamp::ZERO, b"220 far.example ESMTP\r\n");
    drain(&mut conversation);
    conversation.handle_input(Timestamp::ZERO, format!("250-far.example\r\n{offers}").as_bytes());
    assert!(conversation.is_ready());
    conversation
}

/// Writes everything. Returns how many octets that were.
fn drain(conversation: &mut Conversation<Post>) -> usize {
    let mut octets = 0;
    while conversation.wants_write() {
        let mut now = 0;
        conversation.gather(|slice| {
            now += slice.len();
            now < 65_536
        });
        conversation.handle_written(Timestamp::ZERO, now);
        octets += now;
    }
    octets
}

/// Carries one message to `recipients` and has everything accepted. What that allocates.
fn send(conversation: &mut Conversation<Post>, number: u64, recipients: u32) -> AllocationInfo {
    let letter = Arc::new(Post { body: vec![b'x'; 4096], recipients });
    let ticket = Ticket {
        id: BatchId { message: MessageId(number), number: 0 },
        recipients: (0..recipients).collect(),
        size: 4096,
        weight: 4096,
        received: Timestamp::ZERO,
        due: Timestamp::ZERO,
        carried: Timestamp::ZERO,
    };
    // The far side's replies to MAIL and RCPT, and to the message, as they come in reads of 16 KiB.
    let mut replies = b"250 2.1.0 Ok\r\n".to_vec();
    (0..recipients).for_each(|_| replies.extend_from_slice(b"250 2.1.5 Recipient ok\r\n"));
    replies.extend_from_slice(b"250 2.0.0 Ok: queued\r\n");
    let mut delivered = 0;
    let info = measure(|| {
        conversation.carry(Timestamp::ZERO, ticket, letter);
        drain(conversation);
        for part in replies.chunks(16 * 1024) {
            conversation.handle_input(Timestamp::ZERO, part);
            drain(conversation);
        }
        while let Some(event) = conversation.poll_event() {
            if let Event::Settled { verdicts, .. } = event {
                delivered += verdicts.iter().map(|verdict| verdict.recipients.len()).sum::<usize>();
            }
        }
    });
    assert_eq!(delivered, recipients as usize);
    info
}

#[test]
fn a_recipient_costs_no_allocation_in_sending_nor_in_reading_replies() {
    let mut conversation = conversation("250-PIPELINING\r\n250-SIZE 10000000\r\n250 CHUNKING\r\n");
    // Buffers grow to their size once.
    for number in 0..3 {
        send(&mut conversation, number, 1000);
    }
    let few = send(&mut conversation, 10, 10);
    let many = send(&mut conversation, 11, 1000);
    // Lists of the transaction grow by doubling: some steps more, whatever stands for 990 recipients.
    let more = many.count_total.saturating_sub(few.count_total);
    assert!(more < 40, "{more} allocations more for 990 recipients more: {few:?} {many:?}");
    // Their numbers, their standing and their verdict, doubling steps included: less than an address with its String.
    let octets = many.bytes_total.saturating_sub(few.bytes_total);
    assert!(octets < 990 * 96, "{octets} octets more for 990 recipients");
}

#[test]
fn a_message_costs_a_handful_of_allocations_and_no_copy() {
    let mut conversation = conversation("250-PIPELINING\r\n250-SIZE 10000000\r\n250 CHUNKING\r\n");
    for number in 0..3 {
        send(&mut conversation, number, 1);
    }
    let one = send(&mut conversation, 10, 1);
    assert!(one.count_total < 30, "{one:?}");
    assert!(one.bytes_total < 4096, "less than its body: {one:?}");
}

#[test]
fn a_body_goes_out_from_where_it_lies() {
    for offers in ["250-PIPELINING\r\n250-SIZE 10000000\r\n250 CHUNKING\r\n", "250 PIPELINING\r\n"] {
        let mut conversation = conversation(offers);
        let mut body = Vec::new();
        (0..500).for_each(|_| body.extend_from_slice(b".dots at the start\r\nand none\r\n"));
        let letter = Arc::new(Post { body, recipients: 1 });
        let ticket = Ticket {
            id: BatchId { message: MessageId(1), number: 0 },
            recipients: (0..1).collect(),
            size: letter.size(),
            weight: letter.size(),
            received: Timestamp::ZERO,
            due: Timestamp::ZERO,
            carried: Timestamp::ZERO,
        };
        conversation.carry(Timestamp::ZERO, ticket, Arc::clone(&letter));
        let lies = letter.body.as_ptr_range();
        let mut in_place = 0;
        for _ in 0..2 {
            let mut octets = 0;
            conversation.gather(|slice| {
                octets += slice.len();
                in_place += if lies.contains(&slice.as_ptr()) { slice.len() } else { 0 };
                true
            });
            conversation.handle_written(Timestamp::ZERO, octets);
            if in_place == 0 {
                // DATA: the body comes behind its reply.
                let replies = b"250 Ok\r\n250 Ok\r\n354 Go on\r\n";
                conversation.handle_input(Timestamp::ZERO, replies);
            }
        }
        assert_eq!(in_place, letter.body.len(), "every octet of it, dots added or not");
    }
}
