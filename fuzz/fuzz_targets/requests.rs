//! Bodies of requests on every route: read or refused with a message, never a panic.
#![no_main]

use assay_serve::{check_body, endpoints};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for endpoint in endpoints().filter(|endpoint| endpoint.method == "post") {
        if let Err(message) = check_body(endpoint.path, bytes) {
            assert!(!message.is_empty());
        }
    }
});
