//! A node's service in a temporary folder, and the owners and stewards who use it.

use super::*;

pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const START: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
pub(super) const HOME: Option<Subnet> = Some(Subnet::V4([203, 0, 113]));
pub(super) const AWAY: Option<Subnet> = Some(Subnet::V4([198, 51, 100]));

/// A service, its folder and the time.
pub(super) struct Bench {
    pub(super) service: Service<FileDisk>,
    pub(super) now: Timestamp,
    key: SigningKey,
    options: ServiceOptions,
    folder: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(ServiceOptions { open_quota_bytes: Some(1 << 30), ..ServiceOptions::default() })
    }

    pub(super) fn with(options: ServiceOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = SigningKey::from_bytes(&[42; 32]);
        let disk = FileDisk::open(folder.path()).expect("a folder");
        initialise(&disk, NodeId::new(key.verifying_key().to_bytes()), [1; 32]).expect("a data folder");
        drop(disk);
        let service = open(&folder, &key, &options);
        Self { service, now: START, key, options, folder }
    }

    /// The same node after a stop and a start.
    pub(super) fn restarted(self) -> Self {
        let Self { service, now, key, options, folder } = self;
        service.store().close().expect("closed in order");
        drop(service);
        let service = open(&folder, &key, &options);
        service.store().rebuild(START).expect("readable");
        assert!(service.open_books().expect("readable"));
        Self { service, now, key, options, folder }
    }

    /// The same node after a kill and a start; its index is still to be rebuilt.
    pub(super) fn killed(self) -> Self {
        let Self { service, now, key, options, folder } = self;
        drop(service);
        let service = open(&folder, &key, &options);
        Self { service, now, key, options, folder }
    }

    pub(super) fn node(&self) -> NodeId {
        self.service.node()
    }

    pub(super) fn answer(&self, request: Request) -> Reply {
        self.service.answer(&request, self.now, HOME)
    }

    /// Puts from HOME; the receipt is checked as a client checks it.
    pub(super) fn put(&self, request: &PutRequest, bytes: &[u8]) -> Result<Receipt, WireError> {
        self.put_from(request, bytes, HOME)
    }

    pub(super) fn put_from(
        &self,
        request: &PutRequest,
        bytes: &[u8],
        from: Option<Subnet>,
    ) -> Result<Receipt, WireError> {
        let pending = match self.service.begin_put(request, self.now, from)? {
            PutStart::Held(pending) => *pending,
            PutStart::Wanted(mut put) => {
                bytes.chunks(10_000).try_for_each(|piece| put.write(piece))?;
                put.finish()?
            }
        };
        match self.service.settle(pending).into_result()? {
            Reply::Put(receipt) => Ok(receipt.verify(request.lease.claimed(), self.now).expect("a receipt").clone()),
            other => panic!("not an answer to a put: {other:?}"),
        }
    }

    /// Whether the service asks for the payload of this put; the put is then dropped.
    pub(super) fn wants_payload(&self, request: &PutRequest) -> bool {
        match self.service.begin_put(request, self.now, HOME).expect("admitted") {
            PutStart::Held(pending) => {
                assert!(matches!(self.service.settle(*pending), Reply::Put(_)));
                false
            }
            PutStart::Wanted(_) => true,
        }
    }

    pub(super) fn stat(&self, root: ShardRoot) -> Result<Timestamp, ErrorCode> {
        match self.answer(Request::Stat(vec![root])) {
            Reply::Stat(items) => items[0].map(|status| status.until),
            other => panic!("not an answer to a stat: {other:?}"),
        }
    }

    pub(super) fn get(&self, request: GetRequest) -> Result<Vec<u8>, WireError> {
        let mut plan = self.service.begin_get(&request)?;
        let reply = plan.reply();
        let mut bytes = Vec::new();
        while let Some(piece) = self.service.read_piece(&mut plan)? {
            assert!(piece.len() <= PIECE_MAX_BYTES);
            bytes.extend_from_slice(&piece);
        }
        assert!(plan.is_done());
        assert_eq!(reply.payload_bytes(), bytes.len() as u64, "the header says how many bytes follow");
        Request::Get(request).check_reply(&reply).expect("the reply fits the request");
        Ok(bytes)
    }

    pub(super) fn whole(&self, bytes: &[u8]) -> Result<Vec<u8>, WireError> {
        let length_bytes = bytes.len() as u64;
        self.get(GetRequest {
            root: root_of(bytes),
            length_bytes,
            offset_bytes: 0,
            count_bytes: length_bytes,
            proof: false,
        })
    }

    /// Runs expiry to its end at the present time; gives the leases ended.
    pub(super) fn expire(&self) -> u64 {
        let mut ended = 0;
        loop {
            let step = self.service.expire_step(self.now, 16).expect("expiry");
            ended += step.leases;
            if !step.more {
                return ended;
            }
        }
    }
}

