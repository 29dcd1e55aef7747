//! One Ed25519 key for both planes: who a node is, and the file that its key lies in.
//!
//! Decides how the key is made, kept and turned into a [`NodeId`] and a libp2p key pair. Never prints the secret,
//! never overwrites a key file, and never decides who is trusted.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dolmen_proto::ids::NodeId;
use ed25519_dalek::SigningKey;
use libp2p::identity as libp2p_identity;
use zeroize::Zeroizing;

/// First byte of a key file.
const KEY_FILE_VERSION: u8 = 1;
/// Version, secret key, public key: the public key doubles as the check that the file is whole.
const KEY_FILE_BYTES: usize = 1 + 32 + 32;
/// Context of the key that lets a restarted node tell its old peers that their connections are gone.
const RESET_KEY_CONTEXT: &str = "dolmen 2026 connection reset key v1";
/// Context of the key that marks the connection ids of this node.
const CONNECTION_ID_KEY_CONTEXT: &str = "dolmen 2026 connection id key v1";

/// Why an identity could not be made or read: always this machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The key file or its folder could not be read or written.
    #[error("cannot use the key file {path}: {source}")]
    File {
        /// The key file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The key file is not one of ours, cut short or damaged. It is left as it is.
    #[error("the key file {path} is damaged: restore it from a backup, or move it away to become a new node")]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
    /// Others may read the key file.
    #[error("the key file {path} can be read by others (mode {mode:o}): run chmod 600 on it")]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// libp2p would not take the key.
    #[error("the key cannot be used for the control plane")]
    Libp2p,
}

/// A node's or a client process's key pair. Clones share the one secret, which is wiped when the last one goes.
#[derive(Clone)]
pub struct Identity {
    key: Arc<SigningKey>,
}

impl Identity {
    /// A new random identity, as client processes use and throw away.
    ///
    /// # Errors
    /// [`IdentityError::Random`] when the operating system has no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut secret[..]).map_err(IdentityError::Random)?;
        Ok(Self::from_bytes(&secret))
    }

    /// The identity of a 32-byte secret; every value is one.
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self { key: Arc::new(SigningKey::from_bytes(secret)) }
    }

    /// Reads the identity from `path`, or makes one and writes it there, readable by the owner alone.
    ///
    /// A new file appears whole and synced or not at all; an existing one is never overwritten, even when two
    /// processes start at once.
    ///
    /// # Errors
    /// [`IdentityError`]; a damaged or exposed file is refused and left as it is.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(path)? {
            return Ok(identity);
        }
        let identity = Self::generate()?;
        match identity.store(path) {
            Ok(()) => Ok(identity),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let vanished = || file_error(path, io::Error::from(io::ErrorKind::NotFound));
                Self::load(path)?.ok_or_else(vanished)
            }
            Err(error) => Err(file_error(path, error)),
        }
    }

    /// Reads the identity from `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// As [`Identity::load_or_create`].
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(path, error)),
        };
        refuse_exposed(path, &file)?;
        let mut bytes = Zeroizing::new([0; KEY_FILE_BYTES + 1]);
        let mut length = 0;
        while length < bytes.len() {
            match file.read(&mut bytes[length..]).map_err(|error| file_error(path, error))? {
                0 => break,
                count => length += count,
            }
        }
        let damaged = || IdentityError::Damaged { path: path.to_owned() };
        if length != KEY_FILE_BYTES || bytes[0] != KEY_FILE_VERSION {
            return Err(damaged());
        }
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&bytes[1..33]);
        let identity = Self::from_bytes(&secret);
        if identity.node_id().as_bytes() != &bytes[33..KEY_FILE_BYTES] {
            return Err(damaged());
        }
        Ok(Some(identity))
    }

    /// Who this is: the bytes of the public key.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::new(self.key.verifying_key().to_bytes())
    }

    /// The key to sign receipts and records with.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The same key as libp2p wants it.
    ///
    /// # Errors
    /// [`IdentityError::Libp2p`], which no valid key leads to.
    pub fn libp2p_keypair(&self) -> Result<libp2p_identity::Keypair, IdentityError> {
        let mut secret = Zeroizing::new(self.key.to_bytes());
        libp2p_identity::Keypair::ed25519_from_bytes(&mut secret[..]).map_err(|_| IdentityError::Libp2p)
    }

    /// The same in every run of one node, so that peers of the last run learn at once that it is over.
    pub(crate) fn connection_reset_key(&self) -> [u8; 32] {
        blake3::derive_key(RESET_KEY_CONTEXT, &Zeroizing::new(self.key.to_bytes())[..])
    }

    /// Marks connection ids that one node handed out, in this or an earlier run.
    pub(crate) fn connection_id_key(&self) -> u64 {
        let key = blake3::derive_key(CONNECTION_ID_KEY_CONTEXT, &Zeroizing::new(self.key.to_bytes())[..]);
        u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]])
    }

    /// Writes the key beside `path`, syncs it, then gives it its name: a link is refused when the name is taken.
    fn store(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        let temporary = folder.join(format!(".{name}.{:016x}", u64::from_le_bytes(random)));
        let written = self.write_new(&temporary).and_then(|()| fs::hard_link(&temporary, path));
        let removed = fs::remove_file(&temporary);
        written.and(removed)?;
        File::open(folder)?.sync_all()
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut bytes = Zeroizing::new([0; KEY_FILE_BYTES]);
        bytes[0] = KEY_FILE_VERSION;
        bytes[1..33].copy_from_slice(&Zeroizing::new(self.key.to_bytes())[..]);
        bytes[33..].copy_from_slice(self.node_id().as_bytes());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(&bytes[..])?;
        file.sync_all()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Identity").field(&self.node_id()).finish()
    }
}

