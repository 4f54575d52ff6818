//! `hold`, `release`, `retry`, `expire`, `drop`, `reroute`: what operators do.

use std::collections::HashSet;
use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_config::CHANNELS;
use zrelay_spool::ThreadKey;

use super::mail::row;
use super::{Methods, rendered, unexpected};
use crate::control::access::Caller;
use crate::control::rpc::RpcError;
use crate::control::search::{Match, Order};
use crate::control::selection::{Given, Selection};
use crate::operator::{Action, Changed, Chosen, Selector};
use crate::query::{Answer, Ask, Moving};
use crate::snapshot::{BatchPlace, BatchView, MessageRow};

/// Rows that a dry run shows.
pub const SAMPLE_MAX: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectorParams {
    selector: Given,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RerouteParams {
    selector: Given,
    to: String,
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
            let ends = if action.is_final() { Ends::Recipients } else { Ends::Nothing };
            return rendered(&self.preview(ends, &selection)?);
        }
        // Holds come first: what arrives while the queue is looked through is caught by them, or goes free.
        let holds = self.begin_or_end(caller, action, &selection)?;
        let mut changed = match selection.plain() {
            Some(selector) => match self.scheduler.ask(Ask::Operate { action, selector })? {
                Answer::Changed(changed) => changed,
                _ => return unexpected(),
            },
            None => self.operate_on_all(action, &selection)?,
        };
        changed.patterns += holds;
        if changed == Changed::default() {
            return Err(RpcError::nothing(format!("nothing in the queue matches {selection}")));
        }
        let Changed { threads, batches, recipients, under_way, patterns, .. } = changed;
        log::info!(
            "{caller}: {action:?} {selection}: {recipients} recipients, {batches} batches, {threads} threads, \
             {under_way} recipients under way, {patterns} holds for mail to come"
        );
        self.settle();
        rendered(&changed)
    }

    /// Sends what is selected to another thread.
    pub(super) fn reroute(&self, caller: &Caller, params: &RerouteParams) -> Result<Value, RpcError> {
        let selection = params.selector.parse()?;
        let to = destination(&params.to)?;
        if params.dry_run {
            return rendered(&self.preview(Ends::Whole, &selection)?);
        }
        let ask = |what| match self.scheduler.ask(Ask::Reroute { what, to: to.clone() })? {
            Answer::Changed(changed) => Ok(changed),
            _ => unexpected(),
        };
        let changed = match selection.plain() {
            Some(selector) => ask(Moving::Selected(selector))?,
            None => self.each_chosen(&selection, |_| true, |batches| ask(Moving::Chosen(batches)))?,
        };
        if changed == Changed::default() {
            return Err(RpcError::nothing(format!(
                "nothing in the queue matches {selection} and is not in {to} already"
            )));
        }
        let Changed { threads, batches, recipients, under_way, divided, .. } = changed;
        log::info!(
            "{caller}: Reroute {selection} to {to}: {recipients} recipients, {batches} batches, {threads} threads, \
             {under_way} recipients under way, {divided} batches left since others are in them"
        );
        self.settle();
        rendered(&changed)
    }

    /// Who did something is told when a restart would know it.
    fn settle(&self) {
        if !self.store.settle() {
            log::warn!("what an operator did is in force, and not on disk yet");
        }
    }

    /// Holds for mail to come begin with a hold and end with a release; says how many.
    fn begin_or_end(&self, caller: &Caller, action: Action, selection: &Selection) -> Result<u64, RpcError> {
        let Some(terms) = selection.terms() else { return Ok(0) };
        match action {
            // A thread is held by its own name.
            Action::Hold if matches!(selection.plain(), Some(Selector::Thread(_))) => Ok(0),
            Action::Hold => self.stand(caller, &terms),
            Action::Release => self.lift(&terms),
            Action::Retry | Action::Drop | Action::Expire => Ok(0),
        }
    }

    fn operate_on_all(&self, action: Action, selection: &Selection) -> Result<Changed, RpcError> {
        // What another hold is for as well stays.
        let others = if action == Action::Release { self.standing()? } else { Vec::new() };
        let is_free = |view: &BatchView| others.is_empty() || !self.is_held_by(&others, view);
        self.each_chosen(selection, is_free, |batches| {
            match self.scheduler.ask(Ask::OperateOn { action, batches })? {
                Answer::Changed(changed) => Ok(changed),
                _ => unexpected(),
            }
        })
    }

    /// Does something to all batches of a selection, a page at a time.
    fn each_chosen(
        &self,
        selection: &Selection,
        admit: impl Fn(&BatchView) -> bool,
        act: impl Fn(Vec<Chosen>) -> Result<Changed, RpcError>,
    ) -> Result<Changed, RpcError> {
        let mut all = Changed::default();
        let mut threads = HashSet::new();
        self.each_page(selection, Order::ToAct, self.clock.now(), |page| {
            let chosen = |found: Match| {
                let open = u32::try_from(found.view.recipients.len()).unwrap_or(u32::MAX);
                let BatchView { thread, id: batch, run, .. } = found.view;
                Chosen { thread, batch, run, open, recipients: found.recipients }
            };
            let batches: Vec<Chosen> = page.into_iter().filter(|found| admit(&found.view)).map(chosen).collect();
            let concerned: Vec<ThreadKey> = batches.iter().map(|one| one.thread.clone()).collect();
            let changed = act(batches)?;
            // A thread on two pages is one.
            if changed.threads > 0 {
                threads.extend(concerned);
            }
            all.batches += changed.batches;
            all.recipients += changed.recipients;
            all.under_way += changed.under_way;
            all.divided += changed.divided;
            Ok(ControlFlow::Continue(()))
        })?;
        all.threads = u64::try_from(threads.len()).unwrap_or(u64::MAX);
        Ok(all)
    }

    fn preview(&self, ends: Ends, selection: &Selection) -> Result<Preview, RpcError> {
        let mut preview = Preview { counts: Changed::default(), sample: Vec::new() };
        let counts = &mut preview.counts;
        let now = self.clock.now();
        let mut threads = HashSet::new();
        self.each_page(selection, Order::ToAct, now, |page| {
            for found in page {
                if ends == Ends::Whole && found.recipients.is_some() {
                    counts.divided += 1;
                    continue;
                }
                let meant = found
                    .recipients
                    .as_ref()
                    .filter(|_| ends == Ends::Recipients)
                    .map_or(found.view.recipients.len(), Vec::len);
                let meant = u64::try_from(meant).unwrap_or(u64::MAX);
                let carried = found.view.place == BatchPlace::Carried;
                if carried {
                    counts.under_way += meant;
                }
                if !carried || ends == Ends::Nothing {
                    counts.batches += 1;
                    counts.recipients += meant;
                }
                if threads.insert(found.view.thread.clone()) {
                    counts.threads += 1;
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

/// What an action does to a batch of which it concerns only some recipients, or that is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// It is done to the batch, now or when it comes back.
    Nothing,
    /// Those recipients end; what is under way is left alone.
    Recipients,
    /// Such batches are left alone.
    Whole,
}

/// A thread that mail can be sent to.
fn destination(text: &str) -> Result<ThreadKey, RpcError> {
    let help = "expected channel/host, such as smtp/[192.0.2.1]:2525";
    let key: ThreadKey = text.parse().map_err(|_| RpcError::params(format!("\"{text}\" is no thread; {help}")))?;
    if !CHANNELS.contains(&&*key.channel) {
        let known = CHANNELS.join(", ");
        return Err(RpcError::params(format!("there is no channel \"{}\"; expected one of {known}", key.channel)));
    }
    if !matches!(&*key.channel, "smtp" | "lmtp") {
        return Ok(key);
    }
    let host = zrelay_config::host::next_hop(&key.host)
        .map_err(|error| RpcError::params(format!("\"{}\" is no host: {error}; {help}", key.host)))?;
    Ok(ThreadKey::new(&key.channel, &host))
}
