//! `assay edit`: demonstrations with one step that a language model on a server rewrote wrongly.

mod edits;
mod request;

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use assay_tasks::datasets::{DatasetSettings, Required};
use assay_tasks::prompts::PromptSettings;
use assay_train::remote::{Client, RetryLimits, run_jobs};
use serde_json::json;

use self::edits::EditFile;
use self::request::{Edit, EditRequest, Rejected};
use crate::args::EditArgs;
use crate::open;
use crate::progress::Progress;
use crate::signals::{Interrupted, StopFlag};

/// Maximum number of answers of the server for one edit that cannot be used.
const MAX_UNUSABLE_ANSWERS: usize = 3;

/// The result of one request.
enum Outcome {
    /// The step was rewritten.
    Edited(Edit),
    /// No answer can be used; the reason of the last one.
    Unusable(Rejected),
    /// A signal came before the request was sent.
    Skipped,
}

/// Counts of an invocation.
#[derive(Default)]
struct Tally {
    edited: usize,
    unusable: usize,
    skipped: usize,
    /// The reason of one of the unusable answers.
    example: Option<Rejected>,
}

/// Runs the command.
pub(crate) fn run(args: &EditArgs) -> Result<()> {
    for (name, count) in [
        ("--edits", args.edits),
        ("--concurrency", args.concurrency),
        ("--attempts", args.attempts),
        ("--timeout", args.timeout as usize),
        ("--max-tokens", args.max_tokens),
    ] {
        ensure!(count > 0, "{name} must be at least 1");
    }
    let address = args.server.as_str();
    ensure!(
        address.starts_with("http://") || address.starts_with("https://"),
        "--server must begin with http:// or https://, not be {address:?}"
    );
    open::ensure_output(&args.out, &[&args.problems])?;
    let requests = requests(args)?;
    if args.dry_run {
        return describe(args, &requests);
    }
    let mut file = EditFile::open(&args.out)?;
    let all = requests.len();
    let left: Vec<EditRequest> = requests
        .into_iter()
        .filter(|request| !file.holds(&request.key))
        .collect();
    let known = all - left.len();
    let tally = edit(args, &left, &mut file)?;
    if tally.skipped > 0 {
        bail!(Interrupted {
            done: known + tally.edited,
            all,
            what: "edits",
            path: args.out.clone(),
        });
    }
    print(args, known, &tally)?;
    ensure!(
        known + tally.edited > 0,
        "{} gave no edit that can be used: {}",
        args.server,
        tally.example.map_or("no step to rewrite", Rejected::reason)
    );
    Ok(())
}

/// The edits to ask for: in each demonstration, different steps before its answer.
fn requests(args: &EditArgs) -> Result<Vec<EditRequest>> {
    let settings = DatasetSettings {
        limit: args.limit,
        ..args
            .layout
            .settings(&args.problems, Required::Demonstration)
    };
    let prompt = PromptSettings {
        style: args.style.into(),
        ..PromptSettings::default()
    };
    let problems = open::problems(&settings)?;
    let requests: Vec<EditRequest> = problems
        .iter()
        .flat_map(|problem| EditRequest::of(problem, &prompt, args))
        .collect();
    ensure!(
        !requests.is_empty(),
        "no demonstration in {} has a step before its answer",
        args.problems.display()
    );
    Ok(requests)
}

/// Prints what the command would send.
fn describe(args: &EditArgs, requests: &[EditRequest]) -> Result<()> {
    let bodies = requests.iter().map(|request| request.body(args, 0));
    let characters: usize = bodies.map(|body| request::prompt_characters(&body)).sum();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} requests to {}/chat/completions with {characters} characters of prompts in all (about {} tokens) and at most {} \
         tokens in each answer. The first one:",
        requests.len(),
        args.server.trim_end_matches('/'),
        characters / 4,
        args.max_tokens
    )?;
    let first = requests.first().map(|request| request.body(args, 0));
    writeln!(out, "{}", serde_json::to_string_pretty(&first)?)?;
    Ok(())
}

/// Asks for the edits and appends each to the file when it arrives.
fn edit(args: &EditArgs, requests: &[EditRequest], file: &mut EditFile) -> Result<Tally> {
    let limits = RetryLimits {
        timeout: std::time::Duration::from_secs(args.timeout),
        attempts: args.attempts,
    };
    let key_file = args.key_file.clone().unwrap_or_default();
    let client = Client::new(&args.server, &key_file, limits)
        .with_context(|| format!("reading the key {}", key_file.display()))?;
    let flag = StopFlag::listen()?;
    let ask = |request: &EditRequest| match flag.is_raised() {
        true => Ok(Outcome::Skipped),
        false => outcome(&client, request, args),
    };
    let (mut tally, mut done) = (Tally::default(), 0);
    let mut progress = Progress::new("edit", requests.len());
    let ended = run_jobs(requests, args.concurrency, ask, |outcome| {
        match outcome {
            Outcome::Edited(edit) => {
                file.append(edit)?;
                tally.edited += 1;
            }
            Outcome::Unusable(reason) => {
                tally.unusable += 1;
                tally.example = Some(*reason);
            }
            Outcome::Skipped => tally.skipped += 1,
        }
        done += 1;
        progress.set(done, requests.len(), "");
        anyhow::Ok(())
    });
    progress.finish();
    let kept = || {
        let out = args.out.display();
        format!("stopped; {out} holds the edits made so far, and the same command continues")
    };
    ended.with_context(kept)?;
    Ok(tally)
}

/// One edit. Asks again, with another seed, if an answer cannot be used.
fn outcome(client: &Client, request: &EditRequest, args: &EditArgs) -> Result<Outcome> {
    let mut rejected = Rejected::NoText;
    for attempt in 0..MAX_UNUSABLE_ANSWERS {
        let answer = client.post("chat/completions", &request.body(args, attempt))?;
        match request.edited(&answer, &args.model) {
            Ok(edit) => return Ok(Outcome::Edited(edit)),
            Err(reason) => rejected = reason,
        }
    }
    Ok(Outcome::Unusable(rejected))
}

fn print(args: &EditArgs, known: usize, tally: &Tally) -> Result<()> {
    let Tally {
        edited, unusable, ..
    } = tally;
    let mut out = std::io::stdout();
    if args.json {
        let counts = json!({ "edited": edited, "known": known, "unusable": unusable });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{edited} edits written to {}, {known} held already, {unusable} without an answer that can be used",
        args.out.display()
    )?;
    if let Some(reason) = tally.example {
        writeln!(out, "the reason of one of them: {}", reason.reason())?;
    }
    Ok(())
}
