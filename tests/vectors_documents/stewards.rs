//! Cases of stewards, valid and broken: heads, grants, overlays, the ledger's stewards; and what reads them.

use core::time::Duration;

use dolmen_proto::codec::Extensions;
use dolmen_proto::grant::{GrantBlob, GrantRow};
use dolmen_proto::head::{Head, HeadOrder, OverlayBody, ReadBody, StewardBody, named_stewards, with_named_stewards};
use dolmen_proto::ids::{AccountId, NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::keys::{ReadKeys, StewardKeys, StewardSecret, TableSecret, account_key, delete_key, renew_key};
use dolmen_proto::ledger::{Ledger, Steward};
use dolmen_proto::link::LinkSecret;
use dolmen_proto::overlay::{OverlayBlob, OverlayKey, OverlayRoot, OverlayRow};
use dolmen_proto::table::NodeEntry;
use dolmen_proto::tree::{Child, CountedTree, SELF_SEGMENT};
use dolmen_proto::wire::{GrantRights, KeptReceipt, Receipt, RenewReceipt, Signed, StewardGrant};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::broken::{replace_once, with_byte};
use crate::readers::{array, bytes, counted, location, node, said};
use crate::valid::{blob, keys, link_text, own, pointer, read_body};
use crate::{Cases, hex};

const TIME: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);
const LATER: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

fn node_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn node_id(number: u8) -> NodeId {
    NodeId::new(node_key(number).verifying_key().to_bytes())
}

fn steward_keys(number: u32) -> StewardKeys {
    StewardKeys::derive(&keys().steward(number).secret)
}

