//! What the store asks of a disk: five calls on a folder and six on a file, and their real implementation.
//!
//! Decides nothing about what is written. Everything that the store does to a disk goes through these two traits,
//! so that a simulated disk that loses, reorders and tears un-synced writes can take the real one's place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Advice, FlockOperation};
use rustix::io::ReadWriteFlags;

use crate::piece::Piece;

/// Pages of files and of memory, in bytes: what a device can take past the operating system's cache is made of these. No smaller
/// than the blocks of any disk in use.
pub const PAGE_BYTES: usize = 4096;

/// One folder of plain files, and the device under it.
pub trait Disk: Send + Sync + 'static {
    /// An open file of this folder; stays readable while it is held, even after [`Disk::remove`].
    type File: DiskFile;

    /// Names of all plain files in the folder, in no order.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing. With `create` the file must not exist yet.
    ///
    /// # Errors
    /// `NotFound` without `create`, `AlreadyExists` with it, or whatever the device reports.
    fn open(&self, name: &str, create: bool) -> io::Result<Self::File>;

    /// Removes a file's name; durable only after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// `NotFound`, or whatever the device reports.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes earlier creations and removals of names durable.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn sync_folder(&self) -> io::Result<()>;

    /// Bytes that this process may still write to the device.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One open file; all calls may run at the same time.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads at an offset as much as there is, up to the buffer's length; less only at the end of the file.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`DiskFile::read_at`], into a piece of `count` bytes; a shorter one only at the end of the file.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn read_piece(&self, count: usize, offset: u64) -> io::Result<Piece> {
        let mut piece = Piece::new(count, offset);
        let read = self.read_at(piece.bytes_mut(), offset)?;
        piece.truncate(read);
        Ok(piece)
    }

    /// Writes all bytes at an offset, growing the file where needed; durable only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// `StorageFull`, or whatever the device reports; part of the bytes may be written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// As [`DiskFile::write_at`], for whole pages that nobody is expected to read soon: offset, length and the place in memory are
    /// multiples of [`PAGE_BYTES`].
    ///
    /// # Errors
    /// As [`DiskFile::write_at`].
    fn write_pages(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(pages, offset)
    }

    /// Makes every write that returned before this call durable, the file's length included.
    ///
    /// # Errors
    /// Whatever the device reports; nothing un-synced may be trusted after that, even if a later call succeeds.
    fn sync(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Sets the file's length; new bytes read as zero.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes later reads ask the device, as far as the operating system allows. After a failed sync its cache may go on showing
    /// what never reached the device, to this process and to the next one.
    fn forget_cached(&self) {}
}

/// A folder of the operating system's file system, locked against other processes while it is open. The folder itself is
/// locked and no file in it: an empty mount point must not be written to.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    _lock: File,
}

impl FileDisk {
    /// Opens a folder that exists and locks it.
    ///
    /// # Errors
    /// `NotFound` when the folder is missing, `WouldBlock` when another process has it locked.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::metadata(path)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is not a folder", path.display())));
        }
        let lock = File::open(path)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for FileDisk {
    type File = RealFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<RealFile> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(create).mode(0o600).open(&path)?;
        // The first large read goes past the cache.
        Ok(RealFile { file, path, direct: OnceLock::new(), reads: AtomicU32::new(1) })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

/// A file of a [`FileDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
    path: PathBuf,
    /// The same file past the cache, opened when it is first needed; none where the file system has no such thing.
    direct: OnceLock<Option<File>>,
    /// Large reads that the cache did not answer.
    reads: AtomicU32,
}

