//! The vault's file: 32 bytes of entropy, sealed with a passphrase or kept by the system's keychain.
//!
//! Decides what the file says and how much work a file may make us do: whoever can write the file must not be able to
//! fill memory or run for hours. Format: `docs/format.md`, "Vault file". A vault's file is made once and never
//! overwritten; only a change of passphrase replaces it, once the new one has been read back.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use dolmen_proto::keys::VaultSecret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keychain::{Keychain, SERVICE};
use super::passphrase::Passphrase;
use super::words::{Words, fill_random};
use crate::error::{ClientError, ErrorKind};
use crate::state::{folder_of, sync_folder, to_hex};

/// What every vault's file calls itself.
const FORMAT: &str = "dolmen vault";
const VERSION: u32 = 1;
/// Largest vault file that is read.
const FILE_MAX_BYTES: u64 = 16 * 1024;
/// Begins what is authenticated beside the sealed bytes.
const CONTEXT: &[u8] = b"dolmen 2026 vault file v1";
const FINGERPRINT_CONTEXT: &str = "dolmen 2026 vault fingerprint v1";
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const SEALED_BYTES: usize = 32 + 16;

/// Names a vault without telling anything about it: what its folder in the state and its entry in a keychain are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub(crate) fn of(secret: &VaultSecret) -> Self {
        let hash = blake3::derive_key(FINGERPRINT_CONTEXT, secret.expose());
        Self(*hash.first_chunk().expect("32 bytes hold 16"))
    }

    pub(crate) fn to_hex(self) -> String {
        to_hex(&self.0)
    }
}

