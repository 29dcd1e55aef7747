//! Snapshots that their owner never wrote like that: names that lead elsewhere, trees that are cut off or lie about what they
//! hold. A reader gets a named error and writes nothing outside of where he was told to.

use dolmen_proto::codec::Needs;
use dolmen_proto::ids::Timestamp;
use dolmen_proto::manifest::{Entry, EntryKind as Kind, ExtentList, FileEntry, FolderBlob, FolderEntry, Name, Totals};
use dolmen_proto::tree::BlobSink;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::commit::{Change, CommitOptions, NewSnapshot, Operation, State, Tree};
use crate::put::Store;
use crate::{Destination, GetOptions};

/// Makes these bytes the root folder of a snapshot that says that they are so many files.
struct Forge {
    blob: Vec<u8>,
    files: u64,
}

impl Operation for Forge {
    fn apply<'a>(
        &'a mut self,
        _base: &'a State,
        store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let (blob, files) = (self.blob.clone(), self.files);
        async move {
            let tree = store
                .write(move |sink| {
                    sink.make_room(blob.len())?;
                    sink.put(blob)
                })
                .await?;
            let root = FolderEntry { totals: Totals { files, ..Totals::default() }, tree };
            let tags = vec!["forged".to_owned()];
            let new = NewSnapshot { root, single: false, needs: Needs::NONE, message: String::new(), tags };
            Ok(Change { tree: Tree::New(new), ..Change::default() })
        }
        .boxed()
    }
}

/// A folder's blob with one empty file, whose name is then replaced by another of the same length.
fn renamed(name: &[u8]) -> Vec<u8> {
    let honest = vec![b'N'; name.len()];
    let hash = Some(*blake3::hash(b"").as_bytes());
    let kind = Kind::File(FileEntry { size_bytes: 0, hash, extents: ExtentList::Inline(Vec::new()) });
    let entry = Entry::new(Name::new(honest.clone()).unwrap(), 0o644, 1, kind);
    let mut blob = FolderBlob::Leaf(vec![entry]).to_bytes();
    let places: Vec<usize> =
        blob.windows(name.len()).enumerate().filter(|(_, part)| *part == honest).map(|(at, _)| at).collect();
    let [at] = places[..] else { panic!("the name is there once") };
    blob[at..at + name.len()].copy_from_slice(name);
    blob
}

/// All that lies in a folder, at any depth.
fn everything(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
        }
        found.insert(path);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_manifest_is_an_error_by_name_and_writes_nothing_elsewhere() {
    let world = World::new(4);
    let machine = world.machine().await;
    let honest = renamed(b"honest");
    let forgeries: [(&str, Vec<u8>, u64); 8] = [
        ("the folder above", renamed(b".."), 1),
        ("the folder itself", renamed(b"."), 1),
        ("a path", renamed(b"../escaped"), 1),
        ("a path from the root", renamed(b"/tmp/dolmen-escaped"), 1),
        ("a name with a zero byte", renamed(b"a\0b"), 1),
        ("a tree that is cut off", honest[..honest.len() - 1].to_vec(), 1),
        ("a tree with a byte too many", [&honest[..], &[0]].concat(), 1),
        ("a tree with fewer files than it says", honest.clone(), 2),
    ];
    for (number, (what, blob, count)) in forgeries.into_iter().enumerate() {
        let dataset = machine.create(&format!("d{number}")).await;
        let good = machine.put(&dataset, &[("kept", b"before")]).await.unwrap();
        let owner = dataset.owner();
        let options = CommitOptions {
            lease: Duration::from_secs(86_400 * 30),
            require_full: false,
            paths: Vec::new(),
            place: Vec::new(),
        };
        within(crate::commit::commit(owner, &options, &mut Forge { blob, files: count })).await.map(drop).unwrap();

        let (folder, reader) = world.stranger();
        let link = within(dataset.read_link(&[])).await.unwrap();
        let target = folder.path().join("inner/target");
        std::fs::create_dir_all(&target).unwrap();
        let outside = || {
            let all = everything(&folder.path().join("inner"));
            all.into_iter().filter(|path| !path.starts_with(&target)).collect::<Vec<_>>()
        };
        let to = Destination::Path(target.clone());
        let got = within(reader.get(&link, to, &GetOptions::default())).await;
        let error = got.expect_err(what);
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Damaged, 5), "{what}: {error}");
        assert_eq!(outside(), Vec::<PathBuf>::new(), "{what}");
        assert!(!Path::new("/tmp/dolmen-escaped").exists());

        let snapshot = within(reader.snapshot(&link)).await.unwrap();
        let mut listing = snapshot.list(b"", true).await.unwrap();
        let mut listed = Ok(());
        while listed.is_ok() {
            listed = match within(listing.next()).await {
                Ok(Some(_)) => continue,
                Ok(None) => break,
                Err(error) => Err(error.kind()),
            };
        }
        assert_eq!(listed, Err(ErrorKind::Damaged), "{what}");
        // A change on top of it fails the same way, and what was there before is not lost.
        let on_top = machine.put(&dataset, &[("more", b"more")]).await.unwrap_err();
        assert_eq!(on_top.kind(), ErrorKind::Damaged, "{what}: {on_top}");
        assert_eq!(files(&dataset, &named(&good.snapshot)).await, expected(&[("kept", b"before")]), "{what}");
    }
}
