//! Kernels of x86-64, each in a module of its own: what a vector is, how it is loaded, and what one coefficient does to it.
#![allow(unsafe_code)]

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Asks for the cache line at `address`, which may lie anywhere.
#[inline]
fn prefetch(address: *const u8) {
    // SAFETY: a hint: nothing is read for the program, and no address makes it fail.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// GFNI and AVX-512: 64 bytes by one affine transformation.
pub(crate) mod gfni_512 {
    use core::arch::x86_64::{
        __m512i as Vector, __m512i as Operand, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
        _mm512_setzero_si512, _mm512_storeu_si512, _mm512_xor_si512,
    };

    use super::prefetch;
    use crate::table::AffineMatrix as Table;

    const VECTOR_BYTES: usize = 64;
    const STEP_VECTORS: usize = 2;
    pub(crate) const GROUP_MAX: usize = 10;

    crate::blocks::kernel_loops!("avx512f,avx512bw,gfni");

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn zero() -> Vector {
        _mm512_setzero_si512()
    }

    /// # Safety
    /// 64 bytes can be read from `source`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    unsafe fn load(source: *const u8) -> Vector {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    /// # Safety
    /// 64 bytes can be written from `target` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    unsafe fn store(target: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm512_storeu_si512(target.cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn operand(bytes: Vector) -> Operand {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn accumulate(sum: Vector, operand: Operand, table: &Table) -> Vector {
        let matrix = _mm512_set1_epi64(table.0.cast_signed());
        _mm512_xor_si512(sum, _mm512_gf2p8affine_epi64_epi8::<0>(operand, matrix))
    }
}

/// GFNI and AVX2: 32 bytes by one affine transformation.
pub(crate) mod gfni_256 {
    use core::arch::x86_64::{
        __m256i as Vector, __m256i as Operand, _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_storeu_si256, _mm256_xor_si256,
    };

    use super::prefetch;
    use crate::table::AffineMatrix as Table;

    const VECTOR_BYTES: usize = 32;
    const STEP_VECTORS: usize = 2;
    pub(crate) const GROUP_MAX: usize = 5;

    crate::blocks::kernel_loops!("avx2,gfni");

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn zero() -> Vector {
        _mm256_setzero_si256()
    }

    /// # Safety
    /// 32 bytes can be read from `source`.
    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    unsafe fn load(source: *const u8) -> Vector {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm256_loadu_si256(source.cast()) }
    }

    /// # Safety
    /// 32 bytes can be written from `target` on.
    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    unsafe fn store(target: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm256_storeu_si256(target.cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn operand(bytes: Vector) -> Operand {
        bytes
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn accumulate(sum: Vector, operand: Operand, table: &Table) -> Vector {
        let matrix = _mm256_set1_epi64x(table.0.cast_signed());
        _mm256_xor_si256(sum, _mm256_gf2p8affine_epi64_epi8::<0>(operand, matrix))
    }
}

/// AVX-512BW: 64 bytes by two look-ups in tables of 16.
pub(crate) mod avx_512 {
    use core::arch::x86_64::{
        __m512i as Vector, _mm_loadu_si128, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_loadu_si512,
        _mm512_set1_epi8, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_srli_epi16, _mm512_storeu_si512,
        _mm512_ternarylogic_epi64,
    };

    use super::prefetch;
    use crate::table::NibbleTables as Table;

    /// The low and the high halves of all bytes.
    type Operand = (Vector, Vector);

    const VECTOR_BYTES: usize = 64;
    const STEP_VECTORS: usize = 1;
    pub(crate) const GROUP_MAX: usize = 6;

    crate::blocks::kernel_loops!("avx512f,avx512bw");

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn zero() -> Vector {
        _mm512_setzero_si512()
    }

    /// # Safety
    /// 64 bytes can be read from `source`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(source: *const u8) -> Vector {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    /// # Safety
    /// 64 bytes can be written from `target` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn store(target: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm512_storeu_si512(target.cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn operand(bytes: Vector) -> Operand {
        let half = _mm512_set1_epi8(0x0f);
        (_mm512_and_si512(bytes, half), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), half))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn accumulate(sum: Vector, (low, high): Operand, table: &Table) -> Vector {
        // SAFETY: each table has 16 bytes.
        let tables =
            unsafe { [_mm_loadu_si128(table.low.as_ptr().cast()), _mm_loadu_si128(table.high.as_ptr().cast())] };
        let [low_table, high_table] = tables.map(|table| _mm512_broadcast_i32x4(table));
        // 0x96 is the sum of three bits.
        _mm512_ternarylogic_epi64::<0x96>(
            sum,
            _mm512_shuffle_epi8(low_table, low),
            _mm512_shuffle_epi8(high_table, high),
        )
    }
}

