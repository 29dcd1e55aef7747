//! Tests of heads: who can write one, who can open one, which wins.

use core::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::codec::Extensions;
use crate::ids::{NodeId, SegmentId, ShardRoot, SnapshotId, Timestamp};
use crate::keys::{DatasetKeys, MaskKey, OverlayKeys, StewardKeys, VaultSecret, ViewKeys};
use crate::limits::{DOCUMENT_ADDRESSES_MAX, HEAD_SEQUENCE_LEAP_MAX};
use crate::link::{LinkSecret, StewardSecret};
use crate::policy::Policy;
use crate::seal::ChunkKey;
use crate::segment::{Geometry, SegmentNonce};
use crate::table::NodeEntry;
use crate::tree::{BlobPointer, CountedTree, SELF_SEGMENT};

fn keys() -> DatasetKeys {
    DatasetKeys::derive(&VaultSecret::new([1; 32]), 0)
}

fn location(n: u8, addresses: usize) -> TableLocation {
    let address = |port| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], port));
    let ports = (1..).take(addresses);
    let holders = (0..n)
        .map(|shard| Holder {
            root: ShardRoot::new([shard; 32]),
            node: Some(NodeEntry::new(NodeId::new([shard; 32]), ports.clone().map(address))),
        })
        .collect();
    let geometry = Geometry::for_payload(Policy::new(2, n).expect("legal"), 9000).expect("fits");
    let segment = PlacedSegment::new(geometry, SegmentNonce::new([3; 32]), holders).expect("n holders");
    TableLocation { segment, key: ChunkKey::new([4; 32]), offset: 0, length: 500 }
}

fn table_body() -> TableBody {
    TableBody { location: location(4, 1), extensions: Extensions::default() }
}

