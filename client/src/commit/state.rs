//! A dataset as its owner finds it: the newest head and all that it leads to.
//!
//! Decides which of a dataset's epochs is the newest, and what an owner must be able to read before he may change
//! anything. Never changes anything.

use std::sync::Arc;

use dolmen_proto::head::{Head, Lineage, OwnerNote, ReadBody};
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::Timestamp;
use dolmen_proto::keys::{DatasetKeys, ReadKeys, TableKeys, VaultSecret};
use dolmen_proto::ledger::Ledger;
use dolmen_proto::limits::LEASE_DEFAULT;
use dolmen_proto::tree::BlobPointer;

use super::Fork;
use super::guard::Guard;
use crate::client::Client;
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Found, Wanted};
use crate::put::Known;
use crate::read::{Dataset, damaged};
use crate::state::to_hex;

const NAME_CONTEXT: &str = "dolmen 2026 client dataset name v1";
/// Most rows of a history that are read: as many snapshots can be kept.
pub(crate) const HISTORY_MAX: u64 = 65_536;
/// Epochs that are followed from one to the next.
const EPOCHS_FOLLOWED_MAX: usize = 64;
/// Epochs beyond the one that a note names in which a head is looked for: those between may have been lost.
const EPOCHS_PROBED: u32 = 2;

/// One dataset of a vault, for whoever holds the vault's secret.
#[derive(Clone)]
pub(crate) struct Owner {
    pub(crate) client: Client,
    pub(crate) index: u64,
    /// What files about the dataset are called on this machine; tells nothing about it.
    pub(crate) name: String,
    /// Of epoch 0.
    first: Arc<DatasetKeys>,
    pub(super) guard: Guard,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Owner({})", self.index)
    }
}

/// A head of a dataset with what it leads to.
pub(crate) struct State {
    pub(crate) keys: Arc<DatasetKeys>,
    pub(crate) head: Head,
    pub(crate) body: ReadBody,
    pub(crate) reader: Dataset,
    pub(crate) note: OwnerNote,
    /// The snapshots that are kept, oldest first.
    pub(crate) rows: Vec<HistoryRow>,
    pub(crate) ledger: Ledger,
    /// The heads whose changes are in it.
    pub(crate) lineage: Lineage,
    history_blobs: Vec<(BlobPointer, Arc<Vec<u8>>)>,
}

/// The newest head of a dataset.
pub(crate) struct Newest {
    pub(crate) keys: Arc<DatasetKeys>,
    pub(crate) note: OwnerNote,
    pub(crate) head: Head,
    pub(crate) body: ReadBody,
    /// Heads that nodes have and that are not in it, nor in one on the way to it.
    pub(super) forks: Vec<Fork>,
}

impl Owner {
    pub(crate) fn new(client: &Client, vault: &VaultSecret, index: u64) -> Self {
        let first = Arc::new(DatasetKeys::derive(vault, index));
        let locator = ReadKeys::derive(&first.read).locator;
        let name = to_hex(&blake3::derive_key(NAME_CONTEXT, locator.expose())[..16]);
        let guard = Guard::new(client.state(), &name);
        Self { client: client.clone(), index, name, first, guard }
    }

    /// The keys of an epoch.
    pub(crate) fn keys(&self, epoch: u32) -> Arc<DatasetKeys> {
        if epoch == 0 { Arc::clone(&self.first) } else { Arc::new(self.first.in_epoch(epoch)) }
    }

    /// Finds the newest head of the newest epoch, and puts it again where nodes have an older one. A client that never saw the
    /// dataset believes no note alone that says which epoch is the newest, for nodes may show it an old one.
    ///
    /// # Errors
    /// As [`heads::find`]; `Damaged` when a head has no note of the owner.
    pub(crate) async fn newest(&self) -> Result<Newest, ClientError> {
        let nodes = self.client.nodes_known();
        let seen = self.client.state().seen_heads();
        let locator = |epoch| ReadKeys::derive(&self.keys(epoch).read).locator;
        let stranger = seen.newest(&locator(0))?.is_none();
        let mut epoch = 0;
        let mut forks = Vec::new();
        for _ in 0..EPOCHS_FOLLOWED_MAX {
            let keys = self.keys(epoch);
            let found = heads::find(nodes, &Wanted::of_owner(&keys.read)?, Some(&seen)).await?;
            let lineage = lineage_of(&found.head, &found.body)?;
            let others = found.forks.iter().chain(&found.older).map(|(head, _)| head.clone()).collect();
            let mut others = Fork::outside(&keys, &lineage, others);
            // While forks lie there, to put the newest in their place would be to lose them.
            if others.is_empty() {
                let displaced = found.put_again(nodes, nodes.now().after(LEASE_DEFAULT)).await;
                others = Fork::outside(&keys, &lineage, displaced);
            }
            forks.extend(others);
            let note = note_of(&keys, &found.body)?;
            let Found { head, body, .. } = found;
            if note.epoch > epoch {
                epoch = note.epoch;
                continue;
            }
            let mut later = None;
            for next in (1..=EPOCHS_PROBED).filter_map(|ahead| epoch.checked_add(ahead)) {
                if stranger || seen.newest(&locator(next))?.is_some() {
                    later = self.goes_on_in(next, &head).await?.then_some(next);
                }
                if later.is_some() {
                    break;
                }
            }
            let Some(next) = later else { return Ok(Newest { keys, note, head, body, forks }) };
            tracing::warn!(epoch = next, "nodes showed an old state: the dataset's keys have been changed since");
            epoch = next;
        }
        Err(ClientError::bug("the dataset's newest epoch was not found", "each names another"))
    }

