//! Checks of what sets the pace of clauses.

use super::{Check, value};
use crate::error::Finding;
use crate::{Pattern, ReplyClass, ReplyRule, raw};

impl Check<'_> {
    pub(super) fn reply_rule(&mut self, given: &raw::Reply) -> Option<ReplyRule> {
        let matches = Pattern::over_text(given.matches.get_ref()).map_err(|error| {
            let help = format!("{error}; an example: \"450 4.7.1 *too much mail*\"");
            self.find(Finding::new(given.matches.span(), "unusable pattern in reply").help(help));
        });
        let class = self.choice("class", Some(&given.class), ReplyClass::Recipient, &ReplyClass::NAMES);
        let suspend = given
            .suspend
            .as_ref()
            .map(|span| self.span("suspend", Some(span), value::MINUTE, value::SECOND..=value::DAY));
        Some(ReplyRule { matches: matches.ok()?, class, suspend })
    }
}
