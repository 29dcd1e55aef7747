//! What is where: the index's keys and values, and the rule which of several records of one key counts.
//!
//! Decides what is live. Knows no files; every entry points at a record of a volume, which is the truth. All changes come
//! through one writer at a time (the folder's totals are passed in by whoever holds their lock).

use std::collections::BTreeMap;

use dolmen_proto::ids::{AccountId, Point, ShardRoot};

use super::index::{Change, Entries, Index};
use super::record::{Class, Kind, Record, bytes_32, span, u32_at, u64_at};

/// A record that counts, as the index has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) volume: u64,
    pub(crate) offset: u64,
    pub(crate) generation: u64,
    pub(crate) body_bytes: u32,
    pub(crate) tail_bytes: u32,
    pub(crate) value: u64,
    pub(crate) mark: [u8; 16],
}

const ENTRY_BYTES: usize = 57;
const LEASE_KEY_BYTES: usize = 65;
const DUE_KEY_BYTES: usize = 73;
/// Changes of one batch of a rebuild.
const CHANGES_PER_BATCH: usize = 4096;

impl Entry {
    fn new(record: &Record, volume: u64) -> Self {
        Self {
            kind: record.kind,
            volume,
            offset: record.offset,
            generation: record.generation,
            body_bytes: record.body_bytes,
            tail_bytes: record.tail_bytes,
            value: record.value,
            mark: record.mark,
        }
    }

    /// The record that it points at.
    pub(crate) fn record(&self, a: [u8; 32], b: [u8; 32]) -> Record {
        Record {
            kind: self.kind,
            offset: self.offset,
            generation: self.generation,
            body_bytes: self.body_bytes,
            tail_bytes: self.tail_bytes,
            durable: 0,
            a,
            b,
            value: self.value,
            mark: self.mark,
        }
    }

    /// Bytes that its record takes.
    pub(crate) fn span(&self) -> u64 {
        span(self.body_bytes, self.tail_bytes)
    }

    /// The shard's length, of a shard or a lost one.
    pub(crate) fn shard_bytes(&self) -> u32 {
        if self.kind == Kind::Shard { self.body_bytes } else { u32::try_from(self.value).unwrap_or(u32::MAX) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY_BYTES);
        bytes.push(self.kind.to_byte());
        for number in [self.volume, self.offset, self.generation, self.value] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.body_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.tail_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.mark);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "an entry is damaged".to_owned();
        if bytes.len() != ENTRY_BYTES {
            return Err(damaged());
        }
        Ok(Self {
            kind: Kind::from_byte(bytes[0]).ok_or_else(damaged)?,
            volume: u64_at(bytes, 1),
            offset: u64_at(bytes, 9),
            generation: u64_at(bytes, 17),
            value: u64_at(bytes, 25),
            body_bytes: u32_at(bytes, 33),
            tail_bytes: u32_at(bytes, 37),
            mark: bytes[41..].try_into().expect("the length was checked"),
        })
    }
}

/// What a folder holds, kept up to date with every change of its catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) shards: u64,
    pub(crate) shard_bytes: u64,
    pub(crate) damaged: u64,
    pub(crate) leases: u64,
    pub(crate) heads: u64,
    /// Bytes of records that count, by volume.
    pub(crate) live: BTreeMap<u64, u64>,
}

impl Totals {
    fn add(&mut self, entry: &Entry) {
        *self.live.entry(entry.volume).or_default() += entry.span();
        match entry.kind {
            Kind::Shard => {
                self.shards += 1;
                self.shard_bytes += u64::from(entry.body_bytes);
            }
            Kind::ShardLost => self.damaged += 1,
            Kind::Lease => self.leases += 1,
            Kind::Head => self.heads += 1,
            Kind::LeaseEnd | Kind::HeadEnd | Kind::Void | Kind::Table | Kind::End => {}
        }
    }

