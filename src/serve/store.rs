//! What the control socket needs of the hub beside the scheduler: the spool, and methods of the hub's own.

use serde_json::Value;
use zrelay_clock::Clock;
use zrelay_scheduler::control::{Addressed, MessageFacts, RpcError, SpoolStore, Store};
use zrelay_sites::Sites;
use zrelay_spool::{MessageId, Past};

use crate::sites;

/// See the module's documentation.
pub(super) struct HubStore {
    pub(super) spool: SpoolStore,
    pub(super) sites: Sites,
    pub(super) clock: Clock,
}

impl Store for HubStore {
    fn message(&self, id: MessageId) -> Option<MessageFacts> {
        self.spool.message(id)
    }

    fn addresses(&self, id: MessageId, recipients: &[u32]) -> Option<Vec<Addressed>> {
        self.spool.addresses(id, recipients)
    }

    fn past(&self, id: MessageId) -> Option<Past> {
        self.spool.past(id)
    }

    fn settle(&self) -> bool {
        self.spool.settle()
    }

    fn statistics(&self) -> Value {
        self.spool.statistics()
    }

    fn call(&mut self, method: &str, params: &Value) -> Option<Result<Value, RpcError>> {
        sites::call(&self.sites, self.clock.now(), method, params)
    }
}
