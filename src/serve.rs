//! `zrelay serve`: the hub in the foreground.

mod hub;
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

/// Runs the hub until a signal ends it.
pub(crate) fn serve(options: &HubOptions) -> Result<Done, Failure> {
    let mut config = configuration(options)?;
    if let Some(control) = &options.control {
        config.control.clone_from(control);
    }
    zrelay_maillog::init(zrelay_maillog::Options::new(&config.hostname)).map_err(Failure::new)?;
    raise_descriptors();
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

/// As many descriptors as the system lets us have, up to what the hub can use.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_MAX);
        if soft >= wanted { Ok(()) } else { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) }
    });
    if let Err(error) = raised {
        log::warn!(target: "hub", "cannot raise the limit of open files: {error}");
    }
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
