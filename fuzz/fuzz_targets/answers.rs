//! Answers in any text: a found answer is a part of it, reading is idempotent, and equality is
//! symmetric.
#![no_main]

use assay_tasks::answers::{
    Answer, AnswerForm, extract_lenient, extract_strict, parse_number, same_answer,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let strict = [AnswerForm::Hashes, AnswerForm::Tags].map(|form| extract_strict(text, form));
    for found in strict.into_iter().flatten().chain(extract_lenient(text)) {
        assert_eq!(&text[found.span.clone()], found.text);
        assert!(found.mark.start <= found.span.start && found.span.end <= found.mark.end);
    }
    let _ = parse_number(text);
    let (one, other) = text.split_once('|').unwrap_or((text, text));
    let _ = same_answer(one, other);
    let (one, other) = (Answer::read(one), Answer::read(other));
    assert_eq!(one.agrees(&other), other.agrees(&one));
    assert_eq!(Answer::read(&one.to_string()), one);
});
