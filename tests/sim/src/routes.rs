//! Where mail is to go, worked out apart from the router: to what the first route says whose pattern admits the recipient,
//! else to its domain. Each recipient is in one batch, no batch is larger than its clause allows, and those that a hold is
//! for are by themselves.

use zrelay_config::Config;
use zrelay_spool::{Request, RoutedBatch, Stored, ThreadKey};

use crate::holds::Holds;
use crate::queue::Queue;

/// The router has decided so on a message of different recipients.
pub(crate) fn check(config: &Config, queue: &Queue, stored: &Stored, decisions: &[Request]) {
    let mut seen = vec![false; stored.recipients() as usize];
    for decision in decisions {
        let Request::Routed { batches, .. } = decision else { panic!("{decision:?} on different recipients") };
        for batch in batches {
            let most = queue.clause(&batch.thread).recipients as usize;
            assert!(batch.recipients.len() <= most, "a batch of {} is routed, of {most}", batch.recipients.len());
            for recipient in &batch.recipients {
                let address = stored.recipient(*recipient).address;
                assert!(leads_to(config, address, &batch.thread), "{address} is routed to {}", batch.thread);
                let before = std::mem::replace(&mut seen[*recipient as usize], true);
                assert!(!before, "{address} is routed twice");
            }
            assert!(is_of_one_kind(&queue.holds, stored, batch), "{batch:?} has some that are to be held");
        }
    }
    let forgotten = seen.iter().position(|seen| !seen);
    assert_eq!(forgotten, None, "a recipient of {} is not routed", stored.id());
}

fn leads_to(config: &Config, address: &str, thread: &ThreadKey) -> bool {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    let admits =
        |route: &&zrelay_config::Route| route.recipient.as_ref().is_none_or(|pattern| pattern.matches_address(address));
    let route = config.routes.iter().find(admits);
    let channel = route.map_or("smtp", |route| &route.channel);
    let host = route.and_then(|route| route.host.as_deref()).unwrap_or(domain);
    *thread.channel == *channel && *thread.host == *host
}

fn is_of_one_kind(holds: &Holds, stored: &Stored, batch: &RoutedBatch) -> bool {
    let apart = |index: &u32| {
        let recipient = stored.recipient(*index);
        holds.sets_apart(&batch.thread, stored.sender(recipient.sender), recipient.address)
    };
    holds.is_empty() || batch.recipients.iter().map(apart).all(|one| one == batch.recipients.first().is_some_and(apart))
}
