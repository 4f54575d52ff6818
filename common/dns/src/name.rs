//! Names of hosts as this crate keeps them: lower case, A-labels, no trailing dot.

use std::fmt::Write;

use hickory_proto::rr::Name;

/// Octets of a name (RFC 1035 §2.3.4, without the root's).
const NAME_MAX: usize = 253;
/// Octets of a label.
const LABEL_MAX: usize = 63;

/// `text` in the form of this crate; none if it is no name of a host.
pub(crate) fn normal(text: &str) -> Option<String> {
    if !text.is_ascii() {
        // Maps and checks U-labels as UTS 46 says.
        let name = Name::from_utf8(text).ok()?;
        return Some(plain(&name)).filter(|name| is_host(name));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    is_host(&name).then_some(name)
}

/// A name from the wire in the form of this crate, without a check of its characters: odd ones are escaped as RFC 1035
/// §5.1 says. The root is the empty string.
pub(crate) fn plain(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for octet in label {
            if is_plain(*octet) {
                text.push(char::from(octet.to_ascii_lowercase()));
            } else {
                let _ = write!(text, "\\{octet:03}");
            }
        }
    }
    text
}

/// Whether `name` consists of labels of letters, digits, hyphens and (against RFC 952, as life has it) underscores.
/// Whatever passes can be joined by commas, logged and shown.
pub(crate) fn is_host(name: &str) -> bool {
    name.len() <= NAME_MAX && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(is_plain)
}

fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')
}

/// `name`, which [`is_host`], for the wire. Octet by octet: the text form of the library knows no label that begins with
/// a hyphen, and there are such hosts.
pub(crate) fn wire(name: &str) -> Option<Name> {
    Name::from_labels(name.split('.').map(str::as_bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_in_one_form() {
        assert_eq!(normal("MX.Example.NET.").as_deref(), Some("mx.example.net"));
        assert_eq!(normal("bücher.example").as_deref(), Some("xn--bcher-kva.example"));
        assert_eq!(normal("BÜCHER.example.").as_deref(), Some("xn--bcher-kva.example"));
        assert_eq!(normal("_odd.example").as_deref(), Some("_odd.example"));
        assert_eq!(normal("localhost").as_deref(), Some("localhost"));
    }

    #[test]
    fn what_is_a_host_goes_to_the_wire_and_back() {
        for text in ["-", "-a.example", "a-.example", "a_b.example", "localhost", &"a".repeat(63)] {
            assert_eq!(wire(text).map(|name| plain(&name)).as_deref(), Some(text));
        }
        let odd = Name::from_labels([b"a.b".as_slice(), b"*", b"EXAMPLE"]).unwrap();
        assert_eq!(plain(&odd), "a\\046b.\\042.example");
        assert_eq!(plain(&Name::root()), "");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = vec!["abcdefg"; 32].join(".");
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "a b.example",
            "a,b.example",
            "a\\.b",
            "a\0b",
            "ex\u{202e}.net",
            &long_label,
            &long_name,
        ] {
            assert_eq!(normal(text), None, "{text:?}");
        }
    }
}
