//! How the hub's loops talk: bounded channels whose sender can wake a `mio` loop.
//!
//! Each OS thread owns one [`Receiver`]. A loop that sleeps in `mio::Poll` is woken through a [`Waker`](mio::Waker),
//! once for a burst of items rather than once for each; a plain worker blocks in [`Receiver::wait`].
//!
//! Nothing here grows without bound and nothing blocks by accident. A loop that must never block keeps an [`Outbox`]
//! in front of a sender: what does not fit stays with the producer, in order, and is its own back-pressure signal.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, TrySendError};

/// Why an item could not be handed over; it comes back.
#[derive(Debug, thiserror::Error)]
pub enum SendError<T> {
    /// The receiver has not kept up; try again later.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone, as when the hub shuts down.
    #[error("the receiver of the mailbox has ended")]
    Closed(T),
}

/// Wakes a `mio` loop at most once between two drains.
#[derive(Debug)]
struct Bell {
    waker: Arc<mio::Waker>,
    rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // The only failures are a closed epoll, when nobody is left to wake, and a full eventfd, when it is awake.
            let _ = self.waker.wake();
        }
    }
}

/// The sending half; clone it freely.
#[derive(Debug)]
pub struct Sender<T> {
    channel: crossbeam_channel::Sender<T>,
    bell: Option<Arc<Bell>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), bell: self.bell.clone() }
    }
}

/// The receiving half, owned by one loop.
#[derive(Debug)]
pub struct Receiver<T> {
    channel: crossbeam_channel::Receiver<T>,
    bell: Option<Arc<Bell>>,
}

/// A mailbox of `capacity` items for a plain worker thread.
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    (Sender { channel: sender, bell: None }, Receiver { channel: receiver, bell: None })
}

/// A mailbox of `capacity` items for a `mio` loop; `waker` belongs to that loop's `Poll`. Mailboxes of one loop may
/// share the waker.
pub fn mailbox_waking<T>(capacity: usize, waker: Arc<mio::Waker>) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let bell = Some(Arc::new(Bell { waker, rung: AtomicBool::new(false) }));
    (Sender { channel: sender, bell: bell.clone() }, Receiver { channel: receiver, bell })
}

impl<T> Sender<T> {
    /// Hands `item` over if there is room, without blocking.
    ///
    /// # Errors
    /// [`SendError`] with the item.
    pub fn try_send(&self, item: T) -> Result<(), SendError<T>> {
        self.channel.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) => SendError::Full(item),
            TrySendError::Disconnected(item) => SendError::Closed(item),
        })?;
        self.ring();
        Ok(())
    }

    /// Hands `item` over, blocking while the mailbox is full. Only for threads on which no loop of the hub waits.
    ///
    /// # Errors
    /// [`SendError::Closed`] with the item when the receiver has ended.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.channel.send(item).map_err(|error| SendError::Closed(error.0))?;
        self.ring();
        Ok(())
    }

    /// Whether all items have been taken.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl<T> Receiver<T> {
    /// The items that are there now, at most `limit` of them. When the limit cuts a backlog short, the loop is woken
    /// again by itself, so that other work gets its turn in between.
    pub fn drain(&self, limit: usize) -> impl Iterator<Item = T> + '_ {
        // Cleared before the first item is taken: the other order loses wake-ups.
        if let Some(bell) = &self.bell {
            bell.rung.store(false, Ordering::Release);
            if self.channel.len() > limit {
                bell.ring();
            }
        }
        (0..limit).map_while(|_| self.channel.try_recv().ok())
    }

    /// Blocks for the next item, at most `patience` long.
    pub fn wait(&self, patience: Duration) -> Received<T> {
        match self.channel.recv_timeout(patience) {
            Ok(item) => Received::Item(item),
            Err(RecvTimeoutError::Timeout) => Received::Nothing,
            Err(RecvTimeoutError::Disconnected) => Received::Closed,
        }
    }

    /// The next item if one is there.
    pub fn try_recv(&self) -> Received<T> {
        match self.channel.try_recv() {
            Ok(item) => Received::Item(item),
            Err(crossbeam_channel::TryRecvError::Empty) => Received::Nothing,
            Err(crossbeam_channel::TryRecvError::Disconnected) => Received::Closed,
        }
    }

    /// Items that wait now.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether nothing waits now.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }
}

