//! Numbers that nobody outside can foretell: the ids of queries are half of what keeps forged answers out.
//!
//! The key stream of ChaCha20 (RFC 8439 §2.3) over a seed, so that a driver seeds it from the operating system and a
//! test from a constant.

/// A generator whose next number does not follow from those before.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    seed: [u32; 8],
    block: u32,
    words: [u32; 16],
    used: usize,
}

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut key = [0; 8];
        for (word, octets) in key.iter_mut().zip(seed.chunks_exact(4)) {
            *word = octets.iter().rev().fold(0, |word, octet| (word << 8) | u32::from(*octet));
        }
        Self { seed: key, block: 0, words: [0; 16], used: 16 }
    }

    /// The next 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        if self.used == self.words.len() {
            self.words = block(self.seed, self.block, [0; 3]);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        let word = self.words.get(self.used).copied().unwrap_or_default();
        self.used += 1;
        word
    }

    /// The next 16 bits.
    pub(crate) fn id(&mut self) -> u16 {
        (self.word() & 0xffff) as u16
    }
}

fn block(key: [u32; 8], counter: u32, nonce: [u32; 3]) -> [u32; 16] {
    let mut start = [0; 16];
    let input = CONSTANTS.into_iter().chain(key).chain([counter]).chain(nonce);
    start.iter_mut().zip(input).for_each(|(word, value)| *word = value);
    let mut state = start;
    for _ in 0..10 {
        for [a, b, c, d] in [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]] {
            quarter(&mut state, a, b, c, d);
        }
        for [a, b, c, d] in [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]] {
            quarter(&mut state, a, b, c, d);
        }
    }
    state.iter_mut().zip(start).for_each(|(word, value)| *word = word.wrapping_add(value));
    state
}

fn quarter(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (left, right) in [(16, 12), (8, 7)] {
        state[a] = state[a].wrapping_add(state[b]);
        state[d] = (state[d] ^ state[a]).rotate_left(left);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_left(right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_function_gives_the_vector_of_rfc_8439() {
        let seed: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let words = block(Random::new(seed).seed, 1, [0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(words[..4], [0xe4e7_f110, 0x1559_3bd1, 0x1fdd_0f50, 0xc471_20a3]);
        assert_eq!(words[15], 0x4e3c_50a2);
    }

    #[test]
    fn blocks_follow_each_other_without_repetition() {
        let mut random = Random::new([7; 32]);
        let first: Vec<u32> = (0..16).map(|_| random.word()).collect();
        let second: Vec<u32> = (0..16).map(|_| random.word()).collect();
        assert_ne!(first, second);
    }
}
