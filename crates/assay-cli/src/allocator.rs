//! The allocator of the process, and when it keeps the pages that it once had.
//!
//! Training and decoding allocate and free large tensors all the time. Pages that go back to the
//! system are cleared and faulted in again: a third of the time of an update that keeps its
//! activations. What a model is read from and laid out in leaves holes that later tensors
//! fill in part only: these pages are returned to the system.

use std::ffi::{c_int, c_long};

use libmimalloc_sys::{mi_collect, mi_option_get, mi_option_set_default};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`: milliseconds until freed pages go back to the system. The bindings do
/// not name it.
const PURGE_DELAY: c_int = 15;
/// The value for never.
const NEVER: c_long = -1;
/// The value for as soon as a page is free.
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

    /// Run again as a child with the variable set, which the allocator reads once: so the number is
    /// the option's.
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
