//! Cases that must be refused, made by breaking valid ones; the name says what is wrong.

use dolmen_proto::head::{Head, HeadOrder};
use dolmen_proto::keys::{DatasetKeys, ReadSecret, VaultSecret};
use dolmen_proto::link::{LINK_PREFIX, LinkSecret};
use dolmen_proto::manifest::{EntryKind, Extent, ExtentBlob, ExtentList, FileEntry, FolderBlob, FolderEntry, Span};
use dolmen_proto::sign::{SignatureKind, sign};
use dolmen_proto::table::{RowBlob, RowKind, Rows};
use dolmen_proto::tree::{Child, SELF_SEGMENT};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::valid::{
    blob, entry, file, link_text, pointer, read_body, read_case, read_head, row, rows, snapshot, table, table_case,
    table_head, totals,
};
use crate::{Cases, hex};

pub(crate) fn cases() -> Cases {
    let mut cases = Cases::new();
    links(&mut cases);
    heads(&mut cases);
    manifests(&mut cases);
    tables(&mut cases);
    trees(&mut cases);
    cases.extend(crate::vaults::broken());
    cases.extend(crate::stewards::broken());
    cases.extend(crate::lineage::broken());
    cases.extend(crate::standing::broken());
    cases
}

fn add(cases: &mut Cases, name: &str, case: Value) {
    assert!(cases.insert(name.to_owned(), case).is_none(), "{name} is there twice");
}

/// `bytes` with the one place where `from` stands changed to `to`.
pub(crate) fn replace_once(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut places = (0..=bytes.len() - from.len()).filter(|place| bytes[*place..].starts_with(from));
    let place = places.next().expect("what is to be broken is there");
    assert_eq!(places.next(), None, "what is to be broken is there once");
    [&bytes[..place], to, &bytes[place + from.len()..]].concat()
}

pub(crate) fn with_byte(mut bytes: Vec<u8>, place: usize, value: u8) -> Vec<u8> {
    bytes[place] = value;
    bytes
}

fn links(cases: &mut Cases) {
    let good = link_text(LinkSecret::ReadLive(ReadSecret::new([0x5a; 32])), &[]);
    let mut add = |name: &str, text: String| add(cases, name, json!({"reader": "link", "text": text}));
    let other = if good.as_bytes()[30] == b'a' { "b" } else { "a" };
    add("link_one_bit", format!("{}{other}{}", &good[..30], &good[31..]));
    add("link_cut_off", good[..60].to_owned());
    add("link_nothing_but_the_prefix", LINK_PREFIX.to_owned());
    add("link_other_prefix", good.replacen("dolmen1", "dolmen2", 1));
    add("link_in_capitals", good.to_uppercase());
    add("link_with_a_space", format!("{} {}", &good[..30], &good[31..]));
    add("link_too_long", format!("{LINK_PREFIX}{}", "a".repeat(2042)));
    let sealed = |body: &[u8]| {
        let checksum = blake3::hash(&[LINK_PREFIX.as_bytes(), body].concat());
        let payload = [body, &checksum.as_bytes()[..4]].concat();
        let text = data_encoding::BASE32_NOPAD.encode(&payload).to_lowercase();
        format!("{LINK_PREFIX}{text}")
    };
    add("link_unknown_kind", sealed(&with_byte(vec![0; 34], 0, 5)));
    let [mut nine, mut address] = [vec![1; 33], vec![1; 33]];
    nine.push(9);
    nine.extend([2, b'/', b'a'].repeat(9));
    add("link_nine_bootstrap_addresses", sealed(&nine));
    address.extend([1, 3, b'/', b' ', b'a']);
    add("link_bootstrap_with_a_space", sealed(&address));
    add("link_byte_too_many", sealed(&[&[1; 33][..], &[0, 0]].concat()));
}

/// The head with another signature over its own bytes.
fn signed_again(mut bytes: Vec<u8>, key: &SigningKey) -> Vec<u8> {
    bytes.truncate(bytes.len() - 64);
    let signature = sign(SignatureKind::Head, key, &bytes);
    [bytes, signature.to_vec()].concat()
}

