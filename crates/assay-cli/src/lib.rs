//! The command line: arguments to settings to command to exit status.
//!
//! Data goes to stdout, messages to stderr. Exit 0 is done, 1 the user's mistake, 2 ours. The
//! binary `assay` calls [`run`], and so does the Python package.

mod allocator;
mod args;
mod commands;
mod failure;
mod on_alarm;
mod open;
mod output;
mod progress;
mod ranks;
mod signals;

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};
pub use crate::failure::told;

/// Runs a command line, whose first argument is the program's name, and returns the exit status.
///
/// It sets an environment variable, so it must be called before the process has a second thread.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    allocator::keep_pages();
    assay_ops::use_one_thread_pool();
    leave_caught_panics_untold();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            let _ = error.print();
            return u8::from(!asked);
        }
    };
    let result = match cli.command {
        Command::Quickstart(args) => commands::quickstart::run(&args),
        Command::Train(args) => commands::train::run(&args).map(drop),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Search(args) => commands::search::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Judge(args) => commands::judge::run(&args),
        Command::Select(args) => commands::select::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Localise(args) => commands::localise::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Calibrate(args) => commands::calibrate::run(&args),
        Command::Show(args) => commands::show::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Sweep(args) => commands::sweep::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Completions(args) => commands::manual::completions(&args),
        Command::Man(args) => commands::manual::man(&args),
    };
    // A host other than Rust's own start code does not empty this buffer when it ends.
    let result = result.and_then(|()| Ok(std::io::stdout().flush()?));
    match result {
        Ok(()) => 0,
        Err(error) => failure::report(&error),
    }
}

/// A reader's panic that becomes an error is told once, as that error.
fn leave_caught_panics_untold() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !assay_tasks::datasets::catches_panics() {
            tell(panic);
        }
    }));
}
