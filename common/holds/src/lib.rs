//! Standing holds: what operators hold that is not there yet.
//!
//! A hold by `smtp/*.example.net`, `sender:*@bad.example`, `recipient:` or `flow:` goes for mail to come as well. The
//! scheduler keeps these holds and holds each batch that one of them is for, when it is told of it. It shows them to the
//! router ([`Standing`]), which puts the recipients that one is for into batches of their own, so that the others of the
//! same message go out.
//!
//! ```
//! use zrelay_holds::Terms;
//!
//! let hold = Terms::parse(["smtp/*.example.net", "sender:*@bad.example"])?;
//! assert!(hold.admits_thread("smtp/mx.example.net") && hold.admits_address("ann@bad.example", "bob@example.net"));
//! assert!(Terms::parse(["sender:*"])?.covers(&hold), "the wider one releases it");
//! # Ok::<(), zrelay_holds::TermsError>(())
//! ```
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use zrelay_config::{Pattern, PatternError};
use zrelay_spool::Flow;

/// What a hold is for: mail that all of these allow. One that is missing allows everything.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Terms {
    /// Over `channel/host`.
    pub threads: Option<Pattern>,
    /// Over the envelope sender.
    pub sender: Option<Pattern>,
    /// Over the recipient's address, or its domain.
    pub recipient: Option<Pattern>,
    /// As it was given, and what it stands for.
    pub flow: Option<(String, Flow)>,
}

/// A text is not what a hold can be for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TermsError {
    /// A pattern that cannot be.
    #[error("\"{0}\": {1}")]
    Pattern(String, PatternError),
    /// The same kind of term twice.
    #[error("\"{0}\": there is such a term already")]
    Twice(String),
    /// No term at all.
    #[error("a hold needs a term")]
    Empty,
}

impl Terms {
    /// Reads terms as [`Terms::texts`] gives them.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, TermsError> {
        let mut terms = Self::default();
        for text in texts {
            let pattern = |pattern| Pattern::new(pattern).map_err(|error| TermsError::Pattern(text.to_owned(), error));
            // A thread's name holds a slash before any colon: smtp/[IPv6:...]:2525.
            let before = match text.split_once(':').filter(|(key, _)| !key.contains('/')) {
                Some(("sender", rest)) => terms.sender.replace(pattern(rest)?).is_some(),
                Some(("recipient", rest)) => terms.recipient.replace(pattern(rest)?).is_some(),
                Some(("flow", "")) => {
                    return Err(TermsError::Pattern(text.to_owned(), PatternError::Empty));
                }
                Some(("flow", name)) if name.contains(char::is_control) => {
                    return Err(TermsError::Pattern(text.to_owned(), PatternError::Control));
                }
                Some(("flow", name)) => terms.flow.replace((name.to_owned(), flow(name))).is_some(),
                _ => terms.threads.replace(pattern(text)?).is_some(),
            };
            if before {
                return Err(TermsError::Twice(text.to_owned()));
            }
        }
        if terms == Self::default() { Err(TermsError::Empty) } else { Ok(terms) }
    }

    /// The terms as operators write them, one text each.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        texts.extend(self.threads.as_ref().map(ToString::to_string));
        texts.extend(self.flow.as_ref().map(|(name, _)| format!("flow:{name}")));
        texts.extend(self.sender.as_ref().map(|pattern| format!("sender:{pattern}")));
        texts.extend(self.recipient.as_ref().map(|pattern| format!("recipient:{pattern}")));
        texts
    }

    /// Whether it is for threads as such.
    pub fn is_for_threads(&self) -> bool {
        self.threads.is_some() && !self.reads_addresses() && self.flow.is_none()
    }

    /// Whether addresses must be read to tell what it is for.
    pub fn reads_addresses(&self) -> bool {
        self.sender.is_some() || self.recipient.is_some()
    }

    /// Whether it can be for mail of the thread of this name.
    pub fn admits_thread(&self, name: &str) -> bool {
        self.threads.as_ref().is_none_or(|pattern| pattern.matches(name))
    }

    /// Whether it can be for mail of this flow.
    pub fn admits_flow(&self, flow: Flow) -> bool {
        self.flow.as_ref().is_none_or(|(_, own)| *own == flow)
    }

    /// Whether it can be for this recipient of this sender; both without brackets, the null sender empty.
    pub fn admits_address(&self, sender: &str, recipient: &str) -> bool {
        self.sender.as_ref().is_none_or(|pattern| pattern.matches_address(sender))
            && self.recipient.as_ref().is_none_or(|pattern| pattern.matches_address(recipient))
    }

    /// Whether a release by these terms takes back a hold by the others: each term stands there in the same words, or
    /// matches the words that stand there, where none at all is `*`.
    pub fn covers(&self, hold: &Self) -> bool {
        fn covers(own: Option<&Pattern>, other: Option<&Pattern>) -> bool {
            let other = other.map_or("*", Pattern::as_str);
            own.is_none_or(|own| own.as_str() == other || own.matches(other))
        }
        let flows = |own: &(String, Flow)| hold.flow.as_ref().is_some_and(|(_, other)| *other == own.1);
        covers(self.threads.as_ref(), hold.threads.as_ref())
            && covers(self.sender.as_ref(), hold.sender.as_ref())
            && covers(self.recipient.as_ref(), hold.recipient.as_ref())
            && self.flow.as_ref().is_none_or(flows)
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(" "))
    }
}

