//! `assay sample`: completions of problems as traces.

use std::io::Write;

use anyhow::{Result, ensure};
use assay_irl::encode::{Encoder, TokenLimits};
use assay_irl::policy_model::PolicyModel;
use assay_irl::trainer::evaluate::{EvaluationPlan, sample_problems};
use assay_lm::draw::SamplingSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::datasets::Required;
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::TraceWriter;
use serde_json::json;

use crate::args::SampleArgs;
use crate::open;
use crate::progress::Progress;

/// Problems sampled together: their traces are in memory at a time.
const CHUNK: usize = 16;

/// What was sampled so far.
#[derive(Default)]
struct Tally {
    traces: usize,
    tokens: usize,
    /// Traces of problems with a gold answer.
    known: usize,
    right: usize,
}

/// Runs the command.
pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    ensure!(args.samples > 0, "--samples must be at least 1");
    ensure!(args.max_tokens > 0, "--max-tokens must be at least 1");
    ensure!(args.batch > 0, "--batch must be at least 1");
    open::ensure_output(&args.out, &[&args.problems])?;
    let problems = open::problems(
        (&args.problems, args.format),
        args.limit,
        Required::Question,
    )?;
    let mut writer = TraceWriter::create(&args.out)?;
    let model = open::model(&args.model, &args.compute.placement()?)?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    let prompt = PromptSettings {
        style: args.style.into(),
        ..PromptSettings::default()
    };
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
    let encoder = Encoder::new(&model, &prompt, limits);
    let stop = SamplingLimits {
        max_new_tokens: args.max_tokens,
        stop_tokens: vec![model.end_of_turn()],
        max_sequences: args.batch,
    };
    let tally = sample(args, (&policy, &encoder), &problems, &stop, &mut writer)?;
    writer.finish()?;
    print(&tally, problems.len(), args)
}

fn sample(
    args: &SampleArgs,
    (policy, encoder): (&PolicyModel, &Encoder<'_>),
    problems: &[Problem],
    stop: &SamplingLimits,
    writer: &mut TraceWriter,
) -> Result<Tally> {
    let draw = SamplingSettings {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
    };
    draw.validate()?;
    let named = args.adapter.as_ref().unwrap_or(&args.model);
    let generator = match &args.generator {
        Some(name) => name.clone(),
        None => named.display().to_string(),
    };
    let mut progress = Progress::new("sample", problems.len());
    let mut tally = Tally::default();
    for (index, chunk) in problems.chunks(CHUNK).enumerate() {
        let plan = EvaluationPlan {
            draw: &draw,
            limits: stop,
            samples: args.samples,
            seed: args.seed,
            first_problem: index * CHUNK,
            generator: &generator,
        };
        for trace in sample_problems(policy, encoder, chunk, &plan, |_| ())? {
            tally.add(&trace);
            writer.write(&trace)?;
        }
        let text = tally
            .accuracy()
            .map_or(String::new(), |accuracy| format!("accuracy {accuracy:.3}"));
        progress.set(index * CHUNK + chunk.len(), problems.len(), &text);
    }
    progress.finish();
    Ok(tally)
}

impl Tally {
    fn add(&mut self, trace: &ScoredTrace) {
        self.traces += 1;
        self.tokens += trace.token_ids.len();
        self.known += usize::from(trace.correct.is_some());
        self.right += usize::from(trace.correct == Some(true));
    }

    /// Share of correct traces among those with a gold answer.
    fn accuracy(&self) -> Option<f64> {
        (self.known > 0).then(|| self.right as f64 / self.known as f64)
    }
}

fn print(tally: &Tally, problems: usize, args: &SampleArgs) -> Result<()> {
    let Tally {
        traces,
        tokens,
        known,
        ..
    } = tally;
    let mut out = std::io::stdout();
    if args.json {
        let accuracy = tally.accuracy();
        let counts =
            json!({ "traces": traces, "tokens": tokens, "known": known, "accuracy": accuracy });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    let accuracy = tally.accuracy().map_or(String::new(), |accuracy| {
        format!(", accuracy {accuracy:.4} of {known} with a gold answer")
    });
    writeln!(
        out,
        "{traces} traces of {problems} problems, {tokens} tokens{accuracy}"
    )?;
    Ok(())
}
