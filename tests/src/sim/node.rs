//! A virtual node: the real service over the real store over a simulated disk, that can stop, come back and lie.
//!
//! Decides nothing about storage: it hands requests to [`Service`] and lets a liar spoil the answers. When messages arrive is
//! the world's to say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::region::Region;
use dolmen_proto::wire::{
    Accepting, ErrorCode, NodeRecord, OperatorClaim, PutRequest, Reply, Request, Signed, WireError,
};
use dolmen_storage_node::clock::ClockGuard;
use dolmen_storage_node::service::{Pending, PutInProgress, PutStart, Service, ServiceOptions};
use dolmen_storage_node::store::{DataFolder, FolderState, IndexPlace, Store, StoreOptions, initialise};
use dolmen_storage_node::subnet::Subnet;
use ed25519_dalek::SigningKey;

use super::liar::{Liar, Lie};
use crate::faulty_disk::{Crash, Draw, FaultyDisk};

/// What makes a node unlike others.
#[derive(Debug, Clone, Default)]
pub struct Character {
    /// How it lies, if it does.
    pub lie: Option<Lie>,
    /// Its messages take ten times as long.
    pub slow: bool,
    /// Its quota or its disk takes next to nothing, though its record says otherwise.
    pub full: bool,
    /// How far its clock is ahead.
    pub clock_ahead: Duration,
}

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It does.
    Up,
    /// It crashed and will be back.
    Down,
    /// It stopped for good.
    Dead,
}

/// A put that has begun and is not over.
enum Incoming {
    Receiving(Box<PutInProgress<FaultyDisk>>, Bytes),
    Pending(Box<Pending>),
}

/// How a put goes on at the node.
pub enum PutStep {
    /// There is the reply.
    Done(Reply),
    /// More happens after some time.
    GoesOn,
}

/// One virtual node.
pub struct VirtualNode {
    /// Its id.
    pub id: NodeId,
    /// What it is like.
    pub character: Character,
    /// Whether it answers.
    pub condition: Condition,
    /// Where it stands in the network.
    pub address: SocketAddr,
    key: SigningKey,
    operator: SigningKey,
    region: Region,
    disk: FaultyDisk,
    service: Option<Service<FaultyDisk>>,
    incoming: BTreeMap<u64, Incoming>,
    liar: Liar,
    draw: Draw,
}

const REGIONS: [&str; 8] = ["eu-de", "eu-fr", "eu-pl", "us-ny", "us-ca", "as-jp", "as-in", "af-za"];

impl VirtualNode {
    /// Node number `number` of a run, with a fresh disk, started.
    #[must_use]
    pub fn new(number: u16, seed: u64, character: Character, now: Timestamp) -> Self {
        let mut draw = Draw::new(seed ^ u64::from(number).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let key = SigningKey::from_bytes(&key_bytes(&mut draw));
        let id = NodeId::new(key.verifying_key().to_bytes());
        let operator = SigningKey::from_bytes(&[1 + u8::try_from(draw.below(40)).expect("below 40"); 32]);
        let region = REGIONS[draw.below(REGIONS.len())].parse().expect("a region of the simulator");
        let [_, subnet] = number.to_be_bytes();
        let address = SocketAddr::from(([93, 100 + u8::try_from(draw.below(3)).expect("below 3"), subnet, 7], 7001));
        let liar = Liar::new(character.lie, draw.next());
        let mut node = Self {
            id,
            condition: Condition::Up,
            address,
            key,
            operator,
            region,
            disk: FaultyDisk::default(),
            service: None,
            incoming: BTreeMap::new(),
            liar,
            draw,
            character,
        };
        node.replace_disk(now);
        node
    }

    /// Everything it held is gone; it goes on with an empty disk.
    pub fn replace_disk(&mut self, now: Timestamp) {
        self.incoming.clear();
        self.service = None;
        self.disk = FaultyDisk::new(self.draw.next());
        initialise(&self.disk, self.id, key_bytes(&mut self.draw)).expect("a new disk takes a marker");
        if self.character.full && self.draw.percent(50) {
            self.disk.set_capacity(Some(60 * 1024));
        }
        self.start(now);
    }

    /// Opens store and service on what the disk holds.
    ///
    /// # Panics
    /// When the store cannot be used, or has lost or damaged what it had synced.
    pub fn start(&mut self, now: Timestamp) {
        let now = self.clock(now);
        let folder = DataFolder {
            disk: self.disk.clone(),
            name: format!("disk of {}", self.id.short()),
            index: IndexPlace::Memory,
            capacity_bytes: None,
        };
        let options = StoreOptions {
            volume_max_bytes: 128 * 1024,
            volume_max_records: 200,
            shard_max_bytes: 1024 * 1024,
            reserve_bytes: 16 * 1024,
            open_files_max: 4,
            write_buffer_bytes: 700,
            ..StoreOptions::new(self.id)
        };
        let (store, report) = Store::open_whole(vec![folder], options, now).expect("the store opens");
        for folder in report.folders {
            assert_eq!(folder.state, FolderState::Ready, "after a crash");
            assert_eq!(folder.damaged, 0, "what was acknowledged is damaged after a crash: {folder:?}");
        }
        let quota = self.character.full.then_some(40 * 1024);
        let options = ServiceOptions { quota_bytes: quota, shard_max_bytes: 1024 * 1024, ..ServiceOptions::default() };
        let clock = ClockGuard::new(now, Duration::ZERO, None);
        self.service = Some(Service::open(store, self.key.clone(), clock, options).expect("the service opens"));
        self.condition = Condition::Up;
    }

    /// Stops at once: what was not synced survives as `crash` says.
    pub fn crash(&mut self, crash: Crash, condition: Condition) {
        // The disk first: what destructors still write must reach nothing, as in life.
        self.disk.crash(&mut self.draw, crash);
        self.incoming.clear();
        self.service = None;
        self.condition = condition;
    }

    /// How many times as long as others' its messages take.
    #[must_use]
    pub fn slowness(&self) -> u32 {
        if self.character.slow { 10 } else { 1 }
    }

    /// What its clock shows.
    #[must_use]
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now.after(self.character.clock_ahead)
    }

