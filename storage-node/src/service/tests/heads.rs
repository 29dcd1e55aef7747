//! Heads: compare-and-set, caps and leases. Nodes cannot open heads, so these have bodies of nothing.

use dolmen_proto::ids::HeadHash;
use dolmen_proto::sign::{SignatureKind, sign};

use super::*;

const POINT: Point = Point::new([5; 32]);

/// A head as docs/format.md has it, with a sealed body that says nothing.
fn head(writer: u8, sequence: u64, previous: HeadHash, body: u8) -> Head {
    let key = SigningKey::from_bytes(&[writer; 32]);
    let mut bytes = vec![1];
    bytes.extend_from_slice(&key.verifying_key().to_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(previous.as_bytes());
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&40u16.to_le_bytes());
    bytes.extend_from_slice(&[body; 40]);
    let signature = sign(SignatureKind::Head, &key, &bytes);
    bytes.extend_from_slice(&signature);
    Head::parse(&bytes).expect("a head")
}

fn first(writer: u8) -> Head {
    head(writer, 1, HeadHash::new([0; 32]), 0)
}

fn put_at(bench: &Bench, point: Point, head: &Head, until: Timestamp) -> Reply {
    bench.answer(Request::PutHead(PutHeadRequest { point, head: head.bytes().clone(), until }))
}

/// Whether the head was taken, and the head that the node had before or keeps instead.
fn put(bench: &Bench, head: &Head) -> (bool, Option<Bytes>) {
    match put_at(bench, POINT, head, bench.now.after(DAY * 100)) {
        Reply::PutHead(reply) => (reply.accepted, reply.current),
        other => panic!("not an answer to a head: {other:?}"),
    }
}

fn heads(bench: &Bench, key: Option<[u8; 32]>) -> Vec<Bytes> {
    match bench.answer(Request::GetHead(GetHeadRequest { point: POINT, key })) {
        Reply::GetHead(heads) => heads,
        other => panic!("not an answer to a question for heads: {other:?}"),
    }
}

#[test]
fn a_head_is_replaced_by_its_successor_and_never_rolled_back() {
    let bench = Bench::new();
    let one = first(1);
    let two = head(1, 2, one.hash(), 0);
    assert_eq!(put(&bench, &one), (true, None));
    assert_eq!(put(&bench, &two), (true, Some(one.bytes().clone())), "the answer carries the one it had");
    assert_eq!(put(&bench, &one), (false, Some(two.bytes().clone())));
    assert!(put(&bench, &two).0, "the same again is no error");
    let far = head(1, 2 + limits::HEAD_SEQUENCE_LEAP_MAX + 1, two.hash(), 0);
    assert_eq!(put(&bench, &far), (false, Some(two.bytes().clone())));
    assert_eq!(heads(&bench, None), [two.bytes().clone()]);
    let bench = bench.restarted();
    assert_eq!(heads(&bench, Some(*two.public_key())), [two.bytes().clone()], "durable before the answer");
    assert_eq!(heads(&bench, Some([0; 32])), Vec::<Bytes>::new());
}

#[test]
fn of_two_forks_one_wins_whichever_comes_first() {
    let one = first(1);
    let (left, right) = (head(1, 2, one.hash(), 1), head(1, 2, one.hash(), 2));
    let winner = if left.hash() < right.hash() { &left } else { &right };
    for order in [[&left, &right], [&right, &left]] {
        let bench = Bench::new();
        put(&bench, &one);
        for fork in order {
            put(&bench, fork);
        }
        assert_eq!(heads(&bench, None), [winner.bytes().clone()]);
    }
}

#[test]
fn threads_that_race_leave_the_one_that_wins_everywhere() {
    let bench = Bench::new();
    let one = first(1);
    put(&bench, &one);
    let forks: Vec<_> = (0..8).map(|body| head(1, 2, one.hash(), body)).collect();
    std::thread::scope(|scope| {
        for fork in &forks {
            let bench = &bench;
            scope.spawn(move || put(bench, fork));
        }
    });
    let winner = forks.iter().min_by_key(|fork| fork.hash()).expect("eight");
    assert_eq!(heads(&bench, None), [winner.bytes().clone()]);
}

