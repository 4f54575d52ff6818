//! A day of a busy hub: a million recipients in ten thousand threads, one host in ten with a temper.

use std::time::Duration;

use zrelay_sim::{End, History, day};

#[test]
fn a_busy_day_ends_with_every_recipient_delivered_or_reported() {
    let ended = day(20_261_122, 1_000_000, 10_000, History::Silent);
    println!("{ended:#?}");
    assert_eq!(ended.figures.accepted, 1_000_000);
    assert!(ended.time >= Duration::from_secs(86_400), "a day has passed");
    assert!(ended.figures.ends[&End::Delivered] > 900_000, "most of it is delivered");
    assert!(ended.figures.reports > 0 && ended.figures.deferred > 0);
}
