//! Writing a head.
//!
//! Decides that a write which reached too few points is repeated once, and brings home the heads that nodes showed: whoever
//! wins over another writer's head must be able to read what that one said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dolmen_net::driver::{Clock, Executor, MonotonicClock, Step, run};
use dolmen_proto::attempt::{AttemptId, Fault};
use dolmen_proto::head::Head;
use dolmen_proto::heads::{HeadVersion, HeadWriteAction, HeadWriteEvent, HeadWriteOutcome, HeadWriteSession};
use dolmen_proto::ids::{HeadHash, NodeId, Point, Timestamp};
use dolmen_proto::keys::LocatorSecret;
use dolmen_proto::limits::HEAD_POINTS;
use futures::FutureExt;
use tokio::time::sleep;

use super::{WholeNetwork, locked, places, points};
use crate::error::{ClientError, ErrorKind};
use crate::network::{CallFault, Nodes};

/// How long a write that reached too few points rests before its only repetition.
const REWRITE_AFTER: Duration = Duration::from_secs(2);

/// What the writing of a head came to.
#[derive(Debug, Clone)]
pub(crate) enum Published {
    /// It is the newest there is.
    Written {
        /// Heads of the same sequence and earlier ones that lay where it was put: their writers may believe that theirs are
        /// the newest, unless they are in it.
        forks: Vec<Head>,
    },
    /// Another writer's head wins over it.
    Superseded,
}

/// Writes a head to its points; once more, the same one, when too few took it.
///
/// # Errors
/// `NotNow` when too few points took it both times, `Local` when this machine fails. Readers may see the head all the same.
pub(crate) async fn write(
    nodes: &Nodes,
    locator: &LocatorSecret,
    head: &Head,
    until: Timestamp,
    whole: Option<&WholeNetwork>,
) -> Result<Published, ClientError> {
    let write = Write::new(nodes, locator, head, until);
    let mut outcome = write.run(whole).await?;
    if let HeadWriteOutcome::TooFewPoints { reached, needed, .. } = outcome {
        tracing::debug!(reached, needed, "a head reached too few points");
        sleep(REWRITE_AFTER).await;
        outcome = write.run(whole).await?;
    }
    let again = "run the same command again later: it resumes";
    match outcome {
        HeadWriteOutcome::Written { places, certain, .. } => {
            if !certain {
                let copies = places.len();
                tracing::warn!(copies, "a head lies at enough points, but with few nodes at some of them");
            }
            let others = std::mem::take(&mut *locked(&write.others));
            Ok(Published::Written { forks: others.into_values().collect() })
        }
        HeadWriteOutcome::Superseded { .. } => Ok(Published::Superseded),
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

/// Writes a head that nobody else writes.
///
/// # Errors
/// As [`write()`]; `Conflict` when a newer one lies there.
pub(crate) async fn publish(
    nodes: &Nodes,
    locator: &LocatorSecret,
    head: &Head,
    until: Timestamp,
    whole: Option<&WholeNetwork>,
) -> Result<(), ClientError> {
    match write(nodes, locator, head, until, whole).await? {
        Published::Written { .. } => Ok(()),
        Published::Superseded => Err(ClientError::new(
            ErrorKind::Conflict,
            "could not publish the head",
            "another writer has published a newer one",
            "run the command again",
        )),
    }
}

/// The writing of one head.
#[derive(Clone)]
pub(super) struct Write {
    nodes: Nodes,
    points: Vec<Point>,
    head: Head,
    until: Timestamp,
    /// Why a node last did not take it.
    reason: Arc<Mutex<Option<String>>>,
    /// Heads of the same key that nodes had, and that this one goes before.
    others: Arc<Mutex<BTreeMap<HeadHash, Head>>>,
}

impl Write {
    pub(super) fn new(nodes: &Nodes, locator: &LocatorSecret, head: &Head, until: Timestamp) -> Self {
        Self {
            nodes: nodes.clone(),
            points: points(locator),
            head: head.clone(),
            until,
            reason: Arc::default(),
            others: Arc::default(),
        }
    }

    /// One session, at the nodes that are around the points now.
    pub(super) async fn run(&self, whole: Option<&WholeNetwork>) -> Result<HeadWriteOutcome, ClientError> {
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
        let other = other.filter(|head| head.public_key() == self.head.public_key());
        let version = other.as_ref().map(HeadVersion::from);
        if let Some(head) = other.filter(|head| HeadVersion::from(head) < HeadVersion::from(&self.head)) {
            locked(&self.others).insert(head.hash(), head);
        }
        match version {
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
