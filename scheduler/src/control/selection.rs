//! The language in which operators say what they mean: see "Selectors" in [`crate::control`]. No term can stand twice.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use zrelay_clock::{Span, SpanError, Timestamp};
use zrelay_config::{Pattern, PatternError};
use zrelay_holds::Terms;
use zrelay_spool::{Flow, MessageId, ThreadKey};

use super::methods::Addressed;
use super::rpc::RpcError;
use crate::operator::{Selector, SelectorError};
use crate::snapshot::BatchView;

/// Terms in one selection at most: more than there are kinds.
const TERMS_MAX: usize = 16;

/// A text is not a term of a selection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum TermError {
    #[error(transparent)]
    Place(#[from] SelectorError),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Age(#[from] SpanError),
    #[error("expected a number, such as attempts:3, attempts:>3 or attempts:<3")]
    Number,
    #[error("expected one of state:due, state:waiting, state:carried, state:held")]
    State,
    #[error("expected a text to look for, such as reply:spam")]
    Text,
    #[error("there is such a term already, and all terms must hold")]
    Twice,
    #[error("a selection has one to 16 terms")]
    Count,
}

/// The parameter `selector`: one term, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Given {
    One(String),
    All(Vec<String>),
}

impl Given {
    pub(super) fn parse(&self) -> Result<Selection, RpcError> {
        match self {
            Self::One(term) => Selection::parse([term.as_str()]),
            Self::All(terms) => Selection::parse(terms.iter().map(String::as_str)),
        }
    }
}

/// What is meant.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Selection {
    threads: Option<Selector>,
    message: Option<MessageId>,
    /// As it was given, and what it stands for.
    flow: Option<(String, Flow)>,
    sender: Option<Pattern>,
    recipient: Option<Pattern>,
    age: Option<Range<Duration>>,
    attempts: Option<Range<u32>>,
    state: Option<String>,
    /// Lower-case.
    reply: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Range<T> {
    Exactly(T),
    Above(T),
    AtLeast(T),
    Below(T),
}

