//! Heads written to and read from their secret points.
//!
//! Decides which nodes are named to the sessions of `dolmen-proto` as holders, and checks what they answer. Quorums,
//! retries and patience are the sessions', the order of heads and who may write one are the formats'.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dolmen_net::driver::{Executor, MonotonicClock, Step, run};
use dolmen_proto::attempt::Fault;
use dolmen_proto::head::{Head, HeadError, ReadBody};
use dolmen_proto::heads::{
    HeadPlaces, HeadReadAction, HeadReadEvent, HeadReadOutcome, HeadReadSession, HeadVersion, HeadWriteAction,
    HeadWriteEvent, HeadWriteOutcome, HeadWriteSession,
};
use dolmen_proto::ids::{HeadHash, NodeId, OperatorId, Point, Timestamp};
use dolmen_proto::keys::{LocatorSecret, ReadKeys, point};
use dolmen_proto::limits::HEAD_POINTS;
use dolmen_proto::link::Link;
use dolmen_proto::placement::{head_holders, kad_distance};
use futures::FutureExt;

use crate::error::{ClientError, ErrorKind};
use crate::network::{CallFault, Nodes};

/// Nodes around a point that are named: those that should hold the head and some to stand in for them.
const NAMED_PER_POINT: usize = 8;
/// Nodes around a point among which holders of distinct operators are chosen.
const LOOKED_AT_PER_POINT: usize = 12;

/// All nodes of a network small enough to be known whole, so that no point has to be looked up.
pub(crate) type WholeNetwork = Vec<(NodeId, Option<OperatorId>)>;

fn points(locator: &LocatorSecret) -> Vec<Point> {
    (0u8..).take(HEAD_POINTS).map(|number| point(locator, number)).collect()
}

/// The nodes to name for each point, those that should hold the head first.
async fn places(nodes: &Nodes, points: &[Point], whole: Option<&WholeNetwork>) -> HeadPlaces {
    let at_each = points.iter().map(|point| async move {
        let looked_up: WholeNetwork;
        let around = match whole {
            Some(whole) => whole,
            None => {
                let records = nodes.nearest(*point, LOOKED_AT_PER_POINT).await;
                looked_up = records.iter().map(|record| (record.node, record.operator_id())).collect();
                &looked_up
            }
        };
        let mut named = head_holders(point, around);
        let mut others: Vec<NodeId> =
            around.iter().map(|(node, _)| *node).filter(|node| !named.contains(node)).collect();
        others.sort_by_cached_key(|node| kad_distance(point.as_bytes(), node));
        named.extend(others);
        named.truncate(NAMED_PER_POINT);
        named
    });
    HeadPlaces(futures::future::join_all(at_each).await)
}

/// Writes a head to its points.
///
/// # Errors
/// `NotNow` when too few points took it, `Conflict` when a newer head lies there.
pub(crate) async fn publish(
    nodes: &Nodes,
    locator: &LocatorSecret,
    head: &Head,
    until: Timestamp,
    whole: Option<&WholeNetwork>,
) -> Result<(), ClientError> {
    let points = points(locator);
    let places = places(nodes, &points, whole).await;
    let session = HeadWriteSession::new(HeadVersion::from(head), places, nodes.now())
        .map_err(|error| ClientError::bug("could not plan the writing of a head", error))?;
    let reason = Arc::new(Mutex::new(None));
    let executor = Write { nodes: nodes.clone(), points, head: head.clone(), until, reason: Arc::clone(&reason) };
    let again = "run the same command again later: it resumes";
    match run(session, executor, &MonotonicClock::start()).await {
        HeadWriteOutcome::Written { .. } => Ok(()),
        HeadWriteOutcome::Superseded { .. } => Err(ClientError::new(
            ErrorKind::Conflict,
            "could not publish the head",
            "another writer has published a newer one",
            "run the command again",
        )),
        HeadWriteOutcome::TooFewPoints { reached, needed, .. } => {
            let reason: Option<CallFault> = reason.lock().unwrap_or_else(PoisonError::into_inner).take();
            let why = reason.map_or_else(|| "no node was found there".to_owned(), |fault| fault.reason);
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

struct Write {
    nodes: Nodes,
    points: Vec<Point>,
    head: Head,
    until: Timestamp,
    /// Why a node last did not take it.
    reason: Arc<Mutex<Option<CallFault>>>,
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
        let (nodes, head, until, reason) =
            (self.nodes.clone(), self.head.clone(), self.until, Arc::clone(&self.reason));
        let work = async move {
            match nodes.put_head(node, point, head.bytes().clone(), until).await {
                Ok(reply) if reply.accepted => HeadWriteEvent::Accepted { attempt },
                Ok(reply) => match reply.current.as_deref().map(Head::parse) {
                    Some(Ok(kept)) if kept.public_key() == head.public_key() => {
                        HeadWriteEvent::Kept { attempt, version: HeadVersion::from(&kept) }
                    }
                    Some(Err(_)) => HeadWriteEvent::Failed { attempt, fault: Fault::Misbehaved },
                    Some(Ok(_)) | None => HeadWriteEvent::Failed { attempt, fault: Fault::Refused },
                },
                Err(fault) => {
                    let event = HeadWriteEvent::Failed { attempt, fault: fault.fault };
                    *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                    event
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
    let session = HeadReadSession::new(None, places, nodes.now())
        .map_err(|error| ClientError::bug("could not plan the reading of a head", error))?;
    let opened = Arc::new(Mutex::new(Opened::default()));
    let executor = Read { nodes: nodes.clone(), points, link: Arc::new(link.clone()), opened: Arc::clone(&opened) };
    let outcome = run(session, executor, &MonotonicClock::start()).await;
    let mut opened = std::mem::take(&mut *opened.lock().unwrap_or_else(PoisonError::into_inner));
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
    fn take(&mut self, link: &Link, heads: &[Bytes]) -> Option<HeadVersion> {
        let mut newest = None;
        for head in heads.iter().filter_map(|bytes| Head::parse(bytes).ok()) {
            match head.open_link(link) {
                Ok(body) => {
                    self.bodies.insert(head.hash(), body);
                    newest = newest.max(Some(HeadVersion::from(&head)));
                }
                // Anybody who has learned of a point can put something there: only what the owner wrote is worth telling.
                Err(error @ (HeadError::Body(_) | HeadError::Frozen(_))) => self.refusal = Some(error),
                Err(_) => {}
            }
        }
        newest
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
            match nodes.get_heads(node, point).await {
                Ok(heads) => match opened.lock().unwrap_or_else(PoisonError::into_inner).take(&link, &heads) {
                    Some(version) => HeadReadEvent::Found { attempt, version },
                    None => HeadReadEvent::Nothing { attempt },
                },
                Err(fault) => HeadReadEvent::Failed { attempt, fault: fault.fault },
            }
        };
        Step::once(attempt.0, work.boxed())
    }
}
