//! The `assay` binary: arguments to settings to command to exit status.
//!
//! Data goes to stdout, messages to stderr. Exit status 0 is success, 1 a mistake of
//! the user, 2 an internal error.

mod allocator;
mod args;
mod commands;
mod failure;
mod open;
mod output;
mod progress;
mod ranks;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    allocator::keep_pages();
    assay_ops::use_one_thread_pool();
    leave_caught_panics_untold();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            let _ = error.print();
            return ExitCode::from(u8::from(!asked));
        }
    };
    let result = match cli.command {
        Command::Quickstart(args) => commands::quickstart::run(&args),
        Command::Train(args) => commands::train::run(&args).map(drop),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Search(args) => commands::search::run(&args),
        Command::Score(args) => commands::score::run(&args),
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
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

/// A panic that a reader turns into an error is printed once, as that error.
fn leave_caught_panics_untold() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !assay_tasks::datasets::catches_panics() {
            tell(panic);
        }
    }));
}
