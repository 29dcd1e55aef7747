//! Two states of a dataset that grew out of one, made into one again.
//!
//! Decides what each part of a dataset becomes: its tree, its history, its shares, its name, the segments that must stay.
//! `theirs` is the newest state, to which the changes of `mine` are added; `mine` is complete and readable too: a
//! head that was written and lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{SegmentId, SnapshotId, Timestamp};
use dolmen_proto::ledger::{Ledger, Share};
use dolmen_proto::limits::{LEAVING_MIN, SHARES_MAX};
use dolmen_proto::manifest::Snapshot;
use dolmen_proto::table::{LeavingRow, NodeEntry, SegmentRow};
use dolmen_proto::tree::TreeItem;
use tokio::runtime::Handle;

use super::history::merge_rows;
use super::merge::{Merged, Trees, merge};
use super::state::State;
use super::{Change, NewSnapshot, Tree};
use crate::error::{ClientError, ErrorKind};
use crate::put::{Parent, Store, Stored};
use crate::read::Dataset;

/// A segment that left may be deleted after [`LEAVING_MIN`]; it can be taken back until this long before.
const TAKE_BACK_MARGIN: Duration = Duration::from_secs(2 * 86_400);

/// Snapshots that are followed back, one to the one before, to find what two states grew out of.
const PARENTS_MAX: usize = 64;

/// What both states grew out of, as far as it is known.
pub(super) struct Ancestor {
    /// Its tree.
    pub(super) tree: Option<(Dataset, Snapshot)>,
    pub(super) rows: Vec<HistoryRow>,
    pub(super) name: Option<String>,
    /// Segments of its table; `None`: not known.
    pub(super) reader: Option<Dataset>,
}

impl Ancestor {
    /// The very state that `mine` was made from.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when its snapshot cannot be read.
    pub(super) async fn known(base: &State) -> Result<Self, ClientError> {
        Ok(Self {
            tree: Some((base.reader.clone(), base.reader.snapshot().await?)),
            rows: base.rows.clone(),
            name: Some(base.note.name.clone()),
            reader: Some(base.reader.clone()),
        })
    }

    /// What can be told of it from `mine` and `theirs`: the last snapshot before mine that theirs grew out of too, and what
    /// both histories have.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a snapshot cannot be read.
    pub(super) async fn guessed(mine: &State, theirs: &State) -> Result<Self, ClientError> {
        let common: Vec<HistoryRow> = {
            let others: BTreeMap<_, &HistoryRow> = theirs.rows.iter().map(|row| (row.label(), row)).collect();
            let both = mine.rows.iter().filter_map(|row| {
                let other = others.get(&row.label())?;
                let mut row = row.clone();
                row.tags.retain(|tag| other.tags.contains(tag));
                Some(row)
            });
            both.collect()
        };
        Ok(Self { tree: common_tree(mine, theirs).await?, rows: common, name: None, reader: None })
    }
}

/// The last snapshot before mine that theirs grew out of. `None` when it is not found, or forgotten and freed: then nothing
/// counts as removed, and nothing is lost. One that theirs does not know would make all that only it has count as
/// removed by them.
async fn common_tree(mine: &State, theirs: &State) -> Result<Option<(Dataset, Snapshot)>, ClientError> {
    let mut known: BTreeSet<SnapshotId> = theirs.rows.iter().map(|row| row.id).collect();
    known.insert(theirs.body.snapshot_id);
    let mut older = Some(theirs.reader.clone());
    let mut before = parent(&mine.reader).await?;
    for _ in 0..PARENTS_MAX {
        let Some((id, reader, snapshot)) = before else { return Ok(None) };
        // Snapshots that theirs has forgotten are looked up as far as they are needed.
        for _ in 0..PARENTS_MAX {
            let Some(reader) = older.take_if(|_| !known.contains(&id)) else { break };
            if let Some((id, reader, _)) = parent(&reader).await? {
                known.insert(id);
                older = Some(reader);
            }
        }
        if known.contains(&id) {
            return Ok(Some((reader, snapshot)));
        }
        before = parent(&reader).await?;
    }
    Ok(None)
}

/// The snapshot before one, unless there is none or it cannot be read any more.
async fn parent(reader: &Dataset) -> Result<Option<(SnapshotId, Dataset, Snapshot)>, ClientError> {
    let read = async {
        let Some(parent) = reader.snapshot().await?.parent else { return Ok(None) };
        let before = reader.at(parent.root, parent.id);
        let snapshot = before.snapshot().await?;
        Ok(Some((parent.id, before, snapshot)))
    };
    match read.await {
        Err(error) if ClientError::kind(&error) == ErrorKind::Damaged => Ok(None),
        read => read,
    }
}

