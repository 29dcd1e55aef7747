//! Leases that have run under half, renewed whenever their owner changes the dataset.
//!
//! Decides when nodes are asked how long they hold what a table names, how much is asked in one command, and what is remembered
//! of the answers. Only nodes know when their leases end: others may have renewed them. Never fails a change: that is done by
//! then, and what goes wrong here is warned of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::ids::{SegmentId, Timestamp};

use super::{ByNode, renew};
use crate::commit::{Committed, Owner, is_retired, note_of, put_heads_again};
use crate::error::ClientError;
use crate::info::{Alive, ask_all, by_node, further};
use crate::network::Account;
use crate::progress::{ProgressEvent, Stage};
use crate::read::{Dataset, Place};
use crate::state::{LeaseNote, LeaseNotes, Pass};

/// Shards that one command asks about at most, and those of them that are in memory at once.
const SHARDS_MAX: usize = 1024 * 1024;
const SHARDS_AT_ONCE: usize = 64 * 1024;
/// Leases are looked at no more often than this, whatever was found.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(86_400);
/// And no later than this after nodes were silent, or denied what they should hold.
const LOOK_AGAIN_SILENT: Duration = Duration::from_secs(7 * 86_400);
/// No later than this in any case: other machines of the owner may have put what they could not lease for long.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Renews what is under half of a lease of so long, if nodes were not asked for long enough; what does not come to an end in
/// this command goes on in the next.
pub(crate) async fn renew_due(owner: &Owner, done: &Committed, lease: Duration) {
    if let Err(error) = look(owner, done, lease).await {
        let why = error.why();
        owner.client.progress().warn(format!("the leases of what was put earlier were not looked at: {why}"));
    }
}

async fn look(owner: &Owner, done: &Committed, lease: Duration) -> Result<(), ClientError> {
    let notes = owner.client.state().leases(&owner.name);
    let (note, now) = (notes.load()?, owner.client.nodes_known().now());
    if note.pass.is_none() && now < note.next_look {
        return mind(&notes, note, owner, done, lease);
    }
    if is_retired(&note_of(&done.keys, &done.body)?) {
        return Ok(());
    }
    owner.client.progress().stage(Stage::Renewing);
    let dataset = Dataset::of_body(&owner.client.reading(), &done.body, false).await?;
    let mut looking = Looking { owner, dataset, lease, now, sum: note.pass, asked: 0 };
    while looking.asked < SHARDS_MAX {
        if looking.step().await? {
            notes.keep(&LeaseNote { next_look: note.next_look, pass: looking.sum })?;
            continue;
        }
        let next_look = looking.finish(done).await?;
        return mind(&notes, LeaseNote { next_look, pass: None }, owner, done, lease);
    }
    tracing::info!(shards = looking.asked, "leases are looked at further with the next change");
    Ok(())
}

/// Remembers when to look next: sooner where this change leased what it stored for a shorter time than the others are.
fn mind(
    notes: &LeaseNotes,
    note: LeaseNote,
    owner: &Owner,
    done: &Committed,
    lease: Duration,
) -> Result<(), ClientError> {
    let mut next = note;
    if !done.stored.is_empty() {
        let first = owner.client.nodes_known().now().after(LOOK_AGAIN_MIN);
        next.next_look = note.next_look.min(done.lease_until.before(lease / 2).max(first));
    }
    if notes.load()? == next { Ok(()) } else { notes.keep(&next) }
}

struct Looking<'a> {
    owner: &'a Owner,
    dataset: Dataset,
    lease: Duration,
    now: Timestamp,
    /// What the look came to so far; `None`: it has not begun.
    sum: Option<Pass>,
    /// Shards asked about in this command.
    asked: usize,
}

