//! Puts, removals and collections that end after any number of calls, alone or beside another machine's, against what
//! must be there in spite of it.

use super::*;

const WEEK: Duration = Duration::from_secs(8 * 86_400);
const SEEDS: u64 = 3;
const ROUNDS: u8 = 10;

/// Numbers that look random, the same for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// What must be there: the files of the newest snapshot, and every snapshot that is kept as it was when first seen.
#[derive(Default)]
struct Model {
    newest: Files,
    kept: BTreeMap<String, Files>,
}

impl Model {
    async fn check(&mut self, dataset: &Dataset, what: &str) {
        assert_eq!(files(dataset, &Selector::Newest).await, self.newest, "{what}");
        for entry in within(dataset.log()).await.unwrap() {
            let found = files(dataset, &named(&entry.snapshot)).await;
            let was = self.kept.entry(entry.snapshot.clone()).or_insert_with(|| found.clone());
            assert_eq!(*was, found, "{what}: snapshot {}", entry.snapshot);
        }
    }
}

async fn run(seed: u64) {
    let world = World::new(4);
    let mut draw = Draw(seed);
    let machines = [world.machine().await, world.machine().await];
    let first = machines[0].create("d").await;
    let datasets = [first, machines[1].dataset("d").await];
    let mut model = Model::default();
    for round in 0..ROUNDS {
        let (calls, kind) = (draw.below(220), draw.below(5));
        let (who, again) = (draw.below(2) as usize, draw.below(2) as usize);
        let what = format!("seed {seed}, round {round}: {kind} of {who} cut off after {calls} calls, again by {again}");
        let (name, bytes) = (format!("file{round}"), noise(round, 40_000));
        let put = [(name.as_str(), bytes.as_slice())];
        let latest = ForgetPolicy { last: 1, ..ForgetPolicy::default() };
        let (machine, dataset) = (&machines[who], &datasets[who]);
        let network = &world.network;
        match kind {
            0 => drop(network.cut_off(calls, machine.put(dataset, &put)).await),
            1 => drop(network.cut_off(calls, within(dataset.gc(false))).await),
            2 => drop(network.cut_off(calls, within(dataset.forget(&latest))).await),
            3 => {
                let both = async { tokio::join!(machine.put(dataset, &put), within(datasets[1 - who].gc(false))) };
                drop(network.cut_off(calls, both).await);
            }
            _ => {
                if let Some(gone) = model.newest.keys().next().cloned() {
                    drop(network.cut_off(calls, within(dataset.remove_path(gone.as_bytes(), ""))).await);
                    match within(datasets[again].remove_path(gone.as_bytes(), "")).await {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}"),
                    }
                    model.newest.remove(&gone);
                }
            }
        }
        if matches!(kind, 0 | 3) {
            machines[again].put(&datasets[again], &put).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            model.newest.insert(name, bytes);
        }
        model.check(&datasets[1 - again], &what).await;
        if draw.below(3) == 0 {
            within(datasets[again].forget(&latest)).await.unwrap();
            within(datasets[again].gc(false)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            network.pass(WEEK);
        }
    }
    for _ in 0..2 {
        within(datasets[0].gc(false)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.network.pass(WEEK);
    }
    let fresh = world.machine().await;
    model.check(&fresh.dataset("d").await, &format!("seed {seed}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_cut_off_nothing_acknowledged_is_lost() {
    let seed = std::env::var("DOLMEN_SEED").ok().and_then(|seed| seed.parse().ok());
    match seed {
        Some(seed) => run(seed).await,
        None => {
            for seed in 0..SEEDS {
                run(seed).await;
            }
        }
    }
}
