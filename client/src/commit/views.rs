//! Shares: views of a folder, a file or a snapshot, published by the owner.
//!
//! Decides which views a commit publishes anew and what stands in one: the root of a snapshot made for it, whose folder is
//! the shared one, and a table of the segments that this folder touches, with their mask keys. Nothing above or beside
//! the folder can be opened with that: every blob and chunk has a key of its own, and only those below are named.

use std::collections::BTreeSet;

use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::head::{Head, HeadOrder, ViewBody};
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{SegmentId, SnapshotId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, MaskKey, ViewKeys, ViewKeyset};
use dolmen_proto::ledger::{Ledger, Share};
use dolmen_proto::limits::SHARES_MAX;
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::{Entry, EntryKind, FolderEntry, build_folder};
use dolmen_proto::tree::BlobPointer;

use super::publish::order_after;
use super::{Owner, State};
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Published, Wanted, WholeNetwork};
use crate::put::{About, Store, built, write_snapshot, write_view_table};
use crate::read::{Dataset, SINGLE_EXTENSION};

/// A share's number is so much above the last one at most: two writers who share at once take different ones.
const NUMBER_LEAP_MAX: u32 = 1 << 16;

/// Which views a commit publishes anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// Those whose folder it changes, new ones, and those that it ends.
    #[default]
    Changed,
    /// All that are not ended: where their chunks lie has changed, or a publishing failed.
    All,
}

/// A view whose documents are stored and whose head is still to be put.
pub(super) struct View {
    keys: ViewKeyset,
    body: ViewBody,
}

/// Adds a share to a ledger; gives its number.
///
/// # Errors
/// `Refused` when there are too many, `Local` without random numbers.
pub(crate) fn new_share(
    ledger: &mut Ledger,
    path: Vec<u8>,
    snapshot: Option<SnapshotId>,
    created: Timestamp,
) -> Result<u32, ClientError> {
    let refused = |why: String| {
        let advice = "end shares that are not needed any more with `dolmen unshare`";
        ClientError::new(ErrorKind::Refused, "no more can be shared of this dataset", why, advice)
    };
    if ledger.shares.len() >= SHARES_MAX {
        // Ended ones go first; their numbers stay used.
        let oldest = ledger.shares.iter().position(|share| share.ended.is_some());
        let oldest = oldest.ok_or_else(|| refused(format!("it has {SHARES_MAX} shares")))?;
        ledger.shares.remove(oldest);
    }
    let number = take_number(ledger)?;
    ledger.shares.push(Share { number, path, snapshot, created, ended: None, sequence: 0 });
    Ok(number)
}

/// Takes a number that no share and no steward has had.
///
/// # Errors
/// `Refused` when all are used, `Local` without random numbers.
pub(super) fn take_number(ledger: &mut Ledger) -> Result<u32, ClientError> {
    let mut random = [0; 2];
    crate::vault::fill_random(&mut random)?;
    let leap = u32::from(u16::from_le_bytes(random)) % NUMBER_LEAP_MAX;
    let number = ledger.next.checked_add(leap).filter(|number| *number < u32::MAX).ok_or_else(|| {
        let advice = "put it into a dataset of its own";
        ClientError::new(ErrorKind::Refused, "no more can be shared of this dataset", "all numbers are used", advice)
    })?;
    ledger.next = number + 1;
    Ok(number)
}

/// The link of a share.
///
/// # Errors
/// `Usage` when the bootstrap addresses cannot be written.
pub(crate) fn share_link(keys: &DatasetKeys, number: u32, bootstrap: &[String]) -> Result<Link, ClientError> {
    Link::new(LinkSecret::View(keys.view(number).secret), bootstrap.to_vec()).map_err(|error| {
        let advice = "give at most eight short multiaddresses";
        ClientError::new(ErrorKind::Usage, "the link's bootstrap addresses cannot be written", error, advice)
    })
}

