//! Every perturbation on any text: the returned range begins at the first difference of the texts.
#![no_main]

use assay_tasks::perturbations::Perturbation;
use assay_tasks::random::Stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &str)| {
    let (seed, text) = input;
    for (index, kind) in Perturbation::ALL.into_iter().enumerate() {
        let mut stream = Stream::new(seed, &[index as u64]);
        let Some(made) = kind.apply(text, &mut stream) else {
            continue;
        };
        let (before, after) = (&made.text[..made.span.start], &made.text[made.span.clone()]);
        assert!(!after.is_empty(), "{kind:?}: an empty range");
        let rest = text.strip_prefix(before).expect("equal before the range");
        assert_ne!(rest.chars().next(), after.chars().next(), "{kind:?}");
    }
});
