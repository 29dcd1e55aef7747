//! The data plane over real loopback sockets: a server whose behaviour each request chooses, clients good and bad.

mod calls;
mod hostile;
mod lifecycle;
mod resumption;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, ShardRoot, Timestamp};
use dolmen_proto::wire::{
    ErrorCode, GetReply, GetRequest, LeaseTerms, PutRequest, Receipt, Reply, Request, Signed, WireError,
};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::{
    CallError, DataClient, DataPlaneOptions, DataServer, Handler, Identity, NodeAddress, Payload, PayloadReader, Peer,
    Replier, Response, StreamError,
};

const MIB: usize = 1024 * 1024;

/// What the test's handler does with a request, chosen by the first byte of its root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Answers as it should.
    Proper = 0,
    /// Refuses before it reads any payload.
    RefuseEarly = 1,
    /// Reads nothing and answers nothing.
    Hang = 2,
    /// Drops the replier.
    NoAnswer = 3,
    /// Panics.
    Panic = 4,
    /// Gives up in the midst of the answer's payload.
    BreakOff = 5,
    /// Declares a payload and sends none of it.
    StallPayload = 6,
    /// Answers when the test says so.
    Wait = 7,
    /// Reads the payload slowly, then answers.
    Slow = 8,
}

fn root(behaviour: Behaviour) -> ShardRoot {
    ShardRoot::new([behaviour as u8; 32])
}

/// What the handler saw of payloads.
type Seen = (u64, Option<StreamError>);

struct TestHandler {
    identity: Identity,
    stored: Mutex<Bytes>,
    seen: mpsc::UnboundedSender<Seen>,
    release: tokio::sync::watch::Receiver<bool>,
}