/// The change that brings what `mine` has into `theirs`. What it needs is put into the store.
///
/// # Errors
/// `Conflict` when `mine` needs a segment that may be deleted already; `Damaged` or `NotNow` when documents cannot be
/// read.
pub(super) async fn reconcile(
    ancestor: &Ancestor,
    mine: &State,
    theirs: &State,
    store: &mut Store,
) -> Result<(Change, Merged), ClientError> {
    bring_segments(ancestor, mine, theirs, store).await?;
    let rows = merge_rows(&ancestor.rows, &mine.rows, &theirs.rows);
    let (tree, merged) = trees(ancestor, mine, theirs, store).await?;
    let mut change = Change { tree, ..Change::default() };
    if rows != theirs.rows {
        change.rows = Some(rows);
    }
    let ledger = merge_ledgers(&mine.ledger, &theirs.ledger)?;
    if ledger != theirs.ledger {
        change.ledger = Some(ledger);
    }
    if ancestor.name.as_ref().is_some_and(|name| *name != mine.note.name && *name == theirs.note.name) {
        change.name = Some(mine.note.name.clone());
    }
    Ok((change, merged))
}

async fn trees(
    ancestor: &Ancestor,
    mine: &State,
    theirs: &State,
    store: &mut Store,
) -> Result<(Tree, Merged), ClientError> {
    let nothing = (Tree::Keep, Merged::default());
    // Merged before, or never changed.
    if theirs.rows.iter().any(|row| row.id == mine.body.snapshot_id) {
        return Ok(nothing);
    }
    let (my_snapshot, their_snapshot) = (mine.reader.snapshot().await?, theirs.reader.snapshot().await?);
    let base_key = ancestor.tree.as_ref().map(|(_, snapshot)| &snapshot.root.tree.key);
    let (my_key, their_key) = (&my_snapshot.root.tree.key, &their_snapshot.root.tree.key);
    if my_key == their_key || base_key == Some(my_key) {
        return Ok(nothing);
    }
    if base_key == Some(their_key)
        && let Some(row) = mine.rows.iter().find(|row| row.id == mine.body.snapshot_id)
    {
        return Ok((Tree::Adopt(row.clone()), Merged::default()));
    }
    let known = &store.known;
    let parent = |reader: &Dataset, snapshot: &Snapshot| Parent::new(reader.clone(), snapshot, known.clone());
    let trees = Trees {
        base: ancestor.tree.as_ref().map(|(reader, snapshot)| parent(reader, snapshot)),
        mine: parent(&mine.reader, &my_snapshot),
        theirs: parent(&theirs.reader, &their_snapshot),
        mine_id: mine.body.snapshot_id,
    };
    let runtime = Handle::current();
    let (root, merged) = store.write(move |sink| merge(&trees, &runtime, sink)).await?;
    if root.tree.key == *their_key {
        return Ok((Tree::Keep, merged));
    }
    let message = format!("Merge {} into {}", mine.body.snapshot_id.short(), theirs.body.snapshot_id.short());
    Ok((
        Tree::New(NewSnapshot {
            root,
            single: false,
            needs: my_snapshot.needs.and(their_snapshot.needs),
            message,
            tags: Vec::new(),
        }),
        merged,
    ))
}

/// Shares of both. A share that either ended is ended.
fn merge_ledgers(mine: &Ledger, theirs: &Ledger) -> Result<Ledger, ClientError> {
    let mut shares: BTreeMap<u32, Share> = theirs.shares.iter().map(|share| (share.number, share.clone())).collect();
    let is_steward = |number| theirs.stewards.iter().any(|steward| steward.number == number);
    for share in mine.shares.iter().filter(|share| !is_steward(share.number)) {
        match shares.get_mut(&share.number) {
            None => {
                shares.insert(share.number, share.clone());
            }
            Some(other)
                if (&other.path, other.snapshot, other.created) == (&share.path, share.snapshot, share.created) =>
            {
                other.ended = other.ended.or(share.ended);
                other.sequence = other.sequence.max(share.sequence);
            }
            // One link would show what another was made for: whoever holds either must get nothing any more.
            Some(other) => other.ended = other.ended.or(Some(share.created)),
        }
    }
    if shares.len() > SHARES_MAX {
        return Err(ClientError::new(
            ErrorKind::Conflict,
            "the shares of two writers cannot be brought together",
            format!("there would be more than {SHARES_MAX}"),
            "end some shares with `dolmen unshare`, then run the command again",
        ));
    }
    Ok(Ledger {
        next: mine.next.max(theirs.next),
        shares: shares.into_values().collect(),
        stewards: super::stewards::merge(mine, theirs)?,
        extensions: theirs.extensions.clone(),
    })
}