/// A flow by its name, or by the number that the tools print.
pub fn flow(name: &str) -> Flow {
    let number = (name.len() == 8).then(|| u32::from_str_radix(name, 16).ok()).flatten();
    number.map_or_else(|| Flow::named(name), Flow)
}

/// The holds in force, as the router sees them: a handle, to be cloned freely. A router that sees a hold late puts
/// recipients together that are held together: nothing that is to be held goes out for it.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<RwLock<Arc<[Arc<Terms>]>>>);

impl Standing {
    /// Those that stand now.
    pub fn get(&self) -> Arc<[Arc<Terms>]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, these stand.
    pub fn set(&self, holds: Vec<Arc<Terms>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = holds.into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(texts: &[&str]) -> Terms {
        Terms::parse(texts.iter().copied()).unwrap()
    }

    #[test]
    fn terms_are_read_and_shown_alike() {
        for texts in [
            &["smtp/*.example"][..],
            &["smtp/[IPv6:2001:db8::1]:2525", "sender:<>"],
            &["flow:a list", "sender:*@bad.example", "recipient:example.net"],
        ] {
            assert_eq!(terms(texts).texts(), texts);
        }
        assert_eq!(Terms::parse([]), Err(TermsError::Empty));
        assert!(matches!(Terms::parse(["sender:a", "sender:b"]), Err(TermsError::Twice(_))));
        assert!(matches!(Terms::parse(["sender:"]), Err(TermsError::Pattern(..))));
    }

    #[test]
    fn a_hold_is_released_by_its_own_words_and_by_wider_ones() {
        let covers = |own: &[&str], other: &[&str]| terms(own).covers(&terms(other));
        assert!(covers(&["sender:*@bad.example"], &["sender:*@bad.example"]));
        assert!(covers(&["sender:*.example"], &["sender:*@bad.example"]));
        assert!(covers(&["sender:*"], &["smtp/a", "sender:x@bad.example", "flow:l"]));
        assert!(covers(&["*"], &["recipient:b.example"]), "a star is for everything");
        assert!(covers(&["flow:LIST"], &["flow:list", "smtp/*"]));
        assert!(!covers(&["sender:x@bad.example"], &["sender:*@bad.example"]));
        assert!(!covers(&["smtp/a", "sender:*"], &["sender:*"]), "it is for other threads too");
        assert!(!covers(&["flow:a"], &["flow:b"]) && !covers(&["flow:a"], &["sender:*"]));
    }

    #[test]
    fn a_flow_has_a_name_or_a_number() {
        assert_eq!(flow("00c0ffee"), Flow(0x00c0_ffee));
        assert_eq!(flow("Lists.example"), Flow::named("lists.example"));
    }

    fn some() -> impl Strategy<Value = Terms> {
        let pattern = |text: &'static str| proptest::option::of(text.prop_map(|text| Pattern::new(&text).unwrap()));
        let flow = proptest::option::of("[ab]").prop_map(|name| name.map(|name| (name.clone(), flow(&name))));
        (pattern("[ab*]/[ab*]{1,2}"), pattern("[ab*]@[ab*]|<>|[*]"), pattern("[ab*]@[ab*]|[ab*]"), flow)
            .prop_map(|(threads, sender, recipient, flow)| Terms { threads, sender, recipient, flow })
            .prop_filter("a hold needs a term", |terms| *terms != Terms::default())
    }

    proptest! {
        #[test]
        fn what_covers_a_hold_admits_all_that_it_is_for(
            wide in some(), narrow in some(), thread in "[ab]/[ab]", sender in "[ab]@[ab]", recipient in "[ab]@[ab]", name in "[ab]",
        ) {
            let is_for = |terms: &Terms| {
                terms.admits_thread(&thread) && terms.admits_flow(flow(&name)) && terms.admits_address(&sender, &recipient)
            };
            if wide.covers(&narrow) && is_for(&narrow) {
                prop_assert!(is_for(&wide), "{wide} covers {narrow}");
            }
            prop_assert!(narrow.covers(&narrow));
            let texts = narrow.texts();
            prop_assert_eq!(Terms::parse(texts.iter().map(String::as_str)).unwrap(), narrow);
        }
    }
}
