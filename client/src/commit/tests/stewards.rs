//! Stewards as their owner sees them: appointed, told of every change of keys, granted new nodes, revoked.

use dolmen_proto::grant::GrantRow;
use dolmen_proto::head::{ReadBody, StewardBody, TableBody, named_stewards};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::keys::StewardKeys;

use super::*;
use crate::heads::{self, Wanted};
use crate::read;

const QUOTA_BYTES: u64 = 1 << 40;
const LASTING: Duration = Duration::from_secs(100 * 86_400);

async fn head(world: &World, link: &str) -> Result<StewardBody, ClientError> {
    let (_folder, client) = world.stranger();
    let link = Link::parse(link).unwrap();
    let wanted = Wanted::of_steward(link.steward_secret().unwrap());
    Ok(within(heads::find(client.nodes_known(), &wanted, None)).await?.body)
}

fn steward_keys(link: &str) -> StewardKeys {
    StewardKeys::derive(Link::parse(link).unwrap().steward_secret().unwrap())
}

/// The stewards that the newest base table and the heads name.
async fn named(dataset: &Dataset, body: &StewardBody, world: &World) -> Vec<[u8; 32]> {
    let reader = dataset.reader(&Selector::Newest).await.unwrap();
    let named = reader.table().stewards.clone();
    let (_folder, client) = world.stranger();
    let table = Wanted::of_table(&body.table_secret, body.table_head_key);
    let table = within(heads::find(client.nodes_known(), &table, None)).await.unwrap().body;
    assert_eq!(named_stewards::<TableBody>(&table.extensions).unwrap(), named);
    let link = Link::parse(&dataset.read_link(&[]).await.unwrap()).unwrap();
    let (_, read) = heads::read(client.nodes_known(), &link, None).await.unwrap();
    assert_eq!(named_stewards::<ReadBody>(&read.extensions).unwrap(), named);
    named
}