impl Looking<'_> {
    /// Looks at the next segments of the table; false when there are none.
    async fn step(&mut self) -> Result<bool, ClientError> {
        let nodes = self.owner.client.nodes_known();
        let places = self.dataset.places_after(self.sum.map(|sum| sum.after), SHARDS_AT_ONCE).await?;
        let Some(last) = places.last().map(|place| place.id) else { return Ok(false) };
        let shards = self.shards(&places).await;
        let count = |shards: &ByNode| shards.values().map(BTreeSet::len).sum::<usize>();
        self.asked += count(&shards);
        let shown = format!("{} shards looked at", self.asked);
        self.owner.client.progress().event(ProgressEvent::Current(shown));
        let alive = ask_all(nodes, &shards).await;
        let found = Found::of(&shards, &alive, self.now.after(self.lease / 2));
        let (due, until) = (count(&found.due), self.now.after(self.lease));
        let mut renewed = 0;
        if due > 0 {
            let shown = format!("{due} leases to renew");
            self.owner.client.progress().event(ProgressEvent::Current(shown));
            let account = Account::new(self.owner.keys(0));
            renewed = renew(nodes, &account, &found.due, until).await;
        }
        if renewed < due {
            let left = due - renewed;
            let days = found.first_due.since(self.now).as_secs() / 86_400;
            self.owner.client.progress().warn(format!(
                "{left} of {due} leases that run out could not be renewed, the first ends in {days} days: `dolmen renew` tries again"
            ));
        }
        self.add(last, &found, due, renewed, until);
        Ok(true)
    }

    /// Shards by who holds them, those included that stewards put elsewhere.
    async fn shards(&self, places: &[Arc<Place>]) -> ByNode {
        let mut shards = by_node(places);
        for (place, shard, node) in further(self.owner.client.nodes_known(), &self.dataset, places).await {
            shards.entry(node).or_default().insert(place.roots[shard]);
        }
        shards
    }

    fn add(&mut self, last: SegmentId, found: &Found, due: usize, renewed: usize, until: Timestamp) {
        let before = self.sum;
        let mut earliest = before.map_or(Timestamp::from_unix_ms(u64::MAX), |sum| sum.earliest).min(found.earliest);
        if renewed > 0 {
            earliest = earliest.min(until);
        }
        self.sum = Some(Pass {
            after: last,
            earliest,
            renewed: renewed > 0 || before.is_some_and(|sum| sum.renewed),
            left_due: renewed < due || before.is_some_and(|sum| sum.left_due),
            silent: found.silent || before.is_some_and(|sum| sum.silent),
        });
    }

    /// Ends a look at the whole table; gives when to look next. Heads of shares and stewards are as old as what they lead to, and
    /// are put again with it.
    async fn finish(self, done: &Committed) -> Result<Timestamp, ClientError> {
        let Some(Pass { earliest, renewed, left_due, silent, .. }) = self.sum else {
            return Ok(self.now.after(LOOK_AGAIN_MIN));
        };
        if renewed {
            let keys = Arc::clone(&done.keys);
            let state = self.owner.state(keys, done.head.clone(), done.body.clone()).await?;
            put_heads_again(self.owner, &state, self.now.after(self.lease)).await?;
        }
        let latest = match (left_due, silent) {
            (true, _) => LOOK_AGAIN_MIN,
            (false, true) => LOOK_AGAIN_SILENT,
            (false, false) => LOOK_AGAIN_MAX,
        };
        let (first, last) = (self.now.after(LOOK_AGAIN_MIN), self.now.after(latest));
        Ok(earliest.before(self.lease / 2).clamp(first, last))
    }
}

/// What nodes said of shards.
struct Found {
    due: ByNode,
    /// The end of the first lease that is due.
    first_due: Timestamp,
    /// The earliest end of one that is not.
    earliest: Timestamp,
    silent: bool,
}

impl Found {
    fn of(shards: &ByNode, alive: &Alive, half: Timestamp) -> Self {
        let never = Timestamp::from_unix_ms(u64::MAX);
        let mut found = Self { due: ByNode::new(), first_due: never, earliest: never, silent: false };
        for (node, roots) in shards {
            for root in roots {
                match alive.get(&(*node, *root)) {
                    None => found.silent = true,
                    Some((_, until)) if *until < half => {
                        found.first_due = found.first_due.min(*until);
                        found.due.entry(*node).or_default().insert(*root);
                    }
                    Some((_, until)) => found.earliest = found.earliest.min(*until),
                }
            }
        }
        found
    }
}
