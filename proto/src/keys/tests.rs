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
            *keys.note.expose(),
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

#[test]
fn an_epoch_changes_what_readers_follow_and_nothing_else() {
    let vault = VaultSecret::from_entropy(&[4; 32]);
    let of_readers = |keys: &DatasetKeys| {
        let (read, table) = (*keys.read.expose(), *keys.table.expose());
        [read, table, *keys.read_opening.expose(), keys.read_head.to_bytes(), keys.table_head.to_bytes()]
    };
    let of_the_dataset = |keys: &DatasetKeys| {
        let (dedup, mask, note) = (*keys.dedup.expose(), *keys.mask.expose(), *keys.note.expose());
        let authority = [*keys.account.expose(), *keys.delete.expose(), *keys.renew.expose()];
        (dedup, mask, note, authority, keys.chunker_seed, *keys.view(3).secret.expose())
    };
    let first = DatasetKeys::derive(&vault, 7);
    let mut seen = BTreeSet::new();
    for epoch in [0, 1, 2, u32::MAX] {
        let keys = DatasetKeys::derive_epoch(&vault, 7, epoch);
        assert_eq!(keys.epoch(), epoch);
        assert_eq!(of_readers(&keys), of_readers(&first.in_epoch(epoch)));
        assert_eq!(of_the_dataset(&keys), of_the_dataset(&first));
        assert!(of_readers(&keys).into_iter().all(|key| seen.insert(key)), "epoch {epoch} has a key of another one");
        let public = keys.read_head.verifying_key().to_bytes();
        assert_eq!(ReadSecret::commit(&keys.read_opening, &public), keys.read);
    }
    assert_eq!(of_readers(&first), of_readers(&DatasetKeys::derive_epoch(&vault, 7, 0)));
}

#[test]
fn views_have_nothing_in_common() {
    let mut seen = BTreeSet::new();
    for index in 0..2 {
        let keys = DatasetKeys::derive(&VaultSecret::new([1; 32]), index);
        for number in [0, 1, 256, u32::MAX] {
            let view = keys.view(number);
            let led_to = ViewKeys::derive(&view.secret);
            let all = [
                *view.secret.expose(),
                *view.opening.expose(),
                view.head.to_bytes(),
                *led_to.locator.expose(),
                *led_to.seal.expose(),
                keys.view_salt(number, Timestamp::from_unix_ms(5)),
                keys.view_salt(number, Timestamp::from_unix_ms(6)),
            ];
            assert!(all.into_iter().all(|key| seen.insert(key)), "view {number} has a key of another one");
            let public = view.head.verifying_key().to_bytes();
            assert_eq!(ViewSecret::commit(&view.opening, &public), view.secret);
        }
    }
}

#[test]
fn a_view_secret_is_no_read_secret() {
    let (view, read) = (ViewSecret::new([1; 32]), ReadSecret::new([1; 32]));
    let (view, read) = (ViewKeys::derive(&view), ReadKeys::derive(&read));
    assert_ne!(view.locator, read.locator);
    assert_ne!(view.seal, read.seal);
    let (opening, key) = ([2; 32], [3; 32]);
    let as_view = ViewSecret::commit(&ViewOpening::new(opening), &key);
    assert_ne!(as_view.expose(), ReadSecret::commit(&ReadOpening::new(opening), &key).expose());
}

#[test]
fn stewards_have_nothing_in_common_with_each_other_or_with_views() {
    let mut seen = BTreeSet::new();
    let node = NodeId::new([2; 32]);
    for index in 0..2 {
        let keys = DatasetKeys::derive(&VaultSecret::new([1; 32]), index);
        for number in [0, 1, 256, u32::MAX] {
            let steward = keys.steward(number);
            assert_eq!(*keys.in_epoch(7).steward(number).secret.expose(), *steward.secret.expose());
            let own = StewardKeys::derive(&steward.secret);
            let store = own.store(&keys.table);
            let overlay = OverlayKeys::derive(&keys.table, &own.public_key());
            assert_eq!(store.mask, overlay.mask, "readers derive the masks of overlays");
            let later = OverlayKeys::derive(&keys.in_epoch(1).table, &own.public_key());
            let all = [
                *steward.secret.expose(),
                *steward.opening.expose(),
                steward.head.to_bytes(),
                *own.locator.expose(),
                *own.seal.expose(),
                own.overlay.to_bytes(),
                own.at(node).to_bytes(),
                own.at(NodeId::new([3; 32])).to_bytes(),
                *store.dedup.expose(),
                *store.account.expose(),
                *store.delete.expose(),
                *store.renew.expose(),
                *overlay.locator.expose(),
                *overlay.seal.expose(),
                *overlay.mask.expose(),
                *later.locator.expose(),
                *later.seal.expose(),
                *later.mask.expose(),
                *keys.view(number).secret.expose(),
            ];
            assert!(all.into_iter().all(|key| seen.insert(key)), "steward {number} has a key of another one");
            let public = steward.head.verifying_key().to_bytes();
            assert_eq!(StewardSecret::commit(&steward.opening, &public), steward.secret);
        }
    }
}

#[test]
fn a_reseal_changes_what_chunks_are_sealed_with_and_nothing_else() {
    let keys = DatasetKeys::derive_epoch(&VaultSecret::new([9; 32]), 0, 5);
    assert_eq!(keys.sealing(), 0);
    let same = keys.sealing_as(0);
    assert_eq!((same.dedup.expose(), same.chunker_seed), (keys.dedup.expose(), keys.chunker_seed));
    let mut seen = BTreeSet::from([*keys.dedup.expose(), *keys.mask.expose(), *keys.table.expose()]);
    for epoch in [1, 2, 5] {
        let resealed = keys.sealing_as(epoch);
        assert!(seen.insert(*resealed.dedup.expose()), "a key was derived twice");
        assert_ne!(resealed.chunker_seed, keys.chunker_seed);
        assert_eq!((resealed.sealing(), resealed.epoch()), (epoch, 5));
        assert_eq!((&resealed.read, resealed.mask.expose()), (&keys.read, keys.mask.expose()));
        assert_eq!(resealed.delete.expose(), keys.delete.expose());
        assert_eq!(resealed.in_epoch(6).sealing(), 0, "the note of an epoch says how it seals");
    }
}