fn open(folder: &tempfile::TempDir, key: &SigningKey, options: &ServiceOptions) -> Service<FileDisk> {
    let data = DataFolder {
        disk: FileDisk::open(folder.path()).expect("a folder"),
        name: "data".to_owned(),
        index: IndexPlace::Memory,
        capacity_bytes: None,
    };
    let node = NodeId::new(key.verifying_key().to_bytes());
    let store_options = StoreOptions { reserve_bytes: 0, volume_max_bytes: 128 << 20, ..StoreOptions::new(node) };
    let (store, _) = Store::open(vec![data], store_options).expect("a store");
    let clock = ClockGuard::new(START, Duration::ZERO, None);
    Service::open(store, key.clone(), clock, options.clone()).expect("a service")
}

/// Pseudorandom bytes, as shards are.
pub(super) fn shard(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Somebody with an account and its keys.
pub(super) struct Owner {
    pub(super) account: SigningKey,
    pub(super) delete: SigningKey,
    pub(super) renew: SigningKey,
}

impl Owner {
    pub(super) fn new(seed: u8) -> Self {
        let key = |kind| SigningKey::from_bytes(&[seed, kind].repeat(16).try_into().expect("32 bytes"));
        Self { account: key(1), delete: key(2), renew: key(3) }
    }

    pub(super) fn id(&self) -> AccountId {
        AccountId::new(self.account.verifying_key().to_bytes())
    }

    pub(super) fn terms(&self, bench: &Bench, bytes: &[u8], until: Timestamp) -> LeaseTerms {
        LeaseTerms {
            node: bench.node(),
            root: root_of(bytes),
            length_bytes: bytes.len() as u64,
            account: self.id(),
            delete_key: self.delete.verifying_key().to_bytes(),
            renew_key: self.renew.verifying_key().to_bytes(),
            until,
            issued_at: bench.now,
        }
    }

    /// A put for a week from now.
    pub(super) fn put(&self, bench: &Bench, bytes: &[u8]) -> PutRequest {
        self.put_until(bench, bytes, bench.now.after(LEASE_INITIAL))
    }

    pub(super) fn put_until(&self, bench: &Bench, bytes: &[u8], until: Timestamp) -> PutRequest {
        PutRequest { lease: Signed::sign(self.terms(bench, bytes, until), &self.account), grant: None }
    }

    pub(super) fn renewal(&self, bench: &Bench, roots: &[ShardRoot], until: Timestamp) -> Request {
        renewal_by(&self.renew, self.id(), bench, roots, until, None)
    }

    pub(super) fn delete_request(&self, bench: &Bench, roots: &[ShardRoot]) -> Request {
        let body = DeleteBody {
            node: bench.node(),
            account: self.id(),
            signer: self.delete.verifying_key().to_bytes(),
            issued_at: bench.now,
            roots: roots.to_vec(),
        };
        Request::Delete(DeleteRequest { body: Signed::sign(body, &self.delete) })
    }

    pub(super) fn grant(&self, bench: &Bench, steward: &SigningKey, rights: GrantRights) -> Signed<StewardGrant> {
        let grant = StewardGrant {
            account: self.id(),
            steward: steward.verifying_key().to_bytes(),
            node: bench.node(),
            rights,
            quota_bytes: 100_000,
            until: bench.now.after(LEASE_DEFAULT),
        };
        Signed::sign(grant, &self.account)
    }
}

pub(super) fn renewal_by(
    signer: &SigningKey,
    account: AccountId,
    bench: &Bench,
    roots: &[ShardRoot],
    until: Timestamp,
    grant: Option<Signed<StewardGrant>>,
) -> Request {
    let body = RenewBody {
        node: bench.node(),
        account,
        signer: signer.verifying_key().to_bytes(),
        issued_at: bench.now,
        until,
        roots: roots.to_vec(),
    };
    Request::Renew(Box::new(RenewRequest { body: Signed::sign(body, signer), grant }))
}

pub(super) fn renewed(reply: Reply) -> Vec<Result<(), ErrorCode>> {
    match reply {
        Reply::Renew(reply) => {
            let ok = reply.codes.iter().filter(|code| code.is_ok()).count();
            assert_eq!(reply.receipt.map_or(0, |receipt| receipt.claimed().shards.len()), ok);
            reply.codes
        }
        other => panic!("not an answer to a renewal: {other:?}"),
    }
}

pub(super) fn deleted(reply: Reply) -> Vec<Result<(), ErrorCode>> {
    match reply {
        Reply::Delete(codes) => codes,
        other => panic!("not an answer to a delete: {other:?}"),
    }
}

pub(super) fn code(reply: Reply) -> ErrorCode {
    reply.into_result().expect_err("must be refused").code()
}
