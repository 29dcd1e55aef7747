//! One try of a commit: documents written, the head put, what follows it.
//!
//! Decides the order: snapshot, views, history, ledger, table, then the read head, which is the commit; then the table head
//! and the views' heads, which only ever follow. A table head has the sequence of the read head that it belongs to, and a
//! view's head too as far as nodes take such leaps, so that of two writers the later state stays.

use std::sync::Arc;

use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::head::{
    Head, HeadOrder, Lineage, NO_HEAD, OwnerNote, ReadBody, Sealing, TableBody, named_stewards, with_named_stewards,
};
use dolmen_proto::heads::HeadVersion;
use dolmen_proto::history::{HistoryRow, history_message};
use dolmen_proto::ids::{HeadHash, SnapshotId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadKeys, TableKeys, VaultSecret};
use dolmen_proto::limits::HEAD_SEQUENCE_LEAP_MAX;
use dolmen_proto::manifest::{Parent, build_folder};
use dolmen_proto::policy::Policy;
use dolmen_proto::tree::{CountedTree, CountedTreeBuilder, TreeItem};

use super::guard::Guarded;
use super::state::{HISTORY_MAX, lineage_of};
use super::{Change, Commit, CommitOptions, Fork, NewSnapshot, Owner, State, Tree};
use super::{stewards, views};
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Published, Wanted, WholeNetwork};
use crate::put::{About, Candidates, Store, TableChange, Terms, built, write_snapshot, write_table};
use crate::state::{Journal, JournalHeader};

/// Among the extensions of an owner's note: the dataset is listed no more.
const RETIRED_EXTENSION: u16 = 2;

/// What a try came to.
pub(super) enum Wrote {
    /// There was nothing to change.
    Nothing,
    /// The head is the newest; forks are those that it won over, and that are not in it.
    Newest { head: Head, body: Box<ReadBody>, files: u64, forks: Vec<Fork> },
    /// Another writer's head won; this one is complete and readable all the same.
    Lost { head: Head, body: Box<ReadBody> },
}

/// A store for one operation on a dataset, and the time at which it began: that of an interrupted run which it resumes.
///
/// # Errors
/// `NotNow` when there are too few nodes, `Local` when the journal cannot be used.
pub(super) async fn store_for(
    owner: &Owner,
    options: &CommitOptions,
    candidates: &Candidates,
    policy: Policy,
    (keys, after): (Arc<DatasetKeys>, Option<SnapshotId>),
) -> Result<(Store, Timestamp), ClientError> {
    let context = owner.client.put_context();
    let document_policy = policy.document_policy();
    candidates.check(policy, document_policy)?;
    let scope = [owner.name.as_bytes(), b"\0", &options.place].concat();
    let (state, paths, now) = (context.state.clone(), options.paths.clone(), context.nodes.now());
    let journal = tokio::task::spawn_blocking(move || {
        let (policy, document_policy) = ((policy.k(), policy.n()), (document_policy.k(), document_policy.n()));
        let fits = |header: &JournalHeader| (header.policy, header.document_policy) == (policy, document_policy);
        let vault = VaultSecret::new([0; 32]);
        let fresh = || Ok(JournalHeader { vault, created: now, policy, document_policy });
        Journal::open(&state, &scope, &paths, fits, fresh)
    });
    let journal = journal.await.map_err(|error| ClientError::bug("the journal failed", error))??;
    let created = journal.header().created;
    let require_full = options.require_full;
    let terms = Terms { keys, policy, document_policy, require_full, after, journal };
    Ok((Store::new(&context, candidates, terms), created))
}