/// Grants that open for the steward, by the end that they state.
async fn grants(dataset: &Dataset, body: &StewardBody, keys: &StewardKeys) -> Vec<Timestamp> {
    let reader: read::Dataset = dataset.reader(&Selector::Newest).await.unwrap();
    let mut walk = body.grants.as_ref().unwrap().walk::<GrantRow>();
    let mut ends = Vec::new();
    while let Some(pointer) = walk.wanted().cloned() {
        let blob = reader.document(&pointer).await.unwrap();
        for row in walk.supply(&blob).unwrap() {
            let (grant, _) = row.open(keys).unwrap();
            assert_eq!(grant.claimed().quota_bytes, QUOTA_BYTES);
            ends.push(grant.claimed().until);
        }
    }
    ends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steward_is_appointed_listed_and_revoked() {
    let world = World::new(6);
    let machine = world.machine().await;
    let dataset = machine.create("data").await;
    machine.put(&dataset, &[("a", b"one")]).await.unwrap();
    let one = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
    let two = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
    let share = within(dataset.share(b"a", None, &[])).await.unwrap();
    assert!(one.number < two.number && two.number < share.number, "one count for both");
    assert_eq!((one.granted_nodes, one.ended), (6, None));
    let (body, keys) = (head(&world, &one.link).await.unwrap(), steward_keys(&one.link));
    let mut both = vec![keys.public_key(), steward_keys(&two.link).public_key()];
    both.sort_unstable();
    assert_eq!(named(&dataset, &body, &world).await, both);
    assert_eq!(grants(&dataset, &body, &keys).await, [one.granted_until; 6]);
    assert_eq!(dataset.stewards().await.unwrap().len(), 2);
    let too_long = dataset.steward_link(1, Duration::from_secs(u64::from(u32::MAX)), &[]).await.unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::Usage);

    within(dataset.revoke_steward(one.number)).await.unwrap();
    assert_eq!(dataset.revoke_steward(one.number).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(dataset.revoke_steward(share.number).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(named(&dataset, &body, &world).await, [steward_keys(&two.link).public_key()]);
    let listed = dataset.stewards().await.unwrap();
    assert!(listed[0].ended.is_some() && listed[1].ended.is_none());
    // What others do to the dataset leaves them as they are.
    let other = world.machine().await;
    other.put(&other.dataset("data").await, &[("b", b"two")]).await.unwrap();
    assert_eq!(named(&dataset, &body, &world).await, [steward_keys(&two.link).public_key()]);
    assert_eq!(dataset.stewards().await.unwrap().len(), 2);
    assert!(machine.warnings().is_empty(), "{:?}", machine.warnings());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steward_survives_a_rekey_and_a_revoked_one_learns_nothing_of_it() {
    let world = World::new(6);
    let machine = world.machine().await;
    let dataset = machine.create("data").await;
    let kept = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
    let gone = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
    within(dataset.revoke_steward(gone.number)).await.unwrap();
    let before = (head(&world, &kept.link).await.unwrap(), head(&world, &gone.link).await.unwrap());
    within(dataset.rekey()).await.unwrap();
    let after = head(&world, &kept.link).await.unwrap();
    assert_ne!(after.table_secret, before.0.table_secret);
    assert_eq!(after.mask_secret, before.0.mask_secret, "what is stored keeps its masks");
    machine.put(&dataset, &[("a", b"one")]).await.unwrap();
    let after = head(&world, &kept.link).await.unwrap();
    assert_eq!(named(&dataset, &after, &world).await, [steward_keys(&kept.link).public_key()]);
    assert_eq!(grants(&dataset, &after, &steward_keys(&kept.link)).await.len(), 6);
    let still = head(&world, &gone.link).await.unwrap();
    assert_eq!(still.table_secret, before.1.table_secret, "his head is the old one");
    assert_ne!(still.table_secret, after.table_secret);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_follow_the_network_and_are_extended_at_half_time() {
    let world = World::new(6);
    let machine = world.machine().await;
    let dataset = machine.create("data").await;
    let steward = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
    let keys = steward_keys(&steward.link);
    let first = head(&world, &steward.link).await.unwrap();
    machine.put(&dataset, &[("a", b"1")]).await.unwrap();
    let same = head(&world, &steward.link).await.unwrap();
    assert_eq!(same.grants, first.grants, "nothing is signed without need");
    world.network.join(3);
    machine.put(&dataset, &[("b", b"2")]).await.unwrap();
    let more = head(&world, &steward.link).await.unwrap();
    assert_eq!(grants(&dataset, &more, &keys).await, [steward.granted_until; 9], "new nodes, the same end");

    world.network.pass(LASTING * 6 / 10);
    within(dataset.renew(None)).await.unwrap();
    machine.put(&dataset, &[("c", b"3")]).await.unwrap();
    let later = head(&world, &steward.link).await.unwrap();
    let ends = grants(&dataset, &later, &keys).await;
    assert!(ends.len() == 9 && ends.iter().all(|end| *end > steward.granted_until));
    assert_eq!(dataset.stewards().await.unwrap()[0].granted_until, ends[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_collection_leaves_what_grants_need() {
    let world = World::new(6);
    let machine = world.machine().await;
    let dataset = machine.create("data").await;
    let steward = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap();
    let keys = steward_keys(&steward.link);
    for round in 0..4u8 {
        machine.put(&dataset, &[("a", &vec![round; 300_000])]).await.unwrap();
    }
    within(dataset.forget(&ForgetPolicy { last: 1, ..ForgetPolicy::default() })).await.unwrap();
    let mut freed = 0;
    for _ in 0..3 {
        freed += within(dataset.gc(false)).await.unwrap().freed_segments;
        world.network.pass(Duration::from_secs(8 * 86_400));
        within(dataset.renew(None)).await.unwrap();
    }
    assert!(freed > 0);
    let body = head(&world, &steward.link).await.unwrap();
    assert_eq!(grants(&dataset, &body, &keys).await.len(), 6);
}
