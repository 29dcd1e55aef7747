//! Puts the heads that this node holds again to the nodes that are now nearest to their points, once a day.
//!
//! Decides who gets a head again and how gently. Never decides which head is newer: the others' compare-and-set does,
//! and a newer one that comes back in an answer is kept here by the same rule.

use std::sync::Arc;
use std::time::Duration;

use dolmen_net::directory::Directory;
use dolmen_net::{DataClient, NodeAddress, Payload};
use dolmen_proto::ids::{NodeId, Point};
use dolmen_proto::limits::HEAD_NODES_PER_POINT;
use dolmen_proto::wire::{NodeRecord, PutHeadRequest, Reply, Request};

use crate::disk::Disk;
use crate::serve::wall_clock;
use crate::service::Service;
use crate::store::StoredHead;

/// How long one round over all heads takes at least: each head is put again once in this time.
pub(crate) const ROUND: Duration = Duration::from_secs(86_400);
/// Nodes looked at for each point, so that distinct operators can be chosen among them.
const CANDIDATES: usize = 12;
/// Heads are few; still never more than one in this time.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Goes once over all heads, spread over `span` with a random part in every pause. Returns how many puts were taken.
pub(crate) async fn round<D: Disk>(
    service: &Arc<Service<D>>,
    directory: &Directory,
    client: &DataClient,
    span: Duration,
) -> u64 {
    let heads = service.store().usage().heads;
    let pause = (span / u32::try_from(heads.max(1)).unwrap_or(u32::MAX)).max(PAUSE_MIN);
    let (mut after, mut taken) = (None, 0);
    loop {
        let reader = Arc::clone(service);
        let page = tokio::task::spawn_blocking(move || reader.heads_page(after)).await;
        let page = match page {
            Ok(Ok(page)) if !page.is_empty() => page,
            Ok(Ok(_)) => return taken,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the heads cannot be read");
                return taken;
            }
            Err(_) => return taken,
        };
        after = page.last().map(|head| (head.point, head.key));
        for head in page {
            tokio::time::sleep(jittered(pause)).await;
            if head.until > wall_clock() {
                taken += put_again(service, directory, client, head).await;
            }
        }
    }
}

/// Puts one head to the nodes nearest to its point; those that have a newer one give it back.
async fn put_again<D: Disk>(
    service: &Arc<Service<D>>,
    directory: &Directory,
    client: &DataClient,
    head: StoredHead,
) -> u64 {
    let candidates = directory.nearest(head.point, CANDIDATES).await;
    let mut taken = 0;
    for record in distinct_operators(candidates, service.node(), HEAD_NODES_PER_POINT) {
        let node = NodeAddress { id: record.node, addresses: record.data_addresses };
        let put = PutHeadRequest { point: head.point, head: head.bytes.clone(), until: head.until };
        match client.call(&node, Request::PutHead(put), Payload::none()).await {
            Ok(response) => {
                let Reply::PutHead(answer) = response.reply else { continue };
                taken += u64::from(answer.accepted);
                if let (false, Some(newer)) = (answer.accepted, answer.current) {
                    keep_newer(service, head.point, newer, head.until).await;
                }
            }
            Err(error) => tracing::debug!(node = %node.id.short(), %error, "a head could not be put again"),
        }
    }
    taken
}

async fn keep_newer<D: Disk>(
    service: &Arc<Service<D>>,
    point: Point,
    head: bytes::Bytes,
    until: dolmen_proto::ids::Timestamp,
) {
    let service = Arc::clone(service);
    let put = Request::PutHead(PutHeadRequest { point, head, until });
    let kept = tokio::task::spawn_blocking(move || service.answer(&put, wall_clock(), None)).await;
    if let Ok(Reply::Error(error)) = kept {
        tracing::debug!(%error, "a newer head that a peer gave back was not kept");
    }
}

/// The first `count` nodes but for this one, in their order, operators not repeated while there are others.
fn distinct_operators(candidates: Vec<NodeRecord>, own: NodeId, count: usize) -> Vec<NodeRecord> {
    let mut chosen: Vec<NodeRecord> = Vec::new();
    let mut spare = Vec::new();
    for record in candidates.into_iter().filter(|record| record.node != own) {
        let operator = record.operator_id();
        if operator.is_some() && chosen.iter().any(|other| other.operator_id() == operator) {
            spare.push(record);
        } else {
            chosen.push(record);
        }
    }
    chosen.into_iter().chain(spare).take(count).collect()
}

/// Between half and one and a half of `pause`, so that nodes that started together do not stay together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is a little short, no more.
    let _ = getrandom::fill(&mut random);
    pause / 2 + pause * u32::from(random[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::ids::{OperatorId, Timestamp};
    use dolmen_proto::wire::{Accepting, OperatorClaim};

    fn record(node: u8, operator: Option<u8>) -> NodeRecord {
        NodeRecord {
            node: NodeId::new([node; 32]),
            sequence: 1,
            control_addresses: Vec::new(),
            data_addresses: Vec::new(),
            operator: operator.map(|key| OperatorClaim { operator: OperatorId::new([key; 32]), signature: [0; 64] }),
            region: None,
            accepting: Accepting::All,
            free_class: 0,
            protocol_min: 1,
            protocol_max: 1,
            software: String::new(),
            issued_at: Timestamp::default(),
            expires_at: Timestamp::default(),
            successor: None,
        }
    }

    fn chosen(candidates: Vec<NodeRecord>) -> Vec<u8> {
        let own = NodeId::new([9; 32]);
        distinct_operators(candidates, own, 3).iter().map(|record| record.node.as_bytes()[0]).collect()
    }

    #[test]
    fn operators_are_spread_while_there_are_others_and_repeated_when_not() {
        let many = vec![record(1, Some(1)), record(2, Some(1)), record(3, None), record(4, None), record(5, Some(2))];
        assert_eq!(chosen(many), [1, 3, 4]);
        assert_eq!(chosen(vec![record(1, Some(1)), record(2, Some(1)), record(9, None)]), [1, 2]);
    }

    #[test]
    fn a_jittered_pause_stays_near_the_pause() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(5)..=Duration::from_secs(15)).contains(&pause), "{pause:?}");
        }
    }
}
