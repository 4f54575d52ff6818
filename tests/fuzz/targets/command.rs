//! Any octets as a command line: what is accepted is one line when it is written, and means the same when that is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zrelay_wire::{Command, Utf8};

fuzz_target!(|input: &[u8]| {
    for utf8 in [Utf8::Refused, Utf8::Allowed] {
        let command = match Command::parse(input, utf8) {
            Ok(command) => command,
            Err(error) => {
                let mut reply = Vec::new();
                error.reply().encode(&mut reply);
                let text = reply.strip_suffix(b"\r\n").expect("a reply ends in CRLF");
                assert!(text.starts_with(b"5") && !text.iter().any(u8::is_ascii_control));
                continue;
            }
        };
        let mut line = Vec::new();
        command.encode(&mut line);
        let text = line.strip_suffix(b"\r\n").expect("a command ends in CRLF");
        assert!(!text.iter().any(u8::is_ascii_control), "{command:?}");
        assert_eq!(Command::parse(text, utf8), Ok(command));
    }
});
