//! Which roots somebody is changing leases of at this moment.
//!
//! Decides that changes to the leases of one root never overlap: a lease is visible only once it is durable, so
//! whoever looks, decides and writes must be alone with the root until then. Never waits: who comes second is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use dolmen_proto::ids::ShardRoot;

/// The roots that are claimed; bounded by the requests in flight.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    roots: Arc<Mutex<BTreeSet<ShardRoot>>>,
}

impl Claims {
    /// Claims a root until the claim is dropped; `None`: somebody else has it.
    pub(crate) fn claim(&self, root: ShardRoot) -> Option<Claim> {
        let mut roots = self.roots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        roots.insert(root).then(|| Claim { claims: self.clone(), root })
    }
}

/// One root held alone.
#[derive(Debug)]
#[must_use = "the root is free again as soon as the claim is dropped"]
pub(crate) struct Claim {
    claims: Claims,
    root: ShardRoot,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.roots.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_claimed_by_one_at_a_time() {
        let claims = Claims::default();
        let root = ShardRoot::new([1; 32]);
        let claim = claims.claim(root).expect("free");
        assert!(claims.claim(root).is_none());
        assert!(claims.claim(ShardRoot::new([2; 32])).is_some());
        drop(claim);
        assert!(claims.claim(root).is_some());
    }
}
