//! Group commit: many writers share one sync, and nothing counts before it.
//!
//! Decides when a change is durable and enters the catalogue, and what happens after a failed sync: the volume is closed
//! for writing, everyone who waited is told, and what counted before is read again before it is served.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};

use super::append::Draft;
use super::folder::{FileOf, Folder, Room, VolumeOf};
use super::record::{Kind, Record};
use super::sync::lock;
use super::volume::{Change, Hold, Mode, read_record, shard_is_whole};
use super::{FolderState, StoreError};
use crate::disk::{Disk, DiskFile};

/// Failed syncs after which a folder is closed for writing.
const SYNC_FAILURES_MAX: u64 = 3;

/// What [`super::Store::commit`] waits for: written, not yet durable, and visible to readers only once it is.
/// Dropping it gives nothing up: the next commit on the same volume makes it durable all the same.
#[must_use = "nothing is durable before its ticket is committed"]
#[derive(Default)]
pub struct Ticket {
    parts: Vec<Part>,
}

struct Part {
    place: Arc<dyn Durable>,
    sequence: u64,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ticket").field("parts", &self.parts.len()).finish()
    }
}

impl Ticket {
    /// Makes this ticket also wait for what `other` waits for.
    pub fn merge(&mut self, other: Self) {
        self.parts.extend(other.parts);
    }

    /// Waits; all parts are waited for even when one fails.
    pub(crate) fn wait(&self) -> Result<(), StoreError> {
        let mut result = Ok(());
        for part in &self.parts {
            let synced = part.place.wait(part.sequence);
            result = result.and(synced);
        }
        result
    }

    /// Waits on the sync thread of the first part's folder.
    pub(crate) fn wait_then(self, done: Done) {
        match self.parts.first() {
            None => done(Ok(())),
            Some(part) => part.place.clone().enqueue(self, done),
        }
    }
}

/// What runs when a commit is through.
pub(crate) type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A place where sequence numbers become durable.
trait Durable: Send + Sync {
    fn wait(&self, sequence: u64) -> Result<(), StoreError>;
    fn enqueue(&self, ticket: Ticket, done: Done);
}

struct VolumeSync<D: Disk> {
    folder: Arc<Folder<D>>,
    volume: Arc<VolumeOf<D>>,
}

impl<D: Disk> Durable for VolumeSync<D> {
    fn wait(&self, sequence: u64) -> Result<(), StoreError> {
        self.folder.sync_to(&self.volume, sequence)
    }

    fn enqueue(&self, ticket: Ticket, done: Done) {
        self.folder.queue.get_or_init(CommitQueue::start).push(ticket, done);
    }
}

/// The sync thread of one folder. It ends when the folder goes.
pub(crate) struct CommitQueue {
    sender: Option<Sender<(Ticket, Done)>>,
}

impl CommitQueue {
    fn start() -> Self {
        let (sender, receiver) = channel();
        let started = std::thread::Builder::new().name("dolmen-sync".to_owned()).spawn(move || Self::run(&receiver));
        match started {
            Ok(_) => Self { sender: Some(sender) },
            // Without a thread to be had, commits run on their callers.
            Err(_) => Self { sender: None },
        }
    }

    /// The first ticket of a batch makes the sync that covers all that were written before it began.
    fn run(receiver: &Receiver<(Ticket, Done)>) {
        while let Ok((ticket, done)) = receiver.recv() {
            let result = ticket.wait();
            // The ticket holds the folder and its lock: whoever hears of the last commit may open the folder again.
            drop(ticket);
            done(result);
        }
    }

    fn push(&self, ticket: Ticket, done: Done) {
        let unsent = match &self.sender {
            Some(sender) => sender.send((ticket, done)).err().map(|error| error.0),
            None => Some((ticket, done)),
        };
        if let Some((ticket, done)) = unsent {
            done(ticket.wait());
        }
    }
}

