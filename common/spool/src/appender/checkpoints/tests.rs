//! Restarts from checkpoints. That they find what is on record, whatever happens, is for the model to show.

use std::io::ErrorKind;

use zrelay_clock::Timestamp;

use super::super::bench::{Bench, DELIVERED, envelope, fill, names, outcome, route};
use crate::format::{Found, Kind, RECORD_HEADER, SEGMENT_HEADER, Scan, Step};
use crate::recovery::Work;
use crate::shared::Place;
use crate::simulated::{Fault, Random, Simulated, Victim};
use crate::{
    BatchId, BatchState, Damage, Disposition, Fact, MessageId, Notify, ReadError, Reader, Request, ThreadKey,
    ThreadState,
};

const ONE: &[Notify] = &[Notify::Default];

fn bench() -> Bench {
    Bench::open(Simulated::default(), 1 << 16)
}

fn store(bench: &mut Bench) -> MessageId {
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    bench.turn();
    message
}

fn down() -> ThreadState {
    let key = ThreadKey::new("smtp", "down.example");
    ThreadState { key, failures: 3, due: Timestamp::from_secs(77), held: false, last: None }
}

fn told(work: &Work) -> String {
    format!("{:?} {:?} {:?} {:?}", work.threads, work.batches, work.arrived, work.facts)
}

/// A queue with something of everything: deferred, held, unrouted, done in part, owed, rerouted; a host that is down.
fn busy() -> Bench {
    let mut bench = bench();
    let messages: Vec<MessageId> = (0..200).map(|_| store(&mut bench)).collect();
    bench.commit(b"unrouted", envelope(ONE));
    let post = bench.commit(b"post", envelope(&[Notify::Default; 100]));
    bench.turn();
    bench.appender.take(route(post, &(0..100).collect::<Vec<u32>>()));
    let held =
        BatchState { id: BatchId { message: messages[3], number: 0 }, held: true, due: Timestamp::NEVER, attempts: 4 };
    for request in [
        Request::Outcomes(vec![outcome(messages[1], 0, &[0], Disposition::Deferred)]),
        Request::Outcomes(vec![outcome(messages[2], 0, &[0], Disposition::Failed)]),
        Request::Outcomes(vec![outcome(post, 0, &[5, 6, 7], DELIVERED), outcome(post, 0, &[8], Disposition::Expired)]),
        Request::Batch(held),
        Request::Reroute { id: BatchId { message: messages[4], number: 0 }, thread: ThreadKey::new("smtp", "other") },
        Request::Thread(down()),
        Request::Outcomes(messages[100..].iter().map(|message| outcome(*message, 0, &[0], DELIVERED)).collect()),
    ] {
        bench.appender.take(request);
        bench.turn();
    }
    // The ends of those that are delivered are recorded, so that nobody is told of them again.
    (0..3).for_each(|_| bench.appender.settle());
    bench.outputs();
    bench
}

#[test]
fn a_restart_from_a_checkpoint_tells_what_one_from_the_log_tells() {
    let mut bench = busy();
    let from_log = told(&bench.restarted().work);
    bench.checkpoint_all();
    assert!(bench.disk.checkpoint_mut(|checkpoint| checkpoint.is_some()));
    assert_eq!(told(&bench.restarted().work), from_log);
    // And what is recorded behind it counts as well.
    let late = store(&mut bench);
    let work = bench.restarted().work;
    bench.disk.checkpoint_mut(|checkpoint| *checkpoint = None);
    assert_eq!(told(&work), told(&bench.restarted().work));
    assert!(work.batches.iter().any(|batch| batch.id.message == late));
}

#[test]
fn a_second_checkpoint_is_made_from_the_first() {
    let mut bench = busy();
    bench.checkpoint_all();
    let more: Vec<MessageId> = (0..50).map(|_| store(&mut bench)).collect();
    bench.appender.take(Request::Outcomes(vec![outcome(more[7], 0, &[0], Disposition::Deferred)]));
    bench.turn();
    let before = told(&bench.restarted().work);
    bench.checkpoint_all();
    assert_eq!(told(&bench.restarted().work), before);
    // And the books are as they were: everything can leave.
    let mut bench = bench.restarted();
    for batch in std::mem::take(&mut bench.work.batches) {
        let done = outcome(batch.id.message, batch.id.number, &batch.recipients, Disposition::Dropped);
        bench.appender.take(Request::Outcomes(vec![done]));
        bench.turn();
    }
    assert!(bench.restarted().work.batches.is_empty());
}

