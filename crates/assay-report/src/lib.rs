//! Reports: one HTML page per report, SVG figures, CSV and LaTeX tables, and heatmaps in the
//! terminal.
//!
//! This crate formats numbers that [`assay_evals`] computed. It trains nothing, loads no model and
//! prints nothing: every function returns text. Pages and figures are rendered from the templates
//! in `src/templates`, which escape all text that comes from traces and run names.
//!
//! [`render`] returns the page, [`Exhibits::new`] its figures and tables, [`terminal::heatmap`] a
//! trace for the terminal, and [`notebook::heatmaps`] traces for a notebook.
//!
//! ```
//! use assay_evals::{EvalSettings, evaluate};
//! use assay_report::{HeatmapTrace, ReportInput, ReportSettings, RunView, render};
//! use assay_tasks::trace::ScoredTrace;
//!
//! let trace = ScoredTrace {
//!     id: "p1".into(),
//!     text: "2+2=5".into(),
//!     token_offsets: vec![(0, 3), (3, 5)],
//!     token_rewards: vec![Some(1.0), Some(-2.0)],
//!     correct: Some(false),
//!     ..ScoredTrace::default()
//! };
//! let evaluation = evaluate([trace.clone()], &EvalSettings::default())?;
//! let run = RunView {
//!     name: "first run",
//!     summary: Some(&evaluation.summary),
//!     evaluation: Some(&evaluation),
//!     traces: &[HeatmapTrace { trace: &trace, injected: None }],
//!     ..RunView::default()
//! };
//! let input = ReportInput { title: "A report", runs: &[run] };
//! let page = render(&input, &ReportSettings::default())?;
//! assert!(page.contains("<title>A report</title>"));
//! assert!(page.contains(r#"data-d="3.000">=5</i>"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod exhibits;
mod figures;
mod heat;
mod heatmap;
mod input;
pub mod notebook;
mod numbers;
mod page;
mod plot;
mod sample;
mod tables;
mod templates;
pub mod terminal;

pub use error::ReportError;
pub use exhibits::Exhibits;
pub use figures::{Figure, file_name};
pub use heat::HeatScale;
pub use input::{HeatmapTrace, ReportInput, ReportSettings, RunView};
pub use numbers::format_number;
pub use page::render;
pub use sample::TraceSample;
pub use tables::{Cell, NamedSummary, Table};
