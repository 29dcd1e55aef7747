//! The kernels, which of them this processor has, and the border between safe and unsafe code.

use crate::blocks::VECTOR_MAX_BYTES;
#[cfg(target_arch = "aarch64")]
use crate::neon;
#[cfg(target_arch = "x86_64")]
use crate::x86;
use crate::{Tables, portable};

/// Which instructions compute a product. All give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// x86-64 with GFNI and AVX-512: 64 bytes at a time by one affine transformation each.
    Gfni512,
    /// x86-64 with GFNI and AVX2: 32 bytes at a time by one affine transformation each.
    Gfni256,
    /// x86-64 with AVX-512BW: 64 bytes at a time by two table look-ups each.
    Avx512,
    /// x86-64 with AVX2: 32 bytes at a time by two table look-ups each.
    Avx2,
    /// x86-64 with SSSE3: 16 bytes at a time by two table look-ups each.
    Ssse3,
    /// 64-bit Arm, all of which have Neon: 16 bytes at a time by two table look-ups each.
    Neon,
    /// Any processor: the tables of the crate reed-solomon-erasure, byte by byte.
    Portable,
}

impl Kernel {
    /// All kernels, faster ones first.
    pub const ALL: [Self; 7] =
        [Self::Gfni512, Self::Gfni256, Self::Avx512, Self::Avx2, Self::Ssse3, Self::Neon, Self::Portable];

    /// The fastest kernel that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor and the operating system have what the kernel needs.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512 => {
                is_x86_feature_detected!("gfni")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256 => is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Ssse3 => is_x86_feature_detected!("ssse3"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Portable => true,
            _ => false,
        }
    }

    /// The kernel's name in figures and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gfni512 => "gfni-avx512",
            Self::Gfni256 => "gfni-avx2",
            Self::Avx512 => "avx512bw",
            Self::Avx2 => "avx2",
            Self::Ssse3 => "ssse3",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Most outputs that are computed at once; measured, see docs/performance.md.
    pub(crate) const fn group_max(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512 => x86::gfni_512::GROUP_MAX,
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256 => x86::gfni_256::GROUP_MAX,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::avx_512::GROUP_MAX,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::avx_2::GROUP_MAX,
            #[cfg(target_arch = "x86_64")]
            Self::Ssse3 => x86::ssse_3::GROUP_MAX,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::GROUP_MAX,
            _ => 1,
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The product by a kernel that is available, with tables that were made for it and for as many slices as there are,
/// all of `length` bytes.
pub(crate) fn multiply(kernel: Kernel, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]], length: usize) {
    if let Tables::Plain(coefficients) = tables {
        portable::multiply(coefficients, inputs, outputs, length);
    } else if length < VECTOR_MAX_BYTES {
        multiply_short(kernel, tables, inputs, outputs, length);
    } else {
        multiply_long(kernel, tables, inputs, outputs, length);
    }
}

/// Slices shorter than a vector, through copies that are as long as one.
fn multiply_short(kernel: Kernel, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]], length: usize) {
    let padded = |input: &&[u8]| {
        let mut bytes = [0; VECTOR_MAX_BYTES];
        bytes[..length].copy_from_slice(input);
        bytes
    };
    let padded_inputs: Vec<[u8; VECTOR_MAX_BYTES]> = inputs.iter().map(padded).collect();
    let mut padded_outputs = vec![[0; VECTOR_MAX_BYTES]; outputs.len()];
    let input_slices: Vec<&[u8]> = padded_inputs.iter().map(|bytes| &bytes[..]).collect();
    let mut output_slices: Vec<&mut [u8]> = padded_outputs.iter_mut().map(|bytes| &mut bytes[..]).collect();
    multiply_long(kernel, tables, &input_slices, &mut output_slices, VECTOR_MAX_BYTES);
    for (output, bytes) in outputs.iter_mut().zip(&padded_outputs) {
        output.copy_from_slice(&bytes[..length]);
    }
}

/// Slices of at least [`VECTOR_MAX_BYTES`].
#[allow(unsafe_code)]
fn multiply_long(kernel: Kernel, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]], length: usize) {
    // SAFETY: `Coefficients` are only made for a kernel that is available, with the tables that it reads; `multiply` of
    // `Coefficients` has checked the slices, and the caller has checked that they are long enough.
    unsafe {
        match (kernel, tables) {
            #[cfg(target_arch = "x86_64")]
            (Kernel::Gfni512, Tables::Affine(tables)) => x86::gfni_512::multiply(tables, inputs, outputs, length),
            #[cfg(target_arch = "x86_64")]
            (Kernel::Gfni256, Tables::Affine(tables)) => x86::gfni_256::multiply(tables, inputs, outputs, length),
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx512, Tables::Nibbles(tables)) => x86::avx_512::multiply(tables, inputs, outputs, length),
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx2, Tables::Nibbles(tables)) => x86::avx_2::multiply(tables, inputs, outputs, length),
            #[cfg(target_arch = "x86_64")]
            (Kernel::Ssse3, Tables::Nibbles(tables)) => x86::ssse_3::multiply(tables, inputs, outputs, length),
            #[cfg(target_arch = "aarch64")]
            (Kernel::Neon, Tables::Nibbles(tables)) => neon::multiply(tables, inputs, outputs, length),
            _ => unreachable!("a kernel that is available has tables of its own kind"),
        }
    }
}