    /// The service, while the node is up.
    #[must_use]
    pub fn service(&self) -> Option<&Service<FaultyDisk>> {
        self.service.as_ref()
    }

    /// Its signed record. Full nodes overstate their room.
    #[must_use]
    pub fn record(&self, now: Timestamp) -> Signed<NodeRecord> {
        let record = NodeRecord {
            node: self.id,
            sequence: 1,
            control_addresses: Vec::new(),
            data_addresses: vec![self.address],
            operator: Some(OperatorClaim::sign(&self.operator, &self.id)),
            region: Some(self.region.clone()),
            accepting: Accepting::All,
            free_class: 36,
            protocol_min: 1,
            protocol_max: 1,
            software: "simulated/1".to_owned(),
            issued_at: now,
            expires_at: now.after(Duration::from_secs(3000)),
            successor: None,
        };
        Signed::sign(record, &self.key)
    }

    /// Answers a call without payload of the asker; gives the payload of the answer with it.
    pub fn answer(&mut self, request: &Request, now: Timestamp, from: IpAddr) -> (Reply, Vec<u8>) {
        let now = self.clock(now);
        let Some(service) = &self.service else {
            return (Reply::Error(WireError::new(ErrorCode::ShuttingDown, "the node is down")), Vec::new());
        };
        if let Some(lie) = self.liar.instead(request) {
            return lie;
        }
        let (reply, payload) = match request {
            Request::Get(get) => read_all(service, get),
            other => (service.answer(other, now, Subnet::of(from)), Vec::new()),
        };
        self.liar.spoil(request, reply, payload)
    }

    /// The header of a put arrives, with the first part of the payload if the payload is wanted.
    pub fn begin_put(
        &mut self,
        call: u64,
        request: &PutRequest,
        payload: Bytes,
        now: Timestamp,
        from: IpAddr,
    ) -> PutStep {
        let now = self.clock(now);
        let Some(service) = &self.service else {
            return PutStep::Done(Reply::Error(WireError::new(ErrorCode::ShuttingDown, "the node is down")));
        };
        if let Some(reply) = self.liar.instead_of_put(request, now, &self.key) {
            return PutStep::Done(reply);
        }
        match service.begin_put(request, now, Subnet::of(from)) {
            Err(error) => PutStep::Done(Reply::Error(error)),
            Ok(PutStart::Held(pending)) => {
                self.incoming.insert(call, Incoming::Pending(pending));
                PutStep::GoesOn
            }
            Ok(PutStart::Wanted(mut put)) => {
                let rest = payload.slice(payload.len() / 2..);
                if let Err(error) = put.write(&payload[..payload.len() / 2]) {
                    return PutStep::Done(Reply::Error(error));
                }
                self.incoming.insert(call, Incoming::Receiving(put, rest));
                PutStep::GoesOn
            }
        }
    }

    /// The next step of a put: the rest of the payload is in, or the sync is through. Nothing when it was given up.
    pub fn continue_put(&mut self, call: u64) -> Option<PutStep> {
        let service = self.service.as_ref()?;
        match self.incoming.remove(&call)? {
            Incoming::Receiving(mut put, rest) => match put.write(&rest).and_then(|()| put.finish()) {
                Err(error) => Some(PutStep::Done(Reply::Error(error))),
                Ok(pending) => {
                    self.incoming.insert(call, Incoming::Pending(Box::new(pending)));
                    Some(PutStep::GoesOn)
                }
            },
            Incoming::Pending(pending) => {
                let reply = service.settle(*pending);
                Some(PutStep::Done(self.liar.spoil_receipt(reply)))
            }
        }
    }

    /// The asker gave a call up.
    pub fn forget(&mut self, call: u64) {
        self.incoming.remove(&call);
    }
}

fn read_all(service: &Service<FaultyDisk>, get: &dolmen_proto::wire::GetRequest) -> (Reply, Vec<u8>) {
    let read = || {
        let mut plan = service.begin_get(get)?;
        let reply = plan.reply();
        let mut payload = Vec::new();
        while let Some(piece) = service.read_piece(&mut plan)? {
            payload.extend_from_slice(&piece);
        }
        Ok((reply, payload))
    };
    read().unwrap_or_else(|error: WireError| (Reply::Error(error), Vec::new()))
}

/// Thirty-two bytes from a seed.
pub fn key_bytes(draw: &mut Draw) -> [u8; 32] {
    let mut bytes = [0; 32];
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&draw.next().to_le_bytes());
    }
    bytes
}
