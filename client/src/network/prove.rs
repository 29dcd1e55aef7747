//! One step of an audit as a call.
//!
//! Decides that an answer is of the step asked for and no longer than a proof can be. Never decides what it is worth.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::{ProveReply, ProveRequest, Reply, Request};

use super::{CallFault, Nodes};

impl Nodes {
    /// Sends a step, the pruned set behind a reveal; gives the answer and the blocks behind a proof.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn prove(
        &self,
        node: NodeId,
        step: ProveRequest,
        set: Option<Bytes>,
    ) -> Result<(ProveReply, Bytes), CallFault> {
        let request = Request::Prove(Box::new(step.clone()));
        let mut answer = self.call(node, request, set.into_iter().collect(), Arc::default()).await?;
        let Reply::Prove(reply) = answer.reply else {
            return Err(CallFault::misbehaved(node, "it answered another call"));
        };
        if !step.fits(&reply) {
            return Err(CallFault::misbehaved(node, "it answered another step"));
        }
        // The reply's own bound is that of the largest proof.
        let most = usize::try_from(reply.payload_bytes()).unwrap_or(0);
        let mut blocks = BytesMut::new();
        while let Some(bytes) = answer.body.next().await? {
            if blocks.len() + bytes.len() > most {
                return Err(CallFault::misbehaved(node, "it sent more than it declared"));
            }
            blocks.extend_from_slice(&bytes);
        }
        if blocks.len() != most {
            return Err(CallFault::misbehaved(node, "it sent less than it declared"));
        }
        Ok((reply, blocks.freeze()))
    }
}
