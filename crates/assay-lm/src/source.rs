//! The source of a model: a Hugging Face directory or one `.gguf` file, opened once for all its
//! parts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::CONFIG_FILE;
use crate::weights::gguf::first_part;
use crate::weights::{GgufFile, Weights};
use crate::{ChatTemplate, LmError, ModelConfig, Tokenizer};

/// An existing model on disk.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A directory with `config.json`, safetensors and `tokenizer.json`.
    Directory(PathBuf),
    /// One `.gguf` file, or all parts of a split one.
    Gguf(Arc<GgufFile>),
}

impl ModelSource {
    /// Opens a directory with a `config.json`, a `.gguf` file, or a directory whose only model is
    /// one `.gguf` file (split into parts or not).
    ///
    /// # Errors
    /// Names the path and what is missing; the reasons of [`GgufFile::open`].
    pub fn open(path: &Path) -> Result<Self, LmError> {
        let not_a_model = |reason: &str| {
            Err(LmError::NotAModel {
                path: path.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if path.is_file() {
            return match path
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
            {
                true => Ok(Self::Gguf(Arc::new(GgufFile::open(path)?))),
                false => not_a_model("a model is a directory or a file that ends in .gguf"),
            };
        }
        if !path.is_dir() {
            return not_a_model("there is no such file or directory");
        }
        if path.join(CONFIG_FILE).is_file() {
            return Ok(Self::Directory(path.to_owned()));
        }
        match gguf_files(path)?.as_slice() {
            [file] => Ok(Self::Gguf(Arc::new(GgufFile::open(file)?))),
            [] => not_a_model("the directory has neither config.json nor a .gguf file"),
            [file, others @ ..] => {
                let first = first_part(file);
                match others.iter().all(|other| first_part(other) == first) {
                    true => Ok(Self::Gguf(Arc::new(GgufFile::open(&first)?))),
                    false => not_a_model("the directory has several .gguf files; name one of them"),
                }
            }
        }
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(dir) => dir,
            Self::Gguf(file) => file.path(),
        }
    }

    /// The model's configuration.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn config(&self) -> Result<ModelConfig, LmError> {
        match self {
            Self::Directory(dir) => ModelConfig::from_directory(dir),
            Self::Gguf(file) => ModelConfig::from_gguf(file),
        }
    }

    /// The model's tensors.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn weights(&self) -> Result<Weights, LmError> {
        match self {
            Self::Directory(dir) => Weights::from_directory(dir),
            Self::Gguf(file) => Ok(Weights::from_gguf(Arc::clone(file))),
        }
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub fn tokenizer(&self) -> Result<Tokenizer, LmError> {
        match self {
            Self::Directory(dir) => Tokenizer::from_directory(dir),
            Self::Gguf(file) => Tokenizer::from_gguf(file),
        }
    }

    /// The model's own chat template.
    ///
    /// # Errors
    /// [`LmError::NoTemplate`] when the model has none; the reasons of [`ChatTemplate::new`].
    pub fn template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate, LmError> {
        match self {
            Self::Directory(dir) => ChatTemplate::from_directory(dir, tokenizer),
            Self::Gguf(file) => ChatTemplate::from_gguf(file, tokenizer),
        }
    }
}

fn gguf_files(dir: &Path) -> Result<Vec<PathBuf>, LmError> {
    let io = |source| LmError::Io {
        action: "reading",
        path: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
