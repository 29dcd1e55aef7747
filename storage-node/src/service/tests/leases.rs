//! Put, get, stat, renew, delete, list and expiry.

use super::*;

#[test]
fn what_is_put_is_read_back_whole_in_ranges_and_with_proof() {
    let bench = Bench::new();
    let owner = Owner::new(1);
    let bytes = shard(1, 1_500_000);
    let receipt = bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    assert_eq!((receipt.root, receipt.until), (root_of(&bytes), START.after(LEASE_INITIAL)));
    assert_eq!(bench.whole(&bytes).expect("there"), bytes);
    let range = GetRequest {
        root: root_of(&bytes),
        length_bytes: 1_500_000,
        offset_bytes: 700_001,
        count_bytes: 600_000,
        proof: false,
    };
    assert_eq!(bench.get(range).expect("there"), &bytes[700_001..1_300_001]);
    let slice = bench.get(GetRequest { proof: true, ..range }).expect("there");
    let proven = verify_slice(&range.root, 1_500_000, 700_001, 600_000, &slice).expect("proven");
    assert_eq!(proven, &bytes[700_001..1_300_001]);
}

#[test]
fn a_read_of_what_is_not_there_is_named() {
    let bench = Bench::new();
    let bytes = shard(1, 5000);
    assert_eq!(bench.whole(&bytes).expect_err("not here").code(), ErrorCode::NotHeld);
    assert_eq!(bench.stat(root_of(&bytes)), Err(ErrorCode::NotHeld));
    bench.put(&Owner::new(1).put(&bench, &bytes), &bytes).expect("held");
    let other = GetRequest { root: root_of(&bytes), length_bytes: 5001, offset_bytes: 0, count_bytes: 1, proof: false };
    assert_eq!(bench.get(other).expect_err("pinned").code(), ErrorCode::LengthMismatch);
}

#[test]
fn bytes_that_are_not_the_ones_named_are_never_kept() {
    let bench = Bench::new();
    let owner = Owner::new(1);
    let bytes = shard(1, 50_000);
    let mut wrong = bytes.clone();
    wrong[40_000] ^= 1;
    let request = owner.put(&bench, &bytes);
    assert_eq!(bench.put(&request, &wrong).expect_err("another root").code(), ErrorCode::RootMismatch);
    assert_eq!(bench.put(&request, &bytes[1..]).expect_err("short").code(), ErrorCode::LengthMismatch);
    assert_eq!(bench.put(&request, &[&bytes[..], b"x"].concat()).expect_err("long").code(), ErrorCode::LengthMismatch);
    assert_eq!(bench.stat(root_of(&bytes)), Err(ErrorCode::NotHeld));
    assert_eq!(bench.service.ledger_usage().open_bytes, 0, "nothing is charged for what was refused");
    bench.put(&request, &bytes).expect("held");
}

#[test]
fn a_second_put_needs_no_payload_and_only_ever_lengthens_the_lease() {
    let bench = Bench::new();
    let owner = Owner::new(1);
    let bytes = shard(1, 20_000);
    let long = START.after(LEASE_DEFAULT);
    assert!(bench.wants_payload(&owner.put(&bench, &bytes)));
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    assert!(!bench.wants_payload(&owner.put_until(&bench, &bytes, long)));
    assert_eq!(bench.stat(root_of(&bytes)), Ok(long));
    let again = bench.put(&owner.put(&bench, &bytes), b"").expect("held");
    assert_eq!(again.until, long, "a shorter put does not shorten, and the receipt says so");
    assert_eq!(bench.stat(root_of(&bytes)), Ok(long));
    assert_eq!(bench.service.ledger_usage().open_bytes, charged_bytes(20_000), "charged once");
}

