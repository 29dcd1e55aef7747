//! What a client keeps of earlier connections, so that it need not introduce itself again.
//!
//! Decides which dial may send a request with its first packet (0-RTT, RFC 9001 4.6): one to an address at which this process had
//! a connection to the same node before. Never decides which requests may go that way. Kept in memory only: the ticket is
//! good for one connection, and a process that ends takes it along.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dolmen_proto::ids::NodeId;
use quinn::TokenStore;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use crate::tls::{Tls, TlsError};

/// Most pairs of node and address that are remembered: some 3 KiB each.
const REMEMBERED_MAX: usize = 1024;

/// Sessions with nodes that can be resumed.
pub(crate) struct SessionCache {
    tls: Tls,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    uses: u64,
    by_path: BTreeMap<(NodeId, SocketAddr), (u64, CachedSession)>,
}

/// A node at one address. rustls resumes only what the very same configuration began, so that is kept as well.
#[derive(Clone)]
pub(crate) struct CachedSession {
    tls: Arc<QuicClientConfig>,
    store: Arc<SessionStore>,
}

impl SessionCache {
    pub(crate) fn new(tls: Tls) -> Self {
        Self { tls, state: Mutex::default() }
    }

    /// What a dial of `node` at `address` begins with, new where nothing is remembered.
    pub(crate) fn with(&self, node: NodeId, address: SocketAddr) -> Result<CachedSession, TlsError> {
        let mut state = self.lock();
        state.uses += 1;
        let use_number = state.uses;
        if let Some((used, known)) = state.by_path.get_mut(&(node, address)) {
            *used = use_number;
            return Ok(known.clone());
        }
        let store = Arc::new(SessionStore::default());
        let tls = Arc::new(self.tls.client(node, Arc::clone(&store) as Arc<dyn ClientSessionStore>)?);
        let new = CachedSession { tls, store };
        if state.by_path.len() >= REMEMBERED_MAX
            && let Some(oldest) = state.by_path.iter().min_by_key(|(_, (used, _))| *used).map(|(path, _)| *path)
        {
            state.by_path.remove(&oldest);
        }
        state.by_path.insert((node, address), (use_number, new.clone()));
        Ok(new)
    }

    /// The first of these addresses at which the node is likely to take a request with the first packet.
    pub(crate) fn resumable(&self, node: NodeId, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let state = self.lock();
        let resumable = |address: &&SocketAddr| {
            state.by_path.get(&(node, **address)).is_some_and(|(_, known)| known.store.lock().ticket.is_some())
        };
        addresses.iter().find(resumable).copied()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedSession {
    /// The configuration of one dial.
    pub(crate) fn client_config(&self) -> quinn::ClientConfig {
        let mut config = quinn::ClientConfig::new(Arc::clone(&self.tls) as Arc<dyn quinn::crypto::ClientConfig>);
        config.token_store(Arc::clone(&self.store) as Arc<dyn TokenStore>);
        config
    }
}

/// The newest of what a node gives to be remembered by; each is shown once.
#[derive(Default)]
struct SessionStore(Mutex<Newest>);

#[derive(Default)]
struct Newest {
    /// Resumes the TLS session.
    ticket: Option<Tls13ClientSessionValue>,
    /// Proves that this client is at its address: without it a node answers an early request with three datagrams at most
    /// until the client has shown that (RFC 9000 8.1).
    token: Option<Bytes>,
    /// The group that the node agreed to exchange keys in.
    group: Option<NamedGroup>,
}

impl SessionStore {
    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept are secrets.
impl fmt::Debug for SessionStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionStore(..)")
    }
}

/// Names are not looked at: each store is one node's.
impl ClientSessionStore for SessionStore {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.lock().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.lock().ticket = Some(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.lock().ticket.take()
    }
}

impl TokenStore for SessionStore {
    fn insert(&self, _: &str, token: Bytes) {
        self.lock().token = Some(token);
    }

    fn take(&self, _: &str) -> Option<Bytes> {
        self.lock().token.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn sessions() -> SessionCache {
        SessionCache::new(Tls::new(&Identity::from_bytes(&[1; 32])).expect("tls"))
    }

    #[test]
    fn remembered_paths_are_bounded_and_the_oldest_is_forgotten() {
        let sessions = sessions();
        let node = NodeId::new([2; 32]);
        let address = |number: usize| SocketAddr::from(([192, 0, 2, 1], u16::try_from(number).expect("a port")));
        let first = sessions.with(node, address(0)).expect("a configuration");
        for number in 1..REMEMBERED_MAX {
            sessions.with(node, address(number)).expect("a configuration");
        }
        let again = sessions.with(node, address(0)).expect("a configuration");
        assert!(Arc::ptr_eq(&first.tls, &again.tls), "the same configuration while it is remembered");
        sessions.with(node, address(REMEMBERED_MAX)).expect("a configuration");
        let state = sessions.lock();
        assert_eq!(state.by_path.len(), REMEMBERED_MAX);
        assert!(!state.by_path.contains_key(&(node, address(1))), "the one that was not used for longest");
        assert!(state.by_path.contains_key(&(node, address(0))));
    }

    #[test]
    fn tokens_are_shown_once_and_nothing_is_resumable_without_a_ticket() {
        let sessions = sessions();
        let (node, address) = (NodeId::new([2; 32]), SocketAddr::from(([192, 0, 2, 1], 1)));
        let known = sessions.with(node, address).expect("a configuration");
        known.store.insert("", Bytes::from_static(b"old"));
        known.store.insert("", Bytes::from_static(b"new"));
        assert_eq!(known.store.take("").as_deref(), Some(&b"new"[..]));
        assert_eq!(known.store.take(""), None);
        assert_eq!(sessions.resumable(node, &[address]), None);
    }
}