    fn exchange(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        if let Some(old) = old {
            self.remove(old);
        }
        if let Some(new) = new {
            self.add(new);
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let live = self.live.entry(entry.volume).or_default();
        *live = live.saturating_sub(entry.span());
        match entry.kind {
            Kind::Shard => {
                self.shards = self.shards.saturating_sub(1);
                self.shard_bytes = self.shard_bytes.saturating_sub(u64::from(entry.body_bytes));
            }
            Kind::ShardLost => self.damaged = self.damaged.saturating_sub(1),
            Kind::Lease => self.leases = self.leases.saturating_sub(1),
            Kind::Head => self.heads = self.heads.saturating_sub(1),
            Kind::LeaseEnd | Kind::HeadEnd | Kind::Void | Kind::Table | Kind::End => {}
        }
    }
}

fn shard_key(root: &[u8; 32]) -> Vec<u8> {
    [b"s", root.as_slice()].concat()
}

fn pair_key(class: u8, a: &[u8; 32], b: &[u8; 32]) -> Vec<u8> {
    [&[class], a.as_slice(), b.as_slice()].concat()
}

/// Sorts by time first, so the time is big endian.
fn due_key(class: u8, value: u64, a: &[u8; 32], b: &[u8; 32]) -> Vec<u8> {
    [&[class], value.to_be_bytes().as_slice(), a.as_slice(), b.as_slice()].concat()
}

fn key_of(class: Class, a: &[u8; 32], b: &[u8; 32]) -> Vec<u8> {
    match class {
        Class::Shard => shard_key(a),
        Class::Lease => pair_key(b'l', a, b),
        Class::Head => pair_key(b'h', a, b),
    }
}

/// Secondary keys of an entry: by account and by time for leases, by time for heads.
fn secondary_keys(entry: &Entry, a: &[u8; 32], b: &[u8; 32]) -> Vec<Vec<u8>> {
    match entry.kind {
        Kind::Lease => vec![pair_key(b'a', b, a), due_key(b'e', entry.value, a, b)],
        Kind::Head => vec![due_key(b'x', entry.value, a, b)],
        _ => Vec::new(),
    }
}

/// A key of two parts.
pub(crate) type KeyParts = ([u8; 32], [u8; 32]);
/// A key of two parts with its entry.
pub(crate) type Pair = ([u8; 32], [u8; 32], Entry);

fn pair(key: &[u8], value: &[u8]) -> Result<Pair, String> {
    if key.len() != LEASE_KEY_BYTES {
        return Err("a key is damaged".to_owned());
    }
    Ok((bytes_32(key, 1), bytes_32(key, 33), Entry::decode(value)?))
}

/// The changes that let one entry take another's place.
fn replacement(
    changes: &mut Vec<Change>,
    (class, a, b): (Class, &[u8; 32], &[u8; 32]),
    old: Option<&Entry>,
    new: Option<&Entry>,
) {
    if let Some(old) = old {
        changes.extend(secondary_keys(old, a, b).into_iter().map(|key| (key, None)));
    }
    if let Some(new) = new {
        changes.extend(secondary_keys(new, a, b).into_iter().map(|key| (key, Some(Vec::new()))));
    }
    changes.push((key_of(class, a, b), new.map(Entry::encode)));
}

/// The newest records of many keys, gathered before they go to the index together.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    newest: BTreeMap<Vec<u8>, (u64, Record)>,
}

impl Staged {
    /// Adds a record of a volume, if it is the newest of its key so far.
    pub(crate) fn add(&mut self, volume: u64, record: &Record) {
        let Some(class) = record.kind.class() else { return };
        let newest = self.newest.entry(key_of(class, &record.a, &record.b)).or_insert((volume, *record));
        if (newest.1.generation, newest.0) < (record.generation, volume) {
            *newest = (volume, *record);
        }
    }

    /// Keys gathered; each takes some 300 bytes.
    pub(crate) fn len(&self) -> usize {
        self.newest.len()
    }

    /// Where a shard lies, or that it is lost.
    pub(crate) fn shard(&self, root: &ShardRoot) -> Option<Entry> {
        self.newest.get(&shard_key(root.as_bytes())).map(|(volume, record)| Entry::new(record, *volume))
    }
}

/// The typed index of one folder.
pub(crate) struct Catalogue {
    index: Box<dyn Index>,
}

