//! The layout of a file of problems: options of every command that reads problems.

use std::path::Path;

use assay_tasks::datasets::{DatasetFormat, DatasetSettings, Required};
use clap::Args;

#[derive(Args)]
pub(crate) struct LayoutArgs {
    /// Layout of the problems, as in `data.*.format`. Default: `columns` if a column is named,
    /// else `gsm8k`.
    #[arg(long, value_parser = dataset_format)]
    pub(crate) format: Option<DatasetFormat>,
    /// Column of the question. A dotted name selects a nested column: `extra_info.question`.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) question: Option<String>,
    /// Column of the expert's reasoning.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) demonstration: Option<String>,
    /// Column of the gold answer, for example `reward_model.ground_truth`.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) answer: Option<String>,
}

impl LayoutArgs {
    /// Whether a column is named.
    pub(crate) fn names_columns(&self) -> bool {
        self.question.is_some() || self.demonstration.is_some() || self.answer.is_some()
    }

    /// The settings of a data set in this layout.
    pub(crate) fn settings(&self, path: &Path, required: Required) -> DatasetSettings {
        let usual = match self.names_columns() {
            true => DatasetFormat::Columns,
            false => DatasetFormat::Gsm8k,
        };
        let default = DatasetSettings::default();
        DatasetSettings {
            path: path.to_owned(),
            format: self.format.unwrap_or(usual),
            question: self.question.clone().unwrap_or(default.question),
            demonstration: self.demonstration.clone().unwrap_or(default.demonstration),
            answer: self.answer.clone().unwrap_or(default.answer),
            required: Some(required),
            ..DatasetSettings::default()
        }
    }
}

/// A layout by its name in settings.
fn dataset_format(name: &str) -> Result<DatasetFormat, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}
