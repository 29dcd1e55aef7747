//! Heads over a network in memory: what nodes do to them, and what the client says of it.

use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Head, HeadOrder, Holder, PlacedSegment, ReadBody, TableBody, TableLocation};
use dolmen_proto::heads::{HeadVersion, HeadWriteOutcome};
use dolmen_proto::ids::{SegmentId, ShardRoot, SnapshotId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadKeys, VaultSecret};
use dolmen_proto::limits::{HEAD_NODES_PER_POINT, HEAD_WRITE_QUORUM};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::policy::Policy;
use dolmen_proto::seal::ChunkKey;
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::tree::BlobPointer;

use super::write::Write;
use super::*;
use crate::error::{ClientError, ErrorKind};
use crate::network::memory::{Handle, Manner, Memory};
use crate::state::{SeenHeads, State};

/// Some nodes, and a dataset with its heads.
struct World {
    network: Arc<Memory>,
    nodes: Nodes,
    keys: DatasetKeys,
    locator: LocatorSecret,
}

impl World {
    fn new(count: u8) -> Self {
        let network = Memory::new(count);
        let keys = DatasetKeys::derive(&VaultSecret::new([1; 32]), 0);
        let locator = ReadKeys::derive(&keys.read).locator;
        Self { nodes: Nodes::new(Arc::new(Handle(Arc::clone(&network))), &Default::default()), network, keys, locator }
    }

    /// The head that follows; `mark` is what tells its body from others.
    fn head(&self, current: Option<&Head>, mark: u8) -> Head {
        Head::create_read(&self.keys.read, &self.keys.read_head, HeadOrder::after(current), &body(&self.keys, mark))
            .unwrap()
    }

    /// Another owner's head, put where this dataset's heads lie.
    fn foreign_head(&self) -> Head {
        let keys = DatasetKeys::derive(&VaultSecret::new([2; 32]), 0);
        Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &body(&keys, 0)).unwrap()
    }

    async fn publish(&self, head: &Head) -> Result<(), ClientError> {
        publish(&self.nodes, &self.locator, head, self.until(), None).await
    }

    fn until(&self) -> Timestamp {
        self.nodes.now().after(Duration::from_secs(86_400))
    }

    /// The mark of the head that is read.
    async fn read(&self) -> Result<u8, ClientError> {
        self.read_by(LinkSecret::ReadLive(self.keys.read.clone())).await
    }

    async fn read_frozen(&self) -> Result<u8, ClientError> {
        self.read_by(LinkSecret::ReadFrozen(self.keys.read.clone())).await
    }

    async fn read_by(&self, secret: LinkSecret) -> Result<u8, ClientError> {
        let link = Link::new(secret, Vec::new()).unwrap();
        read(&self.nodes, &link, None).await.map(|(_, body)| body.snapshot_id.as_bytes()[0])
    }

    fn points(&self) -> Vec<Point> {
        points(&self.locator)
    }

    async fn places(&self) -> Vec<Vec<NodeId>> {
        places(&self.nodes, &self.points(), None).await.0
    }

    /// Plants a head at every named node of these points.
    async fn plant(&self, at: impl Iterator<Item = usize>, head: &Head) {
        let (points, places) = (self.points(), self.places().await);
        for number in at {
            for node in &places[number] {
                self.network.plant(*node, points[number], head);
            }
        }
    }

    /// At how many points this head lies.
    fn reached(&self, head: &Head) -> usize {
        let has = |point: &Point| self.network.heads_at(*point).values().flatten().any(|bytes| bytes == head.bytes());
        self.points().iter().filter(|point| has(point)).count()
    }
}

/// A table head of this place in the order.
pub(crate) fn table_head(keys: &DatasetKeys, order: HeadOrder) -> Head {
    let body = TableBody { location: body(keys, 0).table, extensions: Extensions::default() };
    Head::create_table(&keys.table, &keys.table_head, order, &body).unwrap()
}

/// A read head of this place in the order.
pub(crate) fn read_head(keys: &DatasetKeys, order: HeadOrder) -> Head {
    Head::create_read(&keys.read, &keys.read_head, order, &body(keys, 0)).unwrap()
}

