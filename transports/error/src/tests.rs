//! The notary as a specification. Reports are read back with a parser of other make.

mod delays;
mod gathering;
mod letters;
mod reports;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zrelay_clock::Timestamp;
use zrelay_mailbox::{Received, Receiver, mailbox};
use zrelay_spool::{
    Committed, Content, Diagnostic, Disposition, Envelope, Fact, MessageId, Notify, Owed, ReadError, Refused, Request,
    Ret, Status, StoredRecipient,
};

use crate::{Archive, Desk, Options, Original};

/// A message as tests hold it: content in slices of any division.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) content: Content,
    pub(crate) envid: Option<&'static str>,
    pub(crate) ret: Option<Ret>,
    pub(crate) senders: Vec<String>,
    pub(crate) recipients: Vec<(String, u32, Option<&'static str>)>,
    pub(crate) slices: Vec<Vec<u8>>,
}

impl Letter {
    pub(crate) fn new(sender: &str, recipients: &[&str]) -> Self {
        Self {
            content: Content::default(),
            envid: None,
            ret: None,
            senders: vec![sender.to_owned()],
            recipients: recipients.iter().map(|address| ((*address).to_owned(), 0, None)).collect(),
            slices: vec![
                b"Received: from a by b; now\r\n".to_vec(),
                b"Subject: the post\r\nMessage-ID: <1@lists.example>\r\n\r\n".to_vec(),
                b"Hello.\r\n--not-a-boundary\r\n".to_vec(),
            ],
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.slices.concat()
    }
}

impl Original for Letter {
    fn received(&self) -> Timestamp {
        Timestamp::from_secs(1_795_299_000)
    }

    fn content(&self) -> Content {
        self.content
    }

    fn envid(&self) -> Option<&str> {
        self.envid
    }

    fn ret(&self) -> Option<Ret> {
        self.ret
    }

    fn sender(&self, index: u32) -> &str {
        self.senders.get(index as usize).map_or("", String::as_str)
    }

    fn recipient(&self, index: u32) -> StoredRecipient<'_> {
        let (address, sender, orcpt) =
            self.recipients.get(index as usize).map_or(("", 0, None), |(a, s, o)| (a.as_str(), *s, *o));
        StoredRecipient { address, sender, orcpt, notify: Notify::Default }
    }

    fn size(&self) -> u64 {
        self.slices.iter().map(|slice| slice.len() as u64).sum()
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.slices.iter().map(Vec::as_slice)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<HashMap<MessageId, Letter>>);

impl Archive for Shelf {
    type Found = Letter;

    fn find(&self, id: MessageId) -> Result<Letter, ReadError> {
        self.0.get(&id).cloned().ok_or(ReadError::Unknown(id))
    }
}

/// A report as the spool got it.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) content: Vec<u8>,
    pub(crate) envelope: Envelope,
    pub(crate) digest: [u8; 32],
    pub(crate) appended: usize,
    reply: zrelay_spool::CommitReply,
}

impl Posted {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    pub(crate) fn to(&self) -> &str {
        &self.envelope.recipients[0].address
    }

    pub(crate) fn answer(&self, result: Result<(), Refused>) {
        self.reply.to.try_send(Committed { token: self.reply.token, result }).unwrap();
    }
}

/// A desk with a virtual clock and a spool played by the test.
pub(crate) struct Office {
    pub(crate) desk: Desk<Shelf>,
    pub(crate) now: Timestamp,
    pub(crate) settled: Vec<(MessageId, Vec<u32>)>,
    requests: Receiver<Request>,
}

pub(crate) const ABOUT: MessageId = MessageId(0x1000);

impl Office {
    pub(crate) fn new(letter: Letter) -> Self {
        Self::with(letter, None)
    }

    pub(crate) fn with(letter: Letter, postmaster: Option<&str>) -> Self {
        let (sender, requests) = mailbox(100_000);
        let counter = AtomicU64::new(0x2000);
        let next_id = Box::new(move || MessageId(counter.fetch_add(1, Ordering::Relaxed)));
        let options = Options {
            hostname: "hub.example".to_owned(),
            postmaster: postmaster.map(str::to_owned),
            gather: std::time::Duration::from_secs(300),
        };
        let shelf = Shelf(Arc::new(HashMap::from([(ABOUT, letter)])));
        let desk = Desk::new(shelf, sender, next_id, options);
        Self { desk, now: Timestamp::from_secs(1_795_299_277), settled: Vec::new(), requests }
    }

    pub(crate) fn owe(&mut self, disposition: Disposition, recipients: &[u32], diagnostic: Diagnostic) {
        let owed = Owed {
            message: ABOUT,
            recipients: recipients.to_vec(),
            disposition,
            diagnostic: Arc::new(diagnostic),
            at: self.now,
            until: (disposition == Disposition::Delayed).then(|| self.now + std::time::Duration::from_secs(86_400)),
        };
        self.desk.handle_fact(self.now, Fact::Owed(owed));
    }

    pub(crate) fn fail(&mut self, recipients: &[u32]) {
        self.owe(Disposition::Failed, recipients, no_such_user());
    }

    pub(crate) fn done(&mut self) -> Vec<Posted> {
        self.desk.handle_fact(self.now, Fact::Done(ABOUT));
        self.work()
    }

    pub(crate) fn pass(&mut self, seconds: u64) -> Vec<Posted> {
        self.now = self.now + std::time::Duration::from_secs(seconds);
        self.work()
    }

    pub(crate) fn work(&mut self) -> Vec<Posted> {
        self.desk.work(self.now);
        let mut posted = Vec::new();
        let mut pieces: HashMap<MessageId, (Vec<u8>, usize)> = HashMap::new();
        while let Received::Item(request) = self.requests.try_recv() {
            match request {
                Request::Append { message, bytes } => {
                    assert!(bytes.len() <= zrelay_spool::PIECE_MAX);
                    let (content, appended) = pieces.entry(message).or_default();
                    content.extend(bytes);
                    *appended += 1;
                }
                Request::Commit { message, tail, digest, envelope, reply } => {
                    assert!(tail.len() <= zrelay_spool::PIECE_MAX);
                    let (mut content, appended) = pieces.remove(&message).unwrap_or_default();
                    content.extend(tail);
                    posted.push(Posted { content, envelope: *envelope, digest, appended, reply });
                }
                Request::Settled { message, recipients } => self.settled.push((message, recipients)),
                other => panic!("{other:?}"),
            }
        }
        assert!(pieces.is_empty(), "appended and not committed");
        posted
    }
}

pub(crate) fn no_such_user() -> Diagnostic {
    Diagnostic {
        code: 550,
        status: Status(5, 1, 1),
        text: "no such user here".to_owned(),
        peer: "mx.example.net[198.51.100.7]:25".to_owned(),
        command: "RCPT TO".to_owned(),
    }
}
