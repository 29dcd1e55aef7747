//! The crate chacha20poly1305 beside aws-lc-rs's implementation of the same cipher, as Dolmen seals and opens: frames of
//! 16 KiB, a new key for every chunk, from one buffer into another. Interleaved in one run on one core:
//! `cargo run --release --bin sealing`. All bytes are compared before anything is measured.

use std::cell::RefCell;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, Tag};
use dolmen_peer_kernels::{Contestant, noise, race, setting};

const TAG_BYTES: usize = 16;
const FRAME_STORED_BYTES: usize = 16 * 1024;
const FRAME_PLAIN_BYTES: usize = FRAME_STORED_BYTES - TAG_BYTES;
const TOTAL_BYTES: usize = 16 * 1024 * 1024;

fn key(chunk: usize) -> [u8; 32] {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&(chunk as u64).to_le_bytes());
    key
}

fn nonce(frame: usize, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(frame as u64).to_le_bytes());
    nonce[11] = u8::from(last);
    nonce
}

/// One of the two libraries.
trait Cipher {
    fn new(key: &[u8; 32]) -> Self;
    fn seal(&self, nonce: [u8; 12], plain: &[u8], body: &mut [u8], tag: &mut [u8]);
    fn open(&self, nonce: [u8; 12], body: &[u8], tag: &[u8], plain: &mut [u8]);
}

impl Cipher for ChaCha20Poly1305 {
    fn new(key: &[u8; 32]) -> Self {
        <Self as chacha20poly1305::KeyInit>::new(key.into())
    }

    fn seal(&self, nonce: [u8; 12], plain: &[u8], body: &mut [u8], tag: &mut [u8]) {
        let buffer = InOutBuf::new(plain, body).expect("equal lengths");
        tag.copy_from_slice(&self.encrypt_inout_detached(&nonce.into(), &[], buffer).expect("a short frame"));
    }

    fn open(&self, nonce: [u8; 12], body: &[u8], tag: &[u8], plain: &mut [u8]) {
        let buffer = InOutBuf::new(body, plain).expect("equal lengths");
        let tag = <&Tag>::try_from(tag).expect("a whole tag");
        self.decrypt_inout_detached(&nonce.into(), &[], buffer, tag).expect("untouched");
    }
}

impl Cipher for LessSafeKey {
    fn new(key: &[u8; 32]) -> Self {
        Self::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes"))
    }

    fn seal(&self, nonce: [u8; 12], plain: &[u8], body: &mut [u8], tag: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.seal_out_of_place_scatter(nonce, Aad::empty(), plain, body, &[], tag).expect("a short frame");
    }

    fn open(&self, nonce: [u8; 12], body: &[u8], tag: &[u8], plain: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.open_separate_gather(nonce, Aad::empty(), body, tag, plain).expect("untouched");
    }
}

fn stored_bytes(plain_bytes: usize) -> usize {
    plain_bytes + plain_bytes.div_ceil(FRAME_PLAIN_BYTES) * TAG_BYTES
}

fn seal<C: Cipher>(plain: &[u8], stored: &mut [u8], chunk_bytes: usize) {
    for (number, (plain, stored)) in
        plain.chunks(chunk_bytes).zip(stored.chunks_mut(stored_bytes(chunk_bytes))).enumerate()
    {
        let cipher = C::new(&key(number));
        let last = plain.len().div_ceil(FRAME_PLAIN_BYTES) - 1;
        for (frame, (plain, stored)) in
            plain.chunks(FRAME_PLAIN_BYTES).zip(stored.chunks_mut(FRAME_STORED_BYTES)).enumerate()
        {
            let (body, tag) = stored.split_at_mut(plain.len());
            cipher.seal(nonce(frame, frame == last), plain, body, tag);
        }
    }
}

fn open<C: Cipher>(stored: &[u8], plain: &mut [u8], chunk_bytes: usize) {
    for (number, (plain, stored)) in
        plain.chunks_mut(chunk_bytes).zip(stored.chunks(stored_bytes(chunk_bytes))).enumerate()
    {
        let cipher = C::new(&key(number));
        let last = plain.len().div_ceil(FRAME_PLAIN_BYTES) - 1;
        for (frame, (plain, stored)) in
            plain.chunks_mut(FRAME_PLAIN_BYTES).zip(stored.chunks(FRAME_STORED_BYTES)).enumerate()
        {
            let (body, tag) = stored.split_at(plain.len());
            cipher.open(nonce(frame, frame == last), body, tag, plain);
        }
    }
}

fn main() {
    let rounds = setting("DOLMEN_BENCH_ROUNDS", 21);
    println!(
        "{} MiB in chunks, {rounds} rounds, one core; GB/s of plain bytes (ratio to the crate)",
        TOTAL_BYTES >> 20
    );
    let plain = noise(TOTAL_BYTES, 1);
    for chunk_bytes in [16 * 1024, 64 * 1024, 1024 * 1024, 4 * 1024 * 1024] {
        let total_stored = TOTAL_BYTES / chunk_bytes * stored_bytes(chunk_bytes);
        let mut stored = vec![0; total_stored];
        seal::<ChaCha20Poly1305>(&plain, &mut stored, chunk_bytes);
        let out = RefCell::new(vec![0; total_stored]);
        seal::<LessSafeKey>(&plain, &mut out.borrow_mut(), chunk_bytes);
        assert!(*out.borrow() == stored, "the libraries seal to the same bytes");
        let sealing = race(
            vec![
                Contestant::new("crate", || seal::<ChaCha20Poly1305>(&plain, &mut out.borrow_mut(), chunk_bytes)),
                Contestant::new("aws-lc-rs", || seal::<LessSafeKey>(&plain, &mut out.borrow_mut(), chunk_bytes)),
            ],
            rounds,
            TOTAL_BYTES,
        );
        let opened = RefCell::new(vec![0; TOTAL_BYTES]);
        open::<LessSafeKey>(&stored, &mut opened.borrow_mut(), chunk_bytes);
        assert!(*opened.borrow() == plain, "what one library seals the other opens");
        let opening = race(
            vec![
                Contestant::new("crate", || open::<ChaCha20Poly1305>(&stored, &mut opened.borrow_mut(), chunk_bytes)),
                Contestant::new("aws-lc-rs", || open::<LessSafeKey>(&stored, &mut opened.borrow_mut(), chunk_bytes)),
            ],
            rounds,
            TOTAL_BYTES,
        );
        for (what, speeds) in [("seal", sealing), ("open", opening)] {
            let [own, other] = &speeds[..] else { unreachable!("two libraries") };
            println!(
                "{what} chunks of {:5} KiB  crate {:.2}  aws-lc-rs {:.2} ({:.2})",
                chunk_bytes / 1024,
                own.median(),
                other.median(),
                other.over(own)
            );
        }
    }
    let mut shard = noise(TOTAL_BYTES, 2);
    let mask = race(
        vec![Contestant::new("mask", || {
            chacha20::ChaCha20::new(&[9; 32].into(), &[0; 12].into()).apply_keystream(&mut shard);
        })],
        rounds,
        TOTAL_BYTES,
    );
    println!("ChaCha20 alone (masks), crate chacha20: {:.2}", mask[0].median());
}
