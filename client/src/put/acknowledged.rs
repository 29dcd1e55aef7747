//! What nodes have acknowledged, before this run and in it, and the thread that writes it down.
//!
//! Decides when the journal is written: soon, off the threads that serve sockets. A lost note costs an offer of a shard
//! that the node already has, so a journal that cannot be written is worth a warning and no more.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};

use crate::error::ClientError;
use crate::state::{Journal, Placed};

type Shared = Arc<Mutex<Option<Journal>>>;

/// The journal as an upload uses it.
pub(crate) struct Acknowledged {
    journal: Shared,
    notes: Sender<Placed>,
    /// Leases that end sooner count as not there.
    fresh_until: Timestamp,
}

impl Acknowledged {
    /// Starts the writer, which ends with this.
    pub(crate) fn new(journal: Journal, fresh_until: Timestamp) -> Self {
        let journal = Arc::new(Mutex::new(Some(journal)));
        let (notes, receiver) = channel();
        let shared = Arc::clone(&journal);
        std::thread::spawn(move || write(&shared, &receiver));
        Self { journal, notes, fresh_until }
    }

    /// Nodes that hold a shard since an earlier run.
    pub(crate) fn holders(&self, root: &ShardRoot) -> Vec<NodeId> {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.as_ref().map_or_else(Vec::new, |journal| journal.holders(root, self.fresh_until).collect())
    }

    /// Notes that a node holds a shard.
    pub(crate) fn note(&self, placed: Placed) {
        // A writer that is gone has said why.
        let _ = self.notes.send(placed);
    }

    /// Removes the journal: the upload is complete.
    ///
    /// # Errors
    /// `Local` when it cannot be removed.
    pub(crate) fn finish(&self) -> Result<(), ClientError> {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        journal.map_or(Ok(()), Journal::finish)
    }
}

fn write(journal: &Mutex<Option<Journal>>, notes: &Receiver<Placed>) {
    while let Ok(first) = notes.recv() {
        let mut batch = vec![first];
        batch.extend(notes.try_iter());
        match journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(|journal| journal.note(&batch)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(why = error.why(), "an interrupted upload will resume from here, not from later");
                return;
            }
            None => return,
        }
    }
}
