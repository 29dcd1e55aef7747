//! One run: a world drawn from a seed, owners that put, nodes that fail, readers that must get everything back.
//!
//! Decides who fails and when, within what must be survived or beyond it, and what is checked. Everything follows from the
//! seed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use dolmen_proto::ids::NodeId;
use dolmen_proto::root::root_of;
use futures::executor::LocalPool;
use futures::future::join_all;
use futures::task::LocalSpawnExt;

use super::clock::Clock;
use super::liar::Lie;
use super::network::{Network, Weather};
use super::node::{Character, Condition, VirtualNode, key_bytes};
use super::owner::Owner;
use super::reader::{Read, ReadFailure, Reader};
use super::transfer::FetchFailure;
use super::world::{START, World, weather_of_nodes};
use crate::faulty_disk::{Crash, Draw};
use crate::model::{Dataset, Files};

/// Virtual nodes of a run, at least.
pub const NODES_MIN: usize = 100;

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The hash of all that happened.
    pub trace: blake3::Hash,
    /// Calls made.
    pub calls: u64,
    /// Virtual time that passed, in seconds.
    pub virtual_seconds: u64,
    /// Snapshots whose put was done, and those begun.
    pub puts: (u64, u64),
    /// Segments that were stored short of all shards.
    pub degraded: u64,
    /// Nodes that failed for good, liars included.
    pub failed: u64,
    /// Whether the failures went beyond what must be survived.
    pub beyond: bool,
    /// Files that came back, that were reported as lost, and that were reported as unreachable.
    pub files: (u64, u64, u64),
}

/// Runs one seed; `verbose` prints every event.
///
/// # Panics
/// When anything is not as it must be.
#[must_use]
pub fn run(seed: u64, verbose: bool) -> Report {
    let mut draw = Draw::new(seed ^ 0x000d_01e7);
    let clock = Clock::new(START);
    let count = NODES_MIN + draw.below(20);
    let nodes = (0..u16::try_from(count).expect("few nodes")).map(|number| {
        let character = character(&mut draw);
        VirtualNode::new(number, seed, character, START)
    });
    let nodes: Vec<_> = nodes.collect();
    let weather = Weather::draw(&mut draw);
    let network = Network::new(weather, Draw::new(draw.next()));
    let world = World::new(clock.clone(), nodes, network, verbose);
    let mut pool = LocalPool::new();
    let calm = Rc::new(Cell::new(false));
    let pause_ms = 2_000 + draw.next() % 20_000;
    let chaos = weather_of_nodes(world.clone(), Draw::new(draw.next()), pause_ms, calm.clone());
    pool.spawner().spawn_local(chaos).expect("the pool is there");
    let report = clock.run(&mut pool, story(world.clone(), draw, seed % 5 == 4, calm));
    drop(pool);
    clock.stop();
    Report { trace: world.trace_hash(), calls: world.calls(), ..report }
}

fn character(draw: &mut Draw) -> Character {
    let lie = draw.percent(6).then(|| Lie::ALL[draw.below(Lie::ALL.len())]);
    Character {
        lie,
        slow: draw.percent(10),
        full: lie.is_none() && draw.percent(5),
        clock_ahead: if draw.percent(2) { Duration::from_secs(86_400) } else { Duration::ZERO },
    }
}

fn random_files(draw: &mut Draw, large: bool) -> Files {
    let mut files = Files::new();
    for number in 0..1 + draw.below(4) {
        let most = if large { 400_000 } else { 6_000 };
        let length = if draw.percent(10) { 0 } else { 1 + draw.below(most) };
        let mut bytes = vec![0; length];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&draw.next().to_le_bytes()[..part.len()]);
        }
        files.insert(format!("file {number}").into_bytes(), bytes);
    }
    files
}

/// The owners' work, the failures, the readers' work, the reckoning.
async fn story(world: Rc<World>, mut draw: Draw, beyond: bool, calm: Rc<Cell<bool>>) -> Report {
    let began = world.clock.now();
    let tasks = (0..2 + draw.below(2)).map(|number| {
        let policies = ["4/10", "4/10", "2/5", "3/6", "7/16", "10/24"];
        let policy = policies[draw.below(policies.len())].parse().expect("a policy");
        let large = draw.percent(2);
        let smallest = 4096.max(1024 * usize::from(dolmen_proto::policy::Policy::k(policy)));
        let segment_bytes = if large { 512 * 1024 } else { smallest };
        let address = IpAddr::from([198, 51, u8::try_from(number).expect("few owners"), 9]);
        // With few nodes to stand in, uploads end degraded, or fail and are taken up again.
        let spares_max =
            if draw.percent(40) { draw.below(3) } else { usize::from(dolmen_proto::policy::Policy::n(policy)) + 8 };
        let owner = Owner::new(key_bytes(&mut draw), address, policy, segment_bytes, spares_max);
        let files = random_files(&mut draw, large);
        let mut changed = files.clone();
        changed.extend(random_files(&mut draw, false).into_iter().take(1).map(|(_, bytes)| (b"new".to_vec(), bytes)));
        let snapshots = if draw.percent(50) { vec![files, changed] } else { vec![files] };
        owner_story(world.clone(), owner, snapshots)
    });
    let tasks: Vec<_> = tasks.collect();
    let owners = join_all(tasks).await;
    let failed = fail_nodes(&world, &mut draw, &owners, beyond);
    let mut files = (0, 0, 0);
    let readers = owners.iter().enumerate().map(|(number, (owner, _))| {
        let address = IpAddr::from([203, 0, u8::try_from(number).expect("few owners"), 5]);
        let tries = if beyond { 2 } else { 12 };
        // Every second reader has seen the newest head before, and must not be shown an older one.
        let seen = owner.dataset.heads.get(1).map(|head| head.version).filter(|_| number % 2 == 0);
        let reader = Reader { world: world.clone(), address, read: owner.keys.read.clone(), seen, tries };
        async move { reader.read_all().await }
    });
    for (read, (owner, _)) in join_all(readers).await.into_iter().zip(&owners) {
        check_read(read, &owner.dataset, &failed, &mut files);
    }
    calm.set(true);
    power_loss(&world, &owners, &failed);
    Report {
        trace: blake3::Hash::from_bytes([0; 32]),
        calls: 0,
        virtual_seconds: world.clock.now().since(began).as_secs(),
        puts: (owners.iter().map(|(_, done)| done.0).sum(), owners.iter().map(|(_, done)| done.1).sum()),
        degraded: owners.iter().map(|(owner, _)| owner.degraded).sum(),
        failed: failed.len() as u64,
        beyond,
        files,
    }
}

