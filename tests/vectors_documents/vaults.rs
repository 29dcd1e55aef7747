//! Cases of vaults, valid and broken: compressed chunks, histories, notes, views, forwards, ledgers, dataset roots.

use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::head::{Head, HeadOrder, OwnerNote, ReadBody, Sealing, ViewBody};
use dolmen_proto::history::{HistoryBlob, HistoryKey, HistoryRow};
use dolmen_proto::ids::{SegmentId, SnapshotId, Timestamp};
use dolmen_proto::keys::{HeadSealSecret, MaskKey, ReadKeys, ViewKeys};
use dolmen_proto::ledger::{Ledger, Share};
use dolmen_proto::link::LinkSecret;
use dolmen_proto::manifest::{Extent, ExtentBlob, Snapshot};
use dolmen_proto::table::{
    ForwardBlob, ForwardKey, ForwardRow, LeavingBlob, LeavingRow, RowBlob, RowKind, Rows, TableRoot,
};
use dolmen_proto::tree::{BlobPointer, Child, CountedTree, SELF_SEGMENT};
use serde_json::{Value, json};

use crate::broken::{forge, replace_once, with_byte};
use crate::valid::{blob, keys, link_text, own, pointer, read_body, read_case, row, rows, snapshot, table};
use crate::{Cases, hex};

const TIME: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);

fn compressed(length: u32, plain_bytes: u32) -> Extent {
    Extent::Compressed { pointer: BlobPointer { length, ..pointer(1) }, plain_bytes }
}

fn forward(offset: u32) -> ForwardRow {
    let (segment, to_segment) = (SegmentId::new([0xe0; 32]), SegmentId::new([0xe1; 32]));
    ForwardRow { segment, offset, sealed_bytes: 1017, to_segment, to_offset: offset + 65_536 }
}

fn leaving() -> Vec<LeavingRow> {
    rows().into_iter().map(|row| LeavingRow { left: TIME, row }).collect()
}