fn heads(cases: &mut Cases) {
    let keys = crate::valid::keys();
    let good = read_head(HeadOrder::after(None));
    let bytes = good.bytes().to_vec();
    let with = |bytes: Vec<u8>| {
        let mut case = read_case(&good);
        case["bytes"] = json!(hex(bytes));
        case
    };
    let last = bytes.len() - 1;
    add(cases, "head_flipped_signature", with(with_byte(bytes.clone(), last - 40, bytes[last - 40] ^ 1)));
    add(cases, "head_flipped_body", with(with_byte(bytes.clone(), 200, bytes[200] ^ 1)));
    let flipped = signed_again(with_byte(bytes.clone(), 200, bytes[200] ^ 1), &keys.read_head);
    add(cases, "head_flipped_body_signed_again", with(flipped));
    let flipped = signed_again(with_byte(bytes.clone(), 80, bytes[80] ^ 1), &keys.read_head);
    add(cases, "head_flipped_salt_signed_again", with(flipped));
    add(cases, "head_cut_off", with(bytes[..last].to_vec()));
    add(cases, "head_byte_too_many", with([&bytes[..], &[0]].concat()));
    let mut long = with(bytes.clone());
    long["zeros_after"] = json!(8192);
    add(cases, "head_too_long", long);
    add(cases, "head_other_version", with(with_byte(bytes.clone(), 0, 2)));
    let zero = signed_again(with_byte(bytes.clone(), 33, 0), &keys.read_head);
    add(cases, "head_sequence_zero", with(zero));
    let previous = signed_again(with_byte(bytes.clone(), 41, 1), &keys.read_head);
    add(cases, "head_first_with_previous", with(previous));

    // A dataset of somebody else's whose head says everything that the victim's head says.
    let stranger = DatasetKeys::derive(&VaultSecret::new([2; 32]), 0);
    let mut case = read_case(&good);
    case["read_secret"] = json!(hex(stranger.read.expose()));
    add(cases, "head_of_another_dataset", case);
    let second = read_head(HeadOrder::after(Some(&good)));
    let mut case = read_case(&second);
    case["link"] = json!(link_text(LinkSecret::ReadFrozen(keys.read.clone()), &[]));
    add(cases, "head_second_with_frozen_link", case);
    add(cases, "head_not_committed_by_link", not_committed());

    let table = table_head(1, dolmen_proto::head::NO_HEAD, 0);
    let mut case = table_case(&table);
    case["table_head_key"] = json!(hex(stranger.table_head.verifying_key().to_bytes()));
    add(cases, "head_other_key", case);
    let mut case = table_case(&good);
    case["table_head_key"] = json!(hex(good.public_key()));
    add(cases, "head_of_another_kind", case);
}

/// What a hostile reader can make: a head that opens with the link, holds the true opening, and is signed by his own key.
fn not_committed() -> Value {
    let keys = crate::valid::keys();
    let reader = DatasetKeys::derive(&VaultSecret::new([2; 32]), 0).read_head;
    let good = read_head(HeadOrder::after(None));
    let seal = dolmen_proto::keys::ReadKeys::derive(&keys.read).seal;
    let forged = forge::seal_again(good.bytes(), &seal, &reader, |_| {});
    assert!(Head::parse(&forged).is_ok(), "the forgery is well formed and signed");
    assert_eq!(read_body().read_opening, keys.read_opening, "the forgery holds the true opening");
    json!({"reader": "head", "bytes": hex(forged), "read_secret": hex(keys.read.expose())})
}

