//! Tests of derivation: no key twice, epochs and views apart, commitments.

use super::*;
use std::collections::BTreeSet;

#[test]
fn every_key_of_every_dataset_is_another() {
    let vault = VaultSecret::new([1; 32]);
    let node = NodeId::new([2; 32]);
    let mut seen = BTreeSet::new();
    for index in 0..3 {
        let keys = DatasetKeys::derive(&vault, index);
        let read = ReadKeys::derive(&keys.read);
        let table = TableKeys::derive(&keys.table);
        let all = [
            *keys.secret.expose(),
            *keys.dedup.expose(),
            *keys.mask.expose(),
            *keys.table.expose(),
            keys.read_head.to_bytes(),
            keys.table_head.to_bytes(),
            *keys.read_opening.expose(),
            *keys.read.expose(),
            *keys.account.expose(),
            *keys.delete.expose(),
            *keys.renew.expose(),
            keys.snapshot_salt(Timestamp::from_unix_ms(5)),
            account_key(&keys.account, node).to_bytes(),
            delete_key(&keys.delete, node).to_bytes(),
            renew_key(&keys.renew, node).to_bytes(),
            *read.locator.expose(),
            *read.seal.expose(),
            *table.locator.expose(),
            *table.seal.expose(),
            *point(&read.locator, 0).as_bytes(),
            *point(&read.locator, 1).as_bytes(),
            *point(&table.locator, 0).as_bytes(),
        ];
        for key in all {
            assert!(seen.insert(key), "a key was derived twice");
        }
    }
}

#[test]
fn the_same_vault_and_index_give_the_same_keys() {
    let first = DatasetKeys::derive(&VaultSecret::new([9; 32]), 4);
    let second = DatasetKeys::derive(&VaultSecret::new([9; 32]), 4);
    assert_eq!(first.read, second.read);
    assert_eq!(first.chunker_seed, second.chunker_seed);
    assert_eq!(first.read_head.to_bytes(), second.read_head.to_bytes());
}

#[test]
fn a_read_secret_commits_to_the_head_key() {
    let keys = DatasetKeys::derive(&VaultSecret::new([9; 32]), 0);
    let public = keys.read_head.verifying_key().to_bytes();
    assert_eq!(ReadSecret::commit(&keys.read_opening, &public), keys.read);
    let forger = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    assert_ne!(ReadSecret::commit(&keys.read_opening, &forger), keys.read);
}
