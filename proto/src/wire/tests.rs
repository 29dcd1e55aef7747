//! The wire as a whole: what is written parses to the same, what nobody wrote never panics, and no signature goes
//! further than it was meant to.

use core::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use prost::Message;

use super::frame::{LENGTH_BYTES, decode_length, encode_reply, encode_request, parse_reply, parse_request};
use super::record::{Accepting, NodeRecord, OperatorClaim, Successor};
use super::*;
use crate::audit::{AuditClass, DrawKind, Outcome, SetTop, nonce_hash};
use crate::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};
use crate::limits::{
    AUDIT_PAYLOAD_MAX_BYTES, AUDIT_SLOT_LIFE, CLOCK_SKEW_MAX, LEASE_INITIAL, LEASE_MAX, LEASES_PER_LIST_MAX,
    MOVED_RECEIPTS_MAX, NODE_RECORD_LIFE_MAX, OVERLAY_RENEWAL_SHARDS_MAX, REQUEST_LIFE, ROOTS_PER_CALL_MAX,
    SHARD_MAX_BYTES, WIRE_HEADER_MAX_BYTES,
};
use crate::messages;

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    key(number).verifying_key().to_bytes()
}

const NODE: u8 = 1;
const ACCOUNT: u8 = 2;
const STEWARD: u8 = 3;
const DELETE: u8 = 4;
const RENEW: u8 = 5;

fn node() -> NodeId {
    NodeId::new(public(NODE))
}

fn root(number: usize) -> ShardRoot {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ShardRoot::new(bytes)
}

fn terms() -> LeaseTerms {
    LeaseTerms {
        node: node(),
        root: root(1),
        length_bytes: 1024,
        account: AccountId::new(public(ACCOUNT)),
        delete_key: public(DELETE),
        renew_key: public(RENEW),
        until: NOW.after(LEASE_INITIAL),
        issued_at: NOW,
    }
}

fn grant() -> StewardGrant {
    StewardGrant {
        account: AccountId::new(public(ACCOUNT)),
        steward: public(STEWARD),
        node: node(),
        rights: GrantRights { put: true, renew: true },
        quota_bytes: 1 << 40,
        until: NOW.after(LEASE_INITIAL * 2),
    }
}

fn renewal(signer: u8) -> RenewBody {
    RenewBody {
        node: node(),
        account: AccountId::new(public(ACCOUNT)),
        signer: public(signer),
        issued_at: NOW,
        until: NOW.after(LEASE_INITIAL),
        roots: vec![root(1), root(2)],
    }
}

fn deletion(count: usize) -> DeleteBody {
    DeleteBody {
        node: node(),
        account: AccountId::new(public(ACCOUNT)),
        signer: public(DELETE),
        issued_at: NOW,
        roots: (0..count).map(root).collect(),
    }
}

fn record() -> NodeRecord {
    NodeRecord {
        node: node(),
        sequence: 12,
        control_addresses: vec!["/ip4/203.0.113.7/udp/4710/quic-v1".into()],
        data_addresses: vec![
            "203.0.113.7:4711".parse().expect("an address"),
            "[2001:db8::1]:4711".parse().expect("one"),
        ],
        operator: Some(OperatorClaim::sign(&key(20), &node())),
        region: Some("eu-de".parse().expect("a region")),
        accepting: Accepting::RenewOnly,
        free_class: 40,
        protocol_min: 1,
        protocol_max: 3,
        software: "dolmen 0.1.0".into(),
        issued_at: NOW,
        expires_at: NOW.after(NODE_RECORD_LIFE_MAX),
        successor: Some(Successor::sign(&key(21), &node())),
    }
}

fn put_by_owner() -> PutRequest {
    PutRequest { lease: Signed::sign(terms(), &key(ACCOUNT)), grant: None }
}

fn put_by_steward(terms: LeaseTerms, grant: StewardGrant) -> PutRequest {
    let grant = Some(Signed::sign(grant, &key(ACCOUNT)));
    PutRequest { lease: Signed::sign(terms, &key(STEWARD)), grant }
}

