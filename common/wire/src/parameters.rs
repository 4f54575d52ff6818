//! ESMTP parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY and
//! ORCPT (RFC 3461), MT-PRIORITY (RFC 6710), BY (RFC 2852), AUTH (RFC 4954, accepted and ignored) and XVERP (Postfix).

mod urgency;

pub use urgency::{BY_SECONDS_MAX, ByMode, DeliverBy, mt_priority};

use nom::bytes::complete::{tag, take_while, take_while1};
use nom::combinator::{all_consuming, opt, recognize, verify};
use nom::multi::many0;
use nom::sequence::{preceded, separated_pair, terminated};
use nom::{IResult, Parser};

use crate::address::{Utf8, is_wide};
use crate::command::CommandError;
use crate::text::{is_blank, push_word};
use crate::xtext::xtext_decode;

/// Longest value of ENVID, characters (RFC 3461 §4.4).
pub const ENVID_MAX: usize = 100;
/// Longest value of ORCPT, characters. RFC 3461 §4.2 says 500, to which a long VERP address in xtext does not fit.
pub const ORCPT_MAX: usize = 1024;
/// Longest value of AUTH, characters (RFC 4954 §4: lines grow by 500).
pub const AUTH_MAX: usize = 500;
/// Digits of a SIZE or BDAT number (RFC 1870 §3).
pub(crate) const DIGITS_MAX: usize = 20;
/// Characters of an unknown keyword that are repeated in the reply to it.
const KEYWORD_SHOWN_MAX: usize = 40;
/// What XVERP may name as delimiters, as Postfix's `verp_delimiter_filter`.
const VERP_DELIMITERS: &[u8] = b"-=+";

/// `BODY=` (RFC 6152). `BINARYMIME` is not offered and not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// `7BIT`
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
}

/// `RET=` (RFC 3461 §4.3): what a failure report returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// `FULL`: the whole message.
    Full,
    /// `HDRS`: its header only.
    Headers,
}

/// `XVERP`: the sender `list@example` becomes `list` separator `user` equals `domain` `@example` for each recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verp {
    /// Between the sender's local part and the recipient's; `+` where XVERP has no value.
    pub separator: u8,
    /// In place of the recipient's `@`; `=` where XVERP has no value.
    pub equals: u8,
}

impl Default for Verp {
    fn default() -> Self {
        Self { separator: b'+', equals: b'=' }
    }
}

/// `NOTIFY=` (RFC 3461 §4.1): when the sender wants to hear of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// `NEVER`
    Never,
    /// Any of the three. None of them is sent as `NEVER`.
    On {
        /// `SUCCESS`
        success: bool,
        /// `FAILURE`
        failure: bool,
        /// `DELAY`
        delay: bool,
    },
}

/// Parameters of MAIL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailParameters {
    /// `SIZE`, octets. A number beyond 64 bits is the largest of them: too large in any case.
    pub size: Option<u64>,
    /// `BODY`
    pub body: Option<Body>,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `RET`
    pub ret: Option<Ret>,
    /// `ENVID`, in xtext as it came; decoded it is printable ASCII.
    pub envid: Option<String>,
    /// `XVERP`
    pub xverp: Option<Verp>,
    /// `MT-PRIORITY`, -9 to 9.
    pub mt_priority: Option<i8>,
    /// `BY`
    pub by: Option<DeliverBy>,
    /// `AUTH`, as it came; nothing is done with it.
    pub auth: Option<String>,
}

/// Parameters of RCPT.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RcptParameters {
    /// `NOTIFY`
    pub notify: Option<Notify>,
    /// `ORCPT`, `type;xtext` as it came.
    pub orcpt: Option<String>,
}

/// `keyword [ "=" value ]`
pub(crate) struct Parameter<'a> {
    keyword: &'a str,
    value: Option<&'a str>,
}

/// `*( 1*blank parameter ) *blank`, up to the end.
pub(crate) fn parameters(input: &str) -> IResult<&str, Vec<Parameter<'_>>> {
    let parameter = preceded(take_while1(is_blank), parameter);
    all_consuming(terminated(many0(parameter), take_while(is_blank))).parse(input)
}

