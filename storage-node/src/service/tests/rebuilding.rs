//! A service over a store whose index is being rebuilt: reads what is found, and counts before it promises.

use super::*;
use crate::accounts::charged_bytes;

fn early(reply: Reply) {
    let error = reply.into_result().expect_err("too early");
    assert_eq!(error.code(), ErrorCode::StillIndexing);
    assert!(error.retry_after().is_some(), "it says when to come back");
}

#[test]
fn found_shards_are_read_and_all_else_waits_for_the_books() {
    let open_quota_bytes = Some(2 * charged_bytes(20_000) + 100);
    let open_quota_per_subnet_bytes = open_quota_bytes;
    let options = ServiceOptions { open_quota_bytes, open_quota_per_subnet_bytes, ..ServiceOptions::default() };
    let bench = Bench::with(options);
    let (owner, held) = (Owner::new(1), [shard(1, 20_000), shard(2, 20_000)]);
    for bytes in &held {
        bench.put(&owner.put(&bench, bytes), bytes).expect("within the quota");
    }
    let mut bench = bench.killed();
    let root = root_of(&held[0]);
    assert_eq!(bench.whole(&held[0]).expect_err("not found yet").code(), ErrorCode::StillIndexing);
    for read in [false, true] {
        if read {
            while bench.service.store().rebuild_step(0).expect("readable") {}
            assert_eq!(bench.whole(&held[0]).expect("found"), held[0]);
            let error = bench.whole(&shard(9, 100)).expect_err("nobody knows yet");
            assert_eq!(error.code(), ErrorCode::StillIndexing);
        }
        let request = owner.put(&bench, &shard(3, 100));
        assert_eq!(bench.put(&request, &shard(3, 100)).expect_err("too early").code(), ErrorCode::StillIndexing);
        let list = ListBody { node: bench.node(), account: owner.id(), issued_at: bench.now, after_root: None };
        let head = PutHeadRequest { point: Point::new([1; 32]), head: Bytes::new(), until: bench.now.after(DAY) };
        for request in [
            Request::Stat(vec![root]),
            owner.renewal(&bench, &[root], bench.now.after(LEASE_DEFAULT)),
            owner.delete_request(&bench, &[root]),
            Request::List(ListRequest { body: Signed::sign(list, &owner.account) }),
            Request::PutHead(head),
            Request::GetHead(GetHeadRequest { point: Point::new([1; 32]), key: None }),
        ] {
            early(bench.answer(request));
        }
        let described = bench.service.describe(bench.now);
        assert_eq!((described.accepting, described.free_class), (Accepting::None, 0));
        assert!(!bench.service.is_short_of_space(), "nobody knows yet");
        bench.now = bench.now.after(LEASE_MAX);
        assert_eq!(bench.expire(), 0);
        bench.now = START;
        assert!(!bench.service.open_books().expect("nothing to read"));
    }
    bench.service.store().finish_rebuild(bench.now).expect("all is read");
    assert!(bench.service.open_books().expect("readable"));
    assert!(bench.service.open_books().expect("once is enough"));
    assert_eq!(bench.service.ledger_usage().open_bytes, 2 * charged_bytes(20_000), "counted once");
    assert_eq!(bench.service.describe(bench.now).accepting, Accepting::All);
    assert_eq!(bench.stat(root), Ok(START.after(LEASE_INITIAL)));
    assert_eq!(bench.stat(root_of(&shard(9, 100))), Err(ErrorCode::NotHeld));
    let refused = bench.put(&owner.put(&bench, &shard(3, 20_000)), &shard(3, 20_000)).expect_err("over the quota");
    assert_eq!(refused.code(), ErrorCode::OpenQuotaExceeded);
}
