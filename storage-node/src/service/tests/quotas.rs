//! Quotas, room and what a node takes.

use super::*;

fn options(allowed: &Owner) -> ServiceOptions {
    ServiceOptions {
        allowed: BTreeMap::from([(allowed.id(), 200_000)]),
        open_quota_bytes: Some(150_000),
        open_quota_per_subnet_bytes: Some(60_000),
        ..ServiceOptions::default()
    }
}

fn refusal(bench: &Bench, owner: &Owner, seed: u8, length: usize, from: Option<Subnet>) -> ErrorCode {
    let bytes = shard(seed, length);
    bench.put_from(&owner.put(bench, &bytes), &bytes, from).expect_err("must be refused").code()
}

fn held(bench: &Bench, owner: &Owner, seed: u8, length: usize, from: Option<Subnet>) {
    let bytes = shard(seed, length);
    bench.put_from(&owner.put(bench, &bytes), &bytes, from).expect("must be held");
}

#[test]
fn listed_accounts_have_their_own_quota_and_strangers_share_one_by_subnet() {
    let (listed, stranger, another) = (Owner::new(1), Owner::new(2), Owner::new(3));
    let bench = Bench::with(options(&listed));
    held(&bench, &stranger, 1, 50_000, HOME);
    assert_eq!(refusal(&bench, &stranger, 2, 20_000, HOME), ErrorCode::OpenQuotaExceeded);
    assert_eq!(refusal(&bench, &another, 2, 20_000, HOME), ErrorCode::OpenQuotaExceeded, "a new key does not help");
    held(&bench, &another, 2, 50_000, AWAY);
    held(&bench, &another, 3, 40_000, None);
    assert_eq!(refusal(&bench, &another, 4, 20_000, None), ErrorCode::OpenQuotaExceeded, "local ones share the whole");
    held(&bench, &listed, 5, 150_000, HOME);
    assert_eq!(refusal(&bench, &listed, 6, 60_000, HOME), ErrorCode::QuotaExceeded);
    let bench = bench.restarted();
    assert_eq!(refusal(&bench, &stranger, 2, 20_000, HOME), ErrorCode::OpenQuotaExceeded, "subnets are remembered");
    assert_eq!(refusal(&bench, &listed, 6, 60_000, HOME), ErrorCode::QuotaExceeded);
    assert_eq!(deleted(bench.answer(stranger.delete_request(&bench, &[root_of(&shard(1, 50_000))]))), [Ok(())]);
    held(&bench, &another, 7, 20_000, HOME);
}

#[test]
fn bytes_are_set_aside_before_they_come_and_given_back_when_they_do_not() {
    let (listed, stranger) = (Owner::new(1), Owner::new(2));
    let bench = Bench::with(options(&listed));
    let bytes = shard(1, 50_000);
    let first = bench.service.begin_put(&stranger.put(&bench, &bytes), bench.now, HOME).expect("admitted");
    assert_eq!(refusal(&bench, &stranger, 2, 50_000, HOME), ErrorCode::OpenQuotaExceeded);
    assert_eq!(refusal(&bench, &stranger, 1, 50_000, HOME), ErrorCode::Busy, "the same shard is under way");
    drop(first);
    held(&bench, &stranger, 2, 50_000, HOME);
}

#[test]
fn the_nodes_own_quota_bounds_all_of_them() {
    let owner = Owner::new(1);
    let bench = Bench::with(ServiceOptions { quota_bytes: Some(0), ..options(&owner) });
    assert_eq!(refusal(&bench, &owner, 1, 10_000, HOME), ErrorCode::DiskFull);
    assert_eq!(bench.service.free_class(), 0);
}

#[test]
fn a_node_that_takes_renewals_only_or_nothing_says_so() {
    let owner = Owner::new(1);
    let bench = Bench::new();
    let bytes = shard(1, 20_000);
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    let renewal = |days: u32| owner.renewal(&bench, &[root_of(&bytes)], START.after(DAY * days));
    bench.service.set_accepting(AcceptingMode::RenewOnly);
    assert_eq!(refusal(&bench, &owner, 2, 20_000, HOME), ErrorCode::NotAccepting);
    assert_eq!(renewed(bench.answer(renewal(30))), [Ok(())]);
    bench.put(&owner.put_until(&bench, &bytes, START.after(DAY * 31)), b"").expect("renews");
    bench.service.set_accepting(AcceptingMode::None);
    assert_eq!(code(bench.answer(renewal(40))), ErrorCode::NotAccepting);
    let longer = owner.put_until(&bench, &bytes, START.after(DAY * 41));
    assert_eq!(bench.put(&longer, b"").expect_err("nothing").code(), ErrorCode::NotAccepting);
    bench.put(&owner.put(&bench, &bytes), b"").expect("a receipt for what is held is no new duty");
    assert_eq!(bench.whole(&bytes).expect("reads go on"), bytes);
    assert_eq!(deleted(bench.answer(owner.delete_request(&bench, &[root_of(&bytes)]))), [Ok(())]);
}

#[test]
fn threads_that_race_for_the_last_room_are_charged_exactly() {
    let owner = Owner::new(1);
    let bench =
        Bench::with(ServiceOptions { open_quota_bytes: Some(8 * charged_bytes(10_000)), ..ServiceOptions::default() });
    let held: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u8)
            .map(|worker| {
                let (bench, owner) = (&bench, &owner);
                scope.spawn(move || {
                    let put = |round| {
                        let bytes = shard(worker * 8 + round, 10_000);
                        bench.put_from(&owner.put(bench, &bytes), &bytes, None)
                    };
                    (0..4).filter(|round| put(*round).is_ok()).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    assert_eq!(held, 8);
    assert_eq!(bench.service.ledger_usage().open_bytes, 8 * charged_bytes(10_000));
    assert_eq!(bench.service.ledger_usage().in_flight_bytes, 0);
    let charged = bench.service.ledger_usage().open_bytes;
    assert_eq!(bench.restarted().service.ledger_usage().open_bytes, charged);
}
