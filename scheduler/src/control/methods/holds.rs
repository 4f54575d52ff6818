//! `holds`: what operators hold for mail to come as well; and how holds begin and end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_clock::Timestamp;
use zrelay_holds::Terms;
use zrelay_spool::ThreadKey;

use super::{Methods, listing, unexpected};
use crate::control::access::Caller;
use crate::control::rpc::{RpcError, UNAVAILABLE};
use crate::holds::{HOLDS_MAX, HoldView, Stood};
use crate::query::{Answer, Ask};
use crate::snapshot::BatchView;

/// What a hold is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One thread, by its name.
    Thread,
    /// All threads of a pattern, those to come included.
    Threads,
    /// Mail by its sender, recipient or flow, that to come included.
    Mail,
}

/// A hold that stands. Mail that was held by itself is not among them: `messages state:held` lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HoldRow {
    /// Its terms, as `release` takes them.
    pub hold: String,
    /// What it is for.
    pub scope: Scope,
    /// Since when; not known of single threads.
    pub since: Option<String>,
    /// Who set it; empty where that is not known.
    pub by: String,
}

impl HoldView {
    fn row(&self) -> HoldRow {
        HoldRow {
            hold: self.terms.to_string(),
            scope: if self.terms.is_for_threads() { Scope::Threads } else { Scope::Mail },
            since: self.since.map(Timestamp::rfc3339),
            by: self.by.to_string(),
        }
    }
}

impl Methods {
    pub(super) fn holds(&self) -> Result<Value, RpcError> {
        let standing = self.standing()?;
        let by_name = self.held_threads()?.into_iter().map(|thread| HoldRow {
            hold: thread.to_string(),
            scope: Scope::Thread,
            since: None,
            by: String::new(),
        });
        let rows: Vec<HoldRow> = standing.iter().map(HoldView::row).chain(by_name).collect();
        Ok(Value::Object(listing("holds", &rows)?))
    }

    pub(super) fn standing(&self) -> Result<Vec<HoldView>, RpcError> {
        match self.scheduler.ask(Ask::Holds)? {
            Answer::Holds(standing) => Ok(standing),
            _ => unexpected(),
        }
    }

    /// Threads that are held by their own names.
    fn held_threads(&self) -> Result<Vec<ThreadKey>, RpcError> {
        let (mut held, mut after) = (Vec::new(), None);
        loop {
            let ask = Ask::HeldThreads { after };
            let Answer::HeldThreads { threads, next } = self.scheduler.ask(ask)? else { return unexpected() };
            held.extend(threads);
            match next {
                Some(_) => after = next,
                None => return Ok(held),
            }
        }
    }

    /// Lets a hold stand; returns how many are new.
    pub(super) fn stand(&self, caller: &Caller, terms: &Terms) -> Result<u64, RpcError> {
        let ask = Ask::Stand { terms: terms.clone(), by: caller.to_string().into() };
        match self.scheduler.ask(ask)? {
            Answer::Stood(Stood::New) => Ok(1),
            Answer::Stood(Stood::Known) => Ok(0),
            Answer::Stood(Stood::Full) => {
                let text = format!("there are {HOLDS_MAX} holds already; see \"zrelay holds\", and release some");
                Err(RpcError::new(UNAVAILABLE, text))
            }
            _ => unexpected(),
        }
    }

    /// Ends the holds that these terms cover; returns how many.
    pub(super) fn lift(&self, terms: &Terms) -> Result<u64, RpcError> {
        match self.scheduler.ask(Ask::Lift(terms.clone()))? {
            Answer::Lifted(count) => Ok(count),
            _ => unexpected(),
        }
    }

    /// Whether one of these holds is for a batch by itself.
    pub(super) fn is_held_by(&self, holds: &[HoldView], view: &BatchView) -> bool {
        let mail = holds.iter().map(|hold| &hold.terms).filter(|terms| !terms.is_for_threads());
        let mut fitting = mail
            .filter(|terms| terms.admits_flow(view.flow) && terms.admits_thread(&view.thread.to_string()))
            .peekable();
        if fitting.peek().is_none() {
            return false;
        }
        let addresses = self.store.addresses(view.id.message, &view.recipients).unwrap_or_default();
        fitting.any(|terms| {
            !terms.reads_addresses()
                || addresses.iter().any(|addressed| terms.admits_address(&addressed.sender, &addressed.address))
        })
    }
}