fn read_body(keys: &DatasetKeys) -> ReadBody {
    let segment = SegmentId::new([6; 32]);
    ReadBody {
        read_opening: keys.read_opening.clone(),
        table_secret: keys.table.clone(),
        mask_secret: keys.mask.clone(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        table: location(4, 1),
        snapshot: BlobPointer { key: ChunkKey::new([5; 32]), segment, offset: 0, length: 300 },
        snapshot_id: SnapshotId::new([7; 32]),
        created: Timestamp::from_unix_ms(1_790_000_000_000),
        history: None,
        owner_note: None,
        extensions: Extensions::default(),
    }
}

fn read_head(order: HeadOrder) -> Head {
    let keys = keys();
    Head::create_read(&keys.read, &keys.read_head, order, &read_body(&keys)).expect("writable")
}

fn table_head(sequence: u64, previous: HeadHash, offset: u32) -> Head {
    let keys = keys();
    let mut body = table_body();
    body.location.offset = offset;
    Head::create_table(&keys.table, &keys.table_head, HeadOrder { sequence, previous }, &body).expect("writable")
}

#[test]
fn what_was_written_reads_back_and_is_the_same_every_time() {
    let keys = keys();
    let head = read_head(HeadOrder::after(None));
    assert_eq!(Head::parse(head.bytes()), Ok(head.clone()));
    assert_eq!(head.open_read(&keys.read), Ok(read_body(&keys)));
    assert_eq!(read_head(HeadOrder::after(None)).bytes(), head.bytes(), "nothing is drawn");

    let key = keys.table_head.verifying_key().to_bytes();
    let head = table_head(1, NO_HEAD, 0);
    assert_eq!(head.open_table(&keys.table, &key), Ok(table_body()));
    assert_eq!(head.open_table(&keys.table, &[9; 32]), Err(HeadError::OtherKey));
}

#[test]
fn no_two_bodies_share_a_key() {
    let salt = |head: &Head| head.bytes()[73..105].to_vec();
    let first = read_head(HeadOrder::after(None));
    let second = read_head(HeadOrder::after(Some(&first)));
    assert_ne!(salt(&first), salt(&second), "the same body in another place");
    assert_ne!(salt(&table_head(1, NO_HEAD, 0)), salt(&table_head(1, NO_HEAD, 16)), "another body in the same place");
}

#[test]
fn a_reader_cannot_make_a_head() {
    let owner = keys();
    let reader_key = DatasetKeys::derive(&VaultSecret::new([66; 32]), 0).read_head;
    let body = read_body(&owner);
    let order = HeadOrder { sequence: 2, previous: read_head(HeadOrder::after(None)).hash() };
    assert_eq!(Head::create_read(&owner.read, &reader_key, order, &body), Err(HeadError::NotCommitted));
    // All that a reader knows: the link's secret, and so the seal; the opening, from the owner's head.
    let plain = body::encode_read(&body).expect("writable");
    let forged = Head::create(&ReadKeys::derive(&owner.read).seal, &reader_key, order, plain).expect("well formed");
    assert_eq!(forged.open_read(&owner.read), Err(HeadError::NotCommitted));
    let mut body = read_body(&owner);
    body.read_opening = crate::keys::ReadOpening::new([1; 32]);
    let plain = body::encode_read(&body).expect("writable");
    let forged = Head::create(&ReadKeys::derive(&owner.read).seal, &reader_key, order, plain).expect("well formed");
    assert_eq!(forged.open_read(&owner.read), Err(HeadError::NotCommitted));
}

#[test]
fn heads_of_others_do_not_open() {
    let other = DatasetKeys::derive(&VaultSecret::new([1; 32]), 1);
    let head = read_head(HeadOrder::after(None));
    assert_eq!(head.open_read(&other.read), Err(HeadError::Seal));
    let key = *head.public_key();
    assert_eq!(head.open_table(&keys().table, &key), Err(HeadError::Seal), "a read head is no table head");
}

#[test]
fn a_body_of_the_other_kind_is_refused() {
    let keys = keys();
    let plain = body::encode_table(&table_body()).expect("writable");
    let head = Head::create(&ReadKeys::derive(&keys.read).seal, &keys.read_head, HeadOrder::after(None), plain);
    let error = head.expect("well formed").open_read(&keys.read);
    assert_eq!(error, Err(HeadError::Kind { expected: 2, found: 1 }));
}

#[test]
fn a_body_under_a_salt_of_another_is_refused() {
    let keys = keys();
    let seal = ReadKeys::derive(&keys.read).seal;
    let mut bytes = read_head(HeadOrder::after(None)).bytes()[..PREFIX_BYTES].to_vec();
    bytes[73..105].fill(0xee);
    let mut sealed = body::encode_read(&read_body(&keys)).expect("writable").to_vec();
    cipher(&seal, &[0xee; 32]).encrypt_in_place(&Nonce::default(), &bytes, &mut sealed).expect("short");
    bytes.extend_from_slice(&sealed);
    let signature = sign(SignatureKind::Head, &keys.read_head, &bytes);
    bytes.extend_from_slice(&signature);
    let head = Head::parse(&bytes).expect("well formed and signed");
    assert_eq!(head.open_read(&keys.read), Err(HeadError::Salt));
}

#[test]
fn a_frozen_link_takes_the_first_head_only() {
    let read = keys().read;
    let link = |secret| Link::new(secret, Vec::new()).expect("writable");
    let first = read_head(HeadOrder::after(None));
    let second = read_head(HeadOrder::after(Some(&first)));
    let frozen = link(LinkSecret::ReadFrozen(read.clone()));
    let live = link(LinkSecret::ReadLive(read));
    assert!(first.open_link(&frozen).is_ok() && first.open_link(&live).is_ok() && second.open_link(&live).is_ok());
    assert_eq!(second.open_link(&frozen), Err(HeadError::Frozen(2)));
    let steward = link(LinkSecret::Steward(StewardSecret::new([1; 32])));
    assert_eq!(first.open_link(&steward), Err(HeadError::LinkKind(LinkKind::Steward)));
}

#[test]
fn the_largest_location_fits_and_is_bounded() {
    let keys = keys();
    let mut body = read_body(&keys);
    body.table = location(20, DOCUMENT_ADDRESSES_MAX);
    let head = Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &body).expect("fits");
    assert_eq!(head.open_read(&keys.read), Ok(body.clone()));
    body.extensions.insert(6, vec![0; HEAD_MAX_BYTES]).expect("a document could");
    let error = Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &body);
    assert!(matches!(error, Err(HeadError::Codec(CodecError::TooMuch { .. }))));
    let mut body = read_body(&keys);
    body.snapshot.segment = SELF_SEGMENT;
    let error = Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &body);
    assert!(matches!(error, Err(HeadError::Body(DocumentError::SelfPointer { .. }))));
}

