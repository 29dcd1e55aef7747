//! New keys for what comes later.
//!
//! Decides the order: the head of the next epoch first, then the word, in the old epoch's head, that there is one. A writer who
//! does not know yet loses against that word and finds his way; a reader with an old link finds it and nothing newer.

use std::sync::Arc;

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Head, HeadOrder, NO_HEAD, OwnerNote, ReadBody, Sealing, named_stewards, with_named_stewards};
use dolmen_proto::heads::HeadVersion;
use dolmen_proto::keys::{DatasetKeys, ReadKeys};
use dolmen_proto::limits::HEAD_SEQUENCE_LEAP_MAX;

use super::publish::{follow, put_head};
use super::state::{lineage_of, note_of};
use super::stewards::Publishing;
use super::{Commit, CommitOptions, Done, Fork, Owner, State, TRIES, pause};
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Published, Wanted};
use crate::put::Candidates;

/// Begins the next epoch of a dataset; with `reseal` one under whose dedup key all is stored from then on.
///
/// # Errors
/// `Conflict` when other writers were first too often; as [`super::commit`].
pub(crate) async fn rekey(owner: &Owner, options: &CommitOptions, reseal: bool) -> Result<(), ClientError> {
    let candidates = Candidates::find(&owner.client.put_context()).await?;
    let mut commit = Commit { owner, options, candidates, done: Done::default() };
    for attempt in 0..TRIES {
        pause(attempt).await?;
        let base = commit.settled(Vec::new(), None).await?;
        let next =
            base.keys.epoch().checked_add(1).ok_or_else(|| ClientError::bug("no epoch is left", "all are used"))?;
        begin(&commit, &base, next, reseal).await?;
        let Some(displaced) = say(&commit, &base, next).await? else { continue };
        owner.guard.clear()?;
        tell_stewards(&commit, &base, next).await;
        if !displaced.is_empty() {
            // Their writers believe them to be in.
            commit.settled(displaced, None).await?;
        }
        return Ok(());
    }
    Err(ClientError::new(
        ErrorKind::Conflict,
        "the keys could not be changed",
        format!("other writers were first {TRIES} times"),
        "run the same command again",
    ))
}

fn bug(error: &dyn std::fmt::Display) -> ClientError {
    ClientError::bug("could not write a head", error)
}

/// Tells stewards the secrets of the next epoch.
async fn tell_stewards(commit: &Commit<'_>, base: &State, epoch: u32) {
    let owner = commit.owner;
    let everybody = commit.candidates.everybody();
    let publishing = Publishing {
        keys: &owner.keys(epoch),
        ledger: &base.ledger,
        table: &base.body.table,
        sequence: base.head.sequence().saturating_add(1),
        until: owner.client.nodes_known().now().after(commit.options.lease),
        everybody: everybody.as_ref(),
    };
    publishing.publish_all(owner).await;
}

/// The note of a state's owner, with another epoch.
fn note(base: &State, epoch: u32) -> OwnerNote {
    OwnerNote { epoch, ..base.note.clone() }
}

