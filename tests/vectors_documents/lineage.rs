//! Cases of lineages, valid and broken, in read heads; and what reads them.

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Head, HeadOrder, Kinship, Lineage, ReadBody};
use dolmen_proto::heads::HeadVersion;
use dolmen_proto::ids::HeadHash;
use serde_json::{Value, json};

use crate::readers::{array, bytes, said};
use crate::valid::{keys, read_body};
use crate::{Cases, hex};

/// Among the extensions of a read head.
const EXTENSION: u16 = 8;
/// Of the heads in the cases.
const SEQUENCE: u64 = 0x0102_0304_0506;

fn version(back: u64, hash: u8) -> HeadVersion {
    HeadVersion { sequence: SEQUENCE - back, hash: HeadHash::new([hash; 32]) }
}

fn lineage() -> Lineage {
    let mut lineage = Lineage::beginning(SEQUENCE - 5);
    for (back, hash) in [(1, 0x11), (2, 0x22), (2, 0x23), (4, 0x44)] {
        lineage.add(version(back, hash));
    }
    lineage
}

/// A read head of [`SEQUENCE`] that replaces 0x11, and about which other heads it is asked.
fn case(extensions: Extensions) -> Value {
    let keys = keys();
    let body = ReadBody { extensions, ..read_body() };
    let order = HeadOrder { sequence: SEQUENCE, previous: HeadHash::new([0x11; 32]) };
    let head = Head::create_read(&keys.read, &keys.read_head, order, &body).expect("writable");
    let asked = [(1, 0x11), (2, 0x23), (2, 0x29), (4, 0x44), (5, 0x55), (6, 0x66)];
    let asked = asked.map(|(back, hash)| json!({"sequence": SEQUENCE - back, "hash": hex([hash; 32])}));
    json!({
        "reader": "lineage of a read head",
        "bytes": hex(head.bytes()),
        "read_secret": hex(keys.read.expose()),
        "asked": asked,
    })
}

fn with_value(value: Vec<u8>) -> Value {
    let mut extensions = Extensions::default();
    extensions.insert(EXTENSION, value).expect("there is room");
    case(extensions)
}

fn written(sequence: u64) -> Extensions {
    lineage().write(Extensions::default(), sequence).expect("there is room")
}

fn value() -> Vec<u8> {
    written(SEQUENCE).get(EXTENSION).expect("it was written").to_vec()
}

pub(crate) fn valid() -> Cases {
    let mut full = Lineage::beginning(0);
    (0..60).for_each(|back| full.add(version(back, u8::try_from(back).expect("small"))));
    let full = full.write(Extensions::default(), SEQUENCE).expect("there is room");
    let cases = [
        ("head_read_with_lineage", case(written(SEQUENCE))),
        ("head_read_with_lineage_of_a_head_before_it", case(written(SEQUENCE - 1))),
        ("head_read_with_the_longest_lineage", case(full)),
        ("head_read_without_lineage", case(Extensions::default())),
    ];
    cases.into_iter().map(|(name, case)| (name.to_owned(), case)).collect()
}

pub(crate) fn broken() -> Cases {
    let changed = |at: usize, new: u8| {
        let mut value = value();
        value[at] = new;
        with_value(value)
    };
    let whole = value();
    let cases = [
        ("head_lineage_cut_off", with_value(whole[..whole.len() - 1].to_vec())),
        ("head_lineage_byte_too_many", with_value([&whole[..], &[0]].concat())),
        ("head_lineage_empty", with_value(Vec::new())),
        ("head_lineage_floor_above_the_head", changed(15, 1)),
        ("head_lineage_of_49_heads", changed(16, 49)),
        ("head_lineage_unsorted", changed(17, 9)),
        ("head_lineage_from_before_the_first_head", {
            let mut value = whole;
            value[..8].copy_from_slice(&1u64.to_le_bytes());
            value[8..16].fill(0);
            let keys = keys();
            let mut extensions = Extensions::default();
            extensions.insert(EXTENSION, value).expect("there is room");
            let body = ReadBody { extensions, ..read_body() };
            let head = Head::create_read(&keys.read, &keys.read_head, HeadOrder::after(None), &body);
            let head = head.expect("writable");
            json!({
                "reader": "lineage of a read head",
                "bytes": hex(head.bytes()),
                "read_secret": hex(keys.read.expose()),
                "asked": [],
            })
        }),
    ];
    cases.into_iter().map(|(name, case)| (name.to_owned(), case)).collect()
}

/// What a read head says of other heads.
pub(crate) fn read(case: &Value) -> Result<Value, String> {
    let head = Head::parse(&bytes(case, "bytes")).map_err(said)?;
    let secret = dolmen_proto::keys::ReadSecret::new(array(case, "read_secret"));
    let body = head.open_read(&secret).map_err(said)?;
    let lineage = Lineage::of(&head, &body).map_err(said)?;
    let asked = case["asked"].as_array().expect("a list of heads");
    let kinship = |asked: &Value| {
        let sequence = asked["sequence"].as_u64().expect("a number");
        let kinship = lineage.kinship(HeadVersion { sequence, hash: HeadHash::new(array(asked, "hash")) });
        json!(match kinship {
            Kinship::Within => "within",
            Kinship::Outside => "outside",
            Kinship::Unknown => "unknown",
        })
    };
    Ok(asked.iter().map(kinship).collect())
}
