//! Commands (RFC 5321 §4.1, RFC 1985, RFC 2033, RFC 3030, RFC 3207): parsing of whole lines, and writing.

use nom::bytes::complete::{tag_no_case, take_while, take_while_m_n, take_while1};
use nom::character::complete::alpha1;
use nom::combinator::{all_consuming, map_res, opt, rest, verify};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

use crate::address::{AddressError, DOMAIN_MAX, Utf8};
use crate::etrn::Node;
use crate::parameters::{self, DIGITS_MAX, MailParameters, Notify, Parameter, RcptParameters};
use crate::path::{self, ForwardPath, ReversePath};
use crate::reply::{Reply, Status};
use crate::text::{is_blank, is_control, push_text, push_word};

/// Whether a chunk of BDAT is the last of its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// `LAST` was given: the message is complete.
    Yes,
    /// More chunks follow.
    No,
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `HELO`, with the client's name.
    Helo(String),
    /// `EHLO`, with the client's name.
    Ehlo(String),
    /// `LHLO` (RFC 2033), with the client's name.
    Lhlo(String),
    /// `MAIL FROM:<path> parameters`
    Mail {
        /// The envelope sender.
        from: ReversePath,
        /// Its ESMTP parameters.
        parameters: MailParameters,
    },
    /// `RCPT TO:<path> parameters`
    Rcpt {
        /// The recipient.
        to: ForwardPath,
        /// Its ESMTP parameters.
        parameters: RcptParameters,
    },
    /// `DATA`
    Data,
    /// `BDAT size [LAST]` (RFC 3030). `size` octets follow behind the CRLF.
    Bdat {
        /// Octets that follow.
        size: u64,
        /// Whether the message is complete with them.
        last: Last,
    },
    /// `RSET`
    Rset,
    /// `NOOP`; its text is dropped.
    Noop,
    /// `VRFY`, with what is to be verified.
    Vrfy(String),
    /// `EXPN`, with the list's name.
    Expn(String),
    /// `HELP`; its text is dropped.
    Help,
    /// `ETRN` (RFC 1985), with whose mail is to be tried now.
    Etrn(Node),
    /// `STARTTLS` (RFC 3207)
    Starttls,
    /// `QUIT`
    Quit,
}