/// Blocks until one of the mailboxes has an item or is closed, at most `patience` long; takes nothing. `None` stands for
/// a mailbox that is not to be taken from now. Returns whether there is something to see.
pub fn wait_either<A, B>(one: Option<&Receiver<A>>, other: Option<&Receiver<B>>, patience: Duration) -> bool {
    let mut select = crossbeam_channel::Select::new();
    if let Some(one) = one {
        select.recv(&one.channel);
    }
    if let Some(other) = other {
        select.recv(&other.channel);
    }
    select.ready_timeout(patience).is_ok()
}

/// What waiting on a [`Receiver`] brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// An item.
    Item(T),
    /// Nothing yet.
    Nothing,
    /// Nothing, and there will be nothing more: all senders are gone.
    Closed,
}

/// An ordered overflow in front of a [`Sender`], for loops that must not block.
///
/// `push` never fails and never blocks; `flush` moves as much as fits. The producer looks at [`Outbox::len`] to slow
/// its own sources down: an outbox is bounded by what its owner lets in, not by this type.
#[derive(Debug)]
pub struct Outbox<T> {
    to: Sender<T>,
    waiting: VecDeque<T>,
}

impl<T> Outbox<T> {
    /// An empty outbox in front of `to`.
    pub fn new(to: Sender<T>) -> Self {
        Self { to, waiting: VecDeque::new() }
    }

    /// Sends `item`, or keeps it behind those that already wait.
    pub fn push(&mut self, item: T) {
        self.keep(item);
        self.flush();
    }

    /// Keeps `item` behind those that already wait, until [`flush`](Self::flush).
    pub fn keep(&mut self, item: T) {
        self.waiting.push_back(item);
    }

    /// Moves what fits. Returns whether nothing is left waiting.
    pub fn flush(&mut self) -> bool {
        while let Some(item) = self.waiting.pop_front() {
            match self.to.try_send(item) {
                Ok(()) => {}
                Err(SendError::Full(item)) => {
                    self.waiting.push_front(item);
                    return false;
                }
                // Only a hub that shuts down ends a receiver; its work stays in the spool.
                Err(SendError::Closed(_)) => self.waiting.clear(),
            }
        }
        true
    }

    /// Items that wait for room.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits for room.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_keeps_the_order_when_the_mailbox_is_full() {
        let (sender, receiver) = mailbox(2);
        let mut outbox = Outbox::new(sender);
        (0..5).for_each(|n| outbox.push(n));
        assert_eq!(outbox.len(), 3);
        let mut seen: Vec<i32> = receiver.drain(10).collect();
        while !outbox.flush() || !receiver.is_empty() {
            seen.extend(receiver.drain(10));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_mio_loop_is_woken_once_for_a_burst_and_again_after_a_drain() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let (sender, receiver) = mailbox_waking(8, waker);
        let mut events = mio::Events::with_capacity(4);
        for _ in 0..2 {
            sender.try_send(1).unwrap();
            sender.try_send(2).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert_eq!(events.iter().count(), 1);
            assert_eq!(receiver.drain(10).collect::<Vec<_>>(), [1, 2]);
        }
    }

    #[test]
    fn a_drain_cut_short_wakes_the_loop_by_itself() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let (sender, receiver) = mailbox_waking(8, waker);
        (0..4).for_each(|n| sender.try_send(n).unwrap());
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(receiver.drain(3).count(), 3);
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(events.iter().count(), 1);
        assert_eq!(receiver.drain(3).count(), 1);
    }

    #[test]
    fn waiting_on_two_mailboxes_sees_either_and_takes_nothing() {
        let (to_one, one) = mailbox::<u8>(1);
        let (to_other, other) = mailbox::<u8>(1);
        assert!(!wait_either(Some(&one), Some(&other), Duration::ZERO));
        assert!(!wait_either::<u8, u8>(None, None, Duration::ZERO));
        to_other.try_send(1).unwrap();
        assert!(wait_either(Some(&one), Some(&other), Duration::from_secs(5)));
        assert!(!wait_either(Some(&one), None::<&Receiver<u8>>, Duration::ZERO));
        assert_eq!(other.try_recv(), Received::Item(1));
        drop(to_one);
        assert!(wait_either(Some(&one), Some(&other), Duration::from_secs(5)));
    }

    #[test]
    fn a_closed_mailbox_says_so() {
        let (sender, receiver) = mailbox::<u8>(1);
        drop(sender);
        assert_eq!(receiver.wait(Duration::from_secs(5)), Received::Closed);
        let (sender, receiver) = mailbox::<u8>(1);
        drop(receiver);
        assert!(matches!(sender.try_send(7), Err(SendError::Closed(7))));
    }
}
