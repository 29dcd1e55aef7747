//! The seam to the network: what the pipelines ask of it, so that tests can put lying, dead and slow nodes behind it.
//!
//! Decides the shape of a call and whose fault a failed one is. Never decides which node is asked.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use dolmen_net::{NodeAddress, PathReport, PayloadReader, StreamError};
use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::{NodeId, Point, Timestamp};
use dolmen_proto::wire::{NodeRecord, Reply, Request};
use futures::future::BoxFuture;

pub(crate) mod attempt;
mod calls;
pub(crate) mod experience;
pub(crate) mod gate;
mod live;
#[cfg(test)]
pub(crate) mod memory;
mod moved;
#[cfg(any(test, feature = "mock"))]
pub(crate) mod pretend;
mod prove;

pub(crate) use calls::{Account, Granted, Nodes};
pub(crate) use live::Live;

/// A call that did not bring what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct CallFault {
    /// Whose fault, as sessions want it.
    pub(crate) fault: Fault,
    /// In words.
    pub(crate) reason: String,
}

impl CallFault {
    pub(crate) fn new(fault: Fault, reason: impl ToString) -> Self {
        Self { fault, reason: reason.to_string() }
    }

    pub(crate) fn misbehaved(node: NodeId, what: impl std::fmt::Display) -> Self {
        Self::new(Fault::Misbehaved, format!("node {} misbehaved: {what}", node.short()))
    }
}

/// A node's answer, with the payload that follows.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) body: Body,
}

/// The payload of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    Stream(NodeId, Box<PayloadReader>),
    #[cfg(any(test, feature = "mock"))]
    Ready(std::collections::VecDeque<Bytes>),
}

impl Body {
    /// The next bytes; `None` at the end. No more come in all than the reply's header declares.
    ///
    /// # Errors
    /// [`CallFault`]: the node's, or nobody's who can be reached.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallFault> {
        match self {
            Self::Stream(node, reader) => reader.next().await.map_err(|error| {
                let fault = match error {
                    StreamError::Stalled(_) | StreamError::Lost(_) => Fault::Unreachable,
                    StreamError::Misuse(_) => Fault::Local,
                    _ => Fault::Misbehaved,
                };
                CallFault::new(fault, format!("node {}: {error}", node.short()))
            }),
            #[cfg(any(test, feature = "mock"))]
            Self::Ready(pieces) => Ok(pieces.pop_front()),
        }
    }
}

/// What pipelines need of a network.
pub(crate) trait Network: Send + Sync + 'static {
    /// Records of nodes that are there now, at least `want` where there are so many.
    fn sample(&self, want: usize) -> BoxFuture<'_, Vec<NodeRecord>>;

    /// A node's own record.
    fn resolve(&self, node: NodeId) -> BoxFuture<'_, Option<NodeRecord>>;

    /// Records of the nodes nearest to a point.
    fn nearest(&self, point: Point, count: usize) -> BoxFuture<'_, Vec<NodeRecord>>;

    /// One call. `sent` counts the payload bytes that have left.
    fn call(
        &self,
        node: NodeAddress,
        request: Request,
        payload: Vec<Bytes>,
        sent: Arc<AtomicU64>,
    ) -> BoxFuture<'static, Result<Answer, CallFault>>;

    /// Sees to it that there is a way to a node: at once where there is one.
    fn reach(&self, node: NodeAddress) -> BoxFuture<'static, Result<(), CallFault>> {
        let _ = node;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether a read can be sent to a node before it has answered anything, as it was connected before.
    fn takes_reads(&self, node: &NodeAddress) -> bool {
        let _ = node;
        false
    }

    /// How long handshakes take here, as far as finding nodes has shown it.
    fn handshake_time(&self) -> Option<std::time::Duration> {
        None
    }

    /// What the paths to nodes are like that there are connections to.
    fn paths(&self) -> Vec<(NodeId, PathReport)> {
        Vec::new()
    }

    /// The time here.
    fn now(&self) -> Timestamp;
}
