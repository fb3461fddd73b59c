//! Packed batches: every completion token is predicted once, and micro-batches lose none.
#![no_main]

use assay_lm::PackedBatch;
use assay_lm::packed::{Group, micro_batches};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, Vec<(u8, Vec<u8>)>)| {
    let (budget, shapes) = input;
    let ids = |length: u8| (0..u32::from(length)).collect::<Vec<u32>>();
    let groups: Vec<Group> = shapes
        .iter()
        .map(|(prompt, completions)| Group {
            prompt: ids(*prompt),
            completions: completions.iter().map(|&length| ids(length)).collect(),
        })
        .collect();
    let expected: usize = groups
        .iter()
        .flat_map(|group| &group.completions)
        .map(Vec::len)
        .sum();
    match PackedBatch::new(&groups) {
        Ok(batch) => {
            let (rows, targets) = batch.predictions();
            assert_eq!((rows.len(), targets.len()), (expected, expected));
            assert!(rows.iter().all(|&row| (row as usize) < batch.len()));
            let flat = vec![0.0; expected];
            assert_eq!(batch.split_by_completion(&flat).concat().len(), expected);
        }
        Err(_) => assert!(groups.iter().any(|group| group.prompt.is_empty())),
    }
    let parts = micro_batches(&groups, usize::from(budget));
    let kept: usize = parts
        .iter()
        .flat_map(|part| &part.groups)
        .flat_map(|group| &group.completions)
        .map(Vec::len)
        .sum();
    assert_eq!(kept, expected);
});
