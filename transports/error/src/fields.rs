//! Texts of foreign origin in header fields: printable, of the wanted character set, in lines of bearable length.

use std::fmt::Write as _;

use zrelay_wire::xtext_decode;

/// Where a field is folded, octets. RFC 5322 §2.1.1 recommends 78.
const FOLD_AT: usize = 76;
/// A single word is cut here; RFC 5322 §2.1.1 forbids lines above 998.
const WORD_MAX: usize = 500;

/// Which characters a field may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charset {
    /// US-ASCII; everything else becomes `?`.
    Ascii,
    /// UTF-8, in the types of RFC 6533.
    Utf8,
}

/// `text` without control characters and without what the character set lacks.
pub(crate) fn clean(text: &str, charset: Charset) -> String {
    text.chars()
        .map(|c| match c {
            '\t' | '\r' | '\n' => ' ',
            c if c.is_control() || (charset == Charset::Ascii && !c.is_ascii()) => '?',
            c => c,
        })
        .collect()
}

/// Appends `name: value`, folded at blanks, with its CRLF.
pub(crate) fn field(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push(':');
    let mut column = name.len() + 1;
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        for piece in pieces(word) {
            if column + 1 + piece.len() > FOLD_AT && column > name.len() + 1 {
                out.push_str("\r\n");
                column = 0;
            }
            out.push(' ');
            out.push_str(piece);
            column += 1 + piece.len();
        }
    }
    out.push_str("\r\n");
}

/// A word in pieces of at most [`WORD_MAX`] octets.
fn pieces(mut word: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if word.is_empty() {
            return None;
        }
        let mut end = word.len().min(WORD_MAX);
        while !word.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = word.split_at(end);
        word = rest;
        Some(piece)
    })
}

/// An address with its type, as RFC 3464 §2.3.2 and RFC 6533 §3 want it.
pub(crate) fn typed_address(address: &str, charset: Charset) -> String {
    let kind = if address.is_ascii() || charset == Charset::Ascii { "rfc822" } else { "utf-8" };
    format!("{kind}; {}", clean(address, charset))
}

/// The value of `ORCPT` as the field `Original-Recipient` has it (RFC 3461 §6.3 g). `None` when it is not decodable.
pub(crate) fn original_recipient(orcpt: &str, charset: Charset) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    if kind.is_empty() || !kind.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return None;
    }
    let decoded = if kind.eq_ignore_ascii_case("utf-8") {
        utf8_xtext(address)?
    } else {
        String::from_utf8(xtext_decode(address).ok()?).ok()?
    };
    Some(format!("{kind}; {}", clean(&decoded, charset)))
}

/// RFC 6533 §3: `utf-8-addr-xtext`, in which a character is `\x{HEX}`.
fn utf8_xtext(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("\\x{") {
        let (hex, behind) = behind.split_once('}')?;
        out.push_str(before);
        out.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

/// The value of `ENVID` as the field `Original-Envelope-Id` has it (RFC 3464 §2.2.1).
pub(crate) fn envelope_id(envid: &str) -> Option<String> {
    let decoded = String::from_utf8(xtext_decode(envid).ok()?).ok()?;
    (!decoded.is_empty()).then(|| clean(&decoded, Charset::Ascii))
}

/// The name in `name[address]:port`.
pub(crate) fn host_of(peer: &str) -> Option<String> {
    let name = peer.split('[').next().unwrap_or("");
    if !name.is_empty() {
        return Some(clean(name, Charset::Ascii));
    }
    // No name: the address, as a literal.
    let literal = peer.get(..=peer.find(']')?)?;
    let mut out = String::new();
    write!(out, "{}", clean(literal, Charset::Ascii)).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_folded_and_long_words_cut() {
        let mut out = String::new();
        field(&mut out, "Diagnostic-Code", &format!("smtp; 550 {} end", "word ".repeat(40)));
        field(&mut out, "X", &"x".repeat(2000));
        assert!(out.lines().count() > 5);
        assert!(out.split("\r\n").all(|line| line.len() <= WORD_MAX + 20));
        assert!(
            out.split("\r\n")
                .skip(1)
                .filter(|line| !line.is_empty() && !line.starts_with("X:"))
                .all(|line| line.starts_with(' '))
        );
        let mut short = String::new();
        field(&mut short, "Status", "5.1.1");
        assert_eq!(short, "Status: 5.1.1\r\n");
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(
            original_recipient("rfc822;ann+2Bx@example.org", Charset::Ascii).unwrap(),
            "rfc822; ann+x@example.org"
        );
        assert_eq!(original_recipient("utf-8;b\\x{FC}b@example.org", Charset::Utf8).unwrap(), "utf-8; büb@example.org");
        assert_eq!(original_recipient("rfc822;a+0D+0AStatus:x", Charset::Ascii).unwrap(), "rfc822; a  Status:x");
        for bad in ["", "rfc822", "rfc 822;a", "rfc822;a+2", "utf-8;\\x{D800}", "utf-8;\\x{41"] {
            assert_eq!(original_recipient(bad, Charset::Utf8), None, "{bad}");
        }
        assert_eq!(envelope_id("QQ+3D1").unwrap(), "QQ=1");
        assert_eq!(envelope_id("+"), None);
    }

    #[test]
    fn the_host_of_a_peer_is_its_name_or_its_address() {
        assert_eq!(host_of("mx.example.org[192.0.2.10]:25").unwrap(), "mx.example.org");
        assert_eq!(host_of("[192.0.2.10]:25").unwrap(), "[192.0.2.10]");
        assert_eq!(host_of(""), None);
    }
}