/// The sealing of heads written again from `docs/format.md` alone, as somebody with other software would.
pub(crate) mod forge {
    use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Nonce};
    use dolmen_proto::keys::{HeadSealSecret, OwnerNoteKey};
    use ed25519_dalek::SigningKey;

    fn cipher(seal: &HeadSealSecret, salt: &[u8]) -> ChaCha20Poly1305 {
        let key = blake3::derive_key("dolmen 2026 head body v1", &[seal.expose(), salt].concat());
        ChaCha20Poly1305::new((&key).into())
    }

    /// Opens a head, changes its body, and seals and signs it again.
    pub(crate) fn seal_again(
        head: &[u8],
        seal: &HeadSealSecret,
        key: &SigningKey,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        let (prefix, rest) = head.split_at(107);
        let mut body = rest[..rest.len() - 64].to_vec();
        cipher(seal, &prefix[73..105]).decrypt_in_place(&Nonce::default(), prefix, &mut body).expect("it opens");
        change(&mut body);
        let mut forged = prefix[..73].to_vec();
        forged[1..33].copy_from_slice(&key.verifying_key().to_bytes());
        let salted = [&body[..1], &forged[1..73], &body].concat();
        let salt = blake3::keyed_hash(seal.expose(), &salted);
        forged.extend_from_slice(salt.as_bytes());
        forged.extend_from_slice(&u16::try_from(body.len() + 16).expect("a head is short").to_le_bytes());
        cipher(seal, salt.as_bytes()).encrypt_in_place(&Nonce::default(), &forged, &mut body).expect("short");
        forged.extend_from_slice(&body);
        super::signed_again([forged, vec![0; 64]].concat(), key)
    }

    fn note_cipher(key: &OwnerNoteKey, salt: &[u8]) -> ChaCha20Poly1305 {
        let key = blake3::derive_key("dolmen 2026 owner note seal v1", &[key.expose(), salt].concat());
        ChaCha20Poly1305::new((&key).into())
    }

    fn note_plain(note: &[u8], key: &OwnerNoteKey) -> Vec<u8> {
        let (salt, sealed) = note.split_at(32);
        let mut plain = sealed.to_vec();
        note_cipher(key, salt).decrypt_in_place(&Nonce::default(), &[], &mut plain).expect("it opens");
        plain
    }

    fn sealed_note(mut plain: Vec<u8>, key: &OwnerNoteKey, salt: [u8; 32]) -> Vec<u8> {
        note_cipher(key, &salt).encrypt_in_place(&Nonce::default(), &[], &mut plain).expect("short");
        [&salt[..], &plain].concat()
    }

    /// Opens an owner note, changes it, and seals it again.
    pub(crate) fn note_again(note: &[u8], key: &OwnerNoteKey, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut plain = note_plain(note, key);
        change(&mut plain);
        let salt = *blake3::keyed_hash(key.expose(), &plain).as_bytes();
        sealed_note(plain, key, salt)
    }

    /// The note under a salt that is not its own.
    pub(crate) fn note_with_salt(note: &[u8], key: &OwnerNoteKey, salt: [u8; 32]) -> Vec<u8> {
        sealed_note(note_plain(note, key), key, salt)
    }
}

