//! Patterns with `*` and `?`, over thread names and over addresses.

use std::fmt;

/// A pattern in which `*` stands for any run of characters and `?` for any one; everything else for itself, whatever
/// its case.
///
/// Matching costs at most pattern times text: the last star is the only place to return to, so no pattern makes it
/// explode.
///
/// ```
/// use zrelay_config::Pattern;
///
/// let pattern: Pattern = "smtp/*.example.net".parse()?;
/// assert!(pattern.matches("smtp/Lists.Example.NET"));
/// assert!(!pattern.matches("smtp/example.net"));
/// # Ok::<(), zrelay_config::PatternError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    text: String,
    atoms: Vec<Atom>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Atom {
    /// This character, lower-case.
    One(char),
    /// `?`
    Any,
    /// `*`
    Run,
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// Nothing can match it.
    #[error("a pattern must not be empty")]
    Empty,
    /// Longer than [`Pattern::LENGTH_MAX`].
    #[error("a pattern has at most 1024 octets")]
    TooLong,
    /// Neither thread names nor addresses hold such characters; it would never match.
    #[error("a pattern holds no blanks and no control characters")]
    Blank,
    /// No text that it is held against has them.
    #[error("a pattern holds no control characters")]
    Control,
}

impl Pattern {
    /// Longest pattern, octets: longer than any address or thread name (RFC 5321 §4.5.3.1).
    pub const LENGTH_MAX: usize = 1024;

    /// Compiles `text`.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > Self::LENGTH_MAX {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(PatternError::Blank);
        }
        Ok(Self::compile(text))
    }

    /// Compiles a pattern over running text, such as replies: blanks stand for themselves.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn over_text(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > Self::LENGTH_MAX {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Control);
        }
        Ok(Self::compile(text))
    }

    fn compile(text: &str) -> Self {
        let mut atoms = Vec::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '*' if atoms.last() == Some(&Atom::Run) => {}
                '*' => atoms.push(Atom::Run),
                '?' => atoms.push(Atom::Any),
                c => atoms.push(Atom::One(fold(c))),
            }
        }
        Self { text: text.to_owned(), atoms }
    }

    /// The pattern `*`.
    pub(crate) fn any() -> Self {
        Self { text: "*".to_owned(), atoms: vec![Atom::Run] }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut at = 0;
        // Behind the last star seen: where the pattern goes on, and what of the text it is tried on next.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let before = rest.clone();
            let next = rest.next();
            let fits = match (self.atoms.get(at), next) {
                (None, None) => return true,
                (Some(Atom::Run), _) => {
                    rest = before;
                    at += 1;
                    if at == self.atoms.len() {
                        return true;
                    }
                    retry = Some((at, rest.clone()));
                    continue;
                }
                (Some(Atom::Any), Some(_)) => true,
                (Some(Atom::One(want)), Some(c)) => *want == fold(c),
                (Some(_), None) => return false,
                (None, Some(_)) => false,
            };
            if fits {
                at += 1;
                continue;
            }
            let Some((behind_star, mut from)) = retry.take() else { return false };
            from.next();
            rest = from.clone();
            at = behind_star;
            retry = Some((behind_star, from));
        }
    }

    /// Whether an envelope address matches, as the patterns of a `[[route]]` want it: a pattern with an `@` is held
    /// against the whole address, any other against the domain. The null sender is the address `""` or `"<>"`; it
    /// matches the pattern `<>`, and `*`.
    pub fn matches_address(&self, address: &str) -> bool {
        if address.is_empty() || address == "<>" {
            return self.text == "<>" || self.text == "*";
        }
        if self.is_whole_address() {
            return self.matches(address);
        }
        let domain = address.rfind('@').map_or("", |at| address.get(at + 1..).unwrap_or(""));
        self.matches(domain)
    }

    /// Whether it is held against whole addresses rather than domains.
    pub fn is_whole_address(&self) -> bool {
        self.text.contains('@')
    }

    /// Whether it stands for one text alone.
    pub fn is_literal(&self) -> bool {
        !self.atoms.iter().any(|atom| matches!(atom, Atom::Any | Atom::Run))
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Lower case, character by character: those few whose lower case is longer than one character stay as they are.
fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(text)
    }

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "smtp/a"),
            ("smtp/*", "smtp/"),
            ("smtp/*", "SMTP/Example.ORG"),
            ("a?c", "abc"),
            ("*.example.net", "a.b.example.net"),
            ("**a**", "bab"),
            ("a*b*c", "axxbxxbc"),
            ("*ü?", "xÜy"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "ab"),
            ("ab", "a"),
            ("?", ""),
            ("*.example.net", "example.net"),
            ("a*b", "abc"),
            ("smtp/*", "lmtp/a"),
            ("*?", ""),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_text_does_not_blow_up_a_pattern_of_many_stars() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!matches(&pattern, &"a".repeat(2000)));
    }

    #[test]
    fn address_patterns_know_whole_addresses_domains_and_the_null_sender() {
        let on = |pattern: &str, address: &str| Pattern::new(pattern).unwrap().matches_address(address);
        assert!(on("example.net", "Ann@Example.Net"));
        assert!(!on("example.net", "ann@lists.example.net"));
        assert!(on("*.example.net", "ann@lists.example.net"));
        assert!(on("list-*@example.net", "List-owner@example.net"));
        assert!(on("*@example.net", "\"a@b\"@example.net"));
        assert!(on("<>", "") && on("<>", "<>") && on("*", ""));
        assert!(!on("<>", "a@b") && !on("*@*", "") && !on("example.net", ""));
    }

    #[test]
    fn texts_that_can_never_match_are_refused() {
        assert_eq!(Pattern::new(""), Err(PatternError::Empty));
        assert_eq!(Pattern::new("a b"), Err(PatternError::Blank));
        assert_eq!(Pattern::new(&"a".repeat(1025)), Err(PatternError::TooLong));
    }

    /// The definition, exponential and obvious.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => (0..=text.len()).any(|n| reference(rest, &text[n..])),
            (Some((p, rest)), Some((t, more))) => (*p == '?' || p == t) && reference(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{1,8}", text in "[ab]{0,10}") {
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches(&pattern, &text), reference(&p, &t));
        }
    }
}