/// How hard it is to try passphrases: Argon2id's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// The second recommendation of RFC 9106: 64 MiB, three passes, four lanes.
    pub(crate) const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// For tests of everything else.
    #[cfg(test)]
    pub(crate) const LEAST: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    const MEMORY_MAX_KIB: u32 = 1024 * 1024;
    const PASSES_MAX: u32 = 64;
    const LANES_MAX: u32 = 16;
    /// Most memory times passes: some ten seconds of one core.
    const WORK_MAX_KIB: u64 = 8 * 1024 * 1024;

    /// Whether a file may ask for this much.
    fn is_bounded(self) -> bool {
        (1..=Self::LANES_MAX).contains(&self.lanes)
            && (1..=Self::PASSES_MAX).contains(&self.passes)
            && (8 * self.lanes..=Self::MEMORY_MAX_KIB).contains(&self.memory_kib)
            && u64::from(self.memory_kib) * u64::from(self.passes) <= Self::WORK_MAX_KIB
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    format: String,
    version: u32,
    fingerprint: String,
    lock: LockText,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum LockText {
    Passphrase(SealText),
    Keychain { service: String, account: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealText {
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    cipher: String,
    nonce: String,
    sealed: String,
}

struct Seal {
    cost: Cost,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    sealed: [u8; SEALED_BYTES],
}

enum Lock {
    Passphrase(Box<Seal>),
    Keychain { account: String },
}

/// A vault's file as it was read; nothing secret is open yet.
pub(crate) struct VaultFile {
    path: PathBuf,
    fingerprint: Fingerprint,
    lock: Lock,
}

impl VaultFile {
    /// Makes the file of a new vault, sealed with a passphrase; durable when it returns.
    ///
    /// # Errors
    /// `Refused` when there is a file already, `Local` when it cannot be written.
    pub(crate) fn create_sealed(
        path: &Path,
        words: &Words,
        passphrase: &Passphrase,
        cost: Cost,
    ) -> Result<(), ClientError> {
        refuse_existing(path)?;
        let text = sealed_text(words, passphrase, cost)?;
        write_new(path, &text)
    }

    /// Makes the file of a new vault whose secret the keychain keeps; both are durable when it returns.
    ///
    /// # Errors
    /// As [`VaultFile::create_sealed`]; `Refused` when the keychain does not take the secret.
    pub(crate) fn create_in_keychain(path: &Path, words: &Words, keychain: &dyn Keychain) -> Result<(), ClientError> {
        refuse_existing(path)?;
        let fingerprint = Fingerprint::of(&words.secret());
        let account = fingerprint.to_hex();
        keychain.store(&account, words.entropy())?;
        let lock = LockText::Keychain { service: SERVICE.to_owned(), account };
        write_new(path, &to_text(fingerprint, lock)?)
    }

    /// Reads a vault's file.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Local` when it cannot be read or is damaged, `Refused` when it asks for more work
    /// than any vault needs or was written by a later release.
    pub(crate) fn read(path: &Path) -> Result<Self, ClientError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ClientError::new(
                ErrorKind::NotFound,
                format!("there is no vault at {}", path.display()),
                "its file is not there",
                "make one with `dolmen init`, or bring yours back with `dolmen init --recover`",
            ),
            _ => ClientError::local("read the vault's file", path, &error),
        };
        let mut text = Vec::new();
        fs::File::open(path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut text)).map_err(failed)?;
        if text.len() as u64 > FILE_MAX_BYTES {
            return Err(damaged(path, "it is larger than any vault's file"));
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, ClientError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Preface {
            format: String,
            version: u32,
        }
        let preface: Preface = serde_json::from_slice(text).map_err(|error| damaged(path, error))?;
        if preface.format != FORMAT {
            return Err(damaged(path, "it is the file of something else"));
        }
        if preface.version != VERSION {
            let why = format!("it has version {}, this release reads version {VERSION}", preface.version);
            let what = format!("{} cannot be read", path.display());
            return Err(ClientError::new(ErrorKind::Refused, what, why, "use a newer release of dolmen"));
        }
        let file: FileText = serde_json::from_slice(text).map_err(|error| damaged(path, error))?;
        let fingerprint = Fingerprint(
            bytes_of(&file.fingerprint).ok_or_else(|| damaged(path, "its fingerprint is not 32 hexadecimal digits"))?,
        );
        let lock = match file.lock {
            LockText::Passphrase(seal) => Lock::Passphrase(Box::new(seal.read(path)?)),
            LockText::Keychain { service, account } if service == SERVICE && account == fingerprint.to_hex() => {
                Lock::Keychain { account }
            }
            LockText::Keychain { .. } => return Err(damaged(path, "it names another keychain entry than its own")),
        };
        Ok(Self { path: path.to_path_buf(), fingerprint, lock })
    }

    /// Whether a passphrase opens it; else the keychain does.
    pub(crate) fn wants_passphrase(&self) -> bool {
        matches!(self.lock, Lock::Passphrase(_))
    }

    /// Opens it; computes for a while and must not run on a thread that serves others.
    ///
    /// # Errors
    /// `Refused` when the passphrase is wrong or missing, or the keychain does not have the secret.
    pub(crate) fn unlock(
        &self,
        passphrase: Option<&Passphrase>,
        keychain: &dyn Keychain,
    ) -> Result<Words, ClientError> {
        let words = match (&self.lock, passphrase) {
            (Lock::Passphrase(seal), Some(passphrase)) => seal.open(self.fingerprint, passphrase)?,
            (Lock::Passphrase(_), None) => {
                let advice = "give one with --passphrase-file, in DOLMEN_PASSPHRASE or at the terminal";
                let why = "it is sealed with a passphrase";
                return Err(ClientError::new(ErrorKind::Refused, "the vault stays closed", why, advice));
            }
            (Lock::Keychain { account }, _) => {
                let secret = keychain.fetch(account)?.ok_or_else(|| {
                    let why = "the system's keychain has no secret for it";
                    let advice =
                        "run this as the user who made the vault, or bring it back with `dolmen init --recover`";
                    ClientError::new(ErrorKind::Refused, "the vault cannot be opened", why, advice)
                })?;
                let entropy: [u8; 32] = secret.as_slice().try_into().map_err(|_| {
                    let advice = "bring the vault back from its words with `dolmen init --recover`";
                    ClientError::new(
                        ErrorKind::Refused,
                        "the vault cannot be opened",
                        "the keychain's entry is damaged",
                        advice,
                    )
                })?;
                Words::from_entropy(Zeroizing::new(entropy))
            }
        };
        if Fingerprint::of(&words.secret()) == self.fingerprint {
            Ok(words)
        } else {
            Err(damaged(&self.path, "it opens to the secret of another vault"))
        }
    }

    /// Seals the vault with another passphrase; the file is replaced at once and as a whole.
    ///
    /// # Errors
    /// As [`VaultFile::unlock`]; `Local` when the new file cannot be written. Until it is, the old one stays.
    pub(crate) fn change_passphrase(
        &self,
        old: Option<&Passphrase>,
        new: &Passphrase,
        cost: Cost,
        keychain: &dyn Keychain,
    ) -> Result<(), ClientError> {
        let words = self.unlock(old, keychain)?;
        let text = sealed_text(&words, new, cost)?;
        let again = Self::parse(&self.path, &text)?.unlock(Some(new), keychain)?;
        if again.entropy() != words.entropy() {
            return Err(ClientError::bug("could not seal the vault", "what was sealed does not come back"));
        }
        let failed = |error| ClientError::local("replace", &self.path, &error);
        let beside = write_beside(&self.path, &text).map_err(failed)?;
        fs::rename(&beside, &self.path).and_then(|()| sync_folder(&self.path)).map_err(failed)
    }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> ClientError {
    let advice = "restore the file from a backup, or bring the vault back from its words with `dolmen init --recover`";
    ClientError::new(ErrorKind::Local, format!("{} is no vault's file, or is damaged", path.display()), why, advice)
}

fn refuse_existing(path: &Path) -> Result<(), ClientError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(exists(path)),
        Err(_) => Ok(()),
    }
}

