//! The snapshots of a dataset: opened, named, made without a path, dropped by policy.

use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{SnapshotId, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::tz::TimeZone;

use super::Dataset;
use crate::commit::{
    Change, ForgetPolicy, Operation, Remove, Selector, State, add_tag, components, drop_rows, remove_tag,
};
use crate::error::{ClientError, ErrorKind};
use crate::put::{ChunkIndex, Store};
use crate::read;
use crate::report::LogEntry;
use crate::snapshot::Snapshot;

impl Dataset {
    /// The snapshots that are kept, newest first.
    ///
    /// # Errors
    /// `NotNow` or `Damaged` when the dataset cannot be read.
    pub async fn log(&self) -> Result<Vec<LogEntry>, ClientError> {
        Ok(self.state().await?.rows.iter().rev().map(LogEntry::from).collect())
    }

    /// Opens a snapshot.
    ///
    /// # Errors
    /// As [`Dataset::log`]; `NotFound` when there is no such snapshot, `Usage` when several could be meant.
    pub async fn snapshot(&self, selector: &Selector) -> Result<Snapshot, ClientError> {
        Snapshot::open(self.reader(selector).await?, self.vault.client.progress().clone()).await
    }

    /// A snapshot for the pipelines that read.
    pub(crate) async fn reader(&self, selector: &Selector) -> Result<read::Dataset, ClientError> {
        let state = self.state().await?;
        if *selector == Selector::Newest {
            return Ok(state.reader);
        }
        let row = selector.find(&state.rows)?;
        Ok(state.reader.at(row.root.clone(), row.id))
    }

    /// Gives a snapshot a tag; one that it has already is no error.
    ///
    /// # Errors
    /// `Usage` when the tag is impossible or names another snapshot, `NotFound` when there is no such snapshot; as
    /// [`Dataset::put`].
    pub async fn tag(&self, snapshot: &Selector, tag: &str) -> Result<(), ClientError> {
        let (snapshot, tag) = (snapshot.clone(), tag.to_owned());
        self.change(&mut Rows(move |rows: &mut Vec<HistoryRow>| add_tag(rows, &snapshot, &tag))).await.map(drop)
    }

    /// Takes a tag away.
    ///
    /// # Errors
    /// `NotFound` when no snapshot has it; as [`Dataset::put`].
    pub async fn untag(&self, tag: &str) -> Result<(), ClientError> {
        let tag = tag.to_owned();
        self.change(&mut Rows(move |rows: &mut Vec<HistoryRow>| remove_tag(rows, &tag))).await.map(drop)
    }

    /// Makes a snapshot without a path. What it took is freed by a later garbage collection, once no snapshot that is
    /// kept has it. A path that another writer changes at the same time stays.
    ///
    /// # Errors
    /// `NotFound` when there is no such path, `Usage` for the root; as [`Dataset::put`].
    pub async fn remove_path(&self, path: &[u8], message: &str) -> Result<SnapshotId, ClientError> {
        let path = components(path)?;
        if path.is_empty() {
            let advice = "name a path, or remove the whole dataset";
            return Err(ClientError::new(ErrorKind::Usage, "no path was named", "it is the root folder", advice));
        }
        let mut remove = Remove { path, message: message.to_owned(), from: None };
        let done = self.change(&mut remove).await?;
        let made = done.body.snapshot_id;
        if let Some(from) = remove.from.filter(|_| done.alone) {
            let state = self.owner.client.state();
            let (index, scratch) = (state.index(&self.owner.name), state.scratch());
            // A failure shows next time, as an index that is not complete.
            let _ = tokio::task::spawn_blocking(move || ChunkIndex::carry_on(&index, &scratch, &from, &made)).await;
        }
        Ok(made)
    }

    /// Drops snapshots from the history, but those that the policy keeps and the newest; days are those of this machine's
    /// time zone. Gives those that were dropped. What they took is freed by a later garbage collection.
    ///
    /// # Errors
    /// `Usage` when the policy has no rule; as [`Dataset::put`].
    pub async fn forget(&self, policy: &ForgetPolicy) -> Result<Vec<LogEntry>, ClientError> {
        let policy = policy.clone();
        let mut dropped = Vec::new();
        let forget = |rows: &mut Vec<HistoryRow>| {
            let kept = policy.keep(rows, &TimeZone::system())?;
            dropped = rows.iter().filter(|row| !kept.contains(row)).map(LogEntry::from).collect();
            *rows = kept;
            Ok(())
        };
        self.change(&mut Rows(forget)).await?;
        Ok(dropped)
    }

    /// Drops these snapshots from the history; gives them. What they took is freed by a later garbage collection.
    ///
    /// # Errors
    /// `NotFound` or `Usage` when one of them is none, several could be meant, or it is the newest, which always stays:
    /// then nothing is dropped; as [`Dataset::put`].
    pub async fn forget_snapshots(&self, snapshots: &[Selector]) -> Result<Vec<LogEntry>, ClientError> {
        let mut dropped = Vec::new();
        let forget = |rows: &mut Vec<HistoryRow>| {
            let gone = drop_rows(rows, snapshots)?;
            dropped = gone.iter().map(LogEntry::from).collect();
            Ok(())
        };
        self.change(&mut Rows(forget)).await?;
        Ok(dropped)
    }

    /// What [`Dataset::forget_snapshots`] would drop now.
    ///
    /// # Errors
    /// As [`Dataset::forget_snapshots`].
    pub async fn would_forget_snapshots(&self, snapshots: &[Selector]) -> Result<Vec<LogEntry>, ClientError> {
        let mut rows = self.state().await?.rows;
        Ok(drop_rows(&mut rows, snapshots)?.iter().map(LogEntry::from).collect())
    }

    /// What [`Dataset::forget`] would drop now.
    ///
    /// # Errors
    /// As [`Dataset::forget`].
    pub async fn would_forget(&self, policy: &ForgetPolicy) -> Result<Vec<LogEntry>, ClientError> {
        let rows = self.state().await?.rows;
        let kept = policy.keep(&rows, &TimeZone::system())?;
        Ok(rows.iter().filter(|row| !kept.contains(row)).map(LogEntry::from).collect())
    }
}

/// Changes the history's rows.
struct Rows<F>(F);

impl<F: FnMut(&mut Vec<HistoryRow>) -> Result<(), ClientError> + Send> Operation for Rows<F> {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        _store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let mut rows = base.rows.clone();
        let changed = (self.0)(&mut rows).map(|()| {
            let rows = (rows != base.rows).then_some(rows);
            Change { rows, ..Change::default() }
        });
        std::future::ready(changed).boxed()
    }
}
