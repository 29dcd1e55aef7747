//! An owner who speaks to single nodes: signed leases, puts, gets and deletes over the real data plane.
//!
//! Decides nothing about right and wrong: calls give back what the node said.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dolmen_net::{CallError, DataClient, DataPlaneOptions, Identity, NodeAddress, Payload, StreamError};
use dolmen_proto::ids::{AccountId, NodeId, ShardRoot, Timestamp};
use dolmen_proto::root::{root_of, verify_slice};
use dolmen_proto::wire::{
    DeleteBody, DeleteRequest, ErrorCode, GetRequest, LeaseTerms, PutRequest, Reply, Request, ShardStatus, Signed,
};
use ed25519_dalek::SigningKey;

/// How long the leases of tests last.
pub const LEASE: Duration = Duration::from_secs(30 * 86_400);

/// The time by this machine's clock.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).expect("a clock before the year 584 million"))
}

/// Bytes that look random and are the same for the same number.
///
/// # Panics
/// Never, but for lengths that no memory holds.
#[must_use]
pub fn shard(number: u64, length_bytes: usize) -> Bytes {
    let mut bytes = vec![0; length_bytes];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Why a call brought nothing.
#[derive(Debug)]
pub enum Trouble {
    /// The node answered with an error.
    Refused(ErrorCode),
    /// The node cannot be reached, stalls or misbehaves, or the payload broke off.
    Broken(String),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { error, .. } => Self::Refused(error.code()),
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<StreamError> for Trouble {
    fn from(error: StreamError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Trouble {
    /// The node's error.
    ///
    /// # Panics
    /// Where it did not answer with one.
    #[must_use]
    #[track_caller]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(code) => *code,
            Self::Broken(what) => panic!("the node did not answer: {what}"),
        }
    }
}

/// One owner with keys of its own and a connection of its own.
#[derive(Clone)]
pub struct Owner {
    client: DataClient,
    account: SigningKey,
    delete: SigningKey,
    renew: SigningKey,
}

impl Owner {
    /// An owner whose account is the same for the same number. Within a tokio runtime only.
    ///
    /// # Panics
    /// Where the machine gives no sockets or random bytes.
    #[must_use]
    pub fn new(number: u8) -> Self {
        let identity = Identity::generate().expect("random bytes");
        let client = DataClient::new(&identity, DataPlaneOptions::default()).expect("a client");
        let key = |kind: u8| SigningKey::from_bytes(blake3::hash(&[number, kind]).as_bytes());
        Self { client, account: key(0), delete: key(1), renew: key(2) }
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &DataClient {
        &self.client
    }

    /// The account as nodes see it.
    #[must_use]
    pub fn account(&self) -> AccountId {
        AccountId::new(self.account.verifying_key().to_bytes())
    }

    /// A lease of [`LEASE`] on these bytes, signed at `issued_at`.
    ///
    /// # Panics
    /// For more bytes than fit any length.
    #[must_use]
    pub fn put_request(&self, node: NodeId, root: ShardRoot, length_bytes: u64, issued_at: Timestamp) -> Request {
        let terms = LeaseTerms {
            node,
            root,
            length_bytes,
            account: self.account(),
            delete_key: self.delete.verifying_key().to_bytes(),
            renew_key: self.renew.verifying_key().to_bytes(),
            until: now().after(LEASE),
            issued_at,
        };
        Request::Put(Box::new(PutRequest { lease: Signed::sign(terms, &self.account), grant: None }))
    }

    /// Puts a shard; `Ok` means that the node signed a receipt for it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn put(&self, node: &NodeAddress, bytes: &Bytes) -> Result<ShardRoot, Trouble> {
        self.put_signed_at(node, bytes, now()).await
    }

    /// The same with terms that were signed at another time.
    ///
    /// # Errors
    /// [`Trouble`].
    ///
    /// # Panics
    /// Where the receipt is not this node's for this shard.
    pub async fn put_signed_at(
        &self,
        node: &NodeAddress,
        bytes: &Bytes,
        issued_at: Timestamp,
    ) -> Result<ShardRoot, Trouble> {
        let root = root_of(bytes);
        let request = self.put_request(node.id, root, bytes.len() as u64, issued_at);
        let response = self.client.call(node, request, Payload::from(bytes.clone())).await?;
        let Reply::Put(receipt) = response.reply else { panic!("not a receipt: {:?}", response.reply) };
        let receipt = receipt.signed_by(node.id.as_bytes()).expect("the node signed its receipt");
        assert_eq!((receipt.root, receipt.length_bytes), (root, bytes.len() as u64));
        Ok(root)
    }

    /// Reads a shard whole, by plain bytes; what came is not checked against the root.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn get(&self, node: &NodeAddress, root: ShardRoot, length_bytes: usize) -> Result<Bytes, Trouble> {
        let length_bytes = length_bytes as u64;
        let range = GetRequest { root, length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
        let mut response = self.client.call(node, Request::Get(range), Payload::none()).await?;
        Ok(response.payload.read_to_end().await?)
    }

    /// Reads a shard whole with a proof, as readers do, and checks it against the root.
    ///
    /// # Errors
    /// [`Trouble`]; bytes that do not belong to the root are [`Trouble::Broken`].
    ///
    /// # Panics
    /// For lengths that no shard has.
    pub async fn get_proven(
        &self,
        node: &NodeAddress,
        root: ShardRoot,
        length_bytes: usize,
    ) -> Result<Vec<u8>, Trouble> {
        let length = u32::try_from(length_bytes).expect("a shard's length");
        let range =
            GetRequest { root, length_bytes: length.into(), offset_bytes: 0, count_bytes: length.into(), proof: true };
        let mut response = self.client.call(node, Request::Get(range), Payload::none()).await?;
        let slice = response.payload.read_to_end().await?;
        verify_slice(&root, length, 0, length, &slice).map_err(|error| Trouble::Broken(error.to_string()))
    }

    /// Asks which of these shards the node holds.
    ///
    /// # Errors
    /// [`Trouble`].
    ///
    /// # Panics
    /// Where the node answers another question.
    pub async fn stat(
        &self,
        node: &NodeAddress,
        roots: Vec<ShardRoot>,
    ) -> Result<Vec<Result<ShardStatus, ErrorCode>>, Trouble> {
        let response = self.client.call(node, Request::Stat(roots), Payload::none()).await?;
        let Reply::Stat(items) = response.reply else { panic!("not an answer to Stat: {:?}", response.reply) };
        Ok(items)
    }

    /// Gives the leases on these shards up.
    ///
    /// # Errors
    /// [`Trouble`].
    ///
    /// # Panics
    /// Where the node answers another question.
    pub async fn delete(
        &self,
        node: &NodeAddress,
        roots: Vec<ShardRoot>,
    ) -> Result<Vec<Result<(), ErrorCode>>, Trouble> {
        let signer = self.delete.verifying_key().to_bytes();
        let body = DeleteBody { node: node.id, account: self.account(), signer, issued_at: now(), roots };
        let request = Request::Delete(DeleteRequest { body: Signed::sign(body, &self.delete) });
        let response = self.client.call(node, request, Payload::none()).await?;
        let Reply::Delete(codes) = response.reply else { panic!("not an answer to Delete: {:?}", response.reply) };
        Ok(codes)
    }
}