/// Why a line is not a command that can be obeyed, and what to answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No such verb: `500 5.5.2`.
    #[error("command not recognized")]
    Unknown,
    /// A verb that is known but not offered, such as AUTH: `502 5.5.1`.
    #[error("{0} is not implemented")]
    NotImplemented(&'static str),
    /// Not of the form that is named: `501 5.5.4`.
    #[error("syntax: {0}")]
    Syntax(&'static str),
    /// The path of MAIL: `501 5.1.7`; `550 5.6.7` when it wants SMTPUTF8 (RFC 6531 §3.5).
    #[error("bad sender address: {0}")]
    BadSender(AddressError),
    /// The path of RCPT: `501 5.1.3`; `553 5.6.7` when it wants SMTPUTF8.
    #[error("bad recipient address: {0}")]
    BadRecipient(AddressError),
    /// No such parameter: `555 5.5.4`.
    #[error("unsupported parameter {0}")]
    UnknownParameter(String),
    /// A parameter without a value it could have: `501 5.5.4`.
    #[error("bad value of parameter {0}")]
    BadParameter(&'static str),
    /// A parameter given twice: `501 5.5.4`.
    #[error("parameter {0} was given twice")]
    DuplicateParameter(&'static str),
}

impl CommandError {
    /// The reply it deserves.
    pub fn reply(&self) -> Reply {
        let (code, status) = match self {
            Self::Unknown => (500, Status(5, 5, 2)),
            Self::NotImplemented(_) => (502, Status(5, 5, 1)),
            Self::BadSender(AddressError::NonAscii) => (550, Status(5, 6, 7)),
            Self::BadRecipient(AddressError::NonAscii) => (553, Status(5, 6, 7)),
            Self::BadSender(_) => (501, Status(5, 1, 7)),
            Self::BadRecipient(_) => (501, Status(5, 1, 3)),
            Self::UnknownParameter(_) => (555, Status(5, 5, 4)),
            Self::Syntax(_) | Self::BadParameter(_) | Self::DuplicateParameter(_) => (501, Status(5, 5, 4)),
        };
        Reply::new(code, status, format!("Error: {self}"))
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Etrn,
    Starttls,
    Quit,
    Unoffered,
}

/// The verbs, most frequent first, and what a line with each looks like.
const VERBS: [(&str, Verb, &str); 20] = [
    ("RCPT", Verb::Rcpt, "RCPT TO:<address> [parameters]"),
    ("MAIL", Verb::Mail, "MAIL FROM:<address> [parameters]"),
    ("BDAT", Verb::Bdat, "BDAT size [LAST]"),
    ("DATA", Verb::Data, "DATA"),
    ("RSET", Verb::Rset, "RSET"),
    ("QUIT", Verb::Quit, "QUIT"),
    ("EHLO", Verb::Ehlo, "EHLO hostname"),
    ("HELO", Verb::Helo, "HELO hostname"),
    ("LHLO", Verb::Lhlo, "LHLO hostname"),
    ("NOOP", Verb::Noop, "NOOP [text]"),
    ("STARTTLS", Verb::Starttls, "STARTTLS"),
    ("HELP", Verb::Help, "HELP [text]"),
    ("VRFY", Verb::Vrfy, "VRFY address"),
    ("EXPN", Verb::Expn, "EXPN list"),
    ("AUTH", Verb::Unoffered, "AUTH"),
    ("ETRN", Verb::Etrn, "ETRN domain, ETRN @domain, or ETRN #channel/host"),
    ("TURN", Verb::Unoffered, "TURN"),
    ("SEND", Verb::Unoffered, "SEND"),
    ("SOML", Verb::Unoffered, "SOML"),
    ("SAML", Verb::Unoffered, "SAML"),
];

impl Command {
    /// Parses a whole line, without its CRLF.
    ///
    /// `utf8` says whether addresses of RCPT, VRFY and EXPN may be UTF-8: whether the transaction's MAIL had SMTPUTF8.
    /// For the address of MAIL its own SMTPUTF8 parameter decides.
    ///
    /// # Errors
    /// [`CommandError`], with the reply to give.
    pub fn parse(line: &[u8], utf8: Utf8) -> Result<Self, CommandError> {
        let (arguments, (verb, usage)) = verb(line).map_err(|_| CommandError::Unknown)?;
        let syntax = CommandError::Syntax(usage);
        if arguments.iter().copied().any(is_control) {
            return Err(syntax);
        }
        let bare = |command| if blanks_only(arguments) { Ok(command) } else { Err(syntax.clone()) };
        match verb {
            Verb::Mail => mail(arguments, syntax),
            Verb::Rcpt => rcpt(arguments, utf8, syntax),
            Verb::Bdat => bdat(arguments).map_err(|_| syntax),
            Verb::Helo => host_name(arguments).map(Self::Helo).ok_or(syntax),
            Verb::Ehlo => host_name(arguments).map(Self::Ehlo).ok_or(syntax),
            Verb::Lhlo => host_name(arguments).map(Self::Lhlo).ok_or(syntax),
            Verb::Vrfy => text(arguments, utf8).map(Self::Vrfy).ok_or(syntax),
            Verb::Expn => text(arguments, utf8).map(Self::Expn).ok_or(syntax),
            Verb::Etrn => Node::parse(arguments.trim_ascii()).map(Self::Etrn).ok_or(syntax),
            Verb::Data => bare(Self::Data),
            Verb::Rset => bare(Self::Rset),
            Verb::Starttls => bare(Self::Starttls),
            Verb::Quit => bare(Self::Quit),
            Verb::Noop => Ok(Self::Noop),
            Verb::Help => Ok(Self::Help),
            Verb::Unoffered => Err(CommandError::NotImplemented(usage)),
        }
    }

    /// Appends the command and its CRLF.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Helo(name) => line(out, b"HELO ", |out| push_word(out, name)),
            Self::Ehlo(name) => line(out, b"EHLO ", |out| push_word(out, name)),
            Self::Lhlo(name) => line(out, b"LHLO ", |out| push_word(out, name)),
            Self::Mail { from, parameters } => encode_mail(out, from.as_str(), parameters),
            Self::Rcpt { to, parameters } => {
                encode_rcpt(out, to.as_str(), parameters.notify, parameters.orcpt.as_deref());
            }
            Self::Data => out.extend_from_slice(b"DATA\r\n"),
            Self::Bdat { size, last } => encode_bdat(out, *size, *last),
            Self::Rset => out.extend_from_slice(b"RSET\r\n"),
            Self::Noop => out.extend_from_slice(b"NOOP\r\n"),
            Self::Vrfy(text) => line(out, b"VRFY ", |out| push_text(out, text)),
            Self::Expn(text) => line(out, b"EXPN ", |out| push_text(out, text)),
            Self::Etrn(node) => line(out, b"ETRN ", |out| push_text(out, &node.to_string())),
            Self::Help => out.extend_from_slice(b"HELP\r\n"),
            Self::Starttls => out.extend_from_slice(b"STARTTLS\r\n"),
            Self::Quit => out.extend_from_slice(b"QUIT\r\n"),
        }
    }
}

/// Appends `MAIL FROM:<from>`, its parameters and its CRLF; `from` has no brackets and is empty for the null sender.
pub fn encode_mail(out: &mut Vec<u8>, from: &str, parameters: &MailParameters) {
    line(out, b"MAIL FROM:<", |out| {
        push_text(out, from);
        out.push(b'>');
        parameters.encode(out);
    });
}

/// Appends `RCPT TO:<to>`, its parameters and its CRLF; `to` has no brackets.
pub fn encode_rcpt(out: &mut Vec<u8>, to: &str, notify: Option<Notify>, orcpt: Option<&str>) {
    line(out, b"RCPT TO:<", |out| {
        push_text(out, to);
        out.push(b'>');
        parameters::encode_rcpt_parameters(out, notify, orcpt);
    });
}

/// Appends `BDAT size [LAST]` and its CRLF.
pub fn encode_bdat(out: &mut Vec<u8>, size: u64, last: Last) {
    line(out, b"BDAT ", |out| {
        out.extend_from_slice(size.to_string().as_bytes());
        if last == Last::Yes {
            out.extend_from_slice(b" LAST");
        }
    });
}

fn line(out: &mut Vec<u8>, start: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(start);
    write(out);
    out.extend_from_slice(b"\r\n");
}

/// The verb; what remains is empty or begins with a blank.
fn verb(line: &[u8]) -> IResult<&[u8], (Verb, &'static str)> {
    let known = |word: &[u8]| VERBS.iter().find(|(name, ..)| name.as_bytes().eq_ignore_ascii_case(word)).copied();
    let (arguments, (_, verb, usage)) = nom::combinator::map_opt(alpha1, known).parse(line)?;
    let (_, _) =
        verify(rest, |rest: &[u8]| rest.first().is_none_or(|octet| is_blank(char::from(*octet)))).parse(arguments)?;
    Ok((arguments, (verb, usage)))
}

fn mail(arguments: &[u8], syntax: CommandError) -> Result<Command, CommandError> {
    let arguments = std::str::from_utf8(arguments).map_err(|_| CommandError::BadSender(AddressError::NotUtf8))?;
    let (_, (path, list)) = path_and_parameters("FROM:", arguments).map_err(|_| syntax)?;
    let parameters = MailParameters::from_list(&list)?;
    let utf8 = if parameters.smtputf8 { Utf8::Allowed } else { Utf8::Refused };
    let from = ReversePath::parse(path.as_bytes(), utf8).map_err(CommandError::BadSender)?;
    Ok(Command::Mail { from, parameters })
}

fn rcpt(arguments: &[u8], utf8: Utf8, syntax: CommandError) -> Result<Command, CommandError> {
    let arguments = std::str::from_utf8(arguments).map_err(|_| CommandError::BadRecipient(AddressError::NotUtf8))?;
    let (_, (path, list)) = path_and_parameters("TO:", arguments).map_err(|_| syntax)?;
    let to = ForwardPath::parse(path.as_bytes(), utf8).map_err(CommandError::BadRecipient)?;
    let parameters = RcptParameters::from_list(&list, utf8)?;
    Ok(Command::Rcpt { to, parameters })
}

/// `1*blank keyword *blank "<" path ">" parameters`. Blanks behind the colon are an old and common mistake.
fn path_and_parameters<'a>(keyword: &str, input: &'a str) -> IResult<&'a str, (&'a str, Vec<Parameter<'a>>)> {
    let start = (take_while1(is_blank), tag_no_case(keyword), take_while(is_blank));
    preceded(start, (path::bracketed, parameters::parameters)).parse(input)
}