/// Writes a change of `base`.
///
/// # Errors
/// As storing and [`heads::write`].
pub(super) async fn write(
    commit: &mut Commit<'_>,
    base: &State,
    change: Change,
    mut store: Store,
    created: Timestamp,
) -> Result<Wrote, ClientError> {
    if change.is_nothing() {
        store.finish()?;
        return Ok(Wrote::Nothing);
    }
    let owner = commit.owner;
    owner.client.progress().stage(crate::progress::Stage::Publishing);
    let mut rows = change.rows.unwrap_or_else(|| base.rows.clone());
    let (snapshot, snapshot_id, snapshot_created) = match change.tree {
        Tree::Keep => (base.body.snapshot.clone(), base.body.snapshot_id, base.body.created),
        Tree::Adopt(row) => (row.root, row.id, row.created),
        Tree::Bare(new) => {
            let row = snapshot(&mut store, new, created, None).await?;
            (row.root, row.id, created)
        }
        Tree::Alone(new) => {
            let row = snapshot(&mut store, new, created, None).await?;
            rows.push(row.clone());
            (row.root, row.id, created)
        }
        Tree::New(new) => {
            let parent = Parent { id: base.body.snapshot_id, root: base.body.snapshot.clone() };
            let row = snapshot(&mut store, new, created, Some(parent)).await?;
            rows.push(row.clone());
            (row.root, row.id, created)
        }
    };
    store.close_documents().await?;
    let snapshot = store.settled(snapshot);
    rows.iter_mut().for_each(|row| row.root = store.settled(row.root.clone()));
    rows.sort_by_key(TreeItem::label);

    let files = rows.iter().find(|row| row.id == snapshot_id).map_or(0, |row| row.files);

    let mut ledger = change.ledger.unwrap_or_else(|| base.ledger.clone());
    let reader =
        base.reader.at(snapshot.clone(), snapshot_id).with_segments(store.stored.iter().map(|(_, stored)| stored));
    let views = views::write(owner, base, &reader, &rows, &mut ledger, &change.refresh, created, &mut store).await?;

    let grants_changed = stewards::write(base, &reader, &commit.candidates, &mut ledger, &mut store).await?;
    let published_ledger = ledger.clone();

    let note = NoteParts {
        name: change.name.unwrap_or_else(|| base.note.name.clone()),
        ledger: (!ledger.shares.is_empty() || ledger.next > 0).then_some(ledger),
        sealing: change.sealing.or(base.note.sealing),
        extensions: extensions(&base.note.extensions, change.retire)?,
    };
    let mut table = change.table.unwrap_or_default();
    table.stewards = Some(stewards::named(&base.keys, &published_ledger));
    let documents = Written { snapshot, snapshot_id, created: snapshot_created, rows, note };
    let mut body = body(&base.keys, documents, Some(base), table, &mut store).await?;
    let mut lineage = base.lineage.clone();
    change.within.iter().for_each(|other| lineage.join(other));
    body.extensions = follow(&lineage, body.extensions, base.head.sequence().saturating_add(1))?;
    let head = Head::create_read(&base.keys.read, &base.keys.read_head, HeadOrder::after(Some(&base.head)), &body)
        .map_err(|error| ClientError::bug("could not write a head", error))?;
    let published = put_head(owner, commit.options, &commit.candidates, &base.keys, &head, &body).await?;

    commit.done.new_bytes += store.sent_bytes();
    let stored = store.stored.iter().map(|(kind, stored)| (stored.id, (*kind, stored.clone())));
    commit.done.stored.extend(stored);
    let Published::Written { forks } = published else {
        store.finish()?;
        return Ok(Wrote::Lost { head, body: Box::new(body) });
    };
    let everybody = commit.candidates.everybody();
    let documents_lease = commit.options.documents_lease(owner);
    let until = owner.client.nodes_known().now().after(documents_lease);
    for view in &views {
        if let Err(error) = view.publish(owner, head.sequence(), until, everybody.as_ref()).await {
            let why = error.why();
            let warning = format!("a share still shows an older state: {why}; `dolmen shares --refresh` tries again");
            owner.client.progress().warn(warning);
        }
    }
    let publishing = stewards::Publishing {
        keys: &base.keys,
        ledger: &published_ledger,
        table: &body.table,
        sequence: head.sequence(),
        until,
        everybody: everybody.as_ref(),
    };
    publishing.publish(owner, grants_changed).await;
    commit.done.lease_until = Some(store.renew(commit.options.lease, documents_lease).await);
    store.finish()?;
    let forks = Fork::outside(&base.keys, &lineage_of(&head, &body)?, forks);
    Ok(Wrote::Newest { head, body: Box::new(body), files, forks })
}

