//! The scheme as a whole: honest nodes pass, every way of cheating is found, every unsound transcript is rejected.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use bytes::Bytes;
use core::time::Duration;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::ids::{AccountId, NodeId, Timestamp};
use crate::root::RootHasher;
use crate::wire::{Challenge, Close, ErrorCode, KeptReceipt, Proof, Receipt, Reveal, RevealStep, Signed, Slot};

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A shard as a node has it.
#[derive(Clone)]
struct Held {
    shard: SetShard,
    outboard: Vec<u8>,
    bytes: Vec<u8>,
}

fn held(seed: u64, length: usize) -> Held {
    let bytes = noise(seed, length);
    let mut hasher = RootHasher::new();
    hasher.update(&bytes);
    let (root, outboard) = hasher.finish();
    Held { shard: SetShard { root, length_bytes: u32::try_from(length).unwrap() }, outboard, bytes }
}

fn shards(seed: u64, lengths: &[usize]) -> Vec<Held> {
    let mut shards: Vec<Held> = (seed..).zip(lengths).map(|(seed, length)| held(seed, *length)).collect();
    shards.sort_by_key(|held| held.shard.root);
    shards
}

fn top_of(shards: &[Held]) -> SetTop {
    let mut builder = SetBuilder::new();
    shards.iter().for_each(|held| builder.push(&held.shard).unwrap());
    builder.finish().unwrap()
}

fn pruned(top: &SetTop, draw: &Draw, shards: &[Held]) -> (Vec<u8>, Vec<Drawn>) {
    prune_set::<AuditError>(top, draw, &mut shards.iter().map(|held| Ok(held.shard))).unwrap()
}

fn show(held: &Held, blocks: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = |offset: u32, buffer: &mut [u8]| {
        buffer.copy_from_slice(&held.bytes[offset as usize..][..buffer.len()]);
        Ok::<(), AuditError>(())
    };
    encode_blocks(held.shard.length_bytes, blocks, &held.outboard, read, &mut out).unwrap();
    out
}

fn node_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn auditor_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_900_000_000_000 + ms)
}

fn node_id() -> NodeId {
    NodeId::new(node_key().verifying_key().to_bytes())
}

/// An audit under way, of which a test can change one thing.
#[derive(Clone)]
struct Audit {
    shards: Vec<Held>,
    challenge: Signed<Challenge>,
    slot: Signed<Slot>,
    reveal: Signed<Reveal>,
    set: Vec<u8>,
    drawn: Vec<Drawn>,
}

fn audit_of(shards: Vec<Held>, kind: DrawKind, samples: u32) -> Audit {
    let nonce = [9; 32];
    let challenge = Challenge {
        node: node_id(),
        auditor: auditor_key().verifying_key().to_bytes(),
        draw: kind,
        samples,
        set: top_of(&shards),
        nonce_hash: nonce_hash(&nonce),
        issued_at: at(0),
        beacon: None,
    };
    let challenge = Signed::sign(challenge, &auditor_key());
    let slot = Signed::sign(slot_for(&challenge, at(50)), &node_key());
    let reveal = Signed::sign(reveal_for(&slot, nonce, at(100), 0), &auditor_key());
    let draw = reveal.verify(&challenge, &slot).unwrap();
    let (set, drawn) = pruned(&challenge.claimed().set, &draw, &shards);
    Audit { shards, challenge, slot, reveal, set, drawn }
}

fn audit() -> Audit {
    audit_of(shards(7, &[1000, 40_000, 65_536, 17, 300_000, 16_384, 16_385, 2048]), DrawKind::Mixed, 24)
}

fn slot_for(challenge: &Signed<Challenge>, issued_at: Timestamp) -> Slot {
    Slot {
        node: node_id(),
        challenge_hash: challenge.body_hash(),
        refused: None,
        class: AuditClass::SolidState,
        issued_at,
        until: issued_at.after(crate::limits::AUDIT_SLOT_LIFE),
        retry_after_ms: 0,
    }
}

fn reveal_for(slot: &Signed<Slot>, nonce: [u8; 32], asked_at: Timestamp, attempt: u32) -> Reveal {
    Reveal {
        node: node_id(),
        auditor: auditor_key().verifying_key().to_bytes(),
        slot_hash: slot.body_hash(),
        nonce,
        beacon_value: Bytes::new(),
        asked_at,
        attempt,
    }
}

