//! From the file to the [`Config`]: defaults filled in, units applied, every value held against its range.

mod listen;
mod pace;
mod read;
mod value;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;

use crate::error::Finding;
use crate::raw;
use crate::{
    Access, BareNewline, CHANNELS, Clause, Config, Dns, FlowKey, Intake, Listen, Loops, Pattern, Pipelining, Principal,
    Protocol, Queue, Rates, Route, ServerTls, TlsPolicy, defaults, host,
};

/// Reads and checks a whole file.
pub(crate) fn check(text: &str) -> Result<Config, Vec<Finding>> {
    let mut check = Check { text, findings: Vec::new() };
    let file = read::file(text, &mut check.findings).ok_or_else(|| std::mem::take(&mut check.findings))?;
    let config = check.config(file);
    if check.findings.is_empty() { Ok(config) } else { Err(check.findings) }
}

/// The configuration of an empty file.
pub(crate) fn embedded() -> Config {
    Check { text: "", findings: Vec::new() }.config(raw::File::default())
}

/// The text under check, and what was found so far. Every method returns a usable value whatever it finds, so that
/// one mistake does not hide the next.
struct Check<'a> {
    text: &'a str,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn config(&mut self, file: raw::File) -> Config {
        let tls = file.tls.map(|tls| self.server_tls(tls.into_inner()));
        let agents = self.number("agents", file.agents.as_ref(), defaults::AGENTS, 1..=100_000);
        let mut channel_agents = Vec::new();
        let clauses = self.clauses(file.thread, agents, &mut channel_agents);
        Config {
            hostname: self.hostname(file.hostname.as_ref()),
            spool: self.path("spool", file.spool.as_ref(), defaults::SPOOL),
            control: self.control(file.control.as_ref()),
            postmaster: file.postmaster.as_ref().and_then(|text| self.postmaster(text)),
            drain: self.span("drain", file.drain.as_ref(), defaults::DRAIN, value::ZERO..=value::HOUR),
            bounce_gather: self.span(
                "bounce_gather",
                file.bounce_gather.as_ref(),
                defaults::BOUNCE_GATHER,
                value::ZERO..=value::DAY,
            ),
            segment_size: self.size(
                "segment_size",
                file.segment_size.as_ref(),
                defaults::SEGMENT_SIZE.into(),
                (1 << 20)..=(1 << 30),
            ) as u32,
            compaction_rate: self.size(
                "compaction_rate",
                file.compaction_rate.as_ref(),
                defaults::COMPACTION_RATE,
                65_536..=(1 << 32),
            ),
            checkpoint_interval: self.size(
                "checkpoint_interval",
                file.checkpoint_interval.as_ref(),
                defaults::CHECKPOINT_INTERVAL,
                16_384..=(1 << 30),
            ),
            listen: self.listeners(file.listen, tls.is_some()),
            tls,
            intake: self.intake(&file.intake),
            queue: Queue {
                memory: self.size(
                    "queue.memory",
                    file.queue.memory.as_ref(),
                    defaults::QUEUE_MEMORY,
                    (16 << 20)..=1 << 40,
                ),
            },
            routes: file.route.into_iter().filter_map(|route| self.route(route)).collect(),
            clauses,
            sources: self.sources(file.source),
            agents,
            channel_agents,
            access: self.access(file.access),
            dns: self.dns(&file.dns),
            loops: Loops {
                intake: self.number("loops.intake", file.loops.intake.as_ref(), defaults::LOOPS, 1..=64),
                transport: self.number("loops.transport", file.loops.transport.as_ref(), defaults::LOOPS, 1..=64),
            },
        }
    }

    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn line_of(&self, at: usize) -> usize {
        if self.text.is_empty() {
            return 0;
        }
        self.text.as_bytes().iter().take(at).filter(|c| **c == b'\n').count() + 1
    }

    fn hostname(&mut self, given: Option<&Spanned<String>>) -> String {
        let Some(given) = given else {
            // A machine without a usable name still gets a hub: only the greeting suffers.
            let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            return machine.and_then(|name| host::domain(&name).ok()).unwrap_or_else(|| defaults::HOSTNAME.to_owned());
        };
        host::domain_or_literal(given.get_ref()).unwrap_or_else(|error| {
            self.find(
                Finding::new(given.span(), "unusable host name")
                    .label(error.to_string())
                    .help("expected a domain like \"hub.example.org\" or an address literal like \"[192.0.2.1]\""),
            );
            String::new()
        })
    }

    fn control(&mut self, given: Option<&Spanned<String>>) -> PathBuf {
        let path = self.path("control", given, defaults::CONTROL);
        // sockaddr_un holds 108 octets with the final zero.
        if let Some(given) = given.filter(|given| given.get_ref().len() > 107) {
            self.find(
                Finding::new(given.span(), "the path of the control socket is too long")
                    .help("expected at most 107 octets, the limit of the system"),
            );
        }
        path
    }

    fn postmaster(&mut self, given: &Spanned<String>) -> Option<String> {
        let text = given.get_ref();
        let good = text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && local.len() <= 64
                && local.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&c))
                && !(local.starts_with('.') || local.ends_with('.') || local.contains(".."))
                && host::domain_or_literal(domain).is_ok()
        });
        if !good {
            self.find(
                Finding::new(given.span(), "unusable postmaster address")
                    .help("expected one address like \"postmaster@example.org\", without brackets"),
            );
            return None;
        }
        Some(text.clone())
    }

    fn server_tls(&mut self, given: raw::Tls) -> ServerTls {
        ServerTls {
            certificate: self.path("tls.certificate", Some(&given.certificate), ""),
            key: self.path("tls.key", Some(&given.key), ""),
        }
    }

    fn intake(&mut self, given: &raw::Intake) -> Intake {
        let flows = [("sender-domain", FlowKey::SenderDomain), ("list", FlowKey::List)];
        let bare = [("refuse", BareNewline::Refuse), ("normalise", BareNewline::Normalise)];
        Intake {
            message_size: self.size(
                "message_size",
                given.message_size.as_ref(),
                defaults::MESSAGE_SIZE,
                65_536..=1 << 40,
            ),
            // RFC 5321 §4.5.3.1.8: at least 100 recipients must be taken.
            recipients: self.number(
                "recipients",
                given.recipients.as_ref(),
                defaults::INTAKE_RECIPIENTS,
                100..=10_000_000,
            ),
            connections: self.number("connections", given.connections.as_ref(), defaults::CONNECTIONS, 1..=1_000_000),
            client_connections: self.number(
                "client_connections",
                given.client_connections.as_ref(),
                defaults::CLIENT_CONNECTIONS,
                1..=1_000_000,
            ),
            errors: self.number("errors", given.errors.as_ref(), defaults::ERRORS, 1..=100_000),
            commands: self.number("commands", given.commands.as_ref(), defaults::COMMANDS, 10..=10_000_000),
            bare_newline: self.choice("bare_newline", given.bare_newline.as_ref(), defaults::BARE_NEWLINE, &bare),
            hops: self.number("hops", given.hops.as_ref(), defaults::HOPS, 1..=1000),
            command_timeout: self.span(
                "command_timeout",
                given.command_timeout.as_ref(),
                defaults::COMMAND_TIMEOUT,
                value::SECOND..=value::DAY,
            ),
            data_timeout: self.span(
                "data_timeout",
                given.data_timeout.as_ref(),
                defaults::DATA_TIMEOUT,
                value::SECOND..=value::DAY,
            ),
            data_rate: self.number("data_rate", given.data_rate.as_ref(), defaults::DATA_RATE, 0..=1_000_000_000),
            memory: self.size("memory", given.memory.as_ref(), defaults::MEMORY, (16 << 20)..=1 << 40),
            reserve: self.size("reserve", given.reserve.as_ref(), defaults::RESERVE, 0..=1 << 50),
            flow: self.choice("flow", given.flow.as_ref(), defaults::FLOW, &flows),
            flow_header: given.flow_header.as_ref().and_then(|name| self.header_name("flow_header", name)),
        }
    }

    fn route(&mut self, given: Spanned<raw::Route>) -> Option<Route> {
        let line = self.line_of(given.span().start);
        let given = given.into_inner();
        let recipient = given.recipient.as_ref().map(|text| self.pattern("recipient", text));
        let sender = given.sender.as_ref().map(|text| self.pattern("sender", text));
        let channel = given.channel.get_ref();
        if !CHANNELS.contains(&channel.as_str()) {
            self.find(
                Finding::new(given.channel.span(), format!("unknown channel {channel:?}"))
                    .help(format!("expected one of {}", CHANNELS.join(", "))),
            );
            return None;
        }
        let host = given.host.as_ref().and_then(|text| self.route_host(channel, text));
        Some(Route { recipient: flat(recipient)?, sender: flat(sender)?, channel: channel.clone(), host, line })
    }

    fn route_host(&mut self, channel: &str, given: &Spanned<String>) -> Option<String> {
        let text = given.get_ref();
        if matches!(channel, "smtp" | "lmtp") {
            return host::next_hop(text)
                .map_err(|error| {
                    self.find(Finding::new(given.span(), "unusable host").label(error.to_string()).help(
                        "expected a domain (its MX hosts are used), \"[host]\" or \"[host]:port\" (no MX lookup)",
                    ));
                })
                .ok();
        }
        if text.is_empty() || text.len() > 500 || text.chars().any(char::is_control) {
            self.find(
                Finding::new(given.span(), format!("unusable text for the channel {channel}"))
                    .help("expected one line of 1 to 500 octets"),
            );
            return None;
        }
        Some(text.clone())
    }

    fn clauses(
        &mut self,
        given: Vec<Spanned<raw::Thread>>,
        agents: u32,
        channel_agents: &mut Vec<(String, u32)>,
    ) -> Vec<Arc<Clause>> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut clauses = Vec::with_capacity(given.len());
        for thread in given {
            let thread = thread.into_inner();
            let line = self.line_of(thread.matches.span().start);
            if let Some(first) = seen.insert(thread.matches.get_ref().to_lowercase(), line) {
                self.find(
                    Finding::new(thread.matches.span(), "this clause is never used")
                        .label(format!("the clause in line {first} matches the same threads and stands first"))
                        .help("merge the two"),
                );
            }
            if let Some(limit) = &thread.channel_agents {
                channel_agents.extend(self.channel_agents(&thread.matches, limit, agents));
            }
            clauses.extend(self.clause(&thread, agents).map(Arc::new));
        }
        clauses
    }

    fn channel_agents(
        &mut self,
        matches: &Spanned<String>,
        limit: &Spanned<i64>,
        agents: u32,
    ) -> Option<(String, u32)> {
        let channel = matches.get_ref().strip_suffix("/*").filter(|channel| CHANNELS.contains(channel));
        let Some(channel) = channel else {
            self.find(
                Finding::new(limit.span(), "channel_agents in a clause that is not a whole channel's")
                    .label("a limit over all threads of a channel")
                    .help("put it into a clause with match = \"smtp/*\" or that of another channel"),
            );
            return None;
        };
        let limit = self.number("channel_agents", Some(limit), agents, 1..=agents);
        Some((channel.to_owned(), limit))
    }

    fn clause(&mut self, given: &raw::Thread, agents: u32) -> Option<Clause> {
        let matches = self.pattern("match", &given.matches);
        let defaults = Clause::default_for(given.matches.get_ref());
        let thread_agents =
            self.number("thread_agents", given.thread_agents.as_ref(), defaults.thread_agents, 1..=agents);
        let ring_agents = self.number("ring_agents", given.ring_agents.as_ref(), defaults.ring_agents, 1..=agents);
        if let Some(ring) = given.ring_agents.as_ref().filter(|_| ring_agents < thread_agents) {
            self.find(
                Finding::new(ring.span(), "a ring with fewer agents than one of its threads")
                    .label(format!("thread_agents is {thread_agents}"))
                    .help("the limits nest: thread_agents <= ring_agents <= channel_agents <= agents"),
            );
        }
        let tls = [
            ("none", TlsPolicy::None),
            ("may", TlsPolicy::May),
            ("encrypt", TlsPolicy::Encrypt),
            ("verify", TlsPolicy::Verify),
        ];
        let levels = [
            ("lockstep", Pipelining::Lockstep),
            ("transaction", Pipelining::Transaction),
            ("pipelined", Pipelining::Pipelined),
            ("stream", Pipelining::Stream),
        ];
        let long = value::SECOND..=value::YEAR;
        let patience = value::SECOND..=value::DAY;
        Some(Clause {
            matches: matches?,
            thread_agents,
            ring_agents: ring_agents.max(thread_agents),
            weight: self.number("weight", given.weight.as_ref(), defaults.weight, 1..=20),
            priority: self.priority(given.priority.as_ref(), defaults.priority),
            interval: self.span("interval", given.interval.as_ref(), defaults.interval, long.clone()),
            retries: self.retries(given.retries.as_ref(), defaults.retries),
            jitter: self.jitter(given.jitter.as_ref(), defaults.jitter),
            expiry: self.span("expiry", given.expiry.as_ref(), defaults.expiry, value::ZERO..=value::YEAR),
            delay_warning: self.span(
                "delay_warning",
                given.delay_warning.as_ref(),
                defaults.delay_warning,
                value::ZERO..=value::YEAR,
            ),
            tls: self.choice("tls", given.tls.as_ref(), defaults.tls, &tls),
            implicit_tls: self.implicit_tls(given),
            port: self.port(given.port.as_ref(), Clause::default_port(given)),
            source: given.source.as_ref().and_then(|text| self.address("source", text)),
            recipients: self.number("recipients", given.recipients.as_ref(), defaults.recipients, 1..=1_000_000),
            unacknowledged_messages: self.number(
                "unacknowledged_messages",
                given.unacknowledged_messages.as_ref(),
                defaults.unacknowledged_messages,
                1..=65_536,
            ),
            unacknowledged_bytes: self.size(
                "unacknowledged_bytes",
                given.unacknowledged_bytes.as_ref(),
                defaults.unacknowledged_bytes,
                1..=1 << 30,
            ),
            pipelining: self.choice("pipelining", given.pipelining.as_ref(), defaults.pipelining, &levels),
            idle: self.span("idle", given.idle.as_ref(), defaults.idle, value::ZERO..=value::DAY),
            connection_messages: self.number(
                "connection_messages",
                given.connection_messages.as_ref(),
                defaults.connection_messages,
                1..=1_000_000_000,
            ),
            connection_age: self.span(
                "connection_age",
                given.connection_age.as_ref(),
                defaults.connection_age,
                patience.clone(),
            ),
            connect_timeout: self.span(
                "connect_timeout",
                given.connect_timeout.as_ref(),
                defaults.connect_timeout,
                patience.clone(),
            ),
            timeout: self.span("timeout", given.timeout.as_ref(), defaults.timeout, patience),
            initial_agents: self.number(
                "initial_agents",
                given.initial_agents.as_ref(),
                defaults.initial_agents,
                1..=agents,
            ),
            ring_rates: self.rates(given.ring_rates.as_ref()),
            clause_rates: self.rates(given.clause_rates.as_ref()),
            replies: given.reply.iter().flatten().filter_map(|rule| self.reply_rule(rule.get_ref())).collect(),
        })
    }

    fn implicit_tls(&mut self, given: &raw::Thread) -> bool {
        let wanted = given.implicit_tls.as_ref().is_some_and(|wanted| *wanted.get_ref());
        let none = given.tls.as_ref().filter(|policy| wanted && policy.get_ref() == "none");
        if let Some(none) = none {
            self.find(
                Finding::new(none.span(), "implicit TLS without TLS")
                    .help("set tls to \"encrypt\" or \"verify\", or leave implicit_tls out"),
            );
        }
        wanted
    }

    fn retries(&mut self, given: Option<&Spanned<Vec<Spanned<i64>>>>, default: Vec<u32>) -> Vec<u32> {
        let Some(given) = given else { return default };
        if given.get_ref().is_empty() || given.get_ref().len() > 100 {
            self.find(
                Finding::new(given.span(), "a list of retries without a retry, or with more than 100")
                    .help("expected waits in units of the interval, such as [1, 1, 2, 3, 5, 8]; the last one repeats"),
            );
        }
        given.get_ref().iter().map(|wait| self.number("retries", Some(wait), 1, 1..=1_000_000)).collect()
    }

    fn access(&mut self, given: raw::Access) -> Access {
        Access {
            read_only: self.principals(given.read_only),
            operator: self.principals(given.operator),
            admin: self.principals(given.admin),
        }
    }

    fn principals(&mut self, given: Option<Vec<Spanned<String>>>) -> Vec<Principal> {
        let read = |text: Spanned<String>| match text.get_ref().parse() {
            Ok(principal) => Some(principal),
            Err(error) => {
                let error: crate::PrincipalError = error;
                self.find(Finding::new(text.span(), "neither a user nor a group").help(error.to_string()));
                None
            }
        };
        given.into_iter().flatten().filter_map(read).collect()
    }

    fn dns(&mut self, given: &raw::Dns) -> Dns {
        let servers = given.servers.iter().flatten();
        Dns {
            servers: servers.filter_map(|server| self.socket("dns.servers", server, Some(53))).collect(),
            timeout: self.span(
                "dns.timeout",
                given.timeout.as_ref(),
                defaults::DNS_TIMEOUT,
                value::TENTH..=value::MINUTE,
            ),
            attempts: self.number("dns.attempts", given.attempts.as_ref(), defaults::DNS_ATTEMPTS, 1..=20),
        }
    }
}