fn kept(number: u8, tags: &[&str]) -> HistoryRow {
    HistoryRow {
        created: Timestamp::from_unix_ms(1_790_000_000_000 + u64::from(number)),
        id: SnapshotId::new([number; 32]),
        root: pointer(number),
        files: 1_000_000,
        bytes: 1 << 40,
        message: "zweite Fassung, geh\u{f6}rt".to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

fn share(number: u32) -> Share {
    Share {
        number,
        path: b"images/train".to_vec(),
        snapshot: (number == 3).then_some(SnapshotId::new([7; 32])),
        created: TIME,
        ended: (number == 3).then_some(Timestamp::from_unix_ms(1_790_000_000_001)),
        sequence: u64::from(number),
    }
}

fn ledger() -> Ledger {
    Ledger { next: 9, shares: vec![Share { path: Vec::new(), ..share(0) }, share(3), share(8)], ..Ledger::default() }
}

fn note() -> OwnerNote {
    OwnerNote {
        epoch: 2,
        name: "Stimmen 2026".to_owned(),
        ledger: Some(pointer(9)),
        sealing: None,
        extensions: Extensions::default(),
    }
}

fn note_case(bytes: impl AsRef<[u8]>) -> Value {
    json!({"reader": "owner note", "bytes": hex(bytes), "note_key": hex(keys().note.expose())})
}

fn vault_body() -> ReadBody {
    let note = note().seal(&keys().note).expect("fits");
    ReadBody { history: Some(CountedTree { count: 500, root: pointer(10) }), owner_note: Some(note), ..read_body() }
}

fn vault_head() -> Head {
    let keys = keys();
    Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &vault_body()).expect("writable")
}

fn view_head() -> Head {
    let (keys, read) = (keys(), read_body());
    let view = keys.view(3);
    let body = ViewBody {
        opening: view.opening,
        table_mask: MaskKey::derive(&keys.mask, &read.table.segment.nonce()),
        table: read.table,
        snapshot: read.snapshot,
        snapshot_id: read.snapshot_id,
        created: TIME,
        extensions: Extensions::default(),
    };
    Head::create_view(&view.secret, &view.head, HeadOrder::after(None), &body).expect("writable")
}

fn view_case(bytes: impl AsRef<[u8]>, number: u32) -> Value {
    json!({"reader": "head", "bytes": hex(bytes), "view_secret": hex(keys().view(number).secret.expose())})
}

fn vault_table() -> TableRoot {
    let tree = |number| Some(CountedTree { count: 3, root: own(number) });
    TableRoot { forwards: tree(11), leaving: tree(12), ..table(Rows::Inline(rows())) }
}

fn entries() -> Value {
    let hash = hex([0xaa; 32]);
    json!([
        {"path": "a", "mode": 0o755},
        {"path": "a/b", "mode": 0o644, "size": 5097, "hash": hash},
        {"path": "a/c", "mode": 0o777, "target": "../b"},
        {"path": "a.txt", "mode": 0o600, "size": 0, "hash": hash},
    ])
}

fn entries_case(entries: Value) -> Value {
    json!({"reader": "entries of a dataset root", "salt": hex([0x5a; 32]), "entries": entries})
}

pub(crate) fn valid() -> Cases {
    let mut cases = Cases::new();
    let mut add = |name: &str, case: Value| assert!(cases.insert(name.to_owned(), case).is_none(), "{name} twice");
    let needing = Snapshot { needs: Needs::COMPRESSED_CHUNKS, ..snapshot() };
    add("needs_compressed_chunks", blob("snapshot", &needing.to_bytes().expect("writable")));
    let leaf = ExtentBlob::Leaf(vec![compressed(1, 2), compressed(1000, 4 << 20)]);
    add("manifest_extent_compressed", blob("extent blob", &leaf.to_bytes()));

    add("table_of_a_vault", blob("table", &vault_table().to_bytes().expect("writable")));
    let masked = |row: dolmen_proto::table::SegmentRow| row.with_mask_key(MaskKey::new([0x77; 32]));
    let leaf = RowBlob::Leaf(rows().into_iter().map(masked).collect());
    add("table_row_leaf_with_mask_keys", blob("row blob", &leaf.to_bytes()));
    add("table_forward_leaf", blob("forward blob", &ForwardBlob::Leaf(vec![forward(0), forward(70_000)]).to_bytes()));
    let children =
        vec![Child { label: ForwardKey { segment: SegmentId::new([0xe0; 32]), offset: 7 }, pointer: own(1) }];
    add("table_forward_inner", blob("forward blob", &ForwardBlob::Inner { level: 1, children }.to_bytes()));
    add("table_leaving_leaf", blob("leaving blob", &LeavingBlob::Leaf(leaving()).to_bytes()));
    let children = leaving().iter().map(|row| Child { label: row.row.id(), pointer: own(1) }).collect();
    add("table_leaving_inner", blob("leaving blob", &LeavingBlob::Inner { level: 1, children }.to_bytes()));

    let leaf = HistoryBlob::Leaf(vec![kept(1, &[]), HistoryRow { root: own(2), ..kept(2, &["paper", "v1.0"]) }]);
    add("history_leaf", blob("history blob", &leaf.to_bytes()));
    let children = vec![Child { label: HistoryKey { created: TIME, id: SnapshotId::new([1; 32]) }, pointer: own(1) }];
    add("history_inner", blob("history blob", &HistoryBlob::Inner { level: 1, children }.to_bytes()));
    add("ledger_of_three", blob("ledger", &ledger().to_bytes().expect("writable")));
    add("ledger_empty", blob("ledger", &Ledger::default().to_bytes().expect("writable")));

    add("head_read_of_a_vault", read_case(&vault_head()));
    add("owner_note", note_case(note().seal(&keys().note).expect("fits").as_bytes()));
    let resealed = OwnerNote { sealing: Some(Sealing { epoch: 2, complete: true }), ..note() };
    add("owner_note_of_a_resealed_dataset", note_case(resealed.seal(&keys().note).expect("fits").as_bytes()));
    let view = view_head();
    add("head_view", view_case(view.bytes(), 3));
    let mut case = view_case(view.bytes(), 3);
    case["link"] = json!(link_text(LinkSecret::View(keys().view(3).secret), &[]));
    add("head_view_by_link", case);

    add("root_of_entries", entries_case(entries()));
    add("root_of_nothing", entries_case(json!([])));
    let text = crate::readers::read(&entries_case(entries())).expect("in order");
    add("root_text", json!({"reader": "dataset root", "text": text["root"]}));
    cases
}

fn add(cases: &mut Cases, name: &str, case: Value) {
    assert!(cases.insert(name.to_owned(), case).is_none(), "{name} is there twice");
}

pub(crate) fn broken() -> Cases {
    let mut cases = Cases::new();
    compressed_chunks(&mut cases);
    tables(&mut cases);
    histories(&mut cases);
    ledgers(&mut cases);
    heads(&mut cases);
    notes(&mut cases);
    roots(&mut cases);
    cases
}

fn compressed_chunks(cases: &mut Cases) {
    let mut one =
        |name: &str, extent| add(cases, name, blob("extent blob", &ExtentBlob::Leaf(vec![extent]).to_bytes()));
    one("extent_compressed_is_not_shorter", compressed(1000, 1000));
    one("extent_compressed_to_more_than_a_chunk", compressed(1000, (4 << 20) + 1));
    one("extent_compressed_is_a_self_pointer", Extent::Compressed { pointer: own(1), plain_bytes: 2000 });
    let good = ExtentBlob::Leaf(vec![compressed(1000, 2000)]).to_bytes();
    add(cases, "extent_of_unknown_form", blob("extent blob", &with_byte(good.clone(), 6, 4)));
    add(cases, "extent_compressed_cut_off", blob("extent blob", &good[..good.len() - 1]));

    let needing = Snapshot { needs: Needs::COMPRESSED_CHUNKS, ..snapshot() }.to_bytes().expect("writable");
    add(cases, "needs_another_release", blob("snapshot", &replace_once(&needing, b"0.1.0", b"0.1.1")));
    let table = table(Rows::Inline(rows())).to_bytes().expect("writable");
    let needing = [&table[..2], &[1, 0, 0, 0, 5], b"0.1.0", &table[7..]].concat();
    add(cases, "needs_compressed_chunks_in_a_table", blob("table", &needing));
}

fn tables(cases: &mut Cases) {
    let good = vault_table().to_bytes().expect("writable");
    let mut root = |name: &str, bytes: Vec<u8>| add(cases, name, blob("table", &bytes));
    // Key 1, 80 bytes, then the count; key 2 likewise.
    let forwards = [&[1, 0, 80, 0, 0, 0][..], &3u64.to_le_bytes()].concat();
    root("table_forwards_of_nothing", replace_once(&good, &forwards, &[&forwards[..6], &[0; 8]].concat()));
    root("table_forwards_too_short", {
        let shorter = [&[1, 0, 79, 0, 0, 0][..], &forwards[6..13]].concat();
        replace_once(&good, &forwards, &shorter)
    });
    root("table_unknown_odd_extension", replace_once(&good, &[2, 0, 80, 0, 0, 0], &[3, 0, 80, 0, 0, 0]));
    let leaf = RowBlob::Leaf(vec![row(1, RowKind::Content).with_mask_key(MaskKey::new([0x77; 32]))]).to_bytes();
    add(cases, "table_mask_key_cut_off", blob("row blob", &leaf[..leaf.len() - 1]));
    add(cases, "table_mask_key_without_its_kind", blob("row blob", &with_byte(leaf.clone(), 6, 1)));
    add(cases, "table_mask_key_of_unknown_kind", blob("row blob", &with_byte(leaf, 6, 131)));

    let good = forward(70_000);
    let mut rows = |name: &str, rows| add(cases, name, blob("forward blob", &ForwardBlob::Leaf(rows).to_bytes()));
    rows("forward_to_its_own_segment", vec![ForwardRow { to_segment: good.segment, ..good }]);
    rows("forward_to_no_segment", vec![ForwardRow { to_segment: SELF_SEGMENT, ..good }]);
    rows("forward_past_the_segment", vec![ForwardRow { to_offset: (32 << 20) - 1016, ..good }]);
    rows("forward_of_a_length_no_chunk_has", vec![ForwardRow { sealed_bytes: 16, ..good }]);
    rows("forwards_unsorted", vec![forward(70_000), forward(0)]);
    rows("forward_twice", vec![forward(0), forward(0)]);
    let unsorted = LeavingBlob::Leaf(leaving().into_iter().rev().collect()).to_bytes();
    add(cases, "leaving_unsorted", blob("leaving blob", &unsorted));
}

fn histories(cases: &mut Cases) {
    let mut leaf = |name: &str, rows| add(cases, name, blob("history blob", &HistoryBlob::Leaf(rows).to_bytes()));
    leaf("history_unsorted", vec![kept(2, &[]), kept(1, &[])]);
    leaf("history_snapshot_twice", vec![kept(2, &[]), kept(2, &[])]);
    leaf("history_tags_unsorted", vec![kept(1, &["b", "a"])]);
    leaf("history_tag_twice", vec![kept(1, &["a", "a"])]);
    leaf("history_tag_empty", vec![kept(1, &[""])]);
    leaf("history_tag_too_long", vec![kept(1, &[&"t".repeat(65)])]);
    let many: Vec<String> = (0..17).map(|number| format!("{number:02}")).collect();
    leaf("history_too_many_tags", vec![kept(1, &many.iter().map(String::as_str).collect::<Vec<_>>())]);
    leaf("history_message_too_long", vec![HistoryRow { message: "m".repeat(257), ..kept(1, &[]) }]);
    let good = HistoryBlob::Leaf(vec![kept(1, &["odd_tag"])]).to_bytes();
    add(cases, "history_tag_not_text", blob("history blob", &replace_once(&good, b"odd_tag", b"odd\xfftag")));
    add(cases, "history_cut_off", blob("history blob", &good[..good.len() - 1]));
    let children = [kept(2, &[]), kept(1, &[])]
        .map(|row| Child { label: HistoryKey { created: row.created, id: row.id }, pointer: own(1) });
    let inner = HistoryBlob::Inner { level: 1, children: children.to_vec() };
    add(cases, "history_children_unsorted", blob("history blob", &inner.to_bytes()));
}

fn ledgers(cases: &mut Cases) {
    let good = ledger().to_bytes().expect("writable");
    let mut one = |name: &str, bytes: Vec<u8>| add(cases, name, blob("ledger", &bytes));
    // Version, kind, needs (5 bytes), then the next number and the count of shares.
    one("ledger_next_number_is_taken", with_byte(good.clone(), 7, 8));
    one("ledger_share_twice", with_byte(good.clone(), 13, 3));
    one("ledger_too_many_shares", [&good[..11], &1001u16.to_le_bytes(), &good[13..]].concat());
    one("ledger_count_beyond_the_bytes", [&good[..11], &1000u16.to_le_bytes(), &good[13..]].concat());
    let path = |path: &[u8]| {
        let shares = vec![Share { path: b"images/train".to_vec(), ..share(3) }];
        let good = Ledger { next: 4, shares, ..Ledger::default() }.to_bytes().expect("writable");
        replace_once(&good, b"images/train", path)
    };
    one("ledger_path_from_the_root", path(b"/mages/train"));
    one("ledger_path_with_an_empty_name", path(b"images//rain"));
    one("ledger_path_upwards", path(b"../ges/train"));
    one("ledger_path_with_a_zero_byte", path(b"images/t\0ain"));
    one("ledger_cut_off", good[..good.len() - 1].to_vec());
    one("ledger_byte_too_many", [&good[..], &[0]].concat());
    one("ledger_of_another_kind", with_byte(good, 1, 16));
}

/// The head with its body changed, sealed and signed again as only the owner could.
fn resealed(head: &Head, seal: &HeadSealSecret, key: &ed25519_dalek::SigningKey, from: &[u8], to: &[u8]) -> Vec<u8> {
    forge::seal_again(head.bytes(), seal, key, |body| *body = replace_once(body, from, to))
}

fn heads(cases: &mut Cases) {
    let keys = keys();
    let good = vault_head();
    let seal = ReadKeys::derive(&keys.read).seal;
    let mut one = |name: &str, from: &[u8], to: &[u8]| {
        let mut case = read_case(&good);
        case["bytes"] = json!(hex(resealed(&good, &seal, &keys.read_head, from, to)));
        add(cases, name, case);
    };
    let history = [&[2, 0, 80, 0, 0, 0][..], &500u64.to_le_bytes()].concat();
    let place = [&[10; 32][..], &[0xe0; 32]].concat();
    one("head_history_is_a_self_pointer", &place, &[&[10; 32][..], &[0; 32]].concat());
    one("head_history_of_nothing", &history, &[&history[..6], &[0; 8]].concat());
    one("head_history_too_short", &history, &[&[2, 0, 79, 0, 0, 0][..], &history[6..13]].concat());
    one("head_owner_note_too_long", &[4, 0, 0x30, 2, 0, 0], &[4, 0, 0x31, 2, 0, 0, 0]);
    one("head_extension_twice", &[4, 0, 0x30, 2, 0, 0], &[2, 0, 0x30, 2, 0, 0]);

    let view = view_head();
    let led_to = ViewKeys::derive(&keys.view(3).secret);
    add(cases, "head_view_of_another_number", view_case(view.bytes(), 4));
    let mut case = view_case(view.bytes(), 3);
    case["link"] = json!(link_text(LinkSecret::ReadLive(keys.read.clone()), &[]));
    add(cases, "head_view_by_a_read_link", case);
    // What a hostile holder of the view can make: all that the true head says, signed by his own key.
    let forged = forge::seal_again(view.bytes(), &led_to.seal, &keys.view(4).head, |_| {});
    add(cases, "head_view_not_committed_by_link", view_case(forged, 3));
    let other = forge::seal_again(view.bytes(), &led_to.seal, &keys.view(3).head, |body| body[0] = 2);
    add(cases, "head_view_of_another_kind", view_case(other, 3));
    let snapshot = [&[8; 32][..], &[0xe0; 32]].concat();
    let own = resealed(&view, &led_to.seal, &keys.view(3).head, &snapshot, &[&[8; 32][..], &[0; 32]].concat());
    add(cases, "head_view_snapshot_is_a_self_pointer", view_case(own, 3));
}

fn notes(cases: &mut Cases) {
    let key = keys().note;
    let good = note().seal(&key).expect("fits").as_bytes().to_vec();
    add(cases, "owner_note_flipped_bit", note_case(with_byte(good.clone(), 300, good[300] ^ 1)));
    let mut case = note_case(&good);
    case["note_key"] = json!(hex([1; 32]));
    add(cases, "owner_note_of_another_dataset", case);
    let mut one = |name: &str, place: usize, value: u8| {
        let changed = forge::note_again(&good, &key, |plain| plain[place] = value);
        add(cases, name, note_case(changed));
    };
    one("owner_note_other_version", 0, 2);
    one("owner_note_name_longer_than_it_may_be", 5, 201);
    one("owner_note_name_not_text", 6, 0xff);
    one("owner_note_padding_not_zero", 511, 1);
    let own = |plain: &mut Vec<u8>| *plain = replace_once(plain, &[0xe0; 32], &[0; 32]);
    add(cases, "owner_note_ledger_is_a_self_pointer", note_case(forge::note_again(&good, &key, own)));
    let resealed = OwnerNote { sealing: Some(Sealing { epoch: 2, complete: false }), ..note() };
    let resealed = resealed.seal(&key).expect("fits").as_bytes().to_vec();
    let sealing = [2, 0, 0, 0, 0];
    for (name, other) in [
        ("owner_note_sealing_of_an_epoch_to_come", [3, 0, 0, 0, 0]),
        ("owner_note_sealing_of_the_first_epoch", [0, 0, 0, 0, 0]),
        ("owner_note_sealing_neither_complete_nor_not", [2, 0, 0, 0, 2]),
    ] {
        let (from, to) = ([&[1, 0, 5, 0, 0, 0][..], &sealing].concat(), [&[1, 0, 5, 0, 0, 0][..], &other].concat());
        let changed = forge::note_again(&resealed, &key, |plain| *plain = replace_once(plain, &from, &to));
        add(cases, name, note_case(changed));
    }
    add(cases, "owner_note_under_another_salt", note_case(forge::note_with_salt(&good, &key, [9; 32])));
}

fn roots(cases: &mut Cases) {
    let read = crate::readers::read(&entries_case(entries())).expect("in order");
    let good = read["root"].as_str().expect("a text").to_owned();
    let mut text = |name: &str, text: String| add(cases, name, json!({"reader": "dataset root", "text": text}));
    let other = if good.as_bytes()[40] == b'a' { "b" } else { "a" };
    text("root_one_letter", format!("{}{other}{}", &good[..40], &good[41..]));
    text("root_cut_off", good[..119].to_owned());
    text("root_letter_too_many", format!("{good}a"));
    text("root_other_prefix", good.replacen("dolmenroot1", "dolmenroot2", 1));
    text("root_in_capitals", good.to_uppercase());
    let hash = hex([0xaa; 32]);
    let file = |path: &str| json!({"path": path, "mode": 0o644, "size": 1, "hash": hash});
    let folder = |path: &str| json!({"path": path, "mode": 0o755});
    add(cases, "root_entries_unsorted", entries_case(json!([file("b"), file("a")])));
    add(cases, "root_entries_as_whole_paths_sort", entries_case(json!([folder("a"), file("a.txt"), file("a/b")])));
    add(cases, "root_entry_without_its_folder", entries_case(json!([file("a/b")])));
    add(cases, "root_entry_in_a_file", entries_case(json!([file("a"), file("a/b")])));
    add(cases, "root_entry_upwards", entries_case(json!([file("../a")])));
    let mode = json!({"path": "a", "mode": 0o100_644, "size": 1, "hash": hash});
    add(cases, "root_entry_mode_with_file_type", entries_case(json!([mode])));
}
