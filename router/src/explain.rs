//! The same decision, aloud.

use std::fmt;

use zrelay_config::Route;
use zrelay_spool::ThreadKey;

use crate::Router;
use crate::decide::{Domain, Rule, is_bare_postmaster, matches_recipient, no_postmaster, split};

/// One step of a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The file of the rule; `None` for what is built in.
    pub file: Option<String>,
    /// The line of the rule in that file; 0 for what is built in.
    pub line: usize,
    /// What the step came to.
    pub verdict: Verdict,
    /// In words.
    pub text: String,
}

/// What a step came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Something was found out.
    Note,
    /// A rule did not match.
    Passed,
    /// A rule decided: this is where the recipient goes. Always the last step.
    Taken(ThreadKey),
}

impl fmt::Display for Step {
    /// `hub.toml:12: recipient "*.example.net" matches: smtp/[10.0.0.9]:2526`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (_, 0) => {}
            (Some(file), line) => write!(f, "{file}:{line}: ")?,
            (None, line) => write!(f, "line {line}: ")?,
        }
        f.write_str(&self.text)?;
        match &self.verdict {
            Verdict::Taken(thread) => write!(f, ": {thread}"),
            Verdict::Note | Verdict::Passed => Ok(()),
        }
    }
}

impl Router {
    /// How a recipient `address` of a message from `sender` is routed, step by step; both without brackets, the null
    /// sender empty.
    pub fn explain(&self, address: &str, sender: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut address = address.to_owned();
        if is_bare_postmaster(&address) {
            let Some(domain) = self.postmaster_domain() else {
                let text = "postmaster without a domain, and no postmaster is configured".to_owned();
                steps.push(built_in(text, Verdict::Taken(no_postmaster())));
                return steps;
            };
            steps.push(built_in(
                format!("postmaster without a domain goes to the domain of the configured postmaster, {domain}"),
                Verdict::Note,
            ));
            address = format!("postmaster@{domain}");
        }
        let domain = Domain::of(split(&address).1);
        steps.push(built_in(describe(&address, &domain), Verdict::Note));
        let rule = self.rule(&address, &domain, sender);
        for (at, route) in self.routes.iter().enumerate() {
            let taken = rule == Rule::Route(at);
            let verdict = if taken { Verdict::Taken(self.thread(rule, &domain)) } else { Verdict::Passed };
            let text = compare(route, &address, &domain, taken);
            steps.push(Step { file: self.file.clone(), line: route.line, verdict, text });
            if taken {
                return steps;
            }
        }
        let thread = self.thread(Rule::Default, &domain);
        steps.push(built_in("no route matches, the domain decides".to_owned(), Verdict::Taken(thread)));
        steps
    }
}

fn built_in(text: String, verdict: Verdict) -> Step {
    Step { file: None, line: 0, verdict, text }
}

fn describe(address: &str, domain: &Domain) -> String {
    match (&domain.name, &domain.other) {
        (Some(name), Some(other)) if name != other => format!("{address}: the domain is {name}, also {other}"),
        (Some(name), _) => format!("{address}: the domain is {name}"),
        (None, _) => format!("{address}: the domain is not valid"),
    }
}

fn compare(route: &Route, address: &str, domain: &Domain, taken: bool) -> String {
    let mut conditions = Vec::new();
    conditions.extend(route.recipient.as_ref().map(|pattern| format!("recipient {:?}", pattern.as_str())));
    conditions.extend(route.sender.as_ref().map(|pattern| format!("sender {:?}", pattern.as_str())));
    let rule = if conditions.is_empty() { "a route for all".to_owned() } else { conditions.join(" and ") };
    if taken {
        return format!("{rule} matches");
    }
    let failing =
        if matches_recipient(route.recipient.as_ref(), address, domain) { "the sender" } else { "the recipient" };
    format!("{rule} does not match {failing}")
}