async fn owner_story(world: Rc<World>, mut owner: Owner, snapshots: Vec<Files>) -> (Owner, (u64, u64)) {
    let mut puts = (0, 0);
    for files in snapshots {
        puts.1 += 1;
        match owner.put(&world, files).await {
            Ok(()) => puts.0 += 1,
            Err(failure) => {
                world.trace("put failed", failure as u64, 0);
                break;
            }
        }
    }
    (owner, puts)
}

/// Nodes fail for good: stop, or come back empty. Within the bound no segment and no head loses more than it can; beyond it
/// most nodes go.
fn fail_nodes(world: &World, draw: &mut Draw, owners: &[(Owner, (u64, u64))], beyond: bool) -> BTreeSet<NodeId> {
    let lies = |place: &usize| world.nodes()[*place].borrow().character.lie.is_some();
    let id = |place: usize| world.nodes()[place].borrow().id;
    let count = world.nodes().len();
    let mut failed: BTreeSet<NodeId> = (0..count).filter(lies).map(id).collect();
    let promised = |failed: &BTreeSet<NodeId>| {
        let survives = |(owner, _): &&(Owner, _)| owner.dataset.must_survive(failed);
        owners.iter().filter(survives).count()
    };
    let before = promised(&failed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, draw.below(last + 1));
    }
    let most = if beyond { count * (60 + draw.below(30)) / 100 } else { count * draw.below(60) / 100 };
    for place in order {
        if failed.len() >= most {
            break;
        }
        if !failed.insert(id(place)) {
            continue;
        }
        if !beyond && promised(&failed) < before {
            failed.remove(&id(place));
            continue;
        }
        world.crash(place, Crash::Everything, Condition::Dead);
        if draw.percent(33) {
            let now = world.clock.now();
            world.nodes()[place].borrow_mut().replace_disk(now);
            world.trace("empty disk", place as u64, 0);
        }
    }
    failed
}

/// Whatever happened, a reader gets the right bytes or an honest failure; within the bound it gets the bytes.
fn check_read(
    read: Result<Read, ReadFailure>,
    dataset: &Dataset,
    failed: &BTreeSet<NodeId>,
    counts: &mut (u64, u64, u64),
) {
    let promised = dataset.acknowledged.filter(|_| dataset.must_survive(failed));
    let read = match read {
        Ok(read) => read,
        Err(failure) => {
            assert!(promised.is_none(), "what was acknowledged must be readable: {failure:?}");
            counts.2 += 1;
            return;
        }
    };
    let expected = dataset.tried.get(&read.sequence).expect("a reader sees only what the owner wrote");
    if let Some(promised) = promised {
        assert!(read.sequence >= promised, "head {} was written, {} came back", promised, read.sequence);
    }
    assert_eq!(read.files.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "the list of files");
    for (name, content) in read.files {
        match content {
            Ok(bytes) => {
                assert!(bytes == expected[&name], "wrong bytes came back");
                counts.0 += 1;
            }
            Err(failure) => {
                assert!(promised.is_none(), "what was acknowledged must be readable: {failure:?}");
                match failure {
                    FetchFailure::Lost => counts.1 += 1,
                    FetchFailure::Unreachable => counts.2 += 1,
                }
            }
        }
    }
}

/// Power is lost everywhere at once: every honest node still holds what it acknowledged.
fn power_loss(world: &World, owners: &[(Owner, (u64, u64))], failed: &BTreeSet<NodeId>) {
    for place in 0..world.nodes().len() {
        let (id, condition) = {
            let node = world.nodes()[place].borrow();
            (node.id, node.condition)
        };
        if !failed.contains(&id) && condition != Condition::Dead {
            world.crash(place, Crash::Everything, Condition::Down);
            world.restart(place);
        }
    }
    for segment in owners.iter().flat_map(|(owner, _)| &owner.dataset.segments) {
        for (root, node) in &segment.shards {
            let Some(id) = node.filter(|node| !failed.contains(node)) else { continue };
            let node = world.node(id).borrow();
            let store = node.service().expect("it was started just now").store();
            let shard = store.lookup(root).expect("the disk works").expect("an acknowledged shard is there");
            let mut bytes = vec![0; shard.length_bytes as usize];
            store.read(root, 0, &mut bytes).expect("an acknowledged shard can be read");
            assert_eq!(root_of(&bytes), *root, "an acknowledged shard is whole");
        }
    }
}
