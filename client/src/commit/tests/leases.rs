//! Leases that have run under half: who renews them, when, and what happens when that fails.

use std::sync::atomic::Ordering;

use dolmen_proto::ids::{SegmentId, Timestamp};

use super::*;
use crate::network::memory::Manner;
use crate::state::{LeaseNote, Pass};

const DAY: Duration = Duration::from_secs(86_400);

/// When the first lease of the contents that the newest table names ends, and when the first of its documents does.
async fn ends(dataset: &Dataset) -> (Timestamp, Timestamp) {
    let reader = within(dataset.reader(&Selector::Newest)).await.unwrap();
    let places = crate::info::places(&reader).await.unwrap();
    let nodes = dataset.owner().client.nodes_known().clone();
    let end = async |documents: bool| {
        let these: Vec<_> = places.iter().filter(|place| place.documents == documents).cloned().collect();
        let alive = crate::info::ask_all(&nodes, &crate::info::by_node(&these)).await;
        alive.values().map(|(_, until)| *until).min().unwrap()
    };
    (end(false).await, end(true).await)
}

fn now(dataset: &Dataset) -> Timestamp {
    dataset.owner().client.nodes_known().now()
}

fn note(dataset: &Dataset) -> LeaseNote {
    dataset.owner().client.state().leases(&dataset.owner().name).load().unwrap()
}

async fn changed(dataset: &Dataset, tag: &str) {
    within(dataset.tag(&Selector::Newest, tag)).await.unwrap();
}

/// How many shards nodes were asked about meanwhile.
async fn asked(world: &World, work: impl Future<Output = ()>) -> u64 {
    let before = world.network.stats.load(Ordering::SeqCst);
    work.await;
    world.network.stats.load(Ordering::SeqCst) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_renews_what_is_under_half_of_its_lease_and_asks_now_and_then_only() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    machine.put(&dataset, &[("a", &[7; 300_000])]).await.unwrap();
    let share = within(dataset.share(b"", Some(&Selector::Newest), &[])).await.unwrap();
    let first = now(&dataset).after(400 * DAY);
    assert_eq!(asked(&world, changed(&dataset, "soon")).await, 0, "all was leased just now");

    world.network.pass(150 * DAY);
    assert!(asked(&world, changed(&dataset, "later")).await > 0);
    assert!(ends(&dataset).await.0 <= first, "more than half is left");
    assert_eq!(asked(&world, changed(&dataset, "again")).await, 0);

    world.network.pass(60 * DAY);
    changed(&dataset, "half").await;
    let (contents, documents) = ends(&dataset).await;
    assert!(contents > now(&dataset).after(399 * DAY), "{contents:?}");
    assert!(
        documents > now(&dataset).after(200 * DAY),
        "those of later changes have most of theirs left: {documents:?}"
    );
    assert!(machine.warnings().is_empty(), "{:?}", machine.warnings());
    let (_folder, stranger) = world.stranger();
    assert_eq!(files_of(&within(stranger.snapshot(&share.link)).await.unwrap()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_fails_fails_no_change_and_is_tried_again_a_day_later() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    machine.put(&dataset, &[("a", &[7; 300_000])]).await.unwrap();
    world.network.pass(210 * DAY);
    world.network.all_behave(Manner::Unrenewing);
    let before = ends(&dataset).await.0;
    changed(&dataset, "refused").await;
    assert_eq!(ends(&dataset).await.0, before);
    let warned = |machine: &Machine| machine.warnings().iter().filter(|text| text.contains("run out")).count();
    assert_eq!(warned(&machine), 1, "{:?}", machine.warnings());

    world.network.all_behave(Manner::Honest);
    assert_eq!(asked(&world, changed(&dataset, "at_once")).await, 0);
    world.network.pass(DAY);
    world.network.behave(1, Manner::Dead);
    changed(&dataset, "a_day_later").await;
    assert_eq!(warned(&machine), 1, "{:?}", machine.warnings());
    assert!(ends(&dataset).await.0 > now(&dataset).after(399 * DAY), "of those that answer");
    let again = note(&dataset).next_look;
    assert!(again <= now(&dataset).after(7 * DAY), "who was silent is asked soon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_was_not_finished_goes_on_with_the_next_change() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    machine.put(&dataset, &[("a", &[7; 300_000])]).await.unwrap();
    world.network.pass(210 * DAY);
    let never = Timestamp::from_unix_ms(u64::MAX);
    let keep = |after: SegmentId| {
        let pass = Pass { after, earliest: never, renewed: false, left_due: false, silent: false };
        let notes = dataset.owner().client.state().leases(&dataset.owner().name);
        notes.keep(&LeaseNote { next_look: never, pass: Some(pass) }).unwrap();
    };
    let before = ends(&dataset).await.0;
    keep(SegmentId::new([0xff; 32]));
    changed(&dataset, "at_the_end").await;
    assert_eq!(ends(&dataset).await.0, before, "all but the end was said to be done");
    assert!(note(&dataset).pass.is_none() && note(&dataset).next_look < never);
    keep(SegmentId::new([0; 32]));
    changed(&dataset, "at_the_start").await;
    assert!(ends(&dataset).await.0 > now(&dataset).after(399 * DAY));
    assert!(note(&dataset).pass.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_with_a_short_lease_endangers_nothing_that_was_there() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    machine.put(&dataset, &[("a", &[7; 300_000])]).await.unwrap();
    let source = tempfile::tempdir_in(machine.folder.path()).unwrap();
    std::fs::write(source.path().join("b"), [8; 200_000]).unwrap();
    let options = PutOptions { lease: Some(20 * DAY), ..PutOptions::default() };
    let put = within(dataset.put(&[source.path().to_path_buf()], b"", &options)).await.unwrap();
    assert!(put.lease_until <= now(&dataset).after(20 * DAY), "{put:?}");
    let (contents, documents) = ends(&dataset).await;
    assert!(contents <= put.lease_until, "as was asked for");
    assert!(documents > now(&dataset).after(399 * DAY), "all else is found through them");

    world.network.pass(11 * DAY);
    changed(&dataset, "later").await;
    assert!(
        ends(&dataset).await.0 > now(&dataset).after(380 * DAY),
        "a change without a lease of its own takes the usual"
    );
}
