//! Keeping space for delivery: mail is refused before the disk is full, so that what is in the queue can still leave,
//! and before the books of the queue take more memory than they may.
//!
//! | free | what happens |
//! |---|---|
//! | at least 5/4 of the reserve | all is well again |
//! | below the reserve | no new mail: the sessions see [`Health::Full`] at MAIL; messages under way are completed |
//! | below half the reserve | these are refused as well |
//!
//! | memory | what happens |
//! |---|---|
//! | at the bound | no new mail, as below the reserve |
//! | at 15/16 of it | all is well again |
//!
//! Requests of the hub itself (outcomes, routing decisions, reports to senders) are taken as long as the disk takes
//! them.

use super::{Appender, Fate};
use crate::{Health, Refused, Request};

/// How much space is to be left, and how much there is.
#[derive(Default)]
pub(super) struct Space {
    reserve: u64,
    room: Room,
    /// Octets of memory for the books; `None` for no bound.
    memory_max: Option<u64>,
    memory: Memory,
    /// That of the log when the disk was looked at last.
    generation: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Memory {
    #[default]
    Enough,
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Room {
    #[default]
    Enough,
    /// Below the reserve.
    Low,
    /// Below half of it.
    Critical,
}

impl Space {
    fn is_short(&self) -> bool {
        self.room != Room::Enough || self.memory == Memory::Full
    }
}

impl Appender {
    /// Keeps so many octets of the file system for delivery.
    pub(crate) fn set_reserve(&mut self, octets: u64) {
        self.space.reserve = octets;
        self.measure();
    }

    /// Keeps the books of the queue within so many octets of memory.
    pub(crate) fn set_memory(&mut self, octets: u64) {
        self.space.memory_max = Some(octets);
        self.measure_memory();
    }

    /// Whether mail is refused for want of space; then [`measure`](Self::measure) is due in a second.
    pub(crate) fn is_short_of_space(&self) -> bool {
        self.space.is_short()
    }

    /// Looks at the space left, and whether the spool is where it was. To be called every second or so.
    pub(crate) fn measure(&mut self) {
        if self.trouble.is_none()
            && let Err(error) = self.log.is_in_place()
        {
            self.fail(&error);
            return;
        }
        self.measure_memory();
        self.measure_disk();
    }

    fn measure_memory(&mut self) {
        let Some(max) = self.space.memory_max else { return };
        let octets = self.ledger.octets() as u64;
        let before = self.space.memory;
        let max = if before == Memory::Full { max - max / 16 } else { max };
        let now = if octets < max { Memory::Enough } else { Memory::Full };
        self.space.memory = now;
        if now == before {
            return;
        }
        match now {
            Memory::Enough => log::info!("spool: the queue takes {octets} octets of memory, mail is taken again"),
            Memory::Full => log::error!(
                "spool: the queue takes {octets} octets of memory, as much as it may; new mail is refused (raise \
                 \"memory\" in [queue], or find out why so much is in the queue)"
            ),
        }
        self.tell_health();
    }

    fn measure_disk(&mut self) {
        let free = match self.log.free() {
            Ok(free) => free,
            Err(error) => {
                log::warn!("spool: cannot tell how much space is left: {error}");
                return;
            }
        };
        self.shared.counters.free_bytes.store(free, std::sync::atomic::Ordering::Relaxed);
        self.space.generation = self.log.generation();
        let Space { reserve, room, .. } = self.space;
        // Some more before it is well again, so that it does not go back and forth with every segment.
        let enough = if room == Room::Enough { reserve } else { reserve.saturating_add(reserve / 4) };
        let now = if free >= enough {
            Room::Enough
        } else if free >= reserve / 2 {
            Room::Low
        } else {
            Room::Critical
        };
        self.space.room = now;
        if now == Room::Enough && room != Room::Enough {
            log::info!("spool: {free} octets are free, mail is taken again");
        }
        if now != Room::Enough && room == Room::Enough {
            log::error!(
                "spool: {free} octets are free, less than the {reserve} that [intake] reserve keeps for delivery; new \
                 mail is refused"
            );
        }
        if now != room {
            self.tell_health();
        }
    }

    /// Tells the sessions how things are when the disk itself does what it is told.
    pub(super) fn tell_health(&self) {
        if self.trouble.is_none() {
            self.shared.set_health(if self.space.is_short() { Health::Full } else { Health::Good });
        }
    }

    /// Takes a request on mail that a client sends.
    pub(crate) fn take_from_client(&mut self, request: Request) {
        // Clients can fill a small disk between two looks at it.
        if self.space.generation != self.log.generation() && self.trouble.is_none() {
            self.measure();
        }
        if self.space.room < Room::Critical {
            return self.take(request);
        }
        match request {
            Request::Append { message, .. } => self.under_way.entry(message).or_default().fate = Fate::Lost,
            Request::Commit { message, reply, .. } => {
                let under_way = self.under_way.remove(&message).unwrap_or_default();
                self.release(&under_way.extents);
                self.answer(&reply, Err(Refused::Full));
            }
            other => self.take(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, DELIVERED, envelope, names, outcome, route};
    use super::*;
    use crate::simulated::Simulated;
    use crate::{MessageId, Notify};

    const RESERVE: u64 = 1000;
    const ONE: &[Notify] = &[Notify::Default];

    fn with_free(bench: &mut Bench, free: u64) -> Health {
        bench.disk.set_free(free);
        bench.appender.measure();
        bench.shared.health()
    }

    fn bench() -> Bench {
        let mut bench = Bench::open(Simulated::default(), 1 << 16);
        bench.disk.set_free(10 * RESERVE);
        bench.appender.set_reserve(RESERVE);
        bench
    }

    fn submit(bench: &mut Bench) -> (MessageId, Vec<&'static str>) {
        let message = bench.shared.next_id();
        let reply = bench.reply(message);
        let envelope = Box::new(envelope(ONE));
        bench.appender.take_from_client(Request::Append { message, bytes: b"begun".to_vec() });
        let commit = Request::Commit { message, tail: b"x".to_vec(), digest: [0; 32], envelope, reply };
        bench.appender.take_from_client(commit);
        (message, names(&bench.turn()))
    }

    #[test]
    fn new_mail_is_refused_below_the_reserve_until_there_is_some_more_again() {
        let mut bench = bench();
        let healths = [1000, 999, 1000, 1249, 1250, 1000, 400, 1249, 1250].map(|free| with_free(&mut bench, free));
        use Health::{Full, Good};
        assert_eq!(healths, [Good, Full, Full, Full, Good, Good, Full, Full, Good]);
    }

    #[test]
    fn what_is_under_way_is_completed_down_to_half_of_the_reserve() {
        let mut bench = bench();
        with_free(&mut bench, RESERVE / 2);
        assert_eq!(submit(&mut bench).1, ["stored", "arrived"]);
        with_free(&mut bench, RESERVE / 2 - 1);
        assert_eq!(submit(&mut bench).1, ["full"]);
        with_free(&mut bench, 2 * RESERVE);
        assert_eq!(submit(&mut bench).1, ["stored", "arrived"]);
    }

    #[test]
    fn mail_is_refused_while_the_books_take_all_the_memory_they_may() {
        let mut bench = bench();
        bench.appender.set_memory(32 * 100);
        let messages: Vec<MessageId> = (0..99).map(|_| submit(&mut bench).0).collect();
        bench.appender.measure();
        assert_eq!(bench.shared.health(), Health::Good);
        submit(&mut bench);
        bench.appender.measure();
        assert_eq!(bench.shared.health(), Health::Full);
        // What is under way already is completed, and the queue drains.
        assert_eq!(submit(&mut bench).1, ["stored", "arrived"]);
        for (message, expected) in messages.iter().take(8).zip([Health::Full; 7].into_iter().chain([Health::Good])) {
            bench.appender.take(route(*message, &[0]));
            bench.appender.take(Request::Outcomes(vec![outcome(*message, 0, &[0], DELIVERED)]));
            bench.turn();
            bench.appender.settle();
            bench.appender.settle();
            bench.appender.measure();
            assert_eq!(bench.shared.health(), expected);
        }
    }

    #[test]
    fn a_burst_of_mail_does_not_use_up_the_reserve_between_two_looks_at_the_disk() {
        let mut bench = Bench::open(Simulated::default(), 4096);
        bench.disk.set_free(10 * RESERVE);
        bench.appender.set_reserve(RESERVE);
        assert_eq!(submit(&mut bench).1, ["stored", "arrived"]);
        bench.disk.set_free(0);
        let message = bench.shared.next_id();
        // It needs a segment of its own, and what comes behind it in the same group is refused.
        bench.appender.take_from_client(Request::Append { message, bytes: vec![b'x'; 5000] });
        assert_eq!(submit(&mut bench).1, ["full"]);
        assert_eq!(bench.shared.health(), Health::Full);
    }

    #[test]
    fn delivery_goes_on_when_nothing_is_taken_in() {
        let mut bench = bench();
        let (message, _) = submit(&mut bench);
        with_free(&mut bench, 0);
        bench.appender.take(route(message, &[0]));
        assert_eq!(names(&bench.turn()), ["batch"]);
        bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
        assert_eq!(names(&bench.turn()), ["outcome", "done", "removed"]);
    }

    #[test]
    fn a_disk_that_works_again_but_is_still_short_of_space_takes_no_mail() {
        let mut bench = bench();
        with_free(&mut bench, 10);
        bench.disk.break_after(0, std::io::ErrorKind::Other);
        bench.appender.take(Request::Flush { reply: bench.reply(MessageId(1)) });
        bench.commit(b"lost", envelope(ONE));
        bench.turn();
        assert_eq!(bench.shared.health(), Health::Broken);
        bench.disk.heal();
        bench.appender.retry();
        assert_eq!(bench.shared.health(), Health::Full);
    }
}