impl Audit {
    fn find(&self, drawn: &Drawn) -> &Held {
        self.shards.iter().find(|held| held.shard == drawn.shard).unwrap()
    }

    /// What an honest node answers; `refuse` are shards for which it gives a code.
    fn answer(&self, refuse: &[(ShardRoot, ErrorCode)]) -> (Signed<Proof>, Vec<u8>) {
        let mut payload = Vec::new();
        let mut codes = Vec::new();
        for drawn in &self.drawn {
            match refuse.iter().find(|(root, _)| *root == drawn.shard.root) {
                Some((_, code)) => codes.push(Err(*code)),
                None => {
                    payload.extend_from_slice(&show(self.find(drawn), &drawn.blocks));
                    codes.push(Ok(()));
                }
            }
        }
        (self.sign(&payload, codes, at(180)), payload)
    }

    fn sign(&self, payload: &[u8], codes: Vec<Result<(), ErrorCode>>, answered_at: Timestamp) -> Signed<Proof> {
        let proof = Proof {
            node: node_id(),
            reveal_hash: self.reveal.body_hash(),
            answered_at,
            payload_hash: *blake3::hash(payload).as_bytes(),
            payload_bytes: payload.len() as u64,
            codes,
        };
        Signed::sign(proof, &node_key())
    }

    fn judge(&self, proof: &Signed<Proof>, payload: &[u8], receipts: &[KeptReceipt]) -> Findings {
        let answer = Answer { proof, payload, received_at: at(200), round_trip: Duration::from_millis(20) };
        judge(&self.auditor(receipts), &answer).unwrap()
    }

    fn auditor<'a>(&'a self, receipts: &'a [KeptReceipt]) -> Auditor<'a> {
        let Self { challenge, slot, reveal, drawn, .. } = self;
        Auditor { challenge, slot, reveal, drawn, receipts }
    }

    fn transcript(&self, proof: &Signed<Proof>, payload: &[u8], outcome: Outcome, failed: u32) -> Transcript {
        let close = self.close(proof.body_hash(), outcome, at(200), failed);
        Transcript {
            challenge: self.challenge.clone(),
            slot: self.slot.clone(),
            reveals: vec![self.reveal.clone()],
            set: self.set.clone().into(),
            answer: Some((proof.clone(), Bytes::copy_from_slice(payload))),
            receipts: Vec::new(),
            round_trip_ms: 20,
            close,
        }
    }

    fn close(&self, last_hash: [u8; 32], outcome: Outcome, received_at: Timestamp, failed: u32) -> Signed<Close> {
        let close = Close {
            node: node_id(),
            auditor: auditor_key().verifying_key().to_bytes(),
            last_hash,
            outcome,
            received_at,
            asked: u32::try_from(self.drawn.len()).unwrap(),
            failed,
        };
        Signed::sign(close, &auditor_key())
    }

    fn passed(&self) -> Transcript {
        let (proof, payload) = self.answer(&[]);
        self.transcript(&proof, &payload, Outcome::Passed, 0)
    }
}

fn receipt_for(shard: &SetShard, until: Timestamp) -> KeptReceipt {
    let receipt = Receipt {
        node: node_id(),
        root: shard.root,
        length_bytes: shard.length_bytes.into(),
        account: AccountId::new([5; 32]),
        until,
        issued_at: at(0),
    };
    KeptReceipt::of_put(&Signed::sign(receipt, &node_key()))
}

#[test]
fn an_honest_node_passes_and_the_transcript_convinces_anybody() {
    let audit = audit();
    let transcript = audit.passed();
    let bytes = transcript.to_bytes();
    let read = Transcript::parse(&bytes).unwrap();
    assert_eq!(read, transcript);
    let report = read.verify().unwrap();
    assert_eq!(report.outcome, Outcome::Passed);
    assert!(!report.is_hard_evidence());
    assert_eq!(report.trust, DrawTrust::Auditor);
    assert_eq!(report.confidence.byte_samples, 18);
    assert!(report.findings.unwrap().proven_blocks > 0);
}

#[test]
fn every_document_shard_is_drawn_once() {
    let audit = audit_of(shards(70, &[1000, 40_000, 65_536, 17, 300_000]), DrawKind::Each, 5);
    assert_eq!(audit.drawn.len(), 5);
    assert!(audit.drawn.iter().all(|drawn| drawn.blocks.len() == 1));
    assert_eq!(audit.passed().verify().unwrap().outcome, Outcome::Passed);
}

