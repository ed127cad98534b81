//! Which instructions the kernels use: chosen once for the CPU, and for a test by name.

use std::cell::Cell;
use std::sync::OnceLock;

use crate::trial;

/// A set of instructions that kernels are written for.
///
/// Results are the same bits for any number of threads on one `Isa`; those of two differ within the bound of [`crate::gemm`],
/// products of whole numbers not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What every CPU has: no fused multiply-add, the bits of [`mod@crate::reference`].
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ.
    Avx512,
    /// x86-64 with AVX-512 as above, BF16 and VNNI.
    Avx512Dot,
    /// aarch64 with NEON.
    Neon,
    /// aarch64 with NEON and its dot product of int8.
    NeonDot,
    /// aarch64 with NEON, and its dot products of int8 and of bf16.
    NeonBf16,
    /// aarch64 as above, with its matrix products of int8 and of bf16.
    NeonMatrix,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// Every set there is, on any CPU, the widest last for each kind of CPU.
    pub const ALL: [Self; 8] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Dot,
        Self::Neon,
        Self::NeonDot,
        Self::NeonBf16,
        Self::NeonMatrix,
    ];

    /// Its name: `portable`, `avx2`, `avx512`, `avx512-bf16-vnni`, `neon`, `neon-dotprod`, `neon-dotprod-bf16`,
    /// `neon-dotprod-bf16-i8mm`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Dot => "avx512-bf16-vnni",
            Self::Neon => "neon",
            Self::NeonDot => "neon-dotprod",
            Self::NeonBf16 => "neon-dotprod-bf16",
            Self::NeonMatrix => "neon-dotprod-bf16-i8mm",
        }
    }

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Dot => {
                Self::Avx512.is_available()
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => Self::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => Self::NeonDot.is_available() && std::arch::is_aarch64_feature_detected!("bf16"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonMatrix => Self::NeonBf16.is_available() && std::arch::is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    /// Those that this CPU has.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The one that calls from this thread use: the widest that the CPU has whose kernels give right results on it, or the one of
    /// [`with`](Self::with).
    pub fn current() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        let best = || Self::ALL.into_iter().rev().find(|isa| isa.is_available() && trial::is_right(*isa));
        FORCED.get().unwrap_or_else(|| *BEST.get_or_init(|| best().unwrap_or(Self::Portable)))
    }

    /// Runs `f` with kernels of this set, those that `f` calls from this thread (whatever threads they then use); `None`, and `f`
    /// is not run, where the CPU does not have it.
    pub fn with<R>(self, f: impl FnOnce() -> R) -> Option<R> {
        /// Sets back what was, after a panic too.
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        if !self.is_available() {
            return None;
        }
        let _restore = Restore(FORCED.replace(Some(self)));
        Some(f())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_set_ends_with_its_scope() {
        let usual = Isa::current();
        assert!(usual.is_available());
        for isa in Isa::ALL {
            assert_eq!(isa.with(Isa::current), isa.is_available().then_some(isa));
            assert_eq!(Isa::current(), usual);
        }
        assert!(std::panic::catch_unwind(|| Isa::Portable.with(|| std::panic::resume_unwind(Box::new(())))).is_err());
        assert_eq!(Isa::current(), usual);
        let nested = Isa::Portable.with(|| usual.with(Isa::current));
        assert_eq!(nested, Some(Some(usual)));
    }
}
