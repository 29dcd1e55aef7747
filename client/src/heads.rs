//! Heads written to and read from their secret points.
//!
//! Decides which nodes are named to the sessions of `dolmen-proto` as holders, checks what they answer, and has a write
//! that reached too few points repeated once. Quorums, retries of single nodes and patience are the sessions', the order
//! of heads and who may write one are the formats'.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dolmen_proto::heads::HeadPlaces;
use dolmen_proto::ids::{NodeId, OperatorId, Point};
use dolmen_proto::keys::{LocatorSecret, point};
use dolmen_proto::limits::{HEAD_NAMED_PER_POINT, HEAD_POINTS};
use dolmen_proto::placement::ranked_head_holders;

use crate::network::Nodes;

mod read;
mod write;

pub(crate) use read::{Found, Wanted, find, read};
pub(crate) use write::{Published, publish, write};

#[cfg(test)]
pub(crate) mod tests;

/// Nodes around a point among which holders of distinct operators are chosen.
const LOOKED_AT_PER_POINT: usize = 12;

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
