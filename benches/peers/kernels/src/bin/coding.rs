//! Dolmen's coding kernels beside ISA-L's, interleaved in one run on one core: `cargo run --release --bin coding`.
//!
//! Arguments name the kernels that run; by default all but the portable one, whose peer takes minutes. Needs libisal.so.2
//! (Debian: `apt-get install libisal2`). All contestants multiply by the same matrix, and their parity is compared byte by
//! byte before anything is measured.

use std::ffi::{c_int, c_uchar};

use dolmen_gf256::{Coefficients, Kernel};
use dolmen_peer_kernels::{Contestant, Speeds, noise, race, setting};
use libloading::Library;
use reed_solomon_erasure::galois_8::ReedSolomon;

const SHAPES: [(usize, usize); 5] = [(10, 10), (10, 20), (16, 24), (7, 9), (20, 20)];
const CELL_BYTES: usize = 8 * 1024;

/// ISA-L's encoders: the one that it chooses by the processor, and those for older ones.
const ISAL: [(&str, &str); 4] = [
    ("isal", "ec_encode_data"),
    ("isal-avx2", "ec_encode_data_avx2"),
    ("isal-sse", "ec_encode_data_sse"),
    ("isal-base", "ec_encode_data_base"),
];

type EncodeData = unsafe extern "C" fn(
    length: c_int,
    k: c_int,
    rows: c_int,
    tables: *const c_uchar,
    data: *const *const c_uchar,
    coding: *const *mut c_uchar,
);

/// ISA-L, one of its encoders.
struct Isal<'a> {
    encode: libloading::Symbol<'a, EncodeData>,
    tables: Vec<u8>,
    k: usize,
    rows: usize,
}

impl<'a> Isal<'a> {
    fn new(library: &'a Library, symbol: &str, k: usize, rows: usize, matrix: &[u8]) -> Option<Self> {
        type InitTables = unsafe extern "C" fn(k: c_int, rows: c_int, matrix: *const c_uchar, tables: *mut c_uchar);
        let mut tables = vec![0; 32 * k * rows];
        // SAFETY: the types are those of erasure_code.h; the table has the 32 bytes a coefficient that it asks for.
        unsafe {
            let init: libloading::Symbol<'_, InitTables> = library.get(b"ec_init_tables").ok()?;
            init(k as c_int, rows as c_int, matrix.as_ptr(), tables.as_mut_ptr());
            let encode = library.get(symbol.as_bytes()).ok()?;
            Some(Self { encode, tables, k, rows })
        }
    }

    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        let length = data[0].len();
        assert!(data.len() == self.k && parity.len() == self.rows);
        assert!(data.iter().all(|slice| slice.len() == length) && parity.iter().all(|slice| slice.len() == length));
        let sources: Vec<*const u8> = data.iter().map(|slice| slice.as_ptr()).collect();
        let targets: Vec<*mut u8> = parity.iter_mut().map(|slice| slice.as_mut_ptr()).collect();
        // SAFETY: as many slices of `length` bytes as the tables were made for.
        unsafe {
            (self.encode)(
                length as c_int,
                self.k as c_int,
                self.rows as c_int,
                self.tables.as_ptr(),
                sources.as_ptr(),
                targets.as_ptr(),
            );
        }
    }
}

/// How the shards are handed to a coder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Whole shards in one call.
    Whole,
    /// A call for every 8 KiB of all shards.
    Cells,
    /// The same 8 KiB of all shards again and again: nothing comes from memory.
    InCache,
}

struct Shards {
    data: Vec<u8>,
    parity: Vec<u8>,
    shard_bytes: usize,
}

impl Shards {
    fn code(&mut self, manner: Manner, mut encode: impl FnMut(&[&[u8]], &mut [&mut [u8]])) {
        let data: Vec<&[u8]> = self.data.chunks(self.shard_bytes).collect();
        let mut parity: Vec<&mut [u8]> = self.parity.chunks_mut(self.shard_bytes).collect();
        if manner == Manner::Whole {
            return encode(&data, &mut parity);
        }
        for start in (0..self.shard_bytes).step_by(CELL_BYTES) {
            let start = if manner == Manner::InCache { 0 } else { start };
            let range = start..(start + CELL_BYTES).min(self.shard_bytes);
            let data: Vec<&[u8]> = data.iter().map(|slice| &slice[range.clone()]).collect();
            let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|slice| &mut slice[range.clone()]).collect();
            encode(&data, &mut parity);
        }
    }
}

