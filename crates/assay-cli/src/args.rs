//! The command line: names, options and their help.

mod drawing;
mod layout;
mod looking;

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use assay_critic::search::SearchStrategy;
use assay_lm::directory::WeightType;
use assay_lm::{DeviceName, Placement, PlacementSettings, Precision};
use assay_tasks::prompts::{PromptStyle, Template};
use assay_train::settings::PassBudget;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::drawing::DrawArgs;
pub(crate) use self::layout::LayoutArgs;
pub(crate) use self::looking::*;
use crate::commands::bench::{Shape, Stage};

/// Learn a dense reasoning reward from expert demonstrations, train a policy with it, use it as a critic.
#[derive(Parser)]
#[command(name = "assay", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the whole method on a built-in arithmetic task: no files, no network, a few minutes.
    Quickstart(QuickstartArgs),
    /// Train a policy, and with `airl` a reward.
    Train(TrainArgs),
    /// Look at an update that met a number that is not finite, trace by trace.
    Replay(ReplayArgs),
    /// Sample completions of problems.
    Sample(SampleArgs),
    /// Search for completions with the critic while sampling: step-level beam search or diverse tree search.
    Search(SearchArgs),
    /// Give traces token rewards and, on request, policy log-probabilities.
    Score(ScoreArgs),
    /// Give traces token rewards from a model that reads each problem's demonstration; nothing is trained.
    Judge(JudgeArgs),
    /// Choose among the traces of each problem and report the accuracy of the choice.
    Select(SelectArgs),
    /// Everything that traces tell: pass@k, selection, reward against correctness.
    Eval(EvalArgs),
    /// Inject errors into demonstrations and see whether the reward finds them.
    Localise(LocaliseArgs),
    /// Fit P(correct) on validation traces and store it with the reward.
    Calibrate(CalibrateArgs),
    /// Print traces as heatmaps in the terminal.
    Show(ShowArgs),
    /// Write an HTML report of runs or of traces.
    Report(ReportArgs),
    /// Time the stages of an iteration at a named shape, beside what the machine can do.
    Bench(BenchArgs),
    /// Train over settings and seeds and put the results in one table.
    Sweep(SweepArgs),
    /// Answer requests for scores, token rewards and answers chosen among samples, with a viewer.
    Serve(ServeArgs),
    /// Write what a run learned for other programs: PEFT adapters, a merged model, TensorBoard events.
    Export(ExportArgs),
    /// Bring a model or data set of the Hugging Face hub into the local cache and print its path.
    Fetch(FetchArgs),
    /// Print a shell's completion script.
    Completions(CompletionsArgs),
    /// Print the manual page, or write one a command.
    Man(ManArgs),
}

#[derive(Args)]
pub(crate) struct QuickstartArgs {
    /// Which built-in task.
    #[arg(long, value_enum, default_value = "arithmetic")]
    pub(crate) task: Task,
    /// Directory of the results.
    #[arg(long, default_value = "runs/quickstart")]
    pub(crate) out: PathBuf,
    /// Seed of everything random.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Override a setting of configs/quickstart.toml or configs/deduction.toml. May be repeated; later ones win.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Head of the reward model.
    #[arg(long, value_enum)]
    pub(crate) head: Option<Head>,
    /// Print summary.json instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Task {
    /// Clock arithmetic; negatives are demonstrations with an injected error.
    Arithmetic,
    /// Deduction in words, without a number; negatives are the policy's own branches.
    Deduction,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Head {
    Linear,
    Implicit,
    Hybrid,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Trainer {
    /// Supervised fine-tuning on demonstrations.
    Sft,
    /// GRPO with the answer verifier.
    Grpo,
    /// Adversarial inverse reinforcement learning from demonstrations.
    Airl,
}

#[derive(Args)]
pub(crate) struct TrainArgs {
    /// Which trainer.
    #[arg(value_enum)]
    pub(crate) trainer: Trainer,
    /// Settings file (TOML).
    #[arg(short, long)]
    pub(crate) config: PathBuf,
    /// Override a setting: `--set run.iterations=20`. May be repeated; later ones win.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Run directory.
    #[arg(long, required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,
    /// Continue from the newest checkpoint in the run directory.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Print the resolved settings and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the last iteration's metrics as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ReplayArgs {
    /// Run directory.
    #[arg(long)]
    pub(crate) run: PathBuf,
    /// Iteration of the failed update; the newest otherwise.
    #[arg(long)]
    pub(crate) iteration: Option<usize>,
    /// Print the failed batch and what was found as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Style {
    /// Reasoning inside `<think>`, answer inside `<answer>`.
    #[value(alias = "think_answer")]
    ThinkAnswer,
    /// Reasoning lines, then `#### answer`.
    Gsm8k,
    /// The question alone.
    Plain,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum TemplateName {
    /// The model's own.
    Own,
    /// Contents of messages with a blank line after each, for base models without a template.
    Plain,
}

impl From<TemplateName> for Template {
    fn from(name: TemplateName) -> Self {
        match name {
            TemplateName::Own => Self::Own,
            TemplateName::Plain => Self::Plain,
        }
    }
}

impl From<Style> for PromptStyle {
    fn from(style: Style) -> Self {
        match style {
            Style::ThinkAnswer => Self::ThinkAnswer,
            Style::Gsm8k => Self::Gsm8k,
            Style::Plain => Self::Plain,
        }
    }
}

/// Where a command computes.
#[derive(Args)]
pub(crate) struct ComputeArgs {
    /// Device: auto, cpu, cuda or cuda:N; auto is the first GPU that answers where assay was built for one.
    #[arg(long, default_value_t)]
    pub(crate) device: DeviceName,
    /// Type of matrices and activations: auto, f32 or bf16; auto is bf16 on a GPU and f32 on a CPU.
    #[arg(long, default_value = "auto")]
    pub(crate) dtype: Precision,
}

impl ComputeArgs {
    /// The device, asked whether it is there.
    pub(crate) fn placement(&self) -> anyhow::Result<Placement> {
        crate::open::placement(PlacementSettings {
            device: self.device,
            dtype: self.dtype,
        })
    }
}

/// Which model, and how it samples.
#[derive(Args)]
pub(crate) struct SampleArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Model: a Hugging Face directory, a .gguf file, or a hub name like org/name@revision or org/name/file.gguf.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Policy adapter (PEFT directory).
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// What is drawn.
    #[command(flatten)]
    pub(crate) draw: DrawArgs,
    /// Samples a problem.
    #[arg(long, default_value_t = 16, value_parser = sample_count)]
    pub(crate) samples: usize,
    /// How prompts and answers are written; as the adapter's run wrote them, else think-answer.
    #[arg(long, value_enum)]
    pub(crate) style: Option<Style>,
    /// Chat template that renders prompts; as in the adapter's run, else the model's own.
    #[arg(long, value_enum)]
    pub(crate) template: Option<TemplateName>,
    /// Name written into the traces; the model's and adapter's path otherwise.
    #[arg(long)]
    pub(crate) generator: Option<String>,
    /// Print accuracy and counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Strategy {
    /// One tree: all prefixes of a problem compete.
    Beam,
    /// Diverse verifier tree search: one prefix a tree, samples / width trees.
    Dvts,
}

impl Strategy {
    /// As it stands in the traces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Beam => "beam",
            Self::Dvts => "dvts",
        }
    }
}

