//! What it costs to read from memory that is in no cache, to tell that from work.

/// Octets that a queue takes for each of its batches, those of its threads included.
const OCTETS: u64 = 800;

/// Places that each name the next one, all over the memory.
pub(crate) struct Memory {
    next: Vec<u32>,
    at: u32,
}

impl Memory {
    /// As much as a queue of so many batches takes.
    pub(crate) fn new(batches: u64) -> Self {
        let places = u32::try_from(batches * OCTETS / size_of::<u32>() as u64).expect("not so many");
        // One cycle through all places (Sattolo).
        let mut next: Vec<u32> = (0..places).collect();
        let mut random = 1_u64;
        for last in (1..places as usize).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            next.swap(last, random as usize % last);
        }
        Self { next, at: 0 }
    }

    /// So many reads, each of which needs the one before.
    pub(crate) fn follow(&mut self, reads: u64) {
        for _ in 0..reads {
            self.at = self.next[self.at as usize];
        }
        self.at = std::hint::black_box(self.at);
    }
}
