//! Overlays: what readers gain from stewards, and what a malicious steward can do with every right that his link gives.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use dolmen_proto::head::{Head, HeadOrder, OverlayBody, StewardBody, TableBody};
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::keys::{OverlayKeys, ReadKeys, TableKeys};
use dolmen_proto::limits::OVERLAY_RENEWAL_SHARDS_MAX;
use dolmen_proto::seal::{ChunkKey, open_into};
use dolmen_proto::table::RowKind;
use dolmen_proto::tree::TreeItem;
use dolmen_proto::wire::{KeptReceipt, Receipt, Signed};
use ed25519_dalek::SigningKey;

use super::*;
use crate::heads::{self, Wanted};
use crate::network::memory::Manner;
use crate::put::OverlayChange;
use crate::read::{self, Place};
use crate::steward::{Authority, OverlayUpdate, Stewardship};

const QUOTA_BYTES: u64 = 1 << 40;
const LASTING: Duration = Duration::from_secs(100 * 86_400);
const LEASE: Duration = Duration::from_secs(30 * 86_400);

/// A dataset of one file, with stewards.
struct Kept {
    world: World,
    machine: Machine,
    dataset: Dataset,
    content: Vec<u8>,
}

/// A steward and the folder of his machine.
struct Helper {
    _folder: tempfile::TempDir,
    steward: Stewardship,
    link: Link,
    number: u32,
}

impl Kept {
    async fn new(nodes: u8) -> Self {
        let world = World::new(nodes);
        let machine = world.machine().await;
        let dataset = machine.create("data").await;
        let mut content = vec![0; 400_000];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        machine.put(&dataset, &[("a", &content)]).await.unwrap();
        Self { world, machine, dataset, content }
    }

    async fn steward(&self) -> Helper {
        let info = within(self.dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
        let link = Link::parse(&info.link).unwrap();
        let (folder, client) = self.world.stranger();
        let steward = within(Stewardship::open(&client, &link)).await.unwrap();
        Helper { _folder: folder, steward, link, number: info.number }
    }

    /// Reads the file on a machine that knows nothing but the link.
    async fn read(&self, link: &str) -> Result<Vec<u8>, ClientError> {
        let (_folder, client) = self.world.stranger();
        let snapshot = within(client.snapshot(link)).await?;
        let file = within(snapshot.file(b"a")).await?;
        Ok(within(file.read_range(0, self.content.len() as u64)).await?.to_vec())
    }

    async fn link(&self) -> String {
        self.dataset.read_link(&[]).await.unwrap().to_string()
    }

    /// Takes all shards of the content from all nodes; gives the bytes of the first of each segment.
    fn lose(&self, places: &[Arc<Place>]) -> Vec<Bytes> {
        let first = places.iter().map(|place| self.world.network.shard(place.roots[0])).collect();
        places.iter().flat_map(|place| &place.roots).for_each(|root| self.world.network.forget_shard(*root));
        first
    }
}

impl Helper {
    async fn refresh(&mut self) {
        within(self.steward.refresh()).await.unwrap();
    }

    /// The segments of content.
    async fn content(&self) -> Vec<Arc<Place>> {
        let mut walk = self.steward.segments().unwrap();
        let mut places = Vec::new();
        while let Some(batch) = self.steward.next_segments(&mut walk).await.unwrap() {
            places.extend(batch.into_iter().filter(|segment| segment.kind == RowKind::Content));
        }
        places.into_iter().map(|segment| segment.place).collect()
    }

    async fn put(&self, node: NodeId, root: ShardRoot, bytes: &Bytes) -> crate::steward::PutShard {
        let until = self.steward.nodes().now().after(LEASE);
        within(self.steward.put_shard(node, root, bytes.clone(), until, Arc::new(AtomicU64::new(0)))).await.unwrap()
    }

    /// Puts the first shard of every segment at a node that holds none of it, and publishes that.
    async fn rebuild(&self, places: &[Arc<Place>], first: &[Bytes]) -> Vec<NodeId> {
        let mut update = OverlayUpdate::default();
        let mut nodes = Vec::new();
        for (place, bytes) in places.iter().zip(first) {
            let node = stranger_to(place, self);
            let put = self.put(node, place.roots[0], bytes).await;
            update.set(self.steward.row(place.id, ShardIndex::new(0), node, put.receipt));
            nodes.push(node);
        }
        within(self.steward.publish(&update, LEASE)).await.unwrap();
        nodes
    }