fn body() -> StewardBody {
    let keys = keys();
    StewardBody {
        opening: keys.steward(4).opening,
        table_secret: keys.table.clone(),
        mask_secret: keys.mask.clone(),
        read_locator: ReadKeys::derive(&keys.read).locator,
        read_head_key: keys.read_head.verifying_key().to_bytes(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        table: read_body().table,
        grants: Some(CountedTree { count: 160, root: pointer(13) }),
        created: TIME,
        extensions: Extensions::default(),
    }
}

fn steward_head() -> Head {
    let steward = keys().steward(4);
    Head::create_steward(&steward.secret, &steward.head, HeadOrder::after(None), &body()).expect("writable")
}

fn steward_case(head: impl AsRef<[u8]>, number: u32) -> Value {
    json!({"reader": "steward head", "bytes": hex(head), "steward_secret": hex(keys().steward(number).secret.expose())})
}

fn overlay_head() -> Head {
    let body = OverlayBody { location: read_body().table, extensions: Extensions::default() };
    Head::create_overlay(&keys().table, &steward_keys(4).overlay, HeadOrder::after(None), &body).expect("writable")
}

fn overlay_case(head: impl AsRef<[u8]>, steward: u32) -> Value {
    let (table, key) = (keys().table, steward_keys(steward).public_key());
    json!({"reader": "overlay head", "bytes": hex(head), "table_secret": hex(table.expose()), "steward_key": hex(key)})
}

fn grant(number: u8) -> GrantRow {
    let (keys, node) = (keys(), node_id(number));
    let account = account_key(&keys.account, node);
    let grant = StewardGrant {
        account: AccountId::new(account.verifying_key().to_bytes()),
        steward: steward_keys(4).at(node).verifying_key().to_bytes(),
        node,
        rights: GrantRights { put: true, renew: true },
        quota_bytes: 1 << 40,
        until: LATER,
    };
    GrantRow {
        node,
        account: grant.account,
        delete_key: delete_key(&keys.delete, node).verifying_key().to_bytes(),
        renew_key: renew_key(&keys.renew, node).verifying_key().to_bytes(),
        signed: Signed::sign(grant, &account).encode(),
    }
}

fn grants() -> Vec<GrantRow> {
    let mut rows = vec![grant(1), grant(2)];
    rows.sort_by_key(|row| row.node);
    rows
}

fn root(shard: u8) -> ShardRoot {
    ShardRoot::new([shard; 32])
}

fn overlay_row(shard: u8) -> OverlayRow {
    let (node, account) = (node_id(1), AccountId::new([4; 32]));
    let receipt = if shard == 63 {
        let shards = vec![(root(62), 1 << 20), (root(63), 1 << 20)];
        KeptReceipt::of_renewal(&Signed::sign(
            RenewReceipt { node, account, until: LATER, issued_at: TIME, shards },
            &node_key(1),
        ))
    } else {
        let receipt =
            Receipt { node, root: root(shard), length_bytes: 1 << 20, account, until: LATER, issued_at: TIME };
        KeptReceipt::of_put(&Signed::sign(receipt, &node_key(1)))
    };
    let addresses = ["192.0.2.1:7000".parse().expect("valid"), "[2001:db8::1]:7000".parse().expect("valid")];
    OverlayRow {
        segment: SegmentId::new([0xe0; 32]),
        shard: ShardIndex::new(shard),
        node: NodeEntry::new(node, addresses),
        receipt,
    }
}

fn overlay_root() -> OverlayRoot {
    OverlayRoot {
        published: TIME,
        rows: Some(CountedTree { count: 2, root: own(1) }),
        further: vec![read_body().table.segment],
        extensions: Extensions::default(),
    }
}

fn steward(number: u32) -> Steward {
    Steward {
        number,
        created: TIME,
        ended: (number == 4).then_some(LATER),
        quota_bytes: 1 << 40,
        lasting: Duration::from_secs(400 * 86_400),
        granted_until: LATER,
        epoch: 2,
        grants: (number != 4).then(|| CountedTree { count: 160, root: pointer(13) }),
    }
}

fn ledger() -> Ledger {
    Ledger { next: 9, stewards: vec![steward(4), steward(6)], ..Ledger::default() }
}

pub(crate) fn valid() -> Cases {
    let mut cases = Cases::new();
    let mut add = |name: &str, case: Value| assert!(cases.insert(name.to_owned(), case).is_none(), "{name} twice");
    let head = steward_head();
    add("head_steward", steward_case(head.bytes(), 4));
    let mut case = steward_case(head.bytes(), 4);
    case["link"] = json!(link_text(LinkSecret::Steward(keys().steward(4).secret), &[]));
    add("head_steward_by_link", case);
    add("head_overlay", overlay_case(overlay_head().bytes(), 4));
    let named = [[1; 32], [2; 32]];
    let extensions = with_named_stewards::<ReadBody>(Extensions::default(), &named).expect("few");
    let keys = keys();
    let naming = ReadBody { extensions, ..read_body() };
    let naming = Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &naming).expect("writable");
    add(
        "head_read_naming_stewards",
        json!({"reader": "stewards of a read head", "bytes": hex(naming.bytes()), "read_secret": hex(keys.read.expose())}),
    );
    add("grant_leaf", blob("grant blob", &GrantBlob::Leaf(grants()).to_bytes()));
    let children = vec![Child { label: node_id(1), pointer: own(1) }];
    add("grant_inner", blob("grant blob", &GrantBlob::Inner { level: 1, children }.to_bytes()));
    let leaf = OverlayBlob::Leaf(vec![overlay_row(0), overlay_row(63)]);
    add("overlay_leaf", blob("overlay blob", &leaf.to_bytes()));
    let label = OverlayKey { segment: SegmentId::new([0xe0; 32]), shard: ShardIndex::new(63) };
    let children = vec![Child { label, pointer: own(1) }];
    add("overlay_inner", blob("overlay blob", &OverlayBlob::Inner { level: 1, children }.to_bytes()));
    add("overlay_root", blob("overlay", &overlay_root().to_bytes().expect("writable")));
    let empty = OverlayRoot { rows: None, further: Vec::new(), ..overlay_root() };
    add("overlay_root_empty", blob("overlay", &empty.to_bytes().expect("writable")));
    add("ledger_of_stewards", blob("ledger", &ledger().to_bytes().expect("writable")));
    cases
}

