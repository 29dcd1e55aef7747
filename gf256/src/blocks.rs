//! The order of a product: blocks of all slices, in a block groups of outputs, in a group columns of vectors.
//!
//! A group's sums stay in registers while all inputs pass, so an output is written once and never read. A block is small
//! enough that inputs are still in the cache when the next group reads them.

use core::ops::Range;

/// Vectors are at most this wide: kernels are given slices of no less.
pub(crate) const VECTOR_MAX_BYTES: usize = 64;

/// Bytes of every slice in one block; a multiple of any kernel's step.
pub(crate) const BLOCK_BYTES: usize = 4 * 1024;

/// Bytes of a cache line.
pub(crate) const LINE_BYTES: usize = 64;

/// How far ahead inputs are asked for. So many streams at once are more than processors follow by themselves.
pub(crate) const AHEAD_BYTES: usize = 512;

/// Groups of at most `group_max` outputs, as equal as can be.
pub(crate) fn groups(outputs: usize, group_max: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let count = outputs.div_ceil(group_max);
    (0..count).map(move |group| outputs * group / count..outputs * (group + 1) / count)
}

/// The loops of a kernel around its `Vector`, `Operand`, `Table`, `VECTOR_BYTES`, `GROUP_MAX`, `zero`, `load`, `store`,
/// `operand`, `accumulate` and `prefetch`, compiled for its instructions.
macro_rules! kernel_loops {
    ($features:literal) => {
        /// Overwrites `outputs` with the product.
        ///
        /// # Safety
        /// The processor has the kernel's instructions. All slices have `length` bytes, at least
        /// [`crate::blocks::VECTOR_MAX_BYTES`]. There is a table for each input and output, in the order of
        /// [`crate::Coefficients`].
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn multiply(tables: &[Table], inputs: &[&[u8]], outputs: &mut [&mut [u8]], length: usize) {
            for start in (0..length).step_by(crate::blocks::BLOCK_BYTES) {
                let block = start..(start + crate::blocks::BLOCK_BYTES).min(length);
                let mut tables = tables;
                for group in crate::blocks::groups(outputs.len(), GROUP_MAX) {
                    let (these, rest) = tables.split_at(inputs.len() * group.len());
                    tables = rest;
                    let outputs = &mut outputs[group];
                    // SAFETY: the caller's promise covers every part of the slices and tables.
                    unsafe {
                        match outputs.len() {
                            1 => columns::<1>(these, inputs, outputs, block.clone()),
                            2 => columns::<2>(these, inputs, outputs, block.clone()),
                            3 => columns::<3>(these, inputs, outputs, block.clone()),
                            4 => columns::<4>(these, inputs, outputs, block.clone()),
                            5 => columns::<5>(these, inputs, outputs, block.clone()),
                            6 => columns::<6>(these, inputs, outputs, block.clone()),
                            7 => columns::<7>(these, inputs, outputs, block.clone()),
                            8 => columns::<8>(these, inputs, outputs, block.clone()),
                            9 => columns::<9>(these, inputs, outputs, block.clone()),
                            10 => columns::<10>(these, inputs, outputs, block.clone()),
                            _ => unreachable!("no group has more outputs than any kernel takes"),
                        }
                    }
                }
            }
        }

        /// One block of a group of `OUTPUTS` outputs.
        ///
        /// # Safety
        /// As [`multiply`]; `outputs` has `OUTPUTS` slices and `block` lies in all slices.
        #[target_feature(enable = $features)]
        unsafe fn columns<const OUTPUTS: usize>(
            tables: &[Table],
            inputs: &[&[u8]],
            outputs: &mut [&mut [u8]],
            block: core::ops::Range<usize>,
        ) {
            let mut targets = [core::ptr::null_mut(); OUTPUTS];
            for (target, output) in targets.iter_mut().zip(outputs) {
                *target = output.as_mut_ptr();
            }
            let mut at = block.start;
            // SAFETY: each step lies in the block, and so in all slices. The last may begin before the block does, but
            // not before the slices: what it writes twice is the same.
            unsafe {
                while at + STEP_VECTORS * VECTOR_BYTES <= block.end {
                    step::<OUTPUTS, STEP_VECTORS>(tables, inputs, &targets, at);
                    at += STEP_VECTORS * VECTOR_BYTES;
                }
                while at + VECTOR_BYTES <= block.end {
                    step::<OUTPUTS, 1>(tables, inputs, &targets, at);
                    at += VECTOR_BYTES;
                }
                if at < block.end {
                    step::<OUTPUTS, 1>(tables, inputs, &targets, block.end - VECTOR_BYTES);
                }
            }
        }

        /// `VECTORS` vectors of every slice, from byte `at`.
        ///
        /// # Safety
        /// As [`multiply`]; `at + VECTORS * VECTOR_BYTES` is at most the length of all slices.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn step<const OUTPUTS: usize, const VECTORS: usize>(
            tables: &[Table],
            inputs: &[&[u8]],
            targets: &[*mut u8; OUTPUTS],
            at: usize,
        ) {
            let mut sums = [[zero(); VECTORS]; OUTPUTS];
            for (input, tables) in inputs.iter().zip(tables.chunks_exact(OUTPUTS)) {
                let mut operands = [operand(zero()); VECTORS];
                for (vector, operand) in operands.iter_mut().enumerate() {
                    // SAFETY: the bytes lie in the input.
                    let bytes = unsafe { load(input.as_ptr().add(at + vector * VECTOR_BYTES)) };
                    *operand = self::operand(bytes);
                }
                for line in (0..VECTORS * VECTOR_BYTES).step_by(crate::blocks::LINE_BYTES) {
                    prefetch(input.as_ptr().wrapping_add(at + line + crate::blocks::AHEAD_BYTES));
                }
                for (sums, table) in sums.iter_mut().zip(tables) {
                    for (sum, operand) in sums.iter_mut().zip(operands) {
                        *sum = accumulate(*sum, operand, table);
                    }
                }
            }
            for (target, sums) in targets.iter().zip(sums) {
                for (vector, sum) in sums.into_iter().enumerate() {
                    // SAFETY: the bytes lie in the output, which nothing else refers to.
                    unsafe { store(target.add(at + vector * VECTOR_BYTES), sum) };
                }
            }
        }
    };
}

pub(crate) use kernel_loops;
