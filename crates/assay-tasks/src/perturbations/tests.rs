use proptest::prelude::*;

use super::*;
use crate::problem::Problem;
use crate::prompts::{PromptSettings, PromptStyle};

const HASHES: &str = "Tom had 48/2 = 24 clips.\nHe sold 48+24 = 72 for $1,072.50.\n#### 72";
const TAGS: &str = "<think>\nTom had 48/2 = 24 clips.\nHe sold 48+24 = 72 for $1,072.50.\n</think>\n<answer>\n72\n</answer>";

/// All different results of many draws.
fn results(kind: Perturbation, text: &str) -> Vec<String> {
    let drawn = (0..200).filter_map(|seed| kind.apply(text, &mut Stream::new(seed, &[])));
    let mut texts: Vec<String> = drawn.map(|perturbed| perturbed.text).collect();
    texts.sort();
    texts.dedup();
    texts
}

fn check(original: &str, perturbed: &Perturbed) {
    let span = perturbed.span.clone();
    assert_ne!(perturbed.text, original);
    assert!(span.start < span.end && span.end <= perturbed.text.len());
    assert_eq!(perturbed.text[..span.start], original[..span.start]);
    assert_ne!(
        perturbed.text[span.start..].chars().next(),
        original[span.start..].chars().next()
    );
    let _ = &perturbed.text[span];
}

