//! Creates, writes and reads the record of a failed update.

use std::fs;
use std::path::Path;

use assay_critic::player::TokenScalars;
use assay_lm::LmError;

use crate::failed_update::{Culprit, FailedPart, FailedTrace, FailedUpdate};
use crate::trace::{PromptGroup, Trace};
use crate::{TrainError, checkpoint};

const DIRECTORY: &str = "failed";

/// The values that an update had computed when it failed.
#[derive(Default)]
pub(super) struct Computed {
    pub(super) scalars: TokenScalars,
    pub(super) gradients: TokenScalars,
}

/// The batch of an update.
#[derive(Clone, Copy)]
pub(super) struct UpdateBatch<'b> {
    pub(super) part: FailedPart,
    /// Index of the update in the iteration, among those of its kind.
    pub(super) update: usize,
    pub(super) groups: &'b [PromptGroup],
}

impl UpdateBatch<'_> {
    /// The error with its batch if a number is not finite; other errors unchanged.
    pub(super) fn explain(&self, error: TrainError, computed: &Computed) -> TrainError {
        if !is_numeric(&error) {
            return error;
        }
        let culprit = match error {
            TrainError::NonFinite { trace, token, .. } => Some(Culprit { trace, token }),
            _ => None,
        };
        let groups = self.groups.iter().enumerate();
        let members = groups.flat_map(|(index, group)| {
            let traces = group.traces.iter();
            traces.map(move |trace| (index, group, trace))
        });
        let failed =
            |(index, (group_index, group, trace)): (usize, (usize, &PromptGroup, &Trace))| {
                FailedTrace {
                    problem: group.problem.id.clone(),
                    role: trace.role,
                    group: group_index,
                    token_ids: trace.completion.ids.clone(),
                    scalars: finite(computed.scalars.get(index)),
                    loss_gradients: finite(computed.gradients.get(index)),
                }
            };
        let failure = FailedUpdate {
            iteration: 0,
            part: self.part,
            update: self.update,
            error: error.to_string(),
            culprit,
            prompts: self.groups.iter().map(|g| g.prompt.to_vec()).collect(),
            traces: members.enumerate().map(failed).collect(),
            file: None,
        };
        TrainError::FailedUpdate {
            failure: Box::new(failure),
            source: Box::new(error),
        }
    }
}

fn is_numeric(error: &TrainError) -> bool {
    matches!(
        error,
        TrainError::NonFinite { .. }
            | TrainError::NotFinite { .. }
            | TrainError::MissingGradient { .. }
            | TrainError::Model(LmError::NonFiniteLogits)
    )
}

fn finite(row: Option<&Vec<f32>>) -> Vec<Option<f32>> {
    let row = row.into_iter().flatten();
    row.map(|&x| x.is_finite().then_some(x)).collect()
}

/// The first scalar that is not finite, as an error.
pub(crate) fn check_finite(name: &'static str, scalars: &[Vec<f32>]) -> Result<(), TrainError> {
    for (trace, row) in scalars.iter().enumerate() {
        if let Some(token) = row.iter().position(|x| !x.is_finite()) {
            return Err(TrainError::NonFinite {
                what: name,
                trace,
                token,
                value: f64::from(row[token]),
            });
        }
    }
    Ok(())
}

impl FailedUpdate {
    /// Writes `failed/iter-N.json` into a run directory.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub(crate) fn write(&mut self, run: &Path, iteration: usize) -> Result<(), TrainError> {
        self.iteration = iteration;
        let dir = run.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(|source| TrainError::io("creating", &dir, source))?;
        let path = dir.join(format!("iter-{iteration}.json"));
        let text = serde_json::to_string(self)
            .map_err(|source| TrainError::malformed(path.clone(), source.to_string()))?;
        checkpoint::write_file(&path, (text + "\n").as_bytes())?;
        self.file = Some(path);
        Ok(())
    }

    /// Reads the failed update of an iteration, or of the newest one.
    ///
    /// # Errors
    /// There is none, or its file cannot be read as one.
    pub fn read(run: &Path, iteration: Option<usize>) -> Result<Self, TrainError> {
        let dir = run.join(DIRECTORY);
        let number = match iteration {
            Some(number) => number,
            None => newest(&dir)?,
        };
        let path = dir.join(format!("iter-{number}.json"));
        let malformed = |reason: String| TrainError::malformed(path.clone(), reason);
        let bytes = fs::read(&path).map_err(|source| TrainError::io("reading", &path, source))?;
        let mut failure: Self =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let groups = failure.prompts.len();
        if let Some(trace) = failure.traces.iter().find(|trace| trace.group >= groups) {
            let reason = format!("a trace names group {} of {groups}", trace.group);
            return Err(malformed(reason));
        }
        failure.file = Some(path);
        Ok(failure)
    }
}

fn newest(dir: &Path) -> Result<usize, TrainError> {
    let none = || {
        TrainError::malformed(
            dir,
            "it holds no failed update: no iteration of this run met a number that is not finite",
        )
    };
    let entries = fs::read_dir(dir).map_err(|_| none())?;
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let number = name
            .to_str()?
            .strip_prefix("iter-")?
            .strip_suffix(".json")?;
        number.parse().ok()
    });
    numbers.max().ok_or_else(none)
}