impl<T: PartialOrd> Range<T> {
    #[expect(clippy::needless_pass_by_value, reason = "numbers")]
    fn holds(&self, value: T) -> bool {
        match self {
            Self::Exactly(limit) => value == *limit,
            Self::Above(limit) => value > *limit,
            Self::AtLeast(limit) => value >= *limit,
            Self::Below(limit) => value < *limit,
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), TermError> {
    if slot.is_some() {
        return Err(TermError::Twice);
    }
    *slot = Some(value);
    Ok(())
}

impl Selection {
    /// Reads the terms; each is one text, so that a term may hold blanks.
    pub(super) fn parse<'a>(terms: impl IntoIterator<Item = &'a str>) -> Result<Self, RpcError> {
        let mut selection = Self::default();
        let mut count = 0;
        for term in terms {
            let refuse = |error: TermError| RpcError::params(format!("\"{term}\": {error}"));
            count += 1;
            if count > TERMS_MAX {
                return Err(refuse(TermError::Count));
            }
            selection.add(term).map_err(refuse)?;
        }
        if count == 0 {
            return Err(RpcError::params(TermError::Count.to_string()));
        }
        Ok(selection)
    }

    fn add(&mut self, term: &str) -> Result<(), TermError> {
        // A thread's name holds a slash before any colon: smtp/[IPv6:...]:2525.
        let key = term.split_once(':').filter(|(key, _)| !key.contains('/'));
        match key {
            Some(("sender", pattern)) => once(&mut self.sender, Pattern::new(pattern)?),
            Some(("recipient", pattern)) => once(&mut self.recipient, Pattern::new(pattern)?),
            Some(("flow", name)) if name.is_empty() || name.contains(char::is_control) => Err(TermError::Text),
            Some(("flow", name)) => once(&mut self.flow, (name.to_owned(), zrelay_holds::flow(name))),
            Some(("age", range)) => once(&mut self.age, age(range)?),
            Some(("attempts", range)) => once(&mut self.attempts, attempts(range)?),
            Some(("state", name)) if ["due", "waiting", "carried", "held"].contains(&name) => {
                once(&mut self.state, name.to_owned())
            }
            Some(("state", _)) => Err(TermError::State),
            Some(("reply", "")) => Err(TermError::Text),
            Some(("reply", text)) => once(&mut self.reply, text.to_lowercase()),
            _ => match term.parse()? {
                Selector::Message(id) => once(&mut self.message, id),
                threads => once(&mut self.threads, threads),
            },
        }
    }

    /// The selection as what the scheduler itself knows, if it is no more than that.
    pub(super) fn plain(&self) -> Option<Selector> {
        let rest = Self { threads: None, message: None, ..self.clone() };
        match (&self.threads, self.message) {
            (Some(threads), None) if rest == Self::default() => Some(threads.clone()),
            (None, Some(message)) if rest == Self::default() => Some(Selector::Message(message)),
            _ => None,
        }
    }

    /// What a hold by this selection is for beside what is in the queue now; `None` when it is only for that, because it
    /// is of one message, or looks at what changes with time.
    pub(super) fn terms(&self) -> Option<Terms> {
        let lasting = Self { threads: None, flow: None, sender: None, recipient: None, ..self.clone() };
        if lasting != Self::default() || *self == Self::default() {
            return None;
        }
        let threads = match &self.threads {
            Some(Selector::Threads(pattern)) => Some(pattern.clone()),
            // One that no pattern can spell is for what is there.
            Some(Selector::Thread(key)) => Some(Pattern::new(&key.to_string()).ok()?),
            Some(Selector::Message(_)) => return None,
            None => None,
        };
        let (sender, recipient, flow) = (self.sender.clone(), self.recipient.clone(), self.flow.clone());
        Some(Terms { threads, sender, recipient, flow })
    }

    /// The one message that is meant, if it is said.
    pub(super) fn message(&self) -> Option<MessageId> {
        self.message
    }

    /// The one thread that is meant, if it is said by its name.
    pub(super) fn thread(&self) -> Option<&ThreadKey> {
        match &self.threads {
            Some(Selector::Thread(key)) => Some(key),
            _ => None,
        }
    }

    /// Whether addresses must be read.
    pub(super) fn reads_addresses(&self) -> bool {
        self.sender.is_some() || self.recipient.is_some()
    }

    pub(super) fn admits(&self, view: &BatchView, now: Timestamp) -> bool {
        let thread = match &self.threads {
            Some(Selector::Threads(pattern)) => pattern.matches(&view.thread.to_string()),
            Some(Selector::Thread(key)) => key.to_string().eq_ignore_ascii_case(&view.thread.to_string()),
            _ => true,
        };
        let text = |wanted: &String| view.last_reply().is_some_and(|reply| reply.to_lowercase().contains(wanted));
        thread
            && self.message.is_none_or(|message| view.id.message == message)
            && self.flow.as_ref().is_none_or(|(_, flow)| view.flow == *flow)
            && self.age.is_none_or(|age| age.holds(now.since(view.received)))
            && self.attempts.is_none_or(|attempts| attempts.holds(view.attempts))
            && self.state.as_ref().is_none_or(|state| view.place.name() == state)
            && self.reply.as_ref().is_none_or(text)
    }

    pub(super) fn admits_address(&self, addressed: &Addressed) -> bool {
        self.sender.as_ref().is_none_or(|pattern| pattern.matches_address(&addressed.sender))
            && self.recipient.as_ref().is_none_or(|pattern| pattern.matches_address(&addressed.address))
    }
}

fn range<T, E>(text: &str, bare: fn(T) -> Range<T>, read: impl Fn(&str) -> Result<T, E>) -> Result<Range<T>, E> {
    match text.split_at_checked(1) {
        Some((">", limit)) => read(limit).map(Range::Above),
        Some(("<", limit)) => read(limit).map(Range::Below),
        _ => read(text).map(bare),
    }
}

fn age(text: &str) -> Result<Range<Duration>, TermError> {
    Ok(range(text, Range::AtLeast, |limit| limit.parse().map(|span: Span| span.0))?)
}

fn attempts(text: &str) -> Result<Range<u32>, TermError> {
    range(text, Range::Exactly, str::parse).map_err(|_| TermError::Number)
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn span(age: Duration) -> String {
            Span(age).to_string()
        }
        let mut terms: Vec<String> = Vec::new();
        terms.extend(self.threads.as_ref().map(ToString::to_string));
        terms.extend(self.message.map(|id| id.to_string()));
        terms.extend(self.flow.as_ref().map(|(name, _)| format!("flow:{name}")));
        terms.extend(self.sender.as_ref().map(|pattern| format!("sender:{pattern}")));
        terms.extend(self.recipient.as_ref().map(|pattern| format!("recipient:{pattern}")));
        terms.extend(self.age.map(|age| format!("age:{}", shown(age, span))));
        terms
            .extend(self.attempts.map(|attempts| format!("attempts:{}", shown(attempts, |number| number.to_string()))));
        terms.extend(self.state.as_ref().map(|state| format!("state:{state}")));
        terms.extend(self.reply.as_ref().map(|text| format!("reply:{text}")));
        f.write_str(&terms.join(" "))
    }
}

