//! Requests to nodes and their answers.
//!
//! Decides how one request runs: its header and payload go out while the answer may already come in, so that an
//! early refusal is seen. Never repeats a request: whether a retry is wise the caller knows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::{ErrorCode, Reply, Request, WireError, WireFault, frame};
use tokio::time::timeout;

use crate::datagram::PathReport;
use crate::endpoint::SocketReport;
use crate::identity::Identity;
use crate::options::{DataPlaneOptions, OptionsError};
use crate::pool::{DialError, Dialling, Found, Pool, Pooled};
use crate::stream::{HeaderError, PayloadReader, SendHalf, StreamError, code, read_header};
use crate::tls::TlsError;

/// A node and where it may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// Who must answer.
    pub id: NodeId,
    /// Data plane addresses, best first; the first eight are tried.
    pub addresses: Vec<SocketAddr>,
}

/// What follows the header of a request. Never copied on its way to the socket.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    pieces: Vec<Bytes>,
    progress: Option<Arc<AtomicU64>>,
}

impl Payload {
    /// No payload.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// These bytes, one piece after the other.
    #[must_use]
    pub fn of(pieces: Vec<Bytes>) -> Self {
        Self { pieces, progress: None }
    }

    /// Adds to `counter` the bytes that the connection took; they may still be on their way.
    #[must_use]
    pub fn with_progress(mut self, counter: Arc<AtomicU64>) -> Self {
        self.progress = Some(counter);
        self
    }

    /// How many bytes there are.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::try_from(piece.len()).unwrap_or(u64::MAX)).sum()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::of(vec![bytes])
    }
}

/// A node's answer.
#[derive(Debug)]
pub struct Response {
    /// The header, which is no error: those come as [`CallError::Refused`].
    pub reply: Reply,
    /// What follows it: exactly as many bytes as the header declares.
    pub payload: PayloadReader,
}

/// What a node did that no correct node does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// Another key answered at the node's address, or a certificate that is not bound to a key.
    #[error("another key answered: {0}")]
    WrongKey(String),
    /// The answer ended inside of its header.
    #[error("its answer ended early")]
    Truncated,
    /// The answer is over a bound, does not parse, or answers another question.
    #[error("its answer is wrong: {0}")]
    Malformed(WireError),
}

/// What this end did wrong or lacks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LocalFault {
    /// The request cannot be sent: it is over the wire's bounds, or its payload is not as long as it says.
    #[error("the request cannot be sent: {0}")]
    Request(WireError),
    /// More nodes are in use than the pool has connections for.
    #[error("{0}")]
    Resources(String),
    /// The client was shut down.
    #[error("the client is shut down")]
    ShutDown,
}

/// Why a request has no answer: whose fault it was decides what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The node cannot be reached, or the connection was lost: try another, or this one later.
    #[error("node {} cannot be reached: {reason}", .node.short())]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What was tried.
        reason: String,
    },
    /// The node does what no correct node does: do not use it.
    #[error("node {} misbehaved: {fault}", .node.short())]
    Peer {
        /// The node.
        node: NodeId,
        /// What it did.
        fault: PeerFault,
    },
    /// The node let no byte move for the progress deadline: use another.
    #[error("node {} let no byte move for {deadline:?}", .node.short())]
    Stalled {
        /// The node.
        node: NodeId,
        /// The deadline that passed.
        deadline: Duration,
    },
    /// The node answered that it will not.
    #[error("node {} refused: {error}", .node.short())]
    Refused {
        /// The node.
        node: NodeId,
        /// Its error.
        error: WireError,
    },
    /// This end is at fault.
    #[error("{0}")]
    Local(LocalFault),
}

impl CallError {
    /// What a session should make of it. Want of a place in the pool or of memory passes, so it counts as busy.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } => Fault::Unreachable,
            Self::Peer { .. } => Fault::Misbehaved,
            Self::Refused { error, .. } => match (error.code(), error.fault()) {
                (ErrorCode::NotHeld | ErrorCode::Damaged, _) => Fault::NotHeld,
                (_, WireFault::Unreachable) => Fault::Busy { retry_after: error.retry_after() },
                (_, WireFault::Peer | WireFault::Local | WireFault::Misuse | WireFault::Bug) => Fault::Refused,
            },
            Self::Local(LocalFault::Resources(_)) => Fault::Busy { retry_after: None },
            Self::Local(LocalFault::Request(_) | LocalFault::ShutDown) => Fault::Local,
        }
    }
}

/// Why a client could not be made: this machine's or the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The options contradict each other.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The client end of the data plane. Clones share connections and budget.
#[derive(Clone)]
pub struct DataClient {
    pool: Arc<Pool>,
}

