//! xtext (RFC 3461 §4): how arbitrary text travels in the value of an ESMTP parameter.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while_m_n, take_while1};
use nom::combinator::{all_consuming, map_opt};
use nom::multi::fold_many0;
use nom::sequence::preceded;
use nom::{IResult, Parser};

/// The text is not xtext.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not xtext")]
pub struct XtextError;

/// Encodes octets: `+`, `=` and everything that is not printable ASCII becomes `+XX`.
pub fn xtext_encode(text: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for &octet in text {
        if is_xchar(octet) {
            out.push(char::from(octet));
            continue;
        }
        out.push('+');
        out.push(char::from(HEX[usize::from(octet >> 4)]));
        out.push(char::from(HEX[usize::from(octet & 15)]));
    }
    out
}

/// Decodes xtext. Hexadecimal digits may be of either case.
///
/// # Errors
/// [`XtextError`] for a character that must be encoded and for a `+` without two hexadecimal digits.
pub fn xtext_decode(text: &str) -> Result<Vec<u8>, XtextError> {
    all_consuming(xtext).parse(text.as_bytes()).map(|(_, decoded)| decoded).map_err(|_| XtextError)
}

enum Piece<'a> {
    Plain(&'a [u8]),
    Octet(u8),
}

fn xtext(input: &[u8]) -> IResult<&[u8], Vec<u8>> {
    let plain = take_while1(is_xchar).map(Piece::Plain);
    let piece = alt((plain, hexchar.map(Piece::Octet)));
    fold_many0(piece, Vec::new, |mut out, piece| {
        match piece {
            Piece::Plain(text) => out.extend_from_slice(text),
            Piece::Octet(octet) => out.push(octet),
        }
        out
    })
    .parse(input)
}

fn hexchar(input: &[u8]) -> IResult<&[u8], u8> {
    let digits = take_while_m_n(2, 2, |octet: u8| octet.is_ascii_hexdigit());
    preceded(tag("+"), map_opt(digits, |digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()))
        .parse(input)
}

fn is_xchar(octet: u8) -> bool {
    matches!(octet, b'!'..=b'*' | b','..=b'<' | b'>'..=b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plus_equals_and_blanks_are_encoded() {
        assert_eq!(xtext_encode(b"a+b=c d"), "a+2Bb+3Dc+20d");
        assert_eq!(xtext_decode("a+2Bb+3dc+20d"), Ok(b"a+b=c d".to_vec()));
    }

    #[test]
    fn broken_xtext_is_refused() {
        for text in ["+", "+2", "+2G", "+-1", "+ 1", "a b", "a=b", "\u{e4}", "a\n"] {
            assert_eq!(xtext_decode(text), Err(XtextError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(octets: Vec<u8>) {
            prop_assert_eq!(xtext_decode(&xtext_encode(&octets)), Ok(octets));
        }

        #[test]
        fn decoding_never_panics(text: String) {
            let _ = xtext_decode(&text);
        }
    }
}
