//! Any S3 endpoint: a file is an object, a folder one object for each file.
//!
//! Decides what is asked of the server and how much at once: large files in parts, small ones side by side. Requests are
//! signed in the query, their bodies are not hashed, and nothing is tried twice: a server that refuses is an error.
//! Empty folders do not come back, since S3 has none.

mod address;
mod requests;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

pub use self::address::{S3Address, S3Keys};
use self::requests::Requests;
use super::parallel::for_each;
use super::tree::{join, walk};
use super::{Peer, PeerError, PeerName, local};

/// Bytes of one part of a large file, unless that made more parts than S3 allows.
const PART_BYTES: u64 = 16 * 1024 * 1024;
/// Parts of one object at most, by S3's rules.
const PARTS_MAX: u64 = 10_000;
/// Parts of one file that are moved at once.
const PARTS_AT_ONCE: usize = 8;
/// Small objects that are moved at once.
const OBJECTS_AT_ONCE: usize = 16;

/// A bucket at an S3 server.
#[derive(Debug)]
pub struct S3 {
    requests: Requests,
    prefix: String,
    part_bytes: u64,
}

/// An object as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    key: String,
    bytes: u64,
}

/// A part of a file or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// From 1.
    number: u16,
    start: u64,
    bytes: u64,
}

impl S3 {
    /// Talks to the bucket at `address`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`PeerError::S3Address`] where the address has no host that can be reached.
    pub fn new(address: &S3Address, keys: S3Keys) -> Result<Self, PeerError> {
        Ok(Self {
            requests: Requests::new(address, keys, OBJECTS_AT_ONCE.max(PARTS_AT_ONCE))?,
            prefix: address.prefix().to_owned(),
            part_bytes: PART_BYTES,
        })
    }

    fn key(&self, name: &PeerName) -> String {
        format!("{}{name}", self.prefix)
    }

    fn put_file(&self, path: &Path, key: &str, bytes: u64) -> Result<(), PeerError> {
        let file = File::open(path).map_err(local("open", path))?;
        if bytes <= self.part_bytes {
            return self.requests.put(key, &file, bytes);
        }
        let parts = parts(bytes, self.part_bytes);
        let upload = self.requests.begin_parts(key)?;
        let tags = std::sync::Mutex::new(vec![String::new(); parts.len()]);
        let sent = for_each(&parts, PARTS_AT_ONCE, |part| {
            let tag = self.requests.put_part(key, &upload, *part, &file)?;
            let mut tags = tags.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            tags[usize::from(part.number) - 1] = tag;
            Ok(())
        });
        let tags = tags.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        sent.and_then(|()| self.requests.complete_parts(key, &upload, &tags)).inspect_err(|_| {
            // What went wrong is told; that parts may stay behind is told by nobody's waiting for them.
            self.requests.abort_parts(key, &upload).ok();
        })
    }

    fn get_file(&self, object: &Object, path: &Path) -> Result<(), PeerError> {
        let file = File::create_new(path).map_err(local("create", path))?;
        if object.bytes <= self.part_bytes {
            return self.requests.get(&object.key, object.bytes, &file, path);
        }
        file.set_len(object.bytes).map_err(local("write", path))?;
        for_each(&parts(object.bytes, self.part_bytes), PARTS_AT_ONCE, |part| {
            self.requests.get_part(&object.key, *part, &file, path)
        })
    }

    /// Small objects side by side, then large ones one after another, each with its parts side by side.
    fn each<T: Sync>(
        &self,
        items: &[T],
        bytes: impl Fn(&T) -> u64 + Sync,
        work: impl Fn(&T) -> Result<(), PeerError> + Sync,
    ) -> Result<(), PeerError> {
        let (small, large): (Vec<&T>, Vec<&T>) = items.iter().partition(|item| bytes(item) <= self.part_bytes);
        for_each(&small, OBJECTS_AT_ONCE, |item| work(item))?;
        large.into_iter().try_for_each(work)
    }
}

impl Peer for S3 {
    fn put(&self, source: &Path, name: &PeerName) -> Result<(), PeerError> {
        let tree = walk(source)?;
        let key = self.key(name);
        self.each(
            &tree.files,
            |file| file.bytes,
            |file| {
                let path = join(source, &file.relative);
                let relative = file.relative.to_str().ok_or_else(|| {
                    let why = std::io::Error::new(std::io::ErrorKind::InvalidInput, "its name is not UTF-8");
                    local("name", &path)(why)
                })?;
                let key = if relative.is_empty() { key.clone() } else { format!("{key}/{relative}") };
                self.put_file(&path, &key, file.bytes)
            },
        )
    }

    fn get(&self, name: &PeerName, target: &Path) -> Result<(), PeerError> {
        let key = self.key(name);
        if let Some(bytes) = self.requests.size(&key)? {
            return self.get_file(&Object { key, bytes }, target);
        }
        let below = format!("{key}/");
        let objects = self.requests.list(&below)?;
        if objects.is_empty() {
            return Err(PeerError::NotFound { peer: "the S3 server", name: name.clone() });
        }
        fs::create_dir(target).map_err(local("make", target))?;
        for object in &objects {
            let path = target.join(relative(&below, &object.key)?);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(local("make", folder))?;
            }
        }
        self.each(
            &objects,
            |object| object.bytes,
            |object| self.get_file(object, &target.join(relative(&below, &object.key)?)),
        )
    }

    fn remove(&self, name: &PeerName) -> Result<(), PeerError> {
        let key = self.key(name);
        let mut objects = self.requests.list(&format!("{key}/"))?;
        objects.push(Object { key, bytes: 0 });
        for_each(&objects, OBJECTS_AT_ONCE, |object| self.requests.delete(&object.key))
    }
}

/// Cuts so many bytes into parts of `part_bytes`, or of more where that were too many.
fn parts(bytes: u64, part_bytes: u64) -> Vec<Part> {
    let part_bytes = part_bytes.max(bytes.div_ceil(PARTS_MAX)).max(1);
    let starts = (0..bytes.div_ceil(part_bytes)).map(|index| index * part_bytes);
    (1_u16..).zip(starts).map(|(number, start)| Part { number, start, bytes: part_bytes.min(bytes - start) }).collect()
}

/// Where an object belongs below the target; a key that leads out of it is refused.
fn relative(below: &str, key: &str) -> Result<PathBuf, PeerError> {
    let path = key.strip_prefix(below).map(PathBuf::from).filter(|path| {
        !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)))
    });
    path.ok_or_else(|| PeerError::S3Answer {
        doing: "list",
        key: key.to_owned(),
        why: "a key that is no path of a file below what was asked for".to_owned(),
    })
}
