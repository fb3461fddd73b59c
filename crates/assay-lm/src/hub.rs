//! Downloads models and data sets by their name on the Hugging Face hub, through the cache of
//! Python's `huggingface_hub`. This module decides which names are hub names, which files of a
//! repository are fetched, and when a request is sent. The cache's layout is in `cache`, requests
//! are in `client`, uploads in `push`. Commits, entity tags and file names in a hub's response are
//! checked before they become part of a path.

mod cache;
mod client;
mod push;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use self::cache::Cache;
use self::client::Client;
pub use self::push::{LocalFile, Pushed, local_files, push};
use crate::LmError;
use crate::config::read_json;
use crate::weights::gguf::first_part;

const MAIN: &str = "main";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Files of a model or adapter other than its weights. They are fetched if they exist, like every
/// file whose name begins with `tokenizer`.
const SMALL_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
];
/// Endings of the files of an adapter, other than tokenizer files.
const ADAPTER_ENDINGS: [&str; 3] = [".json", ".toml", ".safetensors"];
/// Endings of a data set's files.
const DATA_ENDINGS: [&str; 4] = [".parquet", ".jsonl", ".jsonl.zst", ".json"];

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    /// A model or an adapter.
    Model,
    /// A data set, named with `datasets/` in front.
    Dataset,
}

/// The name of a repository: `org/name`, `org/name@revision`, `org/name/file.gguf`,
/// `datasets/org/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoName {
    kind: RepoKind,
    repo: String,
    file: Option<String>,
    revision: Option<String>,
}

/// Addresses of the hub and of its cache.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Base URL of the hub.
    pub endpoint: String,
    /// The cache's directory, the one with `models--org--name` in it.
    pub cache: PathBuf,
    /// Sent to the endpoint's host only.
    pub token: Option<String>,
    /// Whether only the cache is read.
    pub offline: bool,
    /// Time for the body of one answer. A download resumes as long as each answer adds bytes.
    pub body_timeout: Duration,
}

/// Progress of a download or an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download<'f> {
    /// The file inside its repository.
    pub file: &'f str,
    /// Bytes that are transferred.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// A function that receives the progress of downloads and uploads.
pub type Watch<'w> = &'w mut dyn FnMut(Download<'_>);

impl RepoName {
    /// Parses a hub name; returns `None` for any other text, such as a path with `..`, a leading
    /// `/` or a single part.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = match text.strip_prefix("datasets/") {
            Some(rest) => (RepoKind::Dataset, rest),
            None => (RepoKind::Model, text),
        };
        let (path, revision) = match rest.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (rest, None),
        };
        let mut parts = path.splitn(3, '/');
        let (organisation, name, file) = (parts.next()?, parts.next()?, parts.next());
        let plain = is_plain(organisation) && is_plain(name);
        let file_is_plain = file.is_none_or(cache::is_inner_path);
        if !plain || !file_is_plain || !revision.is_none_or(cache::is_inner_path) {
            return None;
        }
        Some(Self {
            kind,
            repo: format!("{organisation}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })
    }

    /// Whether a model's repository is named, and not one file of it.
    pub fn is_model(&self) -> bool {
        self.kind == RepoKind::Model && self.file.is_none()
    }

    /// The branch, tag or commit that is named.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }
}

impl std::fmt::Display for RepoName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kind == RepoKind::Dataset {
            f.write_str("datasets/")?;
        }
        f.write_str(&self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// A part of a repository's name as the hub allows it.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&part.len())
        && part.chars().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.contains("..")
}

impl HubSettings {
    /// `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the token file that `hf auth
    /// login` writes, and `HF_HUB_OFFLINE`, with the defaults of `huggingface_hub`.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
            cache.unwrap_or_default().join("huggingface")
        });
        let token_file = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let token_file = token_file.unwrap_or_else(|| home.join("token"));
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            matches!(
                value.to_ascii_uppercase().as_str(),
                "1" | "ON" | "YES" | "TRUE"
            )
        });
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline,
            body_timeout: Duration::from_secs(600),
        }
    }
}

