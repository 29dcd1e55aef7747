//! Golden vectors of the wire: what is written today must be what was written at first, and what is broken must be
//! refused for the recorded reason.
//!
//! `tests/vectors/wire/` holds one JSON file a case: `header` is a request's or a reply's header, `signed` a signed
//! statement, both in hexadecimal. Cases with `error` must be refused with that code; their names say what is wrong.
//!
//! Files are recorded once: `DOLMEN_BLESS=1 cargo test -p dolmen-tests --test vectors_wire` writes those that are missing
//! and never changes one that is there. Deleting one on purpose is a change of the protocol.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use dolmen_proto::audit::{AuditClass, DrawKind, Outcome, SetTop, nonce_hash};
use dolmen_proto::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::limits;
use dolmen_proto::sign::{self, SignatureKind};
use dolmen_proto::wire::frame::{LENGTH_BYTES, encode_reply, encode_request, parse_reply, parse_request};
use dolmen_proto::wire::{
    Accepting, BeaconRound, Challenge, Close, CloseStep, DeleteBody, DeleteRequest, DescribeReply, ErrorCode,
    GetHeadRequest, GetReply, GetRequest, GrantRights, KeptReceipt, LeaseItem, LeaseTerms, ListBody, ListReply,
    ListRequest, NodeRecord, OperatorClaim, Proof, ProveReply, ProveRequest, PutHeadReply, PutHeadRequest, PutRequest,
    Receipt, Refusal, RenewBody, RenewReceipt, RenewReply, RenewRequest, Reply, Request, Reveal, RevealStep,
    ShardStatus, Signed, Slot, StewardGrant, Successor, WireError,
};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

/// 2026-01-01 00:00 UTC.
const NOW: Timestamp = Timestamp::from_unix_ms(1_767_225_600_000);

const NODE: u8 = 1;
const ACCOUNT: u8 = 2;
const STEWARD: u8 = 3;
const DELETE: u8 = 4;
const RENEW: u8 = 5;
const OPERATOR: u8 = 6;
const SUCCESSOR: u8 = 7;

/// Ed25519 keys of the vectors: the seed is the number, 32 times over.
fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    key(number).verifying_key().to_bytes()
}

fn node() -> NodeId {
    NodeId::new(public(NODE))
}

fn account() -> AccountId {
    AccountId::new(public(ACCOUNT))
}

fn root(number: u8) -> ShardRoot {
    ShardRoot::new([0x10 + number; 32])
}

fn terms() -> LeaseTerms {
    LeaseTerms {
        node: node(),
        root: root(1),
        length_bytes: 16_384,
        account: account(),
        delete_key: public(DELETE),
        renew_key: public(RENEW),
        until: NOW.after(limits::LEASE_INITIAL),
        issued_at: NOW,
    }
}

fn grant() -> StewardGrant {
    StewardGrant {
        account: account(),
        steward: public(STEWARD),
        node: node(),
        rights: GrantRights { put: true, renew: true },
        quota_bytes: 1 << 40,
        until: NOW.after(limits::LEASE_DEFAULT),
    }
}

fn renewal(signer: u8) -> RenewBody {
    RenewBody {
        node: node(),
        account: account(),
        signer: public(signer),
        issued_at: NOW,
        until: NOW.after(limits::LEASE_DEFAULT),
        roots: vec![root(1), root(2)],
    }
}

fn deletion() -> DeleteBody {
    DeleteBody { node: node(), account: account(), signer: public(DELETE), issued_at: NOW, roots: vec![root(1)] }
}

fn listing(after_root: Option<ShardRoot>) -> ListBody {
    ListBody { node: node(), account: account(), issued_at: NOW, after_root }
}

