//! `assay sample`: completions of problems as traces.

use std::io::Write;

use anyhow::Result;
use assay_irl::encode::{Encoder, TokenLimits};
use assay_irl::trainer::evaluate::{EvaluationPlan, sample_problems};
use assay_lm::draw::SamplingSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::datasets::Required;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::trace_io::TraceWriter;
use serde_json::json;

use crate::args::SampleArgs;
use crate::open;
use crate::progress::Progress;

/// Problems sampled together: their prompts are in memory at a time.
const CHUNK: usize = 16;

/// Runs the command.
pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let problems = open::problems(&args.problems, args.limit, Required::Question)?;
    let model = open::model(&args.model)?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    let prompt = PromptSettings {
        style: args.style.into(),
        ..PromptSettings::default()
    };
    let positions = model.transformer.config().max_positions;
    let limits = TokenLimits {
        prompt: positions.saturating_sub(args.max_tokens).max(1),
        completion: args.max_tokens,
    };
    let encoder = Encoder::new(&model, &prompt, limits);
    let draw = SamplingSettings {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
    };
    let stop = SamplingLimits {
        max_new_tokens: args.max_tokens,
        stop_tokens: vec![model.end_of_turn()],
        max_sequences: args.batch,
    };
    let named = args
        .adapter
        .as_ref()
        .unwrap_or(&args.model)
        .display()
        .to_string();
    let generator = args.generator.clone().unwrap_or(named);
    let mut writer = TraceWriter::create(&args.out)?;
    let mut progress = Progress::new("sample", problems.len());
    let (mut traces, mut right, mut known, mut tokens) = (0, 0, 0, 0);
    for (index, chunk) in problems.chunks(CHUNK).enumerate() {
        let plan = EvaluationPlan {
            draw: &draw,
            limits: &stop,
            samples: args.samples,
            seed: args.seed,
            first_problem: index * CHUNK,
            generator: &generator,
        };
        for trace in sample_problems(&policy, &encoder, chunk, &plan, |_| ())? {
            traces += 1;
            tokens += trace.token_ids.len();
            known += usize::from(trace.correct.is_some());
            right += usize::from(trace.correct == Some(true));
            writer.write(&trace)?;
        }
        let accuracy = right as f64 / known.max(1) as f64;
        progress.set(
            index * CHUNK + chunk.len(),
            problems.len(),
            &format!("accuracy {accuracy:.3}"),
        );
    }
    progress.finish();
    writer.finish()?;
    let accuracy = (known > 0).then(|| right as f64 / known as f64);
    let mut out = std::io::stdout();
    if args.json {
        writeln!(
            out,
            "{}",
            json!({ "traces": traces, "tokens": tokens, "known": known, "accuracy": accuracy })
        )?;
    } else {
        let accuracy = accuracy.map_or(String::new(), |a| {
            format!(", accuracy {a:.4} of {known} with a gold answer")
        });
        writeln!(
            out,
            "{traces} traces of {} problems, {tokens} tokens{accuracy}",
            problems.len()
        )?;
    }
    Ok(())
}