fn code<T>(result: Result<T, WireError>) -> Option<ErrorCode> {
    result.err().map(|error| error.code())
}

fn challenge() -> Signed<Challenge> {
    let challenge = Challenge {
        node: node(),
        auditor: public(STEWARD),
        draw: DrawKind::Mixed,
        samples: 1024,
        set: SetTop { hash: [3; 32], bytes: u64::MAX, count: 1 << 32 },
        nonce_hash: nonce_hash(&[4; 32]),
        issued_at: NOW,
        beacon: Some(BeaconRound { beacon: [5; 32], round: u64::MAX }),
    };
    Signed::sign(challenge, &key(STEWARD))
}

fn slot() -> Signed<Slot> {
    let slot = Slot {
        node: node(),
        challenge_hash: challenge().body_hash(),
        refused: None,
        class: AuditClass::SolidState,
        issued_at: NOW,
        until: NOW.after(AUDIT_SLOT_LIFE),
        retry_after_ms: 0,
    };
    Signed::sign(slot, &key(NODE))
}

fn reveal() -> Signed<Reveal> {
    let reveal = Reveal {
        node: node(),
        auditor: public(STEWARD),
        slot_hash: slot().body_hash(),
        nonce: [4; 32],
        beacon_value: Bytes::from(vec![7; 96]),
        asked_at: NOW,
        attempt: 3,
    };
    Signed::sign(reveal, &key(STEWARD))
}

fn proof() -> Signed<Proof> {
    let codes = [Ok(()), Err(ErrorCode::NotHeld), Err(ErrorCode::Damaged)];
    let proof = Proof {
        node: node(),
        reveal_hash: reveal().body_hash(),
        answered_at: NOW,
        payload_hash: [8; 32],
        payload_bytes: AUDIT_PAYLOAD_MAX_BYTES as u64,
        codes: codes.into_iter().cycle().take(1024).collect(),
    };
    Signed::sign(proof, &key(NODE))
}

fn close() -> Signed<Close> {
    let close = Close {
        node: node(),
        auditor: public(STEWARD),
        last_hash: proof().body_hash(),
        outcome: Outcome::NotHeld,
        received_at: NOW,
        asked: 1024,
        failed: 682,
    };
    Signed::sign(close, &key(STEWARD))
}

fn requests() -> Vec<Request> {
    vec![
        Request::Describe,
        Request::Put(Box::new(put_by_owner())),
        Request::Put(Box::new(put_by_steward(terms(), grant()))),
        Request::Get(GetRequest {
            root: root(1),
            length_bytes: 4096,
            offset_bytes: 96,
            count_bytes: 4000,
            proof: true,
        }),
        Request::Stat((0..ROOTS_PER_CALL_MAX).map(root).collect()),
        Request::Renew(Box::new(RenewRequest {
            body: Signed::sign(renewal(STEWARD), &key(STEWARD)),
            grant: Some(Signed::sign(grant(), &key(ACCOUNT))),
        })),
        Request::Delete(DeleteRequest { body: Signed::sign(deletion(ROOTS_PER_CALL_MAX), &key(DELETE)) }),
        Request::List(ListRequest {
            body: Signed::sign(
                ListBody {
                    node: node(),
                    account: AccountId::new(public(ACCOUNT)),
                    issued_at: NOW,
                    after_root: Some(root(3)),
                },
                &key(ACCOUNT),
            ),
        }),
        Request::Prove(Box::new(ProveRequest::Challenge(Box::new(challenge())))),
        Request::Prove(Box::new(ProveRequest::Reveal(Box::new(RevealStep {
            challenge: challenge(),
            slot: slot(),
            reveal: reveal(),
            set_bytes: crate::limits::AUDIT_TREE_MAX_BYTES as u64,
        })))),
        Request::Prove(Box::new(ProveRequest::Close(Box::new(CloseStep {
            challenge: challenge(),
            slot: slot(),
            reveal: Some(reveal()),
            close: close(),
        })))),
        Request::PutHead(PutHeadRequest {
            point: Point::new([1; 32]),
            head: Bytes::from_static(b"a head"),
            until: NOW,
        }),
        Request::GetHead(GetHeadRequest { point: Point::new([1; 32]), key: None }),
        Request::GetHead(GetHeadRequest { point: Point::new([1; 32]), key: Some([2; 32]) }),
        Request::Moved((0..MOVED_RECEIPTS_MAX).map(|_| KeptReceipt::of_renewal(&renew_receipt(1))).collect()),
        Request::Moved(vec![KeptReceipt::of_renewal(&renew_receipt(OVERLAY_RENEWAL_SHARDS_MAX))]),
    ]
}