fn record() -> NodeRecord {
    NodeRecord {
        node: node(),
        sequence: 7,
        control_addresses: vec!["/ip4/203.0.113.7/udp/4710/quic-v1".into()],
        data_addresses: vec![([203, 0, 113, 7], 4711).into(), "[2001:db8::1]:4711".parse().expect("an address")],
        operator: Some(OperatorClaim::sign(&key(OPERATOR), &node())),
        region: Some("eu-de-ber".parse().expect("a region")),
        accepting: Accepting::All,
        free_class: 40,
        protocol_min: 1,
        protocol_max: 1,
        software: "dolmen 0.1.0".into(),
        issued_at: NOW,
        expires_at: NOW.after(limits::NODE_RECORD_LIFE_MAX),
        successor: Some(Successor::sign(&key(SUCCESSOR), &node())),
    }
}

fn renew_receipt() -> RenewReceipt {
    RenewReceipt {
        node: node(),
        account: account(),
        until: NOW.after(limits::LEASE_DEFAULT),
        issued_at: NOW,
        shards: vec![(root(1), 16_384)],
    }
}

fn kept_of_put() -> KeptReceipt {
    KeptReceipt::of_put(&Signed::sign(Receipt::for_terms(&terms(), NOW), &key(NODE)))
}

fn kept_of_renewal() -> KeptReceipt {
    KeptReceipt::of_renewal(&Signed::sign(renew_receipt(), &key(NODE)))
}

fn challenge() -> Signed<Challenge> {
    let challenge = Challenge {
        node: node(),
        auditor: public(STEWARD),
        draw: DrawKind::Mixed,
        samples: 64,
        set: SetTop { hash: [0x33; 32], bytes: 1_000_000, count: 100 },
        nonce_hash: nonce_hash(&[0x44; 32]),
        issued_at: NOW,
        beacon: Some(BeaconRound { beacon: [0x55; 32], round: 1234 }),
    };
    Signed::sign(challenge, &key(STEWARD))
}

fn slot(refused: Option<Refusal>) -> Signed<Slot> {
    let slot = Slot {
        node: node(),
        challenge_hash: challenge().body_hash(),
        refused,
        class: AuditClass::SolidState,
        issued_at: NOW,
        until: NOW.after(limits::AUDIT_SLOT_LIFE),
        retry_after_ms: if refused.is_some() { 60_000 } else { 0 },
    };
    Signed::sign(slot, &key(NODE))
}

fn reveal() -> Signed<Reveal> {
    let reveal = Reveal {
        node: node(),
        auditor: public(STEWARD),
        slot_hash: slot(None).body_hash(),
        nonce: [0x44; 32],
        beacon_value: Bytes::from_static(b"what the beacon said"),
        asked_at: NOW,
        attempt: 1,
    };
    Signed::sign(reveal, &key(STEWARD))
}

fn proof() -> Signed<Proof> {
    let proof = Proof {
        node: node(),
        reveal_hash: reveal().body_hash(),
        answered_at: NOW,
        payload_hash: [0x66; 32],
        payload_bytes: 2_000,
        codes: vec![Ok(()), Err(ErrorCode::NotHeld)],
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
        asked: 2,
        failed: 1,
    };
    Signed::sign(close, &key(STEWARD))
}

