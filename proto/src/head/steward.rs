//! What the head of a steward says (all that he is entrusted with), and what the head of his overlay does.
//!
//! Decides what a steward gets: secrets of table and masks, where heads lie, grants. Never anything that opens content:
//! `docs/decisions/0009-stewards.md`.

use zeroize::Zeroizing;

use super::body::{TableLocation, begin, expect_kind};
use super::{Head, HeadError, HeadOrder};
use crate::codec::{DocumentError, Extensions, Reader, Writer, check_ascending, check_limit};
use crate::ids::Timestamp;
use crate::keys::{LocatorSecret, MaskSecret, OverlayKeys, StewardKeys, StewardOpening, StewardSecret, TableSecret};
use crate::limits::HEAD_STEWARDS_MAX;
use crate::tree::CountedTree;

const KIND_STEWARD: u8 = 4;
const KIND_OVERLAY: u8 = 5;

/// Among the extensions of a read head: the stewards that it names.
const READ_EXTENSION_STEWARDS: u16 = 6;
/// Among the extensions of a table head.
const TABLE_EXTENSION_STEWARDS: u16 = 2;

/// What a steward's head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StewardBody {
    /// Opens the commitment that the steward link's secret is.
    pub opening: StewardOpening,
    /// Finds and opens the table head, and with a steward's public key his overlay.
    pub table_secret: TableSecret,
    /// Masks and unmasks parity shards.
    pub mask_secret: MaskSecret,
    /// Where the read head lies; what opens it does not follow from this.
    pub read_locator: LocatorSecret,
    /// The Ed25519 key that signs read heads.
    pub read_head_key: [u8; 32],
    /// The Ed25519 key that signs table heads.
    pub table_head_key: [u8; 32],
    /// Where the table was when this was written: a hint, the table head knows better.
    pub table: TableLocation,
    /// The tree of [grants](crate::grant::GrantRow), in segments of the base table; never a self pointer.
    pub grants: Option<CountedTree>,
    /// When this head was made, by its writer's clock.
    pub created: Timestamp,
    /// Fields of later releases.
    pub extensions: Extensions,
}

/// What an overlay's head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayBody {
    /// Where the [root of the overlay](crate::overlay::OverlayRoot) lies, in a segment masked with the overlay's mask secret.
    pub location: TableLocation,
    /// Fields of later releases.
    pub extensions: Extensions,
}

impl Head {
    /// Makes the head of a steward; `key` is the one that the steward secret commits to.
    ///
    /// # Errors
    /// [`HeadError::NotCommitted`] when key and opening are not those of `steward`; [`HeadError::Sequence`],
    /// [`HeadError::Body`] or [`HeadError::Codec`] when order or body cannot be written.
    pub fn create_steward(
        steward: &StewardSecret,
        key: &ed25519_dalek::SigningKey,
        order: HeadOrder,
        body: &StewardBody,
    ) -> Result<Self, HeadError> {
        check_commitment(steward, body, &key.verifying_key().to_bytes())?;
        Self::create(&StewardKeys::derive(steward).seal, key, order, encode_steward(body)?)
    }

    /// Opens it as the head of the steward whose link's secret this is: checks that the owner signed it.
    ///
    /// # Errors
    /// As [`Head::open_read`].
    pub fn open_steward(&self, steward: &StewardSecret) -> Result<StewardBody, HeadError> {
        let plain = self.open(&StewardKeys::derive(steward).seal)?;
        let body = decode_steward(&plain)?;
        check_commitment(steward, &body, &self.public_key)?;
        Ok(body)
    }

    /// Makes the head of a steward's overlay; `key` is his steward key.
    ///
    /// # Errors
    /// As [`Head::create_table`].
    pub fn create_overlay(
        table: &TableSecret,
        key: &ed25519_dalek::SigningKey,
        order: HeadOrder,
        body: &OverlayBody,
    ) -> Result<Self, HeadError> {
        let keys = OverlayKeys::derive(table, &key.verifying_key().to_bytes());
        Self::create(&keys.seal, key, order, encode_overlay(body)?)
    }

    /// Opens it as the overlay head of the steward with this public key, under the table secret.
    ///
    /// # Errors
    /// As [`Head::open_table`].
    pub fn open_overlay(&self, table: &TableSecret, steward: &[u8; 32]) -> Result<OverlayBody, HeadError> {
        if self.public_key != *steward {
            return Err(HeadError::OtherKey);
        }
        let plain = self.open(&OverlayKeys::derive(table, steward).seal)?;
        decode_overlay(&plain)
    }
}

fn check_commitment(steward: &StewardSecret, body: &StewardBody, public_key: &[u8; 32]) -> Result<(), HeadError> {
    if StewardSecret::commit(&body.opening, public_key) == *steward { Ok(()) } else { Err(HeadError::NotCommitted) }
}

