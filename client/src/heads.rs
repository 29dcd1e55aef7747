//! Heads written to and read from their secret points.
//!
//! Decides how many points must have taken a head and how long stragglers are waited for. Which of two heads wins, and
//! which is valid at all, `dolmen-proto` decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::head::{Head, HeadError, ReadBody};
use dolmen_proto::ids::{NodeId, OperatorId, Point, Timestamp};
use dolmen_proto::keys::{LocatorSecret, ReadKeys, point};
use dolmen_proto::limits::{HEAD_POINTS, HEAD_WRITE_QUORUM};
use dolmen_proto::link::{Link, LinkKind};
use dolmen_proto::placement::head_holders;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;

/// Nodes around a point that are asked when reading: more than hold a head, since the network changes.
const ASKED_PER_POINT: usize = 6;
/// Nodes around a point among which holders of distinct operators are chosen.
const LOOKED_AT_PER_POINT: usize = 12;
/// How long further answers are waited for once enough points have answered.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// All nodes of a network small enough to be known whole, so that no point has to be looked up.
pub(crate) type WholeNetwork = Arc<Vec<(NodeId, Option<OperatorId>)>>;

fn points(locator: &LocatorSecret) -> impl Iterator<Item = Point> + '_ {
    (0u8..).take(HEAD_POINTS).map(|number| point(locator, number))
}

async fn around(nodes: &Nodes, point: Point, whole: Option<&WholeNetwork>, count: usize) -> Vec<NodeId> {
    match whole {
        Some(whole) => head_holders(&point, whole),
        None => {
            let records = nodes.nearest(point, count).await;
            records.iter().map(|record| record.node).collect()
        }
    }
}

/// Writes a head to its points.
///
/// # Errors
/// `NotNow` when fewer than five points took it, `Conflict` when a newer head lies there.
pub(crate) async fn publish(
    nodes: &Nodes,
    locator: &LocatorSecret,
    head: &Head,
    until: Timestamp,
    whole: Option<&WholeNetwork>,
) -> Result<(), ClientError> {
    let mut writes: FuturesUnordered<_> =
        points(locator).map(|point| at_point(nodes, point, head, until, whole)).collect();
    let mut written = 0;
    let mut reasons = BTreeSet::new();
    while let Some(result) = writes.next().await {
        match result {
            AtPoint::Written => written += 1,
            AtPoint::Newer => {
                return Err(ClientError::new(
                    ErrorKind::Conflict,
                    "could not publish the head",
                    "another writer has published a newer one",
                    "run the command again",
                ));
            }
            AtPoint::Failed(reason) => {
                reasons.insert(reason);
            }
        }
    }
    if written >= HEAD_WRITE_QUORUM {
        return Ok(());
    }
    let why = reasons.into_iter().next().unwrap_or_else(|| "no node was found there".to_owned());
    Err(ClientError::new(
        ErrorKind::NotNow,
        format!("the head reached {written} of {HEAD_POINTS} points, {HEAD_WRITE_QUORUM} are the least"),
        why,
        "run the same command again later: it resumes",
    ))
}

enum AtPoint {
    Written,
    Newer,
    Failed(String),
}

async fn at_point(nodes: &Nodes, point: Point, head: &Head, until: Timestamp, whole: Option<&WholeNetwork>) -> AtPoint {
    let holders = match whole {
        Some(_) => around(nodes, point, whole, 0).await,
        None => {
            let records = nodes.nearest(point, LOOKED_AT_PER_POINT).await;
            let known: Vec<_> = records.iter().map(|record| (record.node, record.operator_id())).collect();
            head_holders(&point, &known)
        }
    };
    let mut puts: FuturesUnordered<_> =
        holders.into_iter().map(|node| nodes.put_head(node, point, head.bytes().clone(), until)).collect();
    let mut result = AtPoint::Failed("no node was found at a point".to_owned());
    while let Some(put) = puts.next().await {
        match put {
            Ok(reply) if reply.accepted || reply.current.as_ref() == Some(head.bytes()) => result = AtPoint::Written,
            Ok(reply) => {
                let current = reply.current.as_deref().and_then(|bytes| Head::parse(bytes).ok());
                let ours = |current: &Head| current.public_key() == head.public_key() && supersedes(current, head);
                if current.as_ref().is_some_and(ours) {
                    return AtPoint::Newer;
                }
            }
            Err(fault) => {
                if !matches!(result, AtPoint::Written) {
                    result = AtPoint::Failed(fault.reason);
                }
            }
        }
    }
    result
}

