//! The line itself: one thread per direction, which reads packets from one device and writes them to the other when
//! they are due.
//!
//! ```text
//!   packet ──lost?──▶ queue full? ──▶ leaves when the line is free: octets / rate ──▶ due: delay later ──▶ written
//! ```
//!
//! The queue is arithmetic: how long the line stays busy with what it has taken says how much is in it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use zrelay_tests::random;

/// What a line is like; both directions are alike.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinkSettings {
    /// Time from one end to the other. The round trip takes twice that.
    pub delay: Duration,
    /// Octets a second.
    pub rate: u64,
    /// Octets that may wait for the line; what comes on top is dropped.
    pub queue: u64,
    /// Share of the packets that is lost, 0 to 1.
    pub loss: f64,
    /// Of the losses.
    pub seed: u64,
}

impl LinkSettings {
    /// A line with this round trip and this rate in bits a second, no loss, and a queue of one bandwidth-delay product,
    /// or of 64 KiB where that is more.
    pub fn new(round_trip: Duration, bits_per_second: u64) -> Self {
        let rate = bits_per_second / 8;
        let product = (rate as f64 * round_trip.as_secs_f64()) as u64;
        Self { delay: round_trip / 2, rate, queue: product.max(QUEUE_MIN), loss: 0.0, seed: 1 }
    }

    /// What a packet of full size keeps the line busy.
    pub fn packet_time(&self) -> Duration {
        Duration::from_secs_f64(1500.0 / self.rate.max(1) as f64)
    }

    /// Twice the delay.
    pub fn round_trip(&self) -> Duration {
        self.delay * 2
    }
}

/// Shortest queue, octets: what a modem's buffer holds.
const QUEUE_MIN: u64 = 64 * 1024;

/// What went over one direction of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkReport {
    /// Packets that arrived at the other end.
    pub packets: u64,
    /// Octets that arrived, with IP and TCP headers.
    pub octets: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets dropped because the queue was full.
    pub dropped: u64,
    /// Packets that were written more than 2 ms after their time: the machine was too busy for the measurement.
    pub late: u64,
    /// The most that a packet was late.
    pub lateness_max: Duration,
}

/// Lateness that matters, against round trips of 100 ms.
const LATE: Duration = Duration::from_millis(2);

/// Largest packet, octets: above any MTU that is set here.
const PACKET_MAX: usize = 2048;

/// Packets read before those due are looked at.
const READS_PER_TURN: usize = 64;

/// Longest sleep, so that the end is noticed.
const NAP: Duration = Duration::from_millis(50);

/// One direction at work. Ends on drop.
#[derive(Debug)]
pub(crate) struct Direction {
    stopping: Arc<AtomicBool>,
    report: Arc<Mutex<LinkReport>>,
    thread: Option<JoinHandle<()>>,
}

impl Direction {
    pub(crate) fn start(settings: LinkSettings, from: File, to: File) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(LinkReport::default()));
        let mut line = Line::new(settings, Instant::now());
        let (stop, shared) = (Arc::clone(&stopping), Arc::clone(&report));
        let thread = std::thread::spawn(move || {
            hurry();
            if let Err(error) = carry(&mut line, &from, &to, &stop, &shared) {
                eprintln!("the link broke: {error}");
            }
        });
        Self { stopping, report, thread: Some(thread) }
    }

    pub(crate) fn report(&self) -> LinkReport {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _has_said_why = thread.join();
        }
    }
}

/// Makes the calling thread run as soon as it wants to, as far as the system allows. Without that the line still works,
/// and [`LinkReport::late`] tells how well.
fn hurry() {
    // The default slack of 50 us is half a packet time at 100 Mbit/s.
    let _only_less_exact = nix::sys::prctl::set_timerslack(1);
    let thread = nix::unistd::gettid().to_string();
    let mut command = Command::new("chrt");
    command.args(["--rr", "--pid", "10", &thread]).stdout(Stdio::null()).stderr(Stdio::null());
    let _only_less_exact = command.status();
}

