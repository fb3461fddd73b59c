//! A question with its demonstration, and the check that problem sets do not overlap.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::TasksError;

/// Maximum number of overlapping problems that an error names.
const MAX_EXAMPLES: usize = 5;

/// One question, with the expert's reasoning and the gold answer if they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Identifier, unique in its data set.
    pub id: String,
    /// The question as the user wrote it.
    pub question: String,
    /// The expert's reasoning: calculator marks stripped, without the final answer line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demonstration: Option<String>,
    /// The gold answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// Checks that no problem is in two of the three sets, by identifier and by question.
///
/// Questions are compared without regard to case and white space, so a copy with another identifier
/// is found.
///
/// # Errors
/// [`TasksError::Overlap`] naming the two sets and the first shared identifiers or questions.
pub fn assert_disjoint(
    train: &[Problem],
    validation: &[Problem],
    test: &[Problem],
) -> Result<(), TasksError> {
    let set = |role, problems| ProblemSet { role, problems };
    let (train, validation) = (set("train", train), set("validation", validation));
    let test = set("test", test);
    assert_pair(train, validation)?;
    assert_pair(train, test)?;
    assert_pair(validation, test)
}

/// A set of problems and its role in errors.
#[derive(Clone, Copy)]
struct ProblemSet<'p> {
    role: &'static str,
    problems: &'p [Problem],
}

fn assert_pair(first: ProblemSet<'_>, second: ProblemSet<'_>) -> Result<(), TasksError> {
    let problems = first.problems.iter();
    let ids: BTreeSet<&str> = problems.map(|problem| problem.id.as_str()).collect();
    let questions: BTreeSet<String> = first
        .problems
        .iter()
        .map(|problem| normalised(&problem.question))
        .collect();
    let mut shared = Vec::new();
    for problem in second.problems {
        if ids.contains(problem.id.as_str()) {
            shared.push(problem.id.clone());
        } else if questions.contains(&normalised(&problem.question)) {
            shared.push(problem.question.clone());
        }
    }
    if shared.is_empty() {
        return Ok(());
    }
    let count = shared.len();
    shared.truncate(MAX_EXAMPLES);
    Err(TasksError::Overlap {
        first: first.role,
        second: second.role,
        count,
        examples: shared,
    })
}

fn normalised(question: &str) -> String {
    question
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(id: &str, question: &str) -> Problem {
        Problem {
            id: id.into(),
            question: question.into(),
            ..Problem::default()
        }
    }

    #[test]
    fn fault_15_test_problems_in_training_are_errors() {
        let train = [problem("a", "How many?"), problem("b", "How much?")];
        let validation = [problem("c", "When?")];
        let test = [problem("d", "Where?")];
        assert!(assert_disjoint(&train, &validation, &test).is_ok());

        let renumbered = [problem("x", "how  MUCH?")];
        let error = assert_disjoint(&train, &validation, &renumbered).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"train and test share 1 problems, among them ["how  MUCH?"]"#
        );

        let same_id = [problem("c", "Whence?")];
        match assert_disjoint(&train, &validation, &same_id).unwrap_err() {
            TasksError::Overlap {
                first,
                second,
                count,
                examples,
            } => {
                assert_eq!(
                    (first, second, count, examples),
                    ("validation", "test", 1, vec!["c".to_string()])
                );
            }
            other => panic!("{other}"),
        }
        assert!(assert_disjoint(&train, &train[1..], &test).is_err());
    }
}
