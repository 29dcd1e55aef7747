//! What a node answers.
//!
//! Decides the shape and the bounds of answers. Never decides whether an answer is true: receipts are checked in
//! [`super::receipt`], bytes against their root, heads by [`crate::head`].

use bytes::Bytes;

use super::audit::ProveReply;
use super::error::{ErrorCode, WireError};
use super::field;
use super::receipt::{Receipt, RenewReceipt};
use super::record::{Accepting, NodeRecord};
use super::signed::Signed;
use crate::audit::AuditClass;
use crate::ids::{ShardRoot, Timestamp};
use crate::limits::{
    HEAD_MAX_BYTES, HEADS_PER_POINT_MAX, LEASES_PER_LIST_MAX, MOVED_RECEIPTS_MAX, NODE_TEXT_MAX_BYTES,
    ROOTS_PER_CALL_MAX,
};
use crate::messages::{self, reply::Outcome};

/// Most suites that a node may name.
const SUITES_MAX: usize = 16;

/// An answer, within all bounds. Whether it fits the question: [`super::Request::check_reply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The call failed as a whole.
    Error(WireError),
    /// What the node is.
    Describe(Box<DescribeReply>),
    /// The shard is held durably.
    Put(Box<Signed<Receipt>>),
    /// The bytes follow as the payload.
    Get(GetReply),
    /// One a root, in the order asked for.
    Stat(Vec<Result<ShardStatus, ErrorCode>>),
    /// One code a root, and a receipt for those that were renewed.
    Renew(Box<RenewReply>),
    /// One a root; a lease that is not there any more counts as deleted.
    Delete(Vec<Result<(), ErrorCode>>),
    /// One page of leases.
    List(ListReply),
    /// A step of an audit.
    Prove(ProveReply),
    /// What became of the head.
    PutHead(PutHeadReply),
    /// The signed heads at the point, as bytes of at most [`HEAD_MAX_BYTES`] that are not parsed here.
    GetHead(Vec<Bytes>),
    /// One a receipt, in the order shown: whether what it names is noted as moved.
    Moved(Vec<Result<(), ErrorCode>>),
}

/// What a node says of itself on the data plane; unsigned, but the connection is the node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribeReply {
    /// Oldest protocol version spoken.
    pub protocol_min: u32,
    /// Newest protocol version spoken.
    pub protocol_max: u32,
    /// Name and version of the software: printable ASCII.
    pub software: String,
    /// Sealing and coding suites that the node's proofs know.
    pub suites: Vec<u32>,
    /// The node's clock.
    pub now: Timestamp,
    /// Largest shard that it takes.
    pub shard_max_bytes: u64,
    /// Longest lease that it grants, in milliseconds.
    pub lease_max_ms: u64,
    /// Base-2 logarithm of the bytes that it would still take, rounded down.
    pub free_class: u8,
    /// What it takes.
    pub accepting: Accepting,
    /// Its own node record.
    pub record: Option<Signed<NodeRecord>>,
    /// How many blocks it proves in an hour at most, to all auditors together.
    pub audit_samples_per_hour: u64,
    /// What its disks are.
    pub audit_class: AuditClass,
    /// When it goes away; until then its shards are to be copied elsewhere. `None`: it stays.
    pub leaving_until: Option<Timestamp>,
}

/// The header before a shard's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetReply {
    /// The whole shard's length.
    pub length_bytes: u64,
    /// How many payload bytes follow.
    pub payload_bytes: u64,
}

/// A shard that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardStatus {
    /// Its length.
    pub length_bytes: u64,
    /// The end of the latest lease on it.
    pub until: Timestamp,
}

/// What became of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewReply {
    /// One a root, in the order asked for.
    pub codes: Vec<Result<(), ErrorCode>>,
    /// Over the roots that were renewed, in their order; `None` when there is none.
    pub receipt: Option<Signed<RenewReceipt>>,
}

/// One page of an account's leases, in the order of roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListReply {
    /// At most [`LEASES_PER_LIST_MAX`].
    pub leases: Vec<LeaseItem>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// One lease of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseItem {
    /// The shard.
    pub root: ShardRoot,
    /// Its length.
    pub length_bytes: u64,
    /// The lease's end.
    pub until: Timestamp,
}

/// What became of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutHeadReply {
    /// Whether the node now keeps the head that was put, durably.
    pub accepted: bool,
    /// When not accepted: the head that the node keeps instead. When accepted: the one it had before, if any.
    pub current: Option<Bytes>,
}

