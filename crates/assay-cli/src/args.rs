//! The command line: names, options and their help.

mod drawing;
mod editing;
mod exchange;
mod judging;
mod layout;
mod looking;

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use assay_critic::search::SearchStrategy;
use assay_lm::{DeviceName, Placement, PlacementSettings, Precision};
use assay_tasks::prompts::{PromptStyle, Template};
use assay_train::settings::PassBudget;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::drawing::DrawArgs;
pub(crate) use self::editing::EditArgs;
pub(crate) use self::exchange::*;
pub(crate) use self::judging::JudgeArgs;
pub(crate) use self::layout::LayoutArgs;
pub(crate) use self::looking::*;
use crate::commands::bench::{Shape, Stage};
use crate::on_alarm::OnAlarm;

/// Learn a dense reasoning reward from expert demonstrations, train a policy with it, use it as a
/// critic.
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
    /// Train a policy, and with `airl` also a reward.
    Train(TrainArgs),
    /// Examine, trace by trace, an update that failed on a number that is not finite.
    Replay(ReplayArgs),
    /// Sample completions of problems.
    Sample(SampleArgs),
    /// Search for completions with the critic while sampling: step-level beam search or diverse
    /// tree search.
    Search(SearchArgs),
    /// Write token rewards of traces, log-probabilities of a policy, or both.
    Score(ScoreArgs),
    /// Write token rewards of traces from a model that reads each problem's demonstration; trains
    /// nothing.
    Judge(JudgeArgs),
    /// Have a language model on a server rewrite steps of demonstrations wrongly: negatives that
    /// need no digits.
    Edit(EditArgs),
    /// Choose among the traces of each problem; report the accuracy of the choice, or write it.
    Select(SelectArgs),
    /// Evaluate traces: pass@k, selection, reward against correctness.
    Eval(EvalArgs),
    /// Inject errors into demonstrations and measure how often the reward finds them.
    Localise(LocaliseArgs),
    /// Fit P(correct) on validation traces and store it with the reward.
    Calibrate(CalibrateArgs),
    /// Print traces as heatmaps in the terminal.
    Show(ShowArgs),
    /// Write an HTML report of runs or of traces.
    Report(ReportArgs),
    /// Time the stages of an iteration at a named model shape, and compare with the machine's peak.
    Bench(BenchArgs),
    /// Train with several settings and seeds and write the results into one table.
    Sweep(SweepArgs),
    /// Serve scores, token rewards and best-of-n answers over HTTP, with a viewer.
    Serve(ServeArgs),
    /// Export a run for other programs: PEFT adapters, a merged model, TensorBoard events.
    Export(ExportArgs),
    /// Download a model or data set from the Hugging Face hub into the local cache and print its
    /// path.
    Fetch(FetchArgs),
    /// Print a shell's completion script.
    Completions(CompletionsArgs),
    /// Print the manual page, or write one page per command.
    Man(ManArgs),
}

