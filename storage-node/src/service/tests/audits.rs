//! Hostile auditors: nobody is answered twice for one slot's price, and nobody fills the disk.

use dolmen_proto::audit::{Draw, DrawKind, Outcome, SetBuilder, SetShard, nonce_hash, prune_set};
use dolmen_proto::wire::{Challenge, Close, CloseStep, ProveReply, ProveRequest, Reveal, RevealStep, Slot};

use super::*;
use crate::audits::read_log;

const LENGTH: usize = 100_000;

struct Auditor {
    key: SigningKey,
    shards: Vec<SetShard>,
    /// Challenges so far: none is like another.
    asked: std::cell::Cell<u64>,
}

struct Asked {
    challenge: Signed<Challenge>,
    slot: Signed<Slot>,
    nonce: [u8; 32],
}

impl Auditor {
    /// Somebody who knows of one shard that the node holds.
    fn of(bench: &Bench) -> Self {
        let bytes = shard(1, LENGTH);
        bench.put(&Owner::new(1).put(bench, &bytes), &bytes).expect("taken");
        let held = SetShard { root: root_of(&bytes), length_bytes: u32::try_from(LENGTH).expect("small") };
        Self { key: SigningKey::from_bytes(&[9; 32]), shards: vec![held], asked: std::cell::Cell::new(0) }
    }

    fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    fn challenge(&self, bench: &Bench, samples: u32) -> Asked {
        let mut set = SetBuilder::new();
        self.shards.iter().for_each(|shard| set.push(shard).expect("ascending"));
        self.asked.set(self.asked.get() + 1);
        let nonce = *blake3::hash(&self.asked.get().to_le_bytes()).as_bytes();
        let challenge = Challenge {
            node: bench.node(),
            auditor: self.public(),
            draw: DrawKind::Mixed,
            samples,
            set: set.finish().expect("some"),
            nonce_hash: nonce_hash(&nonce),
            issued_at: bench.now,
            beacon: None,
        };
        let challenge = Signed::sign(challenge, &self.key);
        let asked = Request::Prove(Box::new(ProveRequest::Challenge(Box::new(challenge.clone()))));
        match bench.answer(asked) {
            Reply::Prove(ProveReply::Slot(slot)) => Asked { challenge, slot, nonce },
            other => panic!("not an answer to a challenge: {other:?}"),
        }
    }

    fn reveal(&self, bench: &Bench, asked: &Asked, attempt: u32) -> RevealStep {
        let reveal = Reveal {
            node: bench.node(),
            auditor: self.public(),
            slot_hash: asked.slot.body_hash(),
            nonce: asked.nonce,
            beacon_value: Bytes::new(),
            asked_at: bench.now,
            attempt,
        };
        let (challenge, slot) = (asked.challenge.clone(), asked.slot.clone());
        RevealStep { challenge, slot, reveal: Signed::sign(reveal, &self.key), set_bytes: 1 }
    }

    fn answer(&self, bench: &Bench, step: &RevealStep, draw: &Draw) -> bool {
        let top = step.challenge.claimed().set;
        let mut shards = self.shards.iter().map(|shard| Ok::<_, dolmen_proto::audit::AuditError>(*shard));
        let (set, _) = prune_set(&top, draw, &mut shards).expect("the set");
        let (proof, _) = bench.service.prove_reveal(step, draw, set.into(), HOME, || bench.now).expect("an answer");
        proof.claimed().codes.iter().all(Result::is_ok)
    }

    fn close(&self, bench: &Bench, asked: &Asked, outcome: Outcome) -> Reply {
        let close = Close {
            node: bench.node(),
            auditor: self.public(),
            last_hash: asked.slot.body_hash(),
            outcome,
            received_at: bench.now,
            asked: 1,
            failed: 1,
        };
        let (challenge, slot) = (asked.challenge.clone(), asked.slot.clone());
        let step = CloseStep { challenge, slot, reveal: None, close: Signed::sign(close, &self.key) };
        bench.answer(Request::Prove(Box::new(ProveRequest::Close(Box::new(step)))))
    }
}

