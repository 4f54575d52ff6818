use super::super::bench::{Bench, DELIVERED, envelope, outcome, route};
use crate::simulated::{Random, Simulated};
use crate::{Disposition, Fact, MessageId, Notify, PIECE_MAX, Reader, Request};

const SEGMENT: u32 = 16 << 10;
const TWO: &[Notify] = &[Notify::Default, Notify::Default];

/// Hundred messages, of which the first in every twenty stays, deferred for its second recipient, failed for its first.
fn stragglers(content: impl Fn(u32) -> Vec<u8>) -> (Bench, Vec<MessageId>) {
    let mut bench = Bench::open(Simulated::default(), SEGMENT);
    let ids: Vec<MessageId> = (0..100).map(|n| bench.commit(&content(n), envelope(TWO))).collect();
    bench.turn();
    for (n, id) in ids.iter().enumerate() {
        bench.appender.take(route(*id, &[0, 1]));
        bench.turn();
        let outcomes = if n % 20 == 0 {
            vec![outcome(*id, 0, &[0], Disposition::Failed), outcome(*id, 0, &[1], Disposition::Deferred)]
        } else {
            vec![outcome(*id, 0, &[0, 1], DELIVERED)]
        };
        bench.appender.take(Request::Outcomes(outcomes));
        bench.turn();
    }
    (bench, ids.into_iter().step_by(20).collect())
}

fn segment_octets(bench: &Bench) -> u64 {
    bench.shared.statistics().live_bytes
}

#[test]
fn a_spool_with_stragglers_shrinks_to_them() {
    let content = |n: u32| n.to_le_bytes().repeat(250);
    let (mut bench, left) = stragglers(content);
    assert!(segment_octets(&bench) > 60_000, "{:?}", bench.shared.statistics());
    let before = Reader::new(bench.shared.clone()).message(left[0]).unwrap();

    bench.compact();

    assert!(segment_octets(&bench) < 20_000, "{:?}", bench.shared.statistics());
    assert!(bench.shared.statistics().moved_messages >= 4);
    assert_eq!(before.body().collect::<Vec<_>>().concat(), content(0), "what was read before stays readable");
    for bench in [bench.disk.after_kill(), bench.disk.after_power_cut(&mut Random(7))].map(|d| Bench::open(d, SEGMENT))
    {
        assert_eq!(bench.work.batches.iter().map(|batch| batch.id.message).collect::<Vec<_>>(), left);
        for (n, batch) in (0..).step_by(20).zip(&bench.work.batches) {
            assert_eq!((&batch.recipients[..], batch.attempts), (&[1][..], 1));
            assert_eq!(batch.last.as_ref().unwrap().text, "connection refused");
            assert_eq!(bench.body(batch.id.message), content(n));
        }
        assert_eq!(bench.work.facts.iter().filter(|fact| matches!(fact, Fact::Owed(_))).count(), left.len());
    }
}

#[test]
fn a_hundredth_of_the_mail_keeps_little_more_than_its_own_space() {
    const LARGE: u32 = 512 << 10;
    let mut bench = Bench::open(Simulated::default(), LARGE);
    let content = |n: u32| n.to_le_bytes().repeat(1000);
    let ids: Vec<MessageId> = (0..4000).map(|n| bench.commit(&content(n), envelope(TWO))).collect();
    bench.turn();
    for (n, id) in ids.iter().enumerate() {
        bench.appender.take(route(*id, &[0, 1]));
        if n % 100 != 0 {
            bench.appender.take(Request::Outcomes(vec![outcome(*id, 0, &[0, 1], DELIVERED)]));
        }
        bench.turn();
    }
    let full = segment_octets(&bench);
    bench.compact();
    let left = segment_octets(&bench);
    println!("4000 messages of 4 kB, 40 of them left: {full} octets, {left} after compaction");
    assert!(full > 16_000_000, "{full}");
    // Beside their contents: what is known of them, and a segment that is not full yet.
    assert!(left < 40 * 4500 + u64::from(LARGE), "{left} of {full}");
    let bench = Bench::open(bench.disk.after_kill(), LARGE);
    let messages: Vec<MessageId> = bench.work.batches.iter().map(|batch| batch.id.message).collect();
    assert_eq!(messages, ids.iter().copied().step_by(100).collect::<Vec<_>>());
    assert!((0..).step_by(100).zip(&messages).all(|(n, id)| bench.body(*id) == content(n)));
}

