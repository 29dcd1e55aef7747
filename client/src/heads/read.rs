//! Reading a head.
//!
//! Decides what counts as one: what the holder of the secret can open and the owner wrote. Never takes one that is older
//! than the client has seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dolmen_net::driver::{Clock, Executor, MonotonicClock, Step, run};
use dolmen_proto::attempt::Fault;
use dolmen_proto::head::{Head, HeadError, OverlayBody, ReadBody, StewardBody, TableBody, ViewBody};
use dolmen_proto::heads::{HeadPlace, HeadReadAction, HeadReadEvent, HeadReadOutcome, HeadReadSession, HeadVersion};
use dolmen_proto::ids::{HeadHash, Point, Timestamp};
use dolmen_proto::keys::{
    LocatorSecret, OverlayKeys, ReadKeys, StewardKeys, StewardSecret, TableKeys, TableSecret, ViewKeys, ViewSecret,
};
use dolmen_proto::limits::HEAD_POINTS;
use dolmen_proto::link::{Link, LinkKind, LinkSecret};
use futures::{FutureExt, StreamExt};

use super::{locked, places, points};
use crate::error::{ClientError, ErrorKind};
use crate::network::{CallFault, Nodes};
use crate::state::SeenHeads;

/// How long nodes that have an old head are waited for when they are given the newest.
const PUT_AGAIN_PATIENCE: Duration = Duration::from_secs(2);

type Open<B> = Arc<dyn Fn(&Head) -> Result<B, HeadError> + Send + Sync>;

/// A head that is looked for: where, and what opens it.
pub(crate) struct Wanted<B> {
    locator: LocatorSecret,
    open: Open<B>,
    /// Takes the first head only, so that a newer one that was seen is none of its business.
    frozen: bool,
}

impl Wanted<ReadBody> {
    /// The read head that a link leads to.
    ///
    /// # Errors
    /// `Usage` when the link leads to none.
    pub(crate) fn of_link(link: &Link) -> Result<Self, ClientError> {
        let Some(secret) = link.read_secret() else {
            let why = format!("it is a {:?} link", link.kind());
            let what = "this link does not read a dataset";
            return Err(ClientError::new(ErrorKind::Usage, what, why, "ask for a read link"));
        };
        let (locator, frozen) = (ReadKeys::derive(secret).locator, link.kind() == LinkKind::ReadFrozen);
        let link = link.clone();
        Ok(Self { locator, open: Arc::new(move |head| head.open_link(&link)), frozen })
    }

    /// The read head of a dataset whose owner looks for it.
    ///
    /// # Errors
    /// `Bug` only.
    pub(crate) fn of_owner(read: &dolmen_proto::keys::ReadSecret) -> Result<Self, ClientError> {
        let link = Link::new(LinkSecret::ReadLive(read.clone()), Vec::new())
            .map_err(|error| ClientError::bug("a link without addresses cannot be written", error))?;
        Self::of_link(&link)
    }
}

impl Wanted<TableBody> {
    /// The head of a base table, written with this key.
    pub(crate) fn of_table(table: &TableSecret, key: [u8; 32]) -> Self {
        let (locator, table) = (TableKeys::derive(table).locator, table.clone());
        Self { locator, open: Arc::new(move |head| head.open_table(&table, &key)), frozen: false }
    }
}

impl Wanted<ViewBody> {
    /// The head of a view.
    pub(crate) fn of_view(view: &ViewSecret) -> Self {
        let (locator, view) = (ViewKeys::derive(view).locator, view.clone());
        Self { locator, open: Arc::new(move |head| head.open_view(&view)), frozen: false }
    }
}

impl Wanted<StewardBody> {
    /// The head of a steward.
    pub(crate) fn of_steward(steward: &StewardSecret) -> Self {
        let (locator, steward) = (StewardKeys::derive(steward).locator, steward.clone());
        Self { locator, open: Arc::new(move |head| head.open_steward(&steward)), frozen: false }
    }
}

impl Wanted<OverlayBody> {
    /// The head of the overlay of the steward with this public key.
    pub(crate) fn of_overlay(table: &TableSecret, steward: [u8; 32]) -> Self {
        let (locator, table) = (OverlayKeys::derive(table, &steward).locator, table.clone());
        Self { locator, open: Arc::new(move |head| head.open_overlay(&table, &steward)), frozen: false }
    }
}

impl Wanted<()> {
    /// A head that can be told from others by its key alone, by somebody who cannot open it.
    pub(crate) fn of_key(locator: LocatorSecret, key: [u8; 32]) -> Self {
        let open = move |head: &Head| if *head.public_key() == key { Ok(()) } else { Err(HeadError::OtherKey) };
        Self { locator, open: Arc::new(open), frozen: false }
    }
}