/// `1*blank 1*20DIGIT [1*blank "LAST"] *blank`, the number within 64 bits.
fn bdat(arguments: &[u8]) -> Result<Command, nom::Err<nom::error::Error<&[u8]>>> {
    let blanks = || take_while1(|octet| is_blank(char::from(octet)));
    let size = map_res(take_while_m_n(1, DIGITS_MAX, |octet: u8| octet.is_ascii_digit()), |digits: &[u8]| {
        std::str::from_utf8(digits).unwrap_or_default().parse::<u64>()
    });
    let last = opt(preceded(blanks(), tag_no_case("LAST")));
    let end = take_while(|octet| is_blank(char::from(octet)));
    let (_, (size, last)) = all_consuming(terminated((preceded(blanks(), size), last), end)).parse(arguments)?;
    Ok(Command::Bdat { size, last: if last.is_some() { Last::Yes } else { Last::No } })
}

/// One word. It is only ever shown, so octets that are not ASCII, which hosts named in their owner's language send,
/// become `?`.
fn host_name(arguments: &[u8]) -> Option<String> {
    let name = arguments.trim_ascii();
    let valid = (1..=DOMAIN_MAX).contains(&name.len()) && !name.iter().any(|octet| is_blank(char::from(*octet)));
    let shown = |octet: &u8| if octet.is_ascii_graphic() { char::from(*octet) } else { '?' };
    valid.then(|| name.iter().map(shown).collect())
}

fn text(arguments: &[u8], utf8: Utf8) -> Option<String> {
    let text = crate::address::text_of(arguments, utf8).ok()?.trim_matches(is_blank);
    (!text.is_empty()).then(|| crate::text::clean(text).into_owned())
}

fn blanks_only(arguments: &[u8]) -> bool {
    arguments.iter().all(|octet| is_blank(char::from(*octet)))
}

#[cfg(test)]
mod tests;