#[test]
fn a_node_answers_what_it_granted_and_nothing_else() {
    let audit = audit();
    let step = RevealStep {
        challenge: audit.challenge.clone(),
        slot: audit.slot.clone(),
        reveal: audit.reveal.clone(),
        set_bytes: audit.set.len() as u64,
    };
    let draw = step.verify(&node_id(), at(150)).unwrap();
    assert_eq!(open_set(&audit.challenge.claimed().set, &draw, &audit.set).unwrap(), audit.drawn);
    assert_eq!(step.verify(&NodeId::new([8; 32]), at(150)).unwrap_err().code(), ErrorCode::Unauthorised);
    let later = at(150).after(crate::limits::AUDIT_SLOT_LIFE);
    assert_eq!(step.verify(&node_id(), later).unwrap_err().code(), ErrorCode::Expired);
    let other = Signed::sign(reveal_for(&audit.slot, [10; 32], at(100), 0), &auditor_key());
    let other = RevealStep { reveal: other, ..step.clone() };
    assert_eq!(other.verify(&node_id(), at(150)).unwrap_err().code(), ErrorCode::Unauthorised, "another nonce");
    let forged = Signed::sign(slot_for(&audit.challenge, at(50)), &auditor_key());
    let forged = RevealStep { slot: forged, ..step };
    assert_eq!(forged.verify(&node_id(), at(150)).unwrap_err().code(), ErrorCode::Unauthorised, "a slot of its own");
}

#[test]
fn blocks_of_another_shard_are_hard_evidence_even_without_a_receipt() {
    let audit = audit();
    let (proof, mut payload) = audit.answer(&[]);
    payload[0] ^= 1;
    let proof = audit.sign(&payload, proof.claimed().codes.clone(), at(180));
    let findings = audit.judge(&proof, &payload, &[]);
    assert_eq!((findings.outcome, findings.wrong.len(), findings.is_hard()), (Outcome::Wrong, 1, true));
    let report = audit.transcript(&proof, &payload, Outcome::Wrong, 1).verify().unwrap();
    assert!(report.is_hard_evidence());
}

#[test]
fn an_answer_that_does_not_fit_the_draw_is_wrong_as_a_whole() {
    let audit = audit();
    let (proof, payload) = audit.answer(&[]);
    let mut codes = proof.claimed().codes.clone();
    codes.pop();
    let findings = audit.judge(&audit.sign(&payload, codes, at(180)), &payload, &[]);
    assert_eq!((findings.outcome, findings.wrong.len()), (Outcome::Wrong, audit.drawn.len()));
}

#[test]
fn what_is_not_held_counts_hard_only_against_the_nodes_own_receipt_of_that_time() {
    let audit = audit();
    let shard = audit.drawn[0].shard;
    let (proof, payload) = audit.answer(&[(shard.root, ErrorCode::NotHeld)]);
    let with = |receipts: &[KeptReceipt]| {
        let findings = audit.judge(&proof, &payload, receipts);
        assert_eq!(findings.outcome, Outcome::NotHeld);
        findings.is_hard()
    };
    assert!(!with(&[]));
    assert!(with(&[receipt_for(&shard, at(1_000_000))]));
    assert!(!with(&[receipt_for(&shard, at(150))]), "it was over when the node answered");
    assert!(!with(&[receipt_for(&audit.drawn[1].shard, at(1_000_000))]), "for another shard");
    let KeptReceipt::Put(good) = receipt_for(&shard, at(1_000_000)) else { unreachable!() };
    let good = Signed::<Receipt>::decode(good).unwrap();
    let forged = Signed::sign(good.claimed().clone(), &auditor_key());
    assert!(!with(&[KeptReceipt::of_put(&forged)]), "not signed by the node");
    let later = Signed::sign(Receipt { issued_at: at(1_000), ..good.claimed().clone() }, &node_key());
    assert!(!with(&[KeptReceipt::of_put(&later)]), "signed after the node answered");
}

#[test]
fn a_late_answer_is_told_from_one_in_time() {
    let audit = audit();
    let (proof, payload) = audit.answer(&[]);
    let allowed = AuditClass::SolidState.deadline(24) + Duration::from_millis(20);
    let judged = |received_at| {
        let answer = Answer { proof: &proof, payload: &payload, received_at, round_trip: Duration::from_millis(20) };
        judge(&audit.auditor(&[]), &answer).unwrap().outcome
    };
    assert_eq!(judged(at(100).after(allowed)), Outcome::Passed);
    assert_eq!(judged(at(101).after(allowed)), Outcome::Late);
}