impl Catalogue {
    pub(crate) fn new(index: Box<dyn Index>) -> Self {
        Self { index }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, String> {
        self.index.get(key)?.map(|value| Entry::decode(&value)).transpose()
    }

    /// The entry that counts for this key.
    pub(crate) fn entry(&self, class: Class, a: &[u8; 32], b: &[u8; 32]) -> Result<Option<Entry>, String> {
        self.get(&key_of(class, a, b))
    }

    /// Where a shard lies, or that it is lost.
    pub(crate) fn shard(&self, root: &ShardRoot) -> Result<Option<Entry>, String> {
        self.get(&shard_key(root.as_bytes()))
    }

    /// The lease of one account, if it has not ended.
    pub(crate) fn lease(&self, root: &ShardRoot, account: &AccountId) -> Result<Option<Entry>, String> {
        let entry = self.get(&pair_key(b'l', root.as_bytes(), account.as_bytes()))?;
        Ok(entry.filter(|entry| entry.kind == Kind::Lease))
    }

    /// All leases on a shard.
    pub(crate) fn leases(&self, root: &ShardRoot) -> Result<Vec<Pair>, String> {
        self.pairs(&[b"l", root.as_bytes().as_slice()].concat(), None, usize::MAX, Kind::Lease)
    }

    /// All leases after a key of two parts.
    pub(crate) fn all_leases(&self, after: Option<(&[u8; 32], &[u8; 32])>, max: usize) -> Result<Vec<Pair>, String> {
        self.pairs(b"l", after.map(|(a, b)| pair_key(b'l', a, b)), max, Kind::Lease)
    }

    /// The heads at a point.
    pub(crate) fn heads(&self, point: &Point) -> Result<Vec<Pair>, String> {
        self.pairs(&[b"h", point.as_bytes().as_slice()].concat(), None, usize::MAX, Kind::Head)
    }

    /// All heads after a key of two parts.
    pub(crate) fn all_heads(&self, after: Option<(&[u8; 32], &[u8; 32])>, max: usize) -> Result<Vec<Pair>, String> {
        self.pairs(b"h", after.map(|(a, b)| pair_key(b'h', a, b)), max, Kind::Head)
    }

    /// Entries of one kind under a prefix; endings lie between them and are skipped.
    fn pairs(&self, prefix: &[u8], after: Option<Vec<u8>>, max: usize, kind: Kind) -> Result<Vec<Pair>, String> {
        const PAGE: usize = 256;
        let mut found = Vec::new();
        let mut after = after;
        loop {
            let page = self.index.scan(prefix, after.as_deref(), PAGE)?;
            let full = page.len() == PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                let pair = pair(&key, &value)?;
                if pair.2.kind == kind {
                    found.push(pair);
                }
                if found.len() >= max {
                    return Ok(found);
                }
            }
            if !full {
                return Ok(found);
            }
        }
    }

    /// Roots that an account has leases on, after one, in order.
    pub(crate) fn roots_of(
        &self,
        account: &AccountId,
        after: Option<&ShardRoot>,
        max: usize,
    ) -> Result<Vec<ShardRoot>, String> {
        let prefix = [b"a", account.as_bytes().as_slice()].concat();
        let after = after.map(|root| pair_key(b'a', account.as_bytes(), root.as_bytes()));
        let page = self.index.scan(&prefix, after.as_deref(), max)?;
        let roots = page.iter().filter(|(key, _)| key.len() == LEASE_KEY_BYTES);
        Ok(roots.map(|(key, _)| ShardRoot::new(bytes_32(key, 33))).collect())
    }

    /// Leases (or heads) that end before a time, earliest first.
    pub(crate) fn due(&self, class: Class, before_ms: u64, max: usize) -> Result<Vec<KeyParts>, String> {
        let prefix: &[u8] = if class == Class::Head { b"x" } else { b"e" };
        let page = self.index.scan(prefix, None, max)?;
        let early = |key: &Vec<u8>| {
            key.len() == DUE_KEY_BYTES
                && u64::from_be_bytes(key[1..9].try_into().expect("a slice of 8 bytes")) < before_ms
        };
        let keys = page.into_iter().map(|(key, _)| key).take_while(early);
        Ok(keys.map(|key| (bytes_32(&key, 9), bytes_32(&key, 41))).collect())
    }

