//! The input of a report.

use std::ops::Range;

use assay_evals::{Evaluation, MetricRow, Summary};
use assay_tasks::trace::ScoredTrace;

/// A trace to draw as a heatmap.
#[derive(Clone, Debug)]
pub struct HeatmapTrace<'a> {
    /// The trace; its `token_rewards` set the colours.
    pub trace: &'a ScoredTrace,
    /// Byte range of a known error in the trace's text.
    pub injected: Option<Range<usize>>,
}

/// One run on the page; sections without data are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunView<'a> {
    /// The run's name.
    pub name: &'a str,
    /// Its results.
    pub summary: Option<&'a Summary>,
    /// Its training metrics.
    pub metrics: &'a [MetricRow],
    /// Reliability, histograms and correlations.
    pub evaluation: Option<&'a Evaluation>,
    /// Traces to draw as heatmaps.
    pub traces: &'a [HeatmapTrace<'a>],
    /// Number of traces with rewards that `traces` was chosen from; 0 if `traces` is all of them.
    pub chosen_from: usize,
}

/// Everything on the page.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportInput<'a> {
    /// The heading.
    pub title: &'a str,
    /// The runs, shown side by side.
    pub runs: &'a [RunView<'a>],
}

/// Limits of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportSettings {
    /// Maximum number of heatmaps per run.
    pub heatmaps: usize,
    /// Size in bytes after which no further heatmap of a run is added.
    pub heatmap_bytes: usize,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            heatmaps: 60,
            heatmap_bytes: 2 << 20,
        }
    }
}
