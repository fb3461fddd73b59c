//! Traces: accepted traces can be written, and reading them back gives the same traces. Labels and
//! wrong traces: any file is read or is an error.
#![no_main]

use std::io::Write;

use assay_tasks::labels::{LabelFile, read_labels};
use assay_tasks::trace_io::{
    holds_step_traces, read_foreign_traces, read_step_traces, read_traces, write_traces,
};
use assay_tasks::wrong_traces::read_wrong_traces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("in.jsonl");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(bytes))
        .expect("room for it");
    let _ = holds_step_traces(&path);
    let _ = read_step_traces(&path);
    let _ = read_foreign_traces(&path);
    let _ = read_labels(&path);
    let _ = read_wrong_traces(&path);
    if let Ok(traces) = read_traces(&path) {
        let copy = dir.path().join("out.jsonl");
        write_traces(&copy, &traces).expect("accepted traces can be written");
        assert_eq!(read_traces(&copy).expect("and read"), traces);
    }
    // Last, because opening a file of labels may repair its end.
    let _ = LabelFile::open(&path);
});
