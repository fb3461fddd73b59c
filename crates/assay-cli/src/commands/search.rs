//! `assay search`: writes scored traces found by a search with the critic during sampling.

use std::io::Write;

use anyhow::{Result, bail, ensure};
use assay_critic::Critic;
use assay_critic::encode::Encoder;
use assay_critic::search::{SearchOutcome, SearchPlan, Searcher};
use assay_evals::scores::TraceScore;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::problem::Problem;
use assay_tasks::trace_io::TraceWriter;
use serde_json::json;

use crate::args::SearchArgs;
use crate::open;
use crate::progress::Progress;
use crate::signals::{Interrupted, StopFlag};

/// Problems searched together; all their prefixes are in memory at the same time.
const CHUNK: usize = 16;

/// Counts of the results.
#[derive(Default)]
struct Counts {
    problems: usize,
    candidates: usize,
    generated_tokens: usize,
    scored_tokens: usize,
}

/// Runs the command.
pub(crate) fn run(args: &SearchArgs) -> Result<()> {
    let score = validated(args)?;
    let (problems, mut writer) = args.draw.open()?;
    let (model, reward) = open::reward(
        &args.reward,
        args.model.as_deref(),
        &args.compute.placement()?,
    )?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    let (limits, stop) = args.draw.limits(&model)?;
    let encoder = Encoder::new(&model, &reward.scoring.prompt, limits);
    encoder.ensure_prompts_fit(&problems)?;
    let critic = Critic::new(&reward, &model, args.token_budget);
    let searcher = Searcher::new(&policy, &critic, &encoder, &model);
    let counts = search(args, &searcher, score, &problems, &stop, &mut writer)?;
    writer.finish()?;
    if counts.problems < problems.len() {
        bail!(Interrupted {
            done: counts.problems,
            all: problems.len(),
            what: "problems",
            path: args.draw.out.clone(),
        });
    }
    print(&counts, args)
}

/// The prefix score. Fails if an option is invalid.
fn validated(args: &SearchArgs) -> Result<TraceScore> {
    ensure!(
        args.width > 0 && args.samples > 0 && args.samples.is_multiple_of(args.width),
        "--samples {} must be a positive multiple of --width {}",
        args.samples,
        args.width
    );
    let score = TraceScore::parse(&args.score)?;
    ensure!(
        TraceScore::OF_REWARDS.contains(&score),
        "--score {} is not computed from token rewards",
        args.score
    );
    Ok(score)
}

fn search(
    args: &SearchArgs,
    searcher: &Searcher<'_>,
    score: TraceScore,
    problems: &[Problem],
    stop: &SamplingLimits,
    writer: &mut TraceWriter,
) -> Result<Counts> {
    let draw = args.draw.distribution()?;
    let flag = StopFlag::listen()?;
    let mut progress = Progress::new("search", problems.len());
    let mut counts = Counts::default();
    for (index, chunk) in problems.chunks(CHUNK).enumerate() {
        let plan = SearchPlan {
            strategy: args.strategy.into(),
            samples: args.samples,
            width: args.width,
            score,
            draw: &draw,
            limits: stop,
            seed: args.draw.seed,
            first_problem: index * CHUNK,
            generator: args.strategy.name(),
        };
        let found = searcher.search(chunk, &plan)?;
        counts.add(&found);
        for trace in &found.traces {
            writer.write(trace)?;
        }
        counts.problems += chunk.len();
        progress.set(counts.problems, problems.len(), "");
        if flag.is_raised() {
            break;
        }
    }
    progress.finish();
    Ok(counts)
}

impl Counts {
    fn add(&mut self, found: &SearchOutcome) {
        self.candidates += found.traces.len();
        self.generated_tokens += found.generated_tokens;
        self.scored_tokens += found.scored_tokens;
    }
}

fn print(counts: &Counts, args: &SearchArgs) -> Result<()> {
    let Counts {
        problems,
        candidates,
        generated_tokens,
        scored_tokens,
    } = counts;
    let mut out = std::io::stdout();
    if args.json {
        let record = json!({ "candidates": candidates, "problems": problems,
            "generated_tokens": generated_tokens, "scored_tokens": scored_tokens });
        writeln!(out, "{record}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{candidates} candidates of {problems} problems: {generated_tokens} tokens generated, {scored_tokens} scored\n\
         choose among them: assay select --traces {} --score {}",
        args.draw.out.display(),
        args.score
    )?;
    Ok(())
}
