//! `zrelay serve`: the hub in the foreground.

mod access;
mod etrn;
mod hub;
mod store;
mod threads;

use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use zrelay_config::Config;

use crate::check::configuration;
use crate::cli::HubOptions;
use crate::{Done, Failure, print};
use hub::Hub;
use threads::{Notice, Notices};

/// Descriptors the hub asks the system for at most: twenty thousand clients and their deliveries fit several times.
const DESCRIPTORS_MAX: u64 = 262_144;

/// Descriptors of the hub's own: segments, event queues, name servers, and the 64 clients of the control socket.
const DESCRIPTORS_OWN: u64 = 128;

/// Runs the hub until a signal ends it.
pub(crate) fn serve(options: &HubOptions) -> Result<Done, Failure> {
    let mut config = configuration(options)?;
    if let Some(control) = &options.control {
        config.control.clone_from(control);
    }
    zrelay_maillog::init(zrelay_maillog::Options::new(&config.hostname)).map_err(Failure::new)?;
    fit_into_descriptors(&mut config);
    let notices = Notices::new();
    watch_signals(&notices)?;
    let hub = Hub::start(&config, options.config.as_deref(), &notices)?;
    announce(&config, options, &hub);
    let clean = run(hub, &config, &notices);
    log::info!(target: "hub", "stopped");
    clean
}

/// Waits for the end, and brings it about.
fn run(mut hub: Hub, config: &Config, notices: &Notices) -> Result<Done, Failure> {
    loop {
        match notices.wait() {
            Notice::Signal(SIGHUP) => {
                log::warn!(target: "hub", "hangup: a changed configuration takes effect at the next start");
            }
            Notice::Signal(_) => break,
            Notice::Ended(thread) => {
                // What is acknowledged is in the spool; without one of its rooms the hub only looks alive.
                return Err(Failure::new(format_args!("the thread {thread} ended unexpectedly; see the log above")));
            }
        }
    }
    log::info!(target: "hub", "shutting down: finishing what is under way for at most {}", zrelay_clock::Span(config.drain));
    hub.drain();
    let until = Instant::now() + config.drain;
    while !hub.is_drained() {
        match notices.wait_until(until) {
            Some(Notice::Signal(SIGHUP)) => {}
            Some(Notice::Signal(_)) => {
                log::info!(target: "hub", "second signal: stopping at once");
                break;
            }
            Some(Notice::Ended(_)) => {}
            None if Instant::now() >= until => {
                log::info!(target: "hub", "not everything could be finished; what is left stays in the spool");
                break;
            }
            None => {}
        }
    }
    hub.stop();
    Ok(Done::Well)
}

/// What an operator wants to know first.
fn announce(config: &Config, options: &HubOptions, hub: &Hub) {
    for (listen, address) in config.listen.iter().zip(hub.addresses()) {
        let protocol = match listen.protocol {
            zrelay_config::Protocol::Smtp => "smtp",
            zrelay_config::Protocol::Lmtp => "lmtp",
        };
        print::line(format_args!("listening on {address} ({protocol})"));
    }
    print::line(format_args!("spool in {}, {} message(s) in the queue", config.spool.display(), hub.recovered()));
    let program = std::env::args().next().unwrap_or_else(|| "zrelay".to_owned());
    let which = match (&options.control, &options.config) {
        (Some(control), _) => format!(" --control {}", control.display()),
        (None, Some(config)) => format!(" --config {}", config.display()),
        (None, None) => String::new(),
    };
    print::line(format_args!("watch it: {program}{which} threads"));
}

/// As many descriptors as the system lets us have, up to what the hub can use; and no more clients than leave enough of
/// them for everything else. Without descriptors no segment of the spool and no connection to a next hop can be opened.
fn fit_into_descriptors(config: &mut Config) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_MAX).max(soft);
        if soft < wanted {
            setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
        }
        Ok(wanted)
    });
    let limit = match raised {
        Ok(limit) => limit,
        Err(error) => return log::warn!(target: "hub", "cannot raise the limit of open files: {error}"),
    };
    let fitting = clients_within(limit, config.agents);
    if config.intake.connections > fitting {
        log::info!(
            target: "hub",
            "the limit of {limit} open files leaves room for {fitting} clients, not for {}; raise it (LimitNOFILE=, \
             ulimit -n), or lower \"connections\" in [intake]",
            config.intake.connections
        );
        config.intake.connections = fitting;
    }
}

/// Clients for which there are descriptors beside the hub's own and its agents'. Where there are few, each side has half.
fn clients_within(limit: u64, agents: u32) -> u32 {
    let free = limit.saturating_sub(DESCRIPTORS_OWN.min(limit / 4));
    let clients = free.saturating_sub(u64::from(agents).min(free / 2));
    u32::try_from(clients).unwrap_or(u32::MAX)
}

/// Signals become notices, on a thread of their own.
fn watch_signals(notices: &Notices) -> Result<(), Failure> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Failure::new(format_args!("cannot handle signals: {error}")))?;
    let notices = notices.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|signal| notices.signal(signal)))
        .map_err(|error| Failure::new(format_args!("cannot start a thread: {error}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_descriptors_to_the_spool_and_to_the_agents() {
        assert_eq!(clients_within(DESCRIPTORS_MAX, 1000), 262_144 - 128 - 1000);
        assert_eq!(clients_within(20_000, 1000), 18_872);
        for limit in [1, 8, 64, 200, 1024, 4096] {
            for agents in [1, 100, 1000, u32::MAX] {
                let clients = u64::from(clients_within(limit, agents));
                let rest = limit - clients;
                let others = DESCRIPTORS_OWN.min(limit / 4) + u64::from(agents).min(limit / 4);
                assert!(clients > 0 && rest >= others, "{clients} of {limit}");
            }
        }
    }
}