fn requests() -> Vec<(&'static str, Request)> {
    let signed_grant = || Some(Signed::sign(grant(), &key(ACCOUNT)));
    let get =
        GetRequest { root: root(1), length_bytes: 65_536, offset_bytes: 20_000, count_bytes: 1_000, proof: false };
    let point = Point::new([0x77; 32]);
    let list = |after| Request::List(ListRequest { body: Signed::sign(listing(after), &key(ACCOUNT)) });
    let head = Bytes::from_static(b"stands for a signed head");
    vec![
        ("describe", Request::Describe),
        ("put", Request::Put(Box::new(PutRequest { lease: Signed::sign(terms(), &key(ACCOUNT)), grant: None }))),
        (
            "put_by_a_steward",
            Request::Put(Box::new(PutRequest { lease: Signed::sign(terms(), &key(STEWARD)), grant: signed_grant() })),
        ),
        ("get", Request::Get(get)),
        ("get_with_proof", Request::Get(GetRequest { proof: true, ..get })),
        ("stat", Request::Stat(vec![root(1), root(2)])),
        (
            "renew",
            Request::Renew(Box::new(RenewRequest { body: Signed::sign(renewal(RENEW), &key(RENEW)), grant: None })),
        ),
        (
            "renew_by_a_steward",
            Request::Renew(Box::new(RenewRequest {
                body: Signed::sign(renewal(STEWARD), &key(STEWARD)),
                grant: signed_grant(),
            })),
        ),
        ("delete", Request::Delete(DeleteRequest { body: Signed::sign(deletion(), &key(DELETE)) })),
        ("list", list(None)),
        ("list_on", list(Some(root(1)))),
        ("prove_challenge", Request::Prove(Box::new(ProveRequest::Challenge(Box::new(challenge()))))),
        (
            "prove_reveal",
            Request::Prove(Box::new(ProveRequest::Reveal(Box::new(RevealStep {
                challenge: challenge(),
                slot: slot(None),
                reveal: reveal(),
                set_bytes: 1_000,
            })))),
        ),
        (
            "prove_close",
            Request::Prove(Box::new(ProveRequest::Close(Box::new(CloseStep {
                challenge: challenge(),
                slot: slot(None),
                reveal: Some(reveal()),
                close: close(),
            })))),
        ),
        ("put_head", Request::PutHead(PutHeadRequest { point, head, until: NOW.after(limits::LEASE_DEFAULT) })),
        ("get_head", Request::GetHead(GetHeadRequest { point, key: None })),
        ("get_head_of_a_key", Request::GetHead(GetHeadRequest { point, key: Some(public(9)) })),
        ("moved", Request::Moved(vec![kept_of_put(), kept_of_renewal()])),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let lease = LeaseItem { root: root(1), length_bytes: 16_384, until: NOW };
    let held = ShardStatus { length_bytes: 16_384, until: NOW };
    let other = Bytes::from_static(b"stands for another head");
    vec![
        ("error", Reply::Error(WireError::new(ErrorCode::NotHeld, "no such shard"))),
        (
            "error_busy",
            Reply::Error(WireError::new(ErrorCode::Busy, "later").with_retry_after(Duration::from_millis(1500))),
        ),
        ("error_of_a_newer_release", Reply::Error(WireError::new(ErrorCode::from_number(299), "a reason yet unknown"))),
        (
            "describe",
            Reply::Describe(Box::new(DescribeReply {
                protocol_min: 1,
                protocol_max: 1,
                software: "dolmen 0.1.0".into(),
                suites: vec![1],
                now: NOW,
                shard_max_bytes: limits::SHARD_MAX_BYTES as u64,
                lease_max_ms: 69_120_000_000,
                free_class: 40,
                accepting: Accepting::RenewOnly,
                record: Some(Signed::sign(record(), &key(NODE))),
                audit_samples_per_hour: 0,
                audit_class: AuditClass::Spinning,
                leaving_until: None,
            })),
        ),
        (
            "describe_of_a_node_that_goes",
            Reply::Describe(Box::new(DescribeReply {
                protocol_min: 1,
                protocol_max: 1,
                software: "dolmen 0.1.0".into(),
                suites: vec![1],
                now: NOW,
                shard_max_bytes: limits::SHARD_MAX_BYTES as u64,
                lease_max_ms: 69_120_000_000,
                free_class: 40,
                accepting: Accepting::None,
                record: None,
                audit_samples_per_hour: 1800,
                audit_class: AuditClass::SolidState,
                leaving_until: Some(NOW.after(limits::LEASE_INITIAL)),
            })),
        ),
        ("prove_slot", Reply::Prove(ProveReply::Slot(slot(None)))),
        ("prove_slot_refused", Reply::Prove(ProveReply::Slot(slot(Some(Refusal::Budget))))),
        ("prove_proof", Reply::Prove(ProveReply::Proof(Box::new(proof())))),
        ("prove_noted", Reply::Prove(ProveReply::Noted)),
        ("put", Reply::Put(Box::new(Signed::sign(Receipt::for_terms(&terms(), NOW), &key(NODE))))),
        ("get", Reply::Get(GetReply { length_bytes: 65_536, payload_bytes: 1_000 })),
        ("stat", Reply::Stat(vec![Ok(held), Err(ErrorCode::NotHeld)])),
        (
            "renew",
            Reply::Renew(Box::new(RenewReply {
                codes: vec![Ok(()), Err(ErrorCode::NotHeld)],
                receipt: Some(Signed::sign(renew_receipt(), &key(NODE))),
            })),
        ),
        (
            "renew_of_nothing",
            Reply::Renew(Box::new(RenewReply { codes: vec![Err(ErrorCode::Unauthorised)], receipt: None })),
        ),
        ("delete", Reply::Delete(vec![Ok(()), Err(ErrorCode::Unauthorised)])),
        ("list", Reply::List(ListReply { leases: vec![lease], more: true })),
        ("put_head_accepted", Reply::PutHead(PutHeadReply { accepted: true, current: None })),
        ("put_head_lost", Reply::PutHead(PutHeadReply { accepted: false, current: Some(other.clone()) })),
        ("get_head", Reply::GetHead(vec![other])),
        ("get_head_nothing", Reply::GetHead(vec![])),
        ("moved", Reply::Moved(vec![Ok(()), Err(ErrorCode::Expired)])),
    ]
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

fn header(frame: Result<Vec<u8>, WireError>) -> Vec<u8> {
    frame.expect("it fits a header").split_off(LENGTH_BYTES)
}

/// Appends a field of bytes to a protobuf message; number under 16, length under 128.
fn with_field(message: &[u8], number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short field");
    [message, &[number << 3 | 2, length], bytes].concat()
}

fn request_header(name: &str) -> Vec<u8> {
    let (_, request) = requests().into_iter().find(|(known, _)| *known == name).expect("one of the cases");
    header(encode_request(&request))
}

fn reply_header(name: &str) -> Vec<u8> {
    let (_, reply) = replies().into_iter().find(|(known, _)| *known == name).expect("one of the cases");
    header(encode_reply(&reply))
}

/// Headers that must be refused; the name says why, a `reply_` one as a reply.
fn broken_headers() -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = request_header("get");
    flipped[1] ^= 1;
    let get = |length_bytes: u64, offset_bytes: u64, count_bytes: u64| {
        let get = GetRequest { root: root(1), length_bytes, offset_bytes, count_bytes, proof: false };
        header(encode_request(&Request::Get(get)))
    };
    let stat = |count: usize| header(encode_request(&Request::Stat((0..count).map(|_| root(1)).collect())));
    vec![
        ("request_empty", Vec::new()),
        ("request_prove_of_no_step", vec![0x42, 0x00, 0x78, 0x01]),
        ("request_of_an_unknown_call", vec![0x6a, 0x00, 0x78, 0x01]),
        ("request_without_a_version", vec![0x0a, 0x00]),
        ("request_of_version_two", vec![0x0a, 0x00, 0x78, 0x02]),
        ("request_cut_off", request_header("put")[..100].to_vec()),
        ("request_length_flipped", flipped),
        ("request_get_of_nothing", get(65_536, 20_000, 0)),
        ("request_get_beyond_the_shard", get(65_536, 65_000, 537)),
        ("request_get_beyond_all_numbers", get(65_536, u64::MAX, 2)),
        ("request_get_of_an_empty_shard", get(0, 0, 1)),
        ("request_get_of_a_huge_shard", get(limits::SHARD_MAX_BYTES as u64 + 1, 0, 1)),
        ("request_stat_of_nothing", vec![0x22, 0x00, 0x78, 0x01]),
        ("request_stat_of_1025_roots", stat(1025)),
        ("request_stat_of_a_short_root", [&[0x22, 0x21, 0x0a, 0x1f][..], &[7; 31], &[0x78, 0x01]].concat()),
        ("request_put_without_a_lease", vec![0x12, 0x00, 0x78, 0x01]),
        ("request_put_head_empty", [&[0x4a, 0x22, 0x0a, 0x20][..], &[7; 32], &[0x78, 0x01]].concat()),
        ("request_moved_without_a_receipt", vec![0x5a, 0x00, 0x78, 0x01]),
        ("request_moved_with_an_empty_receipt", vec![0x5a, 0x02, 0x0a, 0x00, 0x78, 0x01]),
        ("request_moved_with_a_receipt_of_an_unknown_kind", vec![0x5a, 0x03, 0x0a, 0x01, 0x03, 0x78, 0x01]),
        ("request_moved_with_129_receipts", {
            header(encode_request(&Request::Moved((0..129).map(|_| kept_of_put()).collect())))
        }),
        ("reply_empty", Vec::new()),
        ("reply_error_of_code_zero", vec![0x0a, 0x02, 0x08, 0x00]),
        ("reply_cut_off", reply_header("put")[..60].to_vec()),
        ("reply_renewed_without_a_receipt", vec![0x32, 0x03, 0x0a, 0x01, 0x00]),
        ("reply_more_after_an_empty_page", vec![0x42, 0x02, 0x10, 0x01]),
    ]
}

/// Signs bytes that no typed statement would be.
fn signed_bytes(kind: SignatureKind, signer: u8, body: &[u8]) -> Vec<u8> {
    let mut signed = vec![0x0a];
    let mut length = body.len();
    while length > 127 {
        signed.push(u8::try_from(length & 127 | 128).expect("a byte"));
        length >>= 7;
    }
    signed.push(u8::try_from(length).expect("a byte"));
    signed.extend(body);
    signed.extend([0x12, 0x40]);
    signed.extend(sign::sign(kind, &key(signer), body));
    signed
}

/// A case of a signed statement: its bytes, and what its verification at [`NOW`] comes to.
struct SignedCase {
    name: &'static str,
    bytes: Vec<u8>,
    result: Result<(), WireError>,
}

fn believe_record(bytes: &[u8], now: Timestamp) -> Result<(), WireError> {
    Signed::<NodeRecord>::decode(Bytes::copy_from_slice(bytes))?.verify(now).map(|_| ())
}

fn believe_receipt(bytes: &[u8]) -> Result<(), WireError> {
    Signed::<Receipt>::decode(Bytes::copy_from_slice(bytes))?.verify(&terms(), NOW).map(|_| ())
}

fn signed_cases() -> Vec<SignedCase> {
    let sign_record = |record: NodeRecord| Signed::sign(record, &key(NODE)).encode();
    let good = sign_record(record());
    let mut flipped_body = good.clone();
    flipped_body[40] ^= 1;
    let mut flipped_signature = good.clone();
    *flipped_signature.last_mut().expect("it is not empty") ^= 1;
    let body = Signed::sign(record(), &key(NODE)).body().to_vec();
    let other_node = NodeId::new(public(9));
    let hour = limits::NODE_RECORD_LIFE_MAX;
    let records = vec![
        ("record", good),
        ("record_flipped_body", flipped_body),
        ("record_flipped_signature", flipped_signature),
        ("record_signed_by_another", signed_bytes(SignatureKind::NodeRecord, 9, &body)),
        ("record_signed_as_a_receipt", signed_bytes(SignatureKind::Receipt, NODE, &body)),
        ("record_with_a_field_of_a_newer_release", {
            signed_bytes(SignatureKind::NodeRecord, NODE, &[&body[..], &[0x9a, 0x01, 0x02, 0xab, 0xcd]].concat())
        }),
        ("record_that_needs_a_newer_release", {
            signed_bytes(SignatureKind::NodeRecord, NODE, &[&body[..], &[0x90, 0x01, 0x01]].concat())
        }),
        ("record_of_version_two", {
            signed_bytes(SignatureKind::NodeRecord, NODE, &[&body[..], &[0x08, 0x02]].concat())
        }),
        (
            "record_expired",
            sign_record(NodeRecord { issued_at: NOW.before(hour * 3), expires_at: NOW.before(hour * 2), ..record() }),
        ),
        (
            "record_from_the_future",
            sign_record(NodeRecord { issued_at: NOW.after(hour), expires_at: NOW.after(hour * 2), ..record() }),
        ),
        ("record_that_lives_too_long", sign_record(NodeRecord { expires_at: NOW.after(hour * 2), ..record() })),
        ("record_with_a_stolen_operator", {
            sign_record(NodeRecord { operator: Some(OperatorClaim::sign(&key(OPERATOR), &other_node)), ..record() })
        }),
        ("record_with_a_successor_that_did_not_agree", {
            sign_record(NodeRecord { successor: Some(Successor::sign(&key(SUCCESSOR), &other_node)), ..record() })
        }),
        ("record_with_nine_addresses", {
            sign_record(NodeRecord { data_addresses: vec![([203, 0, 113, 7], 4711).into(); 9], ..record() })
        }),
        ("record_with_a_newline_in_its_software", sign_record(NodeRecord { software: "dolmen\n0".into(), ..record() })),
        ("record_with_a_control_address_that_is_none", {
            sign_record(NodeRecord { control_addresses: vec!["203.0.113.7".into()], ..record() })
        }),
        ("record_with_versions_in_disorder", sign_record(NodeRecord { protocol_min: 2, ..record() })),
    ];
    let receipt = Receipt::for_terms(&terms(), NOW);
    let sign_receipt = |receipt: Receipt| Signed::sign(receipt, &key(NODE)).encode();
    let receipts = vec![
        ("receipt", sign_receipt(receipt.clone())),
        ("receipt_by_another", Signed::sign(receipt.clone(), &key(9)).encode()),
        ("receipt_for_another_root", sign_receipt(Receipt { root: root(2), ..receipt.clone() })),
        ("receipt_for_another_length", sign_receipt(Receipt { length_bytes: 1024, ..receipt.clone() })),
        ("receipt_for_a_shorter_time", sign_receipt(Receipt { until: NOW, ..receipt.clone() })),
        ("receipt_by_a_wrong_clock", sign_receipt(Receipt { issued_at: NOW.after(hour), ..receipt.clone() })),
        ("receipt_of_an_empty_shard", sign_receipt(Receipt { length_bytes: 0, ..receipt.clone() })),
        ("receipt_with_a_second_root", {
            let body = Signed::sign(receipt, &key(NODE)).body().to_vec();
            signed_bytes(SignatureKind::Receipt, NODE, &with_field(&body, 2, root(2).as_bytes()))
        }),
    ];
    let believed = records.into_iter().map(|(name, bytes)| {
        let result = believe_record(&bytes, NOW);
        SignedCase { name, bytes, result }
    });
    believed
        .chain(receipts.into_iter().map(|(name, bytes)| {
            let result = believe_receipt(&bytes);
            SignedCase { name, bytes, result }
        }))
        .collect()
}

/// Calls that parse and must not be granted at [`NOW`] by [`node`].
fn unauthorised_calls() -> Vec<(&'static str, Request, Result<(), WireError>)> {
    let put = |terms: LeaseTerms, signer: u8, grant: Option<(StewardGrant, u8)>| {
        let grant = grant.map(|(grant, signer)| Signed::sign(grant, &key(signer)));
        let put = PutRequest { lease: Signed::sign(terms, &key(signer)), grant };
        let result = put.verify(&node(), NOW).map(|_| ());
        (Request::Put(Box::new(put)), result)
    };
    let renew = |body: RenewBody, signer: u8, grant: Option<StewardGrant>| {
        let grant = grant.map(|grant| Signed::sign(grant, &key(ACCOUNT)));
        let renew = RenewRequest { body: Signed::sign(body, &key(signer)), grant };
        let result = renew.verify(&node(), NOW).map(|_| ());
        (Request::Renew(Box::new(renew)), result)
    };
    let delete = |body: DeleteBody, signer: u8| {
        let delete = DeleteRequest { body: Signed::sign(body, &key(signer)) };
        let result = delete.verify(&node(), NOW).map(|_| ());
        (Request::Delete(delete), result)
    };
    let long_ago = NOW.before(limits::REQUEST_LIFE * 2);
    let elsewhere = NodeId::new(public(9));
    let no_put = GrantRights { put: false, renew: true };
    let no_renew = GrantRights { put: true, renew: false };
    let cases = [
        ("put_signed_by_the_renew_key", put(terms(), RENEW, None)),
        ("put_for_another_node", put(LeaseTerms { node: elsewhere, ..terms() }, ACCOUNT, None)),
        ("put_signed_long_ago", put(LeaseTerms { issued_at: long_ago, ..terms() }, ACCOUNT, None)),
        ("put_of_a_lease_that_is_over", put(LeaseTerms { until: NOW, ..terms() }, ACCOUNT, None)),
        ("put_for_a_thousand_days", {
            put(LeaseTerms { until: NOW.after(Duration::from_secs(1000 * 86_400)), ..terms() }, ACCOUNT, None)
        }),
        ("put_by_a_steward_without_a_grant", put(terms(), STEWARD, None)),
        ("put_by_a_steward_who_granted_himself", put(terms(), STEWARD, Some((grant(), STEWARD)))),
        ("put_by_a_steward_who_may_only_renew", {
            put(terms(), STEWARD, Some((StewardGrant { rights: no_put, ..grant() }, ACCOUNT)))
        }),
        ("put_by_a_steward_after_the_grant", {
            put(terms(), STEWARD, Some((StewardGrant { until: NOW, ..grant() }, ACCOUNT)))
        }),
        ("put_by_a_steward_beyond_the_grant", {
            let until = NOW.after(limits::CLOCK_SKEW_MAX);
            put(terms(), STEWARD, Some((StewardGrant { until, ..grant() }, ACCOUNT)))
        }),
        ("put_by_a_steward_at_another_node", {
            put(terms(), STEWARD, Some((StewardGrant { node: elsewhere, ..grant() }, ACCOUNT)))
        }),
        ("renew_signed_by_another", renew(renewal(RENEW), STEWARD, None)),
        ("renew_by_a_steward_who_may_only_put", {
            renew(renewal(STEWARD), STEWARD, Some(StewardGrant { rights: no_renew, ..grant() }))
        }),
        ("renew_by_another_than_the_granted", renew(renewal(RENEW), RENEW, Some(grant()))),
        ("delete_signed_by_the_account", delete(deletion(), ACCOUNT)),
        ("delete_played_again", delete(DeleteBody { issued_at: long_ago, ..deletion() }, DELETE)),
        ("delete_for_another_node", delete(DeleteBody { node: elsewhere, ..deletion() }, DELETE)),
    ];
    cases.into_iter().map(|(name, (request, result))| (name, request, result)).collect()
}

fn error_json(error: &WireError) -> Value {
    json!({ "code": error.code().number(), "message": error.message() })
}

/// All cases as they are today.
fn today() -> BTreeMap<String, Value> {
    let mut cases = BTreeMap::new();
    let mut add = |name: String, value: Value| assert!(cases.insert(name.clone(), value).is_none(), "{name} twice");
    for (name, request) in requests() {
        let header = header(encode_request(&request));
        assert_eq!(parse_request(header.clone().into()).as_ref(), Ok(&request), "{name}");
        let payload = request.payload_bytes();
        add(format!("request_{name}"), json!({ "header": hex(header), "payload_bytes": payload }));
    }
    for (name, reply) in replies() {
        let header = header(encode_reply(&reply));
        assert_eq!(parse_reply(header.clone().into()).as_ref(), Ok(&reply), "{name}");
        let payload = reply.payload_bytes();
        add(format!("reply_{name}"), json!({ "header": hex(header), "payload_bytes": payload }));
    }
    for (name, header) in broken_headers() {
        let bytes = Bytes::from(header.clone());
        let refused =
            if name.starts_with("reply") { parse_reply(bytes).map(|_| ()) } else { parse_request(bytes).map(|_| ()) };
        let error = refused.expect_err(name);
        add(format!("broken_{name}"), json!({ "header": hex(header), "error": error_json(&error) }));
    }
    for case in signed_cases() {
        let mut value = json!({ "signed": hex(&case.bytes), "now_ms": NOW.as_unix_ms() });
        if let Err(error) = &case.result {
            value["error"] = error_json(error);
        }
        add(format!("signed_{}", case.name), value);
    }
    for (name, request, result) in unauthorised_calls() {
        let header = header(encode_request(&request));
        let error = result.expect_err(name);
        let value = json!({ "header": hex(header), "now_ms": NOW.as_unix_ms(), "error": error_json(&error) });
        add(format!("refused_{name}"), value);
    }
    cases
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/wire")
}

#[test]
fn the_wire_is_what_it_was() {
    let folder = folder();
    let bless = std::env::var_os("DOLMEN_BLESS").is_some();
    let today = today();
    if bless {
        std::fs::create_dir_all(&folder).expect("the folder can be made");
    }
    for (name, value) in &today {
        let path = folder.join(format!("{name}.json"));
        if bless && !path.exists() {
            let text = serde_json::to_string_pretty(value).expect("it is JSON");
            std::fs::write(&path, text + "\n").expect("the vector can be written");
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let recorded: Value = serde_json::from_str(&text).expect("a vector is JSON");
        // Messages are for people and may change; numbers may not.
        let numbers = |value: &Value| {
            let mut value = value.clone();
            if let Some(error) = value.get_mut("error").and_then(Value::as_object_mut) {
                error.remove("message");
            }
            value
        };
        assert_eq!(numbers(&recorded), numbers(value), "{name}");
    }
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let known: Vec<String> = today.keys().map(|name| format!("{name}.json")).collect();
    assert_eq!(files, known, "every file is a case, and every case has a file");
}

#[test]
fn the_broken_are_refused_for_the_reason_in_their_name() {
    let today = today();
    let code = |name: &str| today[name]["error"]["code"].as_u64();
    for (name, expected) in [
        ("broken_request_empty", Some(106)),
        ("broken_request_prove_of_no_step", Some(101)),
        ("broken_request_of_an_unknown_call", Some(103)),
        ("broken_request_without_a_version", Some(106)),
        ("broken_request_of_version_two", Some(106)),
        ("broken_request_get_of_nothing", Some(101)),
        ("broken_request_get_beyond_the_shard", Some(101)),
        ("broken_request_get_of_a_huge_shard", Some(102)),
        ("broken_request_stat_of_1025_roots", Some(102)),
        ("broken_request_stat_of_a_short_root", Some(101)),
        ("broken_reply_renewed_without_a_receipt", Some(101)),
        ("signed_record", None),
        ("signed_record_with_a_field_of_a_newer_release", None),
        ("signed_record_that_needs_a_newer_release", Some(103)),
        ("signed_record_of_version_two", Some(106)),
        ("signed_record_expired", Some(107)),
        ("signed_record_from_the_future", Some(406)),
        ("signed_record_with_a_stolen_operator", Some(401)),
        ("signed_record_signed_as_a_receipt", Some(401)),
        ("signed_receipt", None),
        ("signed_receipt_by_a_wrong_clock", Some(406)),
        ("signed_receipt_with_a_second_root", Some(101)),
        ("refused_put_of_a_lease_that_is_over", Some(107)),
        ("refused_put_for_a_thousand_days", Some(405)),
        ("refused_put_signed_long_ago", Some(406)),
        ("refused_delete_signed_by_the_account", Some(401)),
        ("refused_delete_played_again", Some(406)),
    ] {
        assert_eq!(code(name), expected, "{name}");
    }
}
