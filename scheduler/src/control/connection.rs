//! One client of the control socket.

use std::io::{self, Read, Write};

use mio::net::UnixStream;
use serde::Deserialize;
use serde_json::Value;
use zrelay_clock::Timestamp;

use super::access::{Caller, Role};
use super::methods::{self, Methods};
use super::rpc::{self, INVALID_REQUEST, RpcError, UNAVAILABLE};
use super::server::{SILENCE_MAX, STALL_MAX};
use super::subscription::{self, SUBSCRIPTIONS_MAX, Subscription, Wanted};

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
    active: Timestamp,
    end: End,
    subscriptions: Vec<Subscription>,
    /// Subscriptions so far, which names them.
    subscribed: u64,
}

/// Parameters of `unsubscribe`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    subscription: u64,
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
        Self {
            stream,
            caller,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            active: now,
            end: End::No,
            subscriptions: Vec::new(),
            subscribed: 0,
        }
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
            if self.answer(methods) || self.notify(methods) {
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
                let result = self.call(methods, &request.method, &request.params);
                request.id.map(|id| rpc::respond(&id, result.as_ref())).unwrap_or_default()
            }
        };
        true
    }

    /// What concerns this connection alone is done here, everything else by the methods.
    fn call(&mut self, methods: &mut Methods, method: &str, given: &Value) -> Result<Value, RpcError> {
        match method {
            "subscribe" => self.subscribe(methods, methods::params(given)?),
            "unsubscribe" => self.unsubscribe(&methods::params(given)?),
            other => methods.call(&self.caller, other, given),
        }
    }

    fn subscribe(&mut self, methods: &Methods, wanted: Wanted) -> Result<Value, RpcError> {
        if matches!(wanted, Wanted::Trace { .. }) {
            methods::admit(&self.caller, "trace", Role::Operator)?;
            log::info!("{} traces a conversation", self.caller);
        }
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            let text = format!("a connection has at most {SUBSCRIPTIONS_MAX} subscriptions");
            return Err(RpcError::new(UNAVAILABLE, text));
        }
        let id = self.subscribed + 1;
        self.subscriptions.push(Subscription::new(id, wanted, methods)?);
        self.subscribed = id;
        Ok(subscription::answer(id))
    }

    fn unsubscribe(&mut self, named: &Named) -> Result<Value, RpcError> {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|subscription| subscription.id != named.subscription);
        if self.subscriptions.len() == before {
            return Err(RpcError::nothing(format!("there is no subscription {}", named.subscription)));
        }
        Ok(subscription::answer(named.subscription))
    }

    /// Makes one notification, if one is due and the one before has left.
    fn notify(&mut self, methods: &Methods) -> bool {
        let now = methods.clock.now();
        let due = |subscription: &&mut Subscription| subscription.due().is_some_and(|due| due <= now);
        let Some(line) = self.subscriptions.iter_mut().filter(due).find_map(|one| one.notify(methods)) else {
            return false;
        };
        self.output = line;
        // None starves: who was told goes behind the others.
        self.subscriptions.rotate_left(1);
        true
    }

    /// When [`Connection::advance`] is worth a call without an event: never while something waits to be written.
    pub(super) fn due(&self) -> Option<Timestamp> {
        if !self.output.is_empty() {
            return None;
        }
        self.subscriptions.iter().filter_map(Subscription::due).min()
    }

    /// Whether it is to be given up: silent for too long, or what it asked for is not read.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        let patience = match (self.output.is_empty(), self.subscriptions.is_empty()) {
            (false, _) => STALL_MAX,
            (true, true) => SILENCE_MAX,
            // Has nothing to say, and there was nothing to tell.
            (true, false) => return false,
        };
        now.since(self.active) > patience
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_is_given_up_sooner_than_who_has_nothing_to_say() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller { uid: 0, user: None, pid: 1, role: Role::Admin };
        let start = Timestamp::from_secs(1000);
        let mut connection = Connection::new(ours, caller, start);
        assert!(!connection.is_stale(start + STALL_MAX * 2) && connection.is_stale(start + SILENCE_MAX * 2));
        connection.output = b"unread".to_vec();
        assert!(!connection.is_stale(start + STALL_MAX) && connection.is_stale(start + STALL_MAX * 2));
        assert_eq!(connection.due(), None, "nothing more is made while something waits");
    }
}
