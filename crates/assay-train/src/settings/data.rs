//! The files of a run's problems.

use std::path::PathBuf;

use assay_tasks::datasets::{DatasetFormat, DatasetSettings, Required};
use serde::{Deserialize, Serialize};

/// Problems for training and evaluation; an empty path means no data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// Problems with demonstrations, the only training data.
    pub train: DataFile,
    /// Problems for choosing thresholds, temperatures and trace scores. Keys that are not set have
    /// the values of `train`.
    pub validation: DataFile,
    /// Problems for reported results. Keys that are not set have the values of `train`.
    pub test: DataFile,
    /// Share of training demonstrations replaced by a perturbed one, for robustness studies.
    pub wrong_demonstrations: f64,
}

/// A file of problems. Keys that are not set have the defaults of [`DatasetSettings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataFile {
    /// See [`DatasetSettings::path`].
    pub path: PathBuf,
    /// See [`DatasetSettings::format`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DatasetFormat>,
    /// See [`DatasetSettings::question`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// See [`DatasetSettings::demonstration`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demonstration: Option<String>,
    /// See [`DatasetSettings::answer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// See [`DatasetSettings::id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// See [`DatasetSettings::required`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<Required>,
    /// See [`DatasetSettings::offset`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    /// See [`DatasetSettings::limit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            train: DataFile {
                format: Some(DatasetFormat::default()),
                ..DataFile::default()
            },
            validation: DataFile::default(),
            test: DataFile::default(),
            wrong_demonstrations: 0.0,
        }
    }
}

impl DataSettings {
    /// The training file.
    pub fn train(&self) -> DatasetSettings {
        self.dataset(&self.train)
    }

    /// The validation file.
    pub fn validation(&self) -> DatasetSettings {
        self.dataset(&self.validation)
    }

    /// The test file.
    pub fn test(&self) -> DatasetSettings {
        self.dataset(&self.test)
    }

    /// A file, with the training file's layout for keys that it does not set.
    fn dataset(&self, file: &DataFile) -> DatasetSettings {
        let layout = if file.format.is_some() {
            file
        } else {
            &self.train
        };
        let column = |own: &Option<String>, layout: &Option<String>, default: String| {
            own.clone().or_else(|| layout.clone()).unwrap_or(default)
        };
        let default = DatasetSettings::default();
        DatasetSettings {
            path: file.path.clone(),
            format: layout.format.unwrap_or(default.format),
            question: column(&file.question, &layout.question, default.question),
            demonstration: column(
                &file.demonstration,
                &layout.demonstration,
                default.demonstration,
            ),
            answer: column(&file.answer, &layout.answer, default.answer),
            id: column(&file.id, &layout.id, default.id),
            required: file.required,
            offset: file.offset.unwrap_or(default.offset),
            limit: file.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_share_the_training_layout() {
        let mut data = DataSettings::default();
        data.train.format = Some(DatasetFormat::Columns);
        data.train.question = Some("problem".to_owned());
        data.train.limit = Some(9);
        data.test.path = "test.jsonl".into();
        let test = data.test();
        assert_eq!(test.format, DatasetFormat::Columns);
        assert_eq!((test.question.as_str(), test.limit), ("problem", None));
        data.test.format = Some(DatasetFormat::Gsm8k);
        assert_eq!(data.test().question, DatasetSettings::default().question);
    }
}
