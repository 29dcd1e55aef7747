//! From a vault's secret to every other key: the one place where derivation contexts are written.
//!
//! Decides which secret follows from which, and that no context is ever used for two things. Never stores,
//! prints or draws a secret. All derivation is BLAKE3 `derive_key`; the contexts are listed in docs/format.md.

use ed25519_dalek::SigningKey;

use crate::ids::{NodeId, Point, Timestamp};
use crate::secret::secret;
use crate::segment::SegmentNonce;

/// The contexts of every derived key and hash. Each is used by one function only; none may ever change.
pub mod context {
    /// The entropy of the 24 words to the vault's secret.
    pub const VAULT: &str = "dolmen 2026 vault v1";
    /// Vault secret and dataset index to dataset secret.
    pub const DATASET: &str = "dolmen 2026 dataset v1";
    /// Dataset secret and the number of an epoch after the first to what stands in for the dataset secret in that epoch.
    pub const DATASET_EPOCH: &str = "dolmen 2026 dataset epoch v1";
    /// Dataset secret, or after a reseal that of its epoch, to the key of chunk keys and segment nonces.
    pub const DEDUP: &str = "dolmen 2026 dedup v1";
    /// Dataset secret to the mask secret.
    pub const MASK: &str = "dolmen 2026 mask secret v1";
    /// Dataset secret to the table secret.
    pub const TABLE: &str = "dolmen 2026 table secret v1";
    /// Dataset secret, or after a reseal that of its epoch, to the chunker's seed.
    pub const CHUNKER_SEED: &str = "dolmen 2026 chunker seed v1";
    /// Dataset secret to the signing key of the read head.
    pub const READ_HEAD_KEY: &str = "dolmen 2026 read head key v1";
    /// Dataset secret to the signing key of the table head.
    pub const TABLE_HEAD_KEY: &str = "dolmen 2026 table head key v1";
    /// Dataset secret to the opening of the read link's commitment.
    pub const READ_OPENING: &str = "dolmen 2026 read opening v1";
    /// Read opening and read head public key to the read link's secret.
    pub const READ_LINK: &str = "dolmen 2026 read link v1";
    /// Dataset secret to the secret of the account keys.
    pub const ACCOUNT: &str = "dolmen 2026 account secret v1";
    /// Dataset secret to the secret of the delete keys.
    pub const DELETE: &str = "dolmen 2026 delete secret v1";
    /// Dataset secret to the secret of the renew keys.
    pub const RENEW: &str = "dolmen 2026 renew secret v1";
    /// Dataset secret and creation time to a snapshot's salt.
    pub const SNAPSHOT_SALT: &str = "dolmen 2026 snapshot salt v1";
    /// Dataset secret to the key of owner notes.
    pub const OWNER_NOTE: &str = "dolmen 2026 owner note v1";
    /// Owner note key and salt to the key of one note.
    pub const OWNER_NOTE_SEAL: &str = "dolmen 2026 owner note seal v1";
    /// Dataset secret and number to the signing key of a view's head.
    pub const VIEW_HEAD_KEY: &str = "dolmen 2026 view head key v1";
    /// Dataset secret and number to the opening of a view link's commitment.
    pub const VIEW_OPENING: &str = "dolmen 2026 view opening v1";
    /// View opening and view head public key to the view link's secret.
    pub const VIEW_LINK: &str = "dolmen 2026 view link v1";
    /// Dataset secret, number and creation time to the salt of a view's snapshot.
    pub const VIEW_SALT: &str = "dolmen 2026 view salt v1";
    /// View secret to the locator secret of the view's head.
    pub const VIEW_LOCATOR: &str = "dolmen 2026 view locator v1";
    /// View secret to the secret that seals the view head's body.
    pub const VIEW_HEAD_SEAL: &str = "dolmen 2026 view head seal v1";
    /// Dataset secret and number to the signing key of a steward's head.
    pub const STEWARD_HEAD_KEY: &str = "dolmen 2026 steward head key v1";
    /// Dataset secret and number to the opening of a steward link's commitment.
    pub const STEWARD_OPENING: &str = "dolmen 2026 steward opening v1";
    /// Steward opening and public key of the steward's head to the steward link's secret.
    pub const STEWARD_LINK: &str = "dolmen 2026 steward link v1";
    /// Steward secret to the locator secret of the steward's head.
    pub const STEWARD_LOCATOR: &str = "dolmen 2026 steward locator v1";
    /// Steward secret to the secret that seals the body of the steward's head.
    pub const STEWARD_HEAD_SEAL: &str = "dolmen 2026 steward head seal v1";
    /// Steward secret to the key that signs overlay heads.
    pub const STEWARD_KEY: &str = "dolmen 2026 steward key v1";
    /// Steward secret and node id to the key that the grant at that node names.
    pub const STEWARD_NODE_KEY: &str = "dolmen 2026 steward node key v1";
    /// Steward secret to what stands in for a dataset secret where the steward stores in his own name.
    pub const STEWARD_STORE: &str = "dolmen 2026 steward store v1";
    /// Table secret and public steward key to the locator secret of the overlay head.
    pub const OVERLAY_LOCATOR: &str = "dolmen 2026 overlay locator v1";
    /// Table secret and public steward key to the secret that seals the overlay head's body.
    pub const OVERLAY_HEAD_SEAL: &str = "dolmen 2026 overlay head seal v1";
    /// Table secret and public steward key to the mask secret of the overlay's segments.
    pub const OVERLAY_MASK: &str = "dolmen 2026 overlay mask v1";
    /// Account secret and node id to the account key at that node.
    pub const ACCOUNT_KEY: &str = "dolmen 2026 account key v1";
    /// Delete secret and node id to the delete key at that node.
    pub const DELETE_KEY: &str = "dolmen 2026 delete key v1";
    /// Renew secret and node id to the renew key at that node.
    pub const RENEW_KEY: &str = "dolmen 2026 renew key v1";
    /// Read secret to the locator secret of the read head.
    pub const READ_LOCATOR: &str = "dolmen 2026 read locator v1";
    /// Table secret to the locator secret of the table head.
    pub const TABLE_LOCATOR: &str = "dolmen 2026 table locator v1";
    /// Locator secret and number to a point.
    pub const POINT: &str = "dolmen 2026 point v1";
    /// Key under which the directory is asked for the nodes nearest to a point, from the point.
    pub const POINT_LOOKUP: &str = "dolmen 2026 point lookup v1";
    /// Read secret to the secret that seals the read head's body.
    pub const READ_HEAD_SEAL: &str = "dolmen 2026 read head seal v1";
    /// Table secret to the secret that seals the table head's body.
    pub const TABLE_HEAD_SEAL: &str = "dolmen 2026 table head seal v1";
    /// Head seal secret and salt to the key of one head's body.
    pub const HEAD_BODY: &str = "dolmen 2026 head body v1";
    /// Chunk key to the key that seals the chunk's frames.
    pub const CHUNK_SEAL: &str = "dolmen 2026 chunk seal v1";
    /// Sealed bytes of a chunk that moved to what stands for its id in the new segment's nonce.
    pub const MOVED_CHUNK: &str = "dolmen 2026 moved chunk v1";
    /// Chunk key to the chunk's id.
    pub const CHUNK_ID: &str = "dolmen 2026 chunk id v1";
    /// Begins the input of the keyed hash that makes segment nonces: a label, not a `derive_key` context.
    pub const SEGMENT_NONCE: &str = "dolmen 2026 segment nonce v1";
    /// Suite, code, lengths, nonce and roots to a segment's id.
    pub const SEGMENT_ID: &str = "dolmen 2026 segment id v1";
    /// Dedup key and segment nonce to the key of the padding keystream.
    pub const PADDING: &str = "dolmen 2026 padding v1";
    /// Mask secret and segment nonce to the key of the parity masks.
    pub const PARITY_MASK: &str = "dolmen 2026 parity mask v1";
    /// Root and length of a shard to its leaf in the set that an audit draws from.
    pub const AUDIT_SET_LEAF: &str = "dolmen 2026 audit set leaf v1";
    /// Two parts of a set and their sums to their node.
    pub const AUDIT_SET_NODE: &str = "dolmen 2026 audit set node v1";
    /// Set, node, auditor, nonce and beacon to the stream of draws.
    pub const AUDIT_DRAW: &str = "dolmen 2026 audit draw v1";
    /// The nonce of a challenge to what commits to it.
    pub const AUDIT_NONCE: &str = "dolmen 2026 audit nonce v1";
    /// Salt and entries of a snapshot to the dataset root that papers quote.
    pub const DATASET_ROOT: &str = "dolmen 2026 dataset root v1";
}

