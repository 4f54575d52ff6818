//! One client of the control socket.

use std::io::{self, Read, Write};

use mio::net::UnixStream;
use serde_json::Value;
use zrelay_clock::Timestamp;

use super::access::Caller;
use super::methods::Methods;
use super::rpc::{self, INVALID_REQUEST, RpcError};

/// Longest request, octets: names and patterns are short.
pub const REQUEST_MAX: usize = 64 * 1024;
/// Octets read at a time.
const READ: usize = 8 * 1024;

/// A connection: what came in and is not a whole line yet, and what is to go out. While something is to go out
/// nothing is read, so neither grows.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    caller: Caller,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Of the last progress.
    pub(super) active: Timestamp,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    /// The client will send nothing more; what came is still answered.
    Input,
    /// To be closed once the output is written.
    Output,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    On,
    Over,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, caller: Caller, now: Timestamp) -> Self {
        Self { stream, caller, input: Vec::new(), output: Vec::new(), written: 0, active: now, end: End::No }
    }

    /// Reads, answers and writes as far as it goes without waiting.
    pub(super) fn advance(&mut self, methods: &mut Methods) -> Life {
        loop {
            match self.write(methods.clock.now()) {
                Ok(true) => {}
                Ok(false) => return Life::On,
                Err(_) => return Life::Over,
            }
            if self.end == End::Output {
                return Life::Over;
            }
            if self.answer(methods) {
                continue;
            }
            if self.end == End::Input {
                return Life::Over;
            }
            match self.read() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Life::On,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Life::Over,
            }
        }
    }

    /// Answers the next whole line, if there is one.
    fn answer(&mut self, methods: &mut Methods) -> bool {
        let Some(end) = self.input.iter().position(|octet| *octet == b'\n') else {
            if self.input.len() < REQUEST_MAX {
                return false;
            }
            let error = RpcError::new(INVALID_REQUEST, format!("a request has at most {REQUEST_MAX} octets"));
            self.output = rpc::respond(&Value::Null, Err(&error));
            self.input = Vec::new();
            self.end = End::Output;
            return true;
        };
        let rest = self.input.split_off(end + 1);
        let line = std::mem::replace(&mut self.input, rest);
        self.active = methods.clock.now();
        if line.trim_ascii().is_empty() {
            return true;
        }
        self.output = match rpc::parse(&line) {
            Err((id, error)) => rpc::respond(&id, Err(&error)),
            Ok(request) => {
                let result = methods.call(&self.caller, &request.method, &request.params);
                request.id.map(|id| rpc::respond(&id, result.as_ref())).unwrap_or_default()
            }
        };
        true
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ];
        let room = READ.min(REQUEST_MAX.saturating_sub(self.input.len()).max(1));
        let slice = buffer.get_mut(..room).unwrap_or_default();
        let count = self.stream.read(slice)?;
        if count == 0 {
            self.end = End::Input;
        }
        self.input.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }

    /// Returns whether everything is written.
    fn write(&mut self, now: Timestamp) -> io::Result<bool> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    self.active = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        self.written = 0;
        Ok(true)
    }
}