#[test]
fn a_checkpoint_says_the_same_however_little_memory_it_is_made_in() {
    for with_base in [false, true] {
        let made = |octets: usize| {
            let mut bench = busy();
            if with_base {
                bench.checkpoint_all();
                let late = store(&mut bench);
                bench.appender.take(Request::Outcomes(vec![outcome(late, 0, &[0], Disposition::Deferred)]));
                bench.turn();
            }
            let before = told(&bench.restarted().work);
            bench.job_octets = octets;
            bench.checkpoint_all();
            assert_eq!(told(&bench.restarted().work), before, "{octets} octets");
            // Ids are times: they differ from one run to the next.
            bench.disk.checkpoint_mut(|checkpoint| checkpoint.as_ref().map(Vec::len))
        };
        let whole = made(usize::MAX);
        assert!([0, 300, 5000, 20_000].into_iter().all(|octets| made(octets) == whole));
    }
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_log_is_read() {
    let mut bench = busy();
    bench.checkpoint_all();
    let expected = told(&bench.restarted().work);
    let octets = bench.disk.checkpoint_mut(|checkpoint| checkpoint.clone()).unwrap();
    let mut random = Random(7);
    for _ in 0..200 {
        let mut damaged = octets.clone();
        let at = random.next() as usize % damaged.len();
        if random.coin() {
            damaged[at] ^= 1 << (random.next() % 8);
        } else {
            damaged.truncate(at);
        }
        bench.disk.checkpoint_mut(|checkpoint| *checkpoint = Some(damaged));
        let restarted = bench.restarted();
        assert_eq!(told(&restarted.work), expected, "octet {at}");
        assert!(restarted.disk.checkpoint_mut(|checkpoint| checkpoint.is_none()), "it is set aside");
    }
}

#[test]
fn a_checkpoint_of_another_spool_is_not_believed() {
    let mut other = busy();
    other.checkpoint_all();
    let octets = other.disk.checkpoint_mut(|checkpoint| checkpoint.clone());
    let mut bench = bench();
    let message = store(&mut bench);
    bench.disk.checkpoint_mut(|checkpoint| *checkpoint = octets);
    let restarted = bench.restarted();
    assert_eq!(restarted.work.batches.iter().map(|batch| batch.id.message).collect::<Vec<_>>(), [message]);
}

#[test]
fn a_disk_that_refuses_a_checkpoint_keeps_the_one_before() {
    let mut bench = busy();
    bench.checkpoint_all();
    let before = bench.disk.checkpoint_mut(|checkpoint| checkpoint.clone());
    store(&mut bench);
    bench.appender.set_checkpoint_octets(0);
    bench.appender.settle();
    bench.outputs();
    bench.disk.break_after(1, ErrorKind::StorageFull);
    assert!(bench.job.is_some() && !bench.checkpoint());
    bench.disk.heal();
    assert_eq!(bench.disk.checkpoint_mut(|checkpoint| checkpoint.clone()), before);
    assert_eq!(names(&bench.turn()), [] as [&str; 0], "mail goes on");
}

#[test]
fn what_has_left_the_queue_since_an_old_checkpoint_does_not_come_back_when_its_segments_are_gone() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let messages: Vec<MessageId> = (0..40).map(|_| store(&mut bench)).collect();
    bench.checkpoint_all();
    // From here on no other is made.
    bench.appender.set_checkpoint_octets(u64::MAX);
    bench.job = None;
    for message in &messages[..39] {
        bench.appender.take(Request::Outcomes(vec![outcome(*message, 0, &[0], DELIVERED)]));
        bench.turn();
    }
    for _ in 0..100 {
        let message = store(&mut bench);
        bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
        bench.turn();
        bench.appender.settle();
    }
    bench.compact();
    assert!(bench.disk.segments().first().is_some_and(|first| *first > 3), "{:?}", bench.disk.segments());
    let restarted = bench.restarted();
    assert_eq!(restarted.work.batches.iter().map(|batch| batch.id.message).collect::<Vec<_>>(), messages[39..]);
}

