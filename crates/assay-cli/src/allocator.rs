//! The allocator of the process, and that it keeps the pages that it once had.
//!
//! Training and decoding allocate and free large tensors all the time. Pages that go back to the system are cleared and faulted in again:
//! a third of the time of an update that keeps its activations.

use std::ffi::{c_int, c_long};

use libmimalloc_sys::{mi_option_get, mi_option_set_default};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`: milliseconds until freed pages go back to the system. The bindings do not name it.
const PURGE_DELAY: c_int = 15;
/// What that option is called for never.
const NEVER: c_long = -1;

/// Keeps freed pages for the next tensor; the user's `MIMALLOC_PURGE_DELAY` stands. Gives the delay in use.
#[allow(unsafe_code)]
pub(crate) fn keep_pages() -> c_long {
    // SAFETY: both functions take any option below `_mi_option_last` and any value, from any thread.
    unsafe {
        mi_option_set_default(PURGE_DELAY, NEVER);
        mi_option_get(PURGE_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

    /// Run again as a child with the variable set, which the allocator reads once: so the number is the option's.
    #[test]
    fn pages_are_kept_unless_the_user_says_otherwise() {
        if std::env::var_os(VARIABLE).is_some() {
            assert_eq!(keep_pages(), 7);
            return;
        }
        assert_eq!(keep_pages(), NEVER);
        let this = std::env::current_exe().unwrap();
        let child = std::process::Command::new(this)
            .args(["pages_are_kept", "--test-threads", "1"])
            .env(VARIABLE, "7")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
