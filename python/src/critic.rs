//! A reward that is open, and the texts that it scores.

use std::path::{Path, PathBuf};

use assay_critic::{Critic, CriticError};
use assay_evals::calibration::Calibration;
use assay_evals::localisation::Predictor;
use assay_lm::hub::{self, HubSettings};
use assay_lm::{LanguageModel, LmError, Placement, PlacementSettings, Storage};
use assay_tasks::trace::ScoredTrace;
use assay_train::TrainError;
use assay_train::stored_reward::{self, StoredReward};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::results::{Shown, scored};
use crate::{AssayError, raised};

/// A reward with its base model and, where it has one, its calibration.
#[pyclass(frozen, name = "Critic", module = "assay._assay")]
pub(crate) struct NativeCritic {
    stored: StoredReward,
    calibration: Option<Calibration>,
    token_budget: usize,
}

/// A question and a text that answers it.
#[derive(FromPyObject)]
struct Pair {
    #[pyo3(item)]
    question: String,
    #[pyo3(item)]
    text: String,
    /// Token ids that a sampler drew; the text is encoded without them.
    #[pyo3(item)]
    token_ids: Option<Vec<u32>>,
}

#[pymethods]
impl NativeCritic {
    /// Opens a reward, and returns it with the notes that the command line would print.
    #[staticmethod]
    fn load(
        py: Python<'_>,
        name: PathBuf,
        model: Option<PathBuf>,
        device: &str,
        dtype: &str,
        token_budget: usize,
    ) -> PyResult<(Self, Vec<String>)> {
        let settings = PlacementSettings {
            device: device.parse().map_err(refused)?,
            dtype: dtype.parse().map_err(refused)?,
        };
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let critic = py.detach(|| {
            let placement = settings.resolve().map_err(raised)?;
            let stored = open(&name, model.as_deref(), &placement, &mut note).map_err(raised)?;
            let calibration = Calibration::read(&stored.dir).map_err(raised)?;
            PyResult::Ok(Self {
                stored,
                calibration,
                token_budget: token_budget.max(1),
            })
        })?;
        Ok((critic, notes))
    }

    /// The reward's own directory.
    #[getter]
    fn path(&self) -> &Path {
        &self.stored.dir
    }

    /// The base model as it was named.
    #[getter]
    fn model(&self) -> &str {
        &self.stored.model.name
    }

    /// The trace score that the calibration was fitted to.
    #[getter]
    fn calibrated_score(&self) -> Option<&'static str> {
        Some(self.calibration.as_ref()?.score().name())
    }

    /// Scores texts and returns everything that is known of each, in their order.
    fn score<'py>(
        &self,
        py: Python<'py>,
        pairs: Vec<Pair>,
        predictor: &str,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let predictor = Predictor::parse(predictor).map_err(raised)?;
        let traces = py.detach(|| self.scored(pairs)).map_err(raised)?;
        let shown = traces.iter().map(|trace| {
            let view = Shown {
                probability: self.probability(trace),
                predictor,
            };
            scored(py, trace, &view)
        });
        shown.collect()
    }
}

impl NativeCritic {
    fn scored(&self, pairs: Vec<Pair>) -> Result<Vec<ScoredTrace>, CriticError> {
        let StoredReward { model, reward, .. } = &self.stored;
        let traces = pairs.into_iter().map(|pair| trace(pair, model));
        let mut traces: Vec<ScoredTrace> = traces.collect();
        Critic::new(reward, model, self.token_budget).score(&mut traces, None)?;
        Ok(traces)
    }

    /// P(correct) of a scored trace; `None` for a reward without a calibration, and for a text
    /// without a reward.
    fn probability(&self, trace: &ScoredTrace) -> Option<f64> {
        let calibration = self.calibration.as_ref();
        calibration
            .filter(|_| !trace.scores.is_empty())?
            .probability(trace)
    }
}

fn refused(text: String) -> PyErr {
    AssayError::new_err(text)
}

/// A trace of a text, or of token ids as they are.
fn trace(pair: Pair, model: &LanguageModel) -> ScoredTrace {
    let token_ids = pair.token_ids.unwrap_or_default();
    let (text, token_offsets) = match token_ids.is_empty() {
        true => (pair.text, Vec::new()),
        false => model.decode(&token_ids),
    };
    ScoredTrace {
        question: pair.question,
        text,
        token_ids,
        token_offsets,
        ..ScoredTrace::default()
    }
}

fn open(
    name: &Path,
    base: Option<&Path>,
    placement: &Placement,
    note: &mut dyn FnMut(&str),
) -> Result<StoredReward, TrainError> {
    let locate = |name: &Path| hub::locate(name, &HubSettings::from_env(), &mut |_| ());
    let open_model = |name: &Path| -> Result<LanguageModel, LmError> {
        let mut model = LanguageModel::open(&locate(name)?, Storage::Expanded, placement)?;
        model.name = name.display().to_string();
        Ok(model)
    };
    stored_reward::open(&locate(name)?, base, open_model, note)
}