secret! {
    /// The secret of a whole vault: everything that an owner has follows from it.
    VaultSecret
}
secret! {
    /// The secret of one dataset of a vault; never leaves the owner.
    DatasetSecret
}
secret! {
    /// What chunk keys, segment nonces and padding follow from; never leaves the owner.
    DedupKey
}
secret! {
    /// What parity masks follow from; readers and stewards hold it.
    MaskSecret
}
secret! {
    /// The masks of one segment: what a holder of a view has of each segment that the view touches.
    MaskKey
}
secret! {
    /// What the base table is found and opened with; readers and stewards hold it.
    TableSecret
}
secret! {
    /// Opens the commitment that a read secret is; stands sealed in the read head.
    ReadOpening
}
secret! {
    /// The 32 bytes of a read link: finds and opens the read head, and commits to the key that signs it.
    ReadSecret
}
secret! {
    /// Opens the commitment that a view secret is; stands sealed in the view's head.
    ViewOpening
}
secret! {
    /// The 32 bytes of a view link: finds and opens the head of a view, and commits to the key that signs it.
    ViewSecret
}
secret! {
    /// What owner notes are sealed with; never leaves the owner.
    OwnerNoteKey
}
secret! {
    /// What the points of one head follow from.
    LocatorSecret
}
secret! {
    /// What the bodies of one head are sealed with.
    HeadSealSecret
}
secret! {
    /// What the account keys of a dataset follow from, another one at every node.
    AccountSecret
}
secret! {
    /// What the delete keys of a dataset follow from, another one at every node; never leaves the owner.
    DeleteSecret
}
secret! {
    /// What the renew keys of a dataset follow from, another one at every node.
    RenewSecret
}