#[test]
fn two_leases_on_one_root_stay_until_both_are_gone() {
    let bench = Bench::new();
    let (one, two) = (Owner::new(1), Owner::new(2));
    let bytes = shard(1, 20_000);
    bench.put(&one.put(&bench, &bytes), &bytes).expect("held");
    assert!(!bench.wants_payload(&two.put_until(&bench, &bytes, START.after(DAY * 20))));
    assert_eq!(bench.service.ledger_usage().open_bytes, 2 * charged_bytes(20_000), "each payer is charged");
    let (store, root) = (bench.service.store(), root_of(&bytes));
    let (summary, whole) = (store.summary(&root).expect("an index"), store.lookup(&root).expect("a disk"));
    let (summary, whole) = (summary.expect("known"), whole.expect("known"));
    assert_eq!((summary.length_bytes, summary.state), (whole.length_bytes, whole.state));
    assert_eq!(Some(summary.until), whole.leases.iter().map(|lease| lease.until).max());
    assert_eq!(deleted(bench.answer(one.delete_request(&bench, &[root_of(&bytes)]))), [Ok(())]);
    assert_eq!(bench.stat(root_of(&bytes)), Ok(START.after(DAY * 20)));
    assert_eq!(bench.whole(&bytes).expect("there"), bytes);
    assert_eq!(deleted(bench.answer(two.delete_request(&bench, &[root_of(&bytes)]))), [Ok(())]);
    assert_eq!(bench.stat(root_of(&bytes)), Err(ErrorCode::NotHeld));
    assert_eq!(bench.service.ledger_usage().open_bytes, 0);
}

#[test]
fn only_the_account_or_its_steward_puts() {
    let bench = Bench::new();
    let (owner, thief) = (Owner::new(1), Owner::new(2));
    let bytes = shard(1, 20_000);
    let terms = || owner.terms(&bench, &bytes, START.after(LEASE_INITIAL));
    let forged = PutRequest { lease: Signed::sign(terms(), &thief.account), grant: None };
    assert_eq!(bench.put(&forged, &bytes).expect_err("forged").code(), ErrorCode::Unauthorised);
    let elsewhere = LeaseTerms { node: NodeId::new([0; 32]), ..terms() };
    let elsewhere = PutRequest { lease: Signed::sign(elsewhere, &owner.account), grant: None };
    assert_eq!(bench.put(&elsewhere, &bytes).expect_err("for another").code(), ErrorCode::Unauthorised);
    let steward = SigningKey::from_bytes(&[77; 32]);
    let may_renew = owner.grant(&bench, &steward, GrantRights { put: false, renew: true });
    let by_steward = |grant| PutRequest { lease: Signed::sign(terms(), &steward), grant };
    assert_eq!(bench.put(&by_steward(None), &bytes).expect_err("no grant").code(), ErrorCode::Unauthorised);
    assert_eq!(bench.put(&by_steward(Some(may_renew)), &bytes).expect_err("no right").code(), ErrorCode::Unauthorised);
    let may_put = owner.grant(&bench, &steward, GrantRights { put: true, renew: false });
    bench.put(&by_steward(Some(may_put)), &bytes).expect("granted");
}

#[test]
fn a_steward_is_held_to_the_bytes_of_its_grant_also_after_a_restart() {
    let mut bench = Bench::new();
    let owner = Owner::new(1);
    let steward = SigningKey::from_bytes(&[77; 32]);
    let put = |bench: &Bench, bytes: &[u8]| {
        let lease = Signed::sign(owner.terms(bench, bytes, START.after(LEASE_INITIAL)), &steward);
        let grant = Some(owner.grant(bench, &steward, GrantRights { put: true, renew: true }));
        bench.put(&PutRequest { lease, grant }, bytes)
    };
    put(&bench, &shard(1, 60_000)).expect("within the grant");
    assert_eq!(put(&bench, &shard(2, 60_000)).expect_err("beyond it").code(), ErrorCode::QuotaExceeded);
    bench = bench.restarted();
    assert_eq!(put(&bench, &shard(2, 60_000)).expect_err("beyond it").code(), ErrorCode::QuotaExceeded);
    bench.put(&owner.put(&bench, &shard(2, 60_000)), &shard(2, 60_000)).expect("the owner is not held to it");
}