fn renew_receipt(count: usize) -> Signed<RenewReceipt> {
    let receipt = RenewReceipt {
        node: node(),
        account: AccountId::new(public(ACCOUNT)),
        until: NOW.after(LEASE_MAX),
        issued_at: NOW,
        shards: (0..count).map(|number| (root(number), SHARD_MAX_BYTES as u64)).collect(),
    };
    Signed::sign(receipt, &key(NODE))
}

fn replies() -> Vec<Reply> {
    let status = ShardStatus { length_bytes: SHARD_MAX_BYTES as u64, until: Timestamp::from_unix_ms(u64::MAX) };
    let lease = LeaseItem { root: root(1), length_bytes: 1, until: NOW };
    vec![
        Reply::Error(WireError::new(ErrorCode::Busy, "later").with_retry_after(Duration::from_secs(2))),
        Reply::Describe(Box::new(DescribeReply {
            protocol_min: 1,
            protocol_max: 2,
            software: "dolmen 0.1.0".into(),
            suites: vec![1],
            now: NOW,
            shard_max_bytes: 1 << 20,
            lease_max_ms: 1 << 40,
            free_class: 63,
            accepting: Accepting::All,
            record: Some(Signed::sign(record(), &key(NODE))),
            audit_samples_per_hour: 1800,
            audit_class: AuditClass::SolidState,
            leaving_until: Some(NOW),
        })),
        Reply::Prove(ProveReply::Slot(slot())),
        Reply::Prove(ProveReply::Proof(Box::new(proof()))),
        Reply::Prove(ProveReply::Noted),
        Reply::Put(Box::new(Signed::sign(Receipt::for_terms(&terms(), NOW), &key(NODE)))),
        Reply::Get(GetReply { length_bytes: 4096, payload_bytes: 4000 }),
        Reply::Stat([Ok(status), Err(ErrorCode::NotHeld)].into_iter().cycle().take(ROOTS_PER_CALL_MAX).collect()),
        Reply::Renew(Box::new(RenewReply {
            codes: vec![Ok(()); ROOTS_PER_CALL_MAX],
            receipt: Some(renew_receipt(ROOTS_PER_CALL_MAX)),
        })),
        Reply::Renew(Box::new(RenewReply { codes: vec![Err(ErrorCode::Other(499))], receipt: None })),
        Reply::Delete(vec![Ok(()), Err(ErrorCode::Unauthorised)]),
        Reply::List(ListReply { leases: vec![lease; LEASES_PER_LIST_MAX], more: true }),
        Reply::PutHead(PutHeadReply { accepted: false, current: Some(Bytes::from_static(b"another")) }),
        Reply::PutHead(PutHeadReply { accepted: true, current: None }),
        Reply::GetHead(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]),
        Reply::Moved((0..MOVED_RECEIPTS_MAX).map(|_| Err(ErrorCode::Expired)).collect()),
    ]
}

fn header(frame: &[u8]) -> Bytes {
    let (length, header) = frame.split_first_chunk::<LENGTH_BYTES>().expect("a frame has a length");
    assert_eq!(decode_length(*length), Ok(header.len()));
    Bytes::copy_from_slice(header)
}