fn body(keys: &DatasetKeys, mark: u8) -> ReadBody {
    let holders = (0..2).map(|shard| Holder { root: ShardRoot::new([shard; 32]), node: None }).collect();
    let geometry = Geometry::for_payload(Policy::new(1, 2).unwrap(), 9000).unwrap();
    let segment = PlacedSegment::new(geometry, SegmentNonce::new([3; 32]), holders).unwrap();
    ReadBody {
        read_opening: keys.read_opening.clone(),
        table_secret: keys.table.clone(),
        mask_secret: keys.mask.clone(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        table: TableLocation { segment, key: ChunkKey::new([4; 32]), offset: 0, length: 500 },
        snapshot: BlobPointer { key: ChunkKey::new([5; 32]), segment: SegmentId::new([6; 32]), offset: 0, length: 300 },
        snapshot_id: SnapshotId::new([mark; 32]),
        created: Timestamp::from_unix_ms(1_790_000_000_000),
        history: None,
        owner_note: None,
        extensions: Extensions::default(),
    }
}

#[tokio::test]
async fn a_head_lies_on_the_three_nearest_of_every_point_and_the_newest_is_read() {
    let world = World::new(20);
    let first = world.head(None, 1);
    world.publish(&first).await.unwrap();
    for (point, named) in world.points().into_iter().zip(world.places().await) {
        assert_eq!(named.len(), HEAD_NAMED_PER_POINT);
        let holders: Vec<_> = world.network.heads_at(point).into_keys().collect();
        let mut nearest = named[..HEAD_NODES_PER_POINT].to_vec();
        nearest.sort_unstable();
        assert_eq!(holders, nearest);
    }
    assert_eq!(world.read().await, Ok(1));
    let second = world.head(Some(&first), 2);
    world.publish(&second).await.unwrap();
    assert_eq!(world.read().await, Ok(2));
    // The same head again, as a put does that was cut off.
    world.publish(&second).await.unwrap();
    assert_eq!(world.read().await, Ok(2));
}

#[tokio::test]
async fn a_network_known_whole_and_one_looked_up_name_the_same_nodes() {
    let world = World::new(12);
    let whole: WholeNetwork = world.nodes.sample(12).await.iter().map(|record| (record.node, None)).collect();
    let HeadPlaces(known) = places(&world.nodes, &world.points(), Some(&whole)).await;
    assert_eq!(known, world.places().await);
    let head = world.head(None, 1);
    publish(&world.nodes, &world.locator, &head, world.until(), Some(&whole)).await.unwrap();
    assert_eq!(world.read().await, Ok(1));
}

#[tokio::test]
async fn stand_ins_take_a_head_for_dead_and_full_nodes_and_readers_find_it_there() {
    for manner in [Manner::Dead, Manner::Full] {
        let world = World::new(16);
        // Every node that is to hold the head at five points, so that no quorum is left without others.
        let places = world.places().await;
        let bad: std::collections::BTreeSet<NodeId> =
            places.iter().take(5).flat_map(|named| &named[..HEAD_NODES_PER_POINT]).copied().collect();
        let standing_in = |named: &Vec<NodeId>| named.iter().any(|node| !bad.contains(node));
        assert!(places.iter().filter(|named| standing_in(named)).count() >= HEAD_WRITE_QUORUM, "chosen well");
        world.network.these_behave(bad.iter().copied(), manner);
        let head = world.head(None, 1);
        world.publish(&head).await.unwrap();
        assert!(world.reached(&head) >= HEAD_WRITE_QUORUM, "{manner:?}");
        assert_eq!(world.read().await, Ok(1), "{manner:?}");
        // Those that come back have none and hide nothing.
        world.network.all_behave(Manner::Honest);
        assert_eq!(world.read().await, Ok(1), "{manner:?}");
    }
}

#[tokio::test]
async fn a_write_that_reached_too_few_points_is_repeated_once_with_the_same_head() {
    let world = World::new(8);
    world.network.all_behave(Manner::Hesitant);
    let head = world.head(None, 1);
    world.publish(&head).await.unwrap();
    assert_eq!(world.reached(&head), HEAD_POINTS);

    world.network.all_behave(Manner::Full);
    let error = world.publish(&world.head(Some(&head), 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow);
    assert!(error.what().contains("0 of 8") && error.what().contains('5'), "both numbers are named: {}", error.what());
    assert!(error.why().contains("full") && !error.advice().is_empty(), "{error}");
    assert_eq!(world.read().await, Ok(1), "what was written before is read");
}

#[tokio::test]
async fn a_network_without_nodes_is_named_so() {
    let world = World::new(0);
    let error = world.publish(&world.head(None, 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.why()), (ErrorKind::NotNow, "no node was found there"));
    assert_eq!(world.read().await.unwrap_err().kind(), ErrorKind::NotNow);
}

#[tokio::test]
async fn a_head_that_loses_to_one_that_lies_there_is_a_conflict() {
    let world = World::new(10);
    let first = world.head(None, 1);
    world.publish(&first).await.unwrap();
    let mut rivals = [world.head(Some(&first), 3), world.head(Some(&first), 4)];
    rivals.sort_by_key(|head| HeadVersion::from(head));
    let [loser, winner] = rivals;
    world.publish(&winner).await.unwrap();
    assert_eq!(world.publish(&loser).await.unwrap_err().kind(), ErrorKind::Conflict, "a fork that loses");
    assert_eq!(world.publish(&first).await.unwrap_err().kind(), ErrorKind::Conflict, "an older one");

    let world = World::new(20);
    world.plant(6..7, &winner).await;
    assert_eq!(world.publish(&loser).await.unwrap_err().kind(), ErrorKind::Conflict, "one point is enough to tell");
}

#[tokio::test]
async fn old_heads_at_points_hide_no_newer_one() {
    let world = World::new(20);
    let old = world.head(None, 1);
    let new = world.head(Some(&old), 2);
    world.plant(0..8, &old).await;
    // A write that reached its quorum and no more: of any four points one has it.
    world.plant(3..8, &new).await;
    assert_eq!(world.read().await, Ok(2));
    assert_eq!(world.read_frozen().await, Ok(1), "the first head is the only one for a frozen link");
    // The nodes of one point alone are enough.
    let world = World::new(20);
    world.plant(0..7, &old).await;
    world.plant(7..8, &new).await;
    assert_eq!(world.read().await, Ok(2));
}

#[tokio::test]
async fn a_frozen_link_to_changed_heads_alone_is_refused() {
    let world = World::new(6);
    world.publish(&world.head(Some(&world.head(None, 1)), 2)).await.unwrap();
    assert_eq!(world.read().await, Ok(2));
    let error = world.read_frozen().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.why().contains("changed since"), "{error}");
}

#[tokio::test]
async fn squatters_at_a_point_neither_keep_a_head_out_nor_pass_for_one() {
    let world = World::new(20);
    world.plant(0..8, &world.foreign_head()).await;
    let error = world.read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "others' heads are none: {error}");
    assert!(!error.what().is_empty() && !error.why().is_empty() && !error.advice().is_empty());
    let head = world.head(None, 1);
    world.publish(&head).await.unwrap();
    assert_eq!(world.reached(&head), HEAD_POINTS);
    assert_eq!(world.read().await, Ok(1));
    assert_eq!(world.read_frozen().await, Ok(1));
}

