//! Stewards: those who keep a dataset alive for its owner and cannot read it.
//!
//! Decides when a commit grants more (new nodes were met, or half of the grants' time is over) and whose heads it publishes anew:
//! those whose grants or whose table secret changed. What a steward gets is in `docs/decisions/0009-stewards.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dolmen_proto::codec::Extensions;
use dolmen_proto::grant::GrantRow;
use dolmen_proto::head::{Head, StewardBody, TableLocation};
use dolmen_proto::ids::{AccountId, NodeId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadKeys, StewardKeys, account_key, delete_key, renew_key};
use dolmen_proto::ledger::{Ledger, Steward};
use dolmen_proto::limits::{GRANTS_MAX, LEDGER_STEWARDS_MAX, TABLE_STEWARDS_MAX};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::tree::{CountedTree, CountedTreeBuilder};
use dolmen_proto::wire::{GrantRights, Signed, StewardGrant};

use super::publish::order_after;
use super::views::take_number;
use super::{Owner, State};
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Wanted, WholeNetwork};
use crate::put::{Candidates, Store, built};
use crate::read::{Dataset, damaged};

/// Adds a steward to a ledger; gives his number.
///
/// # Errors
/// `Refused` when there are too many, `Local` without random numbers.
pub(crate) fn new_steward(
    ledger: &mut Ledger,
    quota_bytes: u64,
    lasting: Duration,
    created: Timestamp,
) -> Result<u32, ClientError> {
    let active = ledger.stewards.iter().filter(|steward| steward.ended.is_none()).count();
    if active >= TABLE_STEWARDS_MAX {
        return Err(too_many(ErrorKind::Refused));
    }
    if ledger.stewards.len() >= LEDGER_STEWARDS_MAX
        && let Some(ended) = ledger.stewards.iter().position(|steward| steward.ended.is_some())
    {
        ledger.stewards.remove(ended);
    }
    let number = take_number(ledger)?;
    ledger.stewards.push(Steward {
        number,
        created,
        ended: None,
        quota_bytes,
        lasting,
        granted_until: Timestamp::default(),
        epoch: 0,
        grants: None,
    });
    Ok(number)
}

pub(super) fn too_many(kind: ErrorKind) -> ClientError {
    ClientError::new(
        kind,
        "the dataset would have too many stewards",
        format!("{TABLE_STEWARDS_MAX} are the most that its table names"),
        "revoke some with `dolmen steward revoke`",
    )
}

/// The link of a steward.
///
/// # Errors
/// `Usage` when the bootstrap addresses cannot be written.
pub(crate) fn steward_link(keys: &DatasetKeys, number: u32, bootstrap: &[String]) -> Result<Link, ClientError> {
    Link::new(LinkSecret::Steward(keys.steward(number).secret), bootstrap.to_vec()).map_err(|error| {
        let advice = "give at most eight short multiaddresses";
        ClientError::new(ErrorKind::Usage, "the link's bootstrap addresses cannot be written", error, advice)
    })
}

fn active(ledger: &Ledger) -> impl Iterator<Item = &Steward> {
    ledger.stewards.iter().filter(|steward| steward.ended.is_none())
}

/// The public keys of those who have not ended, ascending: what the base table names.
pub(super) fn named(keys: &DatasetKeys, ledger: &Ledger) -> Vec<[u8; 32]> {
    let mut named: Vec<_> =
        active(ledger).map(|steward| StewardKeys::derive(&keys.steward(steward.number).secret).public_key()).collect();
    named.sort_unstable();
    named
}