fn parameter(input: &str) -> IResult<&str, Parameter<'_>> {
    let value = preceded(tag("="), take_while(|c| !is_blank(c)));
    (keyword, opt(value)).map(|(keyword, value)| Parameter { keyword, value }).parse(input)
}

/// `esmtp-keyword`: letters and digits, then hyphens too.
fn keyword(input: &str) -> IResult<&str, &str> {
    verify(recognize(take_while1(|c: char| c.is_ascii_alphanumeric() || c == '-')), |word: &str| !word.starts_with('-'))
        .parse(input)
}

impl MailParameters {
    const KEYWORDS: [&str; 9] = ["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "XVERP", "MT-PRIORITY", "BY", "AUTH"];

    pub(crate) fn from_list(list: &[Parameter<'_>]) -> Result<Self, CommandError> {
        let mut found = Self::default();
        list.iter().try_for_each(|parameter| found.set(parameter))?;
        Ok(found)
    }

    fn set(&mut self, parameter: &Parameter<'_>) -> Result<(), CommandError> {
        let value = parameter.value;
        let keyword = known(&Self::KEYWORDS, parameter)?;
        match keyword {
            "SIZE" => put(&mut self.size, keyword, value.and_then(size)),
            "BODY" => put(&mut self.body, keyword, value.and_then(body)),
            "RET" => put(&mut self.ret, keyword, value.and_then(ret)),
            "ENVID" => put(&mut self.envid, keyword, value.and_then(envid)),
            "XVERP" => put(&mut self.xverp, keyword, verp(value)),
            "MT-PRIORITY" => put(&mut self.mt_priority, keyword, value.and_then(mt_priority)),
            "BY" => put(&mut self.by, keyword, value.and_then(urgency::deliver_by)),
            "AUTH" => put(&mut self.auth, keyword, value.and_then(auth)),
            _ => {
                let mut slot = self.smtputf8.then_some(());
                put(&mut slot, keyword, value.is_none().then_some(()))?;
                self.smtputf8 = true;
                Ok(())
            }
        }
    }

    /// Writes ` SIZE=...` and so on.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(size) = self.size {
            out.extend_from_slice(format!(" SIZE={size}").as_bytes());
        }
        match self.body {
            Some(Body::SevenBit) => out.extend_from_slice(b" BODY=7BIT"),
            Some(Body::EightBitMime) => out.extend_from_slice(b" BODY=8BITMIME"),
            None => {}
        }
        if self.smtputf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        match self.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        push_parameter(out, b" ENVID=", self.envid.as_deref());
        if let Some(Verp { separator, equals }) = self.xverp {
            out.extend_from_slice(b" XVERP=");
            out.extend_from_slice(&[separator, equals]);
        }
        urgency::encode(out, self.mt_priority, self.by);
        push_parameter(out, b" AUTH=", self.auth.as_deref());
    }
}

impl RcptParameters {
    const KEYWORDS: [&str; 2] = ["NOTIFY", "ORCPT"];

    pub(crate) fn from_list(list: &[Parameter<'_>], utf8: Utf8) -> Result<Self, CommandError> {
        let mut found = Self::default();
        list.iter().try_for_each(|parameter| found.set(parameter, utf8))?;
        Ok(found)
    }

    fn set(&mut self, parameter: &Parameter<'_>, utf8: Utf8) -> Result<(), CommandError> {
        let value = parameter.value;
        let keyword = known(&Self::KEYWORDS, parameter)?;
        match keyword {
            "NOTIFY" => put(&mut self.notify, keyword, value.and_then(notify)),
            _ => put(&mut self.orcpt, keyword, value.and_then(|value| orcpt(value, utf8))),
        }
    }
}

/// Writes ` NOTIFY=...` and ` ORCPT=...`.
pub(crate) fn encode_rcpt_parameters(out: &mut Vec<u8>, wanted: Option<Notify>, orcpt: Option<&str>) {
    match wanted {
        None => {}
        Some(Notify::On { success, failure, delay }) if success || failure || delay => {
            let words: [(bool, &[u8]); 3] = [(success, b"SUCCESS"), (failure, b"FAILURE"), (delay, b"DELAY")];
            let mut before: &[u8] = b" NOTIFY=";
            for (_, word) in words.into_iter().filter(|(asked, _)| *asked) {
                out.extend_from_slice(before);
                out.extend_from_slice(word);
                before = b",";
            }
        }
        Some(_) => out.extend_from_slice(b" NOTIFY=NEVER"),
    }
    push_parameter(out, b" ORCPT=", orcpt);
}

fn push_parameter(out: &mut Vec<u8>, keyword: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(keyword);
        push_word(out, value);
    }
}

