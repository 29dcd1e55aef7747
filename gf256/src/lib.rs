//! Matrix times slices over GF(2^8) modulo 0x11d: `outputs[j] = sum over i of coefficient(j, i) * inputs[i]`.
//!
//! Decides with which instructions of this processor a product is computed ([`Kernel`]), in which order, and in what form
//! coefficients are kept for that. Knows nothing of codes, shards or policies: which matrix it is, the caller says. All
//! kernels give the same bytes as the crate reed-solomon-erasure, whose tables are the one for every other processor.
//!
//! The only unsafe code of Dolmen is in this crate's kernels: loads and stores inside of slices whose lengths
//! [`Coefficients::multiply`] has checked, with instructions whose presence [`Kernel::is_available`] has checked.
#![deny(unsafe_op_in_unsafe_fn)]
// A processor without kernels of its own uses none of what they share.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports, unused_macros, unused_unsafe, unused_variables)
)]

mod blocks;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod table;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernel::Kernel;

use table::{AffineMatrix, NibbleTables};

/// Why slices do not fit the coefficients: the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The number of inputs or outputs is not that of the coefficients.
    #[error("{expected} slices belong to these coefficients, not {found}")]
    SliceCount {
        /// What the coefficients were made for.
        expected: usize,
        /// What the caller brought.
        found: usize,
    },
    /// Slices differ in length.
    #[error("all slices must be equally long")]
    Lengths,
}

/// A matrix in the form that one kernel reads. Making one costs about as much as multiplying a few hundred bytes; keep it
/// where the matrix is used again.
#[derive(Debug, Clone)]
pub struct Coefficients {
    kernel: Kernel,
    inputs: usize,
    outputs: usize,
    tables: Tables,
}

/// Coefficients group by group of outputs ([`blocks::groups`]), in a group input by input.
#[derive(Debug, Clone)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
enum Tables {
    Affine(Vec<AffineMatrix>),
    Nibbles(Vec<NibbleTables>),
    /// Output by output, as they are.
    Plain(Vec<u8>),
}

impl Coefficients {
    /// The matrix of `outputs` rows and `inputs` columns with `coefficient(output, input)`, for the best kernel that this
    /// processor has.
    #[must_use]
    pub fn new(inputs: usize, outputs: usize, coefficient: impl Fn(usize, usize) -> u8) -> Self {
        Self::prepare(Kernel::best(), inputs, outputs, coefficient)
    }

    /// As [`Coefficients::new`], for a named kernel; `None` when this processor does not have it.
    #[must_use]
    pub fn with_kernel(
        kernel: Kernel,
        inputs: usize,
        outputs: usize,
        coefficient: impl Fn(usize, usize) -> u8,
    ) -> Option<Self> {
        kernel.is_available().then(|| Self::prepare(kernel, inputs, outputs, coefficient))
    }

    /// `kernel` is available: [`Coefficients::multiply`] relies on it.
    fn prepare(kernel: Kernel, inputs: usize, outputs: usize, coefficient: impl Fn(usize, usize) -> u8) -> Self {
        let grouped = || {
            blocks::groups(outputs, kernel.group_max())
                .flat_map(|group| (0..inputs).flat_map(move |input| group.clone().map(move |output| (output, input))))
        };
        let coefficient = |(output, input)| coefficient(output, input);
        let tables = match kernel {
            Kernel::Gfni512 | Kernel::Gfni256 => {
                Tables::Affine(grouped().map(coefficient).map(AffineMatrix::new).collect())
            }
            Kernel::Avx512 | Kernel::Avx2 | Kernel::Ssse3 | Kernel::Neon => {
                Tables::Nibbles(grouped().map(coefficient).map(NibbleTables::new).collect())
            }
            Kernel::Portable => Tables::Plain(grouped().map(coefficient).collect()),
        };
        Self { kernel, inputs, outputs, tables }
    }

    /// The kernel that multiplies.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Overwrites `outputs` with the product of the matrix and `inputs`. Slices may have any length and lie anywhere.
    ///
    /// # Errors
    /// When there are more or fewer slices than the matrix has columns and rows, or they are not equally long.
    pub fn multiply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), ShapeError> {
        for (expected, found) in [(self.inputs, inputs.len()), (self.outputs, outputs.len())] {
            if expected != found {
                return Err(ShapeError::SliceCount { expected, found });
            }
        }
        let mut lengths = inputs.iter().map(|input| input.len()).chain(outputs.iter().map(|output| output.len()));
        let Some(length) = lengths.next() else {
            return Ok(());
        };
        if lengths.any(|other| other != length) {
            return Err(ShapeError::Lengths);
        }
        kernel::multiply(self.kernel, &self.tables, inputs, outputs, length);
        Ok(())
    }
}