    /// Rows of his own overlay as they are published.
    async fn rows(&self) -> Vec<crate::steward::Row> {
        let Some(overlay) = within(self.steward.own_overlay()).await.unwrap() else { return Vec::new() };
        let mut rows = Vec::new();
        if let Some(mut walk) = overlay.rows() {
            while let Some(batch) = overlay.next_rows(&mut walk, |_, _| {}).await.unwrap() {
                rows.extend(batch);
            }
        }
        rows
    }
}

/// A node with a grant that holds no shard of a segment.
fn stranger_to(place: &Place, helper: &Helper) -> NodeId {
    let granted = helper.steward.nodes();
    let mut nodes: Vec<NodeId> =
        futures::executor::block_on(granted.sample(0)).iter().map(|record| record.node).collect();
    nodes.retain(|node| !place.holders.contains(&Some(*node)) && helper.steward.grant(*node).is_some());
    nodes[0]
}

/// A receipt that anybody can write: signed with a key that is not the node's.
fn forged(node: NodeId, root: ShardRoot, length_bytes: u64, until: Timestamp) -> KeptReceipt {
    let account = dolmen_proto::ids::AccountId::new([9; 32]);
    let receipt = Receipt { node, root, length_bytes, account, until, issued_at: until };
    KeptReceipt::of_put(&Signed::sign(receipt, &SigningKey::from_bytes(&[77; 32])))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_steward_rebuilt_is_read_from_where_he_put_it_and_info_counts_it() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let link = kept.link().await;
    let places = helper.content().await;
    assert_eq!(helper.steward.granted_nodes(), 10);
    let first = kept.lose(&places);
    assert_eq!(kept.read(&link).await.unwrap_err().kind(), ErrorKind::Damaged);
    let nodes = helper.rebuild(&places, &first).await;
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);