#[test]
fn every_call_and_every_answer_round_trips_even_when_full() {
    for request in requests() {
        let frame = encode_request(&request).expect("it fits a header");
        assert_eq!(parse_request(header(&frame)).as_ref(), Ok(&request));
    }
    for reply in replies() {
        let frame = encode_reply(&reply).expect("it fits a header");
        assert_eq!(parse_reply(header(&frame)).as_ref(), Ok(&reply));
    }
}

#[test]
fn a_header_over_the_maximum_is_refused_before_it_is_read_and_never_written() {
    let length = u32::try_from(WIRE_HEADER_MAX_BYTES).expect("it is small");
    assert_eq!(decode_length(length.to_le_bytes()), Ok(WIRE_HEADER_MAX_BYTES));
    assert_eq!(code(decode_length((length + 1).to_le_bytes())), Some(ErrorCode::TooLarge));
    let huge = Request::Stat((0..3000).map(root).collect());
    assert_eq!(code(encode_request(&huge)), Some(ErrorCode::TooLarge));
    assert_eq!(code(parse_request(Bytes::from(vec![0; WIRE_HEADER_MAX_BYTES + 1]))), Some(ErrorCode::TooLarge));
}

#[test]
fn an_unknown_call_is_unsupported_and_another_version_is_not_spoken() {
    let newer = |call: &[u8]| Bytes::from([call, &[0x78, 1]].concat());
    // Field 14 is nobody's yet.
    assert_eq!(code(parse_request(newer(&[0x72, 2, 8, 1]))), Some(ErrorCode::Unsupported));
    let describe = |protocol| {
        let call = Some(messages::request::Call::Describe(messages::DescribeRequest {}));
        Bytes::from(messages::Request { call, protocol }.encode_to_vec())
    };
    assert_eq!(parse_request(describe(1)), Ok(Request::Describe));
    assert_eq!(code(parse_request(describe(0))), Some(ErrorCode::VersionNotSupported));
    assert_eq!(code(parse_request(describe(2))), Some(ErrorCode::VersionNotSupported));
}

#[test]
fn an_owner_may_put_at_the_node_and_time_that_he_signed_and_nobody_else_may() {
    let put = put_by_owner();
    assert_eq!(put.verify(&node(), NOW), Ok(&terms()));
    assert_eq!(code(put.verify(&NodeId::new([9; 32]), NOW)), Some(ErrorCode::Unauthorised));
    let late = REQUEST_LIFE + Duration::from_millis(1);
    assert_eq!(code(put.verify(&node(), NOW.after(late))), Some(ErrorCode::ClockSkew));
    assert_eq!(code(put.verify(&node(), NOW.before(late))), Some(ErrorCode::ClockSkew));
    assert!(
        put.verify(&node(), NOW.after(REQUEST_LIFE)).is_ok() && put.verify(&node(), NOW.before(REQUEST_LIFE)).is_ok()
    );
    for other in [NODE, STEWARD, DELETE, RENEW] {
        let forged = PutRequest { lease: Signed::sign(terms(), &key(other)), grant: None };
        assert_eq!(code(forged.verify(&node(), NOW)), Some(ErrorCode::Unauthorised));
    }
    let put_until = |until| {
        let lease = Signed::sign(LeaseTerms { until, ..terms() }, &key(ACCOUNT));
        code(PutRequest { lease, grant: None }.verify(&node(), NOW))
    };
    assert_eq!(put_until(NOW), Some(ErrorCode::Expired));
    assert_eq!(put_until(NOW.after(LEASE_MAX)), None);
    assert_eq!(put_until(NOW.after(LEASE_MAX * 2)), Some(ErrorCode::LeaseTooLong));
}