impl Reply {
    /// How many payload bytes follow the header, exactly.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        match self {
            Self::Get(get) => get.payload_bytes,
            Self::Prove(prove) => prove.payload_bytes(),
            Self::Error(_)
            | Self::Describe(_)
            | Self::Put(_)
            | Self::Stat(_)
            | Self::Renew(_)
            | Self::Delete(_)
            | Self::List(_)
            | Self::PutHead(_)
            | Self::GetHead(_)
            | Self::Moved(_) => 0,
        }
    }

    /// The answer, or the error that was answered instead.
    ///
    /// # Errors
    /// What the node says went wrong.
    pub fn into_result(self) -> Result<Self, WireError> {
        match self {
            Self::Error(error) => Err(error),
            other => Ok(other),
        }
    }

    pub(super) fn to_message(&self) -> messages::Reply {
        let outcome = match self {
            Self::Error(error) => Outcome::Error(error.to_message()),
            Self::Describe(describe) => Outcome::Describe(describe.to_message()),
            Self::Put(receipt) => Outcome::Put(messages::PutReply { receipt: Some(receipt.to_message()) }),
            Self::Get(get) => {
                Outcome::Get(messages::GetReply { length_bytes: get.length_bytes, payload_bytes: get.payload_bytes })
            }
            Self::Stat(items) => {
                Outcome::Stat(messages::StatReply { items: items.iter().map(stat_to_message).collect() })
            }
            Self::Renew(renew) => Outcome::Renew(messages::RenewReply {
                codes: codes_to_message(&renew.codes),
                receipt: renew.receipt.as_ref().map(Signed::to_message),
            }),
            Self::Delete(codes) => Outcome::Delete(messages::DeleteReply { codes: codes_to_message(codes) }),
            Self::List(list) => Outcome::List(messages::ListReply {
                leases: list.leases.iter().map(lease_to_message).collect(),
                more: list.more,
            }),
            Self::Prove(prove) => Outcome::Prove(prove.to_message()),
            Self::PutHead(put) => Outcome::PutHead(messages::PutHeadReply {
                accepted: put.accepted,
                current: put.current.clone().unwrap_or_default(),
            }),
            Self::GetHead(heads) => Outcome::GetHead(messages::GetHeadReply { heads: heads.clone() }),
            Self::Moved(codes) => Outcome::Moved(messages::MovedReply { codes: codes_to_message(codes) }),
        };
        messages::Reply { outcome: Some(outcome) }
    }

    pub(super) fn from_message(message: messages::Reply) -> Result<Self, WireError> {
        Ok(match field::present("the outcome of the reply", message.outcome)? {
            Outcome::Error(error) if error.code == 0 => return Err(WireError::malformed("an error with the code 0")),
            Outcome::Error(error) => Self::Error(WireError::from_message(&error)),
            Outcome::Describe(describe) => Self::Describe(Box::new(DescribeReply::from_message(describe)?)),
            Outcome::Put(put) => {
                Self::Put(Box::new(Signed::from_message(field::present("the receipt", put.receipt)?)?))
            }
            Outcome::Get(get) => Self::Get(GetReply {
                length_bytes: field::shard_length(get.length_bytes)?,
                payload_bytes: get.payload_bytes,
            }),
            Outcome::Stat(stat) => {
                field::count("items", stat.items.len(), ROOTS_PER_CALL_MAX)?;
                Self::Stat(stat.items.iter().map(stat_from_message).collect::<Result<_, _>>()?)
            }
            Outcome::Renew(renew) => Self::Renew(Box::new(RenewReply::from_message(renew)?)),
            Outcome::Delete(delete) => Self::Delete(codes_from_message(&delete.codes)?),
            Outcome::List(list) => {
                field::count("leases", list.leases.len(), LEASES_PER_LIST_MAX)?;
                if list.more && list.leases.is_empty() {
                    return Err(WireError::malformed("an empty page of leases that says that there are more"));
                }
                let leases = list.leases.iter().map(lease_from_message).collect::<Result<_, _>>()?;
                Self::List(ListReply { leases, more: list.more })
            }
            Outcome::Prove(prove) => Self::Prove(ProveReply::from_message(prove)?),
            Outcome::PutHead(put) => {
                field::count("bytes of a head", put.current.len(), HEAD_MAX_BYTES)?;
                let current = if put.current.is_empty() { None } else { Some(put.current) };
                Self::PutHead(PutHeadReply { accepted: put.accepted, current })
            }
            Outcome::GetHead(get) => {
                field::count("heads", get.heads.len(), HEADS_PER_POINT_MAX)?;
                for head in &get.heads {
                    field::count("bytes of a head", head.len(), HEAD_MAX_BYTES)?;
                }
                Self::GetHead(get.heads)
            }
            Outcome::Moved(moved) => {
                field::count("items", moved.codes.len(), MOVED_RECEIPTS_MAX)?;
                Self::Moved(codes_from_message(&moved.codes)?)
            }
        })
    }
}