fn known(keywords: &[&'static str], parameter: &Parameter<'_>) -> Result<&'static str, CommandError> {
    let found = keywords.iter().find(|keyword| keyword.eq_ignore_ascii_case(parameter.keyword));
    found
        .copied()
        .ok_or_else(|| CommandError::UnknownParameter(parameter.keyword.chars().take(KEYWORD_SHOWN_MAX).collect()))
}

fn put<T>(slot: &mut Option<T>, keyword: &'static str, value: Option<T>) -> Result<(), CommandError> {
    if slot.is_some() {
        return Err(CommandError::DuplicateParameter(keyword));
    }
    *slot = Some(value.ok_or(CommandError::BadParameter(keyword))?);
    Ok(())
}

fn size(value: &str) -> Option<u64> {
    let valid = (1..=DIGITS_MAX).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit());
    valid.then(|| value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Option<Body> {
    match value {
        _ if value.eq_ignore_ascii_case("7BIT") => Some(Body::SevenBit),
        _ if value.eq_ignore_ascii_case("8BITMIME") => Some(Body::EightBitMime),
        _ => None,
    }
}

fn ret(value: &str) -> Option<Ret> {
    match value {
        _ if value.eq_ignore_ascii_case("FULL") => Some(Ret::Full),
        _ if value.eq_ignore_ascii_case("HDRS") => Some(Ret::Headers),
        _ => None,
    }
}

fn envid(value: &str) -> Option<String> {
    (value.len() <= ENVID_MAX && is_printable_xtext(value)).then(|| value.to_owned())
}

fn auth(value: &str) -> Option<String> {
    ((1..=AUTH_MAX).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_graphic()))
        .then(|| value.to_owned())
}

fn verp(value: Option<&str>) -> Option<Verp> {
    let Some(value) = value else {
        return Some(Verp::default());
    };
    match *value.as_bytes() {
        [separator, equals] if [separator, equals].iter().all(|octet| VERP_DELIMITERS.contains(octet)) => {
            Some(Verp { separator, equals })
        }
        _ => None,
    }
}

fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => success = true,
            _ if word.eq_ignore_ascii_case("FAILURE") => failure = true,
            _ if word.eq_ignore_ascii_case("DELAY") => delay = true,
            _ => return None,
        }
    }
    Some(Notify::On { success, failure, delay })
}

fn orcpt(value: &str, utf8: Utf8) -> Option<String> {
    if value.len() > ORCPT_MAX {
        return None;
    }
    let (_, (kind, address)) = all_consuming(typed_address).parse(value).ok()?;
    let valid = if kind.eq_ignore_ascii_case("utf-8") {
        // RFC 6533 §3: UTF-8 itself, or ASCII with `\x{...}` in place of it, neither of which is xtext.
        address.chars().all(|c| c.is_ascii_graphic() || (utf8 == Utf8::Allowed && is_wide(c)))
    } else {
        is_printable_xtext(address)
    };
    valid.then(|| value.to_owned())
}

/// `addr-type ";" address`
fn typed_address(input: &str) -> IResult<&str, (&str, &str)> {
    separated_pair(keyword, tag(";"), take_while1(|c| !is_blank(c))).parse(input)
}

/// RFC 3461 wants printable characters inside the encoding: what is decoded goes into reports, where a line end would
/// begin a field.
fn is_printable_xtext(value: &str) -> bool {
    !value.is_empty()
        && xtext_decode(value)
            .is_ok_and(|decoded| decoded.iter().all(|octet| octet.is_ascii_graphic() || *octet == b' '))
}
