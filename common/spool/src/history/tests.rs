use proptest::prelude::*;

use super::*;
use crate::{BatchId, MessageId, RoutedBatch, Status, Timing};

const DELIVERED: Disposition = Disposition::Delivered { dsn_relayed: false };

fn reply(text: &str) -> Arc<Diagnostic> {
    Arc::new(Diagnostic { code: 450, status: Status(4, 2, 1), text: text.into(), ..Diagnostic::default() })
}

fn outcome(batch: u32, attempts: u32, disposition: Disposition, text: &str) -> Outcome {
    Outcome {
        batch: BatchId { message: MessageId(7), number: batch },
        recipients: vec![batch],
        disposition,
        diagnostic: reply(text),
        at: Timestamp::from_secs(u64::from(attempts) * 60),
        attempts,
        due: Timestamp::NEVER,
        timing: Timing::default(),
        channel: None,
    }
}

fn noted(outcomes: &[Outcome], of: u32) -> History {
    let mut history = History::default();
    outcomes.iter().for_each(|outcome| history.note(outcome, &outcome.recipients, of));
    history
}

fn encoded(history: &History, batches: &[BatchDetail]) -> Vec<u8> {
    let mut octets = Vec::new();
    history.encode(&mut Encoder(&mut octets), batches);
    octets
}

fn numbers(history: &History) -> Vec<u32> {
    history.attempts().0.iter().map(|attempt| attempt.attempts).collect()
}

#[test]
fn of_a_batch_the_last_attempts_are_kept_and_it_is_said_that_there_were_more() {
    let deferrals = |last: u32| (1..=last).map(|n| outcome(0, n, Disposition::Deferred, "refused")).collect::<Vec<_>>();
    let all = noted(&deferrals(ATTEMPTS_MAX), 1).finished(1);
    assert_eq!((numbers(&all), all.attempts().1), ((1..=ATTEMPTS_MAX).collect(), Known::All));
    let latest = noted(&deferrals(100), 1).finished(1);
    assert_eq!((numbers(&latest), latest.attempts().1), ((93..=100).collect(), Known::Latest));
}

#[test]
fn the_ends_of_recipients_outlive_the_attempts_at_others() {
    let end = outcome(0, 1, Disposition::Failed, "no such user");
    let deferrals = (1..=50).map(|n| outcome(0, n, Disposition::Deferred, "slow down"));
    let history = noted(&[end].into_iter().chain(deferrals).collect::<Vec<_>>(), 2).finished(2);
    assert_eq!(numbers(&history)[..2], [1, 43]);
    assert_eq!(history.attempts().0[0].disposition, Disposition::Failed);
}

#[test]
fn what_is_kept_is_bounded_whatever_hosts_say() {
    for of in [1, 10, 1000] {
        let texts = (0..5000).map(|n| outcome(n % of, n, DELIVERED, &format!("{n} {}", "x".repeat(1000))));
        let mut history = History::default();
        let bound = OCTETS_MAX + OCTETS_PER_RECIPIENT * of as usize;
        for outcome in texts {
            history.note(&outcome, &outcome.recipients, of);
            let octets = history.0.as_ref().unwrap().octets();
            assert!(octets <= 2 * bound + SLACK + 1200, "{octets} octets for {of} recipients");
        }
        let history = history.finished(of);
        let octets = encoded(&history, &[]).len();
        assert!(octets <= bound + 16, "{octets} octets for {of} recipients");
        assert_eq!(history.attempts().1, Known::Latest);
        assert_eq!(numbers(&history).last(), Some(&4999), "the latest are kept");
    }
}

#[test]
fn the_same_reply_again_and_again_takes_a_few_octets() {
    let deferrals: Vec<Outcome> =
        (1..=8).map(|n| outcome(0, n, Disposition::Deferred, "connect to a[192.0.2.1]:25: refused")).collect();
    let routed = RoutedBatch { thread: ThreadKey::new("smtp", "a"), recipients: vec![0] };
    let last = Some(deferrals[7].diagnostic.clone());
    let batch = BatchDetail { routed, attempts: 8, due: None, held: false, warned: false, last };
    assert_eq!(encoded(&noted(&deferrals, 1), &[batch]).len(), 1 + 4 + 8 * 15);
    assert_eq!(encoded(&History::default(), &[]), [0]);
}

#[test]
fn what_two_records_know_is_put_together() {
    let outcomes: Vec<Outcome> = (1..=6).map(|n| outcome(0, n, Disposition::Deferred, "later")).collect();
    let (mut old, new) = (noted(&outcomes[..4], 1), noted(&outcomes[2..], 1));
    old.merge(&new, 1);
    assert_eq!(numbers(&old), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_attempt_stays_with_the_thread_in_which_it_was_made() {
    let mut history = noted(&[outcome(0, 1, Disposition::Deferred, "a"), outcome(1, 1, Disposition::Deferred, "b")], 2);
    history.rerouted(0, &ThreadKey::new("smtp", "first"));
    history.note(&outcome(0, 1, Disposition::Deferred, "c"), &[0], 2);
    history.rerouted(0, &ThreadKey::new("smtp", "second"));
    let threads = history.attempts().0.into_iter().map(|attempt| attempt.thread.map(|thread| thread.host.to_string()));
    assert_eq!(threads.collect::<Vec<_>>(), [Some("first".to_owned()), None, Some("second".to_owned())]);
}

proptest! {
    #[test]
    fn it_comes_back_as_it_was_written(
        given in prop::collection::vec((0u32..3, 1u32..20, 0usize..4, 0u8..7), 0..60),
        last in 0usize..4,
    ) {
        let texts = ["refused", "slow down", "greylisted, try again later", ""];
        let disposition = |octet| decode_disposition(octet).unwrap();
        let outcomes: Vec<Outcome> = given
            .into_iter()
            .map(|(batch, attempts, text, octet)| outcome(batch, attempts, disposition(octet), texts[text]))
            .collect();
        let routed = RoutedBatch { thread: ThreadKey::new("smtp", "a"), recipients: vec![] };
        let last = Some(reply(texts[last]));
        let batches = [BatchDetail { routed, attempts: 0, due: None, held: false, warned: false, last }];
        let mut history = noted(&outcomes, 3);
        history.rerouted(1, &ThreadKey::new("lmtp", "elsewhere"));
        let history = history.finished(3);
        let octets = encoded(&history, &batches);
        let read = History::decode(&mut Decoder(&octets), &batches).unwrap();
        prop_assert_eq!(read.attempts(), history.attempts());
        for cut in 0..octets.len() {
            prop_assert!(octets[0] == 0 || History::decode(&mut Decoder(&octets[..cut]), &batches).is_err());
        }
    }

    #[test]
    fn noise_is_survived(octets in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(history) = History::decode(&mut Decoder(&octets), &[]) {
            history.attempts();
        }
    }
}
