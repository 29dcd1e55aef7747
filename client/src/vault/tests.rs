//! Vaults over a network in memory.

use std::sync::Arc;

use super::keychain::MemoryKeychain;
use super::*;
use crate::config::ClientConfig;
use crate::error::ErrorKind;
use crate::network::memory::{Handle, Memory};
use crate::progress::Progress;

fn client(folder: &std::path::Path, keychain: &Arc<MemoryKeychain>) -> Client {
    let config = ClientConfig { state_folder: folder.to_path_buf(), ..ClientConfig::default() };
    let client = Client::over(Arc::new(Handle(Memory::new(4))), config, Progress::none()).unwrap();
    let keychain = Arc::clone(keychain);
    client.with_locksmith(|locksmith| {
        locksmith.cost = Cost::LEAST;
        locksmith.keychain = keychain;
    })
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

fn unasked() -> Result<Passphrase, ClientError> {
    panic!("no passphrase is wanted")
}

#[tokio::test]
async fn a_vault_is_made_opened_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(folder.path(), &Arc::default());
    assert_eq!(Vault::open(&client, unasked).await.unwrap_err().kind(), ErrorKind::NotFound);
    let (vault, words) = Vault::create(&client, VaultLock::Passphrase(passphrase("one"))).await.unwrap();
    let again = Vault::open(&client, || Ok(passphrase("one"))).await.unwrap();
    assert_eq!(again.fingerprint, vault.fingerprint);
    let second = Vault::create(&client, VaultLock::Passphrase(passphrase("two"))).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Refused);
    Vault::change_passphrase(&client, || Ok(passphrase("one")), passphrase("three")).await.unwrap();
    assert!(Vault::open(&client, || Ok(passphrase("one"))).await.is_err());
    assert!(Vault::open(&client, || Ok(passphrase("three"))).await.is_ok());

    let elsewhere = tempfile::tempdir().unwrap();
    let client = self::client(elsewhere.path(), &Arc::default());
    let typed = Words::parse(&words.to_text()).unwrap();
    let back = Vault::recover(&client, &typed, VaultLock::Passphrase(passphrase("four"))).await.unwrap();
    assert_eq!(back.fingerprint, vault.fingerprint);
}

#[tokio::test]
async fn a_keychain_is_asked_instead_of_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let keychain = Arc::default();
    let client = client(folder.path(), &keychain);
    let (vault, _) = Vault::create(&client, VaultLock::Keychain).await.unwrap();
    assert_eq!(Vault::open(&client, unasked).await.unwrap().fingerprint, vault.fingerprint);
    let client = self::client(folder.path(), &Arc::default());
    assert_eq!(Vault::open(&client, unasked).await.unwrap_err().kind(), ErrorKind::Refused);
}
