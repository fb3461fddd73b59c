//! The `assay` binary. The commands are in the library, which the Python package calls too.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(assay_cli::run(std::env::args_os()))
}