/// AVX2: 32 bytes by two look-ups in tables of 16.
pub(crate) mod avx_2 {
    use core::arch::x86_64::{
        __m256i as Vector, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256,
        _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256,
        _mm256_xor_si256,
    };

    use super::prefetch;
    use crate::table::NibbleTables as Table;

    /// The low and the high halves of all bytes.
    type Operand = (Vector, Vector);

    const VECTOR_BYTES: usize = 32;
    const STEP_VECTORS: usize = 2;
    pub(crate) const GROUP_MAX: usize = 4;

    crate::blocks::kernel_loops!("avx2");

    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> Vector {
        _mm256_setzero_si256()
    }

    /// # Safety
    /// 32 bytes can be read from `source`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(source: *const u8) -> Vector {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm256_loadu_si256(source.cast()) }
    }

    /// # Safety
    /// 32 bytes can be written from `target` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store(target: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm256_storeu_si256(target.cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn operand(bytes: Vector) -> Operand {
        let half = _mm256_set1_epi8(0x0f);
        (_mm256_and_si256(bytes, half), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn accumulate(sum: Vector, (low, high): Operand, table: &Table) -> Vector {
        // SAFETY: each table has 16 bytes.
        let tables =
            unsafe { [_mm_loadu_si128(table.low.as_ptr().cast()), _mm_loadu_si128(table.high.as_ptr().cast())] };
        let [low_table, high_table] = tables.map(|table| _mm256_broadcastsi128_si256(table));
        let product = _mm256_xor_si256(_mm256_shuffle_epi8(low_table, low), _mm256_shuffle_epi8(high_table, high));
        _mm256_xor_si256(sum, product)
    }
}

/// SSSE3: 16 bytes by two look-ups in tables of 16.
pub(crate) mod ssse_3 {
    use core::arch::x86_64::{
        __m128i as Vector, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_setzero_si128, _mm_shuffle_epi8,
        _mm_srli_epi16, _mm_storeu_si128, _mm_xor_si128,
    };

    use super::prefetch;
    use crate::table::NibbleTables as Table;

    /// The low and the high halves of all bytes.
    type Operand = (Vector, Vector);

    const VECTOR_BYTES: usize = 16;
    const STEP_VECTORS: usize = 2;
    pub(crate) const GROUP_MAX: usize = 4;

    crate::blocks::kernel_loops!("ssse3");

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn zero() -> Vector {
        _mm_setzero_si128()
    }

    /// # Safety
    /// 16 bytes can be read from `source`.
    #[inline]
    #[target_feature(enable = "ssse3")]
    unsafe fn load(source: *const u8) -> Vector {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm_loadu_si128(source.cast()) }
    }

    /// # Safety
    /// 16 bytes can be written from `target` on.
    #[inline]
    #[target_feature(enable = "ssse3")]
    unsafe fn store(target: *mut u8, vector: Vector) {
        // SAFETY: the caller's promise; the instruction asks for no alignment.
        unsafe { _mm_storeu_si128(target.cast(), vector) }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn operand(bytes: Vector) -> Operand {
        let half = _mm_set1_epi8(0x0f);
        (_mm_and_si128(bytes, half), _mm_and_si128(_mm_srli_epi16::<4>(bytes), half))
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn accumulate(sum: Vector, (low, high): Operand, table: &Table) -> Vector {
        // SAFETY: each table has 16 bytes.
        let (low_table, high_table) =
            unsafe { (_mm_loadu_si128(table.low.as_ptr().cast()), _mm_loadu_si128(table.high.as_ptr().cast())) };
        let product = _mm_xor_si128(_mm_shuffle_epi8(low_table, low), _mm_shuffle_epi8(high_table, high));
        _mm_xor_si128(sum, product)
    }
}
