//! The holds that stand, as operators know them: which threads they are for, and what they catch of the mail that comes.

use std::collections::BTreeSet;

use zrelay_holds::Terms;
use zrelay_spool::{Flow, ThreadKey};

/// Envelope sender and address of a recipient, without brackets.
pub(crate) type Addressed = (String, String);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    list: Vec<Terms>,
}

impl Holds {
    /// A hold stands from now on. Says whether it is new.
    pub(crate) fn begin(&mut self, terms: &Terms) -> bool {
        let is_new = !self.list.contains(terms);
        if is_new {
            self.list.push(terms.clone());
        }
        is_new
    }

    /// Those that these terms cover stand no more. Gives how many.
    pub(crate) fn lift(&mut self, by: &Terms) -> u64 {
        let before = self.list.len();
        self.list.retain(|terms| !by.covers(terms));
        (before - self.list.len()) as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One of those that are for some mail of a thread, by its position among them.
    pub(crate) fn nth_for_mail(&self, position: usize) -> Option<&Terms> {
        let mut for_mail = self.list.iter().filter(|terms| !terms.is_for_threads()).cycle();
        for_mail.nth(position)
    }

    /// Whether one is for the thread as such.
    pub(crate) fn is_for_thread(&self, thread: &ThreadKey) -> bool {
        !self.list.is_empty() && {
            let name = thread.to_string();
            self.list.iter().any(|terms| terms.is_for_threads() && terms.admits_thread(&name))
        }
    }

    /// Whether one is for mail like this, of any of these recipients.
    pub(crate) fn catches(&self, thread: &ThreadKey, flow: Flow, recipients: &[Addressed]) -> bool {
        let mut for_mail = self.list.iter().filter(|terms| !terms.is_for_threads());
        for_mail.any(|terms| is_for(terms, thread, flow, recipients))
    }

    /// Whether a recipient in this thread is to be in a batch of its own kind.
    pub(crate) fn sets_apart(&self, thread: &ThreadKey, sender: &str, address: &str) -> bool {
        let name = thread.to_string();
        let mut by_address = self.list.iter().filter(|terms| terms.reads_addresses());
        by_address.any(|terms| terms.admits_thread(&name) && terms.admits_address(sender, address))
    }

    /// What each of them is for.
    pub(crate) fn texts(&self) -> BTreeSet<String> {
        self.list.iter().map(Terms::to_string).collect()
    }

    /// The hub starts again with these.
    pub(crate) fn recovered(&mut self, texts: &[String]) {
        let terms = |text: &String| Terms::parse(text.split(' ')).expect("terms of a hold");
        self.list = texts.iter().map(terms).collect();
    }
}

/// Whether these terms are for mail like this, of any of these recipients.
pub(crate) fn is_for(terms: &Terms, thread: &ThreadKey, flow: Flow, recipients: &[Addressed]) -> bool {
    terms.admits_thread(&thread.to_string())
        && terms.admits_flow(flow)
        && recipients.iter().any(|(sender, address)| terms.admits_address(sender, address))
}
