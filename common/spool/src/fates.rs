//! How far each message is, dense: which of its recipients are open, and on which a report is owed.
//!
//! Of a message with one recipient, as most are in a long queue, all of it fits four octets. Of a post to many, each
//! recipient takes a bit, or two once a report is owed.

use crate::bits::Bits;

/// How far a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Unrouted,
    Routed,
    /// Nothing is left to do but to record that.
    Finishing,
}

/// What is known of one message: either it says all itself, or where [`Fates`] keeps it. Not to be used behind
/// [`Fates::remove`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fate(u32);

/// Set when the rest is a place in [`Fates`].
const MANY: u32 = 1 << 31;
/// Otherwise: there is a recipient.
const ONE: u32 = 1;
const OPEN: u32 = 2;
const OWED: u32 = 4;
const ROUTED: u32 = 8;
const FINISHING: u32 = 16;

/// What is kept of messages with several recipients.
#[derive(Default, Debug)]
pub(crate) struct Fates {
    posts: Vec<Option<Post>>,
    unused: Vec<u32>,
    octets: usize,
}

#[derive(PartialEq, Eq, Debug)]
struct Post {
    state: State,
    recipients: u32,
    open_count: u32,
    owed_count: u32,
    open: Bits,
    /// Made when the first report is owed.
    owed: Option<Bits>,
}

impl Post {
    fn octets(&self) -> usize {
        size_of::<Option<Self>>() + self.open.octets() + self.owed.as_ref().map_or(0, Bits::octets)
    }
}

impl Fates {
    /// A message that came in just now.
    pub(crate) fn add(&mut self, recipients: u32) -> Fate {
        if recipients <= 1 {
            return Fate(if recipients == 1 { ONE | OPEN } else { 0 });
        }
        let post = Post {
            state: State::Unrouted,
            recipients,
            open_count: recipients,
            owed_count: 0,
            open: Bits::all(recipients),
            owed: None,
        };
        self.octets += post.octets();
        let slot = match self.unused.pop() {
            Some(slot) => slot,
            None => {
                self.posts.push(None);
                // Fewer than 2^31: each takes more than two octets of memory.
                (self.posts.len() - 1) as u32
            }
        };
        if let Some(place) = self.posts.get_mut(slot as usize) {
            *place = Some(post);
        }
        Fate(MANY | slot)
    }

    /// The message is gone.
    pub(crate) fn remove(&mut self, fate: Fate) {
        let Some(slot) = fate.slot() else { return };
        if let Some(post) = self.posts.get_mut(slot).and_then(Option::take) {
            self.octets -= post.octets();
            self.unused.push(fate.0 & !MANY);
        }
    }

    /// Octets that all of them take here.
    pub(crate) fn octets(&self) -> usize {
        self.octets + self.unused.capacity() * size_of::<u32>()
    }

    fn post(&self, fate: Fate) -> Option<&Post> {
        self.posts.get(fate.slot()?)?.as_ref()
    }

    fn post_mut(&mut self, fate: Fate) -> Option<&mut Post> {
        self.posts.get_mut(fate.slot()?)?.as_mut()
    }

    pub(crate) fn recipients(&self, fate: Fate) -> u32 {
        self.post(fate).map_or_else(|| u32::from(fate.has(ONE)), |post| post.recipients)
    }

    pub(crate) fn state(&self, fate: Fate) -> State {
        match self.post(fate) {
            Some(post) => post.state,
            None if fate.has(FINISHING) => State::Finishing,
            None if fate.has(ROUTED) => State::Routed,
            None => State::Unrouted,
        }
    }

    pub(crate) fn set_state(&mut self, fate: &mut Fate, state: State) {
        if let Some(post) = self.post_mut(*fate) {
            post.state = state;
            return;
        }
        fate.set(ROUTED, state == State::Routed);
        fate.set(FINISHING, state == State::Finishing);
    }

    /// Open recipients, and those on which a report is owed.
    pub(crate) fn counts(&self, fate: Fate) -> (u32, u32) {
        let single = || (u32::from(fate.has(OPEN)), u32::from(fate.has(OWED)));
        self.post(fate).map_or_else(single, |post| (post.open_count, post.owed_count))
    }

    pub(crate) fn is_open(&self, fate: Fate, recipient: u32) -> bool {
        self.post(fate).map_or_else(|| recipient == 0 && fate.has(OPEN), |post| post.open.contains(recipient))
    }

    pub(crate) fn is_owed(&self, fate: Fate, recipient: u32) -> bool {
        let of_post = |post: &Post| post.owed.as_ref().is_some_and(|owed| owed.contains(recipient));
        self.post(fate).map_or_else(|| recipient == 0 && fate.has(OWED), of_post)
    }