fn carry(
    line: &mut Line,
    mut from: &File,
    mut to: &File,
    stop: &AtomicBool,
    shared: &Mutex<LinkReport>,
) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..READS_PER_TURN {
            let mut packet = line.spare.pop().unwrap_or_default();
            packet.resize(PACKET_MAX, 0);
            match from.read(&mut packet) {
                Ok(octets) => {
                    packet.truncate(octets);
                    line.take(Instant::now(), packet);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    line.spare.push(packet);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(packet) = line.give(Instant::now()) {
            // A device whose receive queue is full drops packets, as a real one would.
            if to.write(&packet).is_err() {
                line.report.dropped += 1;
            }
            line.spare.push(packet);
        }
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = line.report;
        let nap = line.due().map_or(NAP, |due| due.saturating_duration_since(Instant::now())).min(NAP);
        let mut interest = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut interest, Some(TimeSpec::from_duration(nap)), None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The arithmetic of one direction, without devices.
#[derive(Debug)]
struct Line {
    settings: LinkSettings,
    random: u64,
    /// When the line has sent all that it has taken.
    free: Instant,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    report: LinkReport,
}

impl Line {
    fn new(settings: LinkSettings, now: Instant) -> Self {
        Self {
            settings,
            random: settings.seed,
            free: now,
            under_way: VecDeque::new(),
            spare: Vec::new(),
            report: LinkReport::default(),
        }
    }

    fn take(&mut self, now: Instant, packet: Vec<u8>) {
        self.random = random(self.random);
        // 53 bits, as a fraction.
        if ((self.random >> 11) as f64) / ((1_u64 << 53) as f64) < self.settings.loss {
            self.report.lost += 1;
            return self.spare.push(packet);
        }
        let waiting = self.free.saturating_duration_since(now);
        let queued = waiting.as_secs_f64() * self.settings.rate as f64;
        if queued + packet.len() as f64 > self.settings.queue as f64 {
            self.report.dropped += 1;
            return self.spare.push(packet);
        }
        let sending = Duration::from_secs_f64(packet.len() as f64 / self.settings.rate.max(1) as f64);
        self.free = self.free.max(now) + sending;
        self.under_way.push_back((self.free + self.settings.delay, packet));
    }

    fn due(&self) -> Option<Instant> {
        self.under_way.front().map(|(due, _)| *due)
    }

    fn give(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.due().filter(|due| *due <= now)?;
        let (_, packet) = self.under_way.pop_front()?;
        let lateness = now - due;
        self.report.packets += 1;
        self.report.octets += packet.len() as u64;
        self.report.late += u64::from(lateness > LATE);
        self.report.lateness_max = self.report.lateness_max.max(lateness);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(loss: f64) -> (Line, Instant) {
        let now = Instant::now();
        let settings = LinkSettings { delay: Duration::from_millis(50), rate: 100_000, queue: 3000, loss, seed: 1 };
        (Line::new(settings, now), now)
    }

    #[test]
    fn packets_leave_one_behind_the_other_and_arrive_a_delay_later() {
        let (mut line, now) = line(0.0);
        line.take(now, vec![1; 1000]);
        line.take(now, vec![2; 1000]);

        assert_eq!(line.due(), Some(now + Duration::from_millis(60)));
        assert_eq!(line.give(now + Duration::from_millis(59)), None);
        assert_eq!(line.give(now + Duration::from_millis(60)), Some(vec![1; 1000]));
        assert_eq!(line.give(now + Duration::from_millis(69)), None, "the second is still being sent");
        assert_eq!(line.give(now + Duration::from_millis(70)), Some(vec![2; 1000]));
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_dropped_and_later_packets_pass() {
        let (mut line, now) = line(0.0);
        (0..5).for_each(|_| line.take(now, vec![0; 1000]));
        assert_eq!((line.report.dropped, line.under_way.len()), (2, 3));
        line.take(now + Duration::from_millis(10), vec![0; 1000]);
        assert_eq!((line.report.dropped, line.under_way.len()), (2, 4));
    }

    #[test]
    fn losses_are_as_many_as_asked_for() {
        let (mut line, now) = line(0.1);
        for step in 0..10_000 {
            line.take(now + Duration::from_secs(step), vec![0; 10]);
        }
        assert!((900..1100).contains(&line.report.lost), "{}", line.report.lost);
    }
}