/// A head that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found<B> {
    pub(crate) head: Head,
    pub(crate) body: B,
    /// Heads of the same sequence that lost: two writers knew nothing of each other.
    pub(crate) forks: Vec<(Head, B)>,
    /// Heads of earlier sequences that some nodes still have.
    pub(crate) older: Vec<(Head, B)>,
    /// Nodes that have an older one or none.
    pub(super) stale: Vec<HeadPlace>,
    points: Vec<Point>,
}

impl<B> Found<B> {
    /// The head's place in the order of its document.
    pub(crate) fn version(&self) -> HeadVersion {
        HeadVersion::from(&self.head)
    }

    /// Puts the head again, unchanged, where an older one or none was found; gives those that lay there by then. Whoever
    /// does not take it is left alone.
    pub(crate) async fn put_again(&self, nodes: &Nodes, until: Timestamp) -> Vec<Head> {
        let calls = self.stale.iter().filter_map(|(number, node)| {
            let point = *self.points.get(usize::from(*number))?;
            Some(nodes.put_head(*node, point, self.head.bytes().clone(), until))
        });
        let mut calls: futures::stream::FuturesUnordered<_> = calls.collect();
        let mut displaced = BTreeMap::new();
        let all = async {
            while let Some(reply) = calls.next().await {
                let other = reply.ok().and_then(|reply| Head::parse(reply.current.as_deref()?).ok());
                let ours = |head: &Head| head.public_key() == self.head.public_key();
                let before = |head: &Head| HeadVersion::from(head) < self.version();
                if let Some(head) = other.filter(|head| ours(head) && before(head)) {
                    displaced.insert(head.hash(), head);
                }
            }
        };
        if tokio::time::timeout(PUT_AGAIN_PATIENCE, all).await.is_err() {
            tracing::debug!("some nodes are slow to take a head again");
        }
        displaced.into_values().collect()
    }
}

/// Reads the newest valid head that a link leads to, and remembers that it was seen.
///
/// # Errors
/// As [`find`]; `Usage` when the link leads to no read head.
pub(crate) async fn read(
    nodes: &Nodes,
    link: &Link,
    seen: Option<&SeenHeads>,
) -> Result<(HeadVersion, ReadBody), ClientError> {
    let found = find(nodes, &Wanted::of_link(link)?, seen).await?;
    Ok((found.version(), found.body))
}

/// Reads the newest valid head and never one older than was seen before, which is remembered.
///
/// # Errors
/// `NotFound` when enough nodes answered and none has one, `NotNow` when too few answered or all that is shown is older
/// than what was seen, `Refused` when what is there cannot be read with this secret or by this release.
pub(crate) async fn find<B: Send + 'static>(
    nodes: &Nodes,
    wanted: &Wanted<B>,
    seen: Option<&SeenHeads>,
) -> Result<Found<B>, ClientError> {
    let seen = seen.filter(|_| !wanted.frozen);
    let points = points(&wanted.locator);
    let places = places(nodes, &points, None).await;
    let clock = MonotonicClock::start();
    let newest_seen = seen.map(|seen| seen.newest(&wanted.locator)).transpose()?.flatten();
    let session = HeadReadSession::new(newest_seen, places, clock.now())
        .map_err(|error| ClientError::bug("could not plan the reading of a head", error))?;
    let opened = Arc::new(Mutex::new(Opened { heads: BTreeMap::new(), refusal: None }));
    let open = Arc::clone(&wanted.open);
    let executor = Read { nodes: nodes.clone(), points: points.clone(), open, opened: Arc::clone(&opened) };
    let outcome = run(session, executor, &clock).await;
    let (mut heads, refusal) = {
        let mut opened = locked(&opened);
        (std::mem::take(&mut opened.heads), opened.refusal.take())
    };
    match (outcome, refusal) {
        (HeadReadOutcome::Found { newest, forks, stale, certain, .. }, _) => {
            if !certain {
                tracing::info!(sequence = newest.sequence, "too few nodes answered to know that no head is newer");
            }
            if let Some(seen) = seen {
                seen.note(&wanted.locator, newest)?;
            }
            let mut take = |version: HeadVersion| {
                heads.remove(&version.hash).ok_or_else(|| ClientError::bug("a head was lost on the way", version.hash))
            };
            let (head, body) = take(newest)?;
            let forks = forks.into_iter().map(take).collect::<Result<_, _>>()?;
            let older = heads.into_values().filter(|(head, _)| head.sequence() < newest.sequence).collect();
            Ok(Found { head, body, forks, older, stale, points })
        }
        (HeadReadOutcome::RolledBack { newest, seen }, _) => {
            let shown = newest.map_or_else(|| "none".to_owned(), |newest| format!("number {}", newest.sequence));
            Err(ClientError::new(
                ErrorKind::NotNow,
                "the network shows an older state of the dataset than was seen before",
                format!("head number {} was seen, and the nodes at its places show {shown}", seen.sequence),
                "try again later, with other bootstrap addresses (--bootstrap): somebody may be hiding the newer one",
            ))
        }
        (_, Some(error)) => Err(ClientError::new(
            ErrorKind::Refused,
            "the dataset cannot be read with this link",
            error,
            "ask its owner for a new link, or use a newer release",
        )),
        (HeadReadOutcome::NotFound, None) => Err(ClientError::new(
            ErrorKind::NotFound,
            "no dataset is found at this link",
            "the nodes at its places were asked and have no head of it",
            "check the link and the network (--bootstrap); an expired dataset cannot be read again",
        )),
        (HeadReadOutcome::Unreachable { answered, needed }, None) => Err(ClientError::new(
            ErrorKind::NotNow,
            "the dataset's head could not be looked for",
            format!("most nodes answered at {answered} of {HEAD_POINTS} places, {needed} are the least"),
            "check the network and the bootstrap addresses, then try again",
        )),
        (HeadReadOutcome::Local, None) => Err(ClientError::new(
            ErrorKind::Local,
            "the dataset's head could not be looked for",
            "this machine's sockets or memory failed",
            "check the network and open files, then try again",
        )),
    }
}