impl DataClient {
    /// A client that shows `identity` to nodes. Opens sockets when first needed. Within a tokio runtime only.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(identity: &Identity, options: DataPlaneOptions) -> Result<Self, ClientError> {
        options.validate()?;
        Ok(Self { pool: Pool::new(identity, options)? })
    }

    /// Sends a request with its payload and waits for the header of the answer, whose payload the caller reads.
    ///
    /// The answer may come before the payload is sent whole; the rest is then not sent. There is no limit on the
    /// time of the whole call, only on the time without progress. Dropping the future gives the request up.
    ///
    /// # Errors
    /// [`CallError`], by whose fault it is.
    pub async fn call(&self, node: &NodeAddress, request: Request, payload: Payload) -> Result<Response, CallError> {
        let header = prepare(&request, &payload).map_err(|error| CallError::Local(LocalFault::Request(error)))?;
        let found = self.pool.find(node.id, &node.addresses).map_err(|error| dial_failed(node.id, error))?;
        let (dial, early) = match found {
            Found::Ready(pooled) => return self.exchange(node.id, &pooled, &request, header, payload).await,
            Found::Dialling(Dialling { dial, early, .. }) => (dial, early.filter(|_| request.may_come_early())),
        };
        if let Some(early) = early {
            let unreachable = async {
                match dial.clone().await {
                    Err(error) => dial_failed(node.id, error),
                    Ok(_) => std::future::pending().await,
                }
            };
            let asked = tokio::select! {
                biased;
                asked = self.exchange(node.id, &early, &request, header.clone(), Payload::none()) => asked,
                error = unreachable => return Err(error),
            };
            match asked {
                // The node does not know the client any more, or is reached at another address: as if it had not been asked.
                Err(CallError::Unreachable { .. } | CallError::Local(_)) => {}
                Err(CallError::Stalled { .. }) if dial.peek().is_none() => {}
                asked => return asked,
            }
        }
        let pooled = dial.await.map_err(|error| dial_failed(node.id, error))?;
        self.exchange(node.id, &pooled, &request, header, payload).await
    }

    /// One request and the header of its answer, over this connection.
    async fn exchange(
        &self,
        id: NodeId,
        pooled: &Arc<Pooled>,
        request: &Request,
        header: Bytes,
        payload: Payload,
    ) -> Result<Response, CallError> {
        let call = pooled.begin();
        let deadline = self.pool.options().progress_deadline;
        let (send, receive) = timeout(deadline, pooled.connection().open_bi())
            .await
            .map_err(|_| CallError::Stalled { node: id, deadline })?
            .map_err(|error| lost(id, &error))?;
        let send = SendHalf::new(send, Arc::clone(&call), deadline, code::CANCELLED);
        let mut reading = Box::pin(Answer { stream: Some(receive) }.read());
        let answer = tokio::select! {
            biased;
            answer = &mut reading => answer,
            sent = send_request(send, header, payload) => {
                if let Err(error @ (StreamError::Stalled(_) | StreamError::Misuse(_))) = sent {
                    return Err(stream_failed(id, deadline, error));
                }
                // A node that stopped the payload has answered, and if the connection is gone reading tells why.
                timeout(deadline, reading).await.map_err(|_| CallError::Stalled { node: id, deadline })?
            }
        };
        let (header, receive) = answer.map_err(|error| header_failed(id, deadline, error))?;
        let peer = |fault| CallError::Peer { node: id, fault };
        let reply = frame::parse_reply(header).map_err(|error| peer(PeerFault::Malformed(error)))?;
        let reply = reply.into_result().map_err(|error| CallError::Refused { node: id, error })?;
        request.check_reply(&reply).map_err(|error| peer(PeerFault::Malformed(error)))?;
        let payload = PayloadReader::new(receive, call, deadline, code::CANCELLED, reply.payload_bytes());
        Ok(Response { reply, payload })
    }

    /// Sees to it that there is a connection to the node: at once where there is one, by a dial where there is none.
    ///
    /// For callers who want to know how long a node takes to answer at all before they ask anything of it. The connection may be
    /// closed again before it is used; a call dials then.
    ///
    /// # Errors
    /// [`CallError`], by whose fault it is.
    pub async fn reach(&self, node: &NodeAddress) -> Result<(), CallError> {
        let failed = |error| dial_failed(node.id, error);
        match self.pool.find(node.id, &node.addresses).map_err(failed)? {
            Found::Ready(_) => Ok(()),
            Found::Dialling(Dialling { dial, .. }) => dial.await.map(drop).map_err(failed),
        }
    }

    /// Whether a read can be sent to the node at once: there is a connection, or one was begun with the ticket of an earlier one.
    /// Begins one where there is none.
    #[must_use]
    pub fn takes_reads(&self, node: &NodeAddress) -> bool {
        match self.pool.find(node.id, &node.addresses) {
            Ok(Found::Ready(_)) => true,
            Ok(Found::Dialling(Dialling { early, .. })) => early.is_some(),
            Err(_) => false,
        }
    }

    /// What the path of every open connection is like.
    #[must_use]
    pub fn path_reports(&self) -> Vec<(NodeId, PathReport)> {
        self.pool.reports()
    }

    /// What went through the client's sockets.
    #[must_use]
    pub fn socket_reports(&self) -> Vec<SocketReport> {
        self.pool.socket_reports()
    }

    /// What all windows hold of the memory budget, in bytes.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        self.pool.window_bytes()
    }

    /// Closes all connections; requests under way fail, later ones too.
    pub async fn shut_down(&self) {
        self.pool.shut_down().await;
    }
}