#[test]
fn a_stewards_put_never_takes_the_right_to_delete() {
    let bench = Bench::new();
    let (owner, steward) = (Owner::new(1), Owner::new(7));
    let bytes = shard(1, 20_000);
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    let mut terms = owner.terms(&bench, &bytes, START.after(DAY * 30));
    terms.delete_key = steward.delete.verifying_key().to_bytes();
    let grant = Some(owner.grant(&bench, &steward.account, GrantRights { put: true, renew: true }));
    bench.put(&PutRequest { lease: Signed::sign(terms, &steward.account), grant }, b"").expect("renews");
    let body = DeleteBody {
        node: bench.node(),
        account: owner.id(),
        signer: steward.delete.verifying_key().to_bytes(),
        issued_at: bench.now,
        roots: vec![root_of(&bytes)],
    };
    let theft = Request::Delete(DeleteRequest { body: Signed::sign(body, &steward.delete) });
    assert_eq!(deleted(bench.answer(theft)), [Err(ErrorCode::Unauthorised)]);
    assert_eq!(deleted(bench.answer(owner.delete_request(&bench, &[root_of(&bytes)]))), [Ok(())]);
}

#[test]
fn leases_end_within_the_longest_and_requests_within_their_life() {
    let bench = Bench::new();
    let owner = Owner::new(1);
    let bytes = shard(1, 20_000);
    let refused = |until| bench.put(&owner.put_until(&bench, &bytes, until), &bytes).expect_err("refused").code();
    assert_eq!(refused(START.after(LEASE_MAX).after(DAY)), ErrorCode::LeaseTooLong);
    assert_eq!(refused(START), ErrorCode::Expired);
    let mut terms = owner.terms(&bench, &bytes, START.after(LEASE_INITIAL));
    for issued_at in [START.before(REQUEST_LIFE * 2), START.after(REQUEST_LIFE * 2)] {
        terms.issued_at = issued_at;
        let request = PutRequest { lease: Signed::sign(terms.clone(), &owner.account), grant: None };
        assert_eq!(bench.put(&request, &bytes).expect_err("the clocks differ").code(), ErrorCode::ClockSkew);
    }
}

#[test]
fn renewing_takes_the_renew_key_or_a_grant_and_never_shortens() {
    let bench = Bench::new();
    let (owner, thief) = (Owner::new(1), Owner::new(2));
    let bytes = shard(1, 20_000);
    let root = root_of(&bytes);
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    let long = START.after(DAY * 100);
    let roots = [root, ShardRoot::new([9; 32]), root];
    let stolen = renewal_by(&thief.renew, owner.id(), &bench, &roots, long, None);
    let unauthorised = Err(ErrorCode::Unauthorised);
    assert_eq!(renewed(bench.answer(stolen)), [unauthorised, Err(ErrorCode::NotHeld), Err(ErrorCode::Malformed)]);
    assert_eq!(renewed(bench.answer(owner.renewal(&bench, &roots[..2], long))), [Ok(()), Err(ErrorCode::NotHeld)]);
    assert_eq!(bench.stat(root), Ok(long));
    assert_eq!(renewed(bench.answer(owner.renewal(&bench, &[root], START.after(DAY)))), [Ok(())]);
    assert_eq!(bench.stat(root), Ok(long), "not shortened");
    let steward = SigningKey::from_bytes(&[77; 32]);
    let by_steward = |rights, until| {
        let grant = Some(owner.grant(&bench, &steward, rights));
        bench.answer(renewal_by(&steward, owner.id(), &bench, &[root], until, grant))
    };
    let may_put = GrantRights { put: true, renew: false };
    let may_renew = GrantRights { put: false, renew: true };
    assert_eq!(code(by_steward(may_put, long.after(DAY))), ErrorCode::Unauthorised);
    assert_eq!(code(by_steward(may_renew, START.after(LEASE_DEFAULT + DAY))), ErrorCode::LeaseTooLong);
    assert_eq!(renewed(by_steward(may_renew, long.after(DAY))), [Ok(())]);
    assert_eq!(bench.stat(root), Ok(long.after(DAY)));
}

