//! A segment's data shards to parity shards and back: any `k` of `n` rebuild the rest.
//!
//! Decides the code's matrix and the order of the arithmetic. Knows no keys, nodes or lengths beyond "all slices are
//! equally long": it works on any equal ranges of shards, whole shards or parts. Parity is coded here *before* it is
//! masked and rebuilt *after* it is unmasked ([`crate::mask`]). The field is GF(2^8) modulo 0x11d; the matrix is written
//! out in docs/format.md and equals that of the crate reed-solomon-erasure. The arithmetic on slices is [`dolmen_gf256`]'s.

use dolmen_gf256::{Coefficients, ShapeError};
use reed_solomon_erasure::galois_8::{add, div, exp, mul};

use crate::ids::ShardIndex;
use crate::limits::SHARDS_MAX;
use crate::policy::Policy;

/// Why shards were not coded: the caller's mistake, or too few shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The number of data or parity slices is not the policy's.
    #[error("{expected} slices belong to this code, not {found}")]
    SliceCount {
        /// What the policy says.
        expected: usize,
        /// What the caller brought.
        found: usize,
    },
    /// Slices differ in length.
    #[error("all slices must be equally long")]
    Lengths,
    /// The index is not a shard of this policy, or stands twice among the present shards.
    #[error("shard {0} is not one of this segment's or is named twice")]
    Index(ShardIndex),
    /// Fewer than `k` shards are present.
    #[error("{needed} shards are needed, {present} are present")]
    TooFew {
        /// Shards that any rebuilding needs.
        needed: usize,
        /// Shards that there are.
        present: usize,
    },
}

/// Rows of `k` coefficients each, in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    k: usize,
    coefficients: Vec<u8>,
}

impl Rows {
    fn new(k: usize) -> Self {
        Self { k, coefficients: Vec::with_capacity(k * SHARDS_MAX) }
    }

    fn row(&self, index: usize) -> &[u8] {
        &self.coefficients[index * self.k..][..self.k]
    }

    fn push(&mut self, row: impl IntoIterator<Item = u8>) {
        self.coefficients.extend(row);
    }
}

/// The code of one policy. Making one costs microseconds; keep it for all segments of a dataset.
#[derive(Debug, Clone)]
pub struct Code {
    policy: Policy,
    /// The whole matrix: `n` rows of `k`, of which the first `k` are the identity.
    matrix: Rows,
    /// Its other rows, as the kernel reads them.
    parity: Coefficients,
}

impl From<ShapeError> for CodeError {
    fn from(error: ShapeError) -> Self {
        match error {
            ShapeError::SliceCount { expected, found } => Self::SliceCount { expected, found },
            ShapeError::Lengths => Self::Lengths,
        }
    }
}

