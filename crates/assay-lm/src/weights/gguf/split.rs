//! Names of the parts of a split GGUF file: `model-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

/// The parsed name of one part.
pub(super) struct SplitName {
    directory: PathBuf,
    stem: String,
    pub(super) count: usize,
}

impl SplitName {
    /// `None` if the name is not that of a part.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (start, extension) = name.rsplit_once('.')?;
        let (start, count) = start.rsplit_once("-of-")?;
        let (stem, number) = start.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let is_part = extension == "gguf" && is_number(number) && is_number(count);
        is_part.then_some(Self {
            directory: path.parent()?.to_owned(),
            stem: stem.to_owned(),
            count: count.parse().ok()?,
        })
    }

    /// The path of a part, from 1.
    pub(super) fn part(&self, number: usize) -> PathBuf {
        let name = format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count);
        self.directory.join(name)
    }
}

/// The first part of a split file, given any part; any other path unchanged.
pub(crate) fn first_part(path: &Path) -> PathBuf {
    match SplitName::parse(path) {
        Some(name) => name.part(1),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lead_to_the_first() {
        let first = |path: &str| first_part(Path::new(path)).display().to_string();
        assert_eq!(
            first("d/m-q4-00003-of-00012.gguf"),
            "d/m-q4-00001-of-00012.gguf"
        );
        assert_eq!(first("m-3-of-12.gguf"), "m-3-of-12.gguf");
        assert_eq!(first("m.gguf"), "m.gguf");
    }
}