/// A checkpoint as version 1 wrote it, from one in which nothing became of any message: without the octet behind each that
/// says so.
fn of_version_1(octets: &[u8]) -> Vec<u8> {
    let number = |at: usize| u32::from_le_bytes(octets[at..at + 4].try_into().unwrap());
    let (foot, mut at) = (octets.len() - 16, 16);
    let (rest, index) = (number(foot + 4) as usize, number(foot + 8) as usize);
    let mut old = octets[..at].to_vec();
    old[8] = 1;
    let mut places = Vec::new();
    while at < rest {
        let length = number(at) as usize;
        assert_eq!(octets[at + 3 + length], 0, "nothing became of it");
        places.push((at as u32, old.len() as u32));
        old.extend_from_slice(&(length as u32 - 1).to_le_bytes());
        old.extend_from_slice(&octets[at + 4..at + 3 + length]);
        at += 4 + length;
    }
    let shorter = (octets[..rest].len() - old.len()) as u32;
    old.extend_from_slice(&octets[rest..index]);
    for row in octets[index..foot].chunks(12) {
        let (_, place) = places.iter().find(|(place, _)| row[8..] == place.to_le_bytes()).unwrap();
        old.extend_from_slice(&row[..8]);
        old.extend_from_slice(&place.to_le_bytes());
    }
    old.extend_from_slice(&octets[foot..foot + 4]);
    [rest, index].iter().for_each(|at| old.extend_from_slice(&(*at as u32 - shorter).to_le_bytes()));
    old.extend_from_slice(&crc32fast::hash(&old).to_le_bytes());
    old
}

#[test]
fn a_checkpoint_of_the_first_format_is_read_and_continued() {
    let mut bench = bench();
    let messages: Vec<MessageId> = (0..200).map(|_| store(&mut bench)).collect();
    bench.checkpoint_all();
    bench.disk.checkpoint_mut(|checkpoint| {
        let octets = checkpoint.as_ref().unwrap();
        *checkpoint = Some(of_version_1(octets));
    });
    let from_old = told(&bench.restarted().work);
    let mut bench = bench.restarted();
    assert!(bench.shared.checkpoint().0.is_some(), "it was not set aside");
    bench.appender.take(Request::Outcomes(vec![outcome(messages[7], 0, &[0], Disposition::Deferred)]));
    bench.turn();
    bench.checkpoint_all();
    bench.disk.checkpoint_mut(|checkpoint| assert_eq!(checkpoint.as_ref().unwrap()[8], 2));
    let again = bench.restarted();
    assert_ne!(told(&again.work), from_old, "one was put off");
    assert_eq!(again.work.batches.len(), 200);
    bench.disk.checkpoint_mut(|checkpoint| *checkpoint = None);
    assert_eq!(told(&bench.restarted().work), told(&again.work));
}

/// A message with this body that was delivered since the checkpoint, and whose sender is owed a report of that.
fn reported_behind_a_checkpoint(bench: &mut Bench, body: &[u8]) -> MessageId {
    let message = bench.commit(body, envelope(&[Notify::On { success: true, failure: false, delay: false }]));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    bench.turn();
    bench.checkpoint_all();
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    assert_eq!(names(&bench.turn()), ["outcome", "owed", "done"]);
    message
}

/// Whether a report is owed on its last recipient, only its envelope could say.
#[test]
fn a_message_that_is_over_is_told_of_when_its_envelope_is_damaged() {
    let mut bench = bench();
    let message = reported_behind_a_checkpoint(&mut bench, b"x");
    let place = bench.shared.place(message).unwrap();
    bench.disk.tamper(place.segment, |octets| octets[place.offset as usize..][..64].fill(0));
    assert_eq!(bench.restarted().damage, [Damage::Unreadable(ReadError::Damaged(message))]);
}

