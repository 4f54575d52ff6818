//! Any octets as an address: what is accepted is its own text, holds no control, and survives brackets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zrelay_wire::{Address, Command, ReversePath, Utf8, xtext_decode, xtext_encode};

fuzz_target!(|input: &[u8]| {
    assert_eq!(xtext_decode(&xtext_encode(input)).as_deref(), Ok(input));
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = xtext_decode(text);
    }
    let strict = Address::parse(input, Utf8::Refused);
    let Ok(address) = Address::parse(input, Utf8::Allowed) else {
        assert!(strict.is_err());
        return;
    };
    assert_eq!(address.as_str().as_bytes(), input);
    assert_eq!(format!("{}@{}", address.local(), address.domain()).as_bytes(), input);
    assert_eq!(strict.is_ok(), address.is_ascii());
    assert!(!address.as_str().contains(char::is_control));
    assert!(!address.domain().is_empty() && !address.domain().ends_with('.'));
    assert_eq!(address.domain().starts_with('['), address.literal().is_some());

    let line = [b"MAIL FROM:<", input, b"> SMTPUTF8"].concat();
    match Command::parse(&line, Utf8::Refused) {
        Ok(Command::Mail { from, .. }) => assert_eq!(from, ReversePath::Address(address)),
        other => panic!("{other:?}"),
    }
});