/// Reads of at least this much look past the cache.
const UNCACHED_READ_LEAST_BYTES: usize = 128 * 1024;
/// One of so many large reads goes through the cache all the same, so that what is read often comes to be there.
const READS_PER_CACHED: u32 = 4;
impl RealFile {
    fn direct(&self) -> Option<&File> {
        let open = || {
            let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
            let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path).ok()?;
            // The name may have been given to another file meanwhile.
            let (this, other) = (self.file.metadata().ok()?, direct.metadata().ok()?);
            (this.dev() == other.dev() && this.ino() == other.ino()).then_some(direct)
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Reads what the cache has of the front of this, without waiting for the device. Nothing where that cannot be told.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> usize {
        let mut pieces = [io::IoSliceMut::new(buffer)];
        rustix::io::preadv2(&self.file, &mut pieces, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    /// Reads what is missing of a piece past the cache, as much as the device gives; nothing where that does not work. Gives how many
    /// bytes of the piece are there then.
    fn read_direct(&self, piece: &mut Piece, filled: usize, offset: u64) -> usize {
        let Some(direct) = self.direct() else { return filled };
        let length = piece.bytes().len();
        let (pages, before) = piece.pages_from(filled);
        let read = direct.read_at(pages, offset + filled as u64 - before as u64).unwrap_or(0);
        (filled + read.saturating_sub(before)).min(length)
    }

    /// Whether a read of which the cache has nothing is to go past it.
    fn goes_past_cache(&self, left: usize) -> bool {
        left >= UNCACHED_READ_LEAST_BYTES
            && !self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(READS_PER_CACHED)
    }

    /// Reads what is missing of a buffer through the cache; gives how much is there then.
    fn read_rest(&self, buffer: &mut [u8], mut filled: usize, offset: u64) -> io::Result<usize> {
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl DiskFile for RealFile {
    /// Large reads take what the cache has and the rest past it: of the shards of a node few are read twice in the time that pages
    /// stay there. What is not to be had so, and what is small, comes through the cache.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        if buffer.len() >= UNCACHED_READ_LEAST_BYTES {
            filled = self.read_cached(buffer, offset);
            let left = buffer.len() - filled;
            if self.goes_past_cache(left) {
                let offset = offset + filled as u64;
                let mut piece = Piece::new(left, offset);
                let count = self.read_direct(&mut piece, 0, offset);
                buffer[filled..filled + count].copy_from_slice(&piece.bytes()[..count]);
                filled += count;
            }
        }
        self.read_rest(buffer, filled, offset)
    }

    fn read_piece(&self, count: usize, offset: u64) -> io::Result<Piece> {
        let mut piece = Piece::new(count, offset);
        let mut filled = 0;
        if count >= UNCACHED_READ_LEAST_BYTES {
            filled = self.read_cached(piece.bytes_mut(), offset);
            if self.goes_past_cache(count - filled) {
                filled = self.read_direct(&mut piece, filled, offset);
            }
        }
        let read = self.read_rest(piece.bytes_mut(), filled, offset)?;
        piece.truncate(read);
        Ok(piece)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Past the cache, where the file system can: a node stores far more than fits there, and reads little of it soon. Through
    /// the cache every page would be taken from the system, filled and thrown out again, at several times the cost.
    fn write_pages(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        let Some(direct) = self.direct() else { return self.write_at(pages, offset) };
        match direct.write_at(pages, offset) {
            Ok(count) if count == pages.len() => Ok(()),
            // What a device leaves over, or does not take in this form, goes the other way: writing again does no harm.
            Ok(count) => self.write_at(&pages[count..], offset + count as u64),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.write_at(pages, offset),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.write_at(pages, offset),
            Err(error) => Err(error),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn forget_cached(&self) {
        // Only advice: where it is not taken, reads are no worse than before.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_against_a_second_opening() {
        let folder = tempfile::tempdir().unwrap();
        let first = FileDisk::open(folder.path()).unwrap();
        assert_eq!(FileDisk::open(folder.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        FileDisk::open(folder.path()).unwrap();
    }

    #[test]
    fn pages_past_the_cache_are_what_readers_see() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(folder.path()).unwrap();
        let file = disk.open("a", true).unwrap();
        let memory: Vec<u8> = (0..5 * PAGE_BYTES).map(|place| u8::try_from(place / 7 % 256).unwrap()).collect();
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        let pages = &memory[start..start + 3 * PAGE_BYTES];
        let mut seen = vec![0; 3 * PAGE_BYTES];
        // Read before, so that stale pages are in the cache; written around, so that some are dirty.
        file.write_at(&vec![9; 5 * PAGE_BYTES], 0).unwrap();
        assert_eq!(file.read_at(&mut seen, PAGE_BYTES as u64).unwrap(), seen.len());
        file.write_pages(pages, PAGE_BYTES as u64).unwrap();
        assert_eq!(file.read_at(&mut seen, PAGE_BYTES as u64).unwrap(), seen.len());
        assert!(seen == pages);
        file.write_at(b"tail", 4 * PAGE_BYTES as u64).unwrap();
        file.write_pages(pages, 8 * PAGE_BYTES as u64).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 11 * PAGE_BYTES as u64);
        assert_eq!(file.read_at(&mut seen, 8 * PAGE_BYTES as u64).unwrap(), seen.len());
        assert!(seen == pages);
    }

    #[test]
    fn large_reads_see_what_was_written_however_they_go() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(folder.path()).unwrap();
        let file = disk.open("a", true).unwrap();
        let body: Vec<u8> = (0..1_000_003_u32).map(|place| u8::try_from(place * 7 / 13 % 256).unwrap()).collect();
        file.write_at(&body, 77).unwrap();
        for round in 0..12 {
            if round % 3 == 0 {
                // On a disk the pages go; where they stay, the cache answers.
                file.sync().unwrap();
                file.forget_cached();
            }
            for (from, length) in
                [(0, 1_000_003), (1, 200_000), (123_456, 128 * 1024), (999_000, 1_003), (900_000, 100_003)]
            {
                let mut seen = vec![0; length + 5];
                let count = file.read_at(&mut seen[..length], 77 + from as u64).unwrap();
                assert!(count == length && seen[..length] == body[from..from + length], "{from}, {length}");
                assert_eq!(seen[length..], [0; 5]);
                let piece = file.read_piece(length, 77 + from as u64).unwrap();
                assert!(piece.bytes() == &body[from..from + length], "{from}, {length}");
            }
            let mut seen = vec![0; 400_000];
            assert_eq!(file.read_at(&mut seen, 77 + 800_000).unwrap(), 200_003, "the file ends");
            assert!(seen[..200_003] == body[800_000..]);
            assert!(file.read_piece(400_000, 77 + 800_000).unwrap().bytes() == &body[800_000..]);
            assert_eq!(file.read_at(&mut seen, 5_000_000).unwrap(), 0);
            assert_eq!(file.read_piece(400_000, 5_000_000).unwrap().bytes(), b"");
        }
    }

    #[test]
    fn files_keep_what_was_written_and_survive_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(folder.path()).unwrap();
        assert_eq!(disk.open("a", false).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = disk.open("a", true).unwrap();
        assert_eq!(disk.open("a", true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"stone", 3).unwrap();
        file.sync().unwrap();
        disk.sync_folder().unwrap();
        let mut buffer = [0xff; 16];
        assert_eq!(file.read_at(&mut buffer, 1).unwrap(), 7);
        assert_eq!(&buffer[..7], b"\0\0stone");
        assert!(disk.list().unwrap().contains(&"a".to_owned()));
        disk.remove("a").unwrap();
        assert!(!disk.list().unwrap().contains(&"a".to_owned()));
        file.truncate(4).unwrap();
        assert_eq!(file.len().unwrap(), 4);
        assert!(disk.free_bytes().unwrap() > 0);
    }
}
