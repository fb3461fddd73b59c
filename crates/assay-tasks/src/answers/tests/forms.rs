//! Recorded answer forms of public bug reports and their neighbours, by kind.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::{check, extract_lenient};

#[derive(Deserialize)]
struct Form {
    kind: String,
    text: String,
    gold: String,
    correct: bool,
}

fn forms() -> Vec<Form> {
    let lines = include_str!("forms.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn wrong(kind: &str) -> Vec<String> {
    let of_kind = forms().into_iter().filter(|form| form.kind == kind);
    let mut seen = 0;
    let wrong = of_kind.filter(|form| {
        seen += 1;
        check(&form.text, Some(&form.gold)).correct != Some(form.correct)
    });
    let wrong = wrong
        .map(|form| format!("{:?} against {:?}", form.text, form.gold))
        .collect();
    assert!(seen >= 10, "{kind} has {seen} forms");
    wrong
}

macro_rules! kinds {
    ($($name:ident: $kind:literal,)*) => {
        $(#[test]
        fn $name() {
            assert_eq!(wrong($kind), Vec::<String>::new());
        })*

        #[test]
        fn every_form_belongs_to_a_tested_kind() {
            let mut counts = BTreeMap::new();
            for form in forms() {
                *counts.entry(form.kind).or_insert(0) += 1;
            }
            let tested = std::collections::BTreeSet::from([$($kind.to_owned()),*]);
            assert_eq!(counts.into_keys().collect::<std::collections::BTreeSet<_>>(), tested);
        }
    };
}

kinds! {
    boxes_nested_unbraced_and_several: "boxes",
    tags_around_boxes_and_sentences: "tags",
    hashes_that_are_headings: "hashes",
    sentences_that_state_an_answer: "sentences",
    choices_in_sentences: "choices",
    gold_answers_in_markup: "gold",
    latex_notations: "latex",
    east_asian_digits_and_neighbours: "cjk",
    control_tokens_in_the_text: "control",
    numbers_that_are_something_else: "strict",
    separators_currencies_and_units: "numbers",
}

#[test]
fn found_answers_lie_in_their_text() {
    for form in forms() {
        if let Some(found) = extract_lenient(&form.text) {
            assert_eq!(&form.text[found.span.clone()], found.text);
            let outside = found.mark.start <= found.span.start && found.span.end <= found.mark.end;
            assert!(outside, "{:?}", form.text);
        }
    }
}
