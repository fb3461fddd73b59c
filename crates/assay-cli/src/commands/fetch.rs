//! `assay fetch`: downloads a model or data set from the Hugging Face hub into the cache that
//! Python shares.

use std::io::Write;

use anyhow::Result;

use crate::args::FetchArgs;
use crate::open;

/// Runs the command: prints the local path.
pub(crate) fn run(args: &FetchArgs) -> Result<()> {
    let path = open::locate(&args.name)?;
    writeln!(std::io::stdout(), "{}", path.display())?;
    Ok(())
}