/// Brings the segments of `mine` that `theirs` does not have into the table that is to be written.
async fn bring_segments(
    ancestor: &Ancestor,
    mine: &State,
    theirs: &State,
    store: &mut Store,
) -> Result<(), ClientError> {
    let mut live = BTreeSet::new();
    let mut rows = theirs.reader.rows();
    while let Some(batch) = theirs.reader.next_rows_seen(&mut rows, |_, _| {}).await? {
        live.extend(batch.iter().map(SegmentRow::id));
    }
    let mut missing = Vec::new();
    let mut rows = mine.reader.rows();
    while let Some(batch) = mine.reader.next_rows_seen(&mut rows, |_, _| {}).await? {
        missing.extend(batch.into_iter().filter(|row| !live.contains(&row.id())));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let dropped = dropped(ancestor, &missing, theirs, store.nodes.now()).await?;
    if let Some(id) = dropped {
        return Err(ClientError::new(
            ErrorKind::Conflict,
            "another writer has freed what this change needs",
            format!("segment {} is about to be deleted", id.short()),
            "run the command again: what is missing is uploaded again",
        ));
    }
    let table = mine.reader.table();
    for row in missing {
        let holders = table.holders(&row).map_err(|error| crate::read::damaged(&error))?;
        let nodes = holders.into_iter().map(|holder| {
            let holder: Option<&NodeEntry> = holder;
            holder.map(|node| {
                store.nodes.learn(node.id(), node.addresses());
                node.id()
            })
        });
        let stored = Stored {
            id: row.id(),
            geometry: row.geometry(),
            nonce: row.nonce(),
            roots: row.roots().to_vec(),
            nodes: nodes.collect(),
        };
        store.stored.push((row.kind(), stored));
    }
    Ok(())
}

/// A segment among those missing that `theirs` left out on purpose so long ago that it may be deleted before it is live again.
async fn dropped(
    ancestor: &Ancestor,
    missing: &[SegmentRow],
    theirs: &State,
    now: Timestamp,
) -> Result<Option<SegmentId>, ClientError> {
    let mut suspects: BTreeSet<SegmentId> = BTreeSet::new();
    let wanted: BTreeSet<SegmentId> = missing.iter().map(SegmentRow::id).collect();
    match &ancestor.reader {
        Some(reader) => {
            let mut rows = reader.rows();
            while let Some(batch) = reader.next_rows_seen(&mut rows, |_, _| {}).await? {
                suspects.extend(batch.iter().map(SegmentRow::id).filter(|id| wanted.contains(id)));
            }
        }
        // Without it every segment may have been theirs to leave out; those that did are listed there.
        None => suspects.clone_from(&wanted),
    }
    let mut left = BTreeMap::new();
    if let Some(tree) = theirs.reader.table().leaving.clone() {
        let mut walk = tree.walk::<LeavingRow>();
        while let Some(rows) = theirs.reader.next_of_table_seen(&mut walk, |_, _| {}).await? {
            left.extend(rows.into_iter().map(|row| (row.row.id(), row.left)));
        }
    }
    let in_time = |id: &SegmentId| match left.get(id) {
        Some(left) => now.after(TAKE_BACK_MARGIN) < left.after(LEAVING_MIN),
        // Known to have been live and not even leaving: it is deleted. Unknown: it was stored by mine.
        None => ancestor.reader.is_none(),
    };
    Ok(suspects.into_iter().find(|id| !in_time(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(number: u32, path: &str, ended: Option<u64>) -> Share {
        Share {
            number,
            path: path.as_bytes().to_vec(),
            snapshot: None,
            created: Timestamp::from_unix_ms(5),
            ended: ended.map(Timestamp::from_unix_ms),
            sequence: u64::from(number),
        }
    }

    fn ledger(shares: &[Share]) -> Ledger {
        let next = shares.last().map_or(0, |share| share.number + 1);
        Ledger { next, shares: shares.to_vec(), ..Ledger::default() }
    }

    #[test]
    fn shares_of_both_writers_stay_and_ended_ones_stay_ended() {
        let mine = ledger(&[share(1, "a", None), share(2, "b", Some(9)), share(7, "mine", None)]);
        let theirs = ledger(&[share(1, "a", Some(8)), share(2, "b", None), share(5, "theirs", None)]);
        let merged = merge_ledgers(&mine, &theirs).unwrap();
        let found: Vec<_> = merged.shares.iter().map(|share| (share.number, share.ended.is_some())).collect();
        assert_eq!(found, [(1, true), (2, true), (5, false), (7, false)]);
        assert_eq!(merged.next, 8);
    }

    #[test]
    fn one_number_for_two_folders_shows_neither() {
        let merged = merge_ledgers(&ledger(&[share(3, "a", None)]), &ledger(&[share(3, "b", None)])).unwrap();
        assert_eq!(merged.shares.len(), 1);
        assert!(merged.shares[0].ended.is_some());
    }
}
