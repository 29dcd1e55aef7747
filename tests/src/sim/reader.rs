//! A reader: knows a read link's secret and nothing else, and gets everything back, as a client does.
//!
//! Decides the order of things: read head, table head, table, snapshot, folder, chunks. Never gives bytes whose chain of hashes
//! and tags is broken.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use dolmen_proto::head::{PlacedSegment, ReadBody, TableLocation};
use dolmen_proto::heads::{HeadReadOutcome, HeadVersion};
use dolmen_proto::keys::{MaskSecret, ReadKeys, ReadSecret, TableKeys};
use dolmen_proto::manifest::{EntryKind, Extent, ExtentList, FolderWalk, Snapshot};
use dolmen_proto::seal::open_into;
use dolmen_proto::table::TableRoot;
use dolmen_proto::tree::BlobPointer;
use futures::future::join_all;

use super::heads::read_head;
use super::transfer::{FetchFailure, KnownSegment, fetch};
use super::world::World;

/// Why a dataset could not be read at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFailure {
    /// No head was found.
    Head(HeadReadOutcome),
    /// A document could not be had.
    Document(FetchFailure),
}

/// What a reader got.
#[derive(Debug, Clone)]
pub struct Read {
    /// The sequence of the head that it followed.
    pub sequence: u64,
    /// Its files, or why one could not be had.
    pub files: BTreeMap<Vec<u8>, Result<Vec<u8>, FetchFailure>>,
}

/// Someone with a read link.
pub struct Reader {
    /// The world.
    pub world: Rc<World>,
    /// Where it asks from.
    pub address: IpAddr,
    /// The link's secret.
    pub read: ReadSecret,
    /// The newest read head that it has seen before.
    pub seen: Option<HeadVersion>,
    /// How often it asks for what is unreachable, with a pause between.
    pub tries: u32,
}

const PAUSE: Duration = Duration::from_secs(25);

impl Reader {
    /// Reads the newest snapshot that can be found.
    ///
    /// # Errors
    /// [`ReadFailure`], when not even the list of files can be had.
    pub async fn read_all(&self) -> Result<Read, ReadFailure> {
        let (sequence, body) = self.read_body().await?;
        let table = self.table(&body).await.map_err(ReadFailure::Document)?;
        let document = |failure| ReadFailure::Document(failure);
        let blob = self.blob(&table, &body.mask_secret, &body.snapshot).await.map_err(document)?;
        let snapshot = Snapshot::parse(&blob, body.snapshot.segment).expect("what the owner sealed is legal");
        let mut walk = FolderWalk::new(&snapshot.root);
        let mut entries = Vec::new();
        while let Some(pointer) = walk.wanted().cloned() {
            let blob = self.blob(&table, &body.mask_secret, &pointer).await.map_err(document)?;
            entries.extend(walk.supply(&blob).expect("what the owner sealed is legal"));
        }
        let reads = entries.iter().map(|entry| async {
            let EntryKind::File(file) = &entry.kind else { panic!("the simulator puts files only") };
            let ExtentList::Inline(extents) = &file.extents else { panic!("small files have few extents") };
            let content = self.file(&table, &body.mask_secret, extents).await;
            if let Ok(bytes) = &content {
                assert_eq!(bytes.len() as u64, file.size_bytes);
                assert_eq!(Some(*blake3::hash(bytes).as_bytes()), file.hash, "a file's hash");
            }
            (entry.name.as_bytes().to_vec(), content)
        });
        Ok(Read { sequence, files: join_all(reads).await.into_iter().collect() })
    }

    async fn read_body(&self) -> Result<(u64, ReadBody), ReadFailure> {
        let locator = ReadKeys::derive(&self.read).locator;
        let mut tries = 0;
        loop {
            let read = self.read.clone();
            let opens = move |head: &dolmen_proto::head::Head| head.open_read(&read).is_ok();
            let (outcome, head) = read_head(&self.world, self.address, &locator, self.seen, opens).await;
            if let Some(head) = head {
                assert!(self.seen.is_none_or(|seen| HeadVersion::from(&head) >= seen), "a head was rolled back unseen");
                let body = head.open_read(&self.read).expect("it opened before");
                return Ok((head.sequence(), body));
            }
            tries += 1;
            if tries >= self.tries {
                return Err(ReadFailure::Head(outcome));
            }
            self.world.clock.sleep(PAUSE).await;
        }
    }

