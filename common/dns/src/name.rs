//! Names of hosts as this crate keeps them: lower case, A-labels, no trailing dot.

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

/// A name from the wire in the form of this crate, without a check of its characters: odd ones are escaped. The root is
/// the empty string.
pub(crate) fn plain(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// Whether `name` consists of labels of letters, digits, hyphens and (against RFC 952, as life has it) underscores.
/// Whatever passes can be joined by commas, logged and shown.
pub(crate) fn is_host(name: &str) -> bool {
    name.len() <= NAME_MAX && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
}

/// `name` for the wire.
pub(crate) fn wire(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
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
