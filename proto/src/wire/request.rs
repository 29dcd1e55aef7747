//! The calls: what a client asks a node for, and whether the asker's signature entitles it to ask.
//!
//! Decides bounds and authorisation by signature as pure functions of the request, the node's id and the time.
//! Never decides admission: quotas, allow-lists and lease lengths below the maximum are the node's own.

use bytes::Bytes;

use super::PROTOCOL_MAX;
use super::audit::ProveRequest;
use super::error::{ErrorCode, WireError};
use super::field;
use super::kept::KeptReceipt;
use super::lease::{DeleteBody, LeaseTerms, ListBody, RenewBody, StewardGrant, near};
use super::reply::Reply;
use super::signed::Signed;
use crate::ids::{NodeId, Point, ShardRoot, Timestamp};
use crate::limits::{HEAD_MAX_BYTES, LEASE_MAX, MOVED_RECEIPTS_MAX, RECEIPT_MAX_BYTES, REQUEST_LIFE};
use crate::messages::{self, request::Call};
use crate::root;

/// A call, within all bounds; whether it is allowed is for `verify` and the node to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What are you, what do you speak, what time is it?
    Describe,
    /// Hold this shard; the shard's bytes follow as the payload.
    Put(Box<PutRequest>),
    /// Give me these bytes of this shard.
    Get(GetRequest),
    /// Do you hold these shards? 1 to 1,024 roots.
    Stat(Vec<ShardRoot>),
    /// Hold these shards longer.
    Renew(Box<RenewRequest>),
    /// Give these leases up.
    Delete(DeleteRequest),
    /// Which leases does this account have?
    List(ListRequest),
    /// Prove that you hold what you hold: one step.
    Prove(Box<ProveRequest>),
    /// Keep this head.
    PutHead(PutHeadRequest),
    /// Which heads are at this point?
    GetHead(GetHeadRequest),
    /// Others hold these shards of yours now: 1 to [`MOVED_RECEIPTS_MAX`] receipts.
    Moved(Vec<KeptReceipt>),
}

/// `Put`: terms, and a steward's grant where a steward asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    /// The terms, signed by the account or by the granted steward.
    pub lease: Signed<LeaseTerms>,
    /// The owner's certificate, when a steward puts.
    pub grant: Option<Signed<StewardGrant>>,
}

impl PutRequest {
    /// Whether the signatures entitle the asker to this lease at this node now; gives the terms.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorised`] for another node or a wrong signature or grant, [`ErrorCode::ClockSkew`] for a
    /// request signed too long ago or ahead, [`ErrorCode::Expired`] for a lease that is already over,
    /// [`ErrorCode::LeaseTooLong`] above [`LEASE_MAX`] or the grant's end.
    pub fn verify(&self, node: &NodeId, now: Timestamp) -> Result<&LeaseTerms, WireError> {
        let terms = self.lease.claimed();
        named(&terms.node, node)?;
        near(terms.issued_at, now, REQUEST_LIFE)?;
        lease_end(terms.until, now)?;
        match &self.grant {
            None => self.lease.signed_by(terms.account.as_bytes()),
            Some(grant) => {
                let grant = granted(grant, node, now)?;
                if grant.account != terms.account || !grant.rights.put {
                    return Err(unauthorised("the grant does not allow this put"));
                }
                within_grant(terms.until, grant)?;
                self.lease.signed_by(&grant.steward)
            }
        }
    }
}

/// `Get`: a range of one shard, its length pinned by the asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetRequest {
    /// The shard.
    pub root: ShardRoot,
    /// The whole shard's length.
    pub length_bytes: u64,
    /// Where the range starts.
    pub offset_bytes: u64,
    /// How long it is; at least 1, and it ends within the shard.
    pub count_bytes: u64,
    /// Answer with a bao slice in 16 KiB groups, which proves the range by the root alone.
    pub proof: bool,
}

impl GetRequest {
    /// The bytes of the answer's payload, exactly: the range, or its slice.
    #[must_use]
    pub fn reply_payload_bytes(&self) -> u64 {
        if !self.proof {
            return self.count_bytes;
        }
        let narrow = |number: u64| u32::try_from(number).ok();
        let slice = narrow(self.length_bytes)
            .zip(narrow(self.offset_bytes))
            .zip(narrow(self.count_bytes))
            .and_then(|((length, offset), count)| root::slice_len(length, offset, count).ok());
        // A range that does not lie in the shard has no slice: parsing refuses it, and nothing answers it.
        slice.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
    }

