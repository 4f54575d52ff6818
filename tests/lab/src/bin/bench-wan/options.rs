//! The command line.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: tests/bench-wan [OPTION...]

Recipients a second over a long line, on one connection: zrelay, Postfix (at one connection and at its default twenty)
and a plain TCP transfer of the same octets, in turn on the same line. The line joins two network namespaces of this
machine and has the round trip, rate, queue and loss that the work asks for. Everything made for it is gone afterwards.
Needs root and /dev/net/tun; for Postfix what tests/peers fetches.

  A   one message of 4 KiB, 10,000 recipients, new connection          RTT 130 ms, 100 Mbit/s
  B   a second one right behind it
  BT  B under TLS 1.3 (Postfix is left out)
  C   2,000 personalised messages of 4 KiB, one recipient each
  CT  C under TLS 1.3, by STARTTLS, new host
  CK  CT to a host that is known: it offers PIPECONNECT, and its session is resumed
  CI  C under TLS 1.3 from the first octet on
  D   as C (200), CHUNKING not offered
  E   one message, 500 recipients, command lines of 80 octets          RTT 120 ms, 64 kbit/s
  FB  as B with three more behind, 1 % of the packets lost in each direction; 16 runs
  FC  as C (1,000), 1 % of the packets lost in each direction; 8 runs
  GR  as C, far side takes 10 ms for each message; 1 connection, and up to 4 where they gain
  GS  the same, one message at a time over all connections: nothing to gain
  GL  as C, with up to 4 connections                                   RTT 130 ms, 10 Mbit/s
  P   2,000 messages into a real Postfix, beside 20 connections in lock-step
  X   the same into a real Exim

Time runs from the client's SYN to the arrival of the last reply; for B and FB from the last reply for the first message;
for G it is the last third, when everybody has found their pace. A slow contender gets fewer messages; the table says how
many. `of plain` compares with the plain transfer of as many octets as zrelay sent, handshake and one reply included.
`flights` counts the round trips from the SYN until the first message's text leaves, `gap` is the far side's longest wait.

`of plain` is in the clear for the works under TLS too, and no client could reach it: STARTTLS, the handshake of TLS 1.3 and
the EHLO behind it (RFC 3207, RFC 8446) cost three round trips more than the three of C (TCP, greeting, EHLO), in a
transfer of thirteen. Their goal is 0.8 of a plain transfer that begins as many round trips later as TLS costs: CT three;
CI one, for the handshake; CK one, as two are for TLS and one less is for the greeting.

E's goal is as near as a new connection can come: 0.24 s of some 6.3 go by with waiting for the greeting and for the reply
to EHLO, and 0.06 s with these on the slow line. No octet is lost: acknowledgements of replies queue behind the commands.

The runs of F have different losses, and go on side by side unless the congestion control is bbr, which losses do not slow
down; the run in the middle counts. Its goal is the share of the plain transfer that B and C reach without loss, in the same
run. Replies are lost as well as commands, and are six tenths as many octets in FB; the plain transfer has none. A stall is a silence that TCP's own timeouts do not explain: see `goals.rs`.

  --short             about a minute: A, B, C; zrelay and the plain transfer only
  --only WORKS        such as A,B,FC
  --no-postfix        without Postfix
  --json FILE         all figures
  --svg FILE          a plot of octets over time
  --congestion NAME   congestion control of all connections               [default: cubic]
  --queue OCTETS      queue of the line    [default: one round trip's worth, at least 64 KiB]
  --clause KEYS       keys of zrelay's [[thread]] clause, one per line or separated by `;`
                      [default: none, its defaults are measured]
  --watch             what the kernel (ss) and `zrelay thread --json` say meanwhile, on standard error
  --zrelay PATH       the binary                     [default: target/release/zrelay, built first]";

/// What to measure and how.
pub(crate) struct Options {
    pub(crate) only: Option<Vec<String>>,
    pub(crate) postfix: bool,
    pub(crate) short: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) congestion: String,
    pub(crate) queue: Option<u64>,
    pub(crate) clause: String,
    pub(crate) watch: bool,
    pub(crate) zrelay: PathBuf,
}

impl Options {
    /// `None` when help was asked for.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            only: None,
            postfix: true,
            short: false,
            json: None,
            svg: None,
            congestion: "cubic".to_owned(),
            queue: None,
            clause: String::new(),
            watch: false,
            zrelay: "target/release/zrelay".into(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "--short" => {
                    options.short = true;
                    options.postfix = false;
                }
                "--no-postfix" => options.postfix = false,
                "--watch" => options.watch = true,
                "--only" => options.only = Some(value()?.split(',').map(str::to_uppercase).collect()),
                "--json" => options.json = Some(value()?.into()),
                "--svg" => options.svg = Some(value()?.into()),
                "--congestion" => options.congestion = value()?,
                "--clause" => options.clause = value()?,
                "--zrelay" => options.zrelay = value()?.into(),
                "--queue" => {
                    let text = value()?;
                    options.queue = Some(text.parse().map_err(|_| format!("{text} is not a number of octets"))?);
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        let known = |name: &String| crate::works::NAMES.iter().chain(&crate::real::NAMES).any(|it| it == name);
        if let Some(name) = options.only.iter().flatten().find(|name| !known(name)) {
            return Err(format!("there is no work {name}"));
        }
        // The hub runs in a directory of its own.
        let absolute = options.zrelay.canonicalize();
        options.zrelay = absolute.map_err(|error| format!("{}: {error}", options.zrelay.display()))?;
        Ok(Some(options))
    }

    /// Whether a lost packet makes a connection go slower for a while.
    pub(crate) fn is_slowed_by_losses(&self) -> bool {
        self.congestion != "bbr"
    }

    /// Whether this work is to be done.
    pub(crate) fn wants(&self, name: &str) -> bool {
        match &self.only {
            Some(names) => names.iter().any(|it| it == name),
            None => !self.short || ["A", "B", "C"].contains(&name),
        }
    }
}
