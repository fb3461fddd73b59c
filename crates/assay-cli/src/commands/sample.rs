//! `assay sample`: completions of problems as traces.

use std::io::Write;

use anyhow::{Result, bail};
use assay_critic::encode::Encoder;
use assay_critic::policy_model::PolicyModel;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::problem::Problem;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::TraceWriter;
use assay_train::run::evaluate::{EvaluationPlan, sample_problems};
use serde_json::json;

use crate::args::SampleArgs;
use crate::open;
use crate::progress::Progress;
use crate::signals::{Interrupted, StopFlag};

/// Full batches per chunk. The traces of a chunk are in memory together, and a signal stops after a
/// chunk. In a chunk of one batch, most of the batch would be empty while its last sequences are
/// sampled.
const BATCHES_PER_CHUNK: usize = 2;

/// Counts of the samples so far.
#[derive(Default)]
struct Tally {
    problems: usize,
    traces: usize,
    tokens: usize,
    /// Traces in which no answer could be read.
    unanswered: usize,
    /// Traces of problems with a gold answer.
    known: usize,
    right: usize,
}

/// Runs the command.
pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let (problems, mut writer) = args.draw.open()?;
    let model = open::model(&args.model, &args.compute.placement()?)?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    let prompt = open::prompt_settings(args.adapter.as_deref(), args.style, args.template)?;
    let (limits, stop) = args.draw.limits(&model)?;
    let encoder = Encoder::new(&model, &prompt, limits);
    encoder.ensure_prompts_fit(&problems)?;
    let tally = sample(args, &policy, &encoder, &problems, &stop, &mut writer)?;
    writer.finish()?;
    if tally.problems < problems.len() {
        bail!(Interrupted {
            done: tally.problems,
            all: problems.len(),
            what: "problems",
            path: args.draw.out.clone(),
        });
    }
    print(&tally, problems.len(), args)
}

fn sample(
    args: &SampleArgs,
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[Problem],
    stop: &SamplingLimits,
    writer: &mut TraceWriter,
) -> Result<Tally> {
    let draw = args.draw.distribution()?;
    let named = args.adapter.as_ref().unwrap_or(&args.model);
    let generator = match &args.generator {
        Some(name) => name.clone(),
        None => named.display().to_string(),
    };
    let flag = StopFlag::listen()?;
    let mut progress = Progress::new("sample", problems.len());
    let mut tally = Tally::default();
    let chunk_size = problems_per_chunk(args.draw.batch, args.samples);
    for (index, chunk) in problems.chunks(chunk_size).enumerate() {
        let plan = EvaluationPlan {
            draw: &draw,
            limits: stop,
            samples: args.samples,
            seed: args.draw.seed,
            first_problem: index * chunk_size,
            generator: &generator,
        };
        for trace in sample_problems(policy, encoder, chunk, &plan, |_| ())? {
            tally.add(&trace);
            writer.write(&trace)?;
        }
        tally.problems += chunk.len();
        let text = tally
            .accuracy()
            .map_or(String::new(), |accuracy| format!("accuracy {accuracy:.3}"));
        progress.set(tally.problems, problems.len(), &text);
        if flag.is_raised() {
            break;
        }
    }
    progress.finish();
    Ok(tally)
}

/// The number of problems whose samples fill the batch [`BATCHES_PER_CHUNK`] times.
fn problems_per_chunk(batch: usize, samples: usize) -> usize {
    batch
        .saturating_mul(BATCHES_PER_CHUNK)
        .div_ceil(samples.max(1))
}

impl Tally {
    fn add(&mut self, trace: &ScoredTrace) {
        self.traces += 1;
        self.tokens += trace.token_ids.len();
        self.unanswered += usize::from(trace.predicted_answer.is_none());
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
        unanswered,
        known,
        ..
    } = tally;
    let mut out = std::io::stdout();
    if args.json {
        let accuracy = tally.accuracy();
        let counts = json!({ "traces": traces, "tokens": tokens, "unanswered": unanswered, "known": known, "accuracy": accuracy });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    let accuracy = tally.accuracy().map_or(String::new(), |accuracy| {
        format!(", accuracy {accuracy:.4} of {known} with a gold answer")
    });
    writeln!(
        out,
        "{traces} traces of {problems} problems, {unanswered} without an answer that can be read, {tokens} tokens{accuracy}"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::problems_per_chunk;

    #[test]
    fn chunk_fills_the_batch() {
        assert_eq!(problems_per_chunk(64, 1), 128);
        assert_eq!(problems_per_chunk(64, 8), 16);
        assert_eq!(problems_per_chunk(64, 1000), 1);
        assert_eq!(problems_per_chunk(1, 3), 1);
    }
}