#[test]
fn a_disk_that_cannot_be_read_now_is_no_answer_and_no_admission() {
    let audit = audit();
    let (proof, payload) = audit.answer(&[(audit.drawn[0].shard.root, ErrorCode::DiskFailed)]);
    let findings = audit.judge(&proof, &payload, &[]);
    assert_eq!((findings.outcome, findings.is_hard()), (Outcome::NoAnswer, false));
}

mod a_transcript_is_rejected_that_is {
    use super::*;

    #[test]
    fn forged() {
        let audit = audit();
        let (proof, payload) = audit.answer(&[]);
        let forged = Signed::sign(proof.claimed().clone(), &auditor_key());
        let error = audit.transcript(&forged, &payload, Outcome::Passed, 0).verify().unwrap_err();
        assert!(matches!(error, TranscriptError::Statement { statement: "proof", .. }), "{error}");
        let mut transcript = audit.passed();
        transcript.challenge = Signed::sign(audit.challenge.claimed().clone(), &node_key());
        assert!(matches!(transcript.verify(), Err(TranscriptError::Statement { statement: "challenge", .. })));
        let mut transcript = audit.passed();
        transcript.close = Signed::sign(transcript.close.claimed().clone(), &node_key());
        assert!(matches!(transcript.verify(), Err(TranscriptError::Statement { statement: "close", .. })));
    }