fn history(segment: SegmentId) -> CountedTree {
    CountedTree { count: 12, root: BlobPointer { key: ChunkKey::new([8; 32]), segment, offset: 16_384, length: 90 } }
}

#[test]
fn history_and_note_stand_in_the_head_of_a_dataset() {
    let keys = keys();
    let note = OwnerNote {
        epoch: 0,
        name: "speech".to_owned(),
        ledger: None,
        sealing: None,
        extensions: Extensions::default(),
    };
    let body = ReadBody {
        table: location(20, DOCUMENT_ADDRESSES_MAX),
        history: Some(history(SegmentId::new([6; 32]))),
        owner_note: Some(note.seal(&keys.note).expect("fits")),
        ..read_body(&keys)
    };
    let create = |body: &ReadBody| Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), body);
    let head = create(&body).expect("the largest head fits");
    assert_eq!(head.open_read(&keys.read), Ok(body.clone()));

    let own = ReadBody { history: Some(history(SELF_SEGMENT)), ..body.clone() };
    assert!(matches!(create(&own), Err(HeadError::Body(DocumentError::SelfPointer { .. }))));
    let empty =
        ReadBody { history: Some(CountedTree { count: 0, ..history(SegmentId::new([6; 32])) }), ..body.clone() };
    assert!(matches!(create(&empty), Err(HeadError::Body(DocumentError::Empty { .. }))));
    for key in [2, 4] {
        let mut twice = body.clone();
        twice.extensions.insert(key, Vec::new()).expect("even");
        assert_eq!(create(&twice), Err(HeadError::Body(DocumentError::ReservedExtension { key })));
    }
}

#[test]
fn history_that_is_no_history_is_refused() {
    let keys = keys();
    let good = history(SegmentId::new([6; 32])).to_bytes();
    let own = history(SELF_SEGMENT).to_bytes();
    let zero = [&[0; 8][..], &good[8..]].concat();
    for (key, value) in [(2, own), (2, zero), (2, good[1..].to_vec()), (2, [&good[..], &[0]].concat()), (4, vec![0; 5])]
    {
        let mut body = read_body(&keys);
        body.extensions = Extensions::default().with_typed(key, Some(value)).expect("few");
        let mut plain = body::encode_read(&read_body(&keys)).expect("writable").to_vec();
        plain.truncate(plain.len() - 2);
        let mut writer = Writer::new();
        body.extensions.write(&mut writer);
        plain.extend(writer.into_bytes());
        assert!(matches!(body::decode_read(&plain), Err(HeadError::Body(_) | HeadError::Codec(_))), "extension {key}");
    }
}

fn view_body(keys: &DatasetKeys, number: u32) -> ViewBody {
    let read = read_body(keys);
    ViewBody {
        opening: keys.view(number).opening,
        table_mask: MaskKey::derive(&keys.mask, &read.table.segment.nonce()),
        table: read.table,
        snapshot: read.snapshot,
        snapshot_id: read.snapshot_id,
        created: read.created,
        extensions: Extensions::default(),
    }
}

fn view_head(number: u32) -> Head {
    let keys = keys();
    let view = keys.view(number);
    let body = view_body(&keys, number);
    Head::create_view(&view.secret, &view.head, HeadOrder::after(None), &body).expect("writable")
}