fn exists(path: &Path) -> ClientError {
    ClientError::new(
        ErrorKind::Refused,
        format!("there is a vault at {} already", path.display()),
        "a vault's file is never overwritten: it may be the only key to what is stored",
        "use that vault, name another file in client.toml (vault = ...), or move the old file away",
    )
}

fn to_text(fingerprint: Fingerprint, lock: LockText) -> Result<Vec<u8>, ClientError> {
    let file = FileText { format: FORMAT.to_owned(), version: VERSION, fingerprint: fingerprint.to_hex(), lock };
    let mut text = serde_json::to_vec_pretty(&file)
        .map_err(|error| ClientError::bug("could not write a vault's file as JSON", error))?;
    text.push(b'\n');
    Ok(text)
}

fn sealed_text(words: &Words, passphrase: &Passphrase, cost: Cost) -> Result<Vec<u8>, ClientError> {
    let fingerprint = Fingerprint::of(&words.secret());
    let mut seal = Seal { cost, salt: [0; SALT_BYTES], nonce: [0; NONCE_BYTES], sealed: [0; SEALED_BYTES] };
    fill_random(&mut seal.salt)?;
    fill_random(&mut seal.nonce)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(SEALED_BYTES));
    bytes.extend_from_slice(words.entropy());
    seal.cipher(passphrase)?
        .encrypt_in_place(&XNonce::from(seal.nonce), &seal.associated(fingerprint), &mut *bytes)
        .map_err(|error| ClientError::bug("could not seal the vault", error))?;
    seal.sealed = bytes.as_slice().try_into().map_err(|error| ClientError::bug("could not seal the vault", error))?;
    to_text(fingerprint, LockText::Passphrase(seal.text()))
}

