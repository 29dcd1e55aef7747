//! Random changes by two machines against the simplest model of them.

use proptest::prelude::*;

use super::*;

/// What left is deleted after it.
const WEEK: Duration = Duration::from_secs(8 * 86_400);

const PATHS: [&str; 6] = ["a", "b", "dir/a", "dir/b", "dir/deep/c", "other/d"];

/// Something that a machine does.
#[derive(Debug, Clone)]
enum Deed {
    Put {
        paths: Vec<usize>,
        content: u8,
    },
    Remove {
        path: usize,
    },
    Tag,
    Forget {
        last: u32,
    },
    /// Garbage is collected, then a week goes by.
    Collect,
    /// One machine puts while the other collects garbage.
    PutBesideCollect {
        paths: Vec<usize>,
        content: u8,
    },
    /// Both machines put at the same time.
    PutBoth {
        one: Vec<usize>,
        other: Vec<usize>,
        content: u8,
    },
}

fn paths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::btree_set(0..PATHS.len(), 1..4).prop_map(|set| set.into_iter().collect())
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (paths(), any::<u8>()).prop_map(|(paths, content)| Deed::Put { paths, content }),
        2 => (0..PATHS.len()).prop_map(|path| Deed::Remove { path }),
        1 => Just(Deed::Tag),
        1 => (1u32..4).prop_map(|last| Deed::Forget { last }),
        2 => Just(Deed::Collect),
        2 => (paths(), any::<u8>()).prop_map(|(paths, content)| Deed::PutBesideCollect { paths, content }),
        2 => (paths(), paths(), any::<u8>())
            .prop_map(|(one, other, content)| Deed::PutBoth { one, other, content }),
    ]
}

fn bytes(content: u8, path: usize, writer: u8) -> Vec<u8> {
    vec![content ^ writer; 100 + path]
}

/// What should be: every kept snapshot, oldest first, with its files and tags.
#[derive(Default)]
struct Model {
    snapshots: Vec<(String, Files, Vec<String>)>,
    tags: u32,
}

impl Model {
    fn files(&self) -> Files {
        self.snapshots.last().map(|(_, files, _)| files.clone()).unwrap_or_default()
    }
}

async fn put(machine: &Machine, dataset: &Dataset, paths: &[usize], content: u8, writer: u8) -> PutReport {
    let owned: Vec<(&str, Vec<u8>)> = paths.iter().map(|path| (PATHS[*path], bytes(content, *path, writer))).collect();
    let files: Vec<(&str, &[u8])> = owned.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
    machine.put(dataset, &files).await.unwrap()
}

