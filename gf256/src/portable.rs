//! The kernel of every processor: the crate reed-solomon-erasure's tables.

use reed_solomon_erasure::galois_8::{mul_slice, mul_slice_xor};

/// Cells, so that what is read again for the next output is still in the cache.
const CELL_BYTES: usize = 8 * 1024;

/// `coefficients` are output by output.
pub(crate) fn multiply(coefficients: &[u8], inputs: &[&[u8]], outputs: &mut [&mut [u8]], length: usize) {
    for start in (0..length).step_by(CELL_BYTES) {
        let end = (start + CELL_BYTES).min(length);
        for (index, output) in outputs.iter_mut().enumerate() {
            let output = &mut output[start..end];
            let row = &coefficients[index * inputs.len()..][..inputs.len()];
            let mut terms = row.iter().zip(inputs).filter(|(coefficient, _)| **coefficient != 0);
            match terms.next() {
                None => output.fill(0),
                Some((coefficient, input)) => mul_slice(*coefficient, &input[start..end], output),
            }
            for (coefficient, input) in terms {
                mul_slice_xor(*coefficient, &input[start..end], output);
            }
        }
    }
}