secret! {
    /// Opens the commitment that a steward secret is; stands sealed in the steward's head.
    StewardOpening
}
secret! {
    /// The 32 bytes of a steward link: finds and opens the steward's head, commits to the key that signs it, and gives the
    /// steward keys of his own.
    StewardSecret
}

/// BLAKE3 `derive_key` over the concatenation of `parts`. Every part but the last has a fixed length, so that no
/// two inputs run into each other.
#[must_use]
pub fn derive(context: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn derive_signing_key(context: &'static str, parts: &[&[u8]]) -> SigningKey {
    let mut seed = derive(context, parts);
    let key = SigningKey::from_bytes(&seed);
    zeroize::Zeroize::zeroize(&mut seed);
    key
}

/// What stands in for a dataset's secret in an epoch.
fn epoch_secret(secret: &DatasetSecret, epoch: u32) -> DatasetSecret {
    match epoch {
        0 => secret.clone(),
        later => DatasetSecret::new(derive(context::DATASET_EPOCH, &[secret.expose(), &later.to_le_bytes()])),
    }
}

fn chunker_seed(secret: &DatasetSecret) -> u64 {
    let seed = derive(context::CHUNKER_SEED, &[secret.expose()]);
    u64::from_le_bytes(*seed.first_chunk().expect("32 bytes hold eight"))
}

impl VaultSecret {
    /// The secret of the vault whose 24 words (BIP 39, English) stand for these 32 bytes.
    #[must_use]
    pub fn from_entropy(entropy: &[u8; 32]) -> Self {
        Self::new(derive(context::VAULT, &[entropy]))
    }
}

/// Everything that follows from a vault's secret for one of its datasets.
///
/// A dataset has *epochs*: 0 at first, one more with every `rekey`. What leads readers to new snapshots is another in every
/// epoch: table, table head, read head, read opening and so the read link. What names stored bytes and authority over them stays:
/// `docs/decisions/0004-epochs.md`. Only `rekey --reseal` changes what chunks are sealed with, by naming the epoch whose dedup
/// key is used from then on: `docs/decisions/0010-reseal.md`.
#[derive(Clone)]
pub struct DatasetKeys {
    secret: DatasetSecret,
    epoch: u32,
    sealing: u32,
    /// Key of chunk keys, segment nonces and padding.
    pub dedup: DedupKey,
    /// Secret of the parity masks.
    pub mask: MaskSecret,
    /// Secret of the base table and its head.
    pub table: TableSecret,
    /// Seed of the chunker: a nuisance to attackers, not a protection.
    pub chunker_seed: u64,
    /// Signs the read head.
    pub read_head: SigningKey,
    /// Signs the table head.
    pub table_head: SigningKey,
    /// Opens the read link's commitment to the read head's key.
    pub read_opening: ReadOpening,
    /// The read link's secret.
    pub read: ReadSecret,
    /// Secret of the account keys, for [`account_key`].
    pub account: AccountSecret,
    /// Secret of the delete keys, for [`delete_key`].
    pub delete: DeleteSecret,
    /// Secret of the renew keys, for [`renew_key`].
    pub renew: RenewSecret,
    /// Key of the owner's notes in the read head.
    pub note: OwnerNoteKey,
}

impl DatasetKeys {
    /// The keys of dataset `index` of the vault, in epoch 0.
    #[must_use]
    pub fn derive(vault: &VaultSecret, index: u64) -> Self {
        Self::derive_epoch(vault, index, 0)
    }

    /// The keys of dataset `index` of the vault in `epoch`.
    #[must_use]
    pub fn derive_epoch(vault: &VaultSecret, index: u64, epoch: u32) -> Self {
        let secret = DatasetSecret::new(derive(context::DATASET, &[vault.expose(), &index.to_le_bytes()]));
        Self::from_secret_epoch(secret, epoch)
    }

    /// The keys of the dataset whose secret this is, in epoch 0.
    #[must_use]
    pub fn from_secret(secret: DatasetSecret) -> Self {
        Self::from_secret_epoch(secret, 0)
    }

    /// The same dataset's keys in another epoch.
    #[must_use]
    pub fn in_epoch(&self, epoch: u32) -> Self {
        Self::from_secret_epoch(self.secret.clone(), epoch)
    }

    /// The same keys, with what is stored from now on sealed and cut as `epoch` has it: 0 until a `rekey --reseal`.
    #[must_use]
    pub fn sealing_as(&self, epoch: u32) -> Self {
        let secret = epoch_secret(&self.secret, epoch);
        Self {
            dedup: DedupKey::new(derive(context::DEDUP, &[secret.expose()])),
            chunker_seed: chunker_seed(&secret),
            sealing: epoch,
            ..self.clone()
        }
    }

    fn from_secret_epoch(secret: DatasetSecret, epoch: u32) -> Self {
        let from = |context| derive(context, &[secret.expose()]);
        let of_epoch = epoch_secret(&secret, epoch);
        let chunker_seed = chunker_seed(&secret);
        let read_head = derive_signing_key(context::READ_HEAD_KEY, &[of_epoch.expose()]);
        let read_opening = ReadOpening::new(derive(context::READ_OPENING, &[of_epoch.expose()]));
        let read = ReadSecret::commit(&read_opening, read_head.verifying_key().as_bytes());
        Self {
            dedup: DedupKey::new(from(context::DEDUP)),
            mask: MaskSecret::new(from(context::MASK)),
            table: TableSecret::new(derive(context::TABLE, &[of_epoch.expose()])),
            chunker_seed,
            read_head,
            table_head: derive_signing_key(context::TABLE_HEAD_KEY, &[of_epoch.expose()]),
            read_opening,
            read,
            account: AccountSecret::new(from(context::ACCOUNT)),
            delete: DeleteSecret::new(from(context::DELETE)),
            renew: RenewSecret::new(from(context::RENEW)),
            note: OwnerNoteKey::new(from(context::OWNER_NOTE)),
            secret,
            epoch,
            sealing: 0,
        }
    }

    /// The salt of the snapshot created at `created`: keeps the quoted dataset root from being guessed at.
    #[must_use]
    pub fn snapshot_salt(&self, created: Timestamp) -> [u8; 32] {
        derive(context::SNAPSHOT_SALT, &[self.secret.expose(), &created.as_unix_ms().to_le_bytes()])
    }

    /// The epoch that these keys are of.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The epoch that dedup key and chunker's seed are of.
    #[must_use]
    pub const fn sealing(&self) -> u32 {
        self.sealing
    }

    /// The keys of view `number`, the same in every epoch. A number belongs to one share for ever: whoever has its link
    /// opens whatever is published under it.
    #[must_use]
    pub fn view(&self, number: u32) -> ViewKeyset {
        let parts: [&[u8]; 2] = [self.secret.expose(), &number.to_le_bytes()];
        let head = derive_signing_key(context::VIEW_HEAD_KEY, &parts);
        let opening = ViewOpening::new(derive(context::VIEW_OPENING, &parts));
        let secret = ViewSecret::commit(&opening, head.verifying_key().as_bytes());
        ViewKeyset { head, opening, secret }
    }

    /// The salt of the snapshot that view `number` shows, published at `created`: another than that of the snapshot it was
    /// made from, so that the dataset roots of the two cannot be told to belong together.
    #[must_use]
    pub fn view_salt(&self, number: u32, created: Timestamp) -> [u8; 32] {
        let created = created.as_unix_ms().to_le_bytes();
        derive(context::VIEW_SALT, &[self.secret.expose(), &number.to_le_bytes(), &created])
    }
}

mod steward;

pub use steward::{OverlayKeys, StewardKeys, StewardKeyset};

/// What the owner has of one view.
#[derive(Clone)]
pub struct ViewKeyset {
    /// Signs the view's head.
    pub head: SigningKey,
    /// Opens the view link's commitment to the head's key.
    pub opening: ViewOpening,
    /// The view link's secret.
    pub secret: ViewSecret,
}

impl core::fmt::Debug for ViewKeyset {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("ViewKeyset(..)")
    }
}

