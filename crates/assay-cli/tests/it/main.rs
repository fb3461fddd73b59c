//! The integration tests of the binary and of the workspace's rules.

mod architecture;
