//! `assay search`: candidates found with the critic while sampling, as scored traces.

use std::io::Write;

use anyhow::{Result, ensure};
use assay_evals::scores::TraceScore;
use assay_irl::critic::Critic;
use assay_irl::encode::{Encoder, TokenLimits};
use assay_irl::search::{SearchOutcome, SearchPlan, Searcher};
use assay_lm::draw::SamplingSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::datasets::Required;
use assay_tasks::problem::Problem;
use assay_tasks::trace_io::TraceWriter;
use serde_json::json;

use crate::args::SearchArgs;
use crate::open;
use crate::progress::Progress;

/// Problems searched together: their prefixes are in memory at a time.
const CHUNK: usize = 16;

/// What was found, in numbers.
#[derive(Default)]
struct Counts {
    candidates: usize,
    generated_tokens: usize,
    scored_tokens: usize,
}

/// Runs the command.
pub(crate) fn run(args: &SearchArgs) -> Result<()> {
    let score = validated(args)?;
    let problems = open::problems(
        (&args.problems, args.format),
        args.limit,
        Required::Question,
    )?;
    let mut writer = TraceWriter::create(&args.out)?;
    let (model, reward) = open::reward(
        &args.reward,
        args.model.as_deref(),
        &args.compute.placement()?,
    )?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    let positions = model.transformer.config().max_positions;
    ensure!(
        args.max_tokens < positions,
        "--max-tokens {} leaves no room for a prompt: the model has {positions} positions",
        args.max_tokens
    );
    let limits = TokenLimits {
        prompt: positions - args.max_tokens,
        completion: args.max_tokens,
    };
    let encoder = Encoder::new(&model, &reward.scoring.prompt, limits);
    let critic = Critic::new(&reward, &model, args.token_budget);
    let searcher = Searcher::new(&policy, &critic, &encoder, &model);
    let stop = SamplingLimits {
        max_new_tokens: args.max_tokens,
        stop_tokens: vec![model.end_of_turn()],
        max_sequences: args.batch,
    };
    let counts = search(args, (&searcher, score), &problems, &stop, &mut writer)?;
    writer.finish()?;
    print(&counts, problems.len(), args)
}

/// The prefix score, when all numbers make sense.
fn validated(args: &SearchArgs) -> Result<TraceScore> {
    ensure!(args.max_tokens > 0, "--max-tokens must be at least 1");
    ensure!(args.batch > 0, "--batch must be at least 1");
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
    (searcher, score): (&Searcher<'_>, TraceScore),
    problems: &[Problem],
    stop: &SamplingLimits,
    writer: &mut TraceWriter,
) -> Result<Counts> {
    let draw = SamplingSettings {
        temperature: args.temperature,
        ..SamplingSettings::default()
    };
    draw.validate()?;
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
            seed: args.seed,
            first_problem: index * CHUNK,
            generator: args.strategy.name(),
        };
        let found = searcher.search(chunk, &plan)?;
        counts.add(&found);
        for trace in &found.traces {
            writer.write(trace)?;
        }
        progress.set(index * CHUNK + chunk.len(), problems.len(), "");
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

fn print(counts: &Counts, problems: usize, args: &SearchArgs) -> Result<()> {
    let Counts {
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
        args.out.display(),
        args.score
    )?;
    Ok(())
}
