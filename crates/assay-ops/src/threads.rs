//! One pool of threads: rayon's.
//!
//! candle keeps a second pool for elementwise operations, and its idle threads spin on a barrier.
//! On two cores they took half of the machine (measured: 48 % of all samples, a third of the
//! iterations per second).

/// Confines candle's elementwise operations to the calling thread. A program calls it before it
/// starts any thread.
///
/// Does nothing where the user has set `CANDLE_NUM_THREADS`.
#[allow(unsafe_code)]
pub fn use_one_thread_pool() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the caller's promise, first in the program: no other thread exists that could
        // read the environment.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}