    /// Shards after a root, in order.
    pub(crate) fn shards(&self, after: Option<&[u8; 32]>, max: usize) -> Result<Vec<([u8; 32], Entry)>, String> {
        let page = self.index.scan(b"s", after.map(shard_key).as_deref(), max)?;
        let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
            if key.len() != 33 {
                return Err("a key is damaged".to_owned());
            }
            Ok((bytes_32(&key, 1), Entry::decode(&value)?))
        };
        page.into_iter().map(decode).collect()
    }

    fn replace(
        &self,
        totals: &mut Totals,
        (class, a, b): (Class, &[u8; 32], &[u8; 32]),
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Result<(), String> {
        let mut changes = Vec::with_capacity(5);
        replacement(&mut changes, (class, a, b), old, new);
        self.index.apply(changes)?;
        totals.exchange(old, new);
        Ok(())
    }

    /// As [`Catalogue::apply`] for many records of different keys, in the order of their keys: what a rebuild does in
    /// bulk costs the index a fraction of what it does one by one.
    pub(crate) fn apply_staged(&self, totals: &mut Totals, staged: &Staged) -> Result<(), String> {
        let mut changes = Vec::with_capacity(CHANGES_PER_BATCH + 5);
        for (key, (volume, record)) in &staged.newest {
            let Some(class) = record.kind.class() else { continue };
            let old = self.get(key)?;
            if old.is_some_and(|old| (old.generation, old.volume) >= (record.generation, *volume)) {
                continue;
            }
            let new = Entry::new(record, *volume);
            replacement(&mut changes, (class, &record.a, &record.b), old.as_ref(), Some(&new));
            totals.exchange(old.as_ref(), Some(&new));
            if changes.len() >= CHANGES_PER_BATCH {
                self.index.apply(std::mem::replace(&mut changes, Vec::with_capacity(CHANGES_PER_BATCH + 5)))?;
            }
        }
        self.index.apply(changes)
    }

    /// Lets a record count if it is the newest of its key: higher generation, or the same (a copy) in a later volume.
    pub(crate) fn apply(&self, totals: &mut Totals, volume: u64, record: &Record) -> Result<(), String> {
        let Some(class) = record.kind.class() else { return Ok(()) };
        let old = self.entry(class, &record.a, &record.b)?;
        if old.is_some_and(|old| (old.generation, old.volume) >= (record.generation, volume)) {
            return Ok(());
        }
        self.replace(totals, (class, &record.a, &record.b), old.as_ref(), Some(&Entry::new(record, volume)))
    }

    /// Lets a copy count in place of its original, if that still does.
    pub(crate) fn relocate(
        &self,
        totals: &mut Totals,
        from: (u64, u64),
        volume: u64,
        copy: &Record,
    ) -> Result<(), String> {
        let Some(class) = copy.kind.class() else { return Ok(()) };
        let old = self.entry(class, &copy.a, &copy.b)?;
        if old.is_none_or(|old| (old.volume, old.offset) != from) {
            return Ok(());
        }
        self.replace(totals, (class, &copy.a, &copy.b), old.as_ref(), Some(&Entry::new(copy, volume)))
    }

    /// Forgets a key whose record lies at this place; nothing else of the key may be left in any volume.
    pub(crate) fn forget(&self, totals: &mut Totals, volume: u64, record: &Record) -> Result<(), String> {
        let Some(class) = record.kind.class() else { return Ok(()) };
        let old = self.entry(class, &record.a, &record.b)?;
        if old.is_none_or(|old| (old.volume, old.offset) != (volume, record.offset)) {
            return Ok(());
        }
        self.replace(totals, (class, &record.a, &record.b), old.as_ref(), None)
    }

    /// Lets a shard go that nobody has a lease on. Says whether there was one.
    pub(crate) fn drop_unleased(&self, totals: &mut Totals, root: &ShardRoot) -> Result<bool, String> {
        let Some(entry) = self.shard(root)? else { return Ok(false) };
        if !self.pairs(&[b"l", root.as_bytes().as_slice()].concat(), None, 1, Kind::Lease)?.is_empty() {
            return Ok(false);
        }
        self.replace(totals, (Class::Shard, root.as_bytes(), &[0; 32]), Some(&entry), None)?;
        Ok(true)
    }

    /// A value that belongs to the folder and not to a record.
    pub(crate) fn note(&self, name: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.index.get(&[b"m", name].concat())
    }

    /// Sets or removes such values.
    pub(crate) fn set_notes(&self, notes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), String> {
        self.index.apply(notes.into_iter().map(|(name, value)| ([b"m", name.as_slice()].concat(), value)).collect())
    }

    /// All such values whose name begins like this.
    pub(crate) fn notes(&self, prefix: &[u8]) -> Result<Entries, String> {
        let found = self.index.scan(&[b"m", prefix].concat(), None, usize::MAX)?;
        Ok(found.into_iter().map(|(name, value)| (name[1..].to_vec(), value)).collect())
    }

    pub(crate) fn clear(&self) -> Result<(), String> {
        self.index.clear()
    }

    pub(crate) fn flush(&self) -> Result<(), String> {
        self.index.flush()
    }
}