    fn check(self) -> Result<Self, WireError> {
        field::shard_length(self.length_bytes)?;
        let end = self.offset_bytes.checked_add(self.count_bytes);
        if self.count_bytes == 0 || end.is_none_or(|end| end > self.length_bytes) {
            return Err(WireError::malformed("the range is empty or does not lie in the shard"));
        }
        Ok(self)
    }
}

/// `Renew`: signed by the leases' renew key, or by a steward with the account's grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// Which leases, until when.
    pub body: Signed<RenewBody>,
    /// The owner's certificate, when a steward renews.
    pub grant: Option<Signed<StewardGrant>>,
}

impl RenewRequest {
    /// Whether the signatures are good for this node now; gives the body.
    ///
    /// Without a grant the node then renews the account's leases whose renew key is `body.signer` and no others;
    /// with a grant all of the account's.
    ///
    /// # Errors
    /// As [`PutRequest::verify`].
    pub fn verify(&self, node: &NodeId, now: Timestamp) -> Result<&RenewBody, WireError> {
        let body = self.body.claimed();
        named(&body.node, node)?;
        near(body.issued_at, now, REQUEST_LIFE)?;
        lease_end(body.until, now)?;
        if let Some(grant) = &self.grant {
            let grant = granted(grant, node, now)?;
            if grant.account != body.account || grant.steward != body.signer || !grant.rights.renew {
                return Err(unauthorised("the grant does not allow this renewal"));
            }
            within_grant(body.until, grant)?;
        }
        self.body.signed_by(&body.signer)
    }
}

/// `Delete`: signed by the leases' delete key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which leases.
    pub body: Signed<DeleteBody>,
}

impl DeleteRequest {
    /// Whether the signature is good for this node now; gives the body.
    ///
    /// The node then gives up the account's leases whose delete key is `body.signer` and that were issued no later
    /// than `body.issued_at`, and no others.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorised`] or [`ErrorCode::ClockSkew`].
    pub fn verify(&self, node: &NodeId, now: Timestamp) -> Result<&DeleteBody, WireError> {
        let body = self.body.claimed();
        named(&body.node, node)?;
        near(body.issued_at, now, REQUEST_LIFE)?;
        self.body.signed_by(&body.signer)
    }
}

/// `List`: signed by the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// Whose leases, from where on.
    pub body: Signed<ListBody>,
}

impl ListRequest {
    /// Whether the account itself asks this node now; gives the body.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorised`] or [`ErrorCode::ClockSkew`].
    pub fn verify(&self, node: &NodeId, now: Timestamp) -> Result<&ListBody, WireError> {
        let body = self.body.claimed();
        named(&body.node, node)?;
        near(body.issued_at, now, REQUEST_LIFE)?;
        self.body.signed_by(body.account.as_bytes())
    }
}

/// `PutHead`: anybody may put a head; the head's own signature says who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutHeadRequest {
    /// Where it lies.
    pub point: Point,
    /// The signed head as `docs/format.md` has it: 1 to [`HEAD_MAX_BYTES`], not parsed here.
    pub head: Bytes,
    /// How long the node is to keep it.
    pub until: Timestamp,
}

impl PutHeadRequest {
    /// Whether the time asked for is one that a node may grant now.
    ///
    /// # Errors
    /// [`ErrorCode::Expired`] or [`ErrorCode::LeaseTooLong`].
    pub fn verify(&self, now: Timestamp) -> Result<(), WireError> {
        lease_end(self.until, now)
    }
}

/// `GetHead`: anybody who knows the point may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetHeadRequest {
    /// Where it lies.
    pub point: Point,
    /// The head's public key; `None`: heads by all keys at this point.
    pub key: Option<[u8; 32]>,
}

