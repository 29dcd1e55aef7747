//! Leases and heads, renewed long before they end.
//!
//! Decides what is due: what is under half of a lease, by what nodes said at the last look. What the nodes sign then is kept as
//! evidence; for shards of which there is none it is asked for at once, without making their leases longer.

use std::collections::BTreeSet;

use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};
use dolmen_proto::limits::{LEASE_DEFAULT, ROOTS_PER_CALL_MAX};

use super::dataset::Cared;
use crate::error::ClientError;
use crate::steward::Authority;

const HEADS_AT: &str = "heads";
/// Shards of one node for which a receipt is asked for in one round.
const BARE_MAX: usize = 16 * ROOTS_PER_CALL_MAX;
const DAY_MS: u64 = 24 * 3_600_000;

/// What a round of renewals came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Renewed {
    /// Shards whose leases were under half.
    pub(super) due: u64,
    /// Of them, those that were renewed.
    pub(super) renewed: u64,
    /// Heads that were put again.
    pub(super) heads: u64,
    /// The earliest end of a lease that is known, in milliseconds since the epoch; 0: none is.
    pub(super) earliest_ms: u64,
}

/// Renews what is due, and puts heads again once a day.
///
/// # Errors
/// `Local`; what nodes refuse is tried again in the next round.
pub(super) async fn renew(cared: &Cared) -> Result<Renewed, ClientError> {
    let now = cared.steward.nodes().now();
    let half = now.after(LEASE_DEFAULT / 2);
    let until = now.after(LEASE_DEFAULT);
    let mut sum = Renewed::default();
    for node in cared.state.nodes_of(&cared.tag)? {
        let (mut due, mut bare): (Vec<ShardRoot>, Vec<(ShardRoot, u64)>) = Default::default();
        for known in cared.state.shards_of(&cared.tag, &node)? {
            let known = known?;
            if known.until_ms == 0 {
                continue;
            }
            if known.until_ms < half.as_unix_ms() {
                due.push(known.shard.root);
            } else if known.receipt == 0 && bare.len() < BARE_MAX {
                bare.push((known.shard.root, known.until_ms));
            }
            sum.earliest_ms = if sum.earliest_ms == 0 { known.until_ms } else { sum.earliest_ms.min(known.until_ms) };
        }
        sum.due += due.len() as u64;
        sum.renewed += renew_at(cared, node, &due, until).await?;
        ask_receipts(cared, node, &bare, now).await?;
    }
    if now.as_unix_ms().saturating_sub(cared.state.mark(&cared.tag, HEADS_AT)?) >= DAY_MS {
        sum.heads = cared.steward.put_heads_again(until).await as u64;
        if let Err(error) = cared.steward.renew_own(until).await {
            tracing::info!(what = error.what(), why = error.why(), "the overlay's own leases were not renewed");
        }
        if sum.heads > 0 {
            cared.state.set_marks(&cared.tag, &[(HEADS_AT, now.as_unix_ms())])?;
        }
    }
    Ok(sum)
}

/// Has a node sign that it holds what it holds up to when it said that it does. Where nothing comes of it, not again for a day.
async fn ask_receipts(
    cared: &Cared,
    node: NodeId,
    bare: &[(ShardRoot, u64)],
    now: Timestamp,
) -> Result<(), ClientError> {
    let name = format!("receipts {}", node.short());
    if bare.is_empty() || now.as_unix_ms().saturating_sub(cared.state.mark(&cared.tag, &name)?) < DAY_MS {
        return Ok(());
    }
    let mut any = false;
    for batch in bare.chunks(ROOTS_PER_CALL_MAX) {
        let earliest = batch.iter().map(|(_, until_ms)| *until_ms).min().unwrap_or(0);
        let roots: Vec<ShardRoot> = batch.iter().map(|(root, _)| *root).collect();
        for authority in [Authority::Owner, Authority::Steward] {
            let until = Timestamp::from_unix_ms(earliest);
            match cared.steward.renew(authority, node, &roots, until, ROOTS_PER_CALL_MAX).await {
                Ok((_, receipts)) => {
                    any |= !receipts.is_empty();
                    cared.state.keep_renewals(&cared.tag, &node, receipts)?;
                }
                Err(fault) => tracing::debug!(node = %node.short(), %fault, "a node gives no receipts"),
            }
        }
    }
    if any { Ok(()) } else { cared.state.set_marks(&cared.tag, &[(name.as_str(), now.as_unix_ms())]) }
}

/// In the owner's name as far as his grant goes, then in the steward's own.
async fn renew_at(cared: &Cared, node: NodeId, due: &[ShardRoot], until: Timestamp) -> Result<u64, ClientError> {
    let mut left: BTreeSet<ShardRoot> = due.iter().copied().collect();
    for authority in [Authority::Owner, Authority::Steward] {
        let roots: Vec<ShardRoot> = left.iter().copied().collect();
        for batch in roots.chunks(ROOTS_PER_CALL_MAX) {
            let until = match authority {
                Authority::Owner => cared.steward.grant(node).map_or(until, |grant| until.min(grant.until)),
                Authority::Steward => until,
            };
            match cared.steward.renew(authority, node, batch, until, ROOTS_PER_CALL_MAX).await {
                Ok((done, receipts)) => {
                    let done: Vec<(ShardRoot, Timestamp)> =
                        batch.iter().zip(done).filter(|(_, done)| *done).map(|(root, _)| (*root, until)).collect();
                    done.iter().for_each(|(root, _)| {
                        left.remove(root);
                    });
                    cared.state.leased(&cared.tag, &node, &done)?;
                    cared.state.keep_renewals(&cared.tag, &node, receipts)?;
                }
                Err(fault) => tracing::debug!(node = %node.short(), %fault, "leases were not renewed"),
            }
        }
    }
    Ok((due.len() - left.len()) as u64)
}