/// A pattern that was given and is bad leaves the whole rule out; it has been reported.
#[expect(clippy::option_option, reason = "given or not, and good or not, are two questions")]
fn flat(pattern: Option<Option<Pattern>>) -> Option<Option<Pattern>> {
    match pattern {
        None => Some(None),
        Some(None) => None,
        Some(good) => Some(good),
    }
}

impl Clause {
    /// The built-in clause, as a thread named `matches` gets it when no clause of the file matches.
    pub fn default_for(matches: &str) -> Self {
        let port = if matches.starts_with("lmtp/") { defaults::LMTP_PORT } else { defaults::PORT };
        Self { port, ..Self::default() }
    }

    /// The port of a clause that names none.
    fn default_port(given: &raw::Thread) -> u16 {
        match &given.implicit_tls {
            Some(wanted) if *wanted.get_ref() => defaults::IMPLICIT_TLS_PORT,
            _ => Self::default_for(given.matches.get_ref()).port,
        }
    }
}

impl Default for Clause {
    fn default() -> Self {
        Self {
            matches: Pattern::any(),
            thread_agents: defaults::THREAD_AGENTS,
            ring_agents: defaults::RING_AGENTS,
            weight: defaults::WEIGHT,
            priority: defaults::PRIORITY,
            interval: defaults::INTERVAL,
            retries: defaults::RETRIES.to_vec(),
            jitter: defaults::JITTER,
            expiry: defaults::EXPIRY,
            delay_warning: defaults::DELAY_WARNING,
            tls: defaults::TLS,
            implicit_tls: false,
            port: defaults::PORT,
            source: None,
            recipients: defaults::RECIPIENTS,
            unacknowledged_messages: defaults::UNACKNOWLEDGED_MESSAGES,
            unacknowledged_bytes: defaults::UNACKNOWLEDGED_BYTES,
            pipelining: defaults::PIPELINING,
            idle: defaults::IDLE,
            connection_messages: defaults::CONNECTION_MESSAGES,
            connection_age: defaults::CONNECTION_AGE,
            connect_timeout: defaults::CONNECT_TIMEOUT,
            timeout: defaults::TIMEOUT,
            initial_agents: defaults::INITIAL_AGENTS,
            ring_rates: Rates::default(),
            clause_rates: Rates::default(),
            replies: Vec::new(),
        }
    }
}

impl Config {
    /// The clause of the thread `name` (`channel/host`): the first that matches, else the built-in one.
    pub fn clause(&self, name: &str) -> Arc<Clause> {
        let found = self.clauses.iter().find(|clause| clause.matches.matches(name));
        found.map_or_else(|| Arc::new(Clause::default_for(name)), Arc::clone)
    }
}
