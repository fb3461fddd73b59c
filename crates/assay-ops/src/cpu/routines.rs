//! Routines: arithmetic on slices, from which the CPU's operations are built.
//!
//! Every routine is compiled for AVX-512, for AVX2 with FMA and portably. The widest version that
//! the machine supports runs. All versions do the same additions and multiplications in the same
//! order, so they return the same bits.

pub(crate) mod disjoint;
pub(crate) mod exponential;
pub(crate) mod product;
pub(crate) mod reduce;
pub(crate) mod softmax;

/// Instruction sets that routines are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The instruction set that the target guarantees.
    Portable,
}

/// The widest level that this machine supports; the standard library caches the result.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Defines a function whose body is compiled for every [`Level`] and dispatched at run time.
macro_rules! dispatched {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match $crate::cpu::routines::level() {
                // SAFETY: `level` has just found the instruction sets on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::routines::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::routines::Level::Avx2 => unsafe { avx2($($arg),*) },
                $crate::cpu::routines::Level::Portable => body($($arg),*),
            }
        }
    };
}
pub(crate) use dispatched;
