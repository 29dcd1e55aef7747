//! Keys of stewards: what an owner has of one, what a steward has of his own, what finds and opens overlays.
//!
//! Decides what follows from a steward's secret and what from the table secret. Never lets anything that opens content follow
//! from either: `docs/decisions/0009-stewards.md`.

use ed25519_dalek::SigningKey;

use super::{
    DatasetKeys, DatasetSecret, HeadSealSecret, LocatorSecret, MaskSecret, StewardOpening, StewardSecret, TableSecret,
    context, derive, derive_signing_key,
};
use crate::ids::NodeId;

/// What the owner has of one steward.
#[derive(Clone)]
pub struct StewardKeyset {
    /// Signs the steward's head.
    pub head: SigningKey,
    /// Opens the steward link's commitment to the head's key.
    pub opening: StewardOpening,
    /// The steward link's secret.
    pub secret: StewardSecret,
}

impl core::fmt::Debug for StewardKeyset {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("StewardKeyset(..)")
    }
}

impl DatasetKeys {
    /// The keys of steward `number`, the same in every epoch. Numbers are those of views: none is ever used for two things.
    #[must_use]
    pub fn steward(&self, number: u32) -> StewardKeyset {
        let parts: [&[u8]; 2] = [self.secret.expose(), &number.to_le_bytes()];
        let head = derive_signing_key(context::STEWARD_HEAD_KEY, &parts);
        let opening = StewardOpening::new(derive(context::STEWARD_OPENING, &parts));
        let secret = StewardSecret::commit(&opening, head.verifying_key().as_bytes());
        StewardKeyset { head, opening, secret }
    }
}

impl StewardSecret {
    /// The steward secret that `opening` and the public key of the steward's head make, as
    /// [`ReadSecret::commit`](super::ReadSecret::commit).
    #[must_use]
    pub fn commit(opening: &StewardOpening, head_public_key: &[u8; 32]) -> Self {
        Self::new(derive(context::STEWARD_LINK, &[opening.expose(), head_public_key]))
    }
}

/// What follows from the secret of a steward link alone.
#[derive(Clone)]
pub struct StewardKeys {
    secret: StewardSecret,
    /// Where the steward's head lies.
    pub locator: LocatorSecret,
    /// What its body is sealed with.
    pub seal: HeadSealSecret,
    /// Signs the heads of the steward's overlay; the base table names its public half.
    pub overlay: SigningKey,
}

impl core::fmt::Debug for StewardKeys {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("StewardKeys(..)")
    }
}

impl StewardKeys {
    /// From the secret of a steward link.
    #[must_use]
    pub fn derive(secret: &StewardSecret) -> Self {
        Self {
            secret: secret.clone(),
            locator: LocatorSecret::new(derive(context::STEWARD_LOCATOR, &[secret.expose()])),
            seal: HeadSealSecret::new(derive(context::STEWARD_HEAD_SEAL, &[secret.expose()])),
            overlay: derive_signing_key(context::STEWARD_KEY, &[secret.expose()]),
        }
    }

    /// The public steward key: what the base table names.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.overlay.verifying_key().to_bytes()
    }

    /// The key that the grant at `node` names. It differs from node to node, so that two nodes cannot tell from their grants
    /// that they serve one dataset.
    #[must_use]
    pub fn at(&self, node: NodeId) -> SigningKey {
        derive_signing_key(context::STEWARD_NODE_KEY, &[self.secret.expose(), node.as_bytes()])
    }

    /// What the steward stores with: dedup key and accounts of his own, and the masks of his overlay under this table secret,
    /// which readers can derive too. Nothing else of these keys is used.
    #[must_use]
    pub fn store(&self, table: &TableSecret) -> DatasetKeys {
        let secret = DatasetSecret::new(derive(context::STEWARD_STORE, &[self.secret.expose()]));
        let mask = OverlayKeys::derive(table, &self.public_key()).mask;
        DatasetKeys { mask, ..DatasetKeys::from_secret(secret) }
    }
}

/// What finds and opens one steward's overlay.
#[derive(Clone, Debug)]
pub struct OverlayKeys {
    /// Where the overlay head lies.
    pub locator: LocatorSecret,
    /// What its body is sealed with.
    pub seal: HeadSealSecret,
    /// Unmasks the segments of the overlay.
    pub mask: MaskSecret,
}

impl OverlayKeys {
    /// From the table secret, as readers and stewards hold it, and the steward's public key.
    #[must_use]
    pub fn derive(table: &TableSecret, steward: &[u8; 32]) -> Self {
        let parts: [&[u8]; 2] = [table.expose(), steward];
        Self {
            locator: LocatorSecret::new(derive(context::OVERLAY_LOCATOR, &parts)),
            seal: HeadSealSecret::new(derive(context::OVERLAY_HEAD_SEAL, &parts)),
            mask: MaskSecret::new(derive(context::OVERLAY_MASK, &parts)),
        }
    }
}