    /// Nobody is open but those of `recipients` who were.
    pub(crate) fn keep_open(&mut self, fate: &mut Fate, recipients: impl Iterator<Item = u32>) {
        let Some(post) = self.post_mut(*fate) else {
            let kept = fate.has(OPEN) && recipients.into_iter().any(|recipient| recipient == 0);
            fate.set(OPEN, kept);
            return;
        };
        let before = std::mem::replace(&mut post.open, Bits::none(post.recipients));
        let kept = recipients.filter(|recipient| before.contains(*recipient) && post.open.insert(*recipient));
        post.open_count = kept.map(|_| 1).sum();
    }

    /// Returns whether the recipient was open; it is not any more.
    pub(crate) fn close(&mut self, fate: &mut Fate, recipient: u32) -> bool {
        match self.post_mut(*fate) {
            Some(post) => {
                let closed = post.open.remove(recipient);
                post.open_count -= u32::from(closed);
                closed
            }
            None => recipient == 0 && fate.take(OPEN),
        }
    }

    /// A report on the recipient is owed.
    pub(crate) fn owe(&mut self, fate: &mut Fate, recipient: u32) {
        if recipient >= self.recipients(*fate) {
            return;
        }
        let Some(post) = self.post_mut(*fate) else { return fate.set(OWED, true) };
        let recipients = post.recipients;
        let before = post.octets();
        let owed = post.owed.get_or_insert_with(|| Bits::none(recipients));
        post.owed_count += u32::from(owed.insert(recipient));
        let more = post.octets() - before;
        self.octets += more;
    }

    /// A report on the recipient is owed no more.
    pub(crate) fn settle(&mut self, fate: &mut Fate, recipient: u32) {
        match self.post_mut(*fate) {
            Some(post) => {
                let settled = post.owed.as_mut().is_some_and(|owed| owed.remove(recipient));
                post.owed_count -= u32::from(settled);
            }
            None if recipient == 0 => fate.set(OWED, false),
            None => {}
        }
    }

    /// Whether two messages, each with its own fates, are equally far.
    pub(crate) fn agree(&self, fate: Fate, other: &Self, others: Fate) -> bool {
        match (self.post(fate), other.post(others)) {
            (Some(one), Some(two)) => {
                let owed = |fates: &Self, fate, post: &Post| {
                    (0..post.recipients).filter(|recipient| fates.is_owed(fate, *recipient)).collect::<Vec<_>>()
                };
                (one.state, &one.open) == (two.state, &two.open) && owed(self, fate, one) == owed(other, others, two)
            }
            (None, None) => fate == others,
            _ => false,
        }
    }
}

impl Fate {
    fn slot(self) -> Option<usize> {
        self.has(MANY).then_some((self.0 & !MANY) as usize)
    }

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    fn set(&mut self, flag: u32, on: bool) {
        if on {
            self.0 |= flag;
        } else {
            self.0 &= !flag;
        }
    }

    fn take(&mut self, flag: u32) -> bool {
        let had = self.has(flag);
        self.set(flag, false);
        had
    }

    /// Whether it has one recipient at the most, and so one batch.
    pub(crate) fn is_single(self) -> bool {
        !self.has(MANY)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_single_recipient_is_kept_as_many_are(
            recipients in 0u32..70, steps in proptest::collection::vec((0u8..4, 0u32..72), 0..40)
        ) {
            let mut fates = Fates::default();
            // Another one beside it, whose bits must not be touched.
            let beside = fates.add(5);
            let mut fate = fates.add(recipients);
            let mut open: BTreeSet<u32> = (0..recipients).collect();
            let mut owed = BTreeSet::new();
            for (step, recipient) in steps {
                match step {
                    0 => prop_assert_eq!(fates.close(&mut fate, recipient), open.remove(&recipient)),
                    1 => {
                        fates.owe(&mut fate, recipient);
                        if recipient < recipients {
                            owed.insert(recipient);
                        }
                    }
                    2 => {
                        fates.settle(&mut fate, recipient);
                        owed.remove(&recipient);
                    }
                    _ => {
                        fates.keep_open(&mut fate, [recipient, 0, recipient].into_iter());
                        open.retain(|one| [recipient, 0].contains(one));
                    }
                }
                prop_assert_eq!(fates.counts(fate), (open.len() as u32, owed.len() as u32));
            }
            prop_assert!((0..80).all(|recipient| fates.is_open(fate, recipient) == open.contains(&recipient)));
            prop_assert!((0..80).all(|recipient| fates.is_owed(fate, recipient) == owed.contains(&recipient)));
            for state in [State::Routed, State::Finishing, State::Unrouted] {
                fates.set_state(&mut fate, state);
                prop_assert_eq!(fates.state(fate), state);
            }
            prop_assert_eq!((fates.recipients(fate), fates.counts(beside)), (recipients, (5, 0)));
            prop_assert!(fates.agree(fate, &fates, fate));
            fates.remove(fate);
            fates.remove(beside);
            prop_assert_eq!(fates.octets, 0);
        }
    }
}
