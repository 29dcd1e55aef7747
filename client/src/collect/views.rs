//! What shares need beyond the dataset's own snapshots.
//!
//! Decides which segments must stay where they are: the head of a view names them without the dataset's table, so nothing
//! that moved can be forwarded to its reader until the view is published anew.

use std::collections::BTreeSet;
use std::time::Duration;

use dolmen_proto::collect::Marks;
use dolmen_proto::ids::{SegmentId, Timestamp};
use dolmen_proto::ledger::Share;

use super::mark;
use crate::commit::{Owner, State, share_link};
use crate::error::{ClientError, ErrorKind};
use crate::read::Dataset;

/// What an ended share needs is kept so long after its end: readers may have seen its head.
const KEPT_AFTER_END: Duration = Duration::from_secs(30 * 86_400);

/// Marks what shares need, and gives the segments that have to stay as they are.
///
/// # Errors
/// `NotNow` or `Damaged` when a share's head or table cannot be read: then nothing may be collected.
pub(super) async fn needed(
    owner: &Owner,
    base: &State,
    now: Timestamp,
    marks: &mut Marks,
) -> Result<BTreeSet<SegmentId>, ClientError> {
    let mut pinned = BTreeSet::new();
    for share in base.ledger.shares.iter().filter(|share| counts(share, now)) {
        let link = share_link(&owner.keys(0), share.number, &[])?;
        let view = match Dataset::open(&owner.client.reading(), &link, false).await {
            // Its head was never published, or its lease is over.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            view => view?,
        };
        let table = view.table();
        pinned.insert(view.table_location().segment.id());
        pinned.extend(table.further.iter().map(dolmen_proto::table::SegmentRow::id));
        mark::snapshot(&view, view.root(), marks).await?;
        let forgotten = share.snapshot.is_some_and(|id| !base.rows.iter().any(|row| row.id == id));
        if forgotten || share.ended.is_some() {
            // It is not published anew any more.
            let mut rows = view.rows();
            while let Some(batch) = view.next_rows_seen(&mut rows, |_, _| {}).await? {
                pinned.extend(batch.iter().map(dolmen_proto::table::SegmentRow::id));
            }
        }
    }
    Ok(pinned)
}

fn counts(share: &Share, now: Timestamp) -> bool {
    share.ended.is_none_or(|ended| ended.after(KEPT_AFTER_END) > now)
}
