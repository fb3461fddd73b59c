//! The command line: it parses arguments, runs a command and returns an exit status.
//!
//! Data goes to stdout, messages to stderr. Exit status 0 means success, 1 a user's mistake, 2 a
//! fault of assay. The binary `assay` and the Python package call [`run`].

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
        Command::Edit(args) => commands::edit::run(&args),
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
    // Only Rust's own runtime flushes this buffer at exit; the Python package has another.
    let result = result.and_then(|()| Ok(std::io::stdout().flush()?));
    match result {
        Ok(()) => 0,
        Err(error) => failure::report(&error),
    }
}

/// Silences the panic hook for panics of a file reader that are caught and returned as errors, so
/// that each is reported once.
fn leave_caught_panics_untold() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !assay_tasks::datasets::catches_panics() {
            tell(panic);
        }
    }));
}
