//! TLS for the data plane: certificates bound to node keys, one protocol version, fast ciphers first.
//!
//! Decides which peers a handshake may end with: any holder of an Ed25519 node key for a server, exactly the
//! node that was dialled for a client. Never decides what a peer may do afterwards. Certificates are made and parsed
//! by libp2p-tls (the extension of the libp2p TLS specification); everything else is rustls with configurations of
//! our own, because the ready-made ones put the slowest cipher first and log keys.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::ALPN;
use libp2p_tls::certificate;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, ResolvesClientCert, Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::identity::{Identity, IdentityError, node_id_of};

/// Stands where QUIC wants a host name; never sent, as names of nodes are keys.
pub(crate) const SERVER_NAME: &str = "node.dolmen.invalid";
/// Most sessions that a server can resume; the oldest is forgotten first. Some 1.5 KiB each.
const SESSIONS_MAX: usize = 2048;
/// The certificate's own key: what libp2p-tls makes, and what other implementations of its specification may use.
const SIGNATURE_SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

/// Why TLS could not be set up: always this machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// rustls refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The cipher that QUIC needs for its first packets is missing.
    #[error("TLS lacks the cipher that QUIC starts with")]
    InitialCipher,
}

/// Makes the configurations of both ends from one certificate, made when the process starts.
#[derive(Clone)]
pub(crate) struct Tls {
    certificate: Arc<OwnCertificate>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    pub(crate) fn new(identity: &Identity) -> Result<Self, TlsError> {
        let (certificate, key) = certificate::generate(&identity.libp2p_keypair()?)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let key = aws_lc_rs::sign::any_ecdsa_type(&key)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate], key));
        Ok(Self { certificate: Arc::new(OwnCertificate(certified)), provider: Arc::new(provider()) })
    }

    /// The configuration of a server, which takes any peer with a node key and tells who it is.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(PeerVerifier { expected: None }))
            .with_cert_resolver(Arc::clone(&self.certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session is kept with the certificate that was checked when it began, and resumed once: what was sent with
        // the first packet of a connection and recorded by somebody is refused when it comes again.
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.send_tls13_tickets = 1;
        config.max_early_data_size = u32::MAX;
        QuicServerConfig::try_from(config).map_err(|_| TlsError::InitialCipher)
    }

    /// The configuration of dials that end with `node` or not at all. `sessions` are this configuration's alone: a resumed one
    /// is not checked against `node` again.
    pub(crate) fn client(
        &self,
        node: NodeId,
        sessions: Arc<dyn ClientSessionStore>,
    ) -> Result<QuicClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerVerifier { expected: Some(node) }))
            .with_client_cert_resolver(Arc::clone(&self.certificate) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::store(sessions).tls12_resumption(Tls12Resumption::Disabled);
        config.enable_early_data = true;
        QuicClientConfig::try_from(config).map_err(|_| TlsError::InitialCipher)
    }
}

#[cfg(test)]
impl Tls {
    pub(crate) fn verifier_of(&self, node: NodeId) -> Arc<dyn ServerCertVerifier> {
        Arc::new(PeerVerifier { expected: Some(node) })
    }
}

/// Who is at the other end of a connection whose handshake is over; `None` when that is not a node key.
pub(crate) fn peer_of(identity: Option<Box<dyn Any>>) -> Option<NodeId> {
    let certificates = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(certificates.first()?, &[]).ok()
}

/// AES first where the processor computes it, as that costs a quarter of ChaCha20; the client's order decides.
fn provider() -> CryptoProvider {
    let cipher_suites = if has_aes() {
        vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_256_GCM_SHA384]
    } else {
        vec![TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    };
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// The node whose key signed the certificate's key. Checks the certificate's own signature and the binding.
fn node_of(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<NodeId, rustls::Error> {
    if !others.is_empty() {
        return Err(rustls::Error::General("a peer shows exactly one certificate".into()));
    }
    let parsed = certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
    // An Ed25519 peer id is the key itself behind an identity hash, so nothing is looked up here.
    let peer = parsed.peer_id();
    libp2p::identity::PublicKey::try_decode_protobuf(peer.as_ref().digest())
        .ok()
        .and_then(node_id_of)
        .ok_or(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
}

fn verify_handshake_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if !SIGNATURE_SCHEMES.contains(&signed.scheme) {
        return Err(CertificateError::BadSignature.into());
    }
    certificate::parse(certificate)
        .map_err(|_| CertificateError::BadEncoding)?
        .verify_signature(signed.scheme, message, signed.signature())
        .map_err(|_| CertificateError::BadSignature)?;
    Ok(HandshakeSignatureValid::assertion())
}

fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
}

#[derive(Debug)]
struct PeerVerifier {
    /// The node that was dialled; `None` on a server, which learns who it is.
    expected: Option<NodeId>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.expected != Some(node_of(end_entity, intermediates)?) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_handshake_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        node_of(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_handshake_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

struct OwnCertificate(Arc<CertifiedKey>);

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OwnCertificate")
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_certificate(identity: &Identity) -> CertificateDer<'static> {
        Tls::new(identity).expect("tls").certificate.0.cert[0].clone()
    }

    #[test]
    fn a_certificate_names_its_node_and_only_that() {
        let identity = Identity::from_bytes(&[1; 32]);
        let certificate = own_certificate(&identity);
        assert_eq!(node_of(&certificate, &[]), Ok(identity.node_id()));
        assert_eq!(peer_of(Some(Box::new(vec![certificate.clone()]))), Some(identity.node_id()));
        assert!(node_of(&certificate, &[own_certificate(&identity)]).is_err(), "one certificate, no more");
        assert_eq!(peer_of(None), None);
    }

    #[test]
    fn a_changed_certificate_never_names_another_node() {
        let identity = Identity::from_bytes(&[1; 32]);
        let bytes = own_certificate(&identity).to_vec();
        let mut refused = 0;
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            match node_of(&CertificateDer::from(changed), &[]) {
                // X.509 says the algorithm twice and the parser reads one of them.
                Ok(node) => assert_eq!(node, identity.node_id(), "bit {bit}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > bytes.len() * 8 * 9 / 10, "{refused} of {}", bytes.len() * 8);
    }

    #[test]
    fn a_client_takes_the_dialled_node_only() {
        let dialled = Identity::from_bytes(&[1; 32]);
        let certificate = own_certificate(&dialled);
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let verify = |expected: NodeId| {
            PeerVerifier { expected: Some(expected) }.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
        };
        assert!(verify(dialled.node_id()).is_ok());
        let other = Identity::from_bytes(&[2; 32]).node_id();
        assert_eq!(verify(other).err(), Some(CertificateError::NotValidForName.into()));
    }

    #[test]
    fn aes_comes_first_where_the_processor_has_it() {
        let first = provider().cipher_suites[0].suite();
        let expected = if has_aes() {
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        assert_eq!(first, expected);
    }
}
