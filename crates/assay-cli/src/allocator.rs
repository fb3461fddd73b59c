//! The allocator of the process, and when it returns freed pages to the system.
//!
//! Training and decoding allocate and free large tensors all the time. The system clears returned
//! pages and faults them in again, which takes a third of the time of an update that keeps its
//! activations. So freed pages are kept. The exception is loading a model: the buffers that it
//! frees leave holes that later tensors fill only in part, so these pages are returned.

use std::ffi::{c_int, c_long};

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set_default};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`: milliseconds until freed pages are returned to the system. The bindings
/// have no constant for it.
const PURGE_DELAY: c_int = 15;
/// Never return pages.
const NEVER: c_long = -1;
/// Return a page as soon as it is free.
const AT_ONCE: c_long = 0;

/// Keeps freed pages for the next tensor; the user's `MIMALLOC_PURGE_DELAY` takes precedence.
/// Returns the delay in use.
pub(crate) fn keep_pages() -> c_long {
    purge_after(NEVER)
}

/// Runs `load` and returns its freed pages to the system.
pub(crate) fn while_loading<T>(load: impl FnOnce() -> T) -> T {
    purge_after(AT_ONCE);
    let loaded = load();
    // SAFETY: it may be called at any time, from any thread.
    #[allow(unsafe_code)]
    unsafe {
        mi_collect(true);
    }
    keep_pages();
    loaded
}

#[allow(unsafe_code)]
fn purge_after(milliseconds: c_long) -> c_long {
    // SAFETY: both functions take any option below `_mi_option_last` and any value, from any
    // thread.
    unsafe {
        mi_option_set_default(PURGE_DELAY, milliseconds);
        mi_option_get(PURGE_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

    /// Runs this test again in a child process with the variable set, since the allocator reads it
    /// only once. The result shows that the constant is that of the option.
    #[test]
    fn pages_are_kept_unless_the_user_says_otherwise() {
        if std::env::var_os(VARIABLE).is_some() {
            assert_eq!(keep_pages(), 7);
            return;
        }
        assert_eq!(keep_pages(), NEVER);
        assert_eq!(while_loading(|| purge_after(AT_ONCE)), AT_ONCE);
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
