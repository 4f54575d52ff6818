//! How long to wait before the next attempt.

use std::time::Duration;

use zrelay_config::Clause;

/// Shortest wait, whatever a clause says: a clause of zeros must not become a busy loop.
pub const WAIT_MIN: Duration = Duration::from_millis(10);

/// A small seeded generator (SplitMix64). Jitter needs no secrecy, and tests need the same numbers again.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        // The 53 upper bits are what a double holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The wait behind the given number of attempts (1 behind the first): `interval × retries[attempts - 1]`, the last
/// entry repeating, drawn from `wait × (1 ± jitter)`.
pub(crate) fn wait(clause: &Clause, attempts: u32, rng: &mut Rng) -> Duration {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let units = clause.retries.get(index).or_else(|| clause.retries.last()).copied().unwrap_or(1);
    let base = clause.interval.saturating_mul(units);
    let jitter = if clause.jitter.is_finite() { clause.jitter.clamp(0.0, 1.0) } else { 0.0 };
    let factor = 1.0 + jitter * (2.0 * rng.unit() - 1.0);
    Duration::try_from_secs_f64(base.as_secs_f64() * factor).unwrap_or(base).max(WAIT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_list_stay_at_its_end_and_within_the_jitter() {
        let mut clause = Clause::default_for("smtp/*");
        clause.jitter = 0.1;
        let mut rng = Rng::new(7);
        let mut seen = Vec::new();
        for attempts in 1..=20u32 {
            let wait = wait(&clause, attempts, &mut rng);
            let base = clause.interval * clause.retries[(attempts as usize - 1).min(clause.retries.len() - 1)];
            assert!(wait >= base.mul_f64(0.9) && wait <= base.mul_f64(1.1), "{attempts}: {wait:?}");
            seen.push(wait.as_micros() * 1000 / base.as_micros());
        }
        seen.dedup();
        assert!(seen.len() > 10, "jitter does not vary: {seen:?}");
    }

    #[test]
    fn a_clause_of_zeros_or_without_retries_still_waits() {
        let mut clause = Clause::default_for("smtp/*");
        clause.interval = Duration::ZERO;
        assert_eq!(wait(&clause, 1, &mut Rng::new(1)), WAIT_MIN);
        clause.interval = Duration::from_secs(60);
        clause.retries = Vec::new();
        clause.jitter = f64::NAN;
        assert_eq!(wait(&clause, 9, &mut Rng::new(1)), Duration::from_secs(60));
    }
}
