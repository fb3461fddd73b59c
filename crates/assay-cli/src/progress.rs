//! Progress on stderr: a bar on a terminal, otherwise a line at intervals.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use assay_lm::hub::Download;
use assay_train::metrics::IterationMetrics;
use assay_train::run::Observer;
use indicatif::{ProgressBar, ProgressStyle};

/// Interval of progress lines where stderr is not a terminal.
const QUIET: Duration = Duration::from_secs(15);

/// Writes one line to stderr.
pub(crate) fn message(text: &str) -> std::io::Result<()> {
    writeln!(stderr(), "{text}")
}

/// Downloads from a hub: a bar per file on a terminal, otherwise a line per file.
#[derive(Default)]
pub(crate) struct Downloads {
    file: String,
    bar: Option<ProgressBar>,
}

impl Downloads {
    /// Shows the progress of a download.
    pub(crate) fn show(&mut self, download: Download<'_>) {
        if self.file != download.file {
            self.finish();
            download.file.clone_into(&mut self.file);
            let bar = ProgressBar::new(download.total);
            let style =
                "{prefix} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_prefix(self.file.clone());
            if !stderr().is_terminal() {
                bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
                let _ = message(&format!("{}: {} bytes", download.file, download.total));
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(download.done);
        }
    }

    /// Ends the last bar and leaves it on the screen.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// Progress of a long computation.
pub(crate) struct Progress {
    bar: ProgressBar,
    label: String,
    terminal: bool,
    last_line: Instant,
    tokens: usize,
    started: Instant,
}

impl Progress {
    /// Starts the progress of `total` steps.
    pub(crate) fn new(label: &str, total: usize) -> Self {
        let terminal = stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::new(total as u64)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:<14} {bar:24} {pos}/{len} {elapsed}<{eta} {msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        bar.set_length(total as u64);
        let now = Instant::now();
        Self {
            bar,
            label: label.to_owned(),
            terminal,
            last_line: now,
            tokens: 0,
            started: now,
        }
    }

    /// Sets the number of steps done.
    pub(crate) fn set(&mut self, done: usize, total: usize, text: &str) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(text.to_owned());
        if !self.terminal && (self.last_line.elapsed() > QUIET || done == total) {
            self.last_line = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            let _ = message(&format!(
                "{} {done}/{total} {seconds} s  {text}",
                self.label
            ));
        }
    }

    /// Ends the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn iteration(&mut self, metrics: &IterationMetrics, total: usize) {
        let text = headline(metrics);
        self.set(metrics.iteration + 1, total, &text);
    }

    fn tokens(&mut self, count: usize) {
        self.tokens += count;
        if self.terminal {
            self.bar
                .set_message(format!("{} tokens drawn", self.tokens));
        }
    }

    fn note(&mut self, text: &str) {
        let line = format!("{}: {text}", self.label);
        if self.terminal {
            self.bar.println(line)
        } else {
            drop(message(&line))
        }
    }
}

/// Those of the metrics shown during training that an iteration has.
fn headline(metrics: &IterationMetrics) -> String {
    const SHOWN: [(&str, &str); 7] = [
        ("sft/loss", "loss"),
        ("reward/loss", "reward loss"),
        ("reward/pairs_at_error", "error found"),
        ("rollout/reward", "reward"),
        ("rollout/length", "length"),
        ("rollout/accuracy", "accuracy"),
        ("validation/accuracy", "validation"),
    ];
    let shown = SHOWN
        .iter()
        .filter_map(|(key, name)| Some(format!("{name} {:.3}", metrics.values.get(*key)?)));
    let values: Vec<String> = shown.collect();
    format!("{}  {}", metrics.phase, values.join("  "))
}
