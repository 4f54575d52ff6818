//! Mail for the benchmarks of the spool and of the queue, and what clients and agents say to a spool.

use std::time::Duration;

use zrelay_clock::Clock;
use zrelay_mailbox::{Received, Receiver, Sender, mailbox};
use zrelay_spool::{
    BatchId, CommitReply, Committed, Content, Diagnostic, Disposition, Envelope, Handling, MessageId, Notify, Outcome,
    Recipient, Request, SpoolHandle, Timing,
};

/// How long an answer may take before a benchmark gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// A post to so many, spread over a hundred hosts. No two recipients of two posts are the same.
pub(crate) fn envelope(number: u64, recipients: u32) -> Envelope {
    let recipient = |n| Recipient {
        address: format!("subscriber.{number}.{n}@host{}.example.net", n % 100),
        sender: 0,
        orcpt: None,
        notify: Notify::Default,
    };
    Envelope {
        received: Clock::start().now(),
        trace: b"Received: from localhost (localhost [127.0.0.1])\r\n\tby hub.example.org; today\r\n".to_vec(),
        client: "localhost[127.0.0.1]".to_owned(),
        content: Content::default(),
        envid: None,
        ret: None,
        handling: Handling::default(),
        senders: vec!["list-bounces@example.org".to_owned()],
        recipients: (0..recipients).map(recipient).collect(),
        origin: None,
    }
}

/// No two of them are the same, so that none is stored for another.
pub(crate) fn content(writer: usize, number: u64, length: usize) -> Vec<u8> {
    let mut content = format!("Subject: {number} of {writer}\r\n\r\n").into_bytes();
    content.resize(length.max(content.len()), b'x');
    content
}

/// Sends a message to be stored; the answer comes to `to` with this token.
pub(crate) fn submit(
    spool: &SpoolHandle,
    envelope: Envelope,
    tail: Vec<u8>,
    to: &Sender<Committed>,
    token: u64,
) -> MessageId {
    let message = spool.next_id();
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&message.0.to_le_bytes());
    let reply = CommitReply { to: to.clone(), token };
    let commit = Request::Commit { message, tail, digest, envelope: Box::new(envelope), reply };
    assert!(spool.intake().send(commit).is_ok());
    message
}

/// Waits for an answer, and says whose it is.
pub(crate) fn stored(answers: &Receiver<Committed>) -> u64 {
    match answers.wait(PATIENCE) {
        Received::Item(committed) => accepted(committed),
        other => panic!("no answer: {other:?}"),
    }
}

/// Whose answer it is.
pub(crate) fn accepted(committed: Committed) -> u64 {
    committed.result.expect("the spool takes it");
    committed.token
}

/// Waits until all that was sent is on the disk.
pub(crate) fn flush(spool: &SpoolHandle) {
    let (to, answers) = mailbox(1);
    assert!(spool.sender().send(Request::Flush { reply: CommitReply { to, token: 0 } }).is_ok());
    stored(&answers);
}

/// What became of these recipients with the first attempt at their batch.
pub(crate) fn outcome(batch: BatchId, recipients: Vec<u32>, disposition: Disposition, text: String) -> Outcome {
    let code = if disposition.is_final() { 250 } else { 450 };
    let peer = "mx.example.net[192.0.2.1]:25".to_owned();
    Outcome {
        batch,
        recipients,
        disposition,
        diagnostic: Diagnostic { code, text, peer, command: "end of DATA".to_owned(), ..Diagnostic::default() }.into(),
        at: Clock::start().now(),
        attempts: 1,
        due: Clock::start().now(),
        timing: Timing::default(),
        channel: None,
    }
}