#[test]
fn a_view_opens_with_its_own_link_only() {
    let keys = keys();
    let head = view_head(1);
    let view = keys.view(1).secret;
    assert_eq!(head.open_view(&view), Ok(view_body(&keys, 1)));
    assert_eq!(view_head(1).bytes(), head.bytes(), "nothing is drawn");
    assert_eq!(head.open_view(&keys.view(2).secret), Err(HeadError::Seal));
    assert_eq!(head.open_read(&keys.read), Err(HeadError::Seal));
    assert_eq!(
        head.open_read(&ReadSecret::new(*view.expose())),
        Err(HeadError::Seal),
        "not by taking one for the other"
    );
    assert_eq!(head.open_table(&TableSecret::new(*view.expose()), head.public_key()), Err(HeadError::Seal));
    let link = Link::new(LinkSecret::View(view), Vec::new()).expect("writable");
    assert_eq!(head.open_link(&link), Err(HeadError::LinkKind(LinkKind::View)));
    assert_eq!(link.view_secret().map(|secret| head.open_view(secret)), Some(Ok(view_body(&keys, 1))));
}

#[test]
fn a_view_s_reader_cannot_make_its_head() {
    let keys = keys();
    let (view, other) = (keys.view(1), keys.view(2));
    let order = HeadOrder { sequence: 2, previous: view_head(1).hash() };
    let body = view_body(&keys, 1);
    assert_eq!(Head::create_view(&view.secret, &other.head, order, &body), Err(HeadError::NotCommitted));
    let seal = ViewKeys::derive(&view.secret).seal;
    let plain = || view::encode(&body).expect("writable");
    let forged = Head::create(&seal, &other.head, order, plain()).expect("well formed");
    assert_eq!(forged.open_view(&view.secret), Err(HeadError::NotCommitted));
    let read_plain = body::encode_read(&read_body(&keys)).expect("writable");
    let head = Head::create(&seal, &view.head, order, read_plain).expect("well formed");
    assert_eq!(head.open_view(&view.secret), Err(HeadError::Kind { expected: 3, found: 2 }));
    let head = Head::create(&ReadKeys::derive(&keys.read).seal, &keys.read_head, order, plain()).expect("well formed");
    assert_eq!(head.open_read(&keys.read), Err(HeadError::Kind { expected: 2, found: 3 }));
    let own = ViewBody { snapshot: BlobPointer { segment: SELF_SEGMENT, ..body.snapshot.clone() }, ..body.clone() };
    let error = Head::create_view(&view.secret, &view.head, order, &own);
    assert!(matches!(error, Err(HeadError::Body(DocumentError::SelfPointer { .. }))));
}