/// Stores new grants where they are due; gives the numbers of those whose heads say something else now.
///
/// # Errors
/// As storing does. Grants that cannot be read now stay as they are.
pub(super) async fn write(
    base: &State,
    reader: &Dataset,
    candidates: &Candidates,
    ledger: &mut Ledger,
    store: &mut Store,
) -> Result<BTreeSet<u32>, ClientError> {
    let now = store.nodes.now();
    let keys = &base.keys;
    let mut changed = BTreeSet::new();
    let mut built_trees = BTreeMap::new();
    for steward in ledger.stewards.iter_mut().filter(|steward| steward.ended.is_none()) {
        if steward.epoch != keys.epoch() || steward.grants.is_none() {
            steward.epoch = keys.epoch();
            changed.insert(steward.number);
        }
        let mut rows = match granted(reader, steward.grants.as_ref(), store).await {
            Ok(rows) => rows,
            Err(error) if error.kind() == ErrorKind::Damaged => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(why = error.why(), "grants of a steward cannot be read; the next change tries again");
                continue;
            }
        };
        let before = rows.len();
        let late = now.after(steward.lasting / 2) > steward.granted_until;
        let until = if late || rows.is_empty() { now.after(steward.lasting) } else { steward.granted_until };
        let grant = |node: NodeId| grant(keys, steward, node, until);
        if late {
            for (node, row) in &mut rows {
                *row = grant(*node);
            }
        }
        for node in candidates.nodes() {
            if rows.len() >= GRANTS_MAX {
                break;
            }
            rows.entry(node).or_insert_with(|| grant(node));
        }
        if rows.len() == before && !late {
            continue;
        }
        let tree = store.write(move |sink| {
            let mut builder = CountedTreeBuilder::new();
            for row in rows.into_values() {
                builder.push(row, sink).map_err(built)?;
            }
            builder.finish(sink).map_err(built)
        });
        built_trees.insert(steward.number, tree.await?);
        steward.granted_until = until;
        changed.insert(steward.number);
    }
    if !built_trees.is_empty() {
        store.close_documents().await?;
    }
    for steward in &mut ledger.stewards {
        if let Some(tree) = built_trees.remove(&steward.number) {
            steward.grants = tree.map(|tree| CountedTree { root: store.settled(tree.root), ..tree });
        }
    }
    Ok(changed)
}

/// The grants that a steward has.
async fn granted(
    reader: &Dataset,
    tree: Option<&CountedTree>,
    store: &Store,
) -> Result<BTreeMap<NodeId, GrantRow>, ClientError> {
    let mut rows = BTreeMap::new();
    let Some(tree) = tree.filter(|tree| tree.count <= GRANTS_MAX as u64) else { return Ok(rows) };
    let mut walk = tree.walk::<GrantRow>();
    while let Some(pointer) = walk.wanted().cloned() {
        let blob = reader.document(&pointer).await?;
        let found = walk.supply(&blob).map_err(|error| damaged(&error))?;
        store.known.learn::<GrantRow>(&pointer, &blob);
        rows.extend(found.into_iter().map(|row| (row.node, row)));
    }
    Ok(rows)
}

fn grant(keys: &DatasetKeys, steward: &Steward, node: NodeId, until: Timestamp) -> GrantRow {
    let account = account_key(&keys.account, node);
    let grant = StewardGrant {
        account: AccountId::new(account.verifying_key().to_bytes()),
        steward: StewardKeys::derive(&keys.steward(steward.number).secret).at(node).verifying_key().to_bytes(),
        node,
        rights: GrantRights { put: true, renew: true },
        quota_bytes: steward.quota_bytes,
        until,
    };
    GrantRow {
        node,
        account: grant.account,
        delete_key: delete_key(&keys.delete, node).verifying_key().to_bytes(),
        renew_key: renew_key(&keys.renew, node).verifying_key().to_bytes(),
        signed: Signed::sign(grant, &account).encode(),
    }
}

/// What a commit knows when it publishes heads of stewards.
pub(super) struct Publishing<'a> {
    pub(super) keys: &'a DatasetKeys,
    pub(super) ledger: &'a Ledger,
    /// Where the newest table is.
    pub(super) table: &'a TableLocation,
    /// That of the read head to which they belong.
    pub(super) sequence: u64,
    pub(super) until: Timestamp,
    pub(super) everybody: Option<&'a WholeNetwork>,
}

impl Publishing<'_> {
    /// Puts the heads of those among `numbers` who have not ended; one of a later state stays. What cannot be put is warned of:
    /// the change itself has happened.
    pub(super) async fn publish(&self, owner: &Owner, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let Some(steward) = active(self.ledger).find(|steward| steward.number == number) else { continue };
            if let Err(error) = self.publish_one(owner, steward).await {
                let why = error.why();
                let warning =
                    format!("steward {number} does not know the newest state yet: {why}; `dolmen renew` tells him");
                owner.client.progress().warn(warning);
            }
        }
    }

    /// The same for all who have not ended.
    pub(super) async fn publish_all(&self, owner: &Owner) {
        self.publish(owner, active(self.ledger).map(|steward| steward.number)).await;
    }

    async fn publish_one(&self, owner: &Owner, steward: &Steward) -> Result<(), ClientError> {
        let nodes = owner.client.nodes_known();
        let of_steward = self.keys.steward(steward.number);
        let current = match heads::find(nodes, &Wanted::of_steward(&of_steward.secret), None).await {
            Ok(found) => Some(found.head),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(order) = order_after(current.as_ref(), self.sequence) else { return Ok(()) };
        let body = StewardBody {
            opening: of_steward.opening.clone(),
            table_secret: self.keys.table.clone(),
            mask_secret: self.keys.mask.clone(),
            read_locator: ReadKeys::derive(&self.keys.read).locator,
            read_head_key: self.keys.read_head.verifying_key().to_bytes(),
            table_head_key: self.keys.table_head.verifying_key().to_bytes(),
            table: self.table.clone(),
            grants: steward.grants.clone(),
            created: nodes.now(),
            extensions: Extensions::default(),
        };
        let head = Head::create_steward(&of_steward.secret, &of_steward.head, order, &body)
            .map_err(|error| ClientError::bug("could not write a steward's head", error))?;
        let locator = StewardKeys::derive(&of_steward.secret).locator;
        // A later state's stays, and then says more than this one.
        heads::write(nodes, &locator, &head, self.until, self.everybody).await.map(drop)
    }
}

