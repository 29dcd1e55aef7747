//! The newest snapshot stored again, under the dedup key of the epoch that a rekey began for it.
//!
//! Decides that nothing is committed unless every file was read and has its hash, and what becomes of earlier snapshots. What was
//! stored before is left to garbage collection. Why it is done so: `docs/decisions/0010-reseal.md`.

use dolmen_proto::head::Sealing;
use dolmen_proto::ids::Timestamp;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Change, NewSnapshot, Operation, Owner, State, Tree};
use crate::error::{ClientError, ErrorKind};
use crate::options::Compression;
use crate::put::{Known, Parent, Store, prepare_again};
use crate::read::{Dataset, SINGLE_EXTENSION};

/// What becomes of the snapshots before the newest when a dataset is resealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// They are forgotten, and freed with the segments that only they need.
    Forget,
    /// They stay, under the keys that they have: whoever knows those can read them as before.
    Keep,
}

/// Stores the newest snapshot again.
pub(crate) struct Reseal {
    owner: Owner,
    /// Bytes that may be in memory of what is read.
    memory_bytes: u64,
    earlier: Earlier,
    /// Files and bytes that were stored again, snapshots that were forgotten.
    pub(crate) done: Option<(u64, u64, u64)>,
}

impl Reseal {
    pub(crate) fn new(owner: Owner, memory_bytes: u64, earlier: Earlier) -> Self {
        Self { owner, memory_bytes, earlier, done: None }
    }

    async fn reseal(&mut self, base: &State, store: &mut Store) -> Result<Change, ClientError> {
        let Some(Sealing { epoch, complete: false }) = base.note.sealing else {
            // Another machine has done it meanwhile.
            return Ok(Change::default());
        };
        let reading = crate::read::Reading { budget_bytes: self.memory_bytes, ..self.owner.client.reading() };
        let reader = Dataset::of_body(&reading, &base.body, true).await?;
        let snapshot = reader.snapshot().await?;
        let parent = Parent::new(reader, &snapshot, Known::default());
        let scratch = self.owner.client.state().scratch();
        let again = prepare_again(store, parent, Compression::default(), &scratch).await?;
        if let Some(first) = again.tally.failed.first() {
            let why = format!(
                "{} files could not be read, {:?} first: {}",
                again.tally.failed.len(),
                first.path,
                first.reason
            );
            let advice = "run `dolmen verify` on the dataset; put the files again, or remove them, then run it again";
            return Err(ClientError::new(ErrorKind::Damaged, "the dataset was not resealed", why, advice));
        }
        let mut rows = base.rows.clone();
        let newest = rows.iter().position(|row| row.id == base.body.snapshot_id);
        let standing = newest.map(|at| rows.remove(at));
        let forgotten = match self.earlier {
            Earlier::Forget => std::mem::take(&mut rows).len() as u64,
            Earlier::Keep => 0,
        };
        self.done = Some((again.root.totals.files, again.root.totals.bytes, forgotten));
        let new = NewSnapshot {
            root: again.root,
            single: snapshot.extensions.get(SINGLE_EXTENSION).is_some(),
            needs: again.needs,
            message: snapshot.message,
            tags: standing.as_ref().map(|row| row.tags.clone()).unwrap_or_default(),
        };
        // What it names would lead new readers to what was forgotten, or stays in its place under other keys.
        let tree = if standing.is_some() { Tree::Alone(new) } else { Tree::Bare(new) };
        let sealing = Some(Sealing { epoch, complete: true });
        Ok(Change { tree, rows: Some(rows), sealing, ..Change::default() })
    }
}

impl Operation for Reseal {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        self.reseal(base, store).boxed()
    }
}