impl Request {
    /// The name of the call, for logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Describe => "Describe",
            Self::Put(_) => "Put",
            Self::Get(_) => "Get",
            Self::Stat(_) => "Stat",
            Self::Renew(_) => "Renew",
            Self::Delete(_) => "Delete",
            Self::List(_) => "List",
            Self::Prove(_) => "Prove",
            Self::PutHead(_) => "PutHead",
            Self::GetHead(_) => "GetHead",
            Self::Moved(_) => "Moved",
        }
    }

    /// Whether the request changes nothing and may as well come twice: it may be sent before the handshake is over, when
    /// nobody has shown yet that it is not somebody's recording (RFC 9001 9.2).
    #[must_use]
    pub const fn may_come_early(&self) -> bool {
        match self {
            Self::Describe | Self::Get(_) | Self::Stat(_) | Self::GetHead(_) => true,
            Self::Put(_)
            | Self::Renew(_)
            | Self::Delete(_)
            | Self::List(_)
            | Self::Prove(_)
            | Self::PutHead(_)
            | Self::Moved(_) => false,
        }
    }

    /// How many payload bytes follow the header, exactly.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Self::Put(put) => put.lease.claimed().length_bytes,
            Self::Prove(prove) => prove.payload_bytes(),
            Self::Describe
            | Self::Get(_)
            | Self::Stat(_)
            | Self::Renew(_)
            | Self::Delete(_)
            | Self::List(_)
            | Self::PutHead(_)
            | Self::GetHead(_)
            | Self::Moved(_) => 0,
        }
    }

    /// Whether `reply` is one that this request may be answered with: the right call, as many items as were asked
    /// for, a payload within its bound. An error is always one.
    ///
    /// # Errors
    /// The node's fault: [`ErrorCode::Malformed`].
    pub fn check_reply(&self, reply: &Reply) -> Result<(), WireError> {
        let fits = match (self, reply) {
            (_, Reply::Error(_))
            | (Self::Describe, Reply::Describe(_))
            | (Self::Put(_), Reply::Put(_))
            | (Self::List(_), Reply::List(_))
            | (Self::PutHead(_), Reply::PutHead(_))
            | (Self::GetHead(_), Reply::GetHead(_)) => true,
            (Self::Prove(prove), Reply::Prove(reply)) => prove.fits(reply),
            (Self::Get(get), Reply::Get(reply)) => {
                reply.length_bytes == get.length_bytes && reply.payload_bytes == get.reply_payload_bytes()
            }
            (Self::Stat(roots), Reply::Stat(items)) => items.len() == roots.len(),
            (Self::Renew(renew), Reply::Renew(reply)) => reply.codes.len() == renew.body.claimed().roots.len(),
            (Self::Delete(delete), Reply::Delete(codes)) => codes.len() == delete.body.claimed().roots.len(),
            (Self::Moved(receipts), Reply::Moved(codes)) => codes.len() == receipts.len(),
            _ => false,
        };
        if fits { Ok(()) } else { Err(WireError::malformed(format!("the reply does not answer a {}", self.name()))) }
    }

    pub(super) fn to_message(&self) -> messages::Request {
        let call = match self {
            Self::Describe => Call::Describe(messages::DescribeRequest {}),
            Self::Put(put) => Call::Put(messages::PutRequest {
                lease: Some(put.lease.to_message()),
                grant: put.grant.as_ref().map(Signed::to_message),
            }),
            Self::Get(get) => Call::Get(messages::GetRequest {
                root: field::from32(get.root.as_bytes()),
                length_bytes: get.length_bytes,
                offset_bytes: get.offset_bytes,
                count_bytes: get.count_bytes,
                proof: get.proof,
            }),
            Self::Stat(roots) => Call::Stat(messages::StatRequest {
                roots: roots.iter().map(|root| field::from32(root.as_bytes())).collect(),
            }),
            Self::Renew(renew) => Call::Renew(messages::RenewRequest {
                body: Some(renew.body.to_message()),
                grant: renew.grant.as_ref().map(Signed::to_message),
            }),
            Self::Delete(delete) => Call::Delete(messages::DeleteRequest { body: Some(delete.body.to_message()) }),
            Self::List(list) => Call::List(messages::ListRequest { body: Some(list.body.to_message()) }),
            Self::Prove(prove) => Call::Prove(prove.to_message()),
            Self::PutHead(put) => Call::PutHead(messages::PutHeadRequest {
                point: field::from32(put.point.as_bytes()),
                head: put.head.clone(),
                until_ms: put.until.as_unix_ms(),
            }),
            Self::GetHead(get) => Call::GetHead(messages::GetHeadRequest {
                point: field::from32(get.point.as_bytes()),
                key: get.key.as_ref().map_or_else(Bytes::new, field::from32),
            }),
            Self::Moved(receipts) => Call::Moved(messages::MovedRequest {
                receipts: receipts.iter().map(|receipt| receipt.encode().into()).collect(),
            }),
        };
        messages::Request { protocol: PROTOCOL_MAX, call: Some(call) }
    }

    pub(super) fn from_message(message: messages::Request) -> Result<Self, WireError> {
        if !(super::PROTOCOL_MIN..=PROTOCOL_MAX).contains(&message.protocol) {
            let text = format!(
                "protocol version {} is not spoken here, {} to {PROTOCOL_MAX} are",
                message.protocol,
                super::PROTOCOL_MIN
            );
            return Err(WireError::new(ErrorCode::VersionNotSupported, text));
        }
        let Some(call) = message.call else {
            return Err(WireError::new(ErrorCode::Unsupported, "the call is not known here"));
        };
        Ok(match call {
            Call::Describe(messages::DescribeRequest {}) => Self::Describe,
            Call::Put(put) => Self::Put(Box::new(PutRequest {
                lease: Signed::from_message(field::present("the lease", put.lease)?)?,
                grant: put.grant.map(Signed::from_message).transpose()?,
            })),
            Call::Get(get) => Self::Get(
                GetRequest {
                    root: ShardRoot::new(field::bytes32("a root", &get.root)?),
                    length_bytes: get.length_bytes,
                    offset_bytes: get.offset_bytes,
                    count_bytes: get.count_bytes,
                    proof: get.proof,
                }
                .check()?,
            ),
            Call::Stat(stat) => Self::Stat(field::roots(&stat.roots)?),
            Call::Renew(renew) => Self::Renew(Box::new(RenewRequest {
                body: Signed::from_message(field::present("the renewal's body", renew.body)?)?,
                grant: renew.grant.map(Signed::from_message).transpose()?,
            })),
            Call::Delete(delete) => Self::Delete(DeleteRequest {
                body: Signed::from_message(field::present("the delete's body", delete.body)?)?,
            }),
            Call::List(list) => Self::List(ListRequest {
                body: Signed::from_message(field::present("the listing's body", list.body)?)?,
            }),
            Call::Prove(prove) => Self::Prove(Box::new(ProveRequest::from_message(prove)?)),
            Call::PutHead(put) => {
                if put.head.is_empty() {
                    return Err(WireError::malformed("the head is empty"));
                }
                field::count("bytes of a head", put.head.len(), HEAD_MAX_BYTES)?;
                Self::PutHead(PutHeadRequest {
                    point: Point::new(field::bytes32("a point", &put.point)?),
                    head: put.head,
                    until: Timestamp::from_unix_ms(put.until_ms),
                })
            }
            Call::GetHead(get) => Self::GetHead(GetHeadRequest {
                point: Point::new(field::bytes32("a point", &get.point)?),
                key: field::optional_bytes32("a head's key", &get.key)?,
            }),
            Call::Moved(moved) => {
                if moved.receipts.is_empty() {
                    return Err(WireError::malformed("no receipt is shown"));
                }
                field::count("receipts", moved.receipts.len(), MOVED_RECEIPTS_MAX)?;
                let receipt = |bytes: &Bytes| {
                    field::count("bytes of a receipt", bytes.len(), 1 + RECEIPT_MAX_BYTES)?;
                    KeptReceipt::decode(bytes)
                };
                Self::Moved(moved.receipts.iter().map(receipt).collect::<Result<_, _>>()?)
            }
        })
    }
}

