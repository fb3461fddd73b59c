//! An update that met a number that is not finite: what is kept of it, and how it is written and read.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use assay_lm::LmError;
use assay_lm::packed::Group;
use serde::{Deserialize, Serialize};

use crate::player::TokenScalars;
use crate::reward::TraceRole;
use crate::{IrlError, checkpoint};

const DIRECTORY: &str = "failed";

/// Which part of an iteration failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedPart {
    /// Supervised fine-tuning of the policy.
    Sft,
    /// Sampling from the policy.
    Rollout,
    /// An update of the discriminator.
    Reward,
    /// The token rewards of the policy's samples.
    TokenRewards,
    /// An update of the policy.
    Policy,
}

/// Where a completion of a batch comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Id of its problem.
    pub problem: String,
    /// Who wrote it.
    pub role: TraceRole,
}

/// A token at which a number is not finite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// Place of the completion in the batch.
    pub trace: usize,
    /// Index of the completion's token.
    pub token: usize,
}

/// A completion of a failed batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedTrace {
    /// Its problem and its writer.
    #[serde(flatten)]
    pub origin: Origin,
    /// Index of its group; traces of a group share the prompt.
    pub group: usize,
    /// Token ids.
    pub token_ids: Vec<u32>,
    /// The player's scalar of each token; `null` where it is not finite, empty where it was not reached.
    pub scalars: Vec<Option<f32>>,
    /// The loss's gradient of each scalar; as `scalars`.
    pub loss_gradients: Vec<Option<f32>>,
}

/// An update as it can be looked at again, alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedUpdate {
    /// Iterations done before, over all phases.
    pub iteration: usize,
    /// What failed.
    pub part: FailedPart,
    /// Which update of that kind in the iteration, from 0.
    pub update: usize,
    /// What was not finite.
    pub error: String,
    /// Where, when one token is to blame.
    pub culprit: Option<Culprit>,
    /// Prompt of each group.
    pub prompts: Vec<Vec<u32>>,
    /// Every completion, group after group.
    pub traces: Vec<FailedTrace>,
    /// Where this was written.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// What an update computed before it failed.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) scalars: TokenScalars,
    pub(super) gradients: TokenScalars,
}

/// The batch that an update works on.
#[derive(Clone, Copy)]
pub(super) struct Batch<'b> {
    pub(super) part: FailedPart,
    /// Which update of its kind in the iteration.
    pub(super) update: usize,
    pub(super) groups: &'b [Group],
    /// One a completion, group after group.
    pub(super) origins: &'b [Origin],
}

impl Batch<'_> {
    /// An error with its batch where a number is to blame; any other error as it is.
    pub(super) fn explain(&self, error: IrlError, seen: &Seen) -> IrlError {
        if !is_numeric(&error) {
            return error;
        }
        let culprit = match error {
            IrlError::NonFinite { trace, token, .. } => Some(Culprit { trace, token }),
            _ => None,
        };
        let members = self.groups.iter().enumerate();
        let ids = members.flat_map(|(group, g)| g.completions.iter().map(move |ids| (group, ids)));
        let traces = ids.zip(self.origins).enumerate();
        let traces = traces.map(|(index, ((group, ids), origin))| FailedTrace {
            origin: origin.clone(),
            group,
            token_ids: ids.clone(),
            scalars: finite(seen.scalars.get(index)),
            loss_gradients: finite(seen.gradients.get(index)),
        });
        let failure = FailedUpdate {
            iteration: 0,
            part: self.part,
            update: self.update,
            error: error.to_string(),
            culprit,
            prompts: self.groups.iter().map(|g| g.prompt.clone()).collect(),
            traces: traces.collect(),
            file: None,
        };
        IrlError::FailedUpdate {
            failure: Box::new(failure),
            source: Box::new(error),
        }
    }
}

fn is_numeric(error: &IrlError) -> bool {
    matches!(
        error,
        IrlError::NonFinite { .. }
            | IrlError::NotFinite { .. }
            | IrlError::MissingGradient { .. }
            | IrlError::Model(LmError::NonFiniteLogits)
    )
}

fn finite(row: Option<&Vec<f32>>) -> Vec<Option<f32>> {
    let row = row.into_iter().flatten();
    row.map(|&x| x.is_finite().then_some(x)).collect()
}

/// The first scalar that is not finite, as an error.
pub(super) fn check_finite(what: &'static str, scalars: &[Vec<f32>]) -> Result<(), IrlError> {
    for (trace, row) in scalars.iter().enumerate() {
        if let Some(token) = row.iter().position(|x| !x.is_finite()) {
            return Err(IrlError::NonFinite {
                what,
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
    pub(super) fn write(&mut self, run: &Path, iteration: usize) -> Result<(), IrlError> {
        self.iteration = iteration;
        let dir = run.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(|source| IrlError::io("creating", &dir, source))?;
        let path = dir.join(format!("iter-{iteration}.json"));
        let text = serde_json::to_string(self).map_err(|source| IrlError::Malformed {
            path: path.clone(),
            reason: source.to_string(),
        })?;
        checkpoint::write_file(&path, (text + "\n").as_bytes())?;
        self.file = Some(path);
        Ok(())
    }

    /// Reads the failed update of an iteration, or of the newest one.
    ///
    /// # Errors
    /// There is none, or its file cannot be read as one.
    pub fn read(run: &Path, iteration: Option<usize>) -> Result<Self, IrlError> {
        let dir = run.join(DIRECTORY);
        let number = match iteration {
            Some(number) => number,
            None => newest(&dir)?,
        };
        let path = dir.join(format!("iter-{number}.json"));
        let malformed = |reason: String| IrlError::Malformed {
            path: path.clone(),
            reason,
        };
        let bytes = fs::read(&path).map_err(|source| IrlError::io("reading", &path, source))?;
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

fn newest(dir: &Path) -> Result<usize, IrlError> {
    let none = || IrlError::Malformed {
        path: dir.to_owned(),
        reason:
            "it holds no failed update: no iteration of this run met a number that is not finite"
                .to_owned(),
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

impl fmt::Display for FailedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sft => "supervised update",
            Self::Rollout => "rollout",
            Self::Reward => "reward update",
            Self::TokenRewards => "token rewards",
            Self::Policy => "policy update",
        })
    }
}

impl fmt::Display for FailedUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iteration {}, {}", self.iteration, self.part)?;
        if matches!(self.part, FailedPart::Reward | FailedPart::Policy) {
            write!(f, " {}", self.update)?;
        }
        write!(f, ": {}", self.error)?;
        let trace = self.culprit.as_ref();
        if let Some(trace) = trace.and_then(|culprit| self.traces.get(culprit.trace)) {
            let (role, problem) = (trace.origin.role, &trace.origin.problem);
            write!(f, " ({role:?} completion of problem {problem})")?;
        }
        f.write_str("; the last checkpoint is intact")?;
        match &self.file {
            Some(file) => write!(
                f,
                "; {} holds the batch: `assay replay --run DIR` looks at it trace by trace",
                file.display()
            ),
            None => Ok(()),
        }
    }
}