#[test]
fn deleting_takes_the_delete_key_and_leaves_the_nodes_defence() {
    let bench = Bench::new();
    let (owner, thief) = (Owner::new(1), Owner::new(2));
    let shards: Vec<_> = (0..3).map(|seed| shard(seed, 10_000)).collect();
    let roots: Vec<_> = shards.iter().map(|bytes| root_of(bytes)).collect();
    for (days, bytes) in (1..).zip(&shards) {
        bench.put(&owner.put_until(&bench, bytes, START.after(DAY * days)), bytes).expect("held");
    }
    let mut body = DeleteBody {
        node: bench.node(),
        account: owner.id(),
        signer: thief.delete.verifying_key().to_bytes(),
        issued_at: bench.now,
        roots: roots.clone(),
    };
    let theft = Request::Delete(DeleteRequest { body: Signed::sign(body.clone(), &thief.delete) });
    assert_eq!(deleted(bench.answer(theft)), [Err(ErrorCode::Unauthorised); 3]);
    body.signer = owner.delete.verifying_key().to_bytes();
    let forged = Request::Delete(DeleteRequest { body: Signed::sign(body, &thief.delete) });
    assert_eq!(code(bench.answer(forged)), ErrorCode::Unauthorised);
    assert_eq!(deleted(bench.answer(owner.delete_request(&bench, &roots))), [Ok(()); 3]);
    assert_eq!(deleted(bench.answer(owner.delete_request(&bench, &roots))), [Ok(()); 3], "again is no error");
    let bench = bench.restarted();
    for root in &roots {
        let defence = bench.service.signed_delete(root, owner.id()).expect("readable").expect("kept");
        let signed = defence.signed_by(&owner.delete.verifying_key().to_bytes()).expect("the owner's own word");
        assert!(signed.roots.contains(root));
    }
}

#[test]
fn old_words_played_again_change_nothing() {
    let mut bench = Bench::new();
    let owner = Owner::new(1);
    let bytes = shard(1, 20_000);
    let put = owner.put(&bench, &bytes);
    bench.put(&put, &bytes).expect("held");
    bench.now = bench.now.after(Duration::from_secs(60));
    let delete = owner.delete_request(&bench, &[root_of(&bytes)]);
    assert_eq!(deleted(bench.answer(delete.clone())), [Ok(())]);
    assert_eq!(bench.put(&put, &bytes).expect_err("taken back since").code(), ErrorCode::Expired);
    assert_eq!(bench.service.ledger_usage().open_bytes, 0);
    bench.now = bench.now.after(Duration::from_secs(60));
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("put anew");
    assert_eq!(deleted(bench.answer(delete)), [Err(ErrorCode::Expired)], "the delete is older than this lease");
    assert_eq!(bench.whole(&bytes).expect("there"), bytes);
}

#[test]
fn a_list_is_for_the_account_alone_and_comes_in_pages() {
    let bench = Bench::new();
    let (owner, other) = (Owner::new(1), Owner::new(2));
    let mut roots = Vec::new();
    for seed in 0..u8::try_from(limits::LEASES_PER_LIST_MAX / 2).expect("fits") {
        for length in [1000, 2000, 3000] {
            let bytes = shard(seed, length);
            bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
            roots.push(root_of(&bytes));
        }
    }
    bench.put(&other.put(&bench, &shard(255, 1000)), &shard(255, 1000)).expect("held");
    roots.sort_unstable();
    let list = |signer: &SigningKey, after_root| {
        let body = ListBody { node: bench.node(), account: owner.id(), issued_at: bench.now, after_root };
        bench.answer(Request::List(ListRequest { body: Signed::sign(body, signer) }))
    };
    assert_eq!(code(list(&other.account, None)), ErrorCode::Unauthorised);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let Reply::List(page) = list(&owner.account, after) else { panic!("not a list") };
        assert!(page.leases.len() <= limits::LEASES_PER_LIST_MAX);
        found.extend(page.leases.iter().map(|lease| lease.root));
        after = found.last().copied();
        if !page.more {
            break;
        }
    }
    assert_eq!(found, roots);
}

