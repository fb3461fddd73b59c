//! Answers in any text: what is found lies in it, and equality is symmetric.
#![no_main]

use assay_tasks::answers::{
    AnswerForm, extract_lenient, extract_strict, parse_number, same_answer,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let strict = extract_strict(text, AnswerForm::Hashes);
    for found in strict.into_iter().chain(extract_lenient(text)) {
        assert_eq!(&text[found.span.clone()], found.text);
    }
    let _ = parse_number(text);
    let (one, other) = text.split_once('=').unwrap_or((text, text));
    assert_eq!(same_answer(one, other), same_answer(other, one));
});