/// The extensions of a read head of this sequence that has all of a lineage in it.
pub(super) fn follow(lineage: &Lineage, extensions: Extensions, sequence: u64) -> Result<Extensions, ClientError> {
    lineage.write(extensions, sequence).map_err(|error| ClientError::bug("could not write a head", error))
}

/// Writes the root of a snapshot; gives the row of the history that it gets.
async fn snapshot(
    store: &mut Store,
    new: NewSnapshot,
    created: Timestamp,
    parent: Option<Parent>,
) -> Result<HistoryRow, ClientError> {
    let totals = new.root.totals;
    let message = history_message(&new.message).to_owned();
    let tags = new.tags;
    let salt = store.keys.snapshot_salt(created);
    let about = About { created, message: new.message, salt, parent, single: new.single, needs: new.needs };
    let (root, id) = write_snapshot(store, new.root, about).await?;
    Ok(HistoryRow { created, id, root, files: totals.files, bytes: totals.bytes, message, tags })
}

fn extensions(base: &Extensions, retire: bool) -> Result<Extensions, ClientError> {
    let mut extensions = base.clone();
    if retire {
        extensions
            .insert(RETIRED_EXTENSION, Vec::new())
            .map_err(|error| ClientError::bug("could not write the owner's note", error))?;
    }
    Ok(extensions)
}

/// What an owner's note will say.
struct NoteParts {
    name: String,
    ledger: Option<dolmen_proto::ledger::Ledger>,
    sealing: Option<Sealing>,
    extensions: Extensions,
}

/// What a head will lead to.
struct Written {
    snapshot: dolmen_proto::tree::BlobPointer,
    snapshot_id: SnapshotId,
    created: Timestamp,
    rows: Vec<HistoryRow>,
    note: NoteParts,
}