/// What was found where a head should be.
struct Opened<B> {
    heads: BTreeMap<HeadHash, (Head, B)>,
    /// Why a head that the owner wrote cannot be read.
    refusal: Option<HeadError>,
}

impl<B> Opened<B> {
    /// Opens what a node has; gives the newest that the owner wrote.
    ///
    /// # Errors
    /// When there is none and something is no head at all, which a node does not take: it may hide one.
    fn take(&mut self, open: &Open<B>, heads: &[Bytes]) -> Result<Option<HeadVersion>, HeadError> {
        let (mut newest, mut no_head) = (None, None);
        for bytes in heads {
            match Head::parse(bytes).map(|head| (open(&head), head)) {
                Ok((Ok(body), head)) => {
                    newest = newest.max(Some(HeadVersion::from(&head)));
                    self.heads.insert(head.hash(), (head, body));
                }
                // Anybody who has learned of a point can put a head there: only what the owner wrote is worth telling.
                Ok((Err(error @ (HeadError::Body(_) | HeadError::Frozen(_))), _)) => self.refusal = Some(error),
                Ok((Err(_), _)) => {}
                Err(error) => no_head = Some(error),
            }
        }
        match no_head {
            Some(error) if newest.is_none() => Err(error),
            _ => Ok(newest),
        }
    }
}

struct Read<B> {
    nodes: Nodes,
    points: Vec<Point>,
    open: Open<B>,
    opened: Arc<Mutex<Opened<B>>>,
}

impl<B: Send + 'static> Executor<HeadReadSession> for Read<B> {
    fn execute(&mut self, action: HeadReadAction) -> Step<HeadReadEvent> {
        let (attempt, point, node) = match action {
            HeadReadAction::Get { attempt, point, node } => (attempt, point, node),
            HeadReadAction::Cancel { attempt } => return Step::Cancel { attempt: attempt.0 },
        };
        let Some(point) = self.points.get(usize::from(point)).copied() else {
            return Step::Event(HeadReadEvent::Failed { attempt, fault: Fault::Local });
        };
        let (nodes, open, opened) = (self.nodes.clone(), Arc::clone(&self.open), Arc::clone(&self.opened));
        let work = async move {
            let fault = match nodes.get_heads(node, point).await {
                Ok(heads) => match locked(&opened).take(&open, &heads) {
                    Ok(Some(version)) => return HeadReadEvent::Found { attempt, version },
                    Ok(None) => return HeadReadEvent::Nothing { attempt },
                    Err(error) => CallFault::misbehaved(node, error),
                },
                Err(fault) => fault,
            };
            tracing::debug!(node = %node.short(), %fault, "a point could not be asked");
            HeadReadEvent::Failed { attempt, fault: fault.fault }
        };
        Step::once(attempt.0, work.boxed())
    }
}
