//! What the head of a view says: a folder, a file or one snapshot of a dataset as a snapshot of its own, with a table of its own.
//!
//! Decides that a view is a snapshot re-rooted, so that every reader of snapshots reads views. Never decides what a view shows:
//! `docs/decisions/0006-views-are-re-rooted-snapshots.md`.

use zeroize::Zeroizing;

use super::body::{TableLocation, begin, expect_kind};
use super::{Head, HeadError, HeadOrder};
use crate::codec::{Extensions, Reader};
use crate::ids::{SnapshotId, Timestamp};
use crate::keys::{MaskKey, ViewKeys, ViewOpening, ViewSecret};
use crate::tree::BlobPointer;

const KIND_VIEW: u8 = 3;

/// What a view's head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewBody {
    /// Opens the commitment that the view link's secret is.
    pub opening: ViewOpening,
    /// Unmasks the parity shards of the segment that the table's root lies in; those of all others stand in the table's rows.
    pub table_mask: MaskKey,
    /// Where the view's own table lies, which names no segment that the view does not touch.
    pub table: TableLocation,
    /// The root blob of a snapshot made for the view; never a self pointer.
    pub snapshot: BlobPointer,
    /// The id of that snapshot.
    pub snapshot_id: SnapshotId,
    /// When the view was last published, by its writer's clock.
    pub created: Timestamp,
    /// Fields of later releases.
    pub extensions: Extensions,
}

impl Head {
    /// Makes the head of a view; `key` is the one that the view secret commits to.
    ///
    /// # Errors
    /// [`HeadError::NotCommitted`] when key and opening are not those of `view`; [`HeadError::Sequence`],
    /// [`HeadError::Body`] or [`HeadError::Codec`] when order or body cannot be written.
    pub fn create_view(
        view: &ViewSecret,
        key: &ed25519_dalek::SigningKey,
        order: HeadOrder,
        body: &ViewBody,
    ) -> Result<Self, HeadError> {
        check_commitment(view, body, &key.verifying_key().to_bytes())?;
        Self::create(&ViewKeys::derive(view).seal, key, order, encode(body)?)
    }

    /// Opens it as the head of the view whose link's secret this is: checks that the owner signed it.
    ///
    /// # Errors
    /// As [`Head::open_read`].
    pub fn open_view(&self, view: &ViewSecret) -> Result<ViewBody, HeadError> {
        let plain = self.open(&ViewKeys::derive(view).seal)?;
        let body = decode(&plain)?;
        check_commitment(view, &body, &self.public_key)?;
        Ok(body)
    }
}

fn check_commitment(view: &ViewSecret, body: &ViewBody, public_key: &[u8; 32]) -> Result<(), HeadError> {
    if ViewSecret::commit(&body.opening, public_key) == *view { Ok(()) } else { Err(HeadError::NotCommitted) }
}

pub(super) fn encode(body: &ViewBody) -> Result<Zeroizing<Vec<u8>>, HeadError> {
    body.table.root().check()?;
    body.snapshot.check()?;
    body.snapshot.check_absolute("the snapshot in a head")?;
    let mut writer = begin(KIND_VIEW);
    writer.raw(body.opening.expose());
    writer.raw(body.table_mask.expose());
    body.table.write(&mut writer);
    body.snapshot.write(&mut writer);
    writer.raw(body.snapshot_id.as_bytes());
    writer.u64(body.created.as_unix_ms());
    body.extensions.write(&mut writer);
    Ok(Zeroizing::new(writer.into_bytes()))
}

pub(super) fn decode(plain: &[u8]) -> Result<ViewBody, HeadError> {
    let mut reader = Reader::new(plain);
    expect_kind(&mut reader, KIND_VIEW)?;
    let body = ViewBody {
        opening: ViewOpening::new(reader.array("the view's opening")?),
        table_mask: MaskKey::new(reader.array("a mask key")?),
        table: TableLocation::read(&mut reader)?,
        snapshot: BlobPointer::read(&mut reader)?,
        snapshot_id: SnapshotId::new(reader.array("the snapshot's id")?),
        created: Timestamp::from_unix_ms(reader.u64("the time of creation")?),
        extensions: Extensions::read(&mut reader)?,
    };
    reader.finish()?;
    body.snapshot.check_absolute("the snapshot in a head")?;
    Ok(body)
}
