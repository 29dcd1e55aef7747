//! A disk in memory that does what real ones do to those who trust them.
//!
//! Decides, from a seed, what of the un-synced writes survives a crash: each sector of each file keeps any of the versions it
//! had since the last sync, in any combination, a file's length likewise, and names come and go until their folder is synced.
//! Also on demand: no space after so many bytes, a failing sync (after which some of what was dirty is lost for good although
//! reads still show it, as Linux does), bit rot, and errors in reading and writing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dolmen_storage_node::disk::{Disk, DiskFile};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// Numbers from this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below a bound, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}

/// How much of what was not synced a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All of it: power loss at its worst.
    Everything,
    /// None of it: the process was killed.
    Nothing,
    /// Any part of it.
    Anything,
}

type Sector = Box<[u8; SECTOR_BYTES]>;

#[derive(Debug, Default)]
struct Inode {
    /// What reads see.
    seen: Vec<u8>,
    /// What is on the platter.
    kept: Vec<u8>,
    /// Versions that a sector had since the last sync, which may or may not reach the platter.
    versions: BTreeMap<usize, Vec<Sector>>,
    /// Lengths that the file had since the last sync.
    lengths: Vec<usize>,
}

fn sector_of(bytes: &[u8], sector: usize) -> Sector {
    let mut copy = Box::new([0; SECTOR_BYTES]);
    let start = (sector * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    copy[..end - start].copy_from_slice(&bytes[start..end]);
    copy
}

fn put_sector(bytes: &mut [u8], sector: usize, content: &[u8; SECTOR_BYTES]) {
    let start = (sector * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    bytes[start..end].copy_from_slice(&content[..end - start]);
}

impl Inode {
    fn note(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let version = sector_of(&self.seen, sector);
            self.versions.entry(sector).or_default().push(version);
        }
        self.lengths.push(self.seen.len());
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        let before = self.seen.len();
        if before < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.note(offset.min(before), end);
    }

    fn truncate(&mut self, length: usize) {
        let before = self.seen.len();
        self.seen.resize(length, 0);
        self.note(length.min(before), length.max(before).min(length.next_multiple_of(SECTOR_BYTES)));
    }

    fn sync(&mut self) {
        // Only what is dirty reaches the platter: a page that a failed sync dropped is clean and stays lost.
        self.kept.resize(self.seen.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.versions) {
            if let Some(last) = versions.last() {
                put_sector(&mut self.kept, sector, last);
            }
        }
        self.lengths.clear();
    }

    /// A part of what is dirty reaches the platter, and none of it is dirty any more.
    fn settle(&mut self, draw: &mut Draw, crash: Crash) {
        let versions = std::mem::take(&mut self.versions);
        let lengths = std::mem::take(&mut self.lengths);
        if crash == Crash::Everything {
            return;
        }
        if !lengths.is_empty() && draw.percent(70) {
            self.kept.resize(lengths[draw.below(lengths.len())], 0);
        }
        let chance = [5, 50, 95][draw.below(3)];
        for (sector, versions) in versions {
            if draw.percent(chance) {
                let newest = versions.len() - 1;
                let version =
                    if crash == Crash::Nothing || draw.percent(70) { newest } else { draw.below(versions.len()) };
                put_sector(&mut self.kept, sector, &versions[version]);
            }
        }
    }

    fn crash(&mut self, draw: &mut Draw, crash: Crash) {
        self.settle(draw, crash);
        self.seen.clone_from(&self.kept);
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    /// Names as they are seen.
    names: BTreeMap<String, usize>,
    /// Names as they are on the platter.
    kept_names: BTreeMap<String, usize>,
    capacity_bytes: Option<usize>,
    failing_syncs: u32,
    failing_reads: bool,
    /// Sectors (inode, number) that cannot be read.
    bad_sectors: BTreeSet<(usize, usize)>,
    failing_writes: bool,
    /// Grows with every crash: files opened before are of no use.
    era: u64,
    syncs: u64,
    draw: Option<Draw>,
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].seen.len()).sum()
    }
}

/// The disk; clones are one disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

fn eio() -> io::Error {
    io::Error::other("input/output error")
}

impl FaultyDisk {
    /// An empty disk whose failing syncs lose what this seed says.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.lock().draw = Some(Draw::new(seed));
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power is lost, or the process killed: un-synced writes survive as `crash` says, and open files are of no use any more.
    pub fn crash(&self, draw: &mut Draw, crash: Crash) {
        let mut state = self.lock();
        state.era += 1;
        state.failing_syncs = 0;
        state.failing_reads = false;
        state.failing_writes = false;
        if crash == Crash::Nothing {
            // What a killed process wrote is still dirty, and may yet be lost with the power.
            return;
        }
        for inode in &mut state.inodes {
            inode.crash(draw, crash);
        }
        let mut survives = || crash == Crash::Anything && draw.percent(50);
        let mut names = state.kept_names.clone();
        let made = state.names.iter().filter(|(name, inode)| names.get(*name) != Some(*inode));
        for (name, inode) in made.map(|(name, inode)| (name.clone(), *inode)).collect::<Vec<_>>() {
            if survives() {
                names.insert(name, inode);
            }
        }
        let removed = |name: &String| !state.names.contains_key(name);
        for name in names.keys().filter(|name| removed(name)).cloned().collect::<Vec<_>>() {
            if survives() {
                names.remove(&name);
            }
        }
        state.names.clone_from(&names);
        state.kept_names = names;
    }