pub(crate) fn broken() -> Cases {
    let mut cases = Cases::new();
    let mut add = |name: &str, case: Value| assert!(cases.insert(name.to_owned(), case).is_none(), "{name} twice");
    let head = steward_head();
    add("head_steward_of_another_number", steward_case(head.bytes(), 5));
    add("head_steward_of_another_kind", overlay_case(head.bytes(), 4));
    add("head_overlay_of_another_steward", overlay_case(overlay_head().bytes(), 5));
    let mut flipped = overlay_head().bytes().to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    add("head_overlay_flipped_body", overlay_case(flipped, 4));

    let mut twice = grants();
    twice[1] = twice[0].clone();
    add("grant_of_one_node_twice", blob("grant blob", &GrantBlob::Leaf(twice).to_bytes()));
    let long = GrantRow { signed: vec![7; 1025], ..grant(1) };
    add("grant_too_long", blob("grant blob", &GrantBlob::Leaf(vec![long]).to_bytes()));

    let leaf = |rows: &[OverlayRow]| OverlayBlob::Leaf(rows.to_vec()).to_bytes();
    add("overlay_shard_twice", blob("overlay blob", &leaf(&[overlay_row(0), overlay_row(0)])));
    add("overlay_unsorted", blob("overlay blob", &leaf(&[overlay_row(63), overlay_row(0)])));
    // Version, kind, count, segment, then the shard; the node with two addresses, then the kind of the receipt.
    let good = leaf(&[overlay_row(0)]);
    add("overlay_shard_that_no_segment_has", blob("overlay blob", &with_byte(good.clone(), 38, 64)));
    let kind = 39 + 33 + 7 + 19;
    add("overlay_receipt_of_unknown_kind", blob("overlay blob", &with_byte(good.clone(), kind, 3)));
    add("overlay_cut_off", blob("overlay blob", &good[..good.len() - 1]));
    let none = OverlayRow { receipt: KeptReceipt::Put(Vec::new().into()), ..overlay_row(0) };
    add("overlay_without_a_receipt", blob("overlay blob", &leaf(&[none])));
    let long = OverlayRow { receipt: KeptReceipt::Put(vec![7; 1025].into()), ..overlay_row(0) };
    add("overlay_receipt_too_long", blob("overlay blob", &leaf(&[long])));
    let root = overlay_root().to_bytes().expect("writable");
    add("overlay_root_of_another_kind", blob("overlay", &with_byte(root.clone(), 1, 6)));
    add("overlay_root_byte_too_many", blob("overlay", &[&root[..], &[0]].concat()));
    // After the head of the blob and the time: a tree is named, of so many rows.
    add("overlay_root_of_a_tree_of_nothing", blob("overlay", &with_byte(root, 16, 0)));

    let good = ledger().to_bytes().expect("writable");
    // The value's first bytes: two stewards, the first of number 4.
    let stewards = |count: u16, number: u32| [&count.to_le_bytes()[..], &number.to_le_bytes()].concat();
    add(
        "ledger_without_the_stewards_that_are_named",
        blob("ledger", &replace_once(&good, &stewards(2, 4), &stewards(0, 4))),
    );
    add("ledger_with_a_steward_too_few", blob("ledger", &replace_once(&good, &stewards(2, 4), &stewards(3, 4))));
    add("ledger_steward_twice", blob("ledger", &replace_once(&good, &stewards(2, 4), &stewards(2, 6))));
    add("ledger_next_number_is_a_steward_s", blob("ledger", &with_byte(good, 7, 6)));
    cases
}

pub(crate) fn head(case: &Value) -> Result<Value, String> {
    let head = Head::parse(&bytes(case, "bytes")).map_err(said)?;
    let secret = StewardSecret::new(array(case, "steward_secret"));
    if let Some(text) = case.get("link") {
        let link = dolmen_proto::link::Link::parse(text.as_str().expect("a text")).map_err(said)?;
        assert_eq!(link.steward_secret(), Some(&secret));
    }
    let body = head.open_steward(&secret).map_err(said)?;
    let own = StewardKeys::derive(&secret);
    Ok(json!({
        "hash": head.hash().to_string(),
        "opening": hex(body.opening.expose()),
        "table_secret": hex(body.table_secret.expose()),
        "mask_secret": hex(body.mask_secret.expose()),
        "read_locator": hex(body.read_locator.expose()),
        "read_head_key": hex(body.read_head_key),
        "table_head_key": hex(body.table_head_key),
        "table": location(&body.table),
        "grants": body.grants.as_ref().map(counted),
        "created_ms": body.created.as_unix_ms(),
        "steward_key": hex(own.public_key()),
        "steward_key_at_node_of_ones": hex(own.at(NodeId::new([1; 32])).verifying_key().to_bytes()),
    }))
}