impl Code {
    /// The code with `policy.k()` data and `policy.m()` parity shards; no parity and one data shard are both legal.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let k = usize::from(policy.k());
        let vandermonde = |row: u8| (0..k).map(move |column| exp(row, column));
        let mut top = Rows::new(k);
        for row in 0..policy.k() {
            top.push(vandermonde(row));
        }
        let inverse = invert(top).expect("the top of a Vandermonde matrix with distinct rows is invertible");
        let mut matrix = Rows::new(k);
        for row in 0..policy.n() {
            let row: Vec<u8> = vandermonde(row).collect();
            matrix.push(multiply(&row, &inverse));
        }
        let parity = Coefficients::new(k, usize::from(policy.m()), |row, column| matrix.row(k + row)[column]);
        Self { policy, matrix, parity }
    }

    /// The policy that this codes.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// The row of the matrix that makes `shard` from the data shards: `k` field elements; `None` beyond `n`.
    #[must_use]
    pub fn matrix_row(&self, shard: ShardIndex) -> Option<&[u8]> {
        (shard.to_byte() < self.policy.n()).then(|| self.matrix.row(shard.get()))
    }

    /// Overwrites the `m` slices of `parity` with the code of the `k` slices of `data`, unmasked.
    ///
    /// # Errors
    /// When counts or lengths do not fit.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), CodeError> {
        Ok(self.parity.multiply(data, parity)?)
    }

    /// Overwrites the `wanted` shards, data or parity, from `k` of the `present` ones, all unmasked and all the same
    /// range of their shards. More than `k` present are not an error; data shards are preferred, then those named first.
    ///
    /// # Errors
    /// When there are too few present shards, an index is wrong, or lengths differ.
    pub fn rebuild(
        &self,
        present: &[(ShardIndex, &[u8])],
        wanted: &mut [(ShardIndex, &mut [u8])],
    ) -> Result<(), CodeError> {
        let Some(length) = wanted.first().map(|(_, slice)| slice.len()) else {
            return Ok(());
        };
        let same_length = present.iter().all(|(_, slice)| slice.len() == length)
            && wanted.iter().all(|(_, slice)| slice.len() == length);
        if !same_length {
            return Err(CodeError::Lengths);
        }
        let (indices, sources) = self.choose(present)?;
        let decoder = self.decoder(&indices, wanted.iter().map(|(index, _)| *index))?;
        let mut targets: Vec<&mut [u8]> = wanted.iter_mut().map(|(_, slice)| &mut **slice).collect();
        let coefficients = Coefficients::new(decoder.k, targets.len(), |row, column| decoder.row(row)[column]);
        Ok(coefficients.multiply(&sources, &mut targets)?)
    }

    /// Which `k` shards to rebuild from: data shards first, because their rows are the identity's.
    fn choose<'a>(&self, present: &[(ShardIndex, &'a [u8])]) -> Result<(Vec<ShardIndex>, Vec<&'a [u8]>), CodeError> {
        let k = usize::from(self.policy.k());
        let mut seen = [false; SHARDS_MAX];
        for (index, _) in present {
            if index.to_byte() >= self.policy.n() || core::mem::replace(&mut seen[index.get()], true) {
                return Err(CodeError::Index(*index));
            }
        }
        if present.len() < k {
            return Err(CodeError::TooFew { needed: k, present: present.len() });
        }
        let (data, parity): (Vec<_>, Vec<_>) = present.iter().partition(|(index, _)| index.get() < k);
        Ok(data.into_iter().chain(parity).take(k).unzip())
    }

    /// The rows that make the wanted shards from the chosen ones: the wanted rows of the matrix times the inverse of the
    /// chosen rows.
    fn decoder(&self, chosen: &[ShardIndex], wanted: impl Iterator<Item = ShardIndex>) -> Result<Rows, CodeError> {
        let mut rows = Rows::new(self.matrix.k);
        for index in chosen {
            rows.push(self.matrix.row(index.get()).iter().copied());
        }
        let inverse = invert(rows).expect("any k rows of the matrix are independent");
        let mut decoder = Rows::new(self.matrix.k);
        for index in wanted {
            let row = self.matrix_row(index).ok_or(CodeError::Index(index))?;
            decoder.push(multiply(row, &inverse));
        }
        Ok(decoder)
    }
}

/// A row times a square matrix.
fn multiply(row: &[u8], matrix: &Rows) -> Vec<u8> {
    let mut product = vec![0; matrix.k];
    for (index, factor) in row.iter().enumerate() {
        for (sum, element) in product.iter_mut().zip(matrix.row(index)) {
            *sum = add(*sum, mul(*factor, *element));
        }
    }
    product
}