/// The head of a view as nodes have it; `None` when there is none.
///
/// # Errors
/// As [`heads::find`].
pub(crate) async fn published(owner: &Owner, number: u32) -> Result<Option<(Head, ViewBody)>, ClientError> {
    let keys = owner.keys(0).view(number);
    match heads::find(owner.client.nodes_known(), &Wanted::of_view(&keys.secret), None).await {
        Ok(found) => Ok(Some((found.head, found.body))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts the heads of all shares that have not ended again, unchanged, so that nodes keep them until then.
///
/// # Errors
/// As [`heads::find`] and [`heads::write`].
pub(super) async fn put_again(owner: &Owner, ledger: &Ledger, until: Timestamp) -> Result<(), ClientError> {
    for share in ledger.shares.iter().filter(|share| share.ended.is_none()) {
        if let Some((head, _)) = published(owner, share.number).await? {
            let locator = ViewKeys::derive(&owner.keys(0).view(share.number).secret).locator;
            heads::write(owner.client.nodes_known(), &locator, &head, until, None).await?;
        }
    }
    Ok(())
}

/// What a view shows.
enum Shown {
    Folder(FolderEntry),
    /// The folder of a view that was made for one file.
    Single(FolderEntry),
    File(Box<Entry>),
    /// It ended, or what it showed is not there any more.
    Nothing,
}

impl Shown {
    /// What lies at a path of a snapshot.
    async fn at(reader: &Dataset, path: &[u8]) -> Result<Self, ClientError> {
        match reader.entry(path).await {
            Ok(None) => {
                let snapshot = reader.snapshot().await?;
                let single = snapshot.extensions.get(SINGLE_EXTENSION).is_some();
                Ok(if single { Self::Single(snapshot.root) } else { Self::Folder(snapshot.root) })
            }
            Ok(Some(Entry { kind: EntryKind::Folder(folder), .. })) => Ok(Self::Folder(folder)),
            Ok(Some(entry)) => Ok(Self::File(Box::new(entry))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(error),
        }
    }

    fn is_single(&self) -> bool {
        matches!(self, Self::Single(_) | Self::File(_))
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) | (Self::Single(one), Self::Single(other)) => {
                one.totals == other.totals && one.tree.key == other.tree.key
            }
            (Self::File(one), Self::File(other)) => super::merge::same(one, other),
            (Self::Nothing, Self::Nothing) => true,
            _ => false,
        }
    }
}

/// Stores the documents of the views that are to be published: of the snapshot that `reader` reads, or of the one that a share
/// is of. Their sequences in the ledger go up.
#[expect(clippy::too_many_arguments, reason = "all that a commit has at hand")]
pub(super) async fn write(
    owner: &Owner,
    base: &State,
    reader: &Dataset,
    rows: &[HistoryRow],
    ledger: &mut Ledger,
    refresh: &Refresh,
    created: Timestamp,
    store: &mut Store,
) -> Result<Vec<View>, ClientError> {
    let mut roots = Vec::new();
    for share in &mut ledger.shares {
        let before = base.ledger.shares.iter().find(|other| other.number == share.number);
        let ends = share.ended.is_some();
        let (new, was_ended) = (before.is_none(), before.is_some_and(|before| before.ended.is_some()));
        if ends && (new || was_ended) {
            continue;
        }
        let at = match share.snapshot {
            None => Some(reader.clone()),
            Some(id) => rows.iter().find(|row| row.id == id).map(|row| reader.at(row.root.clone(), row.id)),
        };
        let (shown, needs) = match (ends, at) {
            (true, _) => (Shown::Nothing, Needs::NONE),
            (false, Some(at)) => (Shown::at(&at, &share.path).await?, at.snapshot().await?.needs),
            // The snapshot is forgotten; what was published of it stays, wherever its chunks are moved.
            (false, None) if *refresh == Refresh::Changed => continue,
            (false, None) => match published(owner, share.number).await? {
                Some((_, body)) => {
                    let at = reader.at(body.snapshot, body.snapshot_id);
                    (Shown::at(&at, b"").await?, at.snapshot().await?.needs)
                }
                None => continue,
            },
        };
        let changed = match (new || ends, share.snapshot) {
            (true, _) => true,
            (false, Some(_)) => false,
            (false, None) => !Shown::at(&base.reader, &share.path).await?.is_same(&shown),
        };
        if !changed && *refresh == Refresh::Changed {
            continue;
        }
        share.sequence = share.sequence.saturating_add(1);
        let touched = touched(reader, &shown).await?;
        let single = shown.is_single();
        let folder = match shown {
            Shown::Folder(folder) | Shown::Single(folder) => folder,
            Shown::File(entry) => store.write(|sink| build_folder([*entry], sink).map_err(built)).await?,
            Shown::Nothing => store.write(|sink| build_folder([], sink).map_err(built)).await?,
        };
        let salt = base.keys.view_salt(share.number, created);
        let about = About { created, message: String::new(), salt, parent: None, single, needs };
        let (root, id) = write_snapshot(store, folder, about).await?;
        roots.push((share.number, root, id, touched));
    }
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let own: Vec<SegmentId> = store.close_documents().await?.iter().map(|stored| stored.id).collect();
    let reader = reader.with_segments(store.stored.iter().map(|(_, stored)| stored));
    let mut views = Vec::new();
    for (number, root, snapshot_id, mut touched) in roots {
        let snapshot = store.settled(root);
        touched.segments.extend(own.iter().filter(|id| **id == snapshot.segment));
        let table = write_view_table(store, &reader, &touched.segments, &touched.nominal).await?;
        let table_mask = MaskKey::derive(&base.keys.mask, &table.segment.nonce());
        let keys = base.keys.view(number);
        let body = ViewBody {
            opening: keys.opening.clone(),
            table_mask,
            table,
            snapshot,
            snapshot_id,
            created,
            extensions: Extensions::default(),
        };
        views.push(View { keys, body });
    }
    Ok(views)
}

/// The segments of a part of a tree.
#[derive(Default)]
struct Touched {
    /// That pointers name.
    nominal: BTreeSet<SegmentId>,
    /// That chunks and blobs lie in.
    segments: BTreeSet<SegmentId>,
}

impl Touched {
    async fn add(&mut self, reader: &Dataset, pointer: &BlobPointer) -> Result<(), ClientError> {
        if self.segments.contains(&pointer.segment) {
            return Ok(());
        }
        let (place, _) = reader.locate(pointer).await?;
        self.nominal.insert(pointer.segment);
        self.segments.insert(place.id);
        Ok(())
    }
}

async fn touched(reader: &Dataset, shown: &Shown) -> Result<Touched, ClientError> {
    let mut touched = Touched::default();
    // Folders that are still to be read; one level at a time is never more than what lies beside one way down.
    let mut folders: Vec<FolderEntry> = Vec::new();
    match shown {
        Shown::Folder(folder) | Shown::Single(folder) => folders.push(folder.clone()),
        Shown::File(entry) => of_entry(reader, entry, &mut folders, &mut touched).await?,
        Shown::Nothing => {}
    }
    while let Some(folder) = folders.pop() {
        let mut reading = reader.folder(&folder);
        let mut pointers = Vec::new();
        while let Some(entries) =
            reader.next_entries_seen(&mut reading, |pointer, _| pointers.push(pointer.clone())).await?
        {
            for pointer in pointers.drain(..) {
                touched.add(reader, &pointer).await?;
            }
            for entry in entries {
                of_entry(reader, &entry, &mut folders, &mut touched).await?;
            }
        }
    }
    Ok(touched)
}

async fn of_entry(
    reader: &Dataset,
    entry: &Entry,
    folders: &mut Vec<FolderEntry>,
    touched: &mut Touched,
) -> Result<(), ClientError> {
    match &entry.kind {
        EntryKind::Folder(folder) => folders.push(folder.clone()),
        EntryKind::Symlink { .. } => {}
        EntryKind::File(file) => {
            let mut extents = reader.extents(file);
            let mut pointers = Vec::new();
            while let Some(placed) =
                reader.next_extents_seen(&mut extents, |pointer, _| pointers.push(pointer.clone())).await?
            {
                for pointer in pointers.drain(..) {
                    touched.add(reader, &pointer).await?;
                }
                for extent in placed {
                    if let Some((chunk, _)) = extent.extent.chunk() {
                        touched.add(reader, chunk).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

impl View {
    /// Puts the view's head, for the read head of this sequence; one of a later state stays.
    ///
    /// # Errors
    /// As [`heads::find`] and [`heads::write`].
    pub(super) async fn publish(
        &self,
        owner: &Owner,
        sequence: u64,
        until: Timestamp,
        everybody: Option<&WholeNetwork>,
    ) -> Result<(), ClientError> {
        let nodes = owner.client.nodes_known();
        let current = match heads::find(nodes, &Wanted::of_view(&self.keys.secret), None).await {
            Ok(found) => Some(found.head),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(order) = order_after(current.as_ref(), sequence) else { return Ok(()) };
        let head = self.head(order)?;
        let locator = ViewKeys::derive(&self.keys.secret).locator;
        match heads::write(nodes, &locator, &head, until, everybody).await? {
            Published::Written { .. } | Published::Superseded => Ok(()),
        }
    }

    fn head(&self, order: HeadOrder) -> Result<Head, ClientError> {
        Head::create_view(&self.keys.secret, &self.keys.head, order, &self.body)
            .map_err(|error| ClientError::bug("could not write a view's head", error))
    }
}