#[test]
fn a_steward_may_do_what_the_grant_says_until_it_ends() {
    let verify = |terms: LeaseTerms, grant: StewardGrant| code(put_by_steward(terms, grant).verify(&node(), NOW));
    assert_eq!(verify(terms(), grant()), None);
    let rights = GrantRights { put: false, renew: true };
    assert_eq!(verify(terms(), StewardGrant { rights, ..grant() }), Some(ErrorCode::Unauthorised));
    assert_eq!(verify(terms(), StewardGrant { node: NodeId::new([9; 32]), ..grant() }), Some(ErrorCode::Unauthorised));
    assert_eq!(verify(terms(), StewardGrant { steward: public(9), ..grant() }), Some(ErrorCode::Unauthorised));
    assert_eq!(verify(terms(), StewardGrant { until: NOW, ..grant() }), Some(ErrorCode::Expired));
    let long = LeaseTerms { until: grant().until.after(Duration::from_millis(1)), ..terms() };
    assert_eq!(verify(long, grant()), Some(ErrorCode::LeaseTooLong));
    let other = LeaseTerms { account: AccountId::new(public(9)), ..terms() };
    assert_eq!(verify(other, grant()), Some(ErrorCode::Unauthorised), "another account's quota");
    let own =
        PutRequest { lease: Signed::sign(terms(), &key(STEWARD)), grant: Some(Signed::sign(grant(), &key(STEWARD))) };
    assert_eq!(code(own.verify(&node(), NOW)), Some(ErrorCode::Unauthorised), "a grant that the steward made himself");
}

#[test]
fn renewing_wants_the_renew_key_or_a_grant_and_deleting_the_delete_key() {
    let by = |body: RenewBody, signer: u8, grant: Option<StewardGrant>| {
        let grant = grant.map(|grant| Signed::sign(grant, &key(ACCOUNT)));
        code(RenewRequest { body: Signed::sign(body, &key(signer)), grant }.verify(&node(), NOW))
    };
    assert_eq!(by(renewal(RENEW), RENEW, None), None);
    assert_eq!(by(renewal(RENEW), STEWARD, None), Some(ErrorCode::Unauthorised));
    assert_eq!(by(renewal(STEWARD), STEWARD, Some(grant())), None);
    assert_eq!(by(renewal(RENEW), RENEW, Some(grant())), Some(ErrorCode::Unauthorised), "not the grant's steward");
    let rights = GrantRights { put: true, renew: false };
    assert_eq!(by(renewal(STEWARD), STEWARD, Some(StewardGrant { rights, ..grant() })), Some(ErrorCode::Unauthorised));

    let delete = |signer: u8| DeleteRequest { body: Signed::sign(deletion(1), &key(signer)) };
    assert_eq!(delete(DELETE).verify(&node(), NOW), Ok(&deletion(1)));
    assert_eq!(code(delete(ACCOUNT).verify(&node(), NOW)), Some(ErrorCode::Unauthorised));
    assert_eq!(code(delete(DELETE).verify(&node(), NOW.after(REQUEST_LIFE * 2))), Some(ErrorCode::ClockSkew));
}

#[test]
fn a_receipt_is_believed_for_what_was_asked_and_from_who_was_asked() {
    let receipt = Receipt::for_terms(&terms(), NOW);
    let verify = |receipt: Receipt, signer: u8| code(Signed::sign(receipt, &key(signer)).verify(&terms(), NOW));
    assert_eq!(verify(receipt.clone(), NODE), None);
    assert_eq!(verify(receipt.clone(), ACCOUNT), Some(ErrorCode::Unauthorised));
    let longer = Receipt { until: terms().until.after(LEASE_INITIAL), ..receipt.clone() };
    assert_eq!(verify(longer, NODE), None, "an older lease of this account ends later");
    for wrong in [
        Receipt { root: root(2), ..receipt.clone() },
        Receipt { length_bytes: 1, ..receipt.clone() },
        Receipt { account: AccountId::new([9; 32]), ..receipt.clone() },
        Receipt { until: NOW, ..receipt.clone() },
        Receipt { node: NodeId::new(public(9)), ..receipt.clone() },
    ] {
        assert_eq!(verify(wrong, NODE), Some(ErrorCode::Malformed));
    }
    let skewed = Receipt { issued_at: NOW.after(CLOCK_SKEW_MAX * 2), ..receipt };
    assert_eq!(verify(skewed, NODE), Some(ErrorCode::ClockSkew));
}

