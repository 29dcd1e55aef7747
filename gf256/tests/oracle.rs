//! Every kernel that this processor has against the crate reed-solomon-erasure.

use dolmen_gf256::{Coefficients, Kernel, ShapeError};
use proptest::prelude::*;
use reed_solomon_erasure::galois_8::{ReedSolomon, mul};

/// What lies around each slice: kernels must leave it alone.
const AROUND: u8 = 0xa5;
const MARGIN_BYTES: usize = 64;

fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
}

/// Deterministic noise; the generator is SplitMix64.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let word = |index: usize| {
        let mut word = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    };
    (0..length.div_ceil(8)).flat_map(|index| word(index).to_le_bytes()).take(length).collect()
}

/// The product byte by byte.
fn expected(coefficients: &[u8], inputs: &[Vec<u8>], outputs: usize, length: usize) -> Vec<Vec<u8>> {
    let sum = |output: usize, at: usize| {
        let row = &coefficients[output * inputs.len()..][..inputs.len()];
        row.iter().zip(inputs).fold(0, |sum, (coefficient, input)| sum ^ mul(*coefficient, input[at]))
    };
    (0..outputs).map(|output| (0..length).map(|at| sum(output, at)).collect()).collect()
}

/// The product by one kernel, with slices that start `offset` bytes into their buffers; fails when bytes around an output change.
fn product(
    kernel: Kernel,
    coefficients: &[u8],
    inputs: &[Vec<u8>],
    outputs: usize,
    length: usize,
    offset: usize,
) -> Vec<Vec<u8>> {
    let prepared = Coefficients::with_kernel(kernel, inputs.len(), outputs, |output, input| {
        coefficients[output * inputs.len() + input]
    });
    let prepared = prepared.expect("the kernel is available");
    assert_eq!(prepared.kernel(), kernel);
    let shifted: Vec<Vec<u8>> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| [&vec![AROUND; (offset + index) % MARGIN_BYTES], &input[..]].concat())
        .collect();
    let sources: Vec<&[u8]> =
        shifted.iter().enumerate().map(|(index, bytes)| &bytes[(offset + index) % MARGIN_BYTES..]).collect();
    let mut buffers = vec![vec![AROUND; length + 2 * MARGIN_BYTES]; outputs];
    let mut targets: Vec<&mut [u8]> = buffers.iter_mut().map(|bytes| &mut bytes[offset..][..length]).collect();
    prepared.multiply(&sources, &mut targets).expect("the slices fit");
    for bytes in &buffers {
        let (before, rest) = bytes.split_at(offset);
        assert!(before.iter().chain(&rest[length..]).all(|byte| *byte == AROUND), "{kernel} writes outside of a slice");
    }
    buffers.into_iter().map(|bytes| bytes[offset..][..length].to_vec()).collect()
}

/// Multiplication of polynomials modulo 0x11d, bit by bit.
fn multiply_bits(left: u8, right: u8) -> u8 {
    let product = (0..8).filter(|bit| right >> bit & 1 == 1).fold(0u32, |sum, bit| sum ^ u32::from(left) << bit);
    let reduced =
        (8..16).rev().fold(product, |sum, bit| if sum >> bit & 1 == 1 { sum ^ 0x11d << (bit - 8) } else { sum });
    reduced.to_le_bytes()[0]
}

#[test]
fn every_product_of_two_bytes_is_right_in_every_kernel() {
    let input: Vec<u8> = (0..=255).collect();
    for kernel in kernels() {
        for coefficient in 0..=255 {
            let products = product(kernel, &[coefficient], std::slice::from_ref(&input), 1, input.len(), 0);
            for (byte, product) in input.iter().zip(&products[0]) {
                assert_eq!(*product, multiply_bits(coefficient, *byte), "{kernel}: {coefficient} times {byte}");
            }
        }
    }
}

