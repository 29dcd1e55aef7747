//! A disk with a watch on it: how many operations are out, and since when the oldest is.
//!
//! Decides nothing; whoever runs the node reads it and gives up on a disk that hangs. The only clock of the store, and
//! nothing that is written depends on it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sync::lock;
use crate::disk::{Disk, DiskFile};

/// What is known of one disk's operations.
#[derive(Debug, Default)]
pub(crate) struct Health {
    outstanding: Mutex<BTreeMap<u64, Instant>>,
    started: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
}

impl Health {
    fn run<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        lock(&self.outstanding).insert(number, Instant::now());
        let result = operation();
        lock(&self.outstanding).remove(&number);
        self.finished.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::NotFound
        {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// For how long the oldest operation that is still out has been.
    pub(crate) fn oldest_operation(&self) -> Option<Duration> {
        lock(&self.outstanding).values().min().map(Instant::elapsed)
    }

    /// Operations that came back.
    pub(crate) fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// Operations that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// A disk whose operations are counted and timed.
#[derive(Debug)]
pub(crate) struct WatchedDisk<D> {
    disk: D,
    health: Arc<Health>,
}

impl<D> WatchedDisk<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk, health: Arc::default() }
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }
}

impl<D: Disk> Disk for WatchedDisk<D> {
    type File = WatchedFile<D::File>;

    fn list(&self) -> io::Result<Vec<String>> {
        self.health.run(|| self.disk.list())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Self::File> {
        let file = self.health.run(|| self.disk.open(name, create))?;
        Ok(WatchedFile { file, health: self.health.clone() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.health.run(|| self.disk.remove(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.health.run(|| self.disk.sync_folder())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.health.run(|| self.disk.free_bytes())
    }
}

/// A file of a [`WatchedDisk`].
#[derive(Debug)]
pub(crate) struct WatchedFile<F> {
    file: F,
    health: Arc<Health>,
}

impl<F: DiskFile> DiskFile for WatchedFile<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.health.run(|| self.file.read_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.health.run(|| self.file.write_at(bytes, offset))
    }

    fn write_pages(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        self.health.run(|| self.file.write_pages(pages, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.health.run(|| self.file.sync())
    }

    fn len(&self) -> io::Result<u64> {
        self.health.run(|| self.file.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.health.run(|| self.file.truncate(length))
    }

    fn forget_cached(&self) {
        self.file.forget_cached();
    }
}