#[test]
fn an_operator_becomes_another_and_the_result_stays() {
    assert_eq!(
        results(Perturbation::FlipOperator, "2 + 2 = 4 eggs\n#### 4"),
        ["2 - 2 = 4 eggs\n#### 4", "2 / 2 = 4 eggs\n#### 4"]
    );
    assert_eq!(
        results(Perturbation::FlipOperator, "3 x 1 = 3"),
        ["3 + 1 = 3", "3 - 1 = 3"]
    );
    assert_eq!(
        results(Perturbation::FlipOperator, "$5 – 2 dollars × 2 = $1"),
        [
            "$5 * 2 dollars × 2 = $1",
            "$5 + 2 dollars × 2 = $1",
            "$5 / 2 dollars × 2 = $1",
            "$5 – 2 dollars - 2 = $1",
            "$5 – 2 dollars / 2 = $1"
        ]
        .map(|text| text.replace("$5 *", "$5 ×"))
        .into_iter()
        .chain([])
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    let count = results(
        Perturbation::FlipOperator,
        "(4 eggs + 2 eggs) x 3 = 18, so 18 * 50% = 9",
    )
    .len();
    assert_eq!(count, 9);
}

#[test]
fn rates_are_operands() {
    let changed = results(
        Perturbation::FlipOperator,
        "$9/week * 4 weeks/month = $36/month",
    );
    assert_eq!(
        changed,
        [
            "$9/week + 4 weeks/month = $36/month",
            "$9/week - 4 weeks/month = $36/month",
            "$9/week / 4 weeks/month = $36/month"
        ]
    );
    assert_eq!(
        results(
            Perturbation::FlipOperator,
            "7 words/minute - 2 words/minute = 5"
        )
        .len(),
        3
    );
}

#[test]
fn an_alphabet_keeps_strange_characters_out() {
    let registry = Registry::training().within("0123 +-*=#\n");
    for seed in 0..50 {
        for perturbed in registry
            .perturb_all("1+2 = 3\n3*1 = 3\n#### 3", 4, &mut Stream::new(seed, &[]))
            .perturbed
        {
            assert!(
                perturbed
                    .text
                    .chars()
                    .all(|character| "0123 +-*=#\n".contains(character)),
                "{}",
                perturbed.text
            );
        }
    }
}

#[test]
fn hyphens_dates_bullets_and_units_are_not_operators() {
    for text in [
        "a 120-page book",
        "On 2024-05-01 = day 1",
        "On 5/1/2024 he ran",
        "- 5 eggs = 5 eggs",
        "* 5 eggs = 5",
        "60 km/h = 1 km/min",
        "2-3 hours of twenty-five",
        "the well-known 3 = 3",
        "1. 5 = 5",
        "5 - 3 is two",
        "5 boxes = 5 x",
        "- 7\n+ 8\n= 15",
        "From 2 - 3 days, x = 5",
    ] {
        assert_eq!(results(Perturbation::FlipOperator, text), [""; 0], "{text}");
    }
}

#[test]
fn a_corrupted_answer_keeps_its_format() {
    let cases = [
        ("#### 72", vec!["#### 71", "#### 73"]),
        ("#### $1,000.50", vec!["#### $1,000.49", "#### $1,000.51"]),
        ("#### 999", vec!["#### 1000", "#### 998"]),
        ("#### 1,000", vec!["#### 1,001", "#### 999"]),
        ("#### 0", vec!["#### 1"]),
        ("#### -3", vec!["#### -2", "#### -4"]),
        (
            "<answer>\nYes.\n</answer>",
            vec!["<answer>\nNo.\n</answer>"],
        ),
        ("<answer>NO</answer>", vec!["<answer>YES</answer>"]),
        (
            "<answer>(B)</answer>",
            vec![
                "<answer>(A)</answer>",
                "<answer>(C)</answer>",
                "<answer>(D)</answer>",
            ],
        ),
        ("<answer>aspirin</answer>", vec![]),
        ("no answer 5", vec![]),
    ];
    for (text, expected) in cases {
        assert_eq!(
            results(Perturbation::CorruptAnswer, text),
            expected,
            "{text}"
        );
    }
}

#[test]
fn the_answer_is_taken_from_the_reasoning() {
    let expected =
        ["2", "24", "48"].map(|answer| HASHES.replace("#### 72", &format!("#### {answer}")));
    assert_eq!(results(Perturbation::AnswerFromReasoning, HASHES), expected);
    let expected = ["2", "24", "48"].map(|answer| TAGS.replace("\n72\n", &format!("\n{answer}\n")));
    assert_eq!(results(Perturbation::AnswerFromReasoning, TAGS), expected);
    assert_eq!(
        results(Perturbation::AnswerFromReasoning, "5 = 5\n#### 5"),
        [""; 0]
    );
}

#[test]
fn corrupted_numbers_keep_their_format() {
    for kind in [
        Perturbation::CorruptNumbers,
        Perturbation::CorruptManyNumbers,
    ] {
        for text in results(kind, "costs $1,072.50 and 0.5 and .25 and 7\n#### 72") {
            let written: Vec<String> = text
                .chars()
                .map(|c| if c.is_ascii_digit() { '9' } else { c })
                .collect::<String>()
                .split(' ')
                .map(str::to_owned)
                .collect();
            assert_eq!(
                written.join(" "),
                "costs $9,999.99 and 9.9 and .99 and 9\n#### 99"
            );
            assert!(text.ends_with("#### 72") && !text.contains("$0"));
        }
    }
    let changed = |text: &str| {
        text.bytes()
            .zip("1 2 3 4 5".bytes())
            .filter(|(a, b)| a != b)
            .count()
    };
    assert!(
        results(Perturbation::CorruptManyNumbers, "1 2 3 4 5")
            .iter()
            .all(|text| changed(text) == 3)
    );
    assert!(
        results(Perturbation::CorruptNumbers, "1 2 3 4 5")
            .iter()
            .all(|text| changed(text) == 1)
    );
}

#[test]
fn swapped_numbers_are_not_terms_of_one_sum() {
    assert_eq!(
        results(Perturbation::SwapNumbers, "2 + 3 = 5"),
        ["2 + 5 = 3", "5 + 3 = 2"]
    );
    assert_eq!(
        results(Perturbation::SwapNumbers, "2*3 - 2.0"),
        ["2*2.0 - 3"]
    );
}

#[test]
fn only_steps_that_matter_are_dropped_or_moved() {
    let text = "a 1+1 = 2\nb 5+4 = 9\nc 2*3 = 6\n#### 6";
    assert_eq!(
        results(Perturbation::DropStep, text),
        [
            "a 1+1 = 2\nb 5+4 = 9\n#### 6",
            "b 5+4 = 9\nc 2*3 = 6\n#### 6"
        ]
    );
    assert_eq!(
        results(Perturbation::SwapSteps, text),
        ["c 2*3 = 6\nb 5+4 = 9\na 1+1 = 2\n#### 6"]
    );
    let words = "Fever. Then rash.";
    assert_eq!(
        results(Perturbation::SwapSteps, words),
        ["Then rash. Fever."]
    );
    assert_eq!(results(Perturbation::DropStep, words), ["Then rash."]);
    let dropped = Perturbation::DropStep
        .apply("2 = 2\n3 = 3\n#### 2", &mut Stream::new(0, &[]))
        .unwrap();
    assert_eq!(
        (dropped.text.as_str(), dropped.span),
        ("3 = 3\n#### 2", 0..5)
    );
}

#[test]
fn a_carried_error_reaches_every_later_use() {
    let text = "4+4 = 8 eggs\n8 * $2 = $16\n16.00 left\n#### 16";
    for changed in results(Perturbation::CarryError, text) {
        let lines: Vec<&str> = changed.lines().collect();
        if lines[0] == "4+4 = 8 eggs" {
            let wrong = lines[1].rsplit('$').next().unwrap();
            assert_eq!(
                (lines[2], lines[3]),
                (
                    format!("{wrong}.00 left").as_str(),
                    format!("#### {wrong}").as_str()
                )
            );
        } else {
            let wrong = lines[0]
                .trim_start_matches("4+4 = ")
                .trim_end_matches(" eggs");
            assert_eq!(lines[1], format!("{wrong} * $2 = $16"));
        }
    }
    assert!(results(Perturbation::CarryError, text).len() > 10);
    assert_eq!(results(Perturbation::CarryError, "1+1 = 2 and 3"), [""; 0]);
}

#[test]
fn scale_and_one_off_keep_the_format() {
    assert_eq!(
        results(Perturbation::WrongUnitScale, "1,200 at 2.50"),
        [
            "1,200 at 25.00",
            "1,200 at 0.25",
            "12,000 at 2.50",
            "120 at 2.50"
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    assert_eq!(
        results(Perturbation::OffByOne, "1,000 at 0.50"),
        ["1,000 at 1.50", "1,001 at 0.50", "999 at 0.50"]
    );
}

#[test]
fn fault_02_unchanged_text_is_never_a_negative() {
    for text in [
        HASHES,
        TAGS,
        "",
        "no numbers here",
        "#### ",
        "<answer></answer>",
        "7",
    ] {
        for kind in Perturbation::ALL {
            for seed in 0..100 {
                if let Some(perturbed) = kind.apply(text, &mut Stream::new(seed, &[])) {
                    check(text, &perturbed);
                    assert_eq!(perturbed.kind, kind);
                }
            }
        }
    }
    let outcome = Registry::training().perturb_all("no numbers here", 3, &mut Stream::new(0, &[]));
    assert!(outcome.perturbed.is_empty());
    assert_eq!(
        outcome.skipped.values().copied().collect::<Vec<_>>(),
        [1; 8]
    );
}

#[test]
fn corruptions_are_distinct_and_of_fixed_number() {
    let registry = Registry::training();
    for text in [HASHES, TAGS] {
        let outcome = registry.perturb_all(text, 12, &mut Stream::new(5, &[]));
        let mut texts: Vec<&str> = outcome
            .perturbed
            .iter()
            .map(|perturbed| perturbed.text.as_str())
            .collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 12);
        assert_eq!(
            outcome,
            registry.perturb_all(text, 12, &mut Stream::new(5, &[]))
        );
        outcome
            .perturbed
            .iter()
            .for_each(|perturbed| check(text, perturbed));
    }
    let one = Registry::named(&["corrupt_answer".to_string()]).unwrap();
    let outcome = one.perturb_all("#### 0", 3, &mut Stream::new(0, &[]));
    assert_eq!(
        (
            outcome.perturbed.len(),
            outcome.skipped[&Perturbation::CorruptAnswer]
        ),
        (1, 1)
    );
}

#[test]
fn fault_01_corruptions_stay_under_their_own_question() {
    let problem = |index: usize| Problem {
        id: format!("p{index}"),
        question: format!("question {index}"),
        demonstration: (index != 2).then(|| format!("item{index} has {index}1 + 3 = {index}4")),
        answer: Some(format!("{index}4")),
    };
    let problems: Vec<Problem> = (1..6).map(problem).collect();
    let prompts = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    for problem in &problems {
        let Some(text) = prompts.demonstration(problem) else {
            assert_eq!(problem.id, "p2", "only it has no demonstration");
            continue;
        };
        let mut stream = Stream::new(42, &[1]);
        let group =
            DemonstrationGroup::corrupt(problem, &text, &Registry::training(), 4, &mut stream);
        assert_eq!(
            (group.problem(), group.demonstration()),
            (problem, text.as_str())
        );
        let item = group.problem().question.replace("question ", "item");
        assert!(group.demonstration().starts_with(&item));
        assert_eq!(group.perturbed().len(), 4);
        assert!(
            group
                .perturbed()
                .iter()
                .all(|perturbed| perturbed.text.starts_with(&item))
        );
    }
}

const WORDS: &str = "tam is a vex\nso vex must be a lorn\nlorn is not a dax\n#### no";

#[test]
fn a_statement_is_denied_or_affirmed() {
    assert_eq!(
        results(Perturbation::FlipPolarity, WORDS),
        [
            WORDS.replace("must", "cannot"),
            WORDS.replace("not a", "a"),
            WORDS.replace("tam is", "tam is not"),
        ]
    );
    let perturbed = |text: &str| Perturbation::FlipPolarity.apply(text, &mut Stream::new(1, &[]));
    let denied = perturbed("it is red\n#### yes").unwrap();
    assert_eq!(&denied.text[denied.span], "not");
    let affirmed = perturbed("it is not red\n#### no").unwrap();
    assert_eq!(affirmed.text, "it is red\n#### no");
    assert_eq!(&affirmed.text[affirmed.span], "red");
    assert!(perturbed("no verb here\n#### is").is_none());
}

#[test]
fn a_conclusion_returns_to_an_earlier_one() {
    assert_eq!(
        results(Perturbation::SwapConclusion, WORDS),
        [WORDS.replace("dax", "vex")],
        "a step never concludes a word that it holds"
    );
    let none = "tam is a vex\nvex is a lorn\n#### yes";
    assert!(results(Perturbation::SwapConclusion, none).is_empty());
}

#[test]
fn a_misspelt_name_suggests_the_nearest() {
    for kind in Perturbation::ALL {
        assert_eq!(
            Registry::named(&[kind.name().to_owned()]).unwrap().kinds(),
            [kind]
        );
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    let error = Registry::named(&["flip_operatr".to_owned()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown perturbation `flip_operatr`, the nearest is `flip_operator`"
    );
    assert!(matches!(
        Registry::named(&[]),
        Err(TasksError::NoPerturbation)
    ));
    assert_eq!(
        (
            Registry::training().kinds().len(),
            Registry::held_out().kinds().len()
        ),
        (8, 5)
    );
}

proptest! {
    #[test]
    fn any_text_is_corrupted_where_the_span_says(
        body in "(?s).{0,60}|([a-z]{1,4} |[0-9]{1,4}(,[0-9]{3}|\\.[0-9]{1,2})?|[-+*/x×÷–=] ?|\\$|\\. |\n){0,40}",
        end in "|\n#### [0-9]{1,4}|\n<answer>\n(yes|[0-9.]{1,5})\n</answer>",
        seed in any::<u64>(),
    ) {
        let text = body + &end;
        for kind in Perturbation::ALL {
            if let Some(perturbed) = kind.apply(&text, &mut Stream::new(seed, &[])) {
                check(&text, &perturbed);
            }
        }
    }
}
