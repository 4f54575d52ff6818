//! What the tools ask for comes in pages, and no page takes the scheduler more than so many steps.

use super::world::{World, clause, settings};
use crate::operator::{Action, Selector};
use crate::query::{Answer, Ask, PAGE_MAX, SCAN_MAX};
use crate::snapshot::{BatchMark, BatchView};
use zrelay_spool::{MessageId, ThreadKey};

fn world() -> World {
    let mut world = World::new(settings(clause(|_| {}), 100), 1);
    world.unchecked();
    world
}

/// A name, so that the numbers are in order.
fn host(n: usize) -> String {
    format!("smtp/host{n:06}")
}

/// Threads with nothing in them.
fn empty(world: &mut World, threads: std::ops::Range<usize>) {
    for n in threads {
        let id = world.scheduler.thread_named(&host(n).parse().unwrap());
        world.scheduler.touch(id);
    }
}

/// All batches, a page at a time, and how many pages there were.
fn batches(world: &mut World, thread: Option<&ThreadKey>) -> (Vec<BatchView>, usize) {
    let (mut all, mut pages, mut after) = (Vec::new(), 0, None::<BatchMark>);
    loop {
        let ask = Ask::Batches { thread: thread.cloned(), after };
        let Answer::Batches { views, next } = step(world, &ask) else { panic!() };
        assert!(views.len() <= PAGE_MAX);
        all.extend(views);
        pages += 1;
        after = next;
        if after.is_none() {
            return (all, pages);
        }
    }
}

/// Asks, and looks at how many threads that took.
fn step(world: &mut World, ask: &Ask) -> Answer {
    world.scheduler.names.visited.set(0);
    let answer = world.scheduler.answer(world.now, ask);
    let visited = world.scheduler.names.visited.get();
    assert!(visited <= SCAN_MAX, "{ask:?} goes through {visited} threads at once");
    answer
}

#[test]
fn listings_come_in_pages_in_the_order_of_names() {
    let mut world = world();
    for n in 0..50 {
        world.arrive(&format!("smtp/host{n:02}"), 2, 100);
    }
    let mut seen = Vec::new();
    loop {
        let after = seen.last().cloned();
        let page = world.scheduler.threads(world.now, after.as_ref(), 7);
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|view| view.key));
    }
    assert_eq!(seen.len(), 50);
    assert!(seen.is_sorted());
    let (mut batches, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = world.scheduler.batches(world.now, None, after.as_ref(), 7);
        assert!(page.len() <= 7);
        batches.extend(page.into_iter().map(|view| (view.thread, view.id)));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert!(batches.is_sorted() && seen.iter().eq(batches.iter().map(|(thread, _)| thread)), "{batches:?}");
}

#[test]
fn no_answer_has_more_than_a_page_however_much_there_is() {
    const THREADS: usize = SCAN_MAX + 300;
    let mut world = world();
    for n in 0..THREADS {
        world.arrive(&host(n), 1, 100);
    }
    let mut ask = |ask: Ask| step(&mut world, &ask);
    let (mut threads, mut after) = (0, None);
    loop {
        let Answer::Threads(page) = ask(Ask::Threads { after }) else { panic!() };
        assert!(page.len() <= PAGE_MAX);
        threads += page.len();
        after = page.last().map(|view| view.key.clone());
        if page.len() < PAGE_MAX {
            break;
        }
    }
    let (mut rings, mut after) = (Vec::new(), None);
    loop {
        let Answer::Rings { views, next } = ask(Ask::Rings { after }) else { panic!() };
        assert!(views.len() <= PAGE_MAX);
        rings.extend(views.into_iter().map(|view| view.site));
        after = next;
        if after.is_none() {
            break;
        }
    }
    let (mut ages, mut after) = (0, None);
    loop {
        let Answer::Ages { views, next } = ask(Ask::Ages { after }) else { panic!() };
        assert!(views.len() <= PAGE_MAX);
        ages += views.len();
        after = next;
        if after.is_none() {
            break;
        }
    }
    rings.sort();
    rings.dedup();
    assert_eq!((threads, rings.len(), ages), (THREADS, THREADS, THREADS), "each once");
    // A message is looked for in some threads, and then in the next.
    let Answer::Message { next, .. } = ask(Ask::Message { message: MessageId(1), after: None }) else { panic!() };
    assert_eq!(next, Some(host(SCAN_MAX - 1).parse().unwrap()));
}

#[test]
fn a_page_of_batches_ends_with_many_empty_threads_as_well() {
    const THREADS: usize = 3 * SCAN_MAX;
    let mut world = world();
    empty(&mut world, 0..THREADS);
    let last = world.arrive(&host(THREADS), 1, 100);
    let (all, pages) = batches(&mut world, None);
    assert_eq!(all.iter().map(|view| view.id).collect::<Vec<_>>(), [last]);
    assert!(pages > THREADS / SCAN_MAX, "{pages} pages");
}

#[test]
fn pages_of_batches_lose_none_wherever_they_end() {
    let mut world = world();
    let mut known = Vec::new();
    for n in 0..PAGE_MAX {
        // Empty ones, and some with more than a page.
        let count = [0, 1, 0, 3, 0, 0, 17, if n == 6 { 2 * PAGE_MAX + 1 } else { 1 }][n % 8];
        empty(&mut world, n..n + 1);
        known.extend((0..count).map(|_| world.arrive(&host(n), 1, 100)));
    }
    let (all, _) = batches(&mut world, None);
    let mut seen: Vec<_> = all.iter().map(|view| view.id).collect();
    assert!(all.is_sorted_by_key(|view| (&view.thread, view.id)));
    seen.sort();
    assert_eq!(seen, known);
    for n in 0..PAGE_MAX {
        let thread: ThreadKey = host(n).parse().unwrap();
        let of_thread = all.iter().filter(|view| view.thread == thread).map(|view| view.id);
        let (own, _) = batches(&mut world, Some(&thread));
        assert!(own.iter().map(|view| view.id).eq(of_thread), "{thread}");
    }
}

#[test]
fn threads_that_are_held_by_name_come_in_pages() {
    const THREADS: usize = 2 * SCAN_MAX;
    let mut world = world();
    empty(&mut world, 0..THREADS);
    let held: Vec<ThreadKey> = [0, 1, SCAN_MAX - 1, SCAN_MAX, THREADS - 1].map(|n| host(n).parse().unwrap()).into();
    for thread in &held {
        world.scheduler.operate(world.now, Action::Hold, &Selector::Thread(thread.clone()));
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let Answer::HeldThreads { threads, next } = step(&mut world, &Ask::HeldThreads { after }) else { panic!() };
        found.extend(threads);
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, held);
}

#[test]
fn no_question_takes_more_than_a_page_of_steps_however_many_threads_there_are() {
    let mut world = world();
    empty(&mut world, 0..3 * SCAN_MAX);
    let key: ThreadKey = host(7).parse().unwrap();
    for ask in [
        Ask::Totals,
        Ask::Channels,
        Ask::Rings { after: None },
        Ask::Threads { after: None },
        Ask::Ages { after: None },
        Ask::Thread(key.clone()),
        Ask::Batches { thread: None, after: None },
        Ask::Batches { thread: Some(key), after: None },
        Ask::Message { message: MessageId(1), after: None },
        Ask::Holds,
        Ask::HeldThreads { after: None },
    ] {
        step(&mut world, &ask);
    }
}