/// Its envelope lies elsewhere and is sound: it says that a report is owed, and to whom.
#[test]
fn a_message_whose_content_is_cut_off_is_told_of_and_reported_to_its_sender() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let message = reported_behind_a_checkpoint(&mut bench, &[b'x'; 3900]);
    let place = bench.shared.place(message).unwrap();
    assert_eq!(place.segment, 2, "it is not where its content is");
    for cut in [1000, SEGMENT_HEADER as usize] {
        bench.disk.tamper(1, |octets| octets.truncate(cut));
        let bench = bench.restarted();
        assert!(bench.damage.contains(&Damage::Content(message)), "{:?}", bench.damage);
        let [Fact::Owed(owed), Fact::Done(_)] = &bench.work.facts[..] else { panic!("{:?}", bench.work) };
        assert_eq!(owed.message, message);
        assert_eq!(Reader::new(bench.shared.clone()).intact(message).unwrap_err(), ReadError::Content(message));
    }
}

/// The disk fails while nothing in the newest segment is needed any more, so that it goes before there is another one. Then
/// the power is cut: what the checkpoint says of its number does not hold for a later segment.
#[test]
fn the_number_of_a_segment_is_not_used_again_when_only_a_checkpoint_knows_it() {
    let mut bench = bench();
    let finished = bench.commit(&[b'x'; 1000], envelope(ONE));
    bench.turn();
    bench.appender.take(route(finished, &[0]));
    bench.turn();
    deliver(&mut bench, finished);
    bench.checkpoint_all();
    bench.disk.fail(Fault { after: 0, times: Fault::FOREVER, victim: Victim::Syncs, kind: ErrorKind::StorageFull });
    bench.appender.take(Request::Thread(down()));
    bench.turn();
    bench.appender.retry();
    assert_eq!(bench.disk.segments(), []);

    let mut bench = Bench::open(bench.disk.after_power_cut_with(|_| false), 1 << 16);
    let later = store(&mut bench);
    bench.checkpoint_all();
    let found: Vec<MessageId> = bench.restarted().work.batches.iter().map(|batch| batch.id.message).collect();
    assert_eq!(found, [later]);
}

/// The place of the last record of this kind.
fn last_place(bench: &Bench, kind: Kind) -> Place {
    let places = bench.shared.views().into_iter().flat_map(|(segment, view)| {
        let records = Scan::new(&*view, segment, view.len());
        let found = records.filter_map(|step| if let Step::Record(found) = step { Some(found) } else { None });
        let found: Vec<Found> = found.filter(|found| found.kind == kind).collect();
        found.into_iter().map(move |found| Place { segment, offset: found.offset, length: found.length })
    });
    places.last().unwrap()
}

fn deliver(bench: &mut Bench, message: MessageId) {
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    bench.turn();
    bench.settle();
}

/// A checkpoint tells where it is, and it is recorded again when its segment goes.
#[test]
fn the_state_of_a_thread_that_is_damaged_is_not_recorded_again() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    bench.appender.take(Request::Thread(down()));
    let keeps = store(&mut bench);
    fill(&mut bench, 1);
    bench.checkpoint_all();
    let place = last_place(&bench, Kind::Thread);
    bench.disk.corrupt(place.segment, place.offset + 2);
    let damage = [Damage::Record { segment: 1, at: place.offset - RECORD_HEADER, kind: "Thread".to_owned() }];
    let mut bench = bench.restarted();
    assert_eq!(bench.damage, damage);
    deliver(&mut bench, keeps);
    fill(&mut bench, 3);
    assert!(!bench.disk.segments().contains(&place.segment));
    assert_eq!(bench.shared.statistics().damage, 1, "it is told once");
    assert!(bench.restarted().work.threads.is_empty());
}

/// As above, of a message that has left the queue and has records in an older segment.
#[test]
fn damage_to_what_says_that_messages_are_finished_is_told_when_it_should_be_recorded_again() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let (_keeps_first, finished) = (store(&mut bench), store(&mut bench));
    fill(&mut bench, 1);
    let keeps_second = store(&mut bench);
    deliver(&mut bench, finished);
    let place = last_place(&bench, Kind::Finished);
    assert_eq!(place.segment, 2);
    fill(&mut bench, 1);
    bench.checkpoint_all();
    bench.disk.corrupt(place.segment, place.offset + 2);
    let mut bench = bench.restarted();
    assert_eq!(bench.damage, []);
    deliver(&mut bench, keeps_second);
    fill(&mut bench, 3);
    assert!(!bench.disk.segments().contains(&place.segment));
    assert_eq!(bench.shared.statistics().damage, 1);
}