#[derive(Args)]
pub(crate) struct QuickstartArgs {
    /// Built-in task.
    #[arg(long, value_enum, default_value = "arithmetic")]
    pub(crate) task: Task,
    /// Directory of the results.
    #[arg(long, default_value = "runs/quickstart")]
    pub(crate) out: PathBuf,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Override a setting of configs/quickstart.toml or configs/deduction.toml. May be repeated;
    /// the last value of a setting is used.
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
    /// Deduction in words, without numbers; negatives are the policy's own branches.
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
    /// Trainer.
    #[arg(value_enum)]
    pub(crate) trainer: Trainer,
    /// Settings file (TOML).
    #[arg(short, long)]
    pub(crate) config: PathBuf,
    /// Override a setting: `--set run.iterations=20`. May be repeated; the last value of a setting
    /// is used.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Run directory.
    #[arg(long, required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,
    /// Continue from the newest checkpoint in the run directory.
    #[arg(long)]
    pub(crate) resume: bool,
    /// For every alarm, run this command with the alarm as JSON on stdin, or post that JSON to this
    /// http(s) URL. The call may take 10 s; if it fails, a warning is printed.
    #[arg(long, value_name = "CMD|URL")]
    pub(crate) on_alarm: Option<OnAlarm>,
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
    /// Iteration of the failed update. Default: the newest.
    #[arg(long)]
    pub(crate) iteration: Option<usize>,
    /// Print the failed batch and the findings as JSON.
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
    /// The content of each message and a blank line, for base models without a template.
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

/// Device and number type of a command.
#[derive(Args)]
pub(crate) struct ComputeArgs {
    /// Device: auto, cpu, cuda or cuda:N. auto is the first GPU if assay was built with CUDA, else
    /// the CPU.
    #[arg(long, default_value_t)]
    pub(crate) device: DeviceName,
    /// Type of matrices and activations: auto, f32 or bf16. auto is bf16 on a GPU; on a CPU it is
    /// bf16 if the CPU multiplies bf16 faster than f32, else f32.
    #[arg(long, default_value = "auto")]
    pub(crate) dtype: Precision,
}

impl ComputeArgs {
    /// The device, after a check that it is available.
    pub(crate) fn placement(&self) -> anyhow::Result<Placement> {
        crate::open::placement(PlacementSettings {
            device: self.device,
            dtype: self.dtype,
        })
    }
}

/// Options of `assay sample`.
#[derive(Args)]
pub(crate) struct SampleArgs {
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Model: a Hugging Face directory, a .gguf file, or a hub name like org/name@revision or
    /// org/name/file.gguf.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Policy adapter (PEFT directory).
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// Problems and sampling.
    #[command(flatten)]
    pub(crate) draw: DrawArgs,
    /// Samples per problem.
    #[arg(long, default_value_t = 16, value_parser = sample_count)]
    pub(crate) samples: usize,
    /// Prompt style. Default: that of the adapter's run, else think-answer.
    #[arg(long, value_enum)]
    pub(crate) style: Option<Style>,
    /// Chat template of the prompts. Default: that of the adapter's run, else the model's own.
    #[arg(long, value_enum)]
    pub(crate) template: Option<TemplateName>,
    /// Generator name in the traces. Default: the path of the adapter, else of the model.
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
    /// Diverse verifier tree search: samples / width trees, each of which keeps one prefix.
    Dvts,
}

impl Strategy {
    /// The name in the traces.
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
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// How prefixes compete.
    #[arg(long, value_enum, default_value_t = Strategy::Dvts)]
    pub(crate) strategy: Strategy,
    /// Reward: a checkpoint's reward directory or an exported adapter.
    #[arg(long)]
    pub(crate) reward: PathBuf,
    /// Base model of policy and reward. Default: the one that the reward names.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Policy adapter (PEFT directory).
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// Problems and sampling.
    #[command(flatten)]
    pub(crate) draw: DrawArgs,
    /// Steps sampled per problem and round; a multiple of the width.
    #[arg(long, default_value_t = 16, value_parser = sample_count)]
    pub(crate) samples: usize,
    /// Continuations per prefix.
    #[arg(long, default_value_t = 4)]
    pub(crate) width: usize,
    /// Score of a prefix, from its token rewards. The default is the lowest reward: one bad step
    /// lowers it.
    #[arg(long, default_value = "min")]
    pub(crate) score: String,
    /// Maximum number of token rows in a packed batch of the critic.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Print counts as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ScoreArgs {
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Reward: a checkpoint's reward directory or an exported adapter. Without it only
    /// log-probabilities are written.
    #[arg(long)]
    pub(crate) reward: Option<PathBuf>,
    /// Base model of the reward; default: the one that the reward names. Without --reward: the
    /// policy.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Traces in assay's format, in one of the two formats of other programs, or in ProcessBench's
    /// format: JSON lines, a JSON array or parquet.
    #[arg(long)]
    pub(crate) traces: PathBuf,
    /// Policy whose log-probabilities are written. Prompts are rendered with its own chat template.
    #[arg(long)]
    pub(crate) policy: Option<PathBuf>,
    /// Adapter of the policy.
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// Without --reward: prompt style of foreign traces. Default: that of the adapter's run, else
    /// think-answer.
    #[arg(long, value_enum, conflicts_with = "reward")]
    pub(crate) style: Option<Style>,
    /// Without --reward: chat template of the prompts. Default: that of the adapter's run, else
    /// the model's own.
    #[arg(long, value_enum, conflicts_with = "reward")]
    pub(crate) template: Option<TemplateName>,
    /// Add the probability that each trace is correct, by the reward's calibration.json.
    #[arg(long, requires = "reward")]
    pub(crate) calibrated: bool,
    /// Maximum number of token rows in a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Output file for the scored traces.
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
    /// Grid file (TOML): trainer, seeds, and the arms, which are the settings to compare.
    #[arg(long)]
    pub(crate) grid: PathBuf,
    /// Override a shared setting. May be repeated; settings of the arms take precedence.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Directory of the runs and of the table. A stopped sweep continues there.
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
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Shape of the model. The weights are random.
    #[arg(long, value_enum, default_value = "135m")]
    pub(crate) shape: Shape,
    /// Stage to time; default: all. May be repeated.
    #[arg(long = "stage", value_enum)]
    pub(crate) stages: Vec<Stage>,
    /// Number of prompts.
    #[arg(long, default_value_t = 8)]
    pub(crate) prompts: usize,
    /// Completions per prompt.
    #[arg(long, default_value_t = 8, value_parser = sample_count)]
    pub(crate) samples: usize,
    /// Tokens per prompt.
    #[arg(long, default_value_t = 150)]
    pub(crate) prompt_tokens: usize,
    /// Tokens per completion.
    #[arg(long, default_value_t = 150)]
    pub(crate) new_tokens: usize,
    /// Size of the vocabulary; default: the shape's.
    #[arg(long)]
    pub(crate) vocabulary: Option<usize>,
    /// Rank of both adapters.
    #[arg(long, default_value_t = 64)]
    pub(crate) rank: usize,
    /// Maximum number of token rows in a packed batch.
    #[arg(long, default_value_t = 16384)]
    pub(crate) token_budget: usize,
    /// MiB of activations that a training pass keeps for the backward pass.
    #[arg(long, default_value_t = 2048)]
    pub(crate) activation_mib: u64,
    /// Timed repetitions per stage.
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
    /// Limits of one pass of an update.
    pub(crate) fn pass_budget(&self) -> PassBudget {
        PassBudget {
            tokens: self.token_budget,
            kept_bytes: self.activation_mib.saturating_mul(1 << 20),
        }
    }
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Device and number type.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Reward: a checkpoint's reward directory or an exported adapter. May be repeated; NAME=DIR
    /// sets the name by which requests select it.
    #[arg(long = "reward", value_name = "[NAME=]DIR", required = true)]
    pub(crate) rewards: Vec<String>,
    /// Base model of the rewards. Default: the one that each reward names.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Policy from which answers are sampled.
    #[arg(long, conflicts_with = "upstream")]
    pub(crate) policy: Option<PathBuf>,
    /// Adapter of the policy (PEFT directory).
    #[arg(long, requires = "policy")]
    pub(crate) adapter: Option<PathBuf>,
    /// OpenAI-compatible server from which answers are sampled: its address up to
    /// /chat/completions.
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// File with the bearer token of the upstream server.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    pub(crate) upstream_key_file: Option<PathBuf>,
    /// Address and port to listen on.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000", value_parser = host_and_port)]
    pub(crate) addr: String,
    /// File with the bearer token that requests must carry: one line of 16 characters or more.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File to which the viewer appends the labels that people make. Without it the viewer takes no
    /// labels.
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// Trace score of a text if the request names none. Default: that of the reward's calibration,
    /// else the mean.
    #[arg(long)]
    pub(crate) score: Option<String>,
    /// Maximum number of token rows in a packed batch.
    #[arg(long, default_value_t = 4096)]
    pub(crate) token_budget: usize,
    /// Maximum number of requests in one pass; 1 runs each alone.
    #[arg(long, default_value_t = 64)]
    pub(crate) max_batch: usize,
    /// Seconds after which a request fails with a timeout.
    #[arg(long, default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Seed of samples if the request names none.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Output directory for one page per command.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// Checks the address, so that a wrong one fails before models are read.
fn host_and_port(text: &str) -> Result<String, String> {
    let found = text.to_socket_addrs().map(|mut found| found.next());
    match found {
        Ok(Some(_)) => Ok(text.to_owned()),
        Ok(None) => Err("the name resolves to no address".to_owned()),
        Err(error) => Err(format!("{error}; give HOST:PORT, as in localhost:8000")),
    }
}

/// Checks the number of samples per prompt, which are all in memory at the same time.
fn sample_count(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 16;
    match text.parse() {
        Ok(count) if (1..=MOST).contains(&count) => Ok(count),
        Ok(_) => Err(format!("must lie between 1 and {MOST}")),
        Err(error) => Err(std::num::ParseIntError::to_string(&error)),
    }
}
