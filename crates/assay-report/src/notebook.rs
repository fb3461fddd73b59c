//! Heatmaps for a notebook: HTML without a style sheet or a script.
//!
//! Notebooks show HTML inside their own page and may drop style sheets and scripts. So every token
//! has its colour as a style and its reward as a title. The colours are transparent, so the page's
//! text colour stays readable on them.

use assay_evals::calibration::PROBABILITY;
use assay_tasks::trace::ScoredTrace;
use serde::Serialize;

use crate::error::ReportError;
use crate::heat::{HEAT_CLASSES, HeatScale};
use crate::heatmap::{PieceView, pieces};
use crate::input::HeatmapTrace;
use crate::templates::Templates;

/// Background of each class, from the lowest (orange) over none to the highest (blue), as in the
/// report.
const COLOURS: [&str; HEAT_CLASSES] = [
    "rgba(217,106,10,.8)",
    "rgba(217,106,10,.62)",
    "rgba(217,106,10,.45)",
    "rgba(217,106,10,.28)",
    "rgba(217,106,10,.13)",
    "transparent",
    "rgba(31,95,168,.12)",
    "rgba(31,95,168,.22)",
    "rgba(31,95,168,.33)",
    "rgba(31,95,168,.44)",
    "rgba(31,95,168,.55)",
];

/// The variables of `notebook.html`.
#[derive(Serialize)]
struct NotebookView<'a> {
    colours: [&'static str; HEAT_CLASSES],
    low: f64,
    centre: f64,
    high: f64,
    traces: Vec<TraceView<'a>>,
}

/// One trace.
#[derive(Serialize)]
struct TraceView<'a> {
    question: &'a str,
    /// The trace scores in its heading, by name.
    scores: Vec<ScoreView>,
    pieces: Vec<PieceView<'a>>,
}

/// A trace score.
#[derive(Serialize)]
struct ScoreView {
    name: &'static str,
    value: f64,
}

/// Traces as coloured text on one scale, with a legend.
///
/// # Errors
/// [`ReportError::Template`].
pub fn heatmaps(traces: &[ScoredTrace]) -> Result<String, ReportError> {
    let scale = HeatScale::from_traces(traces);
    let view = NotebookView {
        colours: COLOURS,
        low: scale.low(),
        centre: scale.centre(),
        high: scale.high(),
        traces: traces.iter().map(|trace| view(trace, &scale)).collect(),
    };
    Templates::new()?.render("notebook.html", &view)
}

fn view<'a>(trace: &'a ScoredTrace, scale: &HeatScale) -> TraceView<'a> {
    let shown = [
        (PROBABILITY, "P(correct)"),
        ("mean", "mean"),
        ("min", "lowest"),
    ];
    let scores = shown.into_iter().filter_map(|(key, name)| {
        let value = f64::from(*trace.scores.get(key)?);
        Some(ScoreView { name, value })
    });
    let heatmap = HeatmapTrace {
        trace,
        injected: None,
    };
    TraceView {
        question: &trace.question,
        scores: scores.collect(),
        pieces: pieces(&heatmap, scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_colour_reward_and_mark() {
        let trace = ScoredTrace {
            question: "1 < 2?".into(),
            text: "2+2=<5".into(),
            token_offsets: vec![(0, 3), (3, 6)],
            token_rewards: vec![Some(1.0), Some(-2.0)],
            scores: [("mean".to_owned(), -0.5)].into(),
            ..ScoredTrace::default()
        };
        let page = heatmaps(&[trace]).unwrap();
        assert!(page.contains("1 &lt; 2?"), "{page}");
        assert!(page.contains("mean \u{2212}0.50"), "{page}");
        let high =
            "<span style=\"background:rgba(31,95,168,.55)\" title=\"reward 1.000\">2+2</span>";
        assert!(page.contains(high), "{page}");
        let low = "<span style=\"background:rgba(217,106,10,.8);outline:2px solid currentColor\" \
                   title=\"reward -2.000, 3.000 below the token before\">=&lt;5</span>";
        assert!(page.contains(low), "{page}");
        assert!(!page.contains("<style") && !page.contains("<script"));
    }
}
