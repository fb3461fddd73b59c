//! Perturbed demonstrations: correct reasoning with one known error.
//!
//! Each perturbation is a named function from a text to a corrupted text and the position of its
//! first corruption, drawn from a [`Stream`]. It never returns its input, keeps the format of the
//! changed part and works on every completion layout: the answer is the content of the last
//! `<answer>` or the text after the last `####`, and the reasoning is the text before it. A text
//! that cannot be corrupted is skipped and counted.

mod answer;
mod edit;
mod group;
mod hints;
mod numbers;
mod operators;
mod steps;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::TasksError;
use crate::random::Stream;

pub use group::DemonstrationGroup;
pub use hints::Hints;

/// A named way to corrupt a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Perturbation {
    /// Another operator in one arithmetic step, its right-hand side kept.
    FlipOperator,
    /// The nearest number of the same format as the answer; yes and no flip, a choice becomes
    /// another.
    CorruptAnswer,
    /// Another number of the reasoning as the answer.
    AnswerFromReasoning,
    /// Another digit in one number of the reasoning.
    CorruptNumbers,
    /// Another digit in each of three numbers of the reasoning, or as many as there are.
    CorruptManyNumbers,
    /// Two numbers of the reasoning exchanged.
    SwapNumbers,
    /// A step left out whose result is used later.
    DropStep,
    /// Two steps exchanged of which the later uses the earlier.
    SwapSteps,
    /// A wrong result that is used in all later steps, the answer included. Held out of training.
    CarryError,
    /// A number of the reasoning times ten or a tenth. Held out of training.
    WrongUnitScale,
    /// A number of the reasoning plus or minus one. Held out of training.
    OffByOne,
    /// A statement of the reasoning negated, or a negated one affirmed. Held out of training.
    FlipPolarity,
    /// The last word of a step replaced by that of an earlier step. Held out of training.
    SwapConclusion,
}

/// A corrupted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perturbed {
    /// The corrupted text.
    pub text: String,
    /// Byte range in `text` of the first corruption; never empty.
    ///
    /// Before its start the two texts are equal; at its start their characters differ. It ends with
    /// the corrupted number, operator or step; after a deletion, with the step that follows.
    pub span: Range<usize>,
    /// The perturbation.
    pub kind: Perturbation,
}

impl Perturbation {
    /// All perturbations, those held out of training last.
    pub const ALL: [Perturbation; 13] = [
        Perturbation::FlipOperator,
        Perturbation::CorruptAnswer,
        Perturbation::AnswerFromReasoning,
        Perturbation::CorruptNumbers,
        Perturbation::CorruptManyNumbers,
        Perturbation::SwapNumbers,
        Perturbation::DropStep,
        Perturbation::SwapSteps,
        Perturbation::CarryError,
        Perturbation::WrongUnitScale,
        Perturbation::OffByOne,
        Perturbation::FlipPolarity,
        Perturbation::SwapConclusion,
    ];

    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Perturbation::FlipOperator => "flip_operator",
            Perturbation::CorruptAnswer => "corrupt_answer",
            Perturbation::AnswerFromReasoning => "answer_from_reasoning",
            Perturbation::CorruptNumbers => "corrupt_numbers",
            Perturbation::CorruptManyNumbers => "corrupt_many_numbers",
            Perturbation::SwapNumbers => "swap_numbers",
            Perturbation::DropStep => "drop_step",
            Perturbation::SwapSteps => "swap_steps",
            Perturbation::CarryError => "carry_error",
            Perturbation::WrongUnitScale => "wrong_unit_scale",
            Perturbation::OffByOne => "off_by_one",
            Perturbation::FlipPolarity => "flip_polarity",
            Perturbation::SwapConclusion => "swap_conclusion",
        }
    }

    /// Whether the kind is reserved for testing localisation on errors that were never trained on.
    pub fn is_held_out(self) -> bool {
        matches!(
            self,
            Perturbation::CarryError
                | Perturbation::WrongUnitScale
                | Perturbation::OffByOne
                | Perturbation::FlipPolarity
                | Perturbation::SwapConclusion
        )
    }

    /// Corrupts `text`; `None` if this perturbation cannot be applied to it.
    pub fn apply(self, text: &str, stream: &mut Stream) -> Option<Perturbed> {
        let edited = match self {
            Perturbation::FlipOperator => operators::flip_operator(text, stream),
            Perturbation::CorruptAnswer => answer::corrupt_answer(text, stream),
            Perturbation::AnswerFromReasoning => answer::answer_from_reasoning(text, stream),
            Perturbation::CorruptNumbers => numbers::corrupt_numbers(text, 1, stream),
            Perturbation::CorruptManyNumbers => numbers::corrupt_numbers(text, 3, stream),
            Perturbation::SwapNumbers => numbers::swap_numbers(text, stream),
            Perturbation::DropStep => steps::drop_step(text, stream),
            Perturbation::SwapSteps => steps::swap_steps(text, stream),
            Perturbation::CarryError => numbers::carry_error(text, stream),
            Perturbation::WrongUnitScale => numbers::wrong_unit_scale(text, stream),
            Perturbation::OffByOne => numbers::off_by_one(text, stream),
            Perturbation::FlipPolarity => words::flip_polarity(text, stream),
            Perturbation::SwapConclusion => words::swap_conclusion(text, stream),
        }?;
        edited.located(text, self)
    }
}

