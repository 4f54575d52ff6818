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
  CT  C under TLS 1.3
  D   as C (200), CHUNKING not offered
  E   one message, 500 recipients, command lines of 80 octets          RTT 120 ms, 64 kbit/s
  FB  B with 1 % of the packets lost in each direction
  FC  C with 1 % of the packets lost in each direction
  P   2,000 messages into a real Postfix, beside 20 connections in lock-step
  X   the same into a real Exim

Time runs from the client's SYN to the arrival of the last reply; for B from the last reply for the first message. A
slow contender gets fewer messages; the table says how many. `of plain` compares with the plain transfer of as many
octets as zrelay sent, handshake and one reply included.

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

    /// Whether this work is to be done.
    pub(crate) fn wants(&self, name: &str) -> bool {
        match &self.only {
            Some(names) => names.iter().any(|it| it == name),
            None => !self.short || ["A", "B", "C"].contains(&name),
        }
    }
}