/// The node behind a libp2p public key; `None` for any key that is not Ed25519.
pub(crate) fn node_id_of(key: libp2p_identity::PublicKey) -> Option<NodeId> {
    key.try_into_ed25519().ok().map(|key| NodeId::new(key.to_bytes()))
}

fn file_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File { path: path.to_owned(), source }
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, file: &File) -> Result<(), IdentityError> {
    let metadata = file.metadata().map_err(|error| file_error(path, error))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_path: &Path, _file: &File) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn a_key_is_made_once_and_read_afterwards() {
        let folder = folder();
        let path = folder.path().join("node.key");
        let made = Identity::load_or_create(&path).expect("a new key");
        let read = Identity::load_or_create(&path).expect("the same key");
        assert_eq!(made.node_id(), read.node_id());
        assert_eq!(made.connection_reset_key(), read.connection_reset_key());
        assert_eq!(made.connection_id_key(), read.connection_id_key());
        let names: Vec<_> = fs::read_dir(folder.path()).expect("a listing").collect();
        assert_eq!(names.len(), 1, "no temporary file stays behind");
        assert!(matches!(made.store(&path), Err(error) if error.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(Identity::load(&path).expect("still whole").expect("still there").node_id(), made.node_id());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_private_and_an_exposed_one_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder();
        let path = folder.path().join("node.key");
        Identity::load_or_create(&path).expect("a new key");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("exposed");
        assert!(matches!(Identity::load(&path), Err(IdentityError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_kept() {
        let folder = folder();
        let path = folder.path().join("node.key");
        Identity::load_or_create(&path).expect("a new key");
        let whole = fs::read(&path).expect("bytes");
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1;
            fs::write(&path, &bytes).expect("damage");
            assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Damaged { .. })), "byte {position}");
            assert_eq!(fs::read(&path).expect("bytes"), bytes, "a damaged file is left as it is");
        }
        fs::write(&path, &whole[..40]).expect("cut");
        assert!(matches!(Identity::load(&path), Err(IdentityError::Damaged { .. })));
        fs::write(&path, [whole.as_slice(), b"x"].concat()).expect("grown");
        assert!(matches!(Identity::load(&path), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn libp2p_sees_the_same_key_and_debug_hides_it() {
        let identity = Identity::from_bytes(&[0x5a; 32]);
        let keypair = identity.libp2p_keypair().expect("a key pair");
        assert_eq!(node_id_of(keypair.public()), Some(identity.node_id()));
        assert!(!format!("{identity:?}").contains("5a5a"));
    }
}