    /// Whether a later epoch has a head that was written after this one and the word which follows it, so that this is an old
    /// one. What a rekey wrote that was broken off before its word is no later, and says nothing else.
    async fn goes_on_in(&self, epoch: u32, head: &Head) -> Result<bool, ClientError> {
        let (nodes, seen) = (self.client.nodes_known(), self.client.state().seen_heads());
        match heads::find(nodes, &Wanted::of_owner(&self.keys(epoch).read)?, Some(&seen)).await {
            Ok(found) => Ok(found.head.sequence() > head.sequence().saturating_add(1)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what a head of this dataset leads to.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn state(&self, keys: Arc<DatasetKeys>, head: Head, body: ReadBody) -> Result<State, ClientError> {
        let note = note_of(&keys, &body)?;
        let keys = match note.sealing {
            Some(sealing) if sealing.epoch != keys.sealing() => Arc::new(keys.sealing_as(sealing.epoch)),
            _ => keys,
        };
        let reader = Dataset::of_body(&self.client.reading(), &body, false).await?;
        let mut rows = Vec::new();
        let mut history_blobs = Vec::new();
        if let Some(history) = &body.history {
            if history.count > HISTORY_MAX {
                let why = format!("it has {} rows, this release reads {HISTORY_MAX}", history.count);
                let advice = "use a newer release of dolmen";
                return Err(ClientError::new(ErrorKind::Refused, "the dataset's history is too long", why, advice));
            }
            let mut walk = history.walk::<HistoryRow>();
            while let Some(pointer) = walk.wanted().cloned() {
                let blob = reader.document(&pointer).await?;
                rows.extend(walk.supply(&blob).map_err(|error| damaged(&error))?);
                history_blobs.push((pointer, blob));
            }
        }
        let ledger = match &note.ledger {
            Some(pointer) => Ledger::parse(&reader.document(pointer).await?).map_err(|error| damaged(&error))?,
            None => Ledger::default(),
        };
        let lineage = lineage_of(&head, &body)?;
        Ok(State { keys, head, body, reader, note, rows, ledger, lineage, history_blobs })
    }

    /// Puts read head and table head again, unchanged, so that nodes keep them until then; and the read head of the first epoch,
    /// with which whoever has the words alone begins.
    ///
    /// # Errors
    /// As [`heads::write`].
    pub(crate) async fn put_heads_again(&self, state: &State, until: Timestamp) -> Result<(), ClientError> {
        let nodes = self.client.nodes_known();
        let locator = ReadKeys::derive(&state.keys.read).locator;
        heads::write(nodes, &locator, &state.head, until, None).await?;
        if state.keys.epoch() > 0 {
            let first = self.keys(0);
            let locator = ReadKeys::derive(&first.read).locator;
            match heads::find(nodes, &Wanted::of_owner(&first.read)?, None).await {
                Ok(found) => heads::write(nodes, &locator, &found.head, until, None).await.map(drop)?,
                // Without it the epochs after it are looked for.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let table = Wanted::of_table(&state.keys.table, state.body.table_head_key);
        match heads::find(nodes, &table, None).await {
            Ok(found) => {
                let locator = TableKeys::derive(&state.keys.table).locator;
                heads::write(nodes, &locator, &found.head, until, None).await.map(drop)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The heads whose changes are in a head.
///
/// # Errors
/// `Damaged` when what it says of them is malformed.
pub(super) fn lineage_of(head: &Head, body: &ReadBody) -> Result<Lineage, ClientError> {
    Lineage::of(head, body).map_err(|error| damaged(&error))
}

/// What the owner's note in a head says.
///
/// # Errors
/// `Damaged` when there is none that opens.
pub(crate) fn note_of(keys: &DatasetKeys, body: &ReadBody) -> Result<OwnerNote, ClientError> {
    let wrong = |why: &dyn std::fmt::Display| {
        let advice = "it may belong to an anonymous upload, or to another owner of the same words: see docs/format.md";
        ClientError::new(ErrorKind::Damaged, "the dataset's head has no note of its owner", why, advice)
    };
    let sealed = body.owner_note.as_ref().ok_or_else(|| wrong(&"there is none"))?;
    sealed.open(&keys.note).map_err(|error| wrong(&error))
}

impl State {
    /// Lets a writer know the blobs of the history, so that those that stay are not stored again.
    pub(super) fn teach(&self, known: &Known) {
        for (pointer, blob) in &self.history_blobs {
            known.learn::<HistoryRow>(pointer, blob);
        }
    }

    /// A time for the next snapshot: later than that of every other, whatever this machine's clock says.
    pub(crate) fn next_time(&self, now: Timestamp) -> Timestamp {
        let newest = self.rows.last().map_or(self.body.created, |row| row.created.max(self.body.created));
        now.max(Timestamp::from_unix_ms(newest.as_unix_ms().saturating_add(1)))
    }
}
