//! `hold`, `release`, `retry`, `expire`, `drop`: what operators do.

use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mail::row;
use super::{Methods, rendered, unexpected};
use crate::control::access::Caller;
use crate::control::rpc::RpcError;
use crate::control::selection::{Match, Selection, Terms};
use crate::operator::{Action, Changed, Chosen};
use crate::query::{Answer, Ask};
use crate::snapshot::{BatchPlace, MessageRow};

/// Rows that a dry run shows.
pub const SAMPLE_MAX: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectorParams {
    selector: Terms,
    #[serde(default)]
    dry_run: bool,
}

/// The answer to an action with `dry_run`: what it would concern.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    /// How much.
    #[serde(flatten)]
    pub counts: Changed,
    /// The first few of the batches, [`SAMPLE_MAX`] at most.
    pub sample: Vec<MessageRow>,
}

impl Methods {
    pub(super) fn operate(&self, caller: &Caller, action: Action, params: &SelectorParams) -> Result<Value, RpcError> {
        let selection = params.selector.parse()?;
        if params.dry_run {
            return rendered(&self.preview(action, &selection)?);
        }
        let changed = match selection.plain() {
            Some(selector) => match self.scheduler.ask(Ask::Operate { action, selector })? {
                Answer::Changed(changed) => changed,
                _ => return unexpected(),
            },
            None => self.operate_on_all(action, &selection)?,
        };
        if changed == Changed::default() {
            return Err(RpcError::nothing(format!("nothing in the queue matches {selection}")));
        }
        let Changed { threads, batches, recipients, under_way, .. } = changed;
        log::info!(
            "{caller}: {action:?} {selection}: {recipients} recipients, {batches} batches, {threads} threads, \
             {under_way} recipients under way"
        );
        rendered(&changed)
    }

    fn operate_on_all(&self, action: Action, selection: &Selection) -> Result<Changed, RpcError> {
        let mut all = Changed::default();
        let mut last = None;
        self.each_page(selection, self.clock.now(), |page| {
            let chosen =
                |found: Match| Chosen { thread: found.view.thread, batch: found.view.id, recipients: found.recipients };
            let batches: Vec<Chosen> = page.into_iter().map(chosen).collect();
            let (first, end) =
                (batches.first().map(|one| one.thread.clone()), batches.last().map(|one| one.thread.clone()));
            let Answer::Changed(changed) = self.scheduler.ask(Ask::OperateOn { action, batches })? else {
                return unexpected();
            };
            // A thread at the border of two pages is one.
            let twice = changed.threads > 0 && first.is_some() && first == last;
            all.threads += changed.threads - u64::from(twice);
            all.batches += changed.batches;
            all.recipients += changed.recipients;
            all.under_way += changed.under_way;
            last = end.or_else(|| last.take());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    fn preview(&self, action: Action, selection: &Selection) -> Result<Preview, RpcError> {
        let mut preview = Preview { counts: Changed::default(), sample: Vec::new() };
        let counts = &mut preview.counts;
        let now = self.clock.now();
        let mut last = None;
        self.each_page(selection, now, |page| {
            for found in page {
                let meant = found
                    .recipients
                    .as_ref()
                    .filter(|_| action.is_final())
                    .map_or(found.view.recipients.len(), Vec::len);
                let meant = u64::try_from(meant).unwrap_or(u64::MAX);
                let carried = found.view.place == BatchPlace::Carried;
                if carried {
                    counts.under_way += meant;
                }
                if !carried || !action.is_final() {
                    counts.batches += 1;
                    counts.recipients += meant;
                }
                if last.as_ref() != Some(&found.view.thread) {
                    counts.threads += 1;
                    last = Some(found.view.thread.clone());
                }
                if preview.sample.len() < SAMPLE_MAX {
                    preview.sample.push(row(found, now));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(preview)
    }
}