#[test]
fn a_point_has_room_for_a_few_keys_and_strangers_cannot_push_one_out() {
    let bench = Bench::new();
    let most = u8::try_from(limits::HEADS_PER_POINT_MAX).expect("few");
    for writer in 1..=most {
        assert!(put(&bench, &first(writer)).0);
    }
    let refused = put_at(&bench, POINT, &first(most + 1), START.after(DAY));
    assert_eq!(code(refused), ErrorCode::TooMany);
    assert!(put(&bench, &head(1, 2, first(1).hash(), 0)).0, "those that are there go on");
    assert!(matches!(put_at(&bench, Point::new([6; 32]), &first(most + 1), START.after(DAY)), Reply::PutHead(_)));
}

#[test]
fn what_is_no_head_or_lasts_too_long_is_refused() {
    let bench = Bench::new();
    let one = first(1);
    let mut forged = one.bytes().to_vec();
    *forged.last_mut().expect("bytes") ^= 1;
    let until = START.after(DAY);
    let request = PutHeadRequest { point: POINT, head: forged.into(), until };
    assert_eq!(code(bench.answer(Request::PutHead(request))), ErrorCode::Malformed);
    assert_eq!(code(put_at(&bench, POINT, &one, START.after(LEASE_DEFAULT + DAY))), ErrorCode::LeaseTooLong);
    assert_eq!(code(put_at(&bench, POINT, &one, START)), ErrorCode::Expired);
    bench.service.set_accepting(AcceptingMode::None);
    assert_eq!(code(put_at(&bench, POINT, &one, until)), ErrorCode::NotAccepting);
}

#[test]
fn heads_have_a_quota_of_their_own_that_is_counted_anew_at_start() {
    let options = ServiceOptions { heads_quota_bytes: 800, ..ServiceOptions::default() };
    let bench = Bench::with(options);
    let one = first(1);
    assert!(put(&bench, &one).0);
    let charged = bench.service.head_bytes();
    assert!(put(&bench, &head(1, 2, one.hash(), 0)).0);
    assert_eq!(bench.service.head_bytes(), charged, "a successor takes the place of the one before");
    let refused = put_at(&bench, Point::new([6; 32]), &first(2), START.after(DAY));
    assert_eq!(code(refused), ErrorCode::OpenQuotaExceeded);
    let bench = bench.restarted();
    assert_eq!(bench.service.head_bytes(), charged);
}

#[test]
fn one_network_cannot_write_heads_without_end_and_local_ones_can() {
    let bench = Bench::new();
    let put = PutHeadRequest { point: POINT, head: Bytes::from_static(b"no head"), until: START.after(DAY) };
    let request = Request::PutHead(put);
    let ask = |from| code(bench.service.answer(&request, START, from));
    for _ in 0..HEAD_BURST {
        assert_eq!(ask(HOME), ErrorCode::Malformed);
    }
    assert_eq!(ask(HOME), ErrorCode::Busy);
    assert_eq!(ask(AWAY), ErrorCode::Malformed);
    for _ in 0..HEAD_BURST * 2 {
        assert_eq!(ask(None), ErrorCode::Malformed);
    }
}

#[test]
fn putting_a_head_again_keeps_it_longer_and_in_the_end_it_goes() {
    let mut bench = Bench::new();
    let one = first(1);
    put_at(&bench, POINT, &one, START.after(DAY * 10));
    put_at(&bench, POINT, &one, START.after(DAY * 20));
    put_at(&bench, POINT, &one, START.after(DAY));
    let page = bench.service.heads_page(None).expect("readable");
    assert_eq!(page.iter().map(|head| head.until).collect::<Vec<_>>(), [START.after(DAY * 20)]);
    assert!(bench.service.heads_page(Some((POINT, *one.public_key()))).expect("readable").is_empty());
    bench.now = START.after(DAY * 20 + LEASE_GRACE + DAY);
    assert_eq!(bench.service.expire_step(bench.now, 16).expect("expiry").heads, 1);
    assert_eq!(heads(&bench, None), Vec::<Bytes>::new());
    assert_eq!(bench.service.head_bytes(), 0);
}
