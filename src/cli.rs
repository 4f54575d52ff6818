//! The command line: what can be asked, with which words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  zrelay serve                          run the hub on its embedded default: 127.0.0.1:2525, data below zrelay-data/
  zrelay threads 'smtp/*.example.net'   what waits for these hosts, and why
  zrelay message 640A1B2C3D4E5          one message: its recipients and what became of them
  zrelay hold smtp/slow.example.org     hand out nothing more for this host until it is released

Exit status: 0 done, 1 refused or nothing matched, 2 usage.";

const TERMS: &str = "\
Terms:
  smtp/lists.example.net    this thread
  'smtp/*.example.net'      threads whose name matches; * is any run of characters, ? any one
  640A1B2C3D4E5             this message
  flow:NAME                 mail of this flow: a sender's domain, a list, a listener's tag
  sender:PATTERN            recipients with such an envelope sender; 'sender:<>' is the null sender
  recipient:PATTERN         such recipients; a domain alone is any address in it
  age:2h  'age:<5m'         messages at least, or less than, so old
  state:STATE               batches that are due, waiting, carried or held
  attempts:3                batches tried so often; '>3' for more often, '<3' for less
  'reply:TEXT'              batches whose last reply holds the text

With a thread or a pattern alone, hold, release and retry concern the threads as such, and a retry
forgets the host's back-off. A hold goes for mail to come as well, unless one of its terms is a
message, age, state, attempts or reply: it stands (see zrelay holds) until it is released by the
same terms or wider ones, and of a message to come only the recipients that are meant are held. All
else concerns the batches in the queue now; drop and expire end those of their recipients that are
meant, reroute moves only batches of which all recipients are.

Examples:
  zrelay messages age:1d 'reply:greylist'
  zrelay expire --dry-run 'smtp/*.example.net' recipient:gone.example.net
  zrelay reroute smtp/example.net --to 'smtp/[192.0.2.1]:2525'
  zrelay hold 'sender:*@bad.example'                what is there, and what comes
  zrelay drop 'sender:spammer@*' 'age:<1h'";

const THREADS: &str = "\
Fields to sort by: thread, state, recipients, batches, bytes, oldest, failures, agents, in_flight,
rtt, delivery_rate, recipient_rate, next_attempt.

Examples:
  zrelay threads --sort recipients --limit 20          the longest queues
  zrelay threads --state retry --sort failures         hosts that are down
  zrelay threads --columns thread,state,last_reply     fields of --json as a table";

const TRACE: &str = "\
A line is: time, lease, flight, direction, text. What is sent without waiting for a reply is one
flight. Content of messages is shown as a number of octets, secrets as ***. Lines that come faster
than they are read are lost, and counted. Nothing is slowed down. Ctrl-C ends it.

Example:
  zrelay trace smtp/lists.example.net --for 1m";

const SITES: &str = "\
Topics of an address:
  level       the highest conversation level it stands: lockstep, transaction, pipelined, stream
  recipients  how many recipients it took in one transaction before it refused one more
  clear       TLS with it fails; it is met in the clear where that is allowed
  approach    careful: it hung up on more messages than it had answered
  ehlo        what it offered, in the clear and behind TLS; with PIPECONNECT, the next connection
              begins with an envelope instead of waiting for its greeting

Examples:
  zrelay sites '192.0.2.*'              what is known of these addresses
  zrelay sites forget '192.0.2.1:*'     it was repaired: meet it as if for the first time";

/// A mail relay hub for large list servers.
#[derive(Debug, Parser)]
#[command(name = "zrelay", version, about, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) hub: HubOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which hub is meant.
#[derive(Debug, Args)]
pub(crate) struct HubOptions {
    /// The configuration file; without one the embedded default applies
    #[arg(long, global = true, env = "ZRELAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The control socket of a running hub; overrides the configuration
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the hub in the foreground
    Serve,
    /// Read the configuration and say what is wrong with it
    Check,
    /// Explain where a recipient would go, and by which rule
    Route(RouteArgs),
    /// Totals of the running hub
    Status(Output),
    /// Channels: ways to deliver, with their agents and queues
    Channels(Listing),
    /// Rings: threads that share agents
    Rings(Listing),
    /// Threads: the queue of each host, its state and the reason for it
    #[command(after_help = THREADS)]
    Threads(ThreadsArgs),
    /// One thread in detail: its agents, flows, batches, and what its host answered of late
    Thread(ThreadArgs),
    /// The hub on one screen, live: threads, rates, and keys to look inside, hold, release and retry
    Top(TopArgs),
    /// Watch the conversation of a thread while it goes on
    #[command(after_help = TRACE)]
    Trace(TraceArgs),
    /// How long recipients have been in the queue: a table of ages by thread
    Qshape(QshapeArgs),
    /// Messages in the queue
    #[command(after_help = TERMS)]
    Messages(MessagesArgs),
    /// One message: the state of each recipient, and what was tried for it
    Message(MessageArgs),
    /// Hold threads or mail, that to come as well: nothing is handed out until it is released
    #[command(after_help = TERMS)]
    Hold(SelectArgs),
    /// Release what was held
    #[command(after_help = TERMS)]
    Release(SelectArgs),
    /// Holds that stand: what they are for, since when, and who set them
    Holds(Listing),
    /// Try again now, whatever the back-off says
    #[command(after_help = TERMS)]
    Retry(SelectArgs),
    /// Give recipients up now: they leave the queue for good, and their senders get a report
    #[command(after_help = TERMS)]
    Expire(SelectArgs),
    /// Send messages to another thread; they keep their age, and begin anew with their attempts
    #[command(after_help = TERMS)]
    Reroute(RerouteArgs),
    /// Take recipients out of the queue for good, on record, without a report to the sender
    #[command(after_help = TERMS)]
    Drop(SelectArgs),
    /// What was learned of hosts, and how long it holds
    #[command(args_conflicts_with_subcommands = true, after_help = SITES)]
    Sites(SitesArgs),
    /// The JSON schema of what --json and the control socket give
    Schema,
    /// Look into the spool on disk, get mail out of it and into it
    #[command(subcommand)]
    Spool(SpoolCommand),
}