/// The perturbations a run draws from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    kinds: Vec<Perturbation>,
    alphabet: Option<BTreeSet<char>>,
}

/// The corruptions of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerturbOutcome {
    /// The corrupted texts, all different.
    pub perturbed: Vec<Perturbed>,
    /// Attempts that were impossible or repeated an earlier text, by kind.
    pub skipped: BTreeMap<Perturbation, usize>,
}

/// Number of draws of one kind before it is skipped because it repeats a text or leaves the
/// alphabet.
const REDRAWS: usize = 8;

impl Registry {
    /// Exactly these perturbations.
    pub fn of(kinds: &[Perturbation]) -> Self {
        Self {
            kinds: kinds.to_vec(),
            alphabet: None,
        }
    }

    /// The perturbations used in training.
    pub fn training() -> Self {
        Self {
            kinds: Perturbation::ALL
                .into_iter()
                .filter(|kind| !kind.is_held_out())
                .collect(),
            alphabet: None,
        }
    }

    /// Kinds kept out of training, to test whether localisation generalises.
    pub fn held_out() -> Self {
        Self {
            kinds: Perturbation::ALL
                .into_iter()
                .filter(|kind| kind.is_held_out())
                .collect(),
            alphabet: None,
        }
    }

    /// The perturbations with these names.
    ///
    /// # Errors
    /// [`TasksError::UnknownPerturbation`] naming the nearest known name;
    /// [`TasksError::NoPerturbation`] for no names.
    pub fn named(names: &[String]) -> Result<Self, TasksError> {
        let kinds = names
            .iter()
            .map(|name| by_name(name))
            .collect::<Result<Vec<_>, _>>()?;
        if kinds.is_empty() {
            return Err(TasksError::NoPerturbation);
        }
        Ok(Self {
            kinds,
            alphabet: None,
        })
    }

    /// The same perturbations, redrawn until their texts consist of these characters only.
    ///
    /// For tasks with a closed vocabulary, in which an unseen character would reveal a corruption.
    pub fn within(self, alphabet: &str) -> Self {
        Self {
            alphabet: Some(alphabet.chars().collect()),
            ..self
        }
    }

    /// The perturbations in order.
    pub fn kinds(&self) -> &[Perturbation] {
        &self.kinds
    }

    /// `count` different corruptions of `text`, each of a kind drawn uniformly among those that are
    /// possible.
    ///
    /// Fewer than `count` are returned only if every kind is exhausted.
    pub fn perturb_all(&self, text: &str, count: usize, stream: &mut Stream) -> PerturbOutcome {
        let mut outcome = PerturbOutcome::default();
        while outcome.perturbed.len() < count {
            let mut order = self.kinds.clone();
            stream.shuffle(&mut order);
            let made = order.into_iter().find_map(|kind| {
                let new = self.draw_new(kind, text, &outcome.perturbed, stream);
                if new.is_none() {
                    *outcome.skipped.entry(kind).or_default() += 1;
                }
                new
            });
            match made {
                Some(made) => outcome.perturbed.push(made),
                None => break,
            }
        }
        outcome
    }

    fn draw_new(
        &self,
        kind: Perturbation,
        text: &str,
        made: &[Perturbed],
        stream: &mut Stream,
    ) -> Option<Perturbed> {
        for _ in 0..REDRAWS {
            let drawn = kind.apply(text, stream)?;
            let known = |alphabet: &BTreeSet<char>| {
                drawn
                    .text
                    .chars()
                    .all(|character| alphabet.contains(&character))
            };
            let new = made.iter().all(|earlier| earlier.text != drawn.text);
            if new && self.alphabet.as_ref().is_none_or(known) {
                return Some(drawn);
            }
        }
        None
    }
}

fn by_name(name: &str) -> Result<Perturbation, TasksError> {
    if let Some(kind) = Perturbation::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
    {
        return Ok(kind);
    }
    let distance = |kind: &Perturbation| strsim::damerau_levenshtein(kind.name(), name);
    let nearest = Perturbation::ALL
        .into_iter()
        .min_by_key(distance)
        .map_or("", Perturbation::name);
    Err(TasksError::UnknownPerturbation {
        name: name.to_owned(),
        nearest: nearest.to_owned(),
    })
}

#[cfg(test)]
mod tests;