#[test]
fn a_renewals_receipt_covers_exactly_what_was_renewed() {
    let asked = RenewBody { until: NOW.after(LEASE_MAX), roots: vec![root(0), root(1)], ..renewal(RENEW) };
    let receipt = renew_receipt(2);
    assert!(receipt.verify(&asked, &[root(0), root(1)], NOW).is_ok());
    assert_eq!(code(receipt.verify(&asked, &[root(0)], NOW)), Some(ErrorCode::Malformed));
    assert_eq!(code(receipt.verify(&asked, &[root(1), root(0)], NOW)), Some(ErrorCode::Malformed));
    let reply = RenewReply { codes: vec![Ok(()), Err(ErrorCode::NotHeld)], receipt: Some(receipt) };
    assert_eq!(reply.renewed(&asked.roots), [root(0)]);
    let frame = encode_reply(&Reply::Renew(Box::new(reply))).expect("it fits");
    assert_eq!(code(parse_reply(header(&frame))), Some(ErrorCode::Malformed), "two shards on it, one code of success");
}

#[test]
fn a_node_record_is_believed_while_it_lives() {
    let verify = |record: NodeRecord, now| code(Signed::sign(record, &key(NODE)).verify(now));
    assert_eq!(verify(record(), NOW), None);
    assert_eq!(verify(record(), NOW.after(NODE_RECORD_LIFE_MAX + CLOCK_SKEW_MAX)), Some(ErrorCode::Expired));
    assert_eq!(verify(record(), NOW.before(CLOCK_SKEW_MAX * 2)), Some(ErrorCode::ClockSkew));
    let eternal = NodeRecord { expires_at: NOW.after(NODE_RECORD_LIFE_MAX * 2), ..record() };
    assert_eq!(verify(eternal, NOW), Some(ErrorCode::Malformed));
    let stillborn = NodeRecord { expires_at: NOW, ..record() };
    assert_eq!(verify(stillborn, NOW), Some(ErrorCode::Malformed));
    let stolen = OperatorClaim::sign(&key(20), &NodeId::new([9; 32]));
    assert_eq!(verify(NodeRecord { operator: Some(stolen), ..record() }, NOW), Some(ErrorCode::Unauthorised));
    let unwilling = Successor { node: NodeId::new(public(22)), ..Successor::sign(&key(21), &node()) };
    assert_eq!(verify(NodeRecord { successor: Some(unwilling), ..record() }, NOW), Some(ErrorCode::Unauthorised));
    assert_eq!(code(Signed::sign(record(), &key(9)).verify(NOW)), Some(ErrorCode::Unauthorised));
}

#[test]
fn a_newer_record_of_the_same_node_supersedes() {
    let newer = NodeRecord { sequence: 13, ..record() };
    assert!(newer.supersedes(&record()) && !record().supersedes(&newer) && !record().supersedes(&record()));
    assert!(!NodeRecord { node: NodeId::new([9; 32]), ..newer }.supersedes(&record()));
}

#[test]
fn a_statement_that_needs_a_newer_release_is_refused() {
    let body = messages::Receipt { needs: 4, ..Receipt::for_terms(&terms(), NOW).to_message() }.encode_to_vec();
    let signature = crate::sign::sign(crate::sign::SignatureKind::Receipt, &key(NODE), &body);
    let signed = messages::Signed { body: body.into(), signature: Bytes::copy_from_slice(&signature) };
    let decoded = Signed::<Receipt>::decode(signed.encode_to_vec().into());
    assert_eq!(code(decoded), Some(ErrorCode::Unsupported));
}