/// The inverse of a square matrix by Gauss-Jordan elimination; `None` when it has none.
fn invert(mut matrix: Rows) -> Option<Rows> {
    let k = matrix.k;
    let mut inverse = Rows { k, coefficients: (0..k * k).map(|place| u8::from(place / k == place % k)).collect() };
    for column in 0..k {
        let pivot = (column..k).find(|row| matrix.row(*row)[column] != 0)?;
        for rows in [&mut matrix, &mut inverse] {
            for place in 0..k {
                rows.coefficients.swap(pivot * k + place, column * k + place);
            }
        }
        let scale = div(1, matrix.row(column)[column]);
        for rows in [&mut matrix, &mut inverse] {
            for place in 0..k {
                rows.coefficients[column * k + place] = mul(scale, rows.coefficients[column * k + place]);
            }
        }
        for row in (0..k).filter(|row| *row != column) {
            let factor = matrix.row(row)[column];
            for rows in [&mut matrix, &mut inverse] {
                for place in 0..k {
                    let term = mul(factor, rows.coefficients[column * k + place]);
                    rows.coefficients[row * k + place] = add(rows.coefficients[row * k + place], term);
                }
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reed_solomon_erasure::galois_8::ReedSolomon;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// All `n` shards of a segment of noise.
    fn coded(code: &Code, seed: u64, length: usize) -> Vec<Vec<u8>> {
        let (k, m) = (u64::from(code.policy().k()), usize::from(code.policy().m()));
        let data: Vec<Vec<u8>> = (0..k).map(|shard| noise(seed.wrapping_mul(64).wrapping_add(shard), length)).collect();
        // Parity starts as rubbish: encoding must overwrite, not add.
        let mut parity = vec![vec![0x5a; length]; m];
        let data_slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity_slices: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        code.encode(&data_slices, &mut parity_slices).expect("slices fit");
        data.into_iter().chain(parity).collect()
    }

    #[test]
    fn the_matrix_is_the_crates() {
        for k in [1u8, 2, 3, 4, 5, 7, 8, 10, 13, 16, 20, 32, 63] {
            for n in [k + 1, (k + 5).min(64), (2 * k).min(64), 64] {
                let code = Code::new(Policy::new(k, n.max(k + 1)).expect("legal"));
                let (k, m) = (usize::from(k), usize::from(code.policy().m()));
                let crates = ReedSolomon::new(k, m).expect("legal there too");
                // Unit vectors as shards of `k` bytes make the crate write its matrix out.
                let data: Vec<Vec<u8>> =
                    (0..k).map(|row| (0..k).map(|place| u8::from(place == row)).collect()).collect();
                let mut parity = vec![vec![0; k]; m];
                crates.encode_sep(&data, &mut parity).expect("slices fit");
                for (row, unit) in data.iter().chain(&parity).enumerate() {
                    let index = ShardIndex::new(u8::try_from(row).expect("at most 64"));
                    assert_eq!(code.matrix_row(index), Some(&unit[..]));
                }
                assert_eq!(code.matrix_row(ShardIndex::new(code.policy().n())), None);
            }
        }
    }

    #[test]
    fn parity_is_the_crates_over_several_cells() {
        let code = Code::new(Policy::new(7, 16).expect("legal"));
        let shards = coded(&code, 1, 25 * 1024 + 1);
        let crates = ReedSolomon::new(7, 9).expect("legal");
        assert!(crates.verify(&shards).expect("slices fit"));
    }

    #[test]
    fn one_data_shard_is_replication_and_no_parity_is_legal() {
        let shards = coded(&Code::new(Policy::new(1, 4).expect("legal")), 2, 100);
        assert!(shards.iter().all(|shard| *shard == shards[0]));
        assert_eq!(coded(&Code::new(Policy::new(3, 3).expect("legal")), 3, 100).len(), 3);
        assert_eq!(coded(&Code::new(Policy::new(1, 1).expect("legal")), 3, 100).len(), 1);
    }

    #[test]
    fn wrong_slices_are_refused() {
        let code = Code::new(Policy::new(2, 4).expect("legal"));
        let (a, b, short) = ([1u8; 8], [2u8; 8], [3u8; 7]);
        let (mut c, mut d) = ([0u8; 8], [0u8; 8]);
        let index = ShardIndex::new;
        assert_eq!(code.encode(&[&a], &mut [&mut c, &mut d]), Err(CodeError::SliceCount { expected: 2, found: 1 }));
        assert_eq!(code.encode(&[&a, &b], &mut [&mut c]), Err(CodeError::SliceCount { expected: 2, found: 1 }));
        assert_eq!(code.encode(&[&a, &short], &mut [&mut c, &mut d]), Err(CodeError::Lengths));
        let mut wanted = [(index(1), &mut c[..])];
        assert_eq!(code.rebuild(&[(index(0), &a)], &mut wanted), Err(CodeError::TooFew { needed: 2, present: 1 }));
        assert_eq!(code.rebuild(&[(index(0), &a), (index(0), &a)], &mut wanted), Err(CodeError::Index(index(0))));
        assert_eq!(code.rebuild(&[(index(0), &a), (index(4), &a)], &mut wanted), Err(CodeError::Index(index(4))));
        assert_eq!(code.rebuild(&[(index(0), &a), (index(2), &short)], &mut wanted), Err(CodeError::Lengths));
        let mut beyond = [(index(4), &mut d[..])];
        assert_eq!(code.rebuild(&[(index(0), &a), (index(2), &b)], &mut beyond), Err(CodeError::Index(index(4))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_k_shards_rebuild_any_others(
            k in 1u8..=24, m in 0u8..=24, seed: u64, length in 1usize..20_000,
            order in Just((0..48u8).collect::<Vec<_>>()).prop_shuffle(), surplus in 0usize..4,
        ) {
            let code = Code::new(Policy::new(k, k + m).expect("legal"));
            let shards = coded(&code, seed, length);
            let order: Vec<ShardIndex> = order.into_iter().filter(|index| *index < k + m).map(ShardIndex::new).collect();
            let (kept, lost) = order.split_at((usize::from(k) + surplus).min(order.len()));
            let present: Vec<_> = kept.iter().map(|index| (*index, &shards[index.get()][..])).collect();
            // What is lost, and also one that is not: it must come out as it is.
            let asked: Vec<ShardIndex> = lost.iter().chain(kept.first()).copied().collect();
            let mut rebuilt = vec![vec![0xa5; length]; asked.len()];
            let mut wanted: Vec<_> =
                asked.iter().zip(&mut rebuilt).map(|(index, bytes)| (*index, &mut bytes[..])).collect();
            code.rebuild(&present, &mut wanted).expect("enough shards");
            for (index, bytes) in asked.iter().zip(&rebuilt) {
                prop_assert_eq!(bytes, &shards[index.get()]);
            }
        }
    }
}
