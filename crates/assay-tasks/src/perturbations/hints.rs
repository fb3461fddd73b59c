//! Hints for a judge: a demonstration and misleading versions of it.

use super::edit::layout;
use super::{Perturbation, REDRAWS};
use crate::random::Stream;

/// Errors of the reasoning. The first possible one is used, since an error with consequences
/// misleads most.
const IN_THE_REASONING: [Perturbation; 5] = [
    Perturbation::CarryError,
    Perturbation::CorruptManyNumbers,
    Perturbation::SwapNumbers,
    Perturbation::FlipOperator,
    Perturbation::DropStep,
];

/// A demonstration and misleading versions of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The demonstration.
    pub right: String,
    /// Versions with a wrong result that later steps use, and another final answer. All are
    /// different.
    pub wrong: Vec<String>,
}

impl Hints {
    /// At most `count` misleading versions of a demonstration; fewer if fewer are possible.
    ///
    /// Text without a number, a choice or yes and no has none.
    pub fn of(demonstration: &str, count: usize, stream: &mut Stream) -> Self {
        let mut wrong: Vec<String> = Vec::with_capacity(count);
        for _ in 0..count + REDRAWS {
            if wrong.len() == count {
                break;
            }
            let drawn = misleading(demonstration, stream);
            wrong.extend(drawn.filter(|text| !wrong.contains(text)));
        }
        Self {
            right: demonstration.to_owned(),
            wrong,
        }
    }
}

/// A text with an error in its reasoning and another answer, as far as both are possible.
fn misleading(text: &str, stream: &mut Stream) -> Option<String> {
    let made = |kind: Perturbation, text: &str, stream: &mut Stream| {
        kind.apply(text, stream).map(|perturbed| perturbed.text)
    };
    let mut kinds = IN_THE_REASONING.into_iter();
    let reasoned = kinds.find_map(|kind| made(kind, text, stream));
    let before = reasoned.as_deref().unwrap_or(text);
    if answer(before) != answer(text) {
        return reasoned;
    }
    made(Perturbation::CorruptAnswer, before, stream).or(reasoned)
}

fn answer(text: &str) -> Option<&str> {
    layout(text).answer.map(|range| &text[range])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "3 * 4 = 12\n12 + 5 = 17\n#### 17";

    fn hints(text: &str, count: usize) -> Hints {
        Hints::of(text, count, &mut Stream::new(7, &[1]))
    }

    #[test]
    fn wrong_hints_reach_another_answer() {
        let hints = hints(TEXT, 4);
        assert_eq!(hints.right, TEXT);
        assert_eq!(hints.wrong.len(), 4);
        for (index, wrong) in hints.wrong.iter().enumerate() {
            assert_ne!(answer(wrong), Some("17"), "{wrong}");
            let (reasoning, _) = wrong.rsplit_once("####").unwrap();
            assert_ne!(reasoning, "3 * 4 = 12\n12 + 5 = 17\n", "{wrong}");
            assert!(!hints.wrong[..index].contains(wrong));
        }
    }

    #[test]
    fn words_alone_offer_no_wrong_hint() {
        assert!(hints("All wumpuses are shy.", 2).wrong.is_empty());
        let choice = hints("The femoral nerve is intact.\n#### B", 1);
        assert!(choice.wrong[0].ends_with("#### A") || !choice.wrong[0].ends_with("#### B"));
    }
}
