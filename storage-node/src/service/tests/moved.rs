//! What a node that goes believes of those who say that its shards are elsewhere.

use super::*;
use crate::leaving::Leaving;

const WEEK: Duration = LEASE_INITIAL;

fn elsewhere() -> SigningKey {
    SigningKey::from_bytes(&[99; 32])
}

/// What a node with this key promises about these shards.
fn receipt(key: &SigningKey, shards: &[(ShardRoot, u64)], until: Timestamp) -> Signed<RenewReceipt> {
    let node = NodeId::new(key.verifying_key().to_bytes());
    let receipt =
        RenewReceipt { node, account: AccountId::new([7; 32]), until, issued_at: START, shards: shards.to_vec() };
    Signed::sign(receipt, key)
}

fn told(bench: &Bench, receipts: Vec<KeptReceipt>) -> Vec<Result<(), ErrorCode>> {
    let request = Request::Moved(receipts);
    let reply = bench.answer(request.clone());
    request.check_reply(&reply).expect("the reply fits");
    match reply {
        Reply::Moved(codes) => codes,
        other => panic!("not an answer to Moved: {other:?}"),
    }
}

fn left(bench: &Bench) -> (u64, u64, u64, u64) {
    let count = bench.service.count_leaving(bench.now).expect("readable");
    (count.shards_here, count.bytes_here, count.shards_moved, count.bytes_moved)
}

#[test]
fn only_a_receipt_of_another_node_for_what_is_held_and_for_long_enough_counts() {
    let state = tempfile::tempdir().expect("a folder");
    let bench = Bench::with(ServiceOptions {
        open_quota_bytes: Some(1 << 30),
        moved_log: Some(state.path().to_owned()),
        ..ServiceOptions::default()
    });
    let owner = Owner::new(1);
    let shards: Vec<_> = (0..3u8).map(|seed| shard(seed, 10_000 + usize::from(seed))).collect();
    let names: Vec<_> = shards.iter().map(|bytes| (root_of(bytes), bytes.len() as u64)).collect();
    for (bytes, days) in shards.iter().zip([100, 100, 10]) {
        bench.put(&owner.put_until(&bench, bytes, bench.now.after(DAY * days)), bytes).expect("held");
    }
    let until = bench.now.after(DAY * 30);
    let long = until.after(WEEK);
    let good = || KeptReceipt::of_renewal(&receipt(&elsewhere(), &names[..1], long));
    assert_eq!(code(bench.answer(Request::Moved(vec![good()]))), ErrorCode::NotAccepting, "the node stays");

    bench.service.set_leaving(Some(Leaving { until, since: bench.now })).expect("a disk");
    assert_eq!(bench.service.describe(bench.now).leaving_until, Some(until));
    assert_eq!(bench.service.wire_accepting(), Accepting::RenewOnly);
    let new = shard(9, 10_000);
    assert_eq!(bench.put(&owner.put(&bench, &new), &new).expect_err("it goes").code(), ErrorCode::NotAccepting);
    assert_eq!(renewed(bench.answer(owner.renewal(&bench, &[names[0].0], bench.now.after(DAY * 100)))), [Ok(())]);
    assert_eq!(left(&bench), (3, 30_003, 0, 0));

    let shown = |key: &SigningKey, names: &[(ShardRoot, u64)], until| {
        let codes = told(&bench, vec![KeptReceipt::of_renewal(&receipt(key, names, until))]);
        assert_eq!(left(&bench), (3, 30_003, 0, 0), "nothing was believed");
        codes[0].expect_err("must be refused")
    };
    let itself = SigningKey::from_bytes(&[42; 32]);
    assert_eq!(shown(&itself, &names[..1], long), ErrorCode::Unauthorised, "its own receipt");
    assert_eq!(shown(&elsewhere(), &[(names[0].0, 9_999)], long), ErrorCode::NotHeld, "another length");
    assert_eq!(shown(&elsewhere(), &[(root_of(&new), 10_000)], long), ErrorCode::NotHeld);
    let short = Timestamp::from_unix_ms(long.as_unix_ms() - 1);
    assert_eq!(shown(&elsewhere(), &names[..1], short), ErrorCode::Expired, "over too soon after the node is gone");
    assert_eq!(shown(&elsewhere(), &names[2..], bench.now.after(DAY * 9)), ErrorCode::Expired, "before the lease here");
    let honest = receipt(&elsewhere(), &names[..1], long);
    let forged = Signed::sign(honest.claimed().clone(), &SigningKey::from_bytes(&[98; 32]));
    assert_eq!(told(&bench, vec![KeptReceipt::of_renewal(&forged)]), [Err(ErrorCode::Unauthorised)]);
    assert_eq!(left(&bench).2, 0);

    // One of ten days is enough for a lease of ten days.
    let brief = KeptReceipt::of_renewal(&receipt(&elsewhere(), &names[2..], bench.now.after(DAY * 10)));
    let unknown = KeptReceipt::of_renewal(&receipt(&elsewhere(), &[(root_of(&new), 10_000)], long));
    assert_eq!(told(&bench, vec![good(), unknown, brief]), [Ok(()), Err(ErrorCode::NotHeld), Ok(())]);
    assert_eq!(left(&bench), (1, 10_001, 2, 20_002));
    assert!(bench.whole(&shards[0]).is_ok(), "it is served as before");

    // Another lease on the same root changes nothing; one that is over is nobody's concern.
    let neighbour = Owner::new(2);
    bench.put(&neighbour.put(&bench, &shards[1]), &shards[1]).expect_err("no new lease while it goes");
    let bench = bench.restarted();
    bench.service.set_leaving(Some(Leaving { until, since: bench.now })).expect("a disk");
    assert_eq!(left(&bench), (3, 30_003, 0, 0), "a node that is told anew begins anew");
    let later = bench.now.after(DAY * 11);
    assert_eq!(bench.service.count_leaving(later).expect("readable").shards_here, 2);
    bench.service.set_leaving(None).expect("a disk");
    assert_eq!(bench.service.wire_accepting(), Accepting::All);
}

#[test]
fn what_was_moved_is_known_after_a_restart() {
    let state = tempfile::tempdir().expect("a folder");
    let leaving = Leaving { until: START.after(DAY * 30), since: START };
    let bench = Bench::with(ServiceOptions {
        open_quota_bytes: Some(1 << 30),
        moved_log: Some(state.path().to_owned()),
        ..ServiceOptions::default()
    });
    let (owner, bytes) = (Owner::new(1), shard(1, 10_000));
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    bench.service.set_leaving(Some(leaving)).expect("a disk");
    let receipt = receipt(&elsewhere(), &[(root_of(&bytes), 10_000)], START.after(DAY * 400));
    assert_eq!(told(&bench, vec![KeptReceipt::of_renewal(&receipt)]), [Ok(())]);
    let service = &bench.service;
    let again = Moved::new(state.path());
    assert!(again.contains(&root_of(&bytes)).expect("a disk"));
    service.set_leaving(Some(Leaving { until: START.after(DAY * 60), ..leaving })).expect("a disk");
    assert_eq!(left(&bench), (0, 0, 1, 10_000), "another date changes nothing about what was moved");
}