/// Puts the heads of all stewards who have not ended again, so that nodes keep them until then and stewards know this state.
pub(super) async fn put_stewards_again(owner: &Owner, state: &State, until: Timestamp) {
    let publishing = Publishing {
        keys: &state.keys,
        ledger: &state.ledger,
        table: state.reader.table_location(),
        sequence: state.head.sequence(),
        until,
        everybody: None,
    };
    publishing.publish_all(owner).await;
}

/// Stewards of both writers. One that either ended is ended.
pub(super) fn merge(mine: &Ledger, theirs: &Ledger) -> Result<Vec<Steward>, ClientError> {
    let mut stewards: BTreeMap<u32, Steward> =
        theirs.stewards.iter().map(|steward| (steward.number, steward.clone())).collect();
    for steward in &mine.stewards {
        // A number that is a share's by now: whoever took it as a steward's is told that he has to try again.
        if theirs.shares.iter().any(|share| share.number == steward.number) {
            continue;
        }
        match stewards.get_mut(&steward.number) {
            None => {
                stewards.insert(steward.number, steward.clone());
            }
            Some(other)
                if (other.created, other.quota_bytes, other.lasting)
                    == (steward.created, steward.quota_bytes, steward.lasting) =>
            {
                other.ended = other.ended.or(steward.ended);
                if other.granted_until < steward.granted_until {
                    (other.grants, other.granted_until) = (steward.grants.clone(), steward.granted_until);
                }
            }
            // Two were appointed under one number: one link would serve both.
            Some(other) => other.ended = other.ended.or(Some(steward.created)),
        }
    }
    let active = stewards.values().filter(|steward| steward.ended.is_none()).count();
    if active > TABLE_STEWARDS_MAX || stewards.len() > LEDGER_STEWARDS_MAX {
        return Err(too_many(ErrorKind::Conflict));
    }
    Ok(stewards.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steward(number: u32, created: u64, ended: Option<u64>) -> Steward {
        Steward {
            number,
            created: Timestamp::from_unix_ms(created),
            ended: ended.map(Timestamp::from_unix_ms),
            quota_bytes: 5,
            lasting: Duration::from_secs(6),
            granted_until: Timestamp::from_unix_ms(created),
            epoch: 0,
            grants: None,
        }
    }

    fn ledger(stewards: Vec<Steward>) -> Ledger {
        Ledger { next: 1000, stewards, ..Ledger::default() }
    }

    #[test]
    fn stewards_of_both_writers_stay_and_ended_ones_stay_ended() {
        let mine = ledger(vec![steward(1, 1, None), steward(2, 1, Some(9)), steward(7, 1, None), steward(8, 1, None)]);
        let theirs =
            ledger(vec![steward(1, 1, Some(8)), steward(2, 1, None), steward(5, 1, None), steward(8, 2, None)]);
        let merged = merge(&mine, &theirs).unwrap();
        let found: Vec<_> = merged.iter().map(|steward| (steward.number, steward.ended.is_some())).collect();
        assert_eq!(found, [(1, true), (2, true), (5, false), (7, false), (8, true)]);
        let many = |from: u32| ledger((from..from + 40).map(|number| steward(number, 1, None)).collect());
        assert_eq!(merge(&many(0), &many(100)).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn the_last_steward_that_a_table_names_is_refused_kindly() {
        let mut full = ledger((0..64).map(|number| steward(number, 1, None)).collect());
        let refused = new_steward(&mut full, 1, Duration::from_secs(1), Timestamp::default()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        full.stewards.truncate(63);
        full.stewards.extend((64..129).map(|number| steward(number, 1, Some(2))));
        let number = new_steward(&mut full, 1, Duration::from_secs(1), Timestamp::default()).unwrap();
        assert!(number >= 1000 && full.next > number);
        assert_eq!(full.stewards.len(), 128, "the first that ended made room");
    }
}
