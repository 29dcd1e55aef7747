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
use dolmen_proto::attempt::Fault;
use dolmen_proto::head::{Head, HeadError, ReadBody};
use dolmen_proto::heads::{
    HeadPlaces, HeadReadAction, HeadReadEvent, HeadReadOutcome, HeadReadSession, HeadVersion, HeadWriteAction,
    HeadWriteEvent, HeadWriteOutcome, HeadWriteSession,
};
use dolmen_proto::ids::{HeadHash, NodeId, OperatorId, Point, Timestamp};
use dolmen_proto::keys::{LocatorSecret, ReadKeys, point};
use dolmen_proto::limits::{HEAD_NODES_PER_POINT, HEAD_POINTS};
use dolmen_proto::link::Link;
use dolmen_proto::placement::ranked_head_holders;
use futures::FutureExt;
use tokio::time::sleep;

use crate::error::{ClientError, ErrorKind};
use crate::network::{CallFault, Nodes};

#[cfg(test)]
mod tests;

/// Nodes that are named for a point: those that are to hold the head and two to stand in for them.
const NAMED_PER_POINT: usize = HEAD_NODES_PER_POINT + 2;
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
            Some(whole) => ranked_head_holders(point, whole, NAMED_PER_POINT),
            None => {
                let records = nodes.nearest(*point, LOOKED_AT_PER_POINT).await;
                let around: Vec<_> = records.iter().map(|record| (record.node, record.operator_id())).collect();
                ranked_head_holders(point, &around, NAMED_PER_POINT)
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
        HeadWriteOutcome::Written { .. } => Ok(()),
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

    /// Puts the head at a point of a node; gives the version that the node keeps instead, if it does.
    async fn put(&self, node: NodeId, point: Point) -> Result<Option<HeadVersion>, CallFault> {
        let reply = self.nodes.put_head(node, point, self.head.bytes().clone(), self.until).await?;
        if reply.accepted {
            return Ok(None);
        }
        match reply.current.as_deref().map(Head::parse) {
            Some(Ok(kept)) if kept.public_key() == self.head.public_key() => Ok(Some(HeadVersion::from(&kept))),
            // A node compares heads of one key alone, and shows which one it prefers.
            _ => Err(CallFault::misbehaved(node, "it refused a head for none of the same key")),
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
            match write.put(node, point).await {
                Ok(None) => HeadWriteEvent::Accepted { attempt },
                Ok(Some(version)) => {
                    let sequence = version.sequence;
                    *locked(&write.reason) = Some(format!("node {} keeps head {sequence} instead", node.short()));
                    HeadWriteEvent::Kept { attempt, version }
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

/// Reads the newest valid head that a link leads to.
///
/// # Errors
/// `NotFound` when enough nodes answered and none has one, `NotNow` when too few answered, `Refused` when what is
/// there cannot be read with this link or by this release.
pub(crate) async fn read(nodes: &Nodes, link: &Link) -> Result<ReadBody, ClientError> {
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
    let session = HeadReadSession::new(None, places, clock.now())
        .map_err(|error| ClientError::bug("could not plan the reading of a head", error))?;
    let opened = Arc::new(Mutex::new(Opened::default()));
    let executor = Read { nodes: nodes.clone(), points, link: Arc::new(link.clone()), opened: Arc::clone(&opened) };
    let outcome = run(session, executor, &clock).await;
    let mut opened = std::mem::take(&mut *locked(&opened));
    match (outcome, opened.refusal) {
        (HeadReadOutcome::Found { newest, .. }, _) => opened
            .bodies
            .remove(&newest.hash)
            .ok_or_else(|| ClientError::bug("a head was lost on the way", newest.hash)),
        (_, Some(error)) => Err(ClientError::new(
            ErrorKind::Refused,
            "the dataset cannot be read with this link",
            error,
            "ask its owner for a new link, or use a newer release",
        )),
        (HeadReadOutcome::NotFound | HeadReadOutcome::RolledBack { .. }, None) => Err(ClientError::new(
            ErrorKind::NotFound,
            "no dataset is found at this link",
            "the nodes at its places were asked and have no head of it",
            "check the link and the network (--bootstrap); an expired dataset cannot be read again",
        )),
        (HeadReadOutcome::Unreachable { answered, needed }, None) => Err(ClientError::new(
            ErrorKind::NotNow,
            "the dataset's head could not be looked for",
            format!("{answered} of {HEAD_POINTS} places answered, {needed} are the least"),
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