#[tokio::test]
async fn forged_bytes_are_no_news_and_no_denial() {
    let world = World::new(9);
    let head = world.head(None, 1);
    world.publish(&head).await.unwrap();
    world.network.behave(6, Manner::Lying);
    assert_eq!(world.read().await, Ok(1));
    // Stand-ins too, which would else say truly that they have none.
    world.plant(0..8, &head).await;
    world.network.all_behave(Manner::Lying);
    let error = world.read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow, "whoever answers with rubbish denies nothing");
}

#[tokio::test]
async fn nodes_that_forget_a_head_at_once_are_outweighed() {
    let world = World::new(20);
    let careless: Vec<NodeId> = world.places().await.iter().map(|named| named[0]).collect();
    world.network.these_behave(careless, Manner::Careless);
    world.publish(&world.head(None, 1)).await.unwrap();
    assert_eq!(world.read().await, Ok(1));
}

#[tokio::test]
async fn no_answer_is_not_the_answer_that_there_is_nothing() {
    let world = World::new(9);
    assert_eq!(world.read().await.unwrap_err().kind(), ErrorKind::NotFound);
    world.network.all_behave(Manner::Dead);
    let error = world.read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow);
    assert!(error.why().contains("0 of 8"), "{error}");
}

/// The memory of a client, and what it is kept in.
fn memory() -> (tempfile::TempDir, SeenHeads) {
    let folder = tempfile::tempdir().unwrap();
    let seen = State::open(folder.path()).unwrap().seen_heads();
    (folder, seen)
}