/// Writes history, ledger and table; gives the body of the head that leads to them.
async fn body(
    keys: &DatasetKeys,
    written: Written,
    base: Option<&State>,
    table: TableChange,
    store: &mut Store,
) -> Result<ReadBody, ClientError> {
    let bug = |error: &dyn std::fmt::Display| ClientError::bug("could not write a head", error);
    let Written { snapshot, snapshot_id, created, rows, note } = written;
    if rows.len() as u64 > HISTORY_MAX {
        let why = format!("{HISTORY_MAX} snapshots are kept already");
        let advice = "forget some with `dolmen forget`";
        return Err(ClientError::new(ErrorKind::Refused, "no more snapshots can be kept", why, advice));
    }
    let NoteParts { name, ledger, sealing, extensions } = note;
    let stewards = table.stewards.clone().unwrap_or_default();
    let (history, ledger) = store
        .write(move |sink| {
            let mut builder = CountedTreeBuilder::new();
            for row in rows {
                builder.push(row, sink).map_err(built)?;
            }
            let history = builder.finish(sink).map_err(built)?;
            let ledger = ledger.map(|ledger| ledger.put(sink).map_err(built)).transpose()?;
            Ok((history, ledger))
        })
        .await?;
    let table = write_table(store, base.map(|base| &base.reader), table).await?;
    let history = history.map(|tree| CountedTree { count: tree.count, root: store.settled(tree.root) });
    let ledger = ledger.map(|pointer| store.settled(pointer));
    let note = OwnerNote { epoch: keys.epoch(), name, ledger, sealing, extensions };
    Ok(ReadBody {
        read_opening: keys.read_opening.clone(),
        table_secret: keys.table.clone(),
        mask_secret: keys.mask.clone(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        table: table.location,
        snapshot,
        snapshot_id,
        created,
        history,
        owner_note: Some(note.seal(&keys.note).map_err(|error| bug(&error))?),
        extensions: with_named_stewards::<ReadBody>(
            base.map_or_else(Extensions::default, |base| base.body.extensions.clone()),
            &stewards,
        )
        .map_err(|error| bug(&error))?,
    })
}

/// Puts a read head, then, when it is the newest, the table head that belongs to it.
pub(super) async fn put_head(
    owner: &Owner,
    options: &CommitOptions,
    candidates: &Candidates,
    keys: &DatasetKeys,
    head: &Head,
    body: &ReadBody,
) -> Result<Published, ClientError> {
    let nodes = owner.client.nodes_known();
    let (now, everybody) = (nodes.now(), candidates.everybody());
    let until = now.after(options.documents_lease(owner));
    let snapshot = body.snapshot_id;
    owner.guard.keep(&Guarded { epoch: keys.epoch(), written: now, snapshot, head: head.clone() })?;
    let locator = ReadKeys::derive(&keys.read).locator;
    let table = Wanted::of_table(&keys.table, body.table_head_key);
    let (published, table) =
        tokio::join!(heads::write(nodes, &locator, head, until, everybody.as_ref()), heads::find(nodes, &table, None),);
    let published = published?;
    if matches!(published, Published::Written { .. }) {
        owner.client.state().seen_heads().note(&locator, HeadVersion::from(head))?;
        let current = match table {
            Ok(found) => Ok(Some(found.head)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let follows = match current {
            Ok(current) => put_table_head(owner, keys, current, head.sequence(), body, until, everybody.as_ref()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = follows {
            tracing::warn!(why = error.why(), "the table head is behind; the next change brings it up");
        }
    }
    Ok(published)
}

/// Puts a table head; one of a later state stays.
async fn put_table_head(
    owner: &Owner,
    keys: &DatasetKeys,
    current: Option<Head>,
    sequence: u64,
    read: &ReadBody,
    until: Timestamp,
    everybody: Option<&WholeNetwork>,
) -> Result<(), ClientError> {
    let Some(order) = order_after(current.as_ref(), sequence) else { return Ok(()) };
    let bug = |error: &dyn std::fmt::Display| ClientError::bug("could not write a table head", error);
    let stewards = named_stewards::<ReadBody>(&read.extensions).map_err(|error| bug(&error))?;
    let extensions = with_named_stewards::<TableBody>(Extensions::default(), &stewards).map_err(|error| bug(&error))?;
    let body = TableBody { location: read.table.clone(), extensions };
    let head = Head::create_table(&keys.table, &keys.table_head, order, &body).map_err(|error| bug(&error))?;
    let locator = TableKeys::derive(&keys.table).locator;
    // A later state's stays, and then says more than this one.
    heads::write(owner.client.nodes_known(), &locator, &head, until, everybody).await.map(drop)
}

/// The place of a head that belongs to the read head of this sequence, after `current`; `None` when that is of a later
/// state.
pub(super) fn order_after(current: Option<&Head>, sequence: u64) -> Option<HeadOrder> {
    let Some(current) = current else {
        return Some(HeadOrder { sequence, previous: NO_HEAD });
    };
    if current.sequence() > sequence {
        return None;
    }
    if current.sequence() == sequence {
        return Some(HeadOrder { sequence, previous: current.previous() });
    }
    let sequence = sequence.min(current.sequence().saturating_add(HEAD_SEQUENCE_LEAP_MAX));
    Some(HeadOrder { sequence, previous: current.hash() })
}

/// Whether a dataset is listed no more.
pub(crate) fn is_retired(note: &OwnerNote) -> bool {
    note.extensions.get(RETIRED_EXTENSION).is_some()
}

/// What an attempt to make a dataset came to.
pub(crate) enum Created {
    /// It is made, and nobody can take its place any more.
    Done,
    /// Another writer's dataset is in that place.
    Taken,
    /// Another writer came to the same place at the same time, and has it unless he gave it up too.
    Contested(HeadHash),
}

/// Makes a dataset: an empty snapshot under a name.
///
/// The first head is written twice, the second time as a successor of itself. Of two writers who came to one place, one is
/// told of the other when he writes his first, and goes elsewhere; against the second nobody's first can win any more.
///
/// # Errors
/// As storing.
pub(crate) async fn create(
    owner: &Owner,
    options: &CommitOptions,
    candidates: &Candidates,
    policy: Policy,
    name: &str,
) -> Result<Created, ClientError> {
    let keys = owner.keys(0);
    let (mut store, created) = store_for(owner, options, candidates, policy, (Arc::clone(&keys), None)).await?;
    let root = store.write(|sink| build_folder(std::iter::empty(), sink).map_err(built)).await?;
    let new = NewSnapshot { root, single: false, needs: Needs::NONE, message: String::new(), tags: Vec::new() };
    let row = snapshot(&mut store, new, created, None).await?;
    store.close_documents().await?;
    let note = NoteParts { name: name.to_owned(), ledger: None, sealing: None, extensions: Extensions::default() };
    let snapshot = store.settled(row.root);
    let written = Written { snapshot, snapshot_id: row.id, created, rows: Vec::new(), note };
    let mut body = body(&keys, written, None, TableChange::default(), &mut store).await?;
    let head = |before: Option<&Head>, body: &ReadBody| {
        Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(before), body)
            .map_err(|error| ClientError::bug("could not write a head", error))
    };
    let first = head(None, &body)?;
    let mut made = Created::Taken;
    if let Published::Written { forks } = put_head(owner, options, candidates, &keys, &first, &body).await? {
        if forks.is_empty() {
            // First heads of others who came here are other datasets.
            let sequence = first.sequence().saturating_add(1);
            body.extensions = follow(&Lineage::beginning(sequence), body.extensions, sequence)?;
            let second = head(Some(&first), &body)?;
            if let Published::Written { .. } = put_head(owner, options, candidates, &keys, &second, &body).await? {
                made = Created::Done;
            }
        } else {
            made = Created::Contested(first.hash());
        }
    }
    store.renew(options.lease, options.documents_lease(owner)).await;
    store.finish()?;
    owner.guard.clear()?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::keys::VaultSecret;

    /// A table head of some dataset, of this sequence.
    fn head(sequence: u64) -> Head {
        let keys = DatasetKeys::derive(&VaultSecret::new([1; 32]), 0);
        let previous = if sequence == 1 { NO_HEAD } else { HeadHash::new([9; 32]) };
        heads::tests::table_head(&keys, HeadOrder { sequence, previous })
    }

    #[test]
    fn what_follows_a_read_head_has_its_place_and_never_an_earlier_one() {
        let order = |current: Option<&Head>, sequence| {
            order_after(current, sequence).map(|order| (order.sequence, order.previous))
        };
        assert_eq!(order(None, 7), Some((7, NO_HEAD)));
        let third = head(3);
        assert_eq!(order(Some(&third), 4), Some((4, third.hash())));
        assert_eq!(order(Some(&third), 9), Some((9, third.hash())), "those of other writers may be missing between");
        assert_eq!(order(Some(&third), 3), Some((3, third.previous())), "a rival of the same state");
        assert_eq!(order(Some(&third), 2), None, "a later state's stays");
        let far = 5 + HEAD_SEQUENCE_LEAP_MAX;
        assert_eq!(order(Some(&third), far), Some((3 + HEAD_SEQUENCE_LEAP_MAX, third.hash())));
    }
}
