//! The figures and tables of a report, before they are laid out on a page.

use assay_evals::{Alarm, Summary, find_alarms};

use crate::error::ReportError;
use crate::figures::{self, Figure, Training};
use crate::input::RunView;
use crate::tables::{self, NamedSummary, Table};
use crate::templates::Templates;

/// The figures and tables of a report, in the order of the page.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Exhibits {
    /// The most important training curves.
    pub training: Vec<Figure>,
    /// The other training curves.
    pub other_training: Vec<Figure>,
    /// For each run: selection, calibration, correlations, localisation.
    pub evaluation: Vec<Vec<Figure>>,
    /// The key figures of all runs, then the errors by kind of each run.
    pub key_tables: Vec<Table>,
    /// For each run: every entry of its summary.
    pub summaries: Vec<Table>,
    /// For each run: its alarms.
    pub alarms: Vec<Vec<Alarm>>,
}

impl Exhibits {
    /// Draws everything that the runs have data for.
    ///
    /// # Errors
    /// [`ReportError::Template`].
    pub fn new(runs: &[RunView<'_>]) -> Result<Self, ReportError> {
        Self::render(&Templates::new()?, runs)
    }

    /// [`Exhibits::new`] with templates that are already compiled.
    pub(crate) fn render(templates: &Templates, runs: &[RunView<'_>]) -> Result<Self, ReportError> {
        let alarms: Vec<Vec<Alarm>> = runs.iter().map(|run| find_alarms(run.metrics)).collect();
        let trainings: Vec<Training<'_>> = runs
            .iter()
            .zip(&alarms)
            .filter(|(run, _)| !run.metrics.is_empty())
            .map(|(run, alarms)| Training {
                name: run.name,
                metrics: run.metrics,
                alarms,
            })
            .collect();
        let empty = Summary::default();
        let evaluation = runs.iter().map(|run| {
            let named = NamedSummary {
                name: run.name,
                summary: run.summary.unwrap_or(&empty),
            };
            figures::evaluation(templates, named, run.evaluation)
        });
        let summaries = summaries(runs);
        Ok(Self {
            training: figures::training(templates, &trainings)?,
            other_training: figures::other_training(templates, &trainings)?,
            evaluation: evaluation.collect::<Result<_, _>>()?,
            key_tables: key_tables(&summaries),
            summaries: summaries
                .iter()
                .map(|run| tables::everything(*run))
                .collect(),
            alarms,
        })
    }

    /// All figures.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        let training = self.training.iter().chain(&self.other_training);
        training.chain(self.evaluation.iter().flatten())
    }

    /// All tables.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.key_tables.iter().chain(&self.summaries)
    }
}

/// The summaries that are not empty.
fn summaries<'a>(runs: &[RunView<'a>]) -> Vec<NamedSummary<'a>> {
    runs.iter()
        .filter_map(|run| {
            Some(NamedSummary {
                name: run.name,
                summary: run.summary?,
            })
        })
        .filter(|run| !run.summary.is_empty())
        .collect()
}

fn key_tables(summaries: &[NamedSummary<'_>]) -> Vec<Table> {
    if summaries.is_empty() {
        return Vec::new();
    }
    let by_kind = summaries.iter().filter_map(|run| tables::by_kind(*run));
    std::iter::once(tables::key_figures(summaries))
        .chain(by_kind)
        .collect()
}
