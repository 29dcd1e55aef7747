//! One coefficient in the forms that kernels read.

use reed_solomon_erasure::galois_8::mul;

/// Multiplication by one coefficient as a matrix of bits, as GF2P8AFFINEQB reads it: multiplying by a constant is linear
/// over GF(2), so that instruction serves any polynomial, not only the one that GF2P8MULB knows.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[repr(transparent)]
pub(crate) struct AffineMatrix(pub(crate) u64);

impl AffineMatrix {
    /// Byte `7 - i` holds the bits of the operand whose sum is bit `i` of the product.
    pub(crate) fn new(coefficient: u8) -> Self {
        let mut matrix = 0;
        for operand_bit in 0..8 {
            let product = mul(coefficient, 1 << operand_bit);
            for product_bit in (0..8).filter(|bit| product >> bit & 1 == 1) {
                matrix |= 1 << ((7 - product_bit) * 8 + operand_bit);
            }
        }
        Self(matrix)
    }
}

/// The products of one coefficient with all low and all high halves of a byte; their sum is the product with the byte.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct NibbleTables {
    pub(crate) low: [u8; 16],
    pub(crate) high: [u8; 16],
}

impl NibbleTables {
    pub(crate) fn new(coefficient: u8) -> Self {
        let (mut low, mut high) = ([0; 16], [0; 16]);
        for (nibble, (low, high)) in (0..).zip(low.iter_mut().zip(&mut high)) {
            *low = mul(coefficient, nibble);
            *high = mul(coefficient, nibble << 4);
        }
        Self { low, high }
    }
}