impl<D: Disk> Folder<D> {
    /// Registers a change whose records are completely written: the next sync of this volume makes it count.
    pub(crate) fn register(self: &Arc<Self>, volume: &Arc<VolumeOf<D>>, change: Change<FileOf<D>>) -> Ticket {
        let sequence = {
            let mut sync = lock(&volume.sync);
            sync.written += 1;
            let sequence = sync.written;
            sync.pending.push_back((sequence, change));
            sequence
        };
        let place = Arc::new(VolumeSync { folder: self.clone(), volume: volume.clone() });
        Ticket { parts: vec![Part { place, sequence }] }
    }

    /// Registers a change of one record in the volume where it lies.
    pub(crate) fn register_one(self: &Arc<Self>, hold: Hold<FileOf<D>>, record: Record) -> Ticket {
        let volume = hold.volume().clone();
        self.register(&volume, Change { records: vec![(hold, record)], copy_of: None, unpin: None })
    }

    /// As [`Folder::register_one`], for a lease or a head whose root or point was pinned before it was written.
    pub(crate) fn register_pinned(self: &Arc<Self>, hold: Hold<FileOf<D>>, record: Record) -> Ticket {
        let volume = hold.volume().clone();
        self.register(&volume, Change { unpin: Some(record.a), records: vec![(hold, record)], copy_of: None })
    }

    /// Syncs everything that was registered with a volume up to now.
    pub(crate) fn sync_all_of(&self, volume: &Arc<VolumeOf<D>>) -> Result<(), StoreError> {
        let sequence = {
            let mut sync = lock(&volume.sync);
            // Bodies and headers may be waiting although no change is.
            sync.written += 1;
            sync.written
        };
        self.sync_to(volume, sequence)
    }

