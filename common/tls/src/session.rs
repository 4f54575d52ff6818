//! One end of one TLS connection, without a socket.

use std::io::{Read, Write};

use rustls::pki_types::UnixTime;
use rustls::{Connection, HandshakeKind, ProtocolVersion};

use crate::TlsError;
use crate::verifier::Judge;

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The handshake needs more octets from the far side.
    Handshaking,
    /// The handshake has ended and the policy is met: plain octets pass.
    Open,
    /// The far side said that it sends no more (`close_notify`, RFC 8446 §6.1): what was read is whole. An end of the
    /// connection without this was a truncation.
    Closed,
}

/// One end of one TLS connection. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// Who decides about the far side's certificate; none where any will do.
    judge: Option<Judge>,
    phase: Phase,
    sending: Sending,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Handshaking,
    Open,
    Closed,
    Failed(TlsError),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Open,
    /// Our `close_notify` is said.
    Shut,
}

impl Session {
    pub(crate) fn new(connection: Connection, judge: Option<Judge>) -> Self {
        Self { connection, judge, phase: Phase::Handshaking, sending: Sending::Open }
    }

    /// Takes all of `ciphertext` and appends the plain octets in it to `plain`, never more than came in. Call
    /// [`Session::flush`] afterwards, after an error too.
    ///
    /// The call that ends the handshake of a client applies the policy.
    ///
    /// # Errors
    /// [`TlsError::Protocol`], [`TlsError::Untrusted`], [`TlsError::NoRoots`]: the session is over, and every further
    /// call says the same.
    pub fn read_tls(&mut self, mut ciphertext: &[u8], plain: &mut Vec<u8>) -> Result<Progress, TlsError> {
        while !ciphertext.is_empty() && matches!(self.phase, Phase::Handshaking | Phase::Open) {
            let taken =
                self.connection.read_tls(&mut ciphertext).map_err(|error| TlsError::Protocol(error.to_string()));
            match taken {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(self.fail(error)),
            }
            if let Err(error) = self.process(plain) {
                return Err(self.fail(error));
            }
        }
        self.progress()
    }

    /// Encrypts as much of `plain` as one call may, appends it to `out`, and returns how much that was: at most some
    /// 64 KiB, so that `out` is bounded by how often the caller calls; 0 before the handshake has ended, after a
    /// failure and after [`Session::close`].
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> usize {
        let open = matches!(self.phase, Phase::Open | Phase::Closed) && self.sending == Sending::Open;
        // The library would keep what is written too early and send it with the end of the handshake, before the
        // verdict.
        if !open {
            return 0;
        }
        let taken = self.connection.writer().write(plain).unwrap_or(0);
        self.flush(out);
        taken
    }

    /// Appends to `out` what the protocol itself has to say: handshake, tickets, alerts.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // A Vec takes everything; an error would leave nothing to be done but stop.
            if !matches!(self.connection.write_tls(out), Ok(sent) if sent > 0) {
                return;
            }
        }
    }

    /// Whether [`Session::flush`] has something.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether the handshake is under way: neither ended nor failed.
    pub fn is_handshaking(&self) -> bool {
        self.phase == Phase::Handshaking
    }

    /// Where the session stands.
    ///
    /// # Errors
    /// The failure that ended it.
    pub fn progress(&self) -> Result<Progress, TlsError> {
        match &self.phase {
            Phase::Handshaking => Ok(Progress::Handshaking),
            Phase::Open => Ok(Progress::Open),
            Phase::Closed => Ok(Progress::Closed),
            Phase::Failed(error) => Err(error.clone()),
        }
    }

    /// Whether the handshake ended as the policy wants. [`Session::read_tls`] has said so already.
    ///
    /// # Errors
    /// [`TlsError::Unfinished`], or the failure that ended the session.
    pub fn verdict(&self) -> Result<(), TlsError> {
        match self.progress()? {
            Progress::Handshaking => Err(TlsError::Unfinished),
            Progress::Open | Progress::Closed => Ok(()),
        }
    }

    /// Says that nothing more will be sent (`close_notify`) and appends that to `out`. Reading goes on.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.sending == Sending::Open {
            self.sending = Sending::Shut;
            self.connection.send_close_notify();
        }
        self.flush(out);
    }

    /// `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)`; empty before the handshake has ended.
    pub fn description(&self) -> String {
        let (Some(version), Some(suite)) =
            (self.connection.protocol_version(), self.connection.negotiated_cipher_suite())
        else {
            return String::new();
        };
        let version = match version {
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            other => return format!("{other:?}"),
        };
        let cipher = suite.suite().as_str().unwrap_or("unknown").replace("TLS13_", "TLS_");
        // All suites of the library are AES-128, AES-256 or ChaCha20 with its 256 bits.
        let bits = if cipher.contains("AES_128") { 128 } else { 256 };
        format!("{version} with cipher {cipher} ({bits}/{bits} bits)")
    }

    /// Whether the handshake took up an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn process(&mut self, plain: &mut Vec<u8>) -> Result<(), TlsError> {
        let state = self.connection.process_new_packets()?;
        if self.phase == Phase::Handshaking && !self.connection.is_handshaking() {
            self.judge()?;
            self.phase = Phase::Open;
        }
        let waiting = state.plaintext_bytes_to_read();
        if waiting > 0 {
            // Never blocks and never runs short: exactly this much is there.
            let limit = u64::try_from(waiting).unwrap_or(u64::MAX);
            let read = self.connection.reader().take(limit).read_to_end(plain);
            read.map_err(|error| TlsError::Protocol(error.to_string()))?;
        }
        if state.peer_has_closed() && self.phase == Phase::Open {
            self.phase = Phase::Closed;
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), TlsError> {
        let Some(judge) = &self.judge else {
            return Ok(());
        };
        judge.judge(self.connection.peer_certificates().unwrap_or_default(), UnixTime::now())
    }

    fn fail(&mut self, error: TlsError) -> TlsError {
        if matches!(error, TlsError::Untrusted { .. } | TlsError::NoRoots { .. }) {
            self.connection.send_close_notify();
        }
        self.phase = Phase::Failed(error.clone());
        error
    }
}