impl Seal {
    fn cipher(&self, passphrase: &Passphrase) -> Result<XChaCha20Poly1305, ClientError> {
        let bug = |error: &dyn std::fmt::Display| ClientError::bug("could not stretch the passphrase", error);
        let Cost { memory_kib, passes, lanes } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|error| bug(&error))?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &self.salt, &mut *key)
            .map_err(|error| bug(&error))?;
        Ok(XChaCha20Poly1305::new((&*key).into()))
    }

    /// All else that the file says, so that no part of two files can be mixed.
    fn associated(&self, fingerprint: Fingerprint) -> Vec<u8> {
        let Cost { memory_kib, passes, lanes } = self.cost;
        let numbers = [memory_kib.to_le_bytes(), passes.to_le_bytes(), lanes.to_le_bytes()].concat();
        [CONTEXT, &fingerprint.0, &numbers, &self.salt].concat()
    }

    fn open(&self, fingerprint: Fingerprint, passphrase: &Passphrase) -> Result<Words, ClientError> {
        let mut bytes = Zeroizing::new(self.sealed.to_vec());
        self.cipher(passphrase)?
            .decrypt_in_place(&XNonce::from(self.nonce), &self.associated(fingerprint), &mut *bytes)
            .map_err(|_| {
                ClientError::new(
                    ErrorKind::Refused,
                    "the vault cannot be opened",
                    "the passphrase is wrong, or the vault's file was changed",
                    "type the passphrase again; without it the 24 words bring the vault back: `dolmen init --recover`",
                )
            })?;
        let entropy =
            bytes.as_slice().try_into().map_err(|error| ClientError::bug("the vault has no entropy", error))?;
        Ok(Words::from_entropy(Zeroizing::new(entropy)))
    }

    fn text(&self) -> SealText {
        SealText {
            kdf: "argon2id".to_owned(),
            memory_kib: self.cost.memory_kib,
            passes: self.cost.passes,
            lanes: self.cost.lanes,
            salt: to_hex(&self.salt),
            cipher: "xchacha20poly1305".to_owned(),
            nonce: to_hex(&self.nonce),
            sealed: to_hex(&self.sealed),
        }
    }
}

impl SealText {
    fn read(&self, path: &Path) -> Result<Seal, ClientError> {
        if self.kdf != "argon2id" || self.cipher != "xchacha20poly1305" {
            return Err(damaged(path, "it is sealed in a way that this release does not know"));
        }
        let cost = Cost { memory_kib: self.memory_kib, passes: self.passes, lanes: self.lanes };
        if !cost.is_bounded() {
            let what = format!("{} asks for more work than any vault needs", path.display());
            let why = format!("{} KiB, {} passes, {} lanes", cost.memory_kib, cost.passes, cost.lanes);
            let advice = "somebody may have changed the file: restore it from a backup, or use `dolmen init --recover`";
            return Err(ClientError::new(ErrorKind::Refused, what, why, advice));
        }
        let field = |name: &str| damaged(path, format!("its {name} is not what it should be"));
        Ok(Seal {
            cost,
            salt: bytes_of(&self.salt).ok_or_else(|| field("salt"))?,
            nonce: bytes_of(&self.nonce).ok_or_else(|| field("nonce"))?,
            sealed: bytes_of(&self.sealed).ok_or_else(|| field("sealed secret"))?,
        })
    }
}

/// Reads exactly so many bytes in lowercase hexadecimal.
fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (to, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *to = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Writes a synced file of mode 0600 beside `path`, under a name of this process.
fn write_beside(path: &Path, bytes: &[u8]) -> std::io::Result<PathBuf> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(beside)
}

/// Makes a file that is whole or not there, and never in the place of another.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let failed = |error| ClientError::local("write the vault's file", path, &error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder_of(path)).map_err(failed)?;
    let beside = write_beside(path, bytes).map_err(failed)?;
    // Unlike a rename a link never takes the place of a file that has come into being meanwhile.
    let linked = fs::hard_link(&beside, path);
    let _ = fs::remove_file(&beside);
    match linked {
        Ok(()) => sync_folder(path).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests;