impl From<Strategy> for SearchStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Beam => Self::Beam,
            Strategy::Dvts => Self::Dvts,
        }
    }
}

#[derive(Args)]
pub(crate) struct SearchArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// How prefixes compete.
    #[arg(long, value_enum, default_value_t = Strategy::Dvts)]
    pub(crate) strategy: Strategy,
    /// Reward: a checkpoint's reward directory or an exported adapter.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Model of both players; the one named in the reward otherwise.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Policy adapter (PEFT directory).
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// What is drawn.
    #[command(flatten)]
    pub(crate) draw: DrawArgs,
    /// Steps drawn a problem and round; a multiple of the width.
    #[arg(long, default_value_t = 16, value_parser = sample_count)]
    pub(crate) samples: usize,
    /// Continuations of a prefix.
    #[arg(long, default_value_t = 4)]
    pub(crate) width: usize,
    /// Score of a prefix, from its token rewards: the lowest, so that one bad step is enough to drop it.
    #[arg(long, default_value = "min")]
    pub(crate) score: String,
    /// Rows of a packed batch of the critic.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ScoreArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Reward: a checkpoint's reward directory or an exported adapter.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Base model of the reward; the one named in it otherwise.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Traces: assay's, the two foreign shapes, or ProcessBench's; JSON lines, a JSON array or parquet.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Fill in log-probabilities of this policy too.
    #[arg(long)]
    pub(crate) policy: Option<PathBuf>,
    /// Adapter of that policy.
    #[arg(long, requires = "policy")]
    pub(crate) adapter: Option<PathBuf>,
    /// Add the probability that each trace is correct, by the reward's calibration.json.
    #[arg(long)]
    pub(crate) calibrated: bool,
    /// Rows of a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Where the scored traces go.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct JudgeArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// The model that judges: a directory, a .gguf file or a hub name.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// An adapter on it.
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// Problems with demonstrations; a trace belongs to the problem with its question.
    #[arg(long)]
    pub(crate) problems: PathBuf,
    /// How the problems are laid out.
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// Traces: assay's or the two foreign shapes.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Prompt style that the traces were written in.
    #[arg(long, value_enum, default_value = "gsm8k")]
    pub(crate) style: Style,
    /// Misleading versions of each demonstration that the judge reads beside it.
    #[arg(long, default_value_t = 2)]
    pub(crate) hints: usize,
    /// Seed of the misleading versions.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Rows of a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Where the judged traces go.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct SweepArgs {
    /// Settings file (TOML) that all runs share.
    #[arg(short, long)]
    pub(crate) config: PathBuf,
    /// Grid file (TOML): trainer, seeds, arms.
    #[arg(long)]
    pub(crate) grid: PathBuf,
    /// Override a shared setting. May be repeated; the arms win over it.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Directory of the runs and of the table; a sweep that was stopped goes on.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Check the settings of every run and print their names.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the table as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Shape of the model; its weights are random.
    #[arg(long, value_enum, default_value = "135m")]
    pub(crate) shape: Shape,
    /// Stages to time; all otherwise. May be repeated.
    #[arg(long = "stage", value_enum)]
    pub(crate) stages: Vec<Stage>,
    /// Prompts.
    #[arg(long, default_value_t = 8)]
    pub(crate) prompts: usize,
    /// Completions a prompt.
    #[arg(long, default_value_t = 8, value_parser = sample_count)]
    pub(crate) samples: usize,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 150)]
    pub(crate) prompt_tokens: usize,
    /// Tokens of a completion.
    #[arg(long, default_value_t = 150)]
    pub(crate) new_tokens: usize,
    /// Words of the vocabulary, in place of the shape's.
    #[arg(long)]
    pub(crate) vocabulary: Option<usize>,
    /// Rank of both adapters.
    #[arg(long, default_value_t = 64)]
    pub(crate) rank: usize,
    /// Rows of a packed batch.
    #[arg(long, default_value_t = 16384)]
    pub(crate) token_budget: usize,
    /// MiB of activations that a pass in training keeps.
    #[arg(long, default_value_t = 2048)]
    pub(crate) activation_mib: u64,
    /// Timed repetitions of a stage.
    #[arg(long, default_value_t = 5)]
    pub(crate) repeats: usize,
    /// Print the memory plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

