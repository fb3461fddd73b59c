//! Answers in any text: what is found lies in it, and equality of numbers is symmetric. A gold answer that is a word or a letter
//! says how the prediction is read, so those are not.
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
    let equal = (same_answer(one, other), same_answer(other, one));
    if parse_number(one).is_some() && parse_number(other).is_some() {
        assert_eq!(equal.0, equal.1);
    }
});
