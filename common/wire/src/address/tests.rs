use proptest::prelude::*;

use super::*;
use crate::testing::{ascii_address, utf8_address};

fn parse(text: &str) -> Result<Address, AddressError> {
    Address::parse(text.as_bytes(), Utf8::Allowed)
}

#[test]
fn ordinary_and_odd_addresses_are_taken_as_they_are() {
    for (text, local, domain) in [
        ("user@example.net", "user", "example.net"),
        ("User+Tag@Example.NET", "User+Tag", "Example.NET"),
        ("list-bounces+user=example.org@lists.example.net", "list-bounces+user=example.org", "lists.example.net"),
        ("\"a b\"@example.net", "\"a b\"", "example.net"),
        (r#""a\"@\\b"@example.net"#, r#""a\"@\\b""#, "example.net"),
        ("\"\"@example.net", "\"\"", "example.net"),
        ("user@[192.0.2.1]", "user", "[192.0.2.1]"),
        ("user@[1.2.3.4]", "user", "[1.2.3.4]"),
        ("user@[IPv6:2001:db8::1]", "user", "[IPv6:2001:db8::1]"),
        ("user@[ipv6:::1]", "user", "[ipv6:::1]"),
        ("user@my_host.example", "user", "my_host.example"),
        ("user@localhost", "user", "localhost"),
        ("a..b.@carrier.example", "a..b.", "carrier.example"),
        ("büro@bücher.example", "büro", "bücher.example"),
        ("\"ü ü\"@example.net", "\"ü ü\"", "example.net"),
    ] {
        let address = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((address.as_str(), address.local(), address.domain()), (text, local, domain));
    }
}

#[test]
fn what_is_no_address_is_named() {
    use AddressError as E;
    for (text, error) in [
        ("", E::Empty),
        ("user", E::NoDomain),
        ("user@", E::NoDomain),
        ("@example.net", E::Local),
        ("a b@example.net", E::Local),
        ("a@b@example.net", E::Domain),
        ("\"a@example.net", E::Local),
        ("\"a\"b@example.net", E::Local),
        ("<user@example.net>", E::Local),
        ("a,b@example.net", E::Local),
        ("user\r\n@example.net", E::Local),
        ("user\0@example.net", E::Local),
        ("\"a\rb\"@example.net", E::Local),
        ("\"a\\\nb\"@example.net", E::Local),
        ("user@example.net\n", E::Domain),
        ("user@example\0.net", E::Domain),
        ("user@example.net ", E::Domain),
        ("user@example.net.", E::TrailingDot),
        ("user@.", E::TrailingDot),
        ("user@example..net", E::Domain),
        ("user@.example.net", E::Domain),
        ("user@-example.net", E::Domain),
        ("user@example-.net", E::Domain),
        ("user@exa$mple.net", E::Domain),
        ("user@[1.2.3]", E::Literal),
        ("user@[1.2.3.4", E::Literal),
        ("user@[]", E::Literal),
        ("user@[IPv6:1.2.3.4]", E::Literal),
        ("user@[2001:db8::1]", E::Literal),
        ("user@[x-tag:abc]", E::Literal),
        ("user@[1.2.3.4].example", E::Literal),
        ("us\u{85}er@example.net", E::Local),
        ("us\u{2028}er@example.net", E::Local),
        ("user@exa\u{3002}mple.net", E::Domain),
        ("user@exa\u{a0}mple.net", E::Domain),
    ] {
        assert_eq!(parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn utf8_needs_to_be_allowed_and_valid() {
    assert_eq!(Address::parse("ü@example.net".as_bytes(), Utf8::Refused), Err(AddressError::NonAscii));
    assert_eq!(Address::parse("u@bücher.example".as_bytes(), Utf8::Refused), Err(AddressError::NonAscii));
    assert_eq!(Address::parse(b"\xff@example.net", Utf8::Allowed), Err(AddressError::NotUtf8));
    assert_eq!(Address::parse(b"\xc0\x80@example.net", Utf8::Allowed), Err(AddressError::NotUtf8));
    assert!(Address::parse(b"u@example.net", Utf8::Refused).is_ok_and(|address| address.is_ascii()));
    assert!(parse("ü@example.net").is_ok_and(|address| !address.is_ascii()));
}

#[test]
fn lengths_are_bounded_at_their_limit_and_not_before() {
    let local = |length| parse(&format!("{}@example.net", "a".repeat(length)));
    assert!(local(LOCAL_MAX).is_ok());
    assert_eq!(local(LOCAL_MAX + 1), Err(AddressError::LocalTooLong));
    let label = |length| parse(&format!("u@{}.example", "a".repeat(length)));
    assert!(label(LABEL_MAX).is_ok());
    assert_eq!(label(LABEL_MAX + 1), Err(AddressError::LabelTooLong));
    assert!(parse(&format!("u@{}.example", "ü".repeat(LABEL_MAX))).is_ok());
    let domain = |length: usize| parse(&format!("u@{}", "ab.".repeat(100).chars().take(length).collect::<String>()));
    assert!(domain(DOMAIN_MAX - 1).is_ok());
    assert_eq!(domain(DOMAIN_MAX + 1), Err(AddressError::DomainTooLong));
    let longest = format!("{}@{}", "a".repeat(LOCAL_MAX), "a.".repeat(DOMAIN_MAX / 2) + "b");
    assert_eq!(longest.len(), ADDRESS_MAX);
    assert!(parse(&longest).is_ok());
}

#[test]
fn the_domain_has_a_key_and_a_literal_an_address() {
    let lower = |text| parse(text).map(|address| address.domain_lowercase());
    assert_eq!(lower("U@Example.NET"), Ok("example.net".to_owned()));
    assert_eq!(lower("U@BÜCHER.example"), Ok("bücher.example".to_owned()));
    let literal = |text| parse(text).ok().and_then(|address| address.literal());
    assert_eq!(literal("u@[192.0.2.1]"), Some(IpAddr::from([192, 0, 2, 1])));
    assert_eq!(literal("u@[IPv6:::1]"), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    assert_eq!(literal("u@example.net"), None);
}

proptest! {
    #[test]
    fn a_valid_address_is_its_own_text(text in utf8_address()) {
        let address = parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(address.as_str(), &text);
        prop_assert_eq!(address.to_string(), format!("{}@{}", address.local(), address.domain()));
        prop_assert_eq!(address.is_ascii(), Address::parse(text.as_bytes(), Utf8::Refused).is_ok());
    }

    #[test]
    fn a_valid_address_with_any_octet_put_in_never_hides_a_control(
        text in ascii_address(), at: prop::sample::Index, octet: u8,
    ) {
        let mut octets = text.into_bytes();
        octets.insert(at.index(octets.len() + 1), octet);
        if let Ok(address) = Address::parse(&octets, Utf8::Allowed) {
            prop_assert!(!address.as_str().contains(char::is_control));
            prop_assert_eq!(address.as_str().as_bytes(), octets.as_slice());
        }
    }

    #[test]
    fn parsing_never_panics(octets: Vec<u8>, text: String) {
        let _ = Address::parse(&octets, Utf8::Allowed);
        let _ = parse(&text);
        let _ = parse(&format!("a@{text}"));
        let _ = parse_literal(&format!("[{text}]"));
    }
}