pub(crate) fn overlay_head_of(case: &Value) -> Result<Value, String> {
    let head = Head::parse(&bytes(case, "bytes")).map_err(said)?;
    let (table, steward) = (TableSecret::new(array(case, "table_secret")), array(case, "steward_key"));
    let body = head.open_overlay(&table, &steward).map_err(said)?;
    let keys = dolmen_proto::keys::OverlayKeys::derive(&table, &steward);
    Ok(json!({
        "hash": head.hash().to_string(),
        "location": location(&body.location),
        "first_point": hex(dolmen_proto::keys::point(&keys.locator, 0).as_bytes()),
        "mask_secret": hex(keys.mask.expose()),
    }))
}

pub(crate) fn stewards_of_read_head(case: &Value) -> Result<Value, String> {
    let head = Head::parse(&bytes(case, "bytes")).map_err(said)?;
    let secret = dolmen_proto::keys::ReadSecret::new(array(case, "read_secret"));
    let body = head.open_read(&secret).map_err(said)?;
    Ok(named_stewards::<ReadBody>(&body.extensions).map_err(said)?.iter().map(hex).collect())
}

pub(crate) fn grant_blob(case: &Value) -> Result<Value, String> {
    let row = |row: &GrantRow| {
        let (grant, _) = row.open(&steward_keys(4)).expect("a recorded grant is good");
        json!({
            "node": row.node.to_string(),
            "account": row.account.to_string(),
            "delete_key": hex(row.delete_key),
            "renew_key": hex(row.renew_key),
            "quota_bytes": grant.claimed().quota_bytes,
            "until_ms": grant.claimed().until.as_unix_ms(),
            "signed": hex(&row.signed),
        })
    };
    node::<GrantRow>(&bytes(case, "bytes"), row, |node| json!(node.to_string()))
}

pub(crate) fn overlay_blob(case: &Value) -> Result<Value, String> {
    let row = |row: &OverlayRow| {
        let until = row.receipt.holds(row.node.id(), root(row.shard.to_byte()), 1 << 20, TIME);
        json!({
            "segment": row.segment.to_string(),
            "shard": row.shard.get(),
            "node": row.node.id().to_string(),
            "addresses": row.node.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "renewal": matches!(row.receipt, KeptReceipt::Renewal(_)),
            "until_ms": until.expect("a recorded receipt counts").as_unix_ms(),
        })
    };
    let label = |key: &OverlayKey| json!({"segment": key.segment.to_string(), "shard": key.shard.get()});
    node::<OverlayRow>(&bytes(case, "bytes"), row, label)
}

pub(crate) fn overlay(case: &Value) -> Result<Value, String> {
    let blob = bytes(case, "bytes");
    let root = OverlayRoot::parse(&blob, SELF_SEGMENT).map_err(said)?;
    assert_eq!(root.to_bytes(), Ok(blob), "one encoding for one overlay");
    Ok(json!({
        "published_ms": root.published.as_unix_ms(),
        "rows": root.rows.as_ref().map(counted),
        "further": root.further.iter().map(|segment| segment.id().to_string()).collect::<Vec<_>>(),
    }))
}

pub(crate) fn steward_of_ledger(steward: &Steward) -> Value {
    json!({
        "number": steward.number,
        "created_ms": steward.created.as_unix_ms(),
        "ended_ms": steward.ended.map(|ended| ended.as_unix_ms()),
        "quota_bytes": steward.quota_bytes,
        "lasting_ms": u64::try_from(steward.lasting.as_millis()).expect("it was 64 bits"),
        "granted_until_ms": steward.granted_until.as_unix_ms(),
        "epoch": steward.epoch,
        "grants": steward.grants.as_ref().map(counted),
    })
}
