//! The command `zrelay`: a hub that relays mail for list servers, and the tools to watch and steer it.
//!
//! `zrelay serve` wires the rooms into a daemon ([`serve`]): intake loops, the spool's appender, router workers, the
//! scheduler with its control socket, transport loops, and the notary. Every other command is a client of the control
//! socket ([`tools`]), a reader of the configuration ([`check`], [`route`]) or a look into the spool's files ([`spool`])
//! and holds no other power.
#![forbid(unsafe_code)]

mod check;
mod cli;
mod message;
mod print;
mod route;
mod schema;
mod serve;
mod sites;
mod spool;
mod tools;
mod top;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// How a command ended when it did not fail.
enum Done {
    /// As asked.
    Well,
    /// Nothing matched, or the answer was no.
    Nothing,
}

/// A sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl Failure {
    fn new(sentence: impl std::fmt::Display) -> Self {
        Self(sentence.to_string())
    }
}

fn main() -> ExitCode {
    let Cli { hub, command } = Cli::parse();
    let done = match command {
        Command::Serve => serve::serve(&hub),
        Command::Check => check::check(&hub),
        Command::Route(args) => route::route(&hub, &args),
        Command::Spool(command) => spool::run(&hub, command),
        Command::Message(args) if args.content => spool::content(&hub, &args.id),
        Command::Schema => schema::schema(),
        Command::Top(args) => tools::control_path(&hub).and_then(|control| top::top(&control, &args)),
        command => tools::run(&hub, command),
    };
    match done {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Nothing) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("zrelay: {failure}");
            ExitCode::from(1)
        }
    }
}