#[test]
fn fields_that_nobody_knows_are_ignored_and_what_was_signed_stays_as_received() {
    let mut body = Receipt::for_terms(&terms(), NOW).to_message().encode_to_vec();
    body.extend([0xfa, 0x7f, 3, 1, 2, 3]); // field 2047, three bytes
    let signature = crate::sign::sign(crate::sign::SignatureKind::Receipt, &key(NODE), &body);
    let signed = messages::Signed { body: body.clone().into(), signature: Bytes::copy_from_slice(&signature) };
    let encoded = signed.encode_to_vec();
    let decoded = Signed::<Receipt>::decode(encoded.clone().into()).expect("it is only newer");
    assert_eq!(decoded.verify(&terms(), NOW), Ok(&Receipt::for_terms(&terms(), NOW)));
    assert_eq!((decoded.body().as_ref(), decoded.encode()), (body.as_slice(), encoded));
}

#[test]
fn an_answer_that_does_not_answer_the_call_is_refused() {
    let get = |proof| GetRequest { root: root(1), length_bytes: 65_536, offset_bytes: 20_000, count_bytes: 10, proof };
    let got = |payload_bytes| Reply::Get(GetReply { length_bytes: 65_536, payload_bytes });
    assert!(Request::Get(get(false)).check_reply(&got(10)).is_ok());
    assert!(Request::Get(get(false)).check_reply(&got(11)).is_err());
    // One group of 16 KiB and the two pairs of hashes above it.
    assert_eq!(get(true).reply_payload_bytes(), 16_384 + 2 * 64);
    assert!(Request::Get(get(true)).check_reply(&got(16_384 + 128)).is_ok());
    assert!(Request::Get(get(true)).check_reply(&got(16_384 + 127)).is_err());
    assert!(Request::Stat(vec![root(1)]).check_reply(&Reply::Stat(vec![Err(ErrorCode::NotHeld)])).is_ok());
    assert!(Request::Stat(vec![root(1)]).check_reply(&Reply::Stat(vec![])).is_err());
    assert!(Request::Describe.check_reply(&Reply::GetHead(vec![])).is_err());
    let moved = Request::Moved(vec![KeptReceipt::of_renewal(&renew_receipt(1))]);
    assert!(moved.check_reply(&Reply::Moved(vec![Ok(())])).is_ok());
    assert!(moved.check_reply(&Reply::Moved(vec![])).is_err());
    assert!(moved.check_reply(&Reply::Delete(vec![Ok(())])).is_err());
    assert!(Request::Describe.check_reply(&Reply::Error(WireError::new(ErrorCode::Busy, ""))).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_make_parsing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let bytes = Bytes::from(bytes);
        let _ = parse_request(bytes.clone());
        let _ = parse_reply(bytes.clone());
        let _ = Signed::<LeaseTerms>::decode(bytes.clone());
        let _ = Signed::<NodeRecord>::decode(bytes);
    }

    #[test]
    fn no_change_of_a_valid_header_makes_parsing_panic(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        byte: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let requests = requests();
        let mut bytes = header(&encode_request(which.get(&requests)).expect("it fits")).to_vec();
        let at = place.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(request) = parse_request(bytes.into()) {
            let frame = encode_request(&request).expect("what was parsed fits");
            prop_assert_eq!(parse_request(header(&frame)), Ok(request));
        }
        let replies = replies();
        let mut bytes = header(&encode_reply(which.get(&replies)).expect("it fits")).to_vec();
        let at = place.index(bytes.len());
        bytes[at] = byte;
        if let Ok(reply) = parse_reply(bytes.into()) {
            prop_assert!(encode_reply(&reply).is_ok());
        }
    }

    #[test]
    fn any_flipped_bit_of_a_signed_statement_is_noticed(place in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = Signed::sign(record(), &key(NODE)).encode();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let believed = Signed::<NodeRecord>::decode(bytes.into()).and_then(|record| record.verify(NOW).cloned());
        prop_assert!(believed.is_err());
    }
}