impl TestHandler {
    async fn put(&self, put: &PutRequest, mut payload: PayloadReader, replier: Replier, behaviour: u8) {
        let mut received = Vec::new();
        let error = loop {
            match payload.next().await {
                Ok(Some(piece)) => received.extend_from_slice(&piece),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            if behaviour == Behaviour::Slow as u8 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        self.seen.send((received.len() as u64, error.clone())).expect("the test listens");
        if error.is_none() {
            *self.stored.lock().expect("no panic") = Bytes::from(received);
            let receipt = Receipt::for_terms(put.lease.claimed(), Timestamp::default());
            let receipt = Signed::sign(receipt, self.identity.signing_key());
            // The client may be gone.
            let _ = replier.reply(Reply::Put(Box::new(receipt))).await;
        }
    }

    async fn get(&self, get: GetRequest, replier: Replier, behaviour: u8) {
        let bytes = self.stored.lock().expect("no panic").clone();
        let count = usize::try_from(get.count_bytes).expect("small");
        let reply = Reply::Get(GetReply { length_bytes: get.length_bytes, payload_bytes: get.count_bytes });
        let mut writer = replier.reply_with_payload(reply).await.expect("a reader");
        if behaviour == Behaviour::StallPayload as u8 {
            std::future::pending::<()>().await;
        }
        if behaviour == Behaviour::BreakOff as u8 {
            return writer.write(bytes.slice(..count / 2)).await.expect("half");
        }
        let offset = usize::try_from(get.offset_bytes).expect("small");
        // The client may be gone.
        if writer.write(bytes.slice(offset..offset + count)).await.is_ok() {
            writer.finish().expect("all of it");
        }
    }

    async fn answer(&self, request: Request, payload: PayloadReader, replier: Replier) {
        let behaviour = match &request {
            Request::Put(put) => put.lease.claimed().root.as_bytes()[0],
            Request::Get(get) => get.root.as_bytes()[0],
            Request::Stat(roots) => roots[0].as_bytes()[0],
            _ => 0,
        };
        match behaviour {
            b if b == Behaviour::RefuseEarly as u8 => {
                let error = WireError::new(ErrorCode::QuotaExceeded, "no room for you");
                replier.refuse(error).await.expect("sent");
                return;
            }
            b if b == Behaviour::Hang as u8 => std::future::pending().await,
            b if b == Behaviour::NoAnswer as u8 => return,
            b if b == Behaviour::Panic as u8 => panic!("as the test asked"),
            b if b == Behaviour::Wait as u8 => {
                self.release.clone().wait_for(|released| *released).await.expect("the test lives");
            }
            _ => {}
        }
        match request {
            Request::Put(put) => self.put(&put, payload, replier, behaviour).await,
            Request::Get(get) => self.get(get, replier, behaviour).await,
            Request::Stat(roots) => {
                let items = roots.iter().map(|_| Err(ErrorCode::NotHeld)).collect();
                replier.reply(Reply::Stat(items)).await.expect("sent");
            }
            other => panic!("no test sends {}", other.name()),
        }
    }
}

struct Shared(Arc<TestHandler>);

impl Handler for Shared {
    fn handle(&self, _: Peer, request: Request, payload: PayloadReader, replier: Replier) -> BoxFuture<'static, ()> {
        let handler = Arc::clone(&self.0);
        async move { handler.answer(request, payload, replier).await }.boxed()
    }
}

/// A server at work on a port of its own.
struct Running {
    node: NodeAddress,
    identity: Identity,
    server: Arc<DataServer>,
    seen: mpsc::UnboundedReceiver<Seen>,
    release: tokio::sync::watch::Sender<bool>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Running {
    fn start(seed: u8, options: DataPlaneOptions) -> Self {
        Self::start_at(loopback(0), seed, options)
    }

    fn start_at(address: SocketAddr, seed: u8, options: DataPlaneOptions) -> Self {
        let identity = Identity::from_bytes(&[seed; 32]);
        let server = Arc::new(DataServer::bind(address, &identity, options).expect("bound"));
        let node = NodeAddress { id: identity.node_id(), addresses: vec![server.local_address().expect("bound")] };
        let (seen_sender, seen) = mpsc::unbounded_channel();
        let (release, released) = tokio::sync::watch::channel(false);
        let handler = Arc::new(Shared(Arc::new(TestHandler {
            identity: identity.clone(),
            stored: Mutex::default(),
            seen: seen_sender,
            release: released,
        })));
        let (shutdown, wanted) = oneshot::channel::<()>();
        let serving = Arc::clone(&server);
        let task = tokio::spawn(async move {
            serving.serve(handler, wanted.map(|_| ())).await;
        });
        Self { node, identity, server, seen, release, shutdown: Some(shutdown), task }
    }

    fn put(&self, behaviour: Behaviour, length: usize) -> Request {
        let key = self.identity.signing_key();
        let terms = LeaseTerms {
            node: self.node.id,
            root: root(behaviour),
            length_bytes: length as u64,
            account: AccountId::new([1; 32]),
            delete_key: [2; 32],
            renew_key: [3; 32],
            until: Timestamp::default(),
            issued_at: Timestamp::default(),
        };
        Request::Put(Box::new(PutRequest { lease: Signed::sign(terms, key), grant: None }))
    }

    async fn stop(mut self) {
        drop(self.shutdown.take());
        self.task.await.expect("no panic");
    }
}

fn get(behaviour: Behaviour, offset: usize, count: usize) -> Request {
    Request::Get(GetRequest {
        root: root(behaviour),
        length_bytes: (offset + count) as u64,
        offset_bytes: offset as u64,
        count_bytes: count as u64,
        proof: false,
    })
}

fn stat(behaviour: Behaviour) -> Request {
    Request::Stat(vec![root(behaviour)])
}

fn client(options: DataPlaneOptions) -> DataClient {
    DataClient::new(&Identity::generate().expect("random"), options).expect("a client")
}

/// Deadlines that tests can wait for.
fn quick() -> DataPlaneOptions {
    DataPlaneOptions {
        progress_deadline: Duration::from_millis(300),
        dial_timeout: Duration::from_millis(1500),
        drain_deadline: Duration::from_millis(500),
        busy_patience: Duration::from_millis(50),
        ..Default::default()
    }
}

fn pattern(length: usize) -> Bytes {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect::<Vec<_>>().into()
}

fn refusal(result: Result<Response, CallError>) -> ErrorCode {
    match result {
        Err(CallError::Refused { error, .. }) => error.code(),
        other => panic!("not a refusal: {other:?}"),
    }
}

async fn ask(client: &DataClient, node: &NodeAddress, behaviour: Behaviour) -> Result<Response, CallError> {
    client.call(node, stat(behaviour), Payload::none()).await
}