impl ViewSecret {
    /// The view secret that `opening` and the public key of the view's head make, as [`ReadSecret::commit`].
    #[must_use]
    pub fn commit(opening: &ViewOpening, head_public_key: &[u8; 32]) -> Self {
        Self::new(derive(context::VIEW_LINK, &[opening.expose(), head_public_key]))
    }
}

impl MaskKey {
    /// The mask key of the segment with this nonce.
    #[must_use]
    pub fn derive(secret: &MaskSecret, nonce: &SegmentNonce) -> Self {
        Self::new(derive(context::PARITY_MASK, &[secret.expose(), nonce.as_bytes()]))
    }
}

impl core::fmt::Debug for DatasetKeys {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("DatasetKeys(..)")
    }
}

impl ReadSecret {
    /// The read secret that `opening` and the read head's public key make. A reader accepts a head only if this,
    /// with the opening that the head holds and the key that signed it, is the secret of its link: so no holder of
    /// the link can sign a head.
    #[must_use]
    pub fn commit(opening: &ReadOpening, read_head_public_key: &[u8; 32]) -> Self {
        Self::new(derive(context::READ_LINK, &[opening.expose(), read_head_public_key]))
    }
}

/// What finds and opens a dataset's read head.
#[derive(Clone, Debug)]
pub struct ReadKeys {
    /// Where the head lies.
    pub locator: LocatorSecret,
    /// What its body is sealed with.
    pub seal: HeadSealSecret,
}