/// The request's header in its frame.
fn prepare(request: &Request, payload: &Payload) -> Result<Bytes, WireError> {
    if request.payload_bytes() != payload.length_bytes() {
        return Err(WireError::new(ErrorCode::LengthMismatch, "the payload is not as long as the request says"));
    }
    frame::encode_request(request).map(Bytes::from)
}

async fn send_request(mut send: SendHalf, header: Bytes, payload: Payload) -> Result<(), StreamError> {
    send.expect(payload.length_bytes());
    send.write(header, |_| ()).await?;
    for piece in payload.pieces {
        let moved = |bytes| {
            if let Some(progress) = &payload.progress {
                progress.fetch_add(bytes, Ordering::Relaxed);
            }
        };
        send.write(piece, moved).await?;
    }
    send.finish();
    Ok(())
}

fn dial_failed(node: NodeId, error: DialError) -> CallError {
    match error {
        DialError::WrongKey(address, reason) => {
            CallError::Peer { node, fault: PeerFault::WrongKey(format!("{address}: {reason}")) }
        }
        DialError::NoAddress | DialError::Failed(_) | DialError::TimedOut(_) => {
            CallError::Unreachable { node, reason: error.to_string() }
        }
        DialError::ShutDown => CallError::Local(LocalFault::ShutDown),
        DialError::PoolFull(_) | DialError::BudgetSpent | DialError::Tls(_) => {
            CallError::Local(LocalFault::Resources(error.to_string()))
        }
    }
}

fn header_failed(node: NodeId, deadline: Duration, error: HeaderError) -> CallError {
    let peer = |fault| CallError::Peer { node, fault };
    match error {
        HeaderError::TooLarge(error) => peer(PeerFault::Malformed(error)),
        HeaderError::Truncated => peer(PeerFault::Truncated),
        HeaderError::Stream(error) => stream_failed(node, deadline, error),
    }
}

fn stream_failed(node: NodeId, deadline: Duration, error: StreamError) -> CallError {
    match error {
        StreamError::Stalled(_) => CallError::Stalled { node, deadline },
        StreamError::Lost(error) => lost(node, &error),
        error @ StreamError::GivenUp(_) => CallError::Unreachable { node, reason: error.to_string() },
        StreamError::Truncated { .. } => CallError::Peer { node, fault: PeerFault::Truncated },
        StreamError::Excess => CallError::Peer { node, fault: PeerFault::Malformed(WireError::malformed("excess")) },
        StreamError::Misuse(what) => CallError::Local(LocalFault::Resources(what.to_owned())),
    }
}

fn lost(node: NodeId, error: &quinn::ConnectionError) -> CallError {
    match error {
        quinn::ConnectionError::LocallyClosed => CallError::Local(LocalFault::ShutDown),
        error => CallError::Unreachable { node, reason: error.to_string() },
    }
}

/// The receiving half before the answer's header is whole. Dropped before that it tells the node not to answer.
struct Answer {
    stream: Option<quinn::RecvStream>,
}

impl Answer {
    /// The header of the answer and the stream that its payload follows on.
    async fn read(mut self) -> Result<(Bytes, quinn::RecvStream), HeaderError> {
        let misuse = HeaderError::Stream(StreamError::Misuse("read twice"));
        let stream = self.stream.as_mut().ok_or(misuse.clone())?;
        let header = read_header(stream).await?;
        self.stream.take().map(|stream| (header, stream)).ok_or(misuse)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.stream {
            // An error means that there is nothing left to stop.
            let _ = stream.stop(code::CANCELLED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_tell_sessions_what_to_do() {
        let fault = |error| CallError::Refused { node: NodeId::new([1; 32]), error }.fault();
        let second = Duration::from_secs(1);
        assert_eq!(fault(WireError::new(ErrorCode::NotHeld, "")), Fault::NotHeld);
        assert_eq!(fault(WireError::new(ErrorCode::Damaged, "")), Fault::NotHeld);
        assert_eq!(fault(WireError::new(ErrorCode::DiskFull, "")), Fault::Refused);
        assert_eq!(fault(WireError::new(ErrorCode::QuotaExceeded, "")), Fault::Refused);
        let busy = WireError::new(ErrorCode::Busy, "").with_retry_after(second);
        assert_eq!(fault(busy), Fault::Busy { retry_after: Some(second) });
        assert_eq!(fault(WireError::new(ErrorCode::Other(299), "")), Fault::Busy { retry_after: None });
        assert_eq!(fault(WireError::new(ErrorCode::Other(999), "")), Fault::Refused);
    }
}