fn manifests(cases: &mut Cases) {
    let leaf = |entries| FolderBlob::Leaf(entries).to_bytes();
    let mut folder = |name: &str, bytes: Vec<u8>| add(cases, name, blob("folder blob", &bytes));
    folder("manifest_unsorted_names", leaf(vec![file("b"), file("a")]));
    folder("manifest_name_twice", leaf(vec![file("a"), file("a")]));
    let one = leaf(vec![file("odd_name")]);
    folder("manifest_name_with_slash", replace_once(&one, b"odd_name", b"odd/name"));
    folder("manifest_name_with_zero_byte", replace_once(&one, b"odd_name", b"odd\0name"));
    folder("manifest_name_dot_dot", replace_once(&one, b"\x08\0odd_name", b"\x02\0.."));
    folder("manifest_name_empty", replace_once(&one, b"\x08\0odd_name", b"\0\0"));
    folder("manifest_name_too_long", replace_once(&one, b"\x08\0odd_name", &[&[1, 4][..], &[b'a'; 1025]].concat()));
    let mut mode = file("a");
    mode.mode = 0o100_644;
    folder("manifest_mode_with_file_type", leaf(vec![mode]));
    let mut extended = file("a");
    extended.extensions.insert(0x0fee, b"x".to_vec()).expect("even");
    folder("manifest_unknown_odd_extension", replace_once(&leaf(vec![extended]), &[0xee, 0x0f], &[0xef, 0x0f]));
    let mut twice = file("a");
    twice.xattrs.insert(b"user.a".to_vec(), Vec::new()).expect("small");
    twice.xattrs.insert(b"user.b".to_vec(), Vec::new()).expect("small");
    folder("manifest_attribute_twice", replace_once(&leaf(vec![twice]), b"user.b", b"user.a"));
    let content = |size_bytes, extents| {
        let hash = None;
        leaf(vec![entry("a", EntryKind::File(FileEntry { size_bytes, hash, extents: ExtentList::Inline(extents) }))])
    };
    folder("manifest_extents_are_not_the_size", content(10, vec![Extent::Hole { length_bytes: 9 }]));
    folder("manifest_hole_of_nothing", content(0, vec![Extent::Hole { length_bytes: 0 }]));
    let mut own = pointer(1);
    own.segment = SELF_SEGMENT;
    folder("manifest_extent_is_a_self_pointer", content(1001, vec![Extent::Chunk(own)]));
    let mut past = pointer(1);
    past.offset = 32 * 1024 * 1024 - 1000;
    folder("manifest_pointer_past_the_segment", content(1001, vec![Extent::Chunk(past)]));
    folder("manifest_symlink_to_nothing", leaf(vec![entry("nowhere", EntryKind::Symlink { target: Vec::new() })]));
    folder("manifest_unknown_entry_kind", replace_once(&one, b"odd_name\x01", b"odd_name\x04"));
    folder("manifest_flag_of_two", with_byte(one.clone(), one.len() - 5, 2));
    folder("manifest_byte_too_many", [&one[..], &[0]].concat());
    folder("manifest_cut_off", one[..one.len() - 1].to_vec());
    folder("manifest_count_beyond_the_bytes", with_byte(one.clone(), 4, 255));
    folder("manifest_other_version", with_byte(one.clone(), 0, 2));
    folder("manifest_leaf_of_another_tree", with_byte(one, 1, 4));

    let good = snapshot().to_bytes().expect("writable");
    let mut root = |name: &str, bytes: Vec<u8>| add(cases, name, blob("snapshot", &bytes));
    root("needs_unknown_bit", [&good[..2], &[0, 0, 0, 0x80, 3], b"9.9", &good[7..]].concat());
    root("needs_without_a_release", with_byte(good.clone(), 2, 1));
    root("needs_release_without_a_bit", [&good[..6], &[3], b"9.9", &good[7..]].concat());
    root("snapshot_message_not_text", replace_once(&good, b"Fassung", b"Fass\xffng"));
    root("snapshot_of_another_kind", with_byte(good.clone(), 1, 6));
    root("snapshot_cut_off", good[..good.len() - 1].to_vec());
    let mut long = blob("snapshot", &good);
    long["zeros_after"] = json!(128 * 1024);
    add(cases, "snapshot_too_long", long);

    let mut again = totals();
    (again.files, again.symlinks, again.bytes) = (0, 0, 0);
    let looped = entry("again", EntryKind::Folder(FolderEntry { totals: again, tree: pointer(1) }));
    let stated = json!({"files": 0, "folders": 1, "symlinks": 0, "bytes": 0});
    let case = json!({"reader": "folder walk", "totals": stated, "blobs": [hex(leaf(vec![looped]))]});
    add(cases, "folder_below_itself", case);
    let stated = json!({"files": 2, "folders": 0, "symlinks": 0, "bytes": 5097});
    let case = json!({"reader": "folder walk", "totals": stated, "blobs": [hex(leaf(vec![file("a")]))]});
    add(cases, "folder_with_fewer_files_than_stated", case);
}

