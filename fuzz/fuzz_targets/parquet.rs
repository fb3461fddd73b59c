//! Parquet files: an error or problems. Panics of the reader that are returned as errors are no
//! findings.
#![no_main]

use assay_tasks::datasets::{
    DatasetFormat, DatasetSettings, Required, catches_panics, load_problems,
};
use libfuzzer_sys::fuzz_target;

fn pass_over_caught_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !catches_panics() {
            tell(panic);
        }
    }));
}

fuzz_target!(init: pass_over_caught_panics(), |bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("data.parquet");
    std::fs::write(&path, bytes).expect("room for it");
    for format in [
        DatasetFormat::Gsm8k,
        DatasetFormat::MmluPro,
        DatasetFormat::Messages,
        DatasetFormat::Columns,
        DatasetFormat::Countdown,
    ] {
        let settings = DatasetSettings {
            path: path.clone(),
            format,
            required: Some(Required::Question),
            ..DatasetSettings::default()
        };
        let _ = load_problems(&settings);
    }
});
