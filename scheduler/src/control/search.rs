//! Looking through the queue for what a selection means, a page at a time, in memory and beyond the window.

use std::collections::HashSet;
use std::ops::ControlFlow;

use zrelay_clock::Timestamp;

use super::methods::{Addressed, Methods, unexpected};
use super::rpc::RpcError;
use super::selection::Selection;
use crate::beyond::RunId;
use crate::query::{Answer, Ask, PAGE_MAX, RunView};
use crate::snapshot::BatchView;

/// Batches that are remembered as shown while the queue is looked through; 32 MiB or so. Of more, one that comes in or goes
/// out meanwhile may be counted twice.
const SEEN_MAX: usize = 1_000_000;
/// How often the queue is looked through again, at most, because batches went beyond the window meanwhile.
const ROUNDS_MAX: usize = 8;

/// What somebody looks through the queue for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// For all of it: what is beyond the window first.
    ToAct,
    /// For the first of it: what is in memory first.
    ToShow,
}

/// A batch that is meant.
pub(super) struct Match {
    pub(super) view: BatchView,
    /// Those of its recipients that are meant; `None` means all.
    pub(super) recipients: Option<Vec<u32>>,
    /// The first of them, while the spool knows the message.
    pub(super) first: Option<Addressed>,
}

impl Methods {
    /// Shows all that is meant, a page at a time: at most [`PAGE_MAX`] batches, or a run beyond the window. In memory they
    /// come in the order of threads and messages, beyond the window in the order in which they went there.
    ///
    /// Batches go to and fro meanwhile. Who acts on them sees each that is there all the time: what was beyond the window
    /// and has come in is found in memory behind that, and what has gone out meanwhile is looked at as well, until nothing
    /// more did. None is shown twice, as far as [`SEEN_MAX`] reaches.
    pub(super) fn each_page(
        &self,
        selection: &Selection,
        order: Order,
        now: Timestamp,
        mut visit: impl FnMut(Vec<Match>) -> Result<ControlFlow<()>, RpcError>,
    ) -> Result<(), RpcError> {
        let mut seen = HashSet::new();
        let mut visit = |batches: Vec<BatchView>| {
            let mut matches = self.matches(selection, batches, now);
            matches.retain(|found| seen.len() >= SEEN_MAX || seen.insert(found.view.id));
            if matches.is_empty() { Ok(ControlFlow::Continue(())) } else { visit(matches) }
        };
        if let Some(message) = selection.message() {
            for page in self.batches_of(message)?.chunks(PAGE_MAX) {
                if visit(page.to_vec())?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let mut last = None;
        if order == Order::ToAct && self.each_run(selection, &mut last, &mut visit)?.is_break() {
            return Ok(());
        }
        for _ in 0..ROUNDS_MAX {
            let before = last;
            let ended = self.each_in_memory(selection, &mut visit)?.is_break()
                || self.each_run(selection, &mut last, &mut visit)?.is_break();
            if ended || order == Order::ToShow || last == before {
                return Ok(());
            }
        }
        log::warn!("batches go beyond the window as fast as they are looked through; {selection} may have missed some");
        Ok(())
    }

    /// What is beyond the window, behind the run `last`.
    fn each_run(
        &self,
        selection: &Selection,
        last: &mut Option<RunId>,
        visit: &mut impl FnMut(Vec<BatchView>) -> Result<ControlFlow<()>, RpcError>,
    ) -> Result<ControlFlow<()>, RpcError> {
        let only = selection.thread();
        loop {
            let ask = Ask::Run { thread: only.cloned(), message: None, after: *last };
            let Answer::Run(found) = self.scheduler.ask(ask)? else { return unexpected() };
            let Some(RunView { run, batches }) = found else { return Ok(ControlFlow::Continue(())) };
            *last = Some(run);
            let Some(batches) = batches else { continue };
            if visit(batches)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn each_in_memory(
        &self,
        selection: &Selection,
        visit: &mut impl FnMut(Vec<BatchView>) -> Result<ControlFlow<()>, RpcError>,
    ) -> Result<ControlFlow<()>, RpcError> {
        let only = selection.thread();
        let mut after = None;
        loop {
            let ask = Ask::Batches { thread: only.cloned(), after };
            let Answer::Batches { views, next } = self.scheduler.ask(ask)? else { return unexpected() };
            if visit(views)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match next {
                Some(_) => after = next,
                None => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    pub(super) fn matches(&self, selection: &Selection, page: Vec<BatchView>, now: Timestamp) -> Vec<Match> {
        let admitted = page.into_iter().filter(|view| selection.admits(view, now));
        admitted.filter_map(|view| self.matched(selection, view)).collect()
    }

    fn matched(&self, selection: &Selection, view: BatchView) -> Option<Match> {
        let reads = selection.reads_addresses();
        // One address stands for the batch unless all must be read.
        let wanted = if reads { view.recipients.len() } else { 1 };
        let indices = view.recipients.get(..wanted).unwrap_or(&view.recipients);
        let Some(addresses) = self.store.addresses(view.id.message, indices) else {
            return (!reads).then_some(Match { view, recipients: None, first: None });
        };
        let admitted = indices.iter().zip(addresses).filter(|(_, addressed)| selection.admits_address(addressed));
        let (numbers, mut addresses): (Vec<u32>, Vec<Addressed>) = admitted.unzip();
        if addresses.is_empty() {
            return None;
        }
        let all = !reads || numbers.len() == view.recipients.len();
        let first = Some(addresses.swap_remove(0));
        Some(Match { view, recipients: (!all).then_some(numbers), first })
    }
}
