//! Data files in every format: an error or problems, never a panic.
#![no_main]

use std::io::Write;

use assay_tasks::datasets::{DatasetFormat, DatasetSettings, Required, load_problems};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    for format in [
        DatasetFormat::Gsm8k,
        DatasetFormat::Columns,
        DatasetFormat::Messages,
    ] {
        let settings = DatasetSettings {
            path: file.path().to_owned(),
            format,
            required: Some(Required::Question),
            ..DatasetSettings::default()
        };
        let _ = load_problems(&settings);
    }
});