async fn run(deeds: Vec<(bool, Deed)>) {
    let world = World::new(5);
    let machines = [world.machine().await, world.machine().await];
    let first = machines[0].create("data").await;
    let datasets = [first, machines[1].dataset("data").await];
    let mut model = Model::default();
    for (who, deed) in deeds {
        let who = usize::from(who);
        let (machine, dataset) = (&machines[who], &datasets[who]);
        match deed {
            Deed::Put { paths, content } => {
                let report = put(machine, dataset, &paths, content, 0).await;
                let mut files = model.files();
                files.extend(paths.iter().map(|path| (PATHS[*path].to_owned(), bytes(content, *path, 0))));
                model.snapshots.push((report.snapshot, files, Vec::new()));
            }
            Deed::Remove { path } => {
                let mut files = model.files();
                let removed = within(dataset.remove_path(PATHS[path].as_bytes(), "")).await;
                match (files.remove(PATHS[path]), removed) {
                    (Some(_), Ok(id)) => model.snapshots.push((id.to_string(), files, Vec::new())),
                    (None, Err(error)) => assert_eq!(error.kind(), ErrorKind::NotFound),
                    (was, now) => panic!("{was:?} {now:?}"),
                }
            }
            Deed::Tag => {
                let tag = format!("tag{}", model.tags);
                model.tags += 1;
                let done = within(dataset.tag(&Selector::Newest, &tag)).await;
                match model.snapshots.last_mut() {
                    Some((.., tags)) => {
                        tags.push(tag);
                        done.unwrap();
                    }
                    None => assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound),
                }
            }
            Deed::Forget { last } => {
                let policy = ForgetPolicy { last, ..ForgetPolicy::default() };
                let dropped = within(dataset.forget(&policy)).await.unwrap();
                let gone = model.snapshots.len().saturating_sub(last as usize);
                let expected: Vec<String> = model.snapshots.drain(..gone).map(|(id, ..)| id).collect();
                assert_eq!(dropped.into_iter().map(|entry| entry.snapshot).collect::<Vec<_>>(), expected);
            }
            Deed::Collect => {
                within(dataset.gc(false)).await.unwrap();
                world.network.pass(WEEK);
            }
            Deed::PutBesideCollect { paths, content } => {
                let collect = within(datasets[1 - who].gc(false));
                let (report, collected) = tokio::join!(put(machine, dataset, &paths, content, 0), collect);
                collected.unwrap();
                let mut files = model.files();
                files.extend(paths.iter().map(|path| (PATHS[*path].to_owned(), bytes(content, *path, 0))));
                model.snapshots.push((report.snapshot, files, Vec::new()));
            }
            Deed::PutBoth { one, other, content } => {
                let (mine, theirs) = tokio::join!(
                    put(&machines[0], &datasets[0], &one, content, 1),
                    put(&machines[1], &datasets[1], &other, content, 2),
                );
                // Whatever came first, nothing of either is lost: each path has what one of them put, and what
                // does not stand there stands beside it or in a snapshot that is kept.
                let now = files(dataset, &Selector::Newest).await;
                let before = model.files();
                for (path, old) in &before {
                    let touched = |paths: &[usize]| paths.iter().any(|touched| PATHS[*touched] == path);
                    if !touched(&one) && !touched(&other) {
                        assert_eq!(now.get(path), Some(old), "{path} was not touched");
                    }
                }
                let log = within(dataset.log()).await.unwrap();
                let known: BTreeSet<&str> = model.snapshots.iter().map(|(id, ..)| id.as_str()).collect();
                let mut found = Vec::new();
                for entry in log.iter().rev().filter(|entry| !known.contains(entry.snapshot.as_str())) {
                    let files = files(dataset, &named(&entry.snapshot)).await;
                    found.push((entry.snapshot.clone(), files, entry.tags.clone()));
                }
                for (paths, writer) in [(&one, 1), (&other, 2)] {
                    for path in paths {
                        let put = bytes(content, *path, writer);
                        let kept = found.iter().any(|(_, files, _)| files.get(PATHS[*path]) == Some(&put));
                        assert!(kept, "what {writer} put at {} is in no snapshot", PATHS[*path]);
                        let beside = now.iter().any(|(name, bytes)| name.starts_with(PATHS[*path]) && *bytes == put);
                        let both = one.contains(path) && other.contains(path);
                        assert!(beside || both, "{} of {writer} is gone", PATHS[*path]);
                    }
                }
                assert!(found.len() >= 2, "both puts are in the history");
                assert!([&mine, &theirs].iter().all(|report| report.failed.is_empty()));
                model.snapshots.extend(found);
            }
        }
        // Any machine sees the same, whoever wrote.
        let log = within(datasets[1 - who].log()).await.unwrap();
        let ids = |entries: &mut dyn Iterator<Item = (String, Vec<String>)>| entries.collect::<Vec<_>>();
        assert_eq!(
            ids(&mut log.into_iter().rev().map(|entry| (entry.snapshot, entry.tags))),
            ids(&mut model.snapshots.iter().map(|(id, _, tags)| (id.clone(), tags.clone())))
        );
    }
    let fresh = world.machine().await;
    let dataset = fresh.dataset("data").await;
    for (id, expected, _) in &model.snapshots {
        assert_eq!(files(&dataset, &named(id)).await, *expected, "snapshot {id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn every_kept_snapshot_is_what_the_model_says(deeds in prop::collection::vec((any::<bool>(), deed()), 1..9)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(deeds));
    }
}