/// The one order of heads: a higher sequence, or an equal one with the smaller hash.
fn supersedes(left: &Head, right: &Head) -> bool {
    (right.sequence(), left.hash()) < (left.sequence(), right.hash())
}

/// Reads the newest valid head that a link leads to.
///
/// # Errors
/// `NotFound` when enough nodes answered and none has one, `NotNow` when too few answered, `Refused` when what is
/// there cannot be read with this link or by this release.
pub(crate) async fn read(nodes: &Nodes, link: &Link) -> Result<ReadBody, ClientError> {
    let Some(secret) = link.read_secret() else {
        return Err(ClientError::new(
            ErrorKind::Usage,
            "this link does not read a dataset",
            format!("it is a {:?} link", link.kind()),
            "ask for a read link",
        ));
    };
    let keys = ReadKeys::derive(secret);
    let mut asked: FuturesUnordered<_> = points(&keys.locator).map(|point| ask_point(nodes, point)).collect();
    let (mut best, mut refusal): (Option<(Head, ReadBody)>, Option<HeadError>) = (None, None);
    let mut answered = 0;
    loop {
        let enough = best.is_some() && answered >= HEAD_WRITE_QUORUM;
        let next = if enough {
            // A newer head may be at any of the other points, but a dead one must not hold up the reader.
            timeout(STRAGGLERS, asked.next()).await.unwrap_or(None)
        } else {
            asked.next().await
        };
        let Some((heads, reached)) = next else { break };
        answered += usize::from(reached);
        for bytes in heads {
            let Ok(head) = Head::parse(&bytes) else { continue };
            match head.open_link(link) {
                Ok(body) => {
                    if best.as_ref().is_none_or(|(known, _)| supersedes(&head, known)) {
                        best = Some((head, body));
                    }
                }
                // Anybody can put bytes at a point that he has learned of: only what the owner wrote is worth telling.
                Err(error @ (HeadError::Body(_) | HeadError::Frozen(_))) => refusal = Some(error),
                Err(_) => {}
            }
        }
        // The first head is the only one that a frozen link opens: there is no newer one to wait for.
        if best.is_some() && link.kind() == LinkKind::ReadFrozen {
            break;
        }
    }
    match (best, refusal) {
        (Some((_, body)), _) => Ok(body),
        (None, Some(error)) => Err(ClientError::new(
            ErrorKind::Refused,
            "the dataset cannot be read with this link",
            error,
            "ask its owner for a new link, or use a newer release",
        )),
        (None, None) if answered >= HEAD_WRITE_QUORUM => Err(ClientError::new(
            ErrorKind::NotFound,
            "no dataset is found at this link",
            format!("{answered} of {HEAD_POINTS} places were asked and none has its head"),
            "check the link and the network (--bootstrap); an expired dataset cannot be read again",
        )),
        (None, None) => Err(ClientError::new(
            ErrorKind::NotNow,
            "the dataset's head could not be looked for",
            format!("only {answered} of {HEAD_POINTS} places could be asked"),
            "check the network and the bootstrap addresses, then try again",
        )),
    }
}

/// The heads at a point, and whether any node there answered.
async fn ask_point(nodes: &Nodes, point: Point) -> (Vec<bytes::Bytes>, bool) {
    let holders = around(nodes, point, None, ASKED_PER_POINT).await;
    let mut calls: FuturesUnordered<_> = holders.into_iter().map(|node| nodes.get_heads(node, point, None)).collect();
    let (mut heads, mut reached) = (Vec::new(), false);
    while let Some(answer) = calls.next().await {
        if let Ok(found) = answer {
            reached = true;
            if !found.is_empty() {
                heads.extend(found);
                // Copies at one point are the same but for a moment after a write: one is enough.
                break;
            }
        }
    }
    (heads, reached)
}