    let (_folder, client) = kept.world.stranger();
    let info = within(client.info(&link)).await.unwrap();
    assert_eq!(info.overlay_shards, places.len() as u64);
    assert_eq!((info.min_alive, info.k), (1, 1));
    // What was put is the owner's: he may renew and delete it, and pays for it.
    assert_eq!(helper.steward.authority_of(nodes[0], &helper.rows().await[0].receipt), Authority::Owner);
    // Dead instead of forgetful: the same, as long as the documents have somebody left.
    let mut documents = Vec::new();
    let mut walk = helper.steward.segments().unwrap();
    while let Some(batch) = helper.steward.next_segments(&mut walk).await.unwrap() {
        documents.extend(batch.into_iter().filter(|segment| segment.kind == RowKind::Documents));
    }
    let overlay = within(helper.steward.own_overlay()).await.unwrap().unwrap();
    let others: Vec<Arc<Place>> =
        documents.into_iter().map(|segment| segment.place).chain(overlay.places().cloned()).collect();
    let mut dead: BTreeSet<NodeId> = BTreeSet::new();
    for node in places.iter().flat_map(|place| place.holders.iter().flatten()).filter(|node| !nodes.contains(node)) {
        dead.insert(*node);
        let alive = |place: &Arc<Place>| place.holders.iter().flatten().any(|holder| !dead.contains(holder));
        if !others.iter().all(alive) {
            dead.remove(node);
        }
    }
    assert!(!dead.is_empty());
    kept.world.network.these_behave(dead, Manner::Dead);
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    assert!(kept.machine.warnings().is_empty(), "{:?}", kept.machine.warnings());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_itself_is_found_with_the_stewards_that_the_head_names() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let link = kept.link().await;
    let mut walk = helper.steward.segments().unwrap();
    let root = helper.steward.next_segments(&mut walk).await.unwrap().unwrap().remove(0).place;
    assert_eq!(root.id, helper.steward.table_location().segment.id(), "the root's own segment comes first");
    let first = kept.lose(std::slice::from_ref(&root));
    assert!(kept.read(&link).await.is_err());
    helper.rebuild(&[root], &first).await;
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_misses_nothing_does_not_look_at_overlays() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let places = helper.content().await;
    let first: Vec<Bytes> = places.iter().map(|place| kept.world.network.shard(place.roots[0])).collect();
    helper.rebuild(&places, &first).await;
    let overlay = within(helper.steward.own_overlay()).await.unwrap().unwrap();
    let own: BTreeSet<ShardRoot> = overlay.places().flat_map(|place| place.roots.clone()).collect();
    let link = kept.link().await;
    kept.world.network.take_gets();
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    let gets = kept.world.network.take_gets();
    assert!(!gets.is_empty() && gets.iter().all(|got| !own.contains(&got.root)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steward_who_is_not_named_any_more_counts_for_nothing() {
    let kept = Kept::new(10).await;
    let (gone, mut stays) = (kept.steward().await, kept.steward().await);
    let link = kept.link().await;
    let places = gone.content().await;
    let first = kept.lose(&places);
    gone.rebuild(&places, &first).await;
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    within(kept.dataset.revoke_steward(gone.number)).await.unwrap();
    assert_eq!(kept.read(&link).await.unwrap_err().kind(), ErrorKind::Damaged);
    stays.refresh().await;
    assert!(stays.steward.is_named());
    assert!(stays.steward.holders(&places[0]).await.iter().all(Vec::is_empty), "nor for other stewards");
    stays.rebuild(&places, &first).await;
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bogus_rows_neither_break_nor_slow_what_an_honest_overlay_still_holds() {
    let kept = Kept::new(12).await;
    let (bad, mut honest) = (kept.steward().await, kept.steward().await);
    honest.refresh().await;
    let link = kept.link().await;
    let places = bad.content().await;
    let first = kept.lose(&places);
    let all = kept.world.network.ids();
    let now = bad.steward.nodes().now();
    let later = now.after(LEASE);
    // True receipts of nodes that then do not serve, for one shard of each segment; forged and stale ones for the other.
    let mut update = OverlayUpdate::default();
    let mut liars = BTreeSet::new();
    for (place, bytes) in places.iter().zip(&first) {
        let length = u64::from(place.geometry.shard_bytes());
        let node = stranger_to(place, &bad);
        let put = bad.put(node, place.roots[0], bytes).await;
        liars.insert(node);
        update.set(bad.steward.row(place.id, ShardIndex::new(0), node, put.receipt));
        let receipt = forged(all[1], place.roots[1], length, later);
        update.set(bad.steward.row(place.id, ShardIndex::new(1), all[1], receipt));
        for shard in 2..64 {
            let receipt = forged(all[2], place.roots[1], length, later);
            update.set(bad.steward.row(place.id, ShardIndex::new(shard), all[2], receipt));
        }
    }
    within(bad.steward.publish(&update, LEASE)).await.unwrap();
    places.iter().for_each(|place| kept.world.network.forget_shard(place.roots[0]));
    assert_eq!(kept.read(&link).await.unwrap_err().kind(), ErrorKind::Damaged, "nothing is gained by it");

    honest.rebuild(&places, &first).await;
    liars.retain(|node| places.iter().all(|place| stranger_to(place, &honest) != *node));
    kept.world.network.take_gets();
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    let roots: BTreeSet<ShardRoot> = places.iter().flat_map(|place| place.roots.clone()).collect();
    let mut asked: BTreeMap<(NodeId, ShardRoot), usize> = BTreeMap::new();
    for got in kept.world.network.take_gets().into_iter().filter(|got| roots.contains(&got.root)) {
        *asked.entry((got.node, got.root)).or_default() += 1;
    }
    for place in &places {
        let forged_at = asked.get(&(all[1], place.roots[1])).copied().unwrap_or_default();
        assert!(place.holders[1] == Some(all[1]) || forged_at == 0, "a forged receipt is not even asked for");
    }
    for (place, times) in
        liars.iter().flat_map(|liar| places.iter().filter_map(|place| asked.get(&(*liar, place.roots[0])))).enumerate()
    {
        assert!(*times <= 3, "row {place} cost {times} attempts");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlay_of_rubbish_and_one_on_dead_nodes_are_as_if_they_were_not_there() {
    let kept = Kept::new(12).await;
    let (rubbish, dead, mut honest) = (kept.steward().await, kept.steward().await, kept.steward().await);
    honest.refresh().await;
    let link = kept.link().await;
    let places = rubbish.content().await;
    let first = kept.lose(&places);
    // An overlay whose head leads to what is no overlay: the base table's own root.
    let location = rubbish.steward.table_location().clone();
    let body = OverlayBody { location, extensions: Default::default() };
    let keys = rubbish_keys(&rubbish);
    let head = Head::create_overlay(&keys.0, &keys.1, HeadOrder::after(None), &body).unwrap();
    let locator = OverlayKeys::derive(&keys.0, &keys.1.verifying_key().to_bytes()).locator;
    let until = honest.steward.nodes().now().after(LEASE);
    within(heads::write(rubbish.steward.nodes(), &locator, &head, until, None)).await.unwrap();
    // One whose blobs are gone.
    dead.rebuild(&places, &first).await;
    let overlay = within(dead.steward.own_overlay()).await.unwrap().unwrap();
    overlay.places().flat_map(|place| &place.roots).for_each(|root| kept.world.network.forget_shard(*root));
    places.iter().for_each(|place| kept.world.network.forget_shard(place.roots[0]));

    assert_eq!(kept.read(&link).await.unwrap_err().kind(), ErrorKind::Damaged);
    honest.rebuild(&places, &first).await;
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    // Whoever lost his overlay begins it anew.
    dead.rebuild(&places, &first).await;
    assert_eq!(dead.rows().await.len(), places.len());
}

/// The table secret and the signing key of a steward, as he has them.
fn rubbish_keys(helper: &Helper) -> (dolmen_proto::keys::TableSecret, SigningKey) {
    let keys = dolmen_proto::keys::StewardKeys::derive(helper.link.steward_secret().unwrap());
    (helper.steward.entrusted().table_secret.clone(), keys.overlay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_of_one_steward_lose_no_row_and_foreign_segments_get_none() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let (_folder, client) = kept.world.stranger();
    let twin = within(Stewardship::open(&client, &helper.link)).await.unwrap();
    let twin = Helper { _folder, steward: twin, link: helper.link.clone(), number: helper.number };
    let place = helper.content().await.remove(0);
    let bytes: Vec<Bytes> = place.roots.iter().map(|root| kept.world.network.shard(*root)).collect();
    let node = stranger_to(&place, &helper);
    let mut updates = Vec::new();
    for shard in 0..2u8 {
        let put = helper.put(node, place.roots[usize::from(shard)], &bytes[usize::from(shard)]).await;
        let mut update = OverlayUpdate::default();
        update.set(helper.steward.row(place.id, ShardIndex::new(shard), node, put.receipt.clone()));
        update.set(helper.steward.row(SegmentId::new([shard; 32]), ShardIndex::new(0), node, put.receipt));
        updates.push(update);
    }
    within(helper.steward.publish(&updates[0], LEASE)).await.unwrap();
    within(twin.steward.publish(&updates[1], LEASE)).await.unwrap();
    let keys = |rows: &[crate::steward::Row]| rows.iter().map(|row| (row.segment, row.shard.get())).collect::<Vec<_>>();
    assert_eq!(
        keys(&helper.rows().await),
        [(place.id, 0), (place.id, 1)],
        "none of segments that the base does not have"
    );

    let mut update = OverlayUpdate::default();
    update.drop_row(place.id, ShardIndex::new(0));
    within(helper.steward.publish(&update, LEASE)).await.unwrap();
    assert_eq!(keys(&twin.rows().await), [(place.id, 1)]);
    // Renewed with receipts that fit rows, and pruned when the base forgets the segment.
    let until = helper.steward.nodes().now().after(LEASE * 2);
    let roots = [place.roots[1]];
    let renewal = helper.steward.renew(Authority::Owner, node, &roots, until, OVERLAY_RENEWAL_SHARDS_MAX);
    let (renewed, receipts) = within(renewal).await.unwrap();
    assert_eq!(renewed, [true]);
    let receipt = KeptReceipt::of_renewal(&receipts[0]);
    let length = u64::from(place.geometry.shard_bytes());
    assert_eq!(receipt.holds(node, roots[0], length, helper.steward.nodes().now()), Ok(until));
    let mut update = OverlayUpdate::default();
    update.set(helper.steward.row(place.id, ShardIndex::new(1), node, receipt));
    within(helper.steward.publish(&update, LEASE)).await.unwrap();
    assert_eq!(helper.rows().await[0].receipt.claimed_until(), Ok(until));
    let (renewed, total) = within(helper.steward.renew_own(until)).await.unwrap();
    assert!(total > 0 && renewed == total, "{renewed} of {total}");
    let mut update = OverlayUpdate::default();
    update.prune();
    within(helper.steward.publish(&update, LEASE)).await.unwrap();
    assert_eq!(helper.rows().await.len(), 1, "its segment is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steward_keeps_the_heads_of_a_dataset_that_its_owner_forgot() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let link = kept.link().await;
    let until = helper.steward.nodes().now().after(LEASE);
    helper.rebuild(&[], &[]).await;
    assert_eq!(
        within(helper.steward.put_heads_again(until)).await,
        3,
        "read head, table head, his own; no overlay yet"
    );
    // Nodes that came later get them from him.
    kept.world.network.join(20);
    assert_eq!(within(helper.steward.put_heads_again(until)).await, 3);
    let read = Link::parse(&link).unwrap();
    let locator = ReadKeys::derive(read.read_secret().unwrap()).locator;
    let at = |number| kept.world.network.heads_at(dolmen_proto::keys::point(&locator, number)).len();
    assert!((0..8).all(|number| at(number) > 0));
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malicious_steward_with_every_right_his_link_gives() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let link = kept.link().await;
    let read = Link::parse(&link).unwrap();
    let entrusted: &StewardBody = helper.steward.entrusted();
    let places = helper.content().await;

    // Reading: every secret that he holds, tried as the key of every chunk and as the secret of the read head.
    let overlay_mask = OverlayKeys::derive(&entrusted.table_secret, &helper.steward.public_key());
    let secrets: Vec<[u8; 32]> = vec![
        *helper.link.steward_secret().unwrap().expose(),
        *entrusted.opening.expose(),
        *entrusted.table_secret.expose(),
        *entrusted.mask_secret.expose(),
        *entrusted.read_locator.expose(),
        *TableKeys::derive(&entrusted.table_secret).seal.expose(),
        *overlay_mask.mask.expose(),
        entrusted.read_head_key,
        entrusted.table_head_key,
    ];
    let wanted = Wanted::of_owner(read.read_secret().unwrap()).unwrap();
    let read_head = within(heads::find(helper.steward.nodes(), &wanted, None)).await.unwrap().head;
    for secret in &secrets {
        let guess = dolmen_proto::keys::ReadSecret::new(*secret);
        assert!(read_head.open_read(&guess).is_err());
        assert_ne!(ReadKeys::derive(&guess).seal, ReadKeys::derive(read.read_secret().unwrap()).seal);
    }
    let (_folder, client) = kept.world.stranger();
    let owners = read::Dataset::open(&client.reading(), &read, true).await.unwrap();
    let entry = owners.entry(b"a").await.unwrap().unwrap();
    let dolmen_proto::manifest::EntryKind::File(file) = entry.kind else { panic!("a file was put") };
    let mut extents = owners.extents(&file);
    let mut chunks = 0;
    while let Some(placed) = owners.next_extents(&mut extents).await.unwrap() {
        for (chunk, _) in placed.iter().filter_map(|placed| placed.extent.chunk()) {
            let place = places.iter().find(|place| place.id == chunk.segment).expect("he knows where everything lies");
            // With one data shard the segment is the shard: he has all sealed bytes.
            let shard = kept.world.network.shard(place.roots[0]);
            let at = chunk.offset as usize;
            let sealed = &shard[at..at + chunk.sealed_bytes()];
            let mut out = Vec::new();
            assert!(open_into(&chunk.key, sealed, &mut out).is_ok(), "these are the bytes");
            for secret in &secrets {
                assert!(open_into(&ChunkKey::new(*secret), sealed, &mut out).is_err());
            }
            chunks += 1;
        }
    }
    assert!(chunks > 0);

    // Deleting: what the owner put, and what was put in his name.
    let place = &places[0];
    let node = place.holders[0].unwrap();
    let put = helper.put(node, place.roots[0], &kept.world.network.shard(place.roots[0])).await;
    assert_eq!(put.authority, Authority::Owner);
    within(helper.steward.give_up(node, &[place.roots[0]])).await.unwrap();
    assert_eq!(
        kept.world.network.shard(place.roots[0]).len() as u32,
        place.geometry.shard_bytes(),
        "it is still there"
    );
    let foreign = stranger_to(place, &helper);
    let bytes = kept.world.network.shard(place.roots[1]);
    helper.put(foreign, place.roots[1], &bytes).await;
    within(helper.steward.give_up(foreign, &[place.roots[1]])).await.unwrap();
    let stat = within(helper.steward.nodes().stat(foreign, &[place.roots[1]])).await.unwrap();
    assert!(stat[0].is_some(), "nor what he put himself in the owner's name");

    // Replacing: other bytes are another root, and heads that he signs are nobody's.
    let until = helper.steward.nodes().now().after(LEASE);
    let sent = Arc::new(AtomicU64::new(0));
    let other = helper.steward.put_shard(node, place.roots[0], Bytes::from_static(b"other bytes"), until, sent);
    assert!(within(other).await.is_err());
    let own = dolmen_proto::keys::StewardKeys::derive(helper.link.steward_secret().unwrap()).overlay;
    let table = Wanted::of_table(&entrusted.table_secret, entrusted.table_head_key);
    let table_head = within(heads::find(helper.steward.nodes(), &table, None)).await.unwrap();
    let order = HeadOrder { sequence: table_head.head.sequence() + 900, previous: table_head.head.hash() };
    let body = TableBody { location: table_head.body.location.clone(), extensions: Default::default() };
    let fake = Head::create_table(&entrusted.table_secret, &own, order, &body).unwrap();
    let table_locator = TableKeys::derive(&entrusted.table_secret).locator;
    for number in 0..8 {
        for locator in [&table_locator, &entrusted.read_locator] {
            let point = dolmen_proto::keys::point(locator, number);
            kept.world.network.ids().into_iter().for_each(|id| kept.world.network.plant(id, point, &fake));
        }
    }
    let found = within(heads::find(helper.steward.nodes(), &table, None)).await.unwrap();
    assert_eq!(found.head.hash(), table_head.head.hash());

    // Locking out: the owner goes on writing, readers go on reading.
    kept.machine.put(&kept.dataset, &[("b", b"more")]).await.unwrap();
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    assert_eq!(files(&kept.dataset, &Selector::Newest).await.len(), 2);
    assert!(kept.machine.warnings().is_empty(), "{:?}", kept.machine.warnings());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_steward_rebuilt_is_read_after_a_rekey_too() {
    let kept = Kept::new(10).await;
    let mut helper = kept.steward().await;
    let places = helper.content().await;
    let first = kept.lose(&places);
    helper.rebuild(&places, &first).await;
    within(kept.dataset.rekey()).await.unwrap();
    helper.refresh().await;
    assert_eq!(helper.rows().await.len(), places.len(), "his overlay came along");
    assert_eq!(kept.read(&kept.link().await).await.unwrap(), kept.content);
    within(kept.dataset.rekey()).await.unwrap();
    helper.refresh().await;
    assert_eq!(helper.rows().await.len(), places.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_foreign_segments_are_neither_read_nor_counted_however_many_there_are() {
    let kept = Kept::new(10).await;
    let helper = kept.steward().await;
    let link = kept.link().await;
    let places = helper.content().await;
    let first = kept.lose(&places);
    let nodes = helper.rebuild(&places, &first).await;
    let receipt = helper.rows().await.remove(0).receipt;
    let mut change = OverlayChange::default();
    for number in 0..3000u32 {
        let segment = SegmentId::new(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let row = helper.steward.row(segment, ShardIndex::new(0), nodes[0], receipt.clone());
        change.set.insert(row.label(), row);
    }
    within(helper.steward.write(change, LEASE)).await.unwrap();
    assert_eq!(helper.rows().await.len(), 3000 + places.len());
    let overlay = within(helper.steward.own_overlay()).await.unwrap().unwrap();
    assert!(overlay.root.rows.as_ref().unwrap().count > 3000);
    let found = within(overlay.rows_of(places[0].id)).await.unwrap();
    assert_eq!(found.iter().map(|row| row.segment).collect::<Vec<_>>(), [places[0].id]);
    assert_eq!(kept.read(&link).await.unwrap(), kept.content);
    let (_folder, client) = kept.world.stranger();
    assert_eq!(within(client.info(&link)).await.unwrap().overlay_shards, places.len() as u64);
    // The next change that looks at the whole table gets rid of them.
    let mut update = OverlayUpdate::default();
    update.prune();
    within(helper.steward.publish(&update, LEASE)).await.unwrap();
    assert_eq!(helper.rows().await.len(), places.len());
}
