//! Any octets as the reply to EHLO: what is understood survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zrelay_wire::{Capabilities, Reply};

fuzz_target!(|input: &[u8]| {
    let lines: Vec<String> = String::from_utf8_lossy(input).lines().map(str::to_owned).collect();
    let found = Capabilities::from_reply(&Reply { code: 250, status: None, lines });
    // Without a name the greeting's first word would be taken for it.
    let greeting = if found.name.is_empty() { "" } else { "hello" };
    let again = Capabilities::from_reply(&Reply { code: 250, status: None, lines: found.to_lines(greeting) });
    assert_eq!(again, found);
});
