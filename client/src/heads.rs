//! Heads written to and read from their secret points.
//!
//! Decides which nodes are named to the sessions of `dolmen-proto` as holders, checks what they answer, and has a write
//! that reached too few points repeated once. Quorums, retries of single nodes and patience are the sessions', the order
//! of heads and who may write one are the formats'.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dolmen_net::driver::{Clock, Executor, MonotonicClock, Step, run};
use dolmen_proto::attempt::{AttemptId, Fault};
use dolmen_proto::head::{Head, HeadError, ReadBody};
use dolmen_proto::heads::{
    HeadPlaces, HeadReadAction, HeadReadEvent, HeadReadOutcome, HeadReadSession, HeadVersion, HeadWriteAction,
    HeadWriteEvent, HeadWriteOutcome, HeadWriteSession,
};
use dolmen_proto::ids::{HeadHash, NodeId, OperatorId, Point, Timestamp};
use dolmen_proto::keys::{LocatorSecret, ReadKeys, point};
use dolmen_proto::limits::{HEAD_NAMED_PER_POINT, HEAD_POINTS};
use dolmen_proto::link::Link;
use dolmen_proto::placement::ranked_head_holders;
use futures::FutureExt;
use tokio::time::sleep;

use crate::error::{ClientError, ErrorKind};
use crate::network::{CallFault, Nodes};

#[cfg(test)]
mod tests;

/// Nodes around a point among which holders of distinct operators are chosen.
const LOOKED_AT_PER_POINT: usize = 12;
/// How long a write that reached too few points rests before its only repetition.
const REWRITE_AFTER: Duration = Duration::from_secs(2);

/// All nodes of a network small enough to be known whole, so that no point has to be looked up.
pub(crate) type WholeNetwork = Vec<(NodeId, Option<OperatorId>)>;

