//! New keys for a dataset, and all of it stored again under them.
//!
//! Decides the order: first the keys change, then contents are stored, then what lies under the old ones leaves.

use super::Dataset;
use crate::commit::{Earlier, Reseal, commit, rekey};
use crate::error::{ClientError, ErrorKind};
use crate::report::ResealReport;

/// What stands for the place in the journal of a reseal: no path can be it.
const RESEAL_PLACE: &[u8] = b"\0reseal";

impl Dataset {
    /// Changes the keys of all that comes later: read links given out so far show the dataset as it is now and never
    /// again anything new. What they can read now they can read for as long as nodes keep it. Shares stay.
    ///
    /// # Errors
    /// As [`Dataset::put`].
    pub async fn rekey(&self) -> Result<(), ClientError> {
        rekey(&self.owner, &self.options(None, Vec::new(), b""), false).await
    }

    /// Changes the keys as [`Dataset::rekey`] does, and stores the newest snapshot again under a new dedup key, so that keys of
    /// chunks that readers kept open nothing that is stored from now on; then what is stored under the old ones leaves, to be
    /// deleted by [`Dataset::gc`] a week later. Cut off, the same call goes on. `earlier`: what becomes of other snapshots;
    /// may be `None` when there are none. What a reseal can and cannot do is in the threat model.
    ///
    /// # Errors
    /// `Usage` when there are earlier snapshots and nothing says what becomes of them; `Damaged` when a file cannot be read
    /// back: then nothing but the keys has changed; as [`Dataset::put`] and [`Dataset::gc`].
    pub async fn reseal(&self, earlier: Option<Earlier>) -> Result<ResealReport, ClientError> {
        let state = self.state().await?;
        let before = state.rows.len().saturating_sub(1);
        let earlier = match earlier {
            Some(earlier) => earlier,
            None if before == 0 => Earlier::Forget,
            None => {
                return Err(ClientError::new(
                    ErrorKind::Usage,
                    "nothing says what becomes of earlier snapshots",
                    format!("there are {before}, which old keys would go on to open"),
                    "say --forget-earlier or --keep-earlier",
                ));
            }
        };
        let under_way = state.note.sealing.is_some_and(|sealing| !sealing.complete);
        drop(state);
        if !under_way {
            rekey(&self.owner, &self.options(None, Vec::new(), b""), true).await?;
        }
        let memory_bytes = self.vault.client.config().memory_budget_bytes;
        let mut owner = self.owner.clone();
        owner.client = owner.client.with_memory(memory_bytes - memory_bytes / 4);
        let options = self.options(None, Vec::new(), RESEAL_PLACE);
        let mut reseal = Reseal::new(owner.clone(), memory_bytes / 4, earlier);
        let done = commit(&owner, &options, &mut reseal).await?;
        let shares = self.shares().await?;
        let old_shares = shares.iter().filter(|share| share.ended.is_none() && share.snapshot.is_some()).count();
        let gc = self.gc(false).await?;
        let (files, bytes, forgotten_snapshots) = reseal.done.unwrap_or_default();
        Ok(ResealReport {
            snapshot: done.body.snapshot_id.to_string(),
            files,
            bytes,
            new_bytes: done.new_bytes,
            forgotten_snapshots,
            kept_snapshots: if earlier == Earlier::Keep { before as u64 } else { 0 },
            old_shares: old_shares as u64,
            leaving_segments: gc.leaving_segments,
            leaving_bytes: gc.leaving_bytes,
        })
    }
}
