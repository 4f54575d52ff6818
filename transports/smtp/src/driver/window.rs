//! Credit: how much work an agent asks for ahead of the replies.
//!
//! The window is what may be in flight (see [`pipe`](super::pipe)) and half as much again, so that the next batches are
//! here before the pipe runs dry. How long the far side takes for all that is told apart (see [`service`](super::service)),
//! and bounds what is given for the credit. It slides: it is opened further when an eighth of it is free.

use zrelay_agent::Credit;

use super::pipe::Room;

/// Batches asked for ahead of those in flight, at the least: more than the scheduler's mailbox holds back.
const AHEAD_BATCHES_MIN: u32 = 16;

/// A sliding window over batches and octets.
#[derive(Debug)]
pub(crate) struct Window {
    batches_max: u32,
    bytes_max: i64,
    held_batches: u32,
    held_bytes: i64,
    granted_batches: u32,
    /// Below zero when a batch has overdrawn it, as the scheduler counts too.
    granted_bytes: i64,
}

impl Window {
    /// A closed window for this much in flight.
    pub(crate) fn new(room: Room) -> Self {
        let mut window =
            Self { batches_max: 1, bytes_max: 1, held_batches: 0, held_bytes: 0, granted_batches: 0, granted_bytes: 0 };
        window.resize(room);
        window
    }

    /// Something else may be in flight. What was granted stays so.
    pub(crate) fn resize(&mut self, room: Room) {
        let ahead = (room.messages / 2).max(AHEAD_BATCHES_MIN);
        self.batches_max = room.messages.saturating_add(ahead);
        self.bytes_max = i64::try_from(room.octets.saturating_add(room.octets / 2)).unwrap_or(i64::MAX).max(1);
        self.bytes_max = self.bytes_max.min(i64::MAX / 4);
    }

    /// Batches held or granted.
    pub(crate) fn extent(&self) -> u32 {
        self.held_batches.saturating_add(self.granted_batches)
    }

    /// A batch of this weight came.
    pub(crate) fn take(&mut self, weight: u64) {
        let weight = i64::try_from(weight).unwrap_or(i64::MAX / 4);
        self.held_batches = self.held_batches.saturating_add(1);
        self.held_bytes = self.held_bytes.saturating_add(weight);
        self.granted_batches = self.granted_batches.saturating_sub(1);
        self.granted_bytes = self.granted_bytes.saturating_sub(weight);
    }

    /// A batch of this weight is through.
    pub(crate) fn release(&mut self, weight: u64) {
        let weight = i64::try_from(weight).unwrap_or(i64::MAX / 4);
        self.held_batches = self.held_batches.saturating_sub(1);
        self.held_bytes = self.held_bytes.saturating_sub(weight);
    }

    /// Credit for one batch, while nothing is known of the path; none when something is held or granted already.
    pub(crate) fn open_early(&mut self) -> Option<Credit> {
        if self.extent() > 0 {
            return None;
        }
        self.granted_batches = 1;
        // The least there is: any batch overdraws it.
        self.granted_bytes = 1;
        Some(Credit { batches: 1, bytes: 1 })
    }

    /// Credit to ask for now: when an eighth of the window is free, or what was granted is used up.
    pub(crate) fn open(&mut self) -> Option<Credit> {
        let batches = self.batches_max.saturating_sub(self.extent());
        let bytes = self.bytes_max.saturating_sub(self.held_bytes.saturating_add(self.granted_bytes)).max(0);
        let many = batches >= self.batches_max.div_ceil(8) || (self.granted_batches == 0 && batches > 0);
        let much = bytes >= self.bytes_max / 8 || (self.granted_bytes <= 0 && bytes > 0);
        if !many && !much {
            return None;
        }
        self.granted_batches = self.granted_batches.saturating_add(batches);
        self.granted_bytes = self.granted_bytes.saturating_add(bytes);
        (batches > 0 || bytes > 0).then_some(Credit { batches, bytes: u64::try_from(bytes).unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(messages: u32, octets: u64) -> Room {
        Room { messages, octets, unsent: 1 << 16 }
    }

    #[test]
    fn the_window_opens_again_before_it_is_used_up() {
        let mut window = Window::new(room(32, 10_000));
        assert_eq!(window.open(), Some(Credit { batches: 48, bytes: 15_000 }));
        assert_eq!(window.open(), None);
        (0..40).for_each(|_| window.take(100));
        (0..5).for_each(|_| window.release(100));
        assert_eq!(window.open(), None, "8 are left, and less than an eighth is free");
        window.release(100);
        assert_eq!(window.open(), Some(Credit { batches: 6, bytes: 600 }), "an eighth is free");
        (0..14).for_each(|_| window.take(100));
        window.release(10);
        assert_eq!(window.open().map(|credit| credit.batches), Some(1), "nothing is left");
    }

    #[test]
    fn a_window_that_shrinks_asks_for_nothing_until_it_is_down() {
        let mut window = Window::new(room(100, 1000));
        window.open();
        (0..150).for_each(|_| window.take(1));
        window.resize(room(32, 1000));
        (0..110).for_each(|_| {
            window.release(1);
            assert!(window.open().is_none_or(|credit| credit.batches <= 8));
        });
        assert!(window.extent() <= 48, "{}", window.extent());
    }

    #[test]
    fn a_large_batch_overdraws_and_the_books_are_right_afterwards() {
        let mut window = Window::new(room(32, 1000));
        window.open();
        window.take(1_000_000);
        assert_eq!(window.open(), None, "it is held");
        window.release(1_000_000);
        let credit = window.open().unwrap();
        assert_eq!(credit.bytes, 1_000_000, "the overdraft is paid back");
    }

    #[test]
    fn an_empty_agent_always_has_credit() {
        let mut window = Window::new(room(1, 1));
        for size in [0, 1, 5, 1 << 40, 3] {
            window.open();
            assert!(window.granted_batches > 0 && window.granted_bytes > 0);
            window.take(size);
            window.release(size);
        }
    }
}