    /// The newest table that knows the snapshot: the table head's, or the one that the read head names.
    async fn table(&self, body: &ReadBody) -> Result<TableRoot, FetchFailure> {
        let locator = TableKeys::derive(&body.table_secret).locator;
        let (secret, key) = (body.table_secret.clone(), body.table_head_key);
        let opens = move |head: &dolmen_proto::head::Head| head.open_table(&secret, &key).is_ok();
        let (_, head) = read_head(&self.world, self.address, &locator, None, opens).await;
        if let Some(head) = head {
            let newest = head.open_table(&body.table_secret, &body.table_head_key).expect("it opened before");
            if let Ok(table) = self.table_at(body, &newest.location).await
                && table.inline_row(body.snapshot.segment).is_some()
            {
                return Ok(table);
            }
        }
        self.table_at(body, &body.table).await
    }

    async fn table_at(&self, body: &ReadBody, location: &TableLocation) -> Result<TableRoot, FetchFailure> {
        let segment = known_from_head(&location.segment);
        let pointer = location.root();
        let blob = self.open(&segment, &body.mask_secret, &pointer).await?;
        Ok(TableRoot::parse(&blob, location.segment.id()).expect("what the owner sealed is legal"))
    }

    async fn blob(&self, table: &TableRoot, mask: &MaskSecret, pointer: &BlobPointer) -> Result<Vec<u8>, FetchFailure> {
        let row = table.inline_row(pointer.segment).expect("the table lists every segment that the snapshot names");
        let holders = table.holders(row).expect("the table knows its nodes");
        let shards = row.roots().iter().zip(holders).map(|(root, node)| (*root, node.map(|node| node.id())));
        let segment = KnownSegment { geometry: row.geometry(), nonce: row.nonce(), shards: shards.collect() };
        self.open(&segment, mask, pointer).await
    }

    async fn open(
        &self,
        segment: &KnownSegment,
        mask: &MaskSecret,
        pointer: &BlobPointer,
    ) -> Result<Vec<u8>, FetchFailure> {
        let length = u32::try_from(pointer.sealed_bytes()).expect("a chunk is small");
        let mut tries = 0;
        let sealed = loop {
            let fetched = fetch(&self.world, self.address, segment, mask, pointer.offset, length).await;
            tries += 1;
            match fetched {
                Ok(sealed) => break sealed,
                Err(FetchFailure::Unreachable) if tries < self.tries => self.world.clock.sleep(PAUSE).await,
                Err(failure) => return Err(failure),
            }
        };
        let mut plain = Vec::new();
        open_into(&pointer.key, &sealed, &mut plain).expect("bytes that match their roots open");
        Ok(plain)
    }

    async fn file(&self, table: &TableRoot, mask: &MaskSecret, extents: &[Extent]) -> Result<Vec<u8>, FetchFailure> {
        let chunks = extents.iter().map(|extent| async move {
            match extent {
                Extent::Chunk(pointer) => self.blob(table, mask, pointer).await,
                Extent::Compressed { .. } => unreachable!("the simulator's writer does not compress"),
                Extent::Hole { length_bytes } => Ok(vec![0; usize::try_from(*length_bytes).expect("a small hole")]),
            }
        });
        let chunks: Result<Vec<_>, _> = join_all(chunks).await.into_iter().collect();
        Ok(chunks?.concat())
    }
}

fn known_from_head(segment: &PlacedSegment) -> KnownSegment {
    let shards = segment.holders().iter().map(|holder| (holder.root, holder.node.as_ref().map(|node| node.id())));
    KnownSegment { geometry: segment.geometry(), nonce: segment.nonce(), shards: shards.collect() }
}
