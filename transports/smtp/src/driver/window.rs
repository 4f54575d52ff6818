//! Credit: how much work an agent asks for ahead of the replies.
//!
//! The window is a fixed multiple of what may be unacknowledged, so that the next batches are here before the pipe runs
//! dry. A window measured from the path (`TCP_INFO`) would replace [`Window::new`]'s arguments and nothing else.

use zrelay_agent::Credit;

/// How many times what may be unacknowledged is asked for.
const AHEAD: u32 = 2;

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
    /// A closed window of this size.
    pub(crate) fn new(unacknowledged_messages: u32, unacknowledged_bytes: u64) -> Self {
        let bytes = i64::try_from(unacknowledged_bytes).unwrap_or(i64::MAX / 4);
        Self {
            batches_max: unacknowledged_messages.max(1).saturating_mul(AHEAD),
            bytes_max: bytes.clamp(1, i64::MAX / 4).saturating_mul(i64::from(AHEAD)),
            held_batches: 0,
            held_bytes: 0,
            granted_batches: 0,
            granted_bytes: 0,
        }
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

    /// Credit to ask for now: when a quarter of the window is free, or what was granted is used up.
    pub(crate) fn open(&mut self) -> Option<Credit> {
        let batches = self.batches_max.saturating_sub(self.held_batches.saturating_add(self.granted_batches));
        let bytes = self.bytes_max.saturating_sub(self.held_bytes.saturating_add(self.granted_bytes)).max(0);
        let many = batches >= self.batches_max.div_ceil(4) || (self.granted_batches == 0 && batches > 0);
        let much = bytes >= self.bytes_max / 4 || (self.granted_bytes <= 0 && bytes > 0);
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

    #[test]
    fn the_window_opens_again_before_it_is_used_up() {
        let mut window = Window::new(4, 1000);
        assert_eq!(window.open(), Some(Credit { batches: 8, bytes: 2000 }));
        assert_eq!(window.open(), None);
        (0..8).for_each(|_| window.take(10));
        window.release(10);
        assert_eq!(window.open(), Some(Credit { batches: 1, bytes: 10 }), "nothing is left");
        (0..2).for_each(|_| window.release(10));
        assert_eq!(window.open().map(|credit| credit.batches), Some(2), "a quarter is free");
    }

    #[test]
    fn a_large_batch_overdraws_and_the_books_are_right_afterwards() {
        let mut window = Window::new(4, 1000);
        window.open();
        window.take(1_000_000);
        assert_eq!(window.open(), None, "it is held");
        window.release(1_000_000);
        let credit = window.open().unwrap();
        assert_eq!(credit.bytes, 1_000_000, "the overdraft is paid back");
    }

    #[test]
    fn an_empty_agent_always_has_credit() {
        let mut window = Window::new(1, 1);
        for size in [0, 1, 5, 1 << 40, 3] {
            window.open();
            assert!(window.granted_batches > 0 && window.granted_bytes > 0);
            window.take(size);
            window.release(size);
        }
    }
}