fn tables(cases: &mut Cases) {
    let good = table(Rows::Inline(rows())).to_bytes().expect("writable");
    let mut root = |name: &str, bytes: Vec<u8>| add(cases, name, blob("table", &bytes));
    let id = [9; 32];
    root("table_node_twice", replace_once(&good, &[8; 32], &id));
    let port = 7000u16.to_le_bytes();
    root("table_port_zero", replace_once(&good, &[192, 0, 2, 1, port[0], port[1]], &[192, 0, 2, 1, 0, 0]));
    root("table_stewards_unsorted", {
        let swapped = [[2; 32], [1; 32]].concat();
        replace_once(&good, &[[1; 32], [2; 32]].concat()[..], &swapped)
    });
    root("table_policy_impossible", with_byte(good.clone(), 7, 0));
    root("table_too_many_nodes", with_byte(good.clone(), 11, 1));
    root("table_rows_of_unknown_form", replace_once(&good, &[2, 2, 1, 3, 0, 0, 0], &[2, 2, 3, 3, 0, 0, 0]));
    root("table_byte_too_many", [&good[..], &[0]].concat());
    root("table_cut_off", good[..good.len() - 1].to_vec());
    let mut stray = row(5, RowKind::Content);
    stray.place(dolmen_proto::ids::ShardIndex::new(1), Some(2)).expect("shard 1 of 4");
    root("table_node_not_in_the_list", table(Rows::Inline(vec![stray])).to_bytes().expect("writable"));

    let leaf = RowBlob::Leaf(rows()[..1].to_vec()).to_bytes();
    let mut row = |name: &str, bytes: Vec<u8>| add(cases, name, blob("row blob", &bytes));
    row("table_root_count_mismatch", with_byte(leaf.clone(), 6 + 43, 3));
    row("table_shard_length_not_the_payload_s", with_byte(leaf.clone(), 6 + 8, leaf[6 + 8] ^ 4));
    row("table_row_of_unknown_kind", with_byte(leaf, 6, 3));
    row("table_rows_unsorted", RowBlob::Leaf(rows().into_iter().rev().collect()).to_bytes());
}

fn trees(cases: &mut Cases) {
    let inner = |level, spans: &[u64]| {
        let child = |span: &u64| Child { label: Span(*span), pointer: pointer(7) };
        ExtentBlob::Inner { level, children: spans.iter().map(child).collect() }.to_bytes()
    };
    let hole = |length_bytes| ExtentBlob::Leaf(vec![Extent::Hole { length_bytes }]).to_bytes();
    let empty = ExtentBlob::Leaf(Vec::new()).to_bytes();
    let mut walk = |name: &str, count: u64, blobs: &[Vec<u8>]| {
        let blobs: Vec<String> = blobs.iter().map(hex).collect();
        add(cases, name, json!({"reader": "extent walk", "count": count, "blobs": blobs}));
    };
    walk("tree_wrong_label", 2, &[inner(1, &[5, 6]), hole(5), hole(7)]);
    walk("tree_wrong_level", 1, &[inner(2, &[5]), hole(5)]);
    walk("tree_in_a_circle", 1, &[inner(1, &[5]), inner(1, &[5])]);
    walk("tree_empty_leaf_below_the_root", 1, &[inner(1, &[5]), empty]);
    walk("tree_fewer_items_than_stated", 3, &[inner(1, &[5, 6]), hole(5), hole(6)]);
    walk("tree_more_items_than_stated", 1, &[inner(1, &[5, 6]), hole(5), hole(6)]);
    walk("tree_spans_overflow", 2, &[inner(1, &[u64::MAX, 1])]);
    let mut one = |name: &str, bytes: Vec<u8>| add(cases, name, blob("extent blob", &bytes));
    one("tree_too_deep", inner(16, &[5]));
    one("tree_level_zero", inner(0, &[5]));
    one("tree_without_children", inner(1, &[]));
    let mut long = blob("extent blob", &hole(5));
    long["zeros_after"] = json!(256 * 1024);
    add(cases, "tree_blob_too_long", long);
}
