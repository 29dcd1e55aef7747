//! A steward's access to a dataset: what somebody does with a steward link.
//!
//! Decides how a link is opened, where the newest base table is, and how the steward's own overlay is changed. Never decides what
//! is audited, renewed or repaired: that is for whoever uses this. Nothing here can open content, because no chunk key follows
//! from what a steward has.
//!
//! # How to use it
//! ```text
//! let mut steward = Stewardship::open(&client, &link).await?;      // head, newest base table, grants
//! loop {
//!     steward.refresh().await?;                                    // newer head, table and grants, if there are any
//!     let mut walk = steward.segments()?;
//!     while let Some(batch) = steward.next_segments(&mut walk).await? {   // a blob of rows at a time, however large the table is
//!         for segment in batch {
//!             // segment.place: id, geometry, nonce, roots, holders by the base table
//!             let further = steward.holders(&segment.place).await; // places by all overlays whose receipts count, by shard
//!             // fetch k shards:  client.nodes_known().get_shard(..), unmask with steward.mask_secret()
//!             // rebuild, check the root, then:
//!             let kept = steward.put_shard(node, root, bytes, until, sent).await?;   // in the owner's name, else in his own
//!             update.set(steward.row(segment.place.id, shard, node, kept.receipt));
//!         }
//!     }
//!     steward.publish(&update, lease).await?;                             // compare-and-set, again when somebody was first
//!     let authority = steward.authority_of(node, &receipt);        // of what the base table places: Authority::Owner
//!     let (renewed, receipts) = steward.renew(authority, node, &roots, until, OVERLAY_RENEWAL_SHARDS_MAX).await?;
//!     steward.put_heads_again(until).await;                        // read, table and steward head, his own overlay's
//! }
//! ```
//! Receipts are kept bytes (`KeptReceipt`): evidence for audits, and what rows stand on. Renew what lies in the overlay with at most
//! [`OVERLAY_RENEWAL_SHARDS_MAX`](dolmen_proto::limits::OVERLAY_RENEWAL_SHARDS_MAX) roots a call and put the receipts into rows;
//! renew what the base table places with any number. [`Stewardship::renew_own`] keeps the overlay's own blobs alive.
//! Memory: the grants (at most 4,096), one blob of each tree that is walked, and the rows of one change.

mod access;
mod overlay;

pub(crate) use access::{Authority, PutShard, Segment, Segments, Stewardship};
pub(crate) use overlay::{OverlayUpdate, Row};