#[derive(Debug, Args)]
pub(crate) struct SitesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<SitesCommand>,
    /// Of which addresses or sites; * is any run of characters, ? any one
    #[arg(default_value = "*", value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Only this topic
    #[arg(long)]
    pub(crate) topic: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SitesCommand {
    /// Forget what was learned; it is learned anew
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Of which addresses or sites
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Only this topic
    #[arg(long)]
    pub(crate) topic: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolCommand {
    /// Verify every record on disk and every message in the queue; changes nothing
    ///
    /// Exit status: 0 all is as it was written, 1 something is damaged.
    Check(SpoolArgs),
    /// How much is in the spool; beside a running hub, also how the hub is doing
    Stat(SpoolArgs),
    /// Write the messages in the queue to files, for another hub or for keeping; changes nothing in the spool
    ///
    /// For each message DIR/ID.eml, byte for byte as it would be sent, and DIR/ID.json, its envelope with the state of
    /// each recipient. Stop the hub first when the mail is to move: a running one goes on delivering it.
    Export(ExportArgs),
    /// Put exported messages into the spool of a hub that is stopped
    ///
    /// Takes each DIR/ID.json with its DIR/ID.eml. Messages get a new queue id and keep the time of their arrival, and
    /// what was known of them: threads, attempts, due times, holds, last replies, reports that are owed. What was imported
    /// is renamed to DIR/ID.json.imported, so that an import that was interrupted can be repeated.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SpoolArgs {
    /// The spool's directory, when it is not the configured one
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Where to write; made when it is not there
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Only these messages
    #[arg(long = "message", value_name = "ID")]
    pub(crate) messages: Vec<String>,
    #[command(flatten)]
    pub(crate) spool: SpoolArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Where the exported files are
    #[arg(value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// Let the hub route the open recipients anew, as mail that has just come in, because its routes are others
    #[arg(long)]
    pub(crate) route: bool,
    #[command(flatten)]
    pub(crate) spool: SpoolArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// Print JSON with stable field names instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// How to list.
#[derive(Clone, Debug, Args)]
pub(crate) struct Listing {
    /// Sort by this field: numbers with the largest first, words in their order
    #[arg(long, value_name = "FIELD")]
    pub(crate) sort: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Show these fields, by their names in --json
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The recipient's address
    pub(crate) address: String,
    /// The envelope sender; <> for the null sender
    #[arg(long, default_value = "<>", value_name = "ADDRESS")]
    pub(crate) sender: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ThreadsArgs {
    /// Which threads: channel/host with * and ?
    #[arg(default_value = "*", value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Only threads in this state; "limit" is any of limit:...
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Which threads: channel/host with * and ?
    #[arg(default_value = "*", value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub(crate) interval: f64,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Which threads: channel/host with * and ?
    #[arg(value_name = "CHANNEL/HOST")]
    pub(crate) pattern: String,
    /// End after so many lines
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// End after this time, such as 30s
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) duration: Option<zrelay_clock::Span>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct QshapeArgs {
    /// Which threads: channel/host with * and ?
    #[arg(default_value = "*", value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// At most so many threads, those with the most recipients
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ThreadArgs {
    /// The thread: channel/host
    #[arg(value_name = "CHANNEL/HOST")]
    pub(crate) thread: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct MessagesArgs {
    /// Only what all of these terms allow
    #[arg(value_name = "TERM")]
    pub(crate) terms: Vec<String>,
    /// Only messages with an envelope sender that matches
    #[arg(long, value_name = "PATTERN")]
    pub(crate) sender: Option<String>,
    /// Only messages with a waiting recipient that matches
    #[arg(long, value_name = "PATTERN")]
    pub(crate) recipient: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// The queue id
    pub(crate) id: String,
    /// Print the message itself, byte for byte, read from the spool of this machine
    #[arg(long, conflicts_with = "json")]
    pub(crate) content: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RerouteArgs {
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// Where it goes: channel/host
    #[arg(long, value_name = "CHANNEL/HOST")]
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    /// What: all of these terms must hold
    #[arg(value_name = "TERM", required = true)]
    pub(crate) terms: Vec<String>,
    /// Do nothing; say how much would be concerned, and show some of it
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}