    #[test]
    fn truncated() {
        let bytes = audit().passed().to_bytes();
        for end in (0..bytes.len()).step_by(7) {
            assert!(Transcript::parse(&bytes[..end]).is_err(), "cut off at {end}");
        }
        assert!(Transcript::parse(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
    }

    #[test]
    fn replayed() {
        // An old answer, shown for a new challenge over the same set.
        let old = audit();
        let (proof, payload) = old.answer(&[]);
        let mut new = old.clone();
        let challenge = Challenge { issued_at: at(1_000_000), ..old.challenge.claimed().clone() };
        new.challenge = Signed::sign(challenge, &auditor_key());
        new.slot = Signed::sign(slot_for(&new.challenge, at(1_000_050)), &node_key());
        new.reveal = Signed::sign(reveal_for(&new.slot, [9; 32], at(1_000_100), 0), &auditor_key());
        let mut transcript = new.transcript(&proof, &payload, Outcome::Passed, 0);
        transcript.close = new.close(proof.body_hash(), Outcome::Passed, at(1_000_200), 0);
        let error = transcript.verify().unwrap_err();
        // Either the old answer is not to this reveal, or its time is not of this audit.
        assert!(
            matches!(error, TranscriptError::Times | TranscriptError::Statement { statement: "proof", .. }),
            "{error}"
        );
        let mut transcript = old.passed();
        transcript.slot = new.slot;
        assert!(matches!(transcript.verify(), Err(TranscriptError::Statement { statement: "slot", .. })));
    }

    #[test]
    fn over_a_swapped_set() {
        let audit = audit();
        let other =
            audit_of(shards(900, &[1000, 40_000, 65_536, 17, 300_000, 16_384, 16_385, 2048]), DrawKind::Mixed, 24);
        let mut transcript = audit.passed();
        transcript.set = other.set.into();
        assert!(matches!(transcript.verify(), Err(TranscriptError::Set(_))));
        // A set in which the shard that is hard to show was left out, shown as if it were the one of the challenge.
        let draw = audit.reveal.verify(&audit.challenge, &audit.slot).unwrap();
        let smaller = &audit.shards[1..];
        let (set, _) = pruned(&top_of(smaller), &draw, smaller);
        let mut transcript = audit.passed();
        transcript.set = set.into();
        assert!(matches!(transcript.verify(), Err(TranscriptError::Set(_))));
    }

    #[test]
    fn retimed_by_one_side() {
        let audit = audit();
        let (proof, payload) = audit.answer(&[]);
        // The auditor says that the answer came an hour later than it did.
        let mut transcript = audit.transcript(&proof, &payload, Outcome::Late, 0);
        transcript.close = audit.close(proof.body_hash(), Outcome::Late, at(3_600_000), 0);
        assert_eq!(transcript.verify().unwrap_err(), TranscriptError::Times);
        // The node says that it answered an hour before it was asked.
        let retimed = audit.sign(&payload, proof.claimed().codes.clone(), Timestamp::from_unix_ms(1_899_996_400_000));
        assert_eq!(
            audit.transcript(&retimed, &payload, Outcome::Passed, 0).verify().unwrap_err(),
            TranscriptError::Times
        );
        // The auditor asked before it challenged.
        let mut early = audit.clone();
        early.reveal = Signed::sign(
            reveal_for(&audit.slot, [9; 32], Timestamp::from_unix_ms(1_899_999_999_000), 0),
            &auditor_key(),
        );
        let (proof, payload) = early.answer(&[]);
        assert_eq!(
            early.transcript(&proof, &payload, Outcome::Passed, 0).verify().unwrap_err(),
            TranscriptError::Times
        );
    }

    #[test]
    fn closed_with_what_did_not_come_out() {
        let audit = audit();
        let (proof, payload) = audit.answer(&[]);
        let error = audit.transcript(&proof, &payload, Outcome::Wrong, 1).verify().unwrap_err();
        assert_eq!(error, TranscriptError::Outcome { claimed: Outcome::Wrong, found: Outcome::Passed });
        let mut hidden = audit.passed();
        hidden.answer = None;
        hidden.close = audit.close(proof.body_hash(), Outcome::NoAnswer, at(200), 0);
        assert!(matches!(hidden.verify(), Err(TranscriptError::Contradiction(_))));
    }

    #[test]
    fn asked_with_another_nonce_than_was_committed_to() {
        let audit = audit();
        let mut transcript = audit.passed();
        transcript.reveals = vec![Signed::sign(reveal_for(&audit.slot, [10; 32], at(100), 0), &auditor_key())];
        assert!(matches!(transcript.verify(), Err(TranscriptError::Statement { statement: "reveal", .. })));
    }
}

#[test]
fn silence_after_four_attempts_is_the_auditors_word() {
    let audit = audit();
    let reveals: Vec<_> = (0..4)
        .map(|attempt| {
            Signed::sign(
                reveal_for(&audit.slot, [9; 32], at(100 + u64::from(attempt) * 7_000_000), attempt),
                &auditor_key(),
            )
        })
        .collect();
    let asked = u32::try_from(audit.drawn.len()).unwrap();
    let close = audit.close(reveals[3].body_hash(), Outcome::NoAnswer, at(40_000_000), asked);
    let transcript = Transcript { reveals, answer: None, close, ..audit.passed() };
    let report = Transcript::parse(&transcript.to_bytes()).unwrap().verify();
    // The slot was granted hours before the last attempt.
    let report = report.unwrap();
    assert_eq!((report.outcome, report.is_hard_evidence()), (Outcome::NoAnswer, false));
}

#[test]
fn a_refused_slot_makes_a_transcript_too() {
    let audit = audit();
    let slot = Slot { refused: Some(crate::wire::Refusal::Budget), ..slot_for(&audit.challenge, at(50)) };
    let slot = Signed::sign(slot, &node_key());
    let mut close = audit.close(slot.body_hash(), Outcome::Refused, at(60), 0).claimed().clone();
    close.asked = 0;
    let transcript = Transcript {
        slot,
        reveals: Vec::new(),
        set: Bytes::new(),
        answer: None,
        close: Signed::sign(close, &auditor_key()),
        ..audit.passed()
    };
    assert_eq!(transcript.verify().unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_pruned_set_has_one_encoding() {
    let audit = audit();
    let top = audit.challenge.claimed().set;
    let draw = audit.reveal.verify(&audit.challenge, &audit.slot).unwrap();
    for at in 0..audit.set.len() {
        let mut flipped = audit.set.clone();
        flipped[at] ^= 1;
        assert!(open_set(&top, &draw, &flipped).is_err(), "byte {at}");
    }
    let everything = Draw::new(
        DrawKind::Each,
        8,
        &top,
        &DrawSeed { node: &node_id(), auditor: &[0; 32], nonce: &[0; 32], beacon_value: &[] },
    );
    let (all, _) = pruned(&top, &everything.unwrap(), &audit.shards);
    if audit.drawn.len() < 8 {
        assert!(open_set(&top, &draw, &all).is_err(), "more is shown than is drawn");
    }
}

#[test]
fn draws_are_even_over_bytes_and_over_shards() {
    // One large shard among small ones: three quarters of the samples fall into it nearly always, the rest rarely.
    let held = shards(3, &[1 << 20, 1024, 1024, 1024]);
    let top = top_of(&held);
    let large = held.iter().position(|held| held.bytes.len() == 1 << 20).unwrap();
    let (mut in_large, mut draws) = (0usize, 0usize);
    for round in 0..64u8 {
        let seed = DrawSeed { node: &node_id(), auditor: &[0; 32], nonce: &[round; 32], beacon_value: &[] };
        let draw = Draw::new(DrawKind::Mixed, 16, &top, &seed).unwrap();
        let mut offset = 0;
        for (index, held) in held.iter().enumerate() {
            let blocks = draw.blocks_of(index as u64, offset, held.shard.length_bytes);
            draws += blocks.len();
            in_large += if index == large { blocks.len() } else { 0 };
            offset += u64::from(held.shard.length_bytes);
        }
    }
    // 12 of 16 by bytes, 1 of 4 uniform: 13 of 16, a few of them twice the same block.
    let share = in_large as f64 / draws as f64;
    assert!((0.75..0.9).contains(&share), "{share}");
}

#[test]
fn the_formula_of_detection() {
    let day = Confidence { byte_samples: 64 * 24 };
    assert!((1.0 - day.detection(0.01) - 0.99f64.powi(1536)).abs() < 1e-12);
    let week = Confidence { byte_samples: 10_752 };
    assert!((week.undetected(0.99) - 0.00043).abs() < 0.00001, "0.043 % for a week, as docs/proofs.md says");
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1usize..5000, 16_000usize..140_000], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_drawn_is_proven_and_nothing_else_passes(
        seed: u64, lengths in lengths(), samples in 1u32..80, flip: u64, nonce: [u8; 32],
    ) {
        let held = shards(seed, &lengths);
        let top = top_of(&held);
        let draw_seed = DrawSeed { node: &node_id(), auditor: &[3; 32], nonce: &nonce, beacon_value: b"beacon" };
        let draw = Draw::new(DrawKind::Mixed, samples, &top, &draw_seed).unwrap();
        let (tree, drawn) = pruned(&top, &draw, &held);
        prop_assert_eq!(&open_set(&top, &draw, &tree).unwrap(), &drawn);
        let blocks: usize = drawn.iter().map(|drawn| drawn.blocks.len()).sum();
        prop_assert!(blocks >= 1 && blocks <= samples as usize);
        for drawn in &drawn {
            let held = held.iter().find(|held| held.shard == drawn.shard).unwrap();
            let (root, length) = (held.shard.root, held.shard.length_bytes);
            let mut shown = show(held, &drawn.blocks);
            prop_assert_eq!(shown.len(), blocks_len(length, &drawn.blocks).unwrap());
            prop_assert_eq!(verify_blocks(&root, length, &drawn.blocks, &shown), Ok(()));
            let place = usize::try_from(flip % shown.len() as u64).unwrap();
            shown[place] ^= 1 << (flip % 8);
            prop_assert!(verify_blocks(&root, length, &drawn.blocks, &shown).is_err());
        }
    }

    #[test]
    fn sets_of_any_size_are_committed_to_alike_in_one_pass_and_in_two(seed: u64, count in 1usize..200) {
        let held = shards(seed, &vec![64; count]);
        let top = top_of(&held);
        prop_assert_eq!(top.count, count as u64);
        let draw_seed = DrawSeed { node: &node_id(), auditor: &[3; 32], nonce: &[4; 32], beacon_value: &[] };
        let draw = Draw::new(DrawKind::Each, u32::try_from(count).unwrap(), &top, &draw_seed).unwrap();
        let (tree, drawn) = pruned(&top, &draw, &held);
        prop_assert_eq!(drawn.len(), count);
        prop_assert_eq!(open_set(&top, &draw, &tree).unwrap().len(), count);
    }

    #[test]
    fn hostile_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), count in 1u64..50) {
        let _ = Transcript::parse(&bytes);
        let top = SetTop { hash: [1; 32], bytes: 10_000, count };
        let draw_seed = DrawSeed { node: &node_id(), auditor: &[3; 32], nonce: &[4; 32], beacon_value: &[] };
        let draw = Draw::new(DrawKind::Mixed, 4, &top, &draw_seed).unwrap();
        prop_assert!(open_set(&top, &draw, &bytes).is_err());
    }
}