    /// The next so many syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().failing_syncs = count;
    }

    /// Whether reads fail.
    pub fn fail_reads(&self, fail: bool) {
        self.lock().failing_reads = fail;
    }

    /// Whether writes fail.
    pub fn fail_writes(&self, fail: bool) {
        self.lock().failing_writes = fail;
    }

    /// Most bytes of all files together.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity_bytes = bytes;
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Names and lengths of all files.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, usize> {
        let state = self.lock();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].seen.len())).collect()
    }

    /// The first place at which these bytes stand in any file.
    #[must_use]
    pub fn find(&self, needle: &[u8]) -> Option<(String, usize)> {
        let state = self.lock();
        state.names.iter().find_map(|(name, inode)| {
            let seen = &state.inodes[*inode].seen;
            let at = seen.windows(needle.len()).position(|window| window == needle)?;
            Some((name.clone(), at))
        })
    }

    /// Makes the sector at an offset unreadable.
    pub fn spoil(&self, name: &str, offset: usize) {
        let mut state = self.lock();
        if let Some(&inode) = state.names.get(name) {
            state.bad_sectors.insert((inode, offset / SECTOR_BYTES));
        }
    }

    /// Flips one bit, on the platter and as it is seen.
    pub fn rot(&self, name: &str, offset: usize, bit: u8) {
        let mut state = self.lock();
        let Some(&inode) = state.names.get(name) else { return };
        let inode = &mut state.inodes[inode];
        for bytes in [&mut inode.seen, &mut inode.kept] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.lock();
        if state.failing_reads { Err(eio()) } else { Ok(state.names.keys().cloned().collect()) }
    }

    fn open(&self, name: &str, create: bool) -> io::Result<FaultyFile> {
        let mut state = self.lock();
        let inode = match (state.names.get(name), create) {
            (Some(_), true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), false) => *inode,
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (None, true) => {
                if state.failing_writes {
                    return Err(eio());
                }
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.names.insert(name.to_owned(), inode);
                inode
            }
        };
        Ok(FaultyFile { disk: self.clone(), inode, era: state.era })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.failing_writes {
            return Err(eio());
        }
        state.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.failing_writes {
            return Err(eio());
        }
        state.kept_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.capacity_bytes.map_or(1 << 40, |capacity| capacity.saturating_sub(state.used()) as u64))
    }
}

/// A file of a [`FaultyDisk`].
#[derive(Debug)]
pub struct FaultyFile {
    disk: FaultyDisk,
    inode: usize,
    era: u64,
}

impl FaultyFile {
    fn with<T>(&self, call: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.era != self.era {
            return Err(io::Error::other("the machine was restarted since this file was opened"));
        }
        call(&mut state, self.inode)
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, inode| {
            if state.failing_reads {
                return Err(eio());
            }
            let seen = &state.inodes[inode].seen;
            let start = position(offset)?.min(seen.len());
            let count = buffer.len().min(seen.len() - start);
            let sectors = (inode, start / SECTOR_BYTES)..(inode, (start + count).div_ceil(SECTOR_BYTES));
            if state.bad_sectors.range(sectors).next().is_some() {
                return Err(eio());
            }
            buffer[..count].copy_from_slice(&seen[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, inode| {
            if state.failing_writes {
                return Err(eio());
            }
            let offset = position(offset)?;
            let grown = (offset + bytes.len()).saturating_sub(state.inodes[inode].seen.len());
            let free = state.capacity_bytes.map_or(usize::MAX, |capacity| capacity.saturating_sub(state.used()));
            if grown > free {
                // What still fits is written, as file systems do.
                let part = bytes.len().saturating_sub(grown - free);
                state.inodes[inode].write(&bytes[..part], offset);
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.inodes[inode].write(bytes, offset);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, inode| {
            state.syncs += 1;
            if state.failing_writes || state.failing_syncs > 0 {
                state.failing_syncs = state.failing_syncs.saturating_sub(1);
                let mut draw = state.draw.take().unwrap_or(Draw::new(0));
                state.inodes[inode].settle(&mut draw, Crash::Anything);
                state.draw = Some(draw);
                return Err(eio());
            }
            state.inodes[inode].sync();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, inode| Ok(state.inodes[inode].seen.len() as u64))
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.with(|state, inode| {
            if state.failing_writes {
                return Err(eio());
            }
            state.inodes[inode].truncate(position(length)?);
            Ok(())
        })
    }

    fn forget_cached(&self) {
        let _ = self.with(|state, inode| {
            let inode = &mut state.inodes[inode];
            for sector in 0..inode.seen.len().div_ceil(SECTOR_BYTES) {
                if !inode.versions.contains_key(&sector) {
                    let kept = sector_of(&inode.kept, sector);
                    put_sector(&mut inode.seen, sector, &kept);
                }
            }
            Ok(())
        });
    }
}