/// The crate's matrix: parity of unit vectors.
fn matrix(k: usize, m: usize) -> Vec<u8> {
    let units: Vec<Vec<u8>> = (0..k).map(|row| (0..k).map(|place| u8::from(place == row)).collect()).collect();
    let mut parity = vec![vec![0; k]; m];
    ReedSolomon::new(k, m).expect("a legal shape").encode_sep(&units, &mut parity).expect("equal lengths");
    parity.concat()
}

/// The peer of a kernel: what ISA-L chooses itself for what it does not have, its encoder for the same instructions else.
fn peer(kernel: &str) -> &str {
    match kernel {
        "avx2" => "isal-avx2",
        "ssse3" => "isal-sse",
        "portable" => "isal-base",
        _ => "isal",
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let shard_bytes = setting("DOLMEN_BENCH_SHARD_KIB", 1024) * 1024;
    let rounds = setting("DOLMEN_BENCH_ROUNDS", 21);
    // SAFETY: the library's initialisers do nothing but ask the processor what it can.
    let library = unsafe { Library::new("libisal.so.2") }
        .unwrap_or_else(|error| panic!("libisal.so.2 is missing ({error}): apt-get install libisal2"));
    println!(
        "shards of {} KiB, {rounds} rounds, one core; GB/s of data (median ratio to its peer)",
        shard_bytes / 1024
    );
    for (k, m) in SHAPES {
        let matrix = matrix(k, m);
        let isal: Vec<(&str, Isal<'_>)> = ISAL
            .into_iter()
            .filter_map(|(name, symbol)| Some((name, Isal::new(&library, symbol, k, m, &matrix)?)))
            .collect();
        let ours: Vec<Coefficients> = Kernel::ALL
            .into_iter()
            .filter(|kernel| match &wanted[..] {
                [] => *kernel != Kernel::Portable,
                names => names.iter().any(|name| name == kernel.name()),
            })
            .filter_map(|kernel| Coefficients::with_kernel(kernel, k, m, |row, column| matrix[row * k + column]))
            .collect();
        let data = noise(k * shard_bytes, 1);
        let mut expected = Shards { data: data.clone(), parity: vec![0; m * shard_bytes], shard_bytes };
        expected.code(Manner::Whole, |data, parity| isal[0].1.encode(data, parity));
        for manner in [Manner::Whole, Manner::Cells, Manner::InCache] {
            let shards =
                std::cell::RefCell::new(Shards { data: data.clone(), parity: vec![0; m * shard_bytes], shard_bytes });
            let mut contestants = Vec::new();
            for (name, isal) in &isal {
                let raced = ours.iter().any(|coefficients| peer(coefficients.kernel().name()) == *name);
                if !raced {
                    continue;
                }
                contestants.push(Contestant::new(*name, || {
                    shards.borrow_mut().code(manner, |data, parity| isal.encode(data, parity));
                }));
            }
            for coefficients in &ours {
                contestants.push(Contestant::new(coefficients.kernel().name(), || {
                    let coder = |data: &[&[u8]], parity: &mut [&mut [u8]]| {
                        coefficients.multiply(data, parity).expect("equal lengths");
                    };
                    shards.borrow_mut().code(manner, coder);
                }));
            }
            if manner != Manner::InCache {
                for contestant in &mut contestants {
                    shards.borrow_mut().parity.fill(0);
                    (contestant.run)();
                    assert!(shards.borrow().parity == expected.parity, "{} codes otherwise", contestant.name);
                }
            }
            print(k, m, manner, &race(contestants, rounds, k * shard_bytes));
        }
    }
}

fn print(k: usize, m: usize, manner: Manner, speeds: &[Speeds]) {
    print!("{:8} {:8}", format!("{k}+{m}"), format!("{manner:?}"));
    for one in speeds {
        if one.name.starts_with("isal") {
            print!("  {} {:.2}", one.name, one.median());
        } else {
            let peer = speeds.iter().find(|other| other.name == peer(&one.name)).expect("it was raced");
            print!("  {} {:.2} ({:.2})", one.name, one.median(), one.over(peer));
        }
    }
    println!();
}