impl BenchArgs {
    /// What one pass of an update may hold.
    pub(crate) fn pass_budget(&self) -> PassBudget {
        PassBudget {
            tokens: self.token_budget,
            kept_bytes: self.activation_mib.saturating_mul(1 << 20),
        }
    }
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Where to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Reward: a checkpoint's reward directory or an exported adapter. May be repeated; NAME=DIR names it.
    #[arg(long = "reward", value_name = "[NAME=]DIR", required = true)]
    pub(crate) rewards: Vec<String>,
    /// Base model of the rewards; the one named in each otherwise.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Policy that answers are sampled from.
    #[arg(long, conflicts_with = "upstream")]
    pub(crate) policy: Option<PathBuf>,
    /// Adapter of the policy (PEFT directory).
    #[arg(long, requires = "policy")]
    pub(crate) adapter: Option<PathBuf>,
    /// OpenAI-compatible server that answers are sampled from: the address before /chat/completions.
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// File with the bearer token of the upstream server.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    pub(crate) upstream_key_file: Option<PathBuf>,
    /// Where to listen: a name or an address, and a port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000", value_parser = host_and_port)]
    pub(crate) addr: String,
    /// File with the bearer token that requests must carry: one line of 16 characters or more.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Trace score that stands for a text where a request names none; that of the reward's calibration, else the mean,
    /// otherwise.
    #[arg(long)]
    pub(crate) score: Option<String>,
    /// Rows of a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Most requests that share a pass; 1 runs each alone.
    #[arg(long, default_value_t = 64)]
    pub(crate) max_batch: usize,
    /// Seconds until a request without an answer is given up.
    #[arg(long, default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Seed of samples whose request names none.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Adapters: OUT/policy and, of an airl run, OUT/reward.
    Peft,
    /// The policy as one Hugging Face model directory.
    Merged,
    /// The reward, where its head is linear, as one Hugging Face token classifier.
    MergedReward,
    /// metrics.jsonl as an event file.
    Tensorboard,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Dtype {
    #[value(name = "float32")]
    F32,
    #[value(name = "bfloat16")]
    Bf16,
}

impl From<Dtype> for WeightType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// A run directory.
    #[arg(long)]
    pub(crate) run: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    pub(crate) format: ExportFormat,
    /// A directory that does not exist yet.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Iterations of the checkpoint; the newest otherwise.
    #[arg(long)]
    pub(crate) checkpoint: Option<usize>,
    /// Where the base model is now; the place that the checkpoint names otherwise.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Name of the base model to write, e.g. its hub name; the one that the checkpoint names otherwise.
    #[arg(long)]
    pub(crate) base_name: Option<String>,
    /// Number type of merged weights.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub(crate) dtype: Dtype,
    /// Print what was written as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct FetchArgs {
    /// org/name, org/name@revision, org/name/file.gguf, or datasets/org/name.
    pub(crate) name: PathBuf,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Directory for one page a command.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// Refuses what names no place to listen on, before models are read.
fn host_and_port(text: &str) -> Result<String, String> {
    let found = text.to_socket_addrs().map(|mut found| found.next());
    match found {
        Ok(Some(_)) => Ok(text.to_owned()),
        Ok(None) => Err("no address has this name".to_owned()),
        Err(error) => Err(format!("{error}; give HOST:PORT, as in localhost:8000")),
    }
}

/// Samples of a prompt: more are held in memory together than any machine has room for.
fn sample_count(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 16;
    match text.parse() {
        Ok(count) if (1..=MOST).contains(&count) => Ok(count),
        Ok(_) => Err(format!("must lie between 1 and {MOST}")),
        Err(error) => Err(std::num::ParseIntError::to_string(&error)),
    }
}
