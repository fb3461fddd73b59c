//! One pool of threads: rayon's.
//!
//! candle keeps a second pool for elementwise operations whose idle threads spin on a barrier. On two cores they take
//! half of the machine from the kernels (measured: 48 % of all samples, 3 times fewer iterations a second).

/// Confines candle's elementwise operations to the calling thread. To be called first in a program.
///
/// A user's own `CANDLE_NUM_THREADS` is respected.
#[allow(unsafe_code)]
pub fn use_one_thread_pool() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the caller's promise, first in the program: no other thread exists that could read the environment.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}
