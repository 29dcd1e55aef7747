//! Stewards at work over a network in memory: what nodes lose is rebuilt elsewhere, and readers find it.

use std::path::PathBuf;

use dolmen_proto::ids::{NodeId, ShardRoot};

use super::*;
use crate::network::memory::Manner;
use crate::{StewardOptions, StewardRun, StewardStatus};

const QUOTA_BYTES: u64 = 1 << 40;
const LASTING: Duration = Duration::from_secs(100 * 86_400);

/// A dataset on nine nodes at a time, fewer than there are, so that there is somewhere to go.
async fn dataset(world: &World) -> (Machine, Dataset, String) {
    let machine = world.machine().await;
    let policy = Some(PolicyChoice::Fixed { k: 3, n: 9 });
    let dataset = within(machine.vault.create_dataset(&"data".parse().unwrap(), policy)).await.unwrap();
    let contents: Vec<Vec<u8>> = (0..6u8).map(|number| noise(number.into(), 90_000)).collect();
    let names: Vec<String> = (0..6).map(|number| format!("file-{number}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    machine.put(&dataset, &files).await.unwrap();
    let link = within(dataset.steward_link(QUOTA_BYTES, LASTING, &[])).await.unwrap().link.to_string();
    (machine, dataset, link)
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn options(folder: PathBuf) -> StewardOptions {
    StewardOptions {
        state: folder,
        interval: Duration::from_secs(60),
        bandwidth_bytes_per_second: u64::MAX / 4,
        samples: Some(8),
        grace: Duration::from_secs(24 * 3600),
    }
}

async fn round(run: &mut StewardRun) -> StewardStatus {
    let status = within(run.round()).await.unwrap().clone();
    assert_eq!(status.datasets[0].trouble, "");
    status
}

/// Holders of shards by the base table.
async fn holders(dataset: &Dataset) -> Vec<(NodeId, ShardRoot)> {
    let reader = dataset.reader(&Selector::Newest).await.unwrap();
    let mut holders = Vec::new();
    reader
        .every_place(|place| {
            let pairs = place.holders.iter().zip(&place.roots);
            holders.extend(pairs.filter_map(|(node, root)| Some(((*node)?, *root))));
        })
        .await
        .unwrap();
    holders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_wiped_node_held_is_rebuilt_elsewhere_and_read_from_there() {
    let world = World::new(16);
    let (_machine, dataset, link) = dataset(&world).await;
    let before = files(&dataset, &Selector::Newest).await;
    let folder = tempfile::tempdir().unwrap();
    let (_stranger, client) = world.stranger();
    let mut run = StewardRun::new(&client, &[link], options(folder.path().to_owned())).unwrap();
    let status = round(&mut run).await;
    let care = &status.datasets[0];
    assert!(care.named && care.challenges > 0, "{care:?}");
    assert_eq!((care.passed, care.alive_shards), (care.challenges, care.shards));
    // Nodes lose all that they hold, until every segment has lost shards enough to be worth a rebuild.
    let victims: Vec<NodeId> = world.network.ids().into_iter().take(4).collect();
    for (node, root) in holders(&dataset).await {
        if victims.contains(&node) {
            world.network.lose(node, root);
        }
    }
    let status = round(&mut run).await;
    let care = &status.datasets[0];
    assert!(care.repaired_shards > 0, "{care:?}");
    let status = round(&mut run).await;
    let care = &status.datasets[0];
    assert_eq!((care.waiting_repairs, care.trouble.as_str()), (0, ""), "{care:?}");
    let again = files(&dataset, &Selector::Newest).await;
    assert_eq!(again, before);
    assert!(folder.path().join("status.json").exists());
    let read = StewardStatus::read(folder.path()).unwrap();
    assert_eq!(read.datasets, status.datasets);
    assert!(read.metrics().contains("dolmen_steward_repaired_shards_total"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steward_goes_on_after_a_restart_with_what_he_believed() {
    let world = World::new(12);
    let (_machine, _dataset, link) = dataset(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let (_stranger, client) = world.stranger();
    let liar = world.network.ids()[0];
    world.network.these_behave([liar], Manner::Lying);
    {
        let mut run = StewardRun::new(&client, std::slice::from_ref(&link), options(folder.path().to_owned())).unwrap();
        let status = round(&mut run).await;
        assert!(status.datasets[0].hard_evidence > 0, "{status:?}");
        let transcripts = std::fs::read_dir(folder.path().join("transcripts")).unwrap();
        for file in transcripts {
            let view = crate::check_transcript(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
            assert!(view.hard_evidence && view.node == liar.to_string(), "{view:?}");
        }
    }
    world.network.these_behave([liar], Manner::Honest);
    let mut run = StewardRun::new(&client, &[link], options(folder.path().to_owned())).unwrap();
    let status = round(&mut run).await;
    let believed = status.nodes.iter().find(|node| node.node == liar.to_string()).unwrap();
    assert!(believed.standing.starts_with("bad") || believed.standing.starts_with("suspect"), "{believed:?}");
    assert!(status.datasets[0].challenges > 12, "counters go on: {:?}", status.datasets[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_waited_for_and_no_longer_than_the_grace() {
    let world = World::new(12);
    let (_machine, dataset, link) = dataset(&world).await;
    let before = files(&dataset, &Selector::Newest).await;
    let folder = tempfile::tempdir().unwrap();
    let (_stranger, client) = world.stranger();
    let mut run = StewardRun::new(&client, &[link], options(folder.path().to_owned())).unwrap();
    round(&mut run).await;
    let gone: Vec<NodeId> = world.network.ids().into_iter().take(3).collect();
    world.network.these_behave(gone, Manner::Dead);
    let status = round(&mut run).await;
    assert_eq!(status.datasets[0].repaired_shards, 0, "within the grace nothing is moved");
    world.network.pass(Duration::from_secs(25 * 3600));
    let status = round(&mut run).await;
    assert!(status.datasets[0].repaired_shards > 0, "{:?}", status.datasets[0]);
    assert_eq!(files(&dataset, &Selector::Newest).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_is_told_who_holds_its_shards_and_can_be_missed_then() {
    let world = World::new(12);
    let (_machine, dataset, link) = dataset(&world).await;
    let before = files(&dataset, &Selector::Newest).await;
    let held = holders(&dataset).await;
    let going = held[0].0;
    let own: BTreeSet<ShardRoot> = held.iter().filter(|(node, _)| *node == going).map(|(_, root)| *root).collect();
    let folder = tempfile::tempdir().unwrap();
    let (_stranger, client) = world.stranger();
    let mut run = StewardRun::new(&client, &[link], options(folder.path().to_owned())).unwrap();
    round(&mut run).await;
    assert!(world.network.told_moved(going).is_empty(), "it stays");
    world.network.these_behave([going], Manner::Leaving);
    for _ in 0..3 {
        round(&mut run).await;
    }
    let told = world.network.told_moved(going);
    assert!(own.is_subset(&told), "{} of {} shards", told.len(), own.len());
    // What it was told is true: it goes, and nobody misses it.
    world.network.these_behave([going], Manner::Dead);
    assert_eq!(files(&dataset, &Selector::Newest).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hand_every_lost_shard_comes_back() {
    let world = World::new(12);
    let (_machine, dataset, link) = dataset(&world).await;
    let victim = holders(&dataset).await[0].0;
    let lost = holders(&dataset).await.into_iter().filter(|(node, _)| *node == victim).count() as u64;
    world.network.these_behave([victim], Manner::Dead);
    let (_stranger, client) = world.stranger();
    let report = within(client.repair(&link, u64::MAX / 4)).await.unwrap();
    assert_eq!((report.placed_shards, report.failed.as_slice()), (lost, &[][..]), "{report:?}");
    assert!(report.worst_margin >= report.worst_margin_before, "{report:?}");
    let audited = within(client.audit(&link, &crate::AuditOptions::default())).await.unwrap();
    assert_eq!(audited.nodes - audited.passed, 1, "a steward's link is enough to audit by: {audited:?}");
    let again = within(client.repair(&link, u64::MAX / 4)).await.unwrap();
    assert_eq!((again.planned, again.placed_shards), (0, 0), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_denies_what_it_has_signed_convicts_itself_and_each_shard_counts_once() {
    let world = World::new(12);
    let (_machine, _dataset, link) = dataset(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let (_stranger, client) = world.stranger();
    let mut run = StewardRun::new(&client, &[link], options(folder.path().to_owned())).unwrap();
    // The first round has nodes sign what they hold.
    let status = round(&mut run).await;
    assert_eq!(status.datasets[0].hard_evidence, 0);
    let denier = world.network.ids()[0];
    world.network.these_behave([denier], Manner::Forgetful);
    let status = round(&mut run).await;
    assert!(status.datasets[0].hard_evidence > 0, "{status:?}");
    let views: Vec<_> = std::fs::read_dir(folder.path().join("transcripts"))
        .unwrap()
        .map(|file| crate::check_transcript(&std::fs::read(file.unwrap().path()).unwrap()).unwrap())
        .collect();
    assert!(views.iter().all(|view| view.hard_evidence && view.outcome == "not_held"), "{views:?}");
    // Whatever it has signed not to hold is not asked for again: the evidence ends with its shards.
    let mut last = status.datasets[0].hard_evidence;
    for _ in 0..6 {
        last = round(&mut run).await.datasets[0].hard_evidence;
    }
    assert_eq!(round(&mut run).await.datasets[0].hard_evidence, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_lost_with_the_keys_are_published_again_from_receipts() {
    let world = World::new(12);
    let (_machine, dataset, link) = dataset(&world).await;
    let before = files(&dataset, &Selector::Newest).await;
    let folder = tempfile::tempdir().unwrap();
    let (_stranger, client) = world.stranger();
    {
        let mut run = StewardRun::new(&client, std::slice::from_ref(&link), options(folder.path().to_owned())).unwrap();
        round(&mut run).await;
        let victims: Vec<NodeId> = world.network.ids().into_iter().take(3).collect();
        for (node, root) in holders(&dataset).await {
            if victims.contains(&node) {
                world.network.lose(node, root);
            }
        }
        let status = round(&mut run).await;
        assert!(status.datasets[0].repaired_shards > 0, "{status:?}");
        round(&mut run).await;
    }
    // The keys change while no steward runs: what the overlay said lies where nobody looks any more.
    within(dataset.rekey()).await.unwrap();
    let mut run = StewardRun::new(&client, &[link], options(folder.path().to_owned())).unwrap();
    let repaired = round(&mut run).await.datasets[0].repaired_shards;
    let status = round(&mut run).await;
    assert_eq!(status.datasets[0].repaired_shards, repaired, "nothing is made a second time");
    assert_eq!(files(&dataset, &Selector::Newest).await, before);
}