    /// Returns once a sequence number is durable and applied. One caller syncs for all that came before it began.
    pub(crate) fn sync_to(&self, volume: &Arc<VolumeOf<D>>, sequence: u64) -> Result<(), StoreError> {
        let target = {
            let mut sync = lock(&volume.sync);
            loop {
                if sync.synced >= sequence {
                    return Ok(());
                }
                if let Some(failed) = &sync.failed {
                    return Err(failed.clone());
                }
                if !sync.running {
                    sync.running = true;
                    break sync.written;
                }
                sync = volume.synced.wait(sync).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let (end, rewinds) = {
            let tail = lock(&volume.tail);
            (tail.end, tail.rewinds)
        };
        match self.file(volume).and_then(|file| file.sync()) {
            Ok(()) => {
                {
                    let mut tail = lock(&volume.tail);
                    if tail.rewinds == rewinds {
                        tail.durable = tail.durable.max(end);
                    }
                }
                let applied = self.apply_pending(volume, target);
                let mut sync = lock(&volume.sync);
                sync.running = false;
                match &applied {
                    Ok(()) => sync.synced = sync.synced.max(target),
                    Err(error) => sync.failed = Some(error.clone()),
                }
                drop(sync);
                volume.synced.notify_all();
                applied
            }
            Err(error) => {
                let error = StoreError::SyncFailed {
                    folder: self.name.clone(),
                    volume: volume.number,
                    reason: error.to_string(),
                };
                self.sync_failed(volume, &error);
                Err(error)
            }
        }
    }

    /// Lets every change up to a sequence number count.
    fn apply_pending(&self, volume: &VolumeOf<D>, target: u64) -> Result<(), StoreError> {
        let due: Vec<_> = {
            let mut sync = lock(&volume.sync);
            let count = sync.pending.partition_point(|(sequence, _)| *sequence <= target);
            sync.pending.drain(..count).collect()
        };
        let mut result = Ok(());
        let mut totals = lock(&self.totals);
        for (_, change) in due {
            let applied = self.apply(&mut totals, &change);
            result = result.and(applied);
        }
        result.map_err(|reason| {
            // What is durable is not lost: the next opening rebuilds the index from the volumes.
            self.degrade(FolderState::Failed(format!("the index failed: {reason}")));
            self.index_error(reason)
        })
    }

    fn apply(&self, totals: &mut super::catalogue::Totals, change: &Change<FileOf<D>>) -> Result<(), String> {
        for (hold, record) in &change.records {
            let volume = hold.volume().number;
            match change.copy_of {
                None => self.catalogue.apply(totals, volume, record)?,
                Some(original) => self.catalogue.relocate(totals, original, volume, record)?,
            }
            if record.kind == Kind::LeaseEnd {
                self.drop_if_unleased(totals, &record.a)?;
            }
        }
        match &change.unpin {
            Some(key) => self.unpin(totals, key),
            None => Ok(()),
        }
    }

    /// Closes a volume for writing after a failed sync, tells everyone who waits, and reads again what counts in it.
    fn sync_failed(&self, volume: &Arc<VolumeOf<D>>, error: &StoreError) {
        tracing::error!(%error, "a sync failed; the volume is closed for writing and read again");
        volume.trusted.store(false, Ordering::SeqCst);
        lock(&volume.tail).mode = Mode::Suspect;
        let lost: Vec<_> = {
            let mut sync = lock(&volume.sync);
            sync.running = false;
            sync.failed = Some(error.clone());
            sync.pending.drain(..).collect()
        };
        volume.synced.notify_all();
        for key in lost.iter().filter_map(|(_, change)| change.unpin) {
            self.unpin_failed(&key);
        }
        drop(lost);
        if self.sync_failures.fetch_add(1, Ordering::SeqCst) + 1 >= SYNC_FAILURES_MAX {
            self.degrade(FolderState::ReadOnly("syncs keep failing".to_owned()));
        }
        let damaged = self.read_again(volume);
        volume.trusted.store(true, Ordering::SeqCst);
        for (root, length) in damaged {
            if let Err(error) = self.mark_lost(root, length) {
                tracing::error!(%error, "a damaged shard could not be marked");
            }
        }
    }

    /// Shards that count in a volume and whose bytes are not theirs any more.
    fn read_again(&self, volume: &VolumeOf<D>) -> Vec<([u8; 32], u32)> {
        let Ok(rows) = self.rows(volume) else { return Vec::new() };
        let Ok(file) = self.file(volume) else { return Vec::new() };
        file.forget_cached();
        let mut damaged = Vec::new();
        for row in rows.iter().filter(|row| self.counts(volume.number, row)) {
            if row.kind == Kind::Shard {
                let whole = shard_is_whole(&*file, &volume.salt, row).unwrap_or(false);
                if !whole {
                    damaged.push((row.a, row.body_bytes));
                }
            } else if !matches!(read_record(&*file, &volume.salt, row), Ok(Some(_))) {
                tracing::error!(folder = self.name, volume = volume.number, kind = ?row.kind, "a record is damaged");
            }
        }
        damaged
    }

    /// Whether a record is the one that counts for its key.
    pub(crate) fn counts(&self, volume: u64, row: &Record) -> bool {
        let Some(class) = row.kind.class() else { return false };
        match self.catalogue.entry(class, &row.a, &row.b) {
            Ok(entry) => entry.is_some_and(|entry| (entry.volume, entry.offset) == (volume, row.offset)),
            Err(reason) => {
                self.index_error(reason);
                false
            }
        }
    }

    /// Writes that a shard's bytes are lost, and makes it count at once: the damage is a fact whether or not the note of it
    /// is durable.
    pub(crate) fn mark_lost(&self, root: [u8; 32], length: u32) -> Result<(), StoreError> {
        let draft = Draft {
            kind: Kind::ShardLost,
            a: root,
            b: [0; 32],
            value: u64::from(length),
            mark: [0; 16],
            tail: &[],
            generation: None,
            after: None,
        };
        let (hold, record) = self.append_small(draft, Room::Ending)?;
        let mut totals = lock(&self.totals);
        let applied = self.catalogue.apply(&mut totals, hold.volume().number, &record);
        applied.map_err(|reason| self.index_error(reason))
    }
}