fn points(locator: &LocatorSecret) -> Vec<Point> {
    (0u8..).take(HEAD_POINTS).map(|number| point(locator, number)).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The nodes to name for each point, in the order in which to ask them.
async fn places(nodes: &Nodes, points: &[Point], whole: Option<&WholeNetwork>) -> HeadPlaces {
    let at_each = points.iter().map(|point| async move {
        match whole {
            Some(whole) => ranked_head_holders(point, whole, HEAD_NAMED_PER_POINT),
            None => {
                let records = nodes.nearest(*point, LOOKED_AT_PER_POINT).await;
                let around: Vec<_> = records.iter().map(|record| (record.node, record.operator_id())).collect();
                ranked_head_holders(point, &around, HEAD_NAMED_PER_POINT)
            }
        }
    });
    HeadPlaces(futures::future::join_all(at_each).await)
}

/// Writes a head to its points; once more, the same one, when too few took it.
///
/// # Errors
/// `NotNow` when too few points took it both times, `Conflict` when a newer head lies there, `Local` when this machine
/// fails. Readers may see the head all the same.
pub(crate) async fn publish(
    nodes: &Nodes,
    locator: &LocatorSecret,
    head: &Head,
    until: Timestamp,
    whole: Option<&WholeNetwork>,
) -> Result<(), ClientError> {
    let points = points(locator);
    let write = Write { nodes: nodes.clone(), points, head: head.clone(), until, reason: Arc::default() };
    let mut outcome = write.run(whole).await?;
    if let HeadWriteOutcome::TooFewPoints { reached, needed, .. } = outcome {
        tracing::debug!(reached, needed, "a head reached too few points");
        sleep(REWRITE_AFTER).await;
        outcome = write.run(whole).await?;
    }
    let again = "run the same command again later: it resumes";
    match outcome {
        HeadWriteOutcome::Written { places, certain, forks } => {
            if !certain {
                tracing::warn!(
                    copies = places.len(),
                    "a head lies at enough points, but with few nodes at some of them"
                );
            }
            for fork in forks {
                tracing::warn!(sequence = fork.sequence, "a head of another writer was displaced");
            }
            Ok(())
        }
        HeadWriteOutcome::Superseded { .. } => Err(ClientError::new(
            ErrorKind::Conflict,
            "could not publish the head",
            "another writer has published a newer one",
            "run the command again",
        )),
        HeadWriteOutcome::TooFewPoints { reached, needed, .. } => {
            let why = locked(&write.reason).take().unwrap_or_else(|| "no node was found there".to_owned());
            let what = format!("the head reached {reached} of {HEAD_POINTS} points, {needed} are the least");
            Err(ClientError::new(ErrorKind::NotNow, what, why, again))
        }
        HeadWriteOutcome::Local { .. } => Err(ClientError::new(
            ErrorKind::Local,
            "could not publish the head",
            "this machine's sockets or memory failed",
            again,
        )),
    }
}

/// The writing of one head.
#[derive(Clone)]
struct Write {
    nodes: Nodes,
    points: Vec<Point>,
    head: Head,
    until: Timestamp,
    /// Why a node last did not take it.
    reason: Arc<Mutex<Option<String>>>,
}

impl Write {
    /// One session, at the nodes that are around the points now.
    async fn run(&self, whole: Option<&WholeNetwork>) -> Result<HeadWriteOutcome, ClientError> {
        let places = places(&self.nodes, &self.points, whole).await;
        let clock = MonotonicClock::start();
        let session = HeadWriteSession::new(HeadVersion::from(&self.head), places, clock.now())
            .map_err(|error| ClientError::bug("could not plan the writing of a head", error))?;
        Ok(run(session, self.clone(), &clock).await)
    }

    /// Puts the head at a point of a node.
    async fn put(&self, attempt: AttemptId, node: NodeId, point: Point) -> Result<HeadWriteEvent, CallFault> {
        let reply = self.nodes.put_head(node, point, self.head.bytes().clone(), self.until).await?;
        let other = reply.current.as_deref().and_then(|bytes| Head::parse(bytes).ok());
        let other = other.filter(|head| head.public_key() == self.head.public_key()).as_ref().map(HeadVersion::from);
        match other {
            displaced if reply.accepted => Ok(HeadWriteEvent::Accepted { attempt, displaced }),
            Some(version) => Ok(HeadWriteEvent::Kept { attempt, version }),
            // A node compares heads of one key alone, and shows which one it prefers.
            None => Err(CallFault::misbehaved(node, "it refused a head for none of the same key")),
        }
    }
}

impl Executor<HeadWriteSession> for Write {
    fn execute(&mut self, action: HeadWriteAction) -> Step<HeadWriteEvent> {
        let (attempt, point, node) = match action {
            HeadWriteAction::Put { attempt, point, node } => (attempt, point, node),
            HeadWriteAction::Cancel { attempt } => return Step::Cancel { attempt: attempt.0 },
        };
        let Some(point) = self.points.get(usize::from(point)).copied() else {
            return Step::Event(HeadWriteEvent::Failed { attempt, fault: Fault::Local });
        };
        let write = self.clone();
        let work = async move {
            match write.put(attempt, node, point).await {
                Ok(event) => {
                    if let HeadWriteEvent::Kept { version, .. } = event {
                        let sequence = version.sequence;
                        *locked(&write.reason) = Some(format!("node {} keeps head {sequence} instead", node.short()));
                    }
                    event
                }
                Err(fault) => {
                    tracing::debug!(node = %node.short(), %fault, "a head was not put");
                    *locked(&write.reason) = Some(fault.reason);
                    HeadWriteEvent::Failed { attempt, fault: fault.fault }
                }
            }
        };
        Step::once(attempt.0, work.boxed())
    }
}

/// Reads the newest valid head that a link leads to, and never one older than `seen`, the newest that this client has
/// seen before.
///
/// # Errors
/// `NotFound` when enough nodes answered and none has one, `NotNow` when too few answered or all that is shown is older
/// than `seen`, `Refused` when what is there cannot be read with this link or by this release.
pub(crate) async fn read(
    nodes: &Nodes,
    link: &Link,
    seen: Option<HeadVersion>,
) -> Result<(HeadVersion, ReadBody), ClientError> {
    let Some(secret) = link.read_secret() else {
        let why = format!("it is a {:?} link", link.kind());
        return Err(ClientError::new(
            ErrorKind::Usage,
            "this link does not read a dataset",
            why,
            "ask for a read link",
        ));
    };
    let points = points(&ReadKeys::derive(secret).locator);
    let places = places(nodes, &points, None).await;
    let clock = MonotonicClock::start();
    let session = HeadReadSession::new(seen, places, clock.now())
        .map_err(|error| ClientError::bug("could not plan the reading of a head", error))?;
    let opened = Arc::new(Mutex::new(Opened::default()));
    let executor = Read { nodes: nodes.clone(), points, link: Arc::new(link.clone()), opened: Arc::clone(&opened) };
    let outcome = run(session, executor, &clock).await;
    let mut opened = std::mem::take(&mut *locked(&opened));
    match (outcome, opened.refusal) {
        (HeadReadOutcome::Found { newest, certain, .. }, _) => {
            if !certain {
                tracing::info!(sequence = newest.sequence, "too few nodes answered to know that no head is newer");
            }
            let body = opened.bodies.remove(&newest.hash);
            let body = body.ok_or_else(|| ClientError::bug("a head was lost on the way", newest.hash))?;
            Ok((newest, body))
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

/// What was found behind a link.
#[derive(Default)]
struct Opened {
    bodies: BTreeMap<HeadHash, ReadBody>,
    /// Why a head that the owner wrote cannot be read.
    refusal: Option<HeadError>,
}

impl Opened {
    /// Opens what a node has; gives the newest that the owner wrote for this link.
    ///
    /// # Errors
    /// When there is none and something is no head at all, which a node does not take: it may hide one.
    fn take(&mut self, link: &Link, heads: &[Bytes]) -> Result<Option<HeadVersion>, HeadError> {
        let (mut newest, mut no_head) = (None, None);
        for bytes in heads {
            match Head::parse(bytes).map(|head| (head.open_link(link), head)) {
                Ok((Ok(body), head)) => {
                    newest = newest.max(Some(HeadVersion::from(&head)));
                    self.bodies.insert(head.hash(), body);
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

struct Read {
    nodes: Nodes,
    points: Vec<Point>,
    link: Arc<Link>,
    opened: Arc<Mutex<Opened>>,
}

impl Executor<HeadReadSession> for Read {
    fn execute(&mut self, action: HeadReadAction) -> Step<HeadReadEvent> {
        let (attempt, point, node) = match action {
            HeadReadAction::Get { attempt, point, node } => (attempt, point, node),
            HeadReadAction::Cancel { attempt } => return Step::Cancel { attempt: attempt.0 },
        };
        let Some(point) = self.points.get(usize::from(point)).copied() else {
            return Step::Event(HeadReadEvent::Failed { attempt, fault: Fault::Local });
        };
        let (nodes, link, opened) = (self.nodes.clone(), Arc::clone(&self.link), Arc::clone(&self.opened));
        let work = async move {
            let fault = match nodes.get_heads(node, point).await {
                Ok(heads) => match locked(&opened).take(&link, &heads) {
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
