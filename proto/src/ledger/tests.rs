//! Tests of ledgers: numbers, paths, bounds, damage.

use proptest::prelude::*;

use super::*;
use crate::manifest::NameError;
use crate::tree::testing::MemorySink;

fn share(number: u32, path: &[u8]) -> Share {
    Share {
        number,
        path: path.to_vec(),
        snapshot: number.is_multiple_of(2).then_some(SnapshotId::new([7; 32])),
        created: Timestamp::from_unix_ms(1_790_000_000_000),
        ended: number.is_multiple_of(3).then_some(Timestamp::from_unix_ms(1_790_000_000_001)),
        sequence: u64::from(number),
    }
}

fn ledger(numbers: &[u32]) -> Ledger {
    let shares = numbers.iter().map(|number| share(*number, b"images/train")).collect();
    Ledger {
        next: numbers.last().map_or(0, |last| last + 1),
        shares,
        stewards: Vec::new(),
        extensions: Extensions::default(),
    }
}

#[test]
fn a_ledger_reads_back() {
    for numbers in [&[][..], &[0], &[1, 2, 3, 900]] {
        let good = ledger(numbers);
        assert_eq!(Ledger::parse(&good.to_bytes().expect("well formed")), Ok(good.clone()));
        let mut sink = MemorySink::new(32 << 20);
        let pointer = good.clone().put(&mut sink).expect("the sink takes everything");
        sink.close();
        assert_eq!(Ledger::parse(sink.fetch(&sink.settled(pointer))), Ok(good));
    }
}

#[test]
fn a_number_is_taken_once() {
    let order = Err(DocumentError::Order { what: "shares" });
    for (numbers, next) in [(&[1, 1][..], 9), (&[2, 1], 9), (&[1, 2], 2), (&[1, 2], 0)] {
        let bad = Ledger { next, ..ledger(numbers) };
        assert_eq!(bad.to_bytes(), order, "{numbers:?} then {next}");
        assert_eq!(Ledger::parse(&bad.encode()).map(drop), Err(DocumentError::Order { what: "shares" }));
    }
    let dropped = Ledger { next: 1000, ..ledger(&[1]) };
    assert!(dropped.to_bytes().is_ok(), "shares that ended may be gone");
}

#[test]
fn shared_paths_are_paths() {
    let with = |path: &[u8]| Ledger { next: 9, shares: vec![share(1, path)], ..Ledger::default() };
    for good in [&b""[..], b"a", b"a/b c/\xff", &[b'a'; 1024]] {
        assert!(with(good).to_bytes().is_ok());
    }
    let refused = [
        (&b"/"[..], NameError::Empty),
        (b"/a", NameError::Empty),
        (b"a/", NameError::Empty),
        (b"a//b", NameError::Empty),
        (b"a/../b", NameError::Dots),
        (b"a\0", NameError::Nul),
    ];
    for (path, error) in refused {
        assert_eq!(with(path).to_bytes(), Err(DocumentError::Name(error)));
        assert_eq!(Ledger::parse(&with(path).encode()), Err(DocumentError::Name(error)));
    }
    assert!(with(&[b'a'; PATH_MAX_BYTES + 1]).to_bytes().is_err());
}

#[test]
fn the_longest_ledger_fits_and_no_longer_one() {
    let path = [[b'a'; 1023].as_slice(); 4].join(&b'/');
    assert_eq!(path.len(), PATH_MAX_BYTES - 1);
    let count = u32::try_from(SHARES_MAX).expect("few");
    let shares: Vec<Share> = (0..count)
        .map(|number| Share { snapshot: Some(SnapshotId::new([1; 32])), ..share(6 * number, &path) })
        .collect();
    let full = Ledger { next: u32::MAX, shares, stewards: Vec::new(), extensions: Extensions::default() };
    assert_eq!(Ledger::parse(&full.to_bytes().expect("fits")), Ok(full.clone()));
    let mut over = full;
    over.shares.push(share(6 * count, b""));
    assert!(over.to_bytes().is_err());
}

fn steward(number: u32) -> Steward {
    let grants = BlobPointer {
        key: crate::seal::ChunkKey::new([1; 32]),
        segment: crate::ids::SegmentId::new([2; 32]),
        offset: 0,
        length: 9,
    };
    Steward {
        number,
        created: Timestamp::from_unix_ms(5),
        ended: number.is_multiple_of(3).then_some(Timestamp::from_unix_ms(6)),
        quota_bytes: 1 << 40,
        lasting: Duration::from_millis(7),
        granted_until: Timestamp::from_unix_ms(8),
        epoch: 2,
        grants: (!number.is_multiple_of(2)).then(|| CountedTree { count: 3, root: grants }),
    }
}

#[test]
fn stewards_read_back_and_share_no_number() {
    let mut good = Ledger { stewards: vec![steward(3), steward(4), steward(7)], next: 9, ..ledger(&[1, 2, 5]) };
    let bytes = good.to_bytes().expect("well formed");
    assert_eq!(Ledger::parse(&bytes), Ok(good.clone()));
    good.stewards[1].number = 5;
    let twice = Err(DocumentError::Order { what: "numbers of shares and stewards" });
    assert_eq!(good.to_bytes(), twice);
    assert_eq!(Ledger::parse(&good.encode()).map(drop), twice.map(drop));
    good.stewards[1].number = 3;
    assert_eq!(good.to_bytes(), Err(DocumentError::Order { what: "stewards" }));
    good.stewards = vec![steward(9)];
    assert_eq!(good.to_bytes(), Err(DocumentError::Order { what: "stewards" }), "the next number is taken");
}

#[test]
fn no_more_stewards_than_a_table_names_and_a_ledger_keeps() {
    let many = |numbers: &mut dyn Iterator<Item = u32>| Ledger {
        next: u32::MAX,
        stewards: numbers.map(steward).collect(),
        ..Ledger::default()
    };
    assert!(many(&mut (0..64).map(|number| 3 * number + 1)).to_bytes().is_ok());
    assert!(many(&mut (0..65).map(|number| 3 * number + 1)).to_bytes().is_err());
    assert!(many(&mut (0..128).map(|number| 3 * number)).to_bytes().is_ok());
    assert!(many(&mut (0..129).map(|number| 3 * number)).to_bytes().is_err());
}

proptest! {
    #[test]
    fn damaged_ledgers_with_stewards_have_one_encoding_or_none(place: prop::sample::Index, value: u8) {
        let stewards = vec![steward(4), steward(5), steward(6)];
        let mut blob = Ledger { stewards, next: 9, ..ledger(&[1, 2]) }.to_bytes().expect("well formed");
        let place = place.index(blob.len());
        blob[place] = value;
        if let Ok(ledger) = Ledger::parse(&blob) {
            prop_assert_eq!(ledger.to_bytes().expect("was read"), blob);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        for blob in [body.clone(), [&[1, 17, 0, 0, 0, 0, 0][..], &body].concat()] {
            if let Ok(ledger) = Ledger::parse(&blob) {
                prop_assert_eq!(ledger.to_bytes().expect("was read"), blob);
            }
        }
    }

    #[test]
    fn damaged_ledgers_have_one_encoding_or_none(place: prop::sample::Index, value: u8) {
        let mut blob = ledger(&[0, 1, 2, 3]).to_bytes().expect("well formed");
        let place = place.index(blob.len());
        blob[place] = value;
        if let Ok(ledger) = Ledger::parse(&blob) {
            prop_assert_eq!(ledger.to_bytes().expect("was read"), blob);
        }
    }
}