fn shown<T>(range: Range<T>, show: impl Fn(T) -> String) -> String {
    match range {
        Range::Exactly(limit) | Range::AtLeast(limit) => show(limit),
        Range::Above(limit) => format!(">{}", show(limit)),
        Range::Below(limit) => format!("<{}", show(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(terms: &[&str]) -> Result<Selection, String> {
        Selection::parse(terms.iter().copied()).map_err(|error| error.message)
    }

    #[test]
    fn terms_are_read_and_shown_alike() {
        for terms in [
            &["smtp/a.example"][..],
            &["smtp/[IPv6:2001:db8::1]:2525"],
            &["smtp/*", "sender:<>", "age:>1h30m"],
            &["640A1B2C3D4E5"],
            &["flow:lists.example.net", "attempts:>1"],
            &["recipient:*@b.example", "attempts:<3", "state:held", "reply:too many connections"],
        ] {
            assert_eq!(parse(terms).unwrap().to_string(), terms.join(" "));
        }
    }

    #[test]
    fn only_places_are_plain() {
        assert_eq!(parse(&["smtp/*"]).unwrap().plain(), Some("smtp/*".parse().unwrap()));
        assert_eq!(parse(&["6401"]).unwrap().plain(), Some(Selector::Message(MessageId(0x6401))));
        assert_eq!(parse(&["smtp/*", "6401"]).unwrap().plain(), None);
        assert_eq!(parse(&["state:due"]).unwrap().plain(), None);
    }

    #[test]
    fn wrong_terms_are_named_and_explained() {
        for (terms, part) in [
            (&[][..], "one to 16"),
            (&["state:sleeping"], "state:due"),
            (&["age:old"], "30s"),
            (&["attempts:>x"], "attempts:3"),
            (&["reply:"], "reply:spam"),
            (&["sender:"], "empty"),
            (&["smtp/a", "smtp/b"], "already"),
            (&["nonsense!"], "queue id"),
        ] {
            let error = parse(terms).unwrap_err();
            assert!(error.contains(part), "{terms:?}: {error}");
        }
    }

    #[test]
    fn ranges_hold_at_their_limits_as_they_say() {
        let holds = |text: &str, value: u32| attempts(text).unwrap().holds(value);
        assert!(
            holds("3", 3) && !holds("3", 4) && holds(">3", 4) && !holds(">3", 3) && holds("<3", 2) && !holds("<3", 3)
        );
        assert!(age("2h").unwrap().holds(Duration::from_secs(7200)));
        assert!(!age(">2h").unwrap().holds(Duration::from_secs(7200)));
    }
}
