use proptest::prelude::*;

use super::*;
use crate::testing::{forward_path, reverse_path, utf8_address};

#[test]
fn brackets_end_where_quotes_do_not_hide_them() {
    for (input, text, behind) in [
        ("<>", "", ""),
        ("<a@b> SIZE=1", "a@b", " SIZE=1"),
        ("<\"a>b\"@c> X", "\"a>b\"@c", " X"),
        ("<\"a\\\">b\"@c>", "\"a\\\">b\"@c", ""),
        ("<@a,@b.example:user@c>", "user@c", ""),
        ("<@[192.0.2.1]:user@c>", "user@c", ""),
        ("<Postmaster>", "Postmaster", ""),
    ] {
        assert_eq!(bracketed(input), Ok((behind, text)), "{input}");
    }
    for input in ["", "a@b", "<a@b", "a@b>", " <a@b>"] {
        assert!(bracketed(input).is_err(), "{input}");
    }
}

#[test]
fn a_source_route_without_its_address_is_not_stripped() {
    assert_eq!(bracketed("<@a,@b>"), Ok(("", "@a,@b")));
    assert!(ForwardPath::parse(b"@a,@b", Utf8::Refused).is_err());
}

#[test]
fn the_postmaster_needs_no_domain_and_has_no_case() {
    for text in ["postmaster", "Postmaster", "POSTMASTER"] {
        assert_eq!(ForwardPath::parse(text.as_bytes(), Utf8::Refused), Ok(ForwardPath::Postmaster(text.into())));
    }
    assert!(matches!(ForwardPath::parse(b"postmaster@a.example", Utf8::Refused), Ok(ForwardPath::Address(_))));
    assert_eq!(ReversePath::parse(b"postmaster", Utf8::Refused), Err(AddressError::NoDomain));
}

#[test]
fn the_null_path_is_a_sender_and_no_recipient() {
    assert_eq!(ReversePath::parse(b"", Utf8::Refused), Ok(ReversePath::Null));
    assert_eq!(ForwardPath::parse(b"", Utf8::Refused), Err(AddressError::Empty));
    assert_eq!(ReversePath::Null.to_string(), "<>");
}

proptest! {
    #[test]
    fn a_path_printed_and_parsed_is_itself(
        from in reverse_path(utf8_address()), to in forward_path(utf8_address()),
    ) {
        let printed = from.to_string();
        let (rest, text) = bracketed(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!((rest, ReversePath::parse(text.as_bytes(), Utf8::Allowed)), ("", Ok(from)));
        let printed = to.to_string();
        let (rest, text) = bracketed(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!((rest, ForwardPath::parse(text.as_bytes(), Utf8::Allowed)), ("", Ok(to)));
    }
}
