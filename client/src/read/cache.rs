//! Sealed blobs of documents kept on disk, so that a folder that was listed once is listed again without the network.
//!
//! Decides where a blob lies and which go when there are too many. Never trusts a file: what is here is as sealed as on
//! a node, the blob's key says whether it is whole and the right one, and whatever is not counts as missing. Names are
//! hashes, so they tell nothing about segments.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use dolmen_proto::tree::BlobPointer;

/// Bytes that the whole cache holds at most: 1 GiB.
const CACHE_MAX_BYTES: u64 = 1 << 30;
/// Folders that blobs are spread over, each bounded by itself, so that making room looks at a few dozen files.
const FOLDERS: u64 = 256;
/// Larger blobs are not kept: they are few, and one would push out much.
const BLOB_KEPT_MAX_BYTES: usize = 1 << 20;

/// A folder of sealed blobs. Clones share it; so may other processes.
#[derive(Debug, Clone)]
pub(crate) struct BlobCache {
    folder: Arc<Path>,
    folder_max_bytes: u64,
    /// Makes the names of files that are not whole yet distinct within this process.
    next: Arc<AtomicU64>,
}

impl BlobCache {
    /// The cache in a folder, which is made when something is kept.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::bounded(folder, CACHE_MAX_BYTES)
    }

    fn bounded(folder: &Path, max_bytes: u64) -> Self {
        Self { folder: folder.into(), folder_max_bytes: max_bytes / FOLDERS, next: Arc::default() }
    }

    fn path(&self, pointer: &BlobPointer) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(pointer.segment.as_bytes()).update(&pointer.offset.to_le_bytes());
        let name = hasher.finalize().to_hex();
        self.folder.join(&name[..2]).join(&name[2..34])
    }

    /// The sealed bytes at a pointer's place, unchecked but for their number; `None` when they are not here.
    pub(crate) async fn get(&self, pointer: &BlobPointer) -> Option<Vec<u8>> {
        let (path, length) = (self.path(pointer), pointer.sealed_bytes());
        if length > BLOB_KEPT_MAX_BYTES {
            return None;
        }
        tokio::task::spawn_blocking(move || read(&path, length)).await.ok()?
    }

    /// Keeps sealed bytes. Failing is no failure: they can be fetched again.
    pub(crate) async fn put(&self, pointer: &BlobPointer, sealed: Vec<u8>) {
        if sealed.len() > BLOB_KEPT_MAX_BYTES || sealed.len() != pointer.sealed_bytes() {
            return;
        }
        let (cache, path) = (self.clone(), self.path(pointer));
        let kept = tokio::task::spawn_blocking(move || cache.write(&path, &sealed)).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(%error, "a document could not be kept");
        }
    }

    fn write(&self, path: &Path, sealed: &[u8]) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        make_room(folder, self.folder_max_bytes.saturating_sub(sealed.len() as u64));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!("{}-{number}.new", std::process::id()));
        let written = fs::File::create(&temporary).and_then(|mut file| file.write_all(sealed));
        written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }
}

fn read(path: &Path, length: usize) -> Option<Vec<u8>> {
    let file = fs::File::open(path).ok()?;
    if file.metadata().ok()?.len() != length as u64 {
        return None;
    }
    let mut sealed = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut sealed).ok()?;
    (sealed.len() == length).then_some(sealed)
}

/// Removes the oldest files of a folder until it holds no more than so many bytes.
fn make_room(folder: &Path, most_bytes: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), entry.path()))
        })
        .collect();
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    if total <= most_bytes {
        return;
    }
    files.sort();
    for (_, length, path) in files {
        if total <= most_bytes {
            return;
        }
        // Another process may have removed it, which makes as much room.
        let _ = fs::remove_file(path);
        total = total.saturating_sub(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::ids::SegmentId;
    use dolmen_proto::seal::ChunkKey;

    fn pointer(offset: u32, length: u32) -> BlobPointer {
        BlobPointer { key: ChunkKey::new([1; 32]), segment: SegmentId::new([2; 32]), offset, length }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        inside(folder).flat_map(|folder| inside(&folder).collect::<Vec<_>>()).collect()
    }

    #[tokio::test]
    async fn what_was_kept_is_found_and_a_torn_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BlobCache::new(folder.path());
        let here = pointer(5, 1000);
        let sealed = vec![7; here.sealed_bytes()];
        assert_eq!(cache.get(&here).await, None);
        cache.put(&here, sealed.clone()).await;
        assert_eq!(BlobCache::new(folder.path()).get(&here).await, Some(sealed.clone()));
        assert_eq!(cache.get(&pointer(6, 1000)).await, None);
        assert_eq!(cache.get(&pointer(5, 999)).await, None, "another blob begins there");
        fs::File::options().write(true).open(&files(folder.path())[0]).unwrap().set_len(900).unwrap();
        assert_eq!(cache.get(&here).await, None);
        cache.put(&here, sealed[1..].to_vec()).await;
        assert_eq!(cache.get(&here).await, None, "bytes of another length are not kept");
    }

    #[tokio::test]
    async fn the_oldest_make_room_and_a_folder_that_cannot_be_written_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BlobCache::bounded(folder.path(), FOLDERS * 3000);
        for offset in 0..2000 {
            let here = pointer(offset, 984);
            cache.put(&here, vec![7; here.sealed_bytes()]).await;
            assert!(cache.get(&here).await.is_some());
        }
        let left = files(folder.path());
        assert!(left.len() <= 256 * 3 && left.len() > 256, "{}", left.len());
        let missing = BlobCache::new(Path::new("/proc/no/such/place"));
        missing.put(&pointer(1, 10), vec![0; 26]).await;
        assert_eq!(missing.get(&pointer(1, 10)).await, None);
    }
}