#[test]
fn the_first_head_replaces_nothing() {
    let keys = keys();
    for (sequence, previous) in [(0, NO_HEAD), (1, HeadHash::new([1; 32]))] {
        let order = HeadOrder { sequence, previous };
        let error = Head::create_table(&keys.table, &keys.table_head, order, &table_body());
        assert_eq!(error, Err(HeadError::Sequence(sequence)));
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    let good = read_head(HeadOrder::after(None));
    for place in 0..good.bytes().len() {
        for bit in 0..8 {
            let mut bytes = good.bytes().to_vec();
            bytes[place] ^= 1 << bit;
            assert!(Head::parse(&bytes).is_err(), "byte {place} bit {bit}");
        }
        assert!(Head::parse(&good.bytes()[..place]).is_err(), "cut at {place}");
    }
}

#[test]
fn one_head_wins_everywhere() {
    let first = table_head(1, NO_HEAD, 0);
    let second = table_head(2, first.hash(), 0);
    assert_eq!(accept(None, &second), Verdict::Accept { forked: false });
    assert_eq!(accept(Some(&first), &first), Verdict::Unchanged);
    assert_eq!(accept(Some(&first), &second), Verdict::Accept { forked: false });
    assert_eq!(accept(Some(&second), &first), Verdict::Refuse(Refusal::Older));
    assert!(second.supersedes(&first) && !first.supersedes(&second) && !first.supersedes(&first));

    let rival = table_head(2, first.hash(), 16);
    let (small, large) = if rival.hash() < second.hash() { (&rival, &second) } else { (&second, &rival) };
    assert_eq!(accept(Some(large), small), Verdict::Accept { forked: true });
    assert_eq!(accept(Some(small), large), Verdict::Refuse(Refusal::LosesFork));
    assert!(small.supersedes(large) && !large.supersedes(small));
    let third = table_head(3, large.hash(), 0);
    assert_eq!(accept(Some(small), &third), Verdict::Accept { forked: true }, "follows the one that lost");

    let far = table_head(2 + HEAD_SEQUENCE_LEAP_MAX, second.hash(), 0);
    assert_eq!(accept(Some(&second), &far), Verdict::Accept { forked: false });
    assert_eq!(accept(Some(&first), &far), Verdict::Refuse(Refusal::LeapsAhead));
    let other = read_head(HeadOrder::after(Some(&first)));
    assert_eq!(accept(Some(&first), &other), Verdict::Refuse(Refusal::OtherKey));
    assert!(!other.supersedes(&first));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(Head::parse(&bytes).is_err());
        prop_assert!(Head::parse(&[&[1][..], &bytes].concat()).is_err());
        let _ = (body::decode_read(&bytes), body::decode_table(&bytes), view::decode(&bytes));
    }

    #[test]
    fn damaged_bodies_have_one_encoding_or_none(place: prop::sample::Index, value: u8) {
        let mut plain = body::encode_read(&read_body(&keys())).expect("writable").to_vec();
        let place = place.index(plain.len());
        plain[place] = value;
        if let Ok(body) = body::decode_read(&plain) {
            prop_assert_eq!(&body::encode_read(&body).expect("was read")[..], &plain[..]);
        }
    }

    #[test]
    fn damaged_views_and_histories_have_one_encoding_or_none(place: prop::sample::Index, value: u8) {
        let keys = keys();
        let mut plain = view::encode(&view_body(&keys, 1)).expect("writable").to_vec();
        let at = place.index(plain.len());
        plain[at] = value;
        if let Ok(body) = view::decode(&plain) {
            prop_assert_eq!(&view::encode(&body).expect("was read")[..], &plain[..]);
        }
        let body = ReadBody { history: Some(history(SegmentId::new([6; 32]))), ..read_body(&keys) };
        let mut plain = body::encode_read(&body).expect("writable").to_vec();
        let at = place.index(plain.len());
        plain[at] = value;
        if let Ok(body) = body::decode_read(&plain) {
            prop_assert_eq!(&body::encode_read(&body).expect("was read")[..], &plain[..]);
        }
    }
}