/// The local path of `name`: the path itself if it exists, else a repository's snapshot or one file
/// of it.
///
/// # Errors
/// [`LmError::NotAModel`] for a name that is neither; [`LmError::Hub`] as [`fetch`].
pub fn locate(name: &Path, settings: &HubSettings, watch: Watch<'_>) -> Result<PathBuf, LmError> {
    if name.exists() {
        return Ok(name.to_owned());
    }
    let Some(repo) = name.to_str().and_then(RepoName::parse) else {
        return Err(LmError::NotAModel {
            path: name.to_owned(),
            reason: "there is no such file or directory, and it is not a hub name like org/name, org/name@revision or \
                     org/name/file.gguf"
                .to_owned(),
        });
    };
    fetch(&repo, settings, watch)
}

/// Fetches the needed files of a repository into the cache and returns the snapshot directory, or
/// the named file in it.
///
/// For a model: configuration, safetensors (including those that its index names), tokenizer, chat
/// template; without safetensors files, its only `.gguf`. For an adapter: its configuration, its
/// weights and the files of a head. For a data set: parquet and JSON files. Cached files are not
/// requested again, and without a network only the cache is used.
///
/// # Errors
/// [`LmError::Hub`] names the repository or file and the reason: not found, no access, no network
/// and nothing cached, a file with another length or digest than announced, an unsafe path in a
/// response.
pub fn fetch(
    name: &RepoName,
    settings: &HubSettings,
    watch: Watch<'_>,
) -> Result<PathBuf, LmError> {
    let cache = Cache::new(&settings.cache, name.kind, &name.repo);
    let revision = name.revision().unwrap_or(MAIN);
    let cached = || {
        let snapshot = cache.snapshot_of(revision)?;
        match &name.file {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.exists()),
            None => Some(snapshot),
        }
    };
    if settings.offline {
        return cached().ok_or_else(|| {
            hub_error(
                &name.repo,
                format!(
                    "HF_HUB_OFFLINE is set and {} has no {revision} of it; fetch it once with a network",
                    settings.cache.display()
                ),
            )
        });
    }
    let client = Client::new(settings, name.kind, &name.repo);
    let listing = match client.listing(revision) {
        Ok(listing) => listing,
        Err(client::Failure::NoAnswer(reason)) => {
            let advice = "and nothing of it is cached; is the network up, is HF_ENDPOINT right?";
            return cached().ok_or_else(|| hub_error(&name.repo, format!("{reason}, {advice}")));
        }
        Err(client::Failure::Refused(reason)) => return Err(hub_error(&name.repo, reason)),
    };
    let mut transfer = Transfer {
        client: &client,
        cache: &cache,
        commit: &listing.sha,
        watch,
    };
    let path = transfer.wanted(name, &listing.files())?;
    cache.set_ref(revision, &listing.sha)?;
    Ok(path)
}

/// Whether a file is the other one, or part of the same split GGUF file.
fn is_part_of(file: &str, other: &str) -> bool {
    first_part(Path::new(file)) == first_part(Path::new(other))
}

