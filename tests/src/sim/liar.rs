//! Nodes that lie: what they say instead of the truth.
//!
//! Decides how an answer is spoiled. A liar counts as failed: what it acknowledged may be gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use dolmen_proto::head::Head;
use dolmen_proto::ids::{Point, ShardRoot, Timestamp};
use dolmen_proto::wire::{ErrorCode, GetReply, PutHeadReply, PutRequest, Receipt, Reply, Request, Signed, WireError};
use ed25519_dalek::SigningKey;

use crate::faulty_disk::Draw;

/// A way of lying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Stores what it is given and flips a byte of what it serves, shards and heads.
    FlipsBytes,
    /// Serves bytes of the right length that it made up.
    MakesUpBytes,
    /// Signs receipts and keeps nothing.
    KeepsNothing,
    /// Serves the first head that it ever saw at a point, and says that it took the newer ones.
    OldHeads,
    /// Gives receipts that are not good: another root, another signature, a shorter time.
    BadReceipts,
    /// Answers with something else than was asked for.
    WrongReplies,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FlipsBytes,
        Self::MakesUpBytes,
        Self::KeepsNothing,
        Self::OldHeads,
        Self::BadReceipts,
        Self::WrongReplies,
    ];
}

/// The liar in a node.
pub struct Liar {
    lie: Option<Lie>,
    draw: Draw,
    first_heads: BTreeMap<(Point, [u8; 32]), Bytes>,
}

impl Liar {
    /// A liar of this kind, or an honest node.
    #[must_use]
    pub fn new(lie: Option<Lie>, seed: u64) -> Self {
        Self { lie, draw: Draw::new(seed), first_heads: BTreeMap::new() }
    }

    /// What the node answers without asking its service.
    pub fn instead(&mut self, request: &Request) -> Option<(Reply, Vec<u8>)> {
        match (self.lie?, request) {
            (Lie::KeepsNothing, Request::Get(_)) => {
                Some((Reply::Error(WireError::new(ErrorCode::NotHeld, "never heard of it")), Vec::new()))
            }
            (Lie::MakesUpBytes, Request::Get(get)) => {
                let length = get.reply_payload_bytes();
                let payload: Vec<u8> = (0..length).map(|_| self.draw.next().to_le_bytes()[0]).collect();
                Some((Reply::Get(GetReply { length_bytes: get.length_bytes, payload_bytes: length }), payload))
            }
            (Lie::WrongReplies, Request::Get(_) | Request::GetHead(_)) => Some((Reply::Stat(Vec::new()), Vec::new())),
            (Lie::OldHeads, Request::PutHead(put)) => {
                let head = Head::parse(&put.head).ok()?;
                let known = self.first_heads.entry((put.point, *head.public_key()));
                known.or_insert_with(|| put.head.clone());
                Some((Reply::PutHead(PutHeadReply { accepted: true, current: None }), Vec::new()))
            }
            (Lie::OldHeads, Request::GetHead(get)) => {
                let heads = self.first_heads.iter().filter(|((point, _), _)| *point == get.point);
                Some((Reply::GetHead(heads.map(|(_, head)| head.clone()).collect()), Vec::new()))
            }
            _ => None,
        }
    }

    /// Spoils an honest answer.
    pub fn spoil(&mut self, request: &Request, mut reply: Reply, mut payload: Vec<u8>) -> (Reply, Vec<u8>) {
        if self.lie == Some(Lie::FlipsBytes) {
            flip(&mut self.draw, &mut payload);
            if let (Request::GetHead(_), Reply::GetHead(heads)) = (request, &mut reply) {
                for head in heads {
                    let mut bytes = head.to_vec();
                    flip(&mut self.draw, &mut bytes);
                    *head = bytes.into();
                }
            }
        }
        (reply, payload)
    }

    /// What the node answers to a put without storing anything.
    pub fn instead_of_put(&mut self, request: &PutRequest, now: Timestamp, key: &SigningKey) -> Option<Reply> {
        let terms = request.lease.claimed();
        let receipt = Receipt::for_terms(terms, now);
        match self.lie? {
            Lie::KeepsNothing => Some(Reply::Put(Box::new(Signed::sign(receipt, key)))),
            Lie::BadReceipts => {
                let other = SigningKey::from_bytes(&[self.draw.next().to_le_bytes()[0]; 32]);
                let (receipt, key) = match self.draw.below(4) {
                    0 => (receipt, &other),
                    1 => (Receipt { root: ShardRoot::new([7; 32]), ..receipt }, key),
                    2 => (Receipt { until: now, ..receipt }, key),
                    _ => (Receipt { length_bytes: receipt.length_bytes + 1, ..receipt }, key),
                };
                Some(Reply::Put(Box::new(Signed::sign(receipt, key))))
            }
            Lie::FlipsBytes | Lie::MakesUpBytes | Lie::OldHeads | Lie::WrongReplies => None,
        }
    }

    /// What becomes of an honest receipt.
    pub fn spoil_receipt(&mut self, reply: Reply) -> Reply {
        match (self.lie, reply) {
            (Some(Lie::WrongReplies), Reply::Put(_)) if self.draw.percent(50) => Reply::Stat(Vec::new()),
            (_, reply) => reply,
        }
    }
}

fn flip(draw: &mut Draw, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        let place = draw.below(bytes.len());
        bytes[place] ^= 1 << draw.below(8);
    }
}