fn unauthorised(text: &str) -> WireError {
    WireError::new(ErrorCode::Unauthorised, text)
}

fn named(named: &NodeId, here: &NodeId) -> Result<(), WireError> {
    if named == here { Ok(()) } else { Err(unauthorised("the request is signed for another node")) }
}

fn lease_end(until: Timestamp, now: Timestamp) -> Result<(), WireError> {
    if until <= now {
        return Err(WireError::new(ErrorCode::Expired, "the lease asked for is already over"));
    }
    if until > now.after(LEASE_MAX).after(REQUEST_LIFE) {
        return Err(WireError::new(ErrorCode::LeaseTooLong, "the lease asked for is longer than any node grants"));
    }
    Ok(())
}

fn granted<'a>(grant: &'a Signed<StewardGrant>, node: &NodeId, now: Timestamp) -> Result<&'a StewardGrant, WireError> {
    let claimed = grant.claimed();
    if claimed.node != *node {
        return Err(unauthorised("the grant is for another node"));
    }
    if claimed.until <= now {
        return Err(WireError::new(ErrorCode::Expired, "the grant is over"));
    }
    grant.signed_by(claimed.account.as_bytes())
}

fn within_grant(until: Timestamp, grant: &StewardGrant) -> Result<(), WireError> {
    if until > grant.until {
        return Err(WireError::new(ErrorCode::LeaseTooLong, "the lease asked for ends after the grant"));
    }
    Ok(())
}