/// A node that proves 64 samples an hour, with its log.
fn bench(log: &tempfile::TempDir) -> Bench {
    let audit_log = Some(log.path().to_owned());
    Bench::with(ServiceOptions {
        open_quota_bytes: Some(1 << 30),
        audit_samples_per_hour: 64,
        audit_log,
        ..ServiceOptions::default()
    })
}

#[test]
fn an_attempt_is_answered_once_and_repeats_are_paid_for() {
    let log = tempfile::tempdir().expect("a folder");
    let mut bench = bench(&log);
    let auditor = Auditor::of(&bench);
    let asked: Vec<Asked> = (0..20).map(|_| auditor.challenge(&bench, 64)).collect();
    let granted: Vec<&Asked> = asked.iter().filter(|asked| asked.slot.claimed().refused.is_none()).collect();
    assert!(granted.len() > 10);
    for asked in &granted {
        let step = auditor.reveal(&bench, asked, 0);
        let draw = bench.service.admit_reveal(&step, bench.now, HOME).expect("it was granted");
        assert!(auditor.answer(&bench, &step, &draw));
        let again = bench.service.admit_reveal(&step, bench.now, HOME);
        assert_eq!(again.expect_err("answered").code(), ErrorCode::TooMany);
    }
    // What is asked again comes out of the asker's share: two hours of it, whatever was granted.
    let repeats = |bench: &Bench| {
        let steps = granted.iter().flat_map(|asked| (1..4).map(|attempt| auditor.reveal(bench, asked, attempt)));
        steps.filter(|step| bench.service.admit_reveal(step, bench.now, HOME).is_ok()).count()
    };
    assert!(repeats(&bench) <= 2);
    bench.now = bench.now.after(Duration::from_secs(23 * 3600));
    assert!((1..=2).contains(&repeats(&bench)), "and whoever waits gets his repeat");
}

#[test]
fn a_node_that_was_restarted_has_every_old_slot_paid_for_again() {
    let log = tempfile::tempdir().expect("a folder");
    let mut bench = bench(&log);
    let auditor = Auditor::of(&bench);
    let asked: Vec<Asked> = (0..20).map(|_| auditor.challenge(&bench, 64)).collect();
    bench.now = bench.now.after(Duration::from_secs(60));
    let bench = bench.restarted();
    let steps = asked.iter().filter(|asked| asked.slot.claimed().refused.is_none());
    let steps = steps.map(|asked| auditor.reveal(&bench, asked, 0));
    let admitted = steps.filter(|step| bench.service.admit_reveal(step, bench.now, HOME).is_ok()).count();
    assert!((1..=2).contains(&admitted), "a slot is honoured after a restart, a heap of them is not: {admitted}");
}

#[test]
fn closes_sent_over_and_over_leave_one_line_and_little_of_strangers() {
    let log = tempfile::tempdir().expect("a folder");
    let bench = bench(&log);
    let auditor = Auditor::of(&bench);
    let asked = auditor.challenge(&bench, 64);
    let step = auditor.reveal(&bench, &asked, 0);
    let draw = bench.service.admit_reveal(&step, bench.now, HOME).expect("it was granted");
    assert!(auditor.answer(&bench, &step, &draw));
    for _ in 0..50 {
        let noted = auditor.close(&bench, &asked, Outcome::Wrong);
        assert!(matches!(noted, Reply::Prove(ProveReply::Noted)), "{noted:?}");
    }
    assert_eq!(read_log(log.path(), 10_000).expect("a log").len(), 1, "one line a slot");
    let refused =
        (0..1000).map(|_| auditor.challenge(&bench, 1024)).find(|asked| asked.slot.claimed().refused.is_some());
    let refused = refused.expect("the budget ends");
    for _ in 0..1000 {
        auditor.close(&bench, &refused, Outcome::Refused);
    }
    assert!(
        read_log(log.path(), 10_000).expect("a log").len() <= 256,
        "a refused slot is free, so it is counted by network"
    );
}
