//! Loops compiled once for each width of vectors, chosen at run time.
//!
//! The source is the same for all of them and nothing in it depends on the width, so neither do the bits of the results.

use std::sync::OnceLock;

/// Vector instructions to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every CPU of the architecture has: SSE2, or NEON.
    Baseline,
}

impl Vectors {
    /// All that this CPU has, the widest first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wider = {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            let avx2 = is_x86_feature_detected!("avx2");
            avx512.then_some(Self::Avx512).into_iter().chain(avx2.then_some(Self::Avx2))
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wider = std::iter::empty();
        wider.chain([Self::Baseline])
    }

    /// The widest that this CPU has.
    pub(crate) fn widest() -> Self {
        static WIDEST: OnceLock<Vectors> = OnceLock::new();
        *WIDEST.get_or_init(|| Self::available().next().unwrap_or(Self::Baseline))
    }
}

/// Declares a function that takes [`Vectors`], which this CPU must have, and then the arguments of the function named last:
/// that one, `#[inline(always)]`, compiled for each width.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:path;) => {
        $(#[$meta])*
        $visibility fn $name(vectors: $crate::vectors::Vectors, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $type),*) {
                $body($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $type),*) {
                $body($($argument),*)
            }
            match vectors {
                // SAFETY: this CPU has the instructions, as the caller promises by `Vectors::available`.
                #[cfg(target_arch = "x86_64")]
                $crate::vectors::Vectors::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::vectors::Vectors::Avx2 => unsafe { avx2($($argument),*) },
                $crate::vectors::Vectors::Baseline => $body($($argument),*),
            }
        }
    };
}

pub(crate) use vectorised;
