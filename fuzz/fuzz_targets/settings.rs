//! Settings: accepted settings can be written, and reading them back gives the same settings.
#![no_main]

use assay_train::settings::Settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(settings) = Settings::from_toml(text, "fuzz") {
        let again = settings
            .resolved_toml()
            .expect("accepted settings can be written");
        let back = Settings::from_toml(&again, "again").expect("and read");
        assert_eq!(back.resolved_toml().expect("again"), again);
    }
    let option = text.lines().next().unwrap_or("").to_owned();
    let _ = Settings::from_texts(&[], &[option]);
});