#[test]
fn what_is_over_goes_after_the_grace_and_its_bytes_are_given_back() {
    let mut bench = Bench::new();
    let owner = Owner::new(1);
    let (short, long) = (shard(1, 20_000), shard(2, 20_000));
    bench.put(&owner.put(&bench, &short), &short).expect("held");
    bench.put(&owner.put_until(&bench, &long, START.after(LEASE_DEFAULT)), &long).expect("held");
    bench.now = START.after(LEASE_INITIAL + LEASE_GRACE).before(DAY);
    assert_eq!(bench.expire(), 0);
    assert_eq!(bench.whole(&short).expect("in its grace"), short);
    bench.now = START.after(LEASE_INITIAL + LEASE_GRACE + DAY);
    assert_eq!(bench.expire(), 1);
    assert_eq!(bench.stat(root_of(&short)), Err(ErrorCode::NotHeld));
    assert_eq!(bench.whole(&long).expect("leased"), long);
    assert_eq!(bench.service.ledger_usage().open_bytes, charged_bytes(20_000));
}

#[test]
fn a_lease_in_its_grace_can_still_be_renewed_and_deleted() {
    let mut bench = Bench::new();
    let owner = Owner::new(1);
    let (kept, gone, again) = (shard(1, 20_000), shard(2, 20_000), shard(3, 20_000));
    for bytes in [&kept, &gone, &again] {
        bench.put(&owner.put(&bench, bytes), bytes).expect("held");
    }
    bench.now = START.after(LEASE_INITIAL + DAY);
    let later = bench.now.after(LEASE_INITIAL);
    assert_eq!(renewed(bench.answer(owner.renewal(&bench, &[root_of(&kept)], later))), [Ok(())]);
    assert_eq!(deleted(bench.answer(owner.delete_request(&bench, &[root_of(&gone)]))), [Ok(())]);
    assert!(!bench.wants_payload(&owner.put(&bench, &again)));
    assert_eq!(bench.expire(), 0);
    assert_eq!(bench.service.ledger_usage().open_bytes, 2 * charged_bytes(20_000));
    bench.now = START.after(LEASE_INITIAL * 2 + LEASE_GRACE + DAY * 2);
    assert_eq!(bench.expire(), 2);
    assert_eq!(bench.service.ledger_usage().open_bytes, 0);
}

#[test]
fn nothing_expires_while_the_clock_is_in_doubt() {
    let mut bench = Bench::new();
    let bytes = shard(1, 20_000);
    bench.put(&Owner::new(1).put(&bench, &bytes), &bytes).expect("held");
    bench.now = START.after(DAY * 1000);
    bench.service.clock().observe(bench.now, Duration::from_secs(60));
    assert_eq!(bench.expire(), 0);
    assert_eq!(bench.whole(&bytes).expect("there"), bytes);
    bench.service.clock().confirm();
    assert_eq!(bench.expire(), 1);
}

#[test]
fn everything_is_there_after_a_restart() {
    let bench = Bench::new();
    let owner = Owner::new(1);
    let bytes = shard(1, 300_000);
    bench.put(&owner.put(&bench, &bytes), &bytes).expect("held");
    let charged = bench.service.ledger_usage();
    let bench = bench.restarted();
    assert_eq!(bench.service.ledger_usage(), charged);
    assert_eq!(bench.whole(&bytes).expect("there"), bytes);
    assert!(!bench.wants_payload(&owner.put(&bench, &bytes)));
    assert_eq!(deleted(bench.answer(owner.delete_request(&bench, &[root_of(&bytes)]))), [Ok(())]);
    assert_eq!(bench.service.ledger_usage().open_bytes, 0);
}

#[test]
fn describe_says_what_the_node_is() {
    let bench = Bench::new();
    let Reply::Describe(described) = bench.answer(Request::Describe) else { panic!("not a description") };
    assert_eq!((described.now, described.accepting), (START, Accepting::All));
    assert!(described.free_class > 20, "a temporary folder has some room");
    bench.service.set_accepting(AcceptingMode::RenewOnly);
    assert_eq!(bench.service.describe(START).accepting, Accepting::RenewOnly);
}