/// Writes the head of the next epoch: the same snapshot and table under other keys.
async fn begin(commit: &Commit<'_>, base: &State, epoch: u32, reseal: bool) -> Result<(), ClientError> {
    let owner = commit.owner;
    let keys = owner.keys(epoch);
    let mut note = note(base, epoch);
    if reseal {
        note.sealing = Some(Sealing { epoch, complete: false });
    }
    // One that nobody was told of may lie there, of a try that was broken off.
    let current = match heads::find(owner.client.nodes_known(), &Wanted::of_owner(&keys.read)?, None).await {
        Ok(found) => Some(found.head),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let order = order(&base.head, current.as_ref());
    let body = ReadBody {
        read_opening: keys.read_opening.clone(),
        table_secret: keys.table.clone(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        owner_note: Some(note.seal(&keys.note).map_err(|error| bug(&error))?),
        extensions: follow(&base.lineage, same_stewards(&base.body.extensions)?, order.sequence)?,
        ..base.body.clone()
    };
    let head = Head::create_read(&keys.read, &keys.read_head, order, &body).map_err(|error| bug(&error))?;
    match put_head(owner, commit.options, &commit.candidates, &keys, &head, &body).await? {
        Published::Written { .. } => Ok(()),
        Published::Superseded => Err(ClientError::new(
            ErrorKind::Conflict,
            "the keys could not be changed",
            "another writer is changing them",
            "run the same command again",
        )),
    }
}

/// What of a head's extensions goes on in the next epoch.
fn same_stewards(before: &Extensions) -> Result<Extensions, ClientError> {
    let stewards = named_stewards::<ReadBody>(before).map_err(|error| bug(&error))?;
    with_named_stewards::<ReadBody>(Extensions::default(), &stewards).map_err(|error| bug(&error))
}

/// Sequences go on from one epoch to the next, since tables and views are ordered by them.
fn order(base: &Head, current: Option<&Head>) -> HeadOrder {
    let sequence = base.sequence().saturating_add(1);
    match current {
        None => HeadOrder { sequence, previous: NO_HEAD },
        Some(current) => {
            let next = HeadOrder::after(Some(current));
            let leap = current.sequence().saturating_add(HEAD_SEQUENCE_LEAP_MAX);
            HeadOrder { sequence: next.sequence.max(sequence.min(leap)), ..next }
        }
    }
}

/// Says in the head of the old epoch, and of the first one, that there is a newer one. Gives
/// the heads that this displaced; `None` when another writer was first.
async fn say(commit: &Commit<'_>, base: &State, epoch: u32) -> Result<Option<Vec<Fork>>, ClientError> {
    let owner = commit.owner;
    let sealed = note(base, epoch).seal(&base.keys.note).map_err(|error| bug(&error))?;
    let body = ReadBody { owner_note: Some(sealed), ..base.body.clone() };
    let Some(displaced) = replace(commit, &base.keys, &base.head, body).await? else { return Ok(None) };
    if base.keys.epoch() == 0 {
        return Ok(Some(displaced));
    }
    // Only saves those who look for the newest a step on their way.
    let first = owner.keys(0);
    let found = heads::find(owner.client.nodes_known(), &Wanted::of_owner(&first.read)?, None).await?;
    let mut said = note_of(&first, &found.body)?;
    said.epoch = epoch;
    let sealed = said.seal(&first.note).map_err(|error| bug(&error))?;
    let body = ReadBody { owner_note: Some(sealed), ..found.body };
    replace(commit, &first, &found.head, body).await?;
    Ok(Some(displaced))
}

/// Replaces a head by one with its body and another note; gives the heads that it displaced, `None` when another writer was first.
async fn replace(
    commit: &Commit<'_>,
    keys: &Arc<DatasetKeys>,
    current: &Head,
    mut body: ReadBody,
) -> Result<Option<Vec<Fork>>, ClientError> {
    let nodes = commit.owner.client.nodes_known();
    let order = HeadOrder::after(Some(current));
    body.extensions = follow(&lineage_of(current, &body)?, body.extensions.clone(), order.sequence)?;
    let head = Head::create_read(&keys.read, &keys.read_head, order, &body).map_err(|error| bug(&error))?;
    let locator = ReadKeys::derive(&keys.read).locator;
    let until = nodes.now().after(commit.options.lease);
    let everybody = commit.candidates.everybody();
    match heads::write(nodes, &locator, &head, until, everybody.as_ref()).await? {
        Published::Written { forks } => {
            commit.owner.client.state().seen_heads().note(&locator, HeadVersion::from(&head))?;
            Ok(Some(Fork::outside(keys, &lineage_of(&head, &body)?, forks)))
        }
        Published::Superseded => Ok(None),
    }
}