#[tokio::test]
async fn an_older_head_than_one_seen_before_is_refused_by_name_wherever_it_lies() {
    let world = World::new(20);
    let old = world.head(None, 1);
    let new = world.head(Some(&old), 2);
    world.plant(0..8, &old).await;
    let link = Link::new(LinkSecret::ReadLive(world.keys.read.clone()), Vec::new()).unwrap();
    let (_folder, seen) = memory();
    let read = async || read(&world.nodes, &link, Some(&seen)).await.map(|(version, _)| version);
    assert_eq!(read().await, Ok(HeadVersion::from(&old)));
    assert_eq!(read().await, Ok(HeadVersion::from(&old)), "the one that was seen is no older one");
    world.plant(7..8, &new).await;
    assert_eq!(read().await, Ok(HeadVersion::from(&new)));
    // Another client sees what nodes show; this one remembers.
    world.plant(7..8, &old).await;
    assert_eq!(world.read().await, Ok(1));
    let error = read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow);
    assert!(error.why().contains("number 2 was seen") && error.why().contains("number 1"), "{error}");
    assert_eq!(world.read_frozen().await, Ok(1), "a frozen link is to the first head, whatever came after");
    world.plant(3..4, &new).await;
    assert_eq!(read().await, Ok(HeadVersion::from(&new)));
}

/// Two heads of one sequence, the one that loses first.
fn rivals(world: &World) -> [Head; 2] {
    let first = world.head(None, 1);
    let mut rivals = [world.head(Some(&first), 3), world.head(Some(&first), 4)];
    rivals.sort_by_key(|head| HeadVersion::from(head));
    rivals
}

#[tokio::test]
async fn a_rival_that_a_head_displaces_is_brought_home() {
    let world = World::new(10);
    let [loser, winner] = rivals(&world);
    world.publish(&loser).await.unwrap();
    let writing = Write::new(&world.nodes, &world.locator, &winner, world.until());
    let HeadWriteOutcome::Written { certain, forks, .. } = writing.run(None).await.unwrap() else {
        panic!("not written")
    };
    assert_eq!((certain, forks), (true, vec![HeadVersion::from(&loser)]), "whoever wins is told of the fork");

    let world = World::new(10);
    world.publish(&loser).await.unwrap();
    let published = write(&world.nodes, &world.locator, &winner, world.until(), None).await.unwrap();
    let Published::Written { forks } = published else { panic!("it wins") };
    assert_eq!(forks, std::slice::from_ref(&loser));
    let published = write(&world.nodes, &world.locator, &loser, world.until(), None).await.unwrap();
    assert!(matches!(published, Published::Superseded));
}

#[tokio::test]
async fn a_reader_is_shown_forks_and_puts_the_newest_where_it_is_missing() {
    let world = World::new(20);
    let [loser, winner] = rivals(&world);
    world.plant(0..3, &loser).await;
    world.plant(3..8, &winner).await;
    let wanted = Wanted::of_owner(&world.keys.read).unwrap();
    let found = find(&world.nodes, &wanted, None).await.unwrap();
    assert_eq!(found.head, winner);
    assert_eq!(found.forks.iter().map(|(head, _)| head).collect::<Vec<_>>(), [&loser]);
    found.put_again(&world.nodes, world.until()).await;
    assert_eq!(world.reached(&winner), HEAD_POINTS);
    let again = find(&world.nodes, &wanted, None).await.unwrap();
    assert!(again.forks.is_empty() && again.stale.is_empty());
}
