//! Which address is tried when (RFC 8305).
//!
//! Addresses are tried one after the other, as RFC 5321 §5.1 orders them. Where the next one is of the same preference
//! and of the other family, it does not wait for the connect timeout of the first: when that has not answered for
//! [`ATTEMPT_DELAY`], both are under way, and whoever answers first is used. So a host whose IPv6 is broken on the way
//! costs a quarter of a second, not half a minute, and a host with several addresses of one family does not see
//! connections that nobody wants.

use std::io;
use std::time::Duration;

use zrelay_clock::Timestamp;

use super::resolve::Candidate;

/// How long an attempt is alone: RFC 8305 §5.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The attempts under way; `S` is what each has of a socket.
#[derive(Debug)]
pub(crate) struct Race<S> {
    attempts: Vec<Attempt<S>>,
}

/// One address that is being connected to.
#[derive(Debug)]
pub(crate) struct Attempt<S> {
    pub(crate) candidate: Candidate,
    pub(crate) socket: S,
    begun: Timestamp,
    /// When it is given up.
    deadline: Timestamp,
}

impl<S> Race<S> {
    pub(crate) fn new() -> Self {
        Self { attempts: Vec::new() }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Those under way, oldest first.
    pub(crate) fn attempts_mut(&mut self) -> impl Iterator<Item = &mut Attempt<S>> {
        self.attempts.iter_mut()
    }

    /// The oldest.
    pub(crate) fn first(&self) -> Option<&Attempt<S>> {
        self.attempts.first()
    }

    /// When `next` is to be tried: now if nothing is under way, after a while if it may run beside what is, and never as
    /// long as something is that it has to wait for.
    pub(crate) fn starts(&self, next: &Candidate) -> Timestamp {
        let Some(latest) = self.attempts.last() else {
            return Timestamp::ZERO;
        };
        let other_family = |attempt: &Attempt<S>| {
            attempt.candidate.address.is_ipv4() != next.address.is_ipv4()
                && attempt.candidate.preference.is_some()
                && attempt.candidate.preference == next.preference
        };
        if self.attempts.iter().all(other_family) { latest.begun + ATTEMPT_DELAY } else { Timestamp::NEVER }
    }

    /// An attempt has begun.
    pub(crate) fn begin(&mut self, now: Timestamp, candidate: Candidate, socket: S, timeout: Duration) {
        self.attempts.push(Attempt { candidate, socket, begun: now, deadline: now + timeout });
    }

    /// Looks at each socket once, and takes out those of which something is known: connected, or failed.
    pub(crate) fn settle(&mut self, look: impl Fn(&S) -> io::Result<bool>) -> Vec<(Attempt<S>, io::Result<()>)> {
        let mut settled = Vec::new();
        for attempt in std::mem::take(&mut self.attempts) {
            match look(&attempt.socket) {
                Ok(false) => self.attempts.push(attempt),
                Ok(true) => settled.push((attempt, Ok(()))),
                Err(error) => settled.push((attempt, Err(error))),
            }
        }
        settled
    }

    /// Takes those out whose time is over.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Vec<Attempt<S>> {
        self.attempts.extract_if(.., |attempt| attempt.deadline <= now).collect()
    }

    /// When something is to be done: an attempt is over, or `next` is to be tried.
    pub(crate) fn deadline(&self, next: Option<&Candidate>) -> Timestamp {
        let next = next.map_or(Timestamp::NEVER, |next| self.starts(next));
        self.attempts.iter().map(|attempt| attempt.deadline).fold(next, Timestamp::min)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const START: Timestamp = Timestamp::from_secs(1000);
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn candidate(address: &str, preference: u16) -> Candidate {
        Candidate { name: "mx".into(), address: address.parse().unwrap(), preference: Some(preference) }
    }

    fn millis(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    /// When each address is tried, in milliseconds, if none ever answers.
    fn schedule(candidates: &[(&str, u16)]) -> Vec<u128> {
        let mut left: VecDeque<Candidate> = candidates.iter().map(|(text, number)| candidate(text, *number)).collect();
        let mut race = Race::new();
        let (mut now, mut begun) = (START, Vec::new());
        loop {
            while left.front().is_some_and(|next| race.starts(next) <= now) {
                let next = left.pop_front().unwrap();
                begun.push(now.since(START).as_millis());
                race.begin(now, next, (), TIMEOUT);
            }
            if race.is_empty() {
                return begun;
            }
            now = race.deadline(left.front());
            race.expire(now);
        }
    }

    #[test]
    fn the_other_family_does_not_wait_for_the_first_to_give_up() {
        assert_eq!(schedule(&[("[2001:db8::1]:25", 10), ("192.0.2.1:25", 10)]), [0, 250]);
        let four = [("[2001:db8::1]:25", 10), ("192.0.2.1:25", 10), ("[2001:db8::2]:25", 10), ("192.0.2.2:25", 10)];
        // The third waits for the first, and the fourth for the second.
        assert_eq!(schedule(&four), [0, 250, 30_000, 30_250]);
    }

    #[test]
    fn addresses_of_one_family_and_of_other_preference_are_tried_one_after_the_other() {
        assert_eq!(schedule(&[("192.0.2.1:25", 10), ("192.0.2.2:25", 10)]), [0, 30_000]);
        assert_eq!(schedule(&[("192.0.2.1:25", 10), ("[2001:db8::1]:25", 20)]), [0, 30_000]);
    }

    #[test]
    fn an_attempt_that_fails_lets_the_next_one_begin_at_once() {
        let (first, next) = (candidate("[2001:db8::1]:25", 10), candidate("192.0.2.1:25", 10));
        let mut race = Race::new();
        race.begin(START, first, (), TIMEOUT);
        assert_eq!(race.starts(&next), millis(250));
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(race.settle(|()| Ok(false)).is_empty());
        assert!(matches!(race.settle(|()| Err(refused()))[..], [(_, Err(_))]));
        assert!(race.starts(&next) <= START && race.is_empty());
    }

    #[test]
    fn an_address_that_is_met_again_runs_alone() {
        let again = Candidate { preference: None, ..candidate("192.0.2.1:25", 10) };
        let mut race = Race::new();
        race.begin(START, again, (), TIMEOUT);
        assert_eq!(race.starts(&candidate("[2001:db8::1]:25", 10)), Timestamp::NEVER);
    }
}