#[test]
fn the_best_kernel_is_the_first_that_is_available() {
    let coefficients = Coefficients::new(1, 1, |_, _| 1);
    assert_eq!(Some(coefficients.kernel()), kernels().next());
    for kernel in Kernel::ALL {
        assert_eq!(Coefficients::with_kernel(kernel, 1, 1, |_, _| 1).is_some(), kernel.is_available());
    }
    assert!(Kernel::Portable.is_available());
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let (long, short) = ([1u8; 100], [1u8; 99]);
    for kernel in kernels() {
        let coefficients = Coefficients::with_kernel(kernel, 2, 1, |_, _| 3).expect("available");
        let mut output = [0; 100];
        let count = |expected, found| Err(ShapeError::SliceCount { expected, found });
        assert_eq!(coefficients.multiply(&[&long], &mut [&mut output]), count(2, 1));
        assert_eq!(coefficients.multiply(&[&long, &long, &long], &mut [&mut output]), count(2, 3));
        assert_eq!(coefficients.multiply(&[&long, &long], &mut []), count(1, 0));
        assert_eq!(coefficients.multiply(&[&long, &short], &mut [&mut output]), Err(ShapeError::Lengths));
        assert_eq!(coefficients.multiply(&[&short, &short], &mut [&mut output]), Err(ShapeError::Lengths));
        assert_eq!(output, [0; 100], "nothing is written");
    }
}

#[test]
fn a_sum_of_nothing_is_zero() {
    for kernel in kernels() {
        for length in [0, 5, 200] {
            assert_eq!(product(kernel, &[], &[], 3, length, 1), vec![vec![0; length]; 3]);
        }
    }
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![
            0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 4095, 4097, 8191, 8192, 8193
        ]),
        0usize..10_000,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_kernel_multiplies_as_the_crate(
        inputs in 1usize..=24, outputs in 1usize..=40, length in length(), offset in 0usize..MARGIN_BYTES, seed: u64,
        plain_share in 0u8..=255,
    ) {
        // Some coefficients are 0 or 1, as in the rows of shards that are there.
        let coefficients: Vec<u8> = noise(seed, inputs * outputs)
            .into_iter()
            .zip(noise(!seed, inputs * outputs))
            .map(|(value, draw)| if draw < plain_share { value & 1 } else { value })
            .collect();
        let inputs: Vec<Vec<u8>> = (1..=inputs).map(|index| noise(seed ^ index as u64, length)).collect();
        let expected = expected(&coefficients, &inputs, outputs, length);
        for kernel in kernels() {
            let found = product(kernel, &coefficients, &inputs, outputs, length, offset);
            prop_assert!(found == expected, "{} differs", kernel);
        }
    }

    #[test]
    fn every_kernel_codes_and_rebuilds_as_the_crate(
        k in 1usize..=20, m in 1usize..=24, length in 1usize..3000, offset in 0usize..MARGIN_BYTES, seed: u64,
        order in Just((0..44usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let crates = ReedSolomon::new(k, m).expect("a legal shape");
        let mut shards: Vec<Vec<u8>> = (0..k + m).map(|index| noise(seed ^ index as u64, length)).collect();
        crates.encode(&mut shards).expect("equal lengths");
        // Unit vectors instead of the shards that are present: what the crate rebuilds of them is its matrix.
        let order: Vec<usize> = order.into_iter().filter(|index| *index < k + m).collect();
        let matrix = |present: &[usize], wanted: &[usize]| {
            let mut units: Vec<Option<Vec<u8>>> = vec![None; k + m];
            for (place, index) in present.iter().enumerate() {
                units[*index] = Some((0..k).map(|column| u8::from(column == place)).collect());
            }
            crates.reconstruct(&mut units).expect("k are present");
            wanted.iter().flat_map(|index| units[*index].clone().expect("rebuilt")).collect::<Vec<u8>>()
        };
        let in_order: Vec<usize> = (0..k + m).collect();
        for kernel in kernels() {
            for order in [&in_order, &order] {
                let (present, wanted) = order.split_at(k);
                let sources: Vec<Vec<u8>> = present.iter().map(|index| shards[*index].clone()).collect();
                let found = product(kernel, &matrix(present, wanted), &sources, m, length, offset);
                for (index, bytes) in wanted.iter().zip(&found) {
                    prop_assert!(*bytes == shards[*index], "{} rebuilds shard {} wrong", kernel, index);
                }
            }
        }
    }
}
