//! `zrelay top`: the hub on one screen, live.
//!
//! The hub sends an overview when one is due and no sooner than the last one was read (a subscription of the control
//! socket), so that a slow line sees fewer of them and nothing piles up. [`App`] is a state machine: overviews and keys
//! in, effects out; [`draw`] shows it; this module is the loop around both, and holds the terminal.

mod app;
mod draw;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use zrelay_scheduler::control::{Client, ClientError, Overview};

use crate::cli::TopArgs;
use crate::{Done, Failure};
use app::{App, Effect};

/// How long to wait for a key before looking for news.
const LOOK: Duration = Duration::from_millis(50);
/// How soon a lost hub is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the subscriptions bring.
enum News {
    Overview(Box<Overview>),
    /// The hub is gone, for this reason.
    Lost(String),
}

/// Shows the hub until the user has seen enough.
pub(crate) fn top(control: &Path, args: &TopArgs) -> Result<Done, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::new("top needs a terminal; \"zrelay threads\" prints the same to anything"));
    }
    // Says why at once when there is no hub, and not on a screen that vanishes.
    Client::connect(control).map_err(Failure::new)?.call("whoami", json!({})).map_err(Failure::new)?;
    let ended = Arc::new(AtomicBool::new(false));
    // Not SIGHUP, which ends the process as always: without a terminal there is nothing to restore, and reading keys from
    // one that is gone never comes to an end.
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&ended))
            .map_err(|error| Failure::new(format_args!("cannot handle signals: {error}")))?;
    }
    let mut app = App::new(args);
    // Sets a panic hook that restores the terminal, too.
    let mut terminal = ratatui::init();
    let result = run(&mut terminal, &mut app, control, &ended);
    ratatui::restore();
    result.map(|()| Done::Well)
}

fn run(terminal: &mut DefaultTerminal, app: &mut App, control: &Path, ended: &AtomicBool) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::new(format_args!("the terminal is gone: {error}"));
    let mut news = subscribe(control, app.wanted());
    let mut redraw = true;
    while !ended.load(Ordering::Relaxed) {
        while let Ok(item) = news.try_recv() {
            redraw = true;
            match item {
                News::Overview(overview) => app.handle_overview(Instant::now(), *overview),
                News::Lost(reason) => app.handle_lost(reason),
            }
        }
        if redraw {
            terminal.draw(|frame| draw::draw(frame, app)).map_err(broken)?;
        }
        redraw = event::poll(LOOK).map_err(broken)?;
        if !redraw {
            continue;
        }
        let effect = match event::read().map_err(broken)? {
            Event::Key(key) if key.kind != KeyEventKind::Release => app.handle_key(key),
            _ => None,
        };
        match effect {
            None => {}
            Some(Effect::Quit) => return Ok(()),
            // The old thread ends when it finds nobody listening.
            Some(Effect::Subscribe) => news = subscribe(control, app.wanted()),
            Some(Effect::Act { method, thread }) => app.handle_done(act(control, method, &thread)),
        }
    }
    Ok(())
}

/// One action on a connection of its own. Returns what to tell the user.
fn act(control: &Path, method: &str, thread: &str) -> String {
    let params = json!({ "selector": thread });
    match Client::connect(control).and_then(|mut client| client.call(method, params)) {
        Ok(changed) => {
            format!("{method} {thread}: {} batches, {} recipients", changed["batches"], changed["recipients"])
        }
        Err(error) => format!("{method} {thread}: {error}"),
    }
}

/// Overviews, from a thread of their own that finds the hub again when it is lost.
fn subscribe(control: &Path, wanted: Value) -> Receiver<News> {
    let (sender, receiver) = sync_channel(1);
    let control = control.to_owned();
    thread::spawn(move || {
        while let Err(error) = watch(&control, &wanted, &sender) {
            match sender.try_send(News::Lost(error.to_string())) {
                Err(TrySendError::Disconnected(_)) => return,
                _ => thread::sleep(AGAIN),
            }
        }
    });
    receiver
}

/// Hands overviews on until nobody listens.
fn watch(control: &Path, wanted: &Value, sender: &SyncSender<News>) -> Result<(), ClientError> {
    let mut client = Client::connect(control)?;
    client.call("subscribe", wanted.clone())?;
    loop {
        // A bound of one: an overview that is not read yet keeps the next one with the hub.
        if let Some(overview) = client.notification(AGAIN)?
            && sender.send(News::Overview(Box::new(overview))).is_err()
        {
            return Ok(());
        }
    }
}