fn check_grants(grants: Option<&CountedTree>) -> Result<(), DocumentError> {
    let Some(grants) = grants else { return Ok(()) };
    grants.check()?;
    grants.root.check_absolute("the grants in a head")
}

pub(super) fn encode_steward(body: &StewardBody) -> Result<Zeroizing<Vec<u8>>, HeadError> {
    body.table.root().check()?;
    check_grants(body.grants.as_ref())?;
    let mut writer = begin(KIND_STEWARD);
    writer.raw(body.opening.expose());
    writer.raw(body.table_secret.expose());
    writer.raw(body.mask_secret.expose());
    writer.raw(body.read_locator.expose());
    writer.raw(&body.read_head_key);
    writer.raw(&body.table_head_key);
    body.table.write(&mut writer);
    writer.option(body.grants.as_ref(), |writer, grants| writer.raw(&grants.to_bytes()));
    writer.u64(body.created.as_unix_ms());
    body.extensions.write(&mut writer);
    Ok(Zeroizing::new(writer.into_bytes()))
}

pub(super) fn decode_steward(plain: &[u8]) -> Result<StewardBody, HeadError> {
    let mut reader = Reader::new(plain);
    expect_kind(&mut reader, KIND_STEWARD)?;
    let body = StewardBody {
        opening: StewardOpening::new(reader.array("the steward's opening")?),
        table_secret: TableSecret::new(reader.array("the table secret")?),
        mask_secret: MaskSecret::new(reader.array("the mask secret")?),
        read_locator: LocatorSecret::new(reader.array("the read head's locator")?),
        read_head_key: reader.array("the read head's key")?,
        table_head_key: reader.array("the table head's key")?,
        table: TableLocation::read(&mut reader)?,
        grants: reader.option("the grants", CountedTree::read)?,
        created: Timestamp::from_unix_ms(reader.u64("the time of creation")?),
        extensions: Extensions::read(&mut reader)?,
    };
    reader.finish()?;
    check_grants(body.grants.as_ref())?;
    Ok(body)
}

fn encode_overlay(body: &OverlayBody) -> Result<Zeroizing<Vec<u8>>, HeadError> {
    body.location.root().check()?;
    let mut writer = begin(KIND_OVERLAY);
    body.location.write(&mut writer);
    body.extensions.write(&mut writer);
    Ok(Zeroizing::new(writer.into_bytes()))
}

fn decode_overlay(plain: &[u8]) -> Result<OverlayBody, HeadError> {
    let mut reader = Reader::new(plain);
    expect_kind(&mut reader, KIND_OVERLAY)?;
    let body = OverlayBody { location: TableLocation::read(&mut reader)?, extensions: Extensions::read(&mut reader)? };
    reader.finish()?;
    Ok(body)
}

/// A head that names stewards among its extensions.
pub trait NamesStewards {
    /// The key of the extension.
    const EXTENSION: u16;
}

impl NamesStewards for super::ReadBody {
    const EXTENSION: u16 = READ_EXTENSION_STEWARDS;
}

impl NamesStewards for super::TableBody {
    const EXTENSION: u16 = TABLE_EXTENSION_STEWARDS;
}

/// The stewards that a read head or a table head names among its extensions, ascending; none when it names none.
///
/// # Errors
/// [`DocumentError`] when the extension does not have its form.
pub fn named_stewards<B: NamesStewards>(extensions: &Extensions) -> Result<Vec<[u8; 32]>, DocumentError> {
    let Some(value) = extensions.get(B::EXTENSION) else { return Ok(Vec::new()) };
    let mut reader = Reader::new(value);
    let count = usize::from(reader.u8("stewards")?);
    check_limit(count, HEAD_STEWARDS_MAX, "stewards of a head")?;
    let stewards = (0..count).map(|_| reader.array("a steward's key")).collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    check_ascending(stewards.iter(), "stewards")?;
    Ok(stewards)
}

/// These extensions of a head, naming the first of these stewards, who are ascending.
///
/// # Errors
/// [`DocumentError`] when the stewards are out of order or there is no room.
pub fn with_named_stewards<B: NamesStewards>(
    mut extensions: Extensions,
    stewards: &[[u8; 32]],
) -> Result<Extensions, DocumentError> {
    check_ascending(stewards.iter(), "stewards")?;
    let stewards = &stewards[..stewards.len().min(HEAD_STEWARDS_MAX)];
    if stewards.is_empty() {
        extensions.take(B::EXTENSION);
        return Ok(extensions);
    }
    let mut writer = Writer::new();
    writer.count8(stewards.len());
    stewards.iter().for_each(|key| writer.raw(key));
    extensions.insert(B::EXTENSION, writer.into_bytes())?;
    Ok(extensions)
}
