//! Small sets, small in memory: which recipients of a message.

/// A set of recipients of one message. Up to 64 of them take no memory of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bits {
    Few(u64),
    Many(Box<[u64]>),
}

impl Bits {
    /// No one of `recipients`.
    pub(crate) fn none(recipients: u32) -> Self {
        if recipients <= u64::BITS {
            return Self::Few(0);
        }
        Self::Many(vec![0; recipients.div_ceil(u64::BITS) as usize].into())
    }

    /// All of `recipients`.
    pub(crate) fn all(recipients: u32) -> Self {
        let mut bits = Self::none(recipients);
        (0..recipients).for_each(|index| {
            bits.insert(index);
        });
        bits
    }

    /// Octets of memory of their own.
    pub(crate) fn octets(&self) -> usize {
        match self {
            Self::Few(_) => 0,
            Self::Many(words) => size_of_val(&**words),
        }
    }

    fn word(&self, index: u32) -> Option<&u64> {
        match self {
            Self::Few(word) => (index < u64::BITS).then_some(word),
            Self::Many(words) => words.get((index / u64::BITS) as usize),
        }
    }

    fn word_mut(&mut self, index: u32) -> Option<&mut u64> {
        match self {
            Self::Few(word) => (index < u64::BITS).then_some(word),
            Self::Many(words) => words.get_mut((index / u64::BITS) as usize),
        }
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.word(index).is_some_and(|word| word >> (index % u64::BITS) & 1 == 1)
    }

    /// Returns whether it was not in there before, and is now.
    pub(crate) fn insert(&mut self, index: u32) -> bool {
        let Some(word) = self.word_mut(index) else { return false };
        let before = *word;
        *word |= 1 << (index % u64::BITS);
        *word != before
    }

    /// Returns whether it was in there.
    pub(crate) fn remove(&mut self, index: u32) -> bool {
        let Some(word) = self.word_mut(index) else { return false };
        let before = *word;
        *word &= !(1 << (index % u64::BITS));
        *word != before
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set(recipients in 1u32..200, steps: Vec<(bool, u8)>) {
            let mut bits = Bits::none(recipients);
            let mut set = BTreeSet::new();
            for (insert, index) in steps {
                let index = u32::from(index) % recipients;
                if insert {
                    prop_assert_eq!(bits.insert(index), set.insert(index));
                } else {
                    prop_assert_eq!(bits.remove(index), set.remove(&index));
                }
            }
            prop_assert!((0..recipients).all(|index| bits.contains(index) == set.contains(&index)));
        }
    }

    #[test]
    fn beyond_the_last_recipient_there_is_nothing() {
        let mut bits = Bits::all(65);
        assert!(bits.contains(64));
        assert!(!bits.contains(1000) && !bits.insert(1000) && !bits.remove(1000));
    }
}
