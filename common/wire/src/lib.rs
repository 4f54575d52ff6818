//! The SMTP and LMTP grammar: commands, replies and content, read and written, for clients and servers alike.
//!
//! It is one crate so that both directions agree on what a line, an address and an end of data is; each parser is tested
//! against the encoder of the same type. Nothing here knows of sockets, sessions or time.
//!
//! ```text
//!   server:  octets ─▶ LineBuffer ─▶ Command::parse ─▶ session ─▶ Reply::encode ─▶ octets
//!                          └ rest ─▶ DotDecoder (DATA) │ NewlineCheck, Normaliser (BDAT) ─▶ content
//!   client:  octets ─▶ ReplyParser ─▶ Reply (─▶ Capabilities)        Command::encode, Stuffer ─▶ octets
//! ```
//!
//! Input is streaming where it comes in pieces ([`LineBuffer`], [`ReplyParser`], [`DotDecoder`], [`NewlineCheck`]): any
//! split of the octets gives the same result, in bounded memory and linear time. Whole lines are parsed with `nom`.
//! A failure is a value of the error type of its module; [`CommandError::reply`] is what a server answers.
#![forbid(unsafe_code)]

mod address;
mod capabilities;
mod command;
mod data;
mod etrn;
mod line;
mod newline;
mod parameters;
mod path;
mod reply;
mod reply_parser;
mod text;
mod xtext;

#[cfg(test)]
mod testing;

pub use address::{
    ADDRESS_MAX, Address, AddressError, DOMAIN_MAX, LABEL_MAX, LOCAL_MAX, Utf8, check_domain, parse_literal,
};
pub use capabilities::{Capabilities, Limits};
pub use command::{Command, CommandError, Last, encode_bdat, encode_mail, encode_rcpt};
pub use data::{BareNewline, DotDecoder, Progress, Stuffer, dot_stuff};
pub use etrn::Node;
pub use line::{LINE_MAX, Line, LineBuffer};
pub use newline::{NewlineCheck, Newlines, Normaliser};
pub use parameters::{
    AUTH_MAX, BY_SECONDS_MAX, Body, ByMode, DeliverBy, ENVID_MAX, MailParameters, Notify, ORCPT_MAX, RcptParameters,
    Ret, Verp, mt_priority,
};
pub use path::{ForwardPath, ReversePath};
pub use reply::{Class, REPLY_LINE_MAX, Reply, Status, encode_reply};
pub use reply_parser::{INPUT_LINE_MAX, INPUT_LINES_MAX, INPUT_REPLY_MAX, ReplyError, ReplyParser};
pub use xtext::{XtextError, xtext_decode, xtext_encode};