fn steward_body(keys: &DatasetKeys, number: u32) -> StewardBody {
    StewardBody {
        opening: keys.steward(number).opening,
        table_secret: keys.table.clone(),
        mask_secret: keys.mask.clone(),
        read_locator: ReadKeys::derive(&keys.read).locator,
        read_head_key: keys.read_head.verifying_key().to_bytes(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        table: location(4, 1),
        grants: Some(history(SegmentId::new([6; 32]))),
        created: Timestamp::from_unix_ms(1_790_000_000_000),
        extensions: Extensions::default(),
    }
}

fn steward_head(number: u32) -> Head {
    let keys = keys();
    let steward = keys.steward(number);
    let body = steward_body(&keys, number);
    Head::create_steward(&steward.secret, &steward.head, HeadOrder::after(None), &body).expect("writable")
}

#[test]
fn a_steward_s_head_opens_with_his_link_only_and_is_made_by_the_owner_only() {
    let keys = keys();
    let head = steward_head(1);
    let (steward, other) = (keys.steward(1), keys.steward(2));
    assert_eq!(head.open_steward(&steward.secret), Ok(steward_body(&keys, 1)));
    assert_eq!(head.open_steward(&other.secret), Err(HeadError::Seal));
    assert_eq!(head.open_view(&crate::keys::ViewSecret::new(*steward.secret.expose())), Err(HeadError::Seal));
    assert_eq!(head.open_read(&ReadSecret::new(*steward.secret.expose())), Err(HeadError::Seal));
    let link = Link::new(LinkSecret::Steward(steward.secret.clone()), Vec::new()).expect("writable");
    assert_eq!(link.steward_secret(), Some(&steward.secret));
    assert_eq!(read_head(HeadOrder::after(None)).open_link(&link), Err(HeadError::LinkKind(LinkKind::Steward)));

    // He knows opening, seal and all secrets of the body, and can sign with keys of his own: none of it makes a head.
    let body = steward_body(&keys, 1);
    let order = HeadOrder { sequence: 2, previous: head.hash() };
    let own = StewardKeys::derive(&steward.secret).overlay;
    assert_eq!(Head::create_steward(&steward.secret, &own, order, &body), Err(HeadError::NotCommitted));
    let forged = Head::create(
        &StewardKeys::derive(&steward.secret).seal,
        &own,
        order,
        steward::encode_steward(&body).expect("writable"),
    );
    assert_eq!(forged.expect("a head like any").open_steward(&steward.secret), Err(HeadError::NotCommitted));
    let own_grants = StewardBody { grants: Some(history(SELF_SEGMENT)), ..body };
    assert!(matches!(
        Head::create_steward(&steward.secret, &steward.head, order, &own_grants),
        Err(HeadError::Body(_))
    ));
}

#[test]
fn an_overlay_s_head_is_its_steward_s_alone_and_opens_with_the_table_secret() {
    let keys = keys();
    let mine = StewardKeys::derive(&keys.steward(1).secret);
    let other = StewardKeys::derive(&keys.steward(2).secret);
    let body = OverlayBody { location: location(4, 1), extensions: Extensions::default() };
    let head = Head::create_overlay(&keys.table, &mine.overlay, HeadOrder::after(None), &body).expect("writable");
    assert_eq!(head.open_overlay(&keys.table, &mine.public_key()), Ok(body.clone()));
    assert_eq!(head.open_overlay(&keys.table, &other.public_key()), Err(HeadError::OtherKey));
    let later = keys.in_epoch(1);
    assert_eq!(head.open_overlay(&later.table, &mine.public_key()), Err(HeadError::Seal), "another epoch");
    // A steward who seals as the other one does not sign as he does.
    let seal = OverlayKeys::derive(&keys.table, &other.public_key()).seal;
    let plain = head.open(&OverlayKeys::derive(&keys.table, &mine.public_key()).seal).expect("his own");
    let forged = Head::create(&seal, &mine.overlay, HeadOrder::after(None), plain).expect("a head like any");
    assert_eq!(forged.open_overlay(&keys.table, &other.public_key()), Err(HeadError::OtherKey));
    assert_eq!(head.open_table(&keys.table, &mine.public_key()), Err(HeadError::Seal));
}

#[test]
fn heads_name_the_first_few_stewards() {
    let stewards: Vec<[u8; 32]> = (0..12).map(|number| [number; 32]).collect();
    let extensions = with_named_stewards::<ReadBody>(Extensions::default(), &stewards).expect("ascending");
    assert_eq!(named_stewards::<ReadBody>(&extensions).as_deref(), Ok(&stewards[..8]));
    assert_eq!(named_stewards::<TableBody>(&extensions), Ok(Vec::new()), "each head has a key of its own");
    assert!(with_named_stewards::<ReadBody>(Extensions::default(), &[[2; 32], [1; 32]]).is_err());
    let keys = keys();
    let body = ReadBody { table: location(20, 8), extensions, ..read_body(&keys) };
    let head = Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &body).expect("it fits");
    let found = head.open_read(&keys.read).expect("ours");
    assert_eq!(named_stewards::<ReadBody>(&found.extensions).map(|found| found.len()), Ok(8));
    let none = with_named_stewards::<ReadBody>(found.extensions, &[]).expect("fewer");
    assert_eq!(none, Extensions::default());
    for bad in [&[][..], &[1], &[9; 300], &[0, 0], &[[2; 1].as_slice(), &[7; 64]].concat()] {
        let mut extensions = Extensions::default();
        extensions.insert(6, bad.to_vec()).expect("even");
        assert!(named_stewards::<ReadBody>(&extensions).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn damaged_bodies_of_stewards_have_one_encoding_or_none(place: prop::sample::Index, value: u8) {
        let mut plain = steward::encode_steward(&steward_body(&keys(), 1)).expect("writable").to_vec();
        let at = place.index(plain.len());
        plain[at] = value;
        if let Ok(body) = steward::decode_steward(&plain) {
            prop_assert_eq!(&steward::encode_steward(&body).expect("was read")[..], &plain[..]);
        }
    }
}