impl DescribeReply {
    fn to_message(&self) -> messages::DescribeReply {
        messages::DescribeReply {
            protocol_min: self.protocol_min,
            protocol_max: self.protocol_max,
            software: self.software.clone(),
            suites: self.suites.clone(),
            now_ms: self.now.as_unix_ms(),
            shard_max_bytes: self.shard_max_bytes,
            lease_max_ms: self.lease_max_ms,
            free_class: u32::from(self.free_class),
            accepting: self.accepting.to_message().into(),
            record: self.record.as_ref().map_or_else(Bytes::new, |record| record.encode().into()),
            audit_samples_per_hour: self.audit_samples_per_hour,
            audit_class: self.audit_class.number(),
            leaving_until_ms: self.leaving_until.map_or(0, |until| until.as_unix_ms()),
        }
    }

    fn from_message(message: messages::DescribeReply) -> Result<Self, WireError> {
        let accepting = Accepting::from_message(message.accepting());
        field::text("the software's name", &message.software, NODE_TEXT_MAX_BYTES)?;
        field::count("suites", message.suites.len(), SUITES_MAX)?;
        let record = if message.record.is_empty() { None } else { Some(Signed::decode(message.record)?) };
        Ok(Self {
            protocol_min: message.protocol_min,
            protocol_max: message.protocol_max,
            software: message.software,
            suites: message.suites,
            now: Timestamp::from_unix_ms(message.now_ms),
            shard_max_bytes: message.shard_max_bytes,
            lease_max_ms: message.lease_max_ms,
            free_class: field::free_class(message.free_class)?,
            accepting,
            record,
            audit_samples_per_hour: message.audit_samples_per_hour,
            audit_class: AuditClass::from_number(message.audit_class),
            leaving_until: (message.leaving_until_ms != 0).then(|| Timestamp::from_unix_ms(message.leaving_until_ms)),
        })
    }
}

impl RenewReply {
    /// The roots that were renewed, of those that were asked for.
    #[must_use]
    pub fn renewed(&self, asked: &[ShardRoot]) -> Vec<ShardRoot> {
        self.codes.iter().zip(asked).filter(|(code, _)| code.is_ok()).map(|(_, root)| *root).collect()
    }

    fn from_message(message: messages::RenewReply) -> Result<Self, WireError> {
        let codes = codes_from_message(&message.codes)?;
        let receipt: Option<Signed<RenewReceipt>> = message.receipt.map(Signed::from_message).transpose()?;
        let renewed = codes.iter().filter(|code| code.is_ok()).count();
        if receipt.as_ref().map_or(0, |receipt| receipt.claimed().shards.len()) != renewed {
            return Err(WireError::malformed("the receipt does not cover what was renewed"));
        }
        Ok(Self { codes, receipt })
    }
}

fn stat_to_message(item: &Result<ShardStatus, ErrorCode>) -> messages::StatItem {
    match item {
        Ok(status) => {
            messages::StatItem { code: 0, length_bytes: status.length_bytes, until_ms: status.until.as_unix_ms() }
        }
        Err(code) => messages::StatItem { code: code.number(), length_bytes: 0, until_ms: 0 },
    }
}

fn stat_from_message(item: &messages::StatItem) -> Result<Result<ShardStatus, ErrorCode>, WireError> {
    if item.code != 0 {
        return Ok(Err(ErrorCode::from_number(item.code)));
    }
    let length_bytes = field::shard_length(item.length_bytes)?;
    Ok(Ok(ShardStatus { length_bytes, until: Timestamp::from_unix_ms(item.until_ms) }))
}

fn lease_to_message(item: &LeaseItem) -> messages::LeaseItem {
    messages::LeaseItem {
        root: field::from32(item.root.as_bytes()),
        length_bytes: item.length_bytes,
        until_ms: item.until.as_unix_ms(),
    }
}

fn lease_from_message(item: &messages::LeaseItem) -> Result<LeaseItem, WireError> {
    Ok(LeaseItem {
        root: ShardRoot::new(field::bytes32("a lease's root", &item.root)?),
        length_bytes: field::shard_length(item.length_bytes)?,
        until: Timestamp::from_unix_ms(item.until_ms),
    })
}

fn codes_to_message(codes: &[Result<(), ErrorCode>]) -> Vec<u32> {
    codes.iter().map(|code| code.map_or_else(ErrorCode::number, |()| 0)).collect()
}

fn codes_from_message(codes: &[u32]) -> Result<Vec<Result<(), ErrorCode>>, WireError> {
    field::count("items", codes.len(), ROOTS_PER_CALL_MAX)?;
    Ok(codes.iter().map(|code| if *code == 0 { Ok(()) } else { Err(ErrorCode::from_number(*code)) }).collect())
}
