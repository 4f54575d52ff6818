//! What is wrong with a configuration, shown at its place.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// Why a configuration is not usable. Prints as a text of several lines for an operator.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is read and says something that it may not say.
    Invalid {
        /// Every mistake, in the order of the text.
        problems: Vec<Problem>,
    },
}

/// One mistake in a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What is wrong, in one sentence.
    pub title: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected, or what to do.
    pub help: Option<String>,
    /// The whole message with an excerpt of the source.
    rendered: String,
}

/// A mistake as the checks find it: octets of the text, and words.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) span: Range<usize>,
    pub(crate) title: String,
    pub(crate) label: String,
    pub(crate) help: Option<String>,
}

impl Finding {
    pub(crate) fn new(span: Range<usize>, title: impl Into<String>) -> Self {
        Self { span, title: title.into(), label: String::new(), help: None }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A message of the TOML library, which is one or more lines: what, and what was expected.
    pub(crate) fn from_toml(error: &toml::de::Error) -> Self {
        let mut lines = error.message().splitn(2, '\n');
        let title = lines.next().unwrap_or_default().to_owned();
        // `unknown field `x`, expected one of …` is two sentences for a reader.
        let (title, expected) = match title.split_once(", expected ") {
            Some((what, expected)) => (what.to_owned(), Some(format!("expected {expected}"))),
            None => (title, lines.next().map(|rest| rest.replace('\n', ", "))),
        };
        let expected = expected.map(|text| match text.as_str() {
            "expected i64" => "expected a whole number".to_owned(),
            "expected f64" => "expected a number".to_owned(),
            _ => text,
        });
        Self { span: error.span().unwrap_or(0..0), title, label: String::new(), help: expected }
    }
}

impl ConfigError {
    pub(crate) fn invalid(name: &str, text: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.span.start);
        let problems = findings.into_iter().map(|finding| Problem::new(name, text, finding)).collect();
        Self::Invalid { problems }
    }

    /// The mistakes, in the order of the text; none when the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid { problems } => problems,
        }
    }
}

impl Problem {
    fn new(name: &str, text: &str, finding: Finding) -> Self {
        let Finding { span, title, label, help } = finding;
        let span = span_within(text, span);
        let before = text.get(..span.start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|c| *c == b'\n').count() + 1;
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        let mark = AnnotationKind::Primary.span(span);
        let mark = if label.is_empty() { mark } else { mark.label(label) };
        let mut group = Level::ERROR
            .primary_title(printable(&title))
            .element(Snippet::source(text).path(name).fold(true).annotation(mark));
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(printable(help)));
        }
        let rendered = Renderer::plain().render(&[group]);
        Self { title, line, column, help, rendered }
    }
}

/// `span` cut to what is within `text` and to its first line, at borders of characters: an excerpt shows where to look,
/// not a whole table.
fn span_within(text: &str, span: Range<usize>) -> Range<usize> {
    let border = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = border(span.start);
    let mut end = border(span.end).max(start);
    if let Some(newline) = text.get(start..end).and_then(|inside| inside.find('\n')) {
        end = start + newline;
    }
    start..end
}

/// Without control characters, which a quoted value of the file may bring into a message.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "the configuration {} cannot be read: {source}", path.display())
            }
            Self::Invalid { problems } => {
                for (n, problem) in problems.iter().enumerate() {
                    if n > 0 {
                        f.write_str("\n\n")?;
                    }
                    write!(f, "{problem}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Invalid { .. } => None,
        }
    }
}
