//! `assay judge`: token rewards of traces from a model that reads each problem's demonstration.

use std::collections::HashMap;
use std::io::Write;

use anyhow::{Result, bail, ensure};
use assay_critic::encode::{Encoder, TokenLimits};
use assay_critic::judge::{Judge, JudgedTraces, judged_score};
use assay_evals::scores::{ScoreSettings, score_all};
use assay_tasks::datasets::Required;
use assay_tasks::perturbations::Hints;
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::random::{StreamKey, text_key};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{TraceWriter, read_foreign_traces};
use serde_json::json;

use crate::args::JudgeArgs;
use crate::open;
use crate::progress::Progress;
use crate::signals::{Interrupted, StopFlag};

/// Counts of the judged traces.
#[derive(Default)]
struct Tally {
    judged: usize,
    /// Traces of a problem without a demonstration or without a misleading version of it.
    without_hints: usize,
    /// Traces without tokens, or longer than the model's context.
    unread: usize,
}

/// Runs the command.
pub(crate) fn run(args: &JudgeArgs) -> Result<()> {
    ensure!(args.hints > 0, "--hints must be at least 1");
    open::ensure_output(&args.out, &[&args.traces, &args.problems])?;
    let traces = read_foreign_traces(&args.traces)?;
    ensure!(
        !traces.is_empty(),
        "{} holds no trace",
        args.traces.display()
    );
    let settings = args.layout.settings(&args.problems, Required::Question);
    let demonstrations = Demonstrations::new(open::problems(&settings)?);
    let mut writer = TraceWriter::create(&args.out)?;
    let model = open::model(&args.model, &args.compute.placement()?)?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    let prompt = PromptSettings {
        style: args.style.into(),
        ..PromptSettings::default()
    };
    let positions = model.transformer.config().max_positions;
    let limits = TokenLimits {
        prompt: positions,
        completion: positions,
    };
    let judging = Judging {
        judge: Judge {
            model: &model,
            transformer: &policy.transformer,
            adapter: policy.adapter(),
            prompt: &prompt,
        },
        encoder: Encoder::new(&model, &prompt, limits),
        positions,
        demonstrations,
        args,
    };
    let (all, mut done, mut tally) = (traces.len(), 0, Tally::default());
    let flag = StopFlag::listen()?;
    let mut progress = Progress::new("judge", all);
    for group in traces.chunk_by(|a, b| a.id == b.id && a.question == b.question) {
        for trace in judging.judged(group, &mut tally)? {
            writer.write(&trace)?;
        }
        done += group.len();
        progress.set(done, all, "");
        if flag.is_raised() {
            break;
        }
    }
    progress.finish();
    writer.finish()?;
    if done < all {
        bail!(Interrupted {
            done,
            all,
            what: "traces",
            path: args.out.clone(),
        });
    }
    print(&tally, args)
}

/// Problems by id and by question.
struct Demonstrations {
    problems: Vec<Problem>,
    by_id: HashMap<String, usize>,
    by_question: HashMap<String, usize>,
}

impl Demonstrations {
    fn new(problems: Vec<Problem>) -> Self {
        let keyed = |key: fn(&Problem) -> &str| {
            let numbered = problems.iter().enumerate().rev();
            numbered
                .map(|(index, problem)| (key(problem).trim().to_owned(), index))
                .collect()
        };
        Self {
            by_id: keyed(|problem| &problem.id),
            by_question: keyed(|problem| &problem.question),
            problems,
        }
    }

    /// The problem of a trace, found by its question, or by its id if the trace has no question.
    fn of(&self, trace: &ScoredTrace) -> Option<&Problem> {
        let question = trace.question.trim();
        let index = match question.is_empty() {
            true => self.by_id.get(trace.id.trim()),
            false => self.by_question.get(question),
        };
        index.map(|&index| &self.problems[index])
    }
}

struct Judging<'j> {
    judge: Judge<'j>,
    encoder: Encoder<'j>,
    positions: usize,
    demonstrations: Demonstrations,
    args: &'j JudgeArgs,
}

impl Judging<'_> {
    /// The traces of one question, with token rewards and scores where they could be judged.
    fn judged(&self, traces: &[ScoredTrace], tally: &mut Tally) -> Result<Vec<ScoredTrace>> {
        let mut traces = traces.to_vec();
        let problem = traces
            .first()
            .and_then(|trace| self.demonstrations.of(trace));
        let hints = problem.and_then(|problem| self.hints(problem));
        let (Some(problem), Some(hints)) = (problem, hints) else {
            tally.without_hints += traces.len();
            return Ok(traces);
        };
        let longest = std::iter::once(&hints.right).chain(&hints.wrong);
        let mut prompt = 0;
        for hint in longest {
            prompt = prompt.max(self.judge.prompt(&problem.question, hint)?.len());
        }
        let mut readable = Vec::with_capacity(traces.len());
        for (index, trace) in traces.iter_mut().enumerate() {
            self.encoder.complete(trace)?;
            let tokens = trace.token_ids.len();
            match tokens > 0 && prompt + tokens <= self.positions {
                true => readable.push(index),
                false => tally.unread += 1,
            }
        }
        let judged = JudgedTraces {
            question: &problem.question,
            hints,
            completions: readable
                .iter()
                .map(|&index| traces[index].token_ids.clone())
                .collect(),
        };
        let rewards = self.judge.rewards(&judged, self.args.token_budget)?;
        for (index, rewards) in readable.into_iter().zip(rewards) {
            let trace = &mut traces[index];
            trace.token_rewards = rewards.iter().copied().map(Some).collect();
            trace.scores = score_all(trace, &ScoreSettings::default());
            trace
                .scores
                .insert("judge".to_owned(), judged_score(&rewards));
            tally.judged += 1;
        }
        Ok(traces)
    }

    /// The demonstration of a problem and its misleading versions; `None` if it has none.
    fn hints(&self, problem: &Problem) -> Option<Hints> {
        let demonstration = self.judge.prompt.demonstration(problem)?;
        let mut stream = StreamKey::Hints.stream(self.args.seed, &[text_key(&problem.id)]);
        let hints = Hints::of(&demonstration, self.args.hints, &mut stream);
        (!hints.wrong.is_empty()).then_some(hints)
    }
}

fn print(tally: &Tally, args: &JudgeArgs) -> Result<()> {
    let Tally {
        judged,
        without_hints,
        unread,
    } = tally;
    let mut out = std::io::stdout();
    if args.json {
        let counts = json!({ "judged": judged, "without_hints": without_hints, "unread": unread });
        writeln!(out, "{counts}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{judged} traces judged; left without rewards: {without_hints} whose problem has no demonstration or none that can be \
         made misleading, {unread} empty or longer than the model reads"
    )?;
    Ok(())
}
