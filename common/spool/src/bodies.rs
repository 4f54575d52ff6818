//! Recent bodies, so that equal ones that come one after another are stored once.
//!
//! List managers with VERP submit one message per subscriber, byte for byte the same. The digest finds the candidate;
//! the octets themselves are compared, so that nothing rests on it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::message::Extent;
use crate::shared::Shared;

/// Bodies remembered. Twenty or so connections of one list manager submit in turn; a few posts may overlap.
const BODIES_MAX: usize = 64;
/// Shorter bodies are cheaper to store than to look up.
const OCTETS_MIN: usize = 64;

/// The most recent bodies.
#[derive(Default)]
pub(crate) struct Bodies {
    recent: VecDeque<Body>,
}

struct Body {
    digest: [u8; 32],
    extents: Arc<[Extent]>,
    /// The octets, as long as they cannot be read from the segments.
    fresh: Option<Vec<u8>>,
    octets: usize,
}

impl Bodies {
    /// Where a body equal to `content` is stored.
    pub(crate) fn find(&mut self, digest: &[u8; 32], content: &[u8], shared: &Shared) -> Option<Arc<[Extent]>> {
        let same = |body: &Body| body.octets == content.len() && body.digest == *digest;
        let at = self.recent.iter().position(same)?;
        let body = self.recent.remove(at)?;
        if !body.equals(content, shared) {
            // Either its segment is gone, or somebody gave a wrong digest; both are answered by storing it again.
            return None;
        }
        let extents = body.extents.clone();
        self.recent.push_front(body);
        Some(extents)
    }

    /// Remembers a body that was stored just now.
    pub(crate) fn remember(&mut self, digest: [u8; 32], extents: &[Extent], content: Vec<u8>) {
        if content.len() < OCTETS_MIN {
            return;
        }
        self.recent.truncate(BODIES_MAX - 1);
        let octets = content.len();
        self.recent.push_front(Body { digest, extents: extents.into(), fresh: Some(content), octets });
    }

    /// All that was stored can be read now.
    pub(crate) fn published(&mut self) {
        self.recent.iter_mut().for_each(|body| body.fresh = None);
    }

    /// Nothing that was stored lately is certain.
    pub(crate) fn clear(&mut self) {
        self.recent.clear();
    }

    /// A segment is about to go.
    pub(crate) fn drop_segment(&mut self, segment: u32) {
        self.recent.retain(|body| body.extents.iter().all(|extent| extent.segment != segment));
    }
}

impl Body {
    fn equals(&self, content: &[u8], shared: &Shared) -> bool {
        if let Some(fresh) = &self.fresh {
            return fresh == content;
        }
        let mut rest = content;
        for extent in &*self.extents {
            let Some(view) = shared.view(extent.segment) else { return false };
            let Some(stored) = view.get(extent.offset, extent.length) else { return false };
            let Some(behind) = rest.strip_prefix(stored) else { return false };
            rest = behind;
        }
        rest.is_empty()
    }
}