/// The download of one commit of a repository.
struct Transfer<'t, 'w> {
    client: &'t Client,
    cache: &'t Cache,
    commit: &'t str,
    watch: Watch<'w>,
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl Transfer<'_, '_> {
    /// Fetches the required files and returns the path to open.
    fn wanted(&mut self, name: &RepoName, files: &[String]) -> Result<PathBuf, LmError> {
        let has = |file: &str| files.iter().any(|other| other == file);
        if let Some(file) = &name.file {
            if !has(file) {
                let reason = format!("the repository has no file {file}");
                return Err(hub_error(&name.repo, reason));
            }
            return self.gguf_parts(file, files);
        }
        let snapshot = self.cache.snapshot(self.commit);
        if name.kind == RepoKind::Dataset {
            let data = |file: &&String| DATA_ENDINGS.iter().any(|ending| file.ends_with(ending));
            self.all(files.iter().filter(data))?;
            return Ok(snapshot);
        }
        // An adapter is small, and its meaning may depend on files other than the weights.
        let adapter = has("adapter_config.json");
        let beside = |file: &str| ADAPTER_ENDINGS.iter().any(|ending| file.ends_with(ending));
        let small = |file: &&String| {
            let own = file.starts_with("tokenizer") || adapter && beside(file);
            SMALL_FILES.contains(&file.as_str()) || own && !file.contains('/')
        };
        self.all(files.iter().filter(small))?;
        if has(INDEX_FILE) {
            let index = self.file(INDEX_FILE)?;
            let index: IndexFile = read_json(&index, "safetensors index")?;
            let mut shards: Vec<&String> = index.weight_map.values().collect();
            shards.sort();
            shards.dedup();
            self.all(shards.into_iter())?;
        } else if has("model.safetensors") {
            self.file("model.safetensors")?;
        } else if !adapter {
            return self.gguf(name, files);
        }
        Ok(snapshot)
    }

    /// The only GGUF file of a repository.
    fn gguf(&mut self, name: &RepoName, files: &[String]) -> Result<PathBuf, LmError> {
        let ggufs: Vec<&String> = files
            .iter()
            .filter(|file| file.ends_with(".gguf"))
            .collect();
        match ggufs.as_slice() {
            [first, rest @ ..] if rest.iter().all(|file| is_part_of(file, first)) => {
                self.gguf_parts(first, files)
            }
            [] => Err(hub_error(
                &name.repo,
                "the repository has neither safetensors nor a .gguf file; other weight formats, such as .bin, are not \
                 read: load the model in transformers and save it with save_pretrained(..., safe_serialization=True)",
            )),
            [first, ..] => {
                let reason = format!(
                    "the repository has {} .gguf files; name one, e.g. {}/{first}",
                    ggufs.len(),
                    name.repo
                );
                Err(hub_error(&name.repo, reason))
            }
        }
    }

    /// Fetches a file and, if it is part of a split GGUF file, all other parts. Returns the first
    /// one.
    fn gguf_parts(&mut self, file: &str, files: &[String]) -> Result<PathBuf, LmError> {
        let parts = files.iter().filter(|other| is_part_of(other, file));
        self.all(parts)?;
        let first = first_part(Path::new(file));
        self.file(&first.to_string_lossy())
    }

    fn all<'f>(&mut self, files: impl Iterator<Item = &'f String>) -> Result<(), LmError> {
        files
            .into_iter()
            .try_for_each(|file| self.file(file).map(|_| ()))
    }

    /// One file, from the cache or the hub.
    fn file(&mut self, file: &str) -> Result<PathBuf, LmError> {
        if !cache::is_inner_path(file) {
            let reason = "the hub names a file that is not a path inside its repository";
            return Err(hub_error(file, reason));
        }
        let target = self.cache.snapshot(self.commit).join(file);
        if target.exists() {
            return Ok(target);
        }
        let remote = self.client.describe(self.commit, file)?;
        let blob = self.cache.blob(&remote.etag);
        if !blob.exists() {
            self.client.download(&remote, &blob, &mut *self.watch)?;
        }
        self.cache.link(self.commit, file, &remote.etag)?;
        Ok(target)
    }
}

fn hub_error(name: &str, reason: impl Into<String>) -> LmError {
    LmError::Hub {
        name: name.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_files_and_revisions() {
        let name = RepoName::parse("org/name@v1.0").unwrap();
        assert_eq!(
            (name.repo.as_str(), name.revision()),
            ("org/name", Some("v1.0"))
        );
        let name = RepoName::parse("Qwen/Qwen2.5-0.5B/sub/q4.gguf@main").unwrap();
        assert_eq!(name.repo, "Qwen/Qwen2.5-0.5B");
        assert_eq!(name.file.as_deref(), Some("sub/q4.gguf"));
        for text in ["org/name@v1.0", "org/name/sub/q4.gguf@main", "datasets/a/b"] {
            assert_eq!(RepoName::parse(text).unwrap().to_string(), text);
        }
        let name = RepoName::parse("datasets/openai/gsm8k").unwrap();
        assert_eq!(
            (name.kind, name.repo.as_str()),
            (RepoKind::Dataset, "openai/gsm8k")
        );
        for wrong in [
            "",
            "name",
            "/org/name",
            "../org",
            "org/..",
            "org/name/../x",
            "org/name@../x",
            "org/na me",
            "org/name@",
            "org//x",
            "./a/b",
            "~/models",
            "org/name/a\\b",
            "org/name@a:b",
            "org/.name",
        ] {
            assert_eq!(RepoName::parse(wrong), None, "{wrong}");
        }
    }
}