#[test]
fn a_large_body_is_copied_in_slices() {
    let mut bench = Bench::open(Simulated::default(), 8 << 20);
    let large: Vec<u8> = (0..3 << 20).map(|n: u32| (n >> 8) as u8).collect();
    let message = bench.shared.next_id();
    large.chunks(PIECE_MAX).for_each(|bytes| bench.appender.take(Request::Append { message, bytes: bytes.to_vec() }));
    let reply = bench.reply(message);
    let envelope_of_two = Box::new(envelope(TWO));
    bench.appender.take(Request::Commit { message, tail: vec![], digest: [0; 32], envelope: envelope_of_two, reply });
    let others: Vec<MessageId> = (0..6).map(|n: u8| bench.commit(&vec![n; 1 << 20], envelope(TWO))).collect();
    bench.turn();
    for id in others {
        bench.appender.take(route(id, &[0, 1]));
        bench.appender.take(Request::Outcomes(vec![outcome(id, 0, &[0, 1], DELIVERED)]));
        bench.turn();
    }
    let most_in_a_step = |bench: &mut Bench| {
        bench.appender.grant(1 << 16);
        let before = bench.shared.statistics().bytes;
        bench.appender.settle();
        bench.shared.statistics().bytes - before
    };
    let mut most = 0;
    for _ in 0..200 {
        most = most.max(most_in_a_step(&mut bench));
    }
    assert_eq!(bench.shared.statistics().moved_messages, 1);
    assert!(most < 2 * PIECE_MAX as u64, "{most} octets in one group");
    assert_eq!(bench.body(message), large);
    assert_eq!(Bench::open(bench.disk.after_kill(), 8 << 20).body(message), large);
}

#[test]
fn a_body_that_many_share_is_copied_once() {
    let (mut bench, left) = stragglers(|_| vec![b'x'; 3000]);
    bench.compact();
    let bodies = left.iter().map(|id| Reader::new(bench.shared.clone()).message(*id).unwrap());
    let extents: Vec<_> = bodies.map(|stored| stored.extents().collect::<Vec<_>>()).collect();
    assert!(bench.shared.statistics().moved_messages >= 4);
    assert!(extents.iter().all(|extent| *extent == extents[0]), "{extents:?}");
}

#[test]
fn a_damaged_body_is_not_made_sound_by_a_copy() {
    let (bench, left) = stragglers(|n| n.to_le_bytes().repeat(250));
    let extent = Reader::new(bench.shared.clone()).message(left[0]).unwrap().extents().next().unwrap();
    bench.disk.corrupt(extent.segment, extent.offset + 9);
    let mut bench = Bench::open(bench.disk.after_kill(), SEGMENT);
    bench.compact();
    let bench = Bench::open(bench.disk.after_kill(), SEGMENT);
    assert_eq!(bench.work.batches.iter().map(|batch| batch.id.message).collect::<Vec<_>>(), left);
    let reader = Reader::new(bench.shared.clone());
    let sound: Vec<bool> = left.iter().map(|id| reader.intact(*id).is_ok()).collect();
    assert_eq!(sound, [false, true, true, true, true]);
}

#[test]
fn nothing_moves_that_is_not_paid_for() {
    let (mut bench, _) = stragglers(|n| n.to_le_bytes().repeat(250));
    for _ in 0..10 {
        bench.appender.settle();
    }
    assert_eq!(bench.shared.statistics().moved_messages, 0);
}
