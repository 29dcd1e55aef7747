//! The kernel of 64-bit Arm.
#![allow(unsafe_code)]

use core::arch::aarch64::{
    uint8x16_t as Vector, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8,
};

use crate::table::NibbleTables as Table;

/// The low and the high halves of all bytes.
type Operand = (Vector, Vector);

const VECTOR_BYTES: usize = 16;
const STEP_VECTORS: usize = 2;
pub(crate) const GROUP_MAX: usize = 4;

crate::blocks::kernel_loops!("neon");

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Vector {
    vdupq_n_u8(0)
}

/// # Safety
/// 16 bytes can be read from `source`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(source: *const u8) -> Vector {
    // SAFETY: the caller's promise; the instruction asks for no alignment.
    unsafe { vld1q_u8(source) }
}

/// # Safety
/// 16 bytes can be written from `target` on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(target: *mut u8, vector: Vector) {
    // SAFETY: the caller's promise; the instruction asks for no alignment.
    unsafe { vst1q_u8(target, vector) }
}

#[inline]
#[target_feature(enable = "neon")]
fn operand(bytes: Vector) -> Operand {
    (vandq_u8(bytes, vdupq_n_u8(0x0f)), vshrq_n_u8::<4>(bytes))
}

#[inline]
#[target_feature(enable = "neon")]
fn accumulate(sum: Vector, (low, high): Operand, table: &Table) -> Vector {
    // SAFETY: each table has 16 bytes.
    let (low_table, high_table) = unsafe { (load(table.low.as_ptr()), load(table.high.as_ptr())) };
    veorq_u8(sum, veorq_u8(vqtbl1q_u8(low_table, low), vqtbl1q_u8(high_table, high)))
}

/// Rust has no such hint for this processor.
#[inline]
fn prefetch(_address: *const u8) {}