impl ReadKeys {
    /// From the secret of a read link.
    #[must_use]
    pub fn derive(read: &ReadSecret) -> Self {
        Self {
            locator: LocatorSecret::new(derive(context::READ_LOCATOR, &[read.expose()])),
            seal: HeadSealSecret::new(derive(context::READ_HEAD_SEAL, &[read.expose()])),
        }
    }
}

/// What finds and opens the head of a view.
#[derive(Clone, Debug)]
pub struct ViewKeys {
    /// Where the head lies.
    pub locator: LocatorSecret,
    /// What its body is sealed with.
    pub seal: HeadSealSecret,
}

impl ViewKeys {
    /// From the secret of a view link.
    #[must_use]
    pub fn derive(view: &ViewSecret) -> Self {
        Self {
            locator: LocatorSecret::new(derive(context::VIEW_LOCATOR, &[view.expose()])),
            seal: HeadSealSecret::new(derive(context::VIEW_HEAD_SEAL, &[view.expose()])),
        }
    }
}

/// What finds and opens a dataset's table head.
#[derive(Clone, Debug)]
pub struct TableKeys {
    /// Where the head lies.
    pub locator: LocatorSecret,
    /// What its body is sealed with.
    pub seal: HeadSealSecret,
}

impl TableKeys {
    /// From the table secret, as readers and stewards hold it.
    #[must_use]
    pub fn derive(table: &TableSecret) -> Self {
        Self {
            locator: LocatorSecret::new(derive(context::TABLE_LOCATOR, &[table.expose()])),
            seal: HeadSealSecret::new(derive(context::TABLE_HEAD_SEAL, &[table.expose()])),
        }
    }
}

/// Point `number` of the head that `locator` belongs to; heads lie at points `0..HEAD_POINTS`.
#[must_use]
pub fn point(locator: &LocatorSecret, number: u8) -> Point {
    Point::new(derive(context::POINT, &[locator.expose(), &[number]]))
}

/// The account key that `node` knows the owner by; no two nodes can tell that theirs belong together.
#[must_use]
pub fn account_key(secret: &AccountSecret, node: NodeId) -> SigningKey {
    derive_signing_key(context::ACCOUNT_KEY, &[secret.expose(), node.as_bytes()])
}

/// The key that deletes leases at `node`.
#[must_use]
pub fn delete_key(secret: &DeleteSecret, node: NodeId) -> SigningKey {
    derive_signing_key(context::DELETE_KEY, &[secret.expose(), node.as_bytes()])
}

/// The key that renews leases at `node`.
#[must_use]
pub fn renew_key(secret: &RenewSecret, node: NodeId) -> SigningKey {
    derive_signing_key(context::RENEW_KEY, &[secret.expose(), node.as_bytes()])
}

#[cfg(test)]
mod tests;
