//! Uploads a directory as one commit of a model repository.
//!
//! For each file the hub decides between the commit itself and large-file storage (Git LFS,
//! `large`). A file that is already there is neither stored nor committed again, so repeating an
//! interrupted push continues it. Requests are in `requests`. Names, commits and addresses in
//! responses are checked.

mod large;
mod requests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use self::requests::{Failure, Requests};
use super::cache::{io, is_commit, is_inner_path};
use super::{HubSettings, MAIN, RepoName, Watch, hub_error};
use crate::LmError;

/// Maximum number of files of a push.
const MAX_FILES: usize = 10_000;
/// Maximum number of bytes of all files that the commit itself contains.
const MAX_COMMITTED_BYTES: u64 = 64 << 20;
/// Number of files of one request.
const FILES_A_REQUEST: usize = 256;
/// Length of the beginning of a file from which the hub distinguishes text and binary data.
const SAMPLE: usize = 512;

/// A file of a directory that is pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Its path in the repository, with `/` between the parts.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
}

/// The result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Address of the repository.
    pub url: String,
    /// The new commit; `None` if the repository already had all files.
    pub commit: Option<String>,
    /// Names of the files that the new commit adds or changes.
    pub changed: Vec<String>,
    /// Names of the files that the repository's .gitignore leaves out.
    pub ignored: Vec<String>,
}

/// The files of a directory and of those in it, in the order of their names.
///
/// # Errors
/// [`LmError::Hub`] for an empty directory, too many files, a link, or a name that is invalid in a
/// repository; [`LmError::Io`].
pub fn local_files(dir: &Path) -> Result<Vec<LocalFile>, LmError> {
    let mut files = Vec::new();
    collect(dir, "", &mut files)?;
    if files.is_empty() {
        return Err(hub_error(
            &dir.display().to_string(),
            "there is no file in it",
        ));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<LocalFile>) -> Result<(), LmError> {
    let failed = |source| io("reading", dir, source);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        let refuse = |reason| Err(hub_error(&path.display().to_string(), reason));
        let name = entry.file_name();
        let Some(name) = name.to_str().map(|name| format!("{prefix}{name}")) else {
            return refuse("its name is not UTF-8");
        };
        if !is_inner_path(&name) {
            return refuse("its name has characters that are not pushed");
        }
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() {
            let size = entry.metadata().map_err(failed)?.len();
            files.push(LocalFile { name, path, size });
        } else {
            return refuse("it is not a plain file");
        }
        if files.len() > MAX_FILES {
            return Err(hub_error(
                &dir.display().to_string(),
                format!("it has more than {MAX_FILES} files"),
            ));
        }
    }
    Ok(())
}

/// Uploads files to a model repository as one commit with `message`. Creates the repository if it
/// does not exist.
///
/// # Errors
/// [`LmError::Hub`] for a name that is not a model repository, without a token, offline, and if the
/// hub refuses or does not respond; the same push may be repeated. [`LmError::Io`] for a file that
/// cannot be read.
pub fn push(
    files: &[LocalFile],
    name: &RepoName,
    settings: &HubSettings,
    message: &str,
    watch: Watch<'_>,
) -> Result<Pushed, LmError> {
    let hub = Repository::open(name, settings)?;
    hub.create()?;
    let described = files.iter().map(Described::read);
    let described = described.collect::<Result<Vec<_>, LmError>>()?;
    let plans = hub.plans(&described)?;
    let of = |wanted: Plan| {
        let pairs = described.iter().zip(&plans);
        pairs
            .filter(move |(_, plan)| **plan == wanted)
            .map(|(file, _)| file)
    };
    let name_of = |file: &Described<'_>| file.local.name.clone();
    let (small, large): (Vec<_>, Vec<_>) = (of(Plan::Small).collect(), of(Plan::Large).collect());
    hub.store(&large, watch)?;
    let commit = match small.is_empty() && large.is_empty() {
        true => None,
        false => Some(hub.commit(&small, &large, message)?),
    };
    let mut changed: Vec<String> = small.into_iter().chain(large).map(name_of).collect();
    changed.sort();
    Ok(Pushed {
        url: format!("{}/{}", settings.endpoint, name.repo),
        commit,
        changed,
        ignored: of(Plan::Ignored).map(name_of).collect(),
    })
}

/// A file with its digests.
struct Described<'f> {
    local: &'f LocalFile,
    /// SHA-256 of the content, its name in large-file storage.
    sha256: String,
    /// SHA-1 of git's header and the content, its name in a commit.
    blob: String,
    sample: Vec<u8>,
}

/// The treatment of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// The commit contains it.
    Small,
    /// Large-file storage contains it, and the commit names it.
    Large,
    /// The repository has the same content under this name.
    Unchanged,
    /// The repository's .gitignore leaves it out.
    Ignored,
}

impl<'f> Described<'f> {
    fn read(local: &'f LocalFile) -> Result<Self, LmError> {
        let failed = |source| io("reading", &local.path, source);
        let mut file = File::open(&local.path).map_err(failed)?;
        let mut content = Sha256::new();
        let mut blob = Sha1::new();
        blob.update(format!("blob {}\0", local.size));
        let (mut sample, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        let mut length = 0;
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            content.update(&buffer[..read]);
            blob.update(&buffer[..read]);
            let missing = SAMPLE - sample.len();
            sample.extend(&buffer[..read.min(missing)]);
            length += read as u64;
        }
        if length != local.size {
            return Err(hub_error(&local.name, "it changes while it is pushed"));
        }
        Ok(Self {
            local,
            sha256: hex(&content.finalize()),
            blob: hex(&blob.finalize()),
            sample,
        })
    }

    /// The treatment that the hub's response about this file requires.
    fn plan(&self, told: &Told) -> Result<Plan, LmError> {
        // Large-file storage does not accept empty files.
        let large = match told.upload_mode.as_str() {
            "lfs" => self.local.size > 0,
            "regular" => false,
            _ => {
                let reason = "the hub names a way to upload it that is not known here";
                return Err(hub_error(&self.local.name, reason));
            }
        };
        let own = if large { &self.sha256 } else { &self.blob };
        Ok(match large {
            _ if told.should_ignore => Plan::Ignored,
            _ if told.oid.as_ref() == Some(own) => Plan::Unchanged,
            true => Plan::Large,
            false => Plan::Small,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hub's response about a file to upload.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
    /// Name of the existing content.
    #[serde(default)]
    oid: Option<String>,
}

#[derive(Deserialize)]
struct ToldFiles {
    files: Vec<Told>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

/// A repository of a hub, for writing.
struct Repository<'s> {
    requests: Requests<'s>,
    repo: &'s str,
    revision: &'s str,
}

impl<'s> Repository<'s> {
    fn open(name: &'s RepoName, settings: &'s HubSettings) -> Result<Self, LmError> {
        let refuse = |reason: &str| Err(hub_error(&name.repo, reason));
        if !name.is_model() {
            return refuse(
                "a push needs the name of a model repository: org/name or org/name@branch",
            );
        }
        if settings.offline {
            return refuse("HF_HUB_OFFLINE is set");
        }
        let Some(token) = &settings.token else {
            return refuse("a push needs a token: set HF_TOKEN, or log in with `hf auth login`");
        };
        Ok(Self {
            requests: Requests::new(settings, token),
            repo: &name.repo,
            revision: name.revision().unwrap_or(MAIN),
        })
    }

    fn fail(&self, doing: &str, failure: Failure) -> LmError {
        hub_error(self.repo, format!("{doing}: {}", failure.reason))
    }

    /// Address of a request about the repository.
    fn api(&self, what: &str) -> String {
        let revision = self.revision.replace('/', "%2F");
        format!("/api/models/{}/{what}/{revision}", self.repo)
    }

    /// Creates the repository unless it exists.
    fn create(&self) -> Result<(), LmError> {
        let (organisation, name) = self.repo.split_once('/').unwrap_or(("", self.repo));
        let body = json!({ "type": "model", "organization": organisation, "name": name });
        match self.requests.post("/api/repos/create", &body) {
            Ok(_) => Ok(()),
            Err(failure) if failure.status == Some(409) => Ok(()),
            // A token may write to a repository without the right to create one.
            Err(failure) if failure.status == Some(403) && self.exists() => Ok(()),
            Err(failure) => Err(self.fail("creating the repository", failure)),
        }
    }

    fn exists(&self) -> bool {
        let address = format!("/api/models/{}", self.repo);
        self.requests.get(&address).is_ok()
    }

    /// The treatment of each file.
    fn plans(&self, files: &[Described<'_>]) -> Result<Vec<Plan>, LmError> {
        let doing = "asking how to upload";
        let mut told = BTreeMap::new();
        for files in files.chunks(FILES_A_REQUEST) {
            let describe = |file: &Described<'_>| {
                json!({
                    "path": file.local.name,
                    "size": file.local.size,
                    "sample": BASE64.encode(&file.sample),
                })
            };
            let described: Vec<Value> = files.iter().map(describe).collect();
            let body = json!({ "files": described });
            let answer: ToldFiles = self
                .requests
                .post(&self.api("preupload"), &body)
                .and_then(|answer| answer.json())
                .map_err(|failure| self.fail(doing, failure))?;
            told.extend(
                answer
                    .files
                    .into_iter()
                    .map(|told| (told.path.clone(), told)),
            );
        }
        let plan = |file: &Described<'_>| match told.get(&file.local.name) {
            Some(told) => file.plan(told),
            None => Err(hub_error(&file.local.name, "the hub says nothing about it")),
        };
        files.iter().map(plan).collect()
    }

    /// Makes the commit and returns its name.
    fn commit(
        &self,
        small: &[&Described<'_>],
        large: &[&Described<'_>],
        message: &str,
    ) -> Result<String, LmError> {
        let bytes: u64 = small.iter().map(|file| file.local.size).sum();
        if bytes > MAX_COMMITTED_BYTES {
            let reason = format!("the hub wants {bytes} bytes inside a commit, which is too much");
            return Err(hub_error(self.repo, reason));
        }
        let header = json!({ "summary": message, "description": "" });
        let mut lines = vec![json!({ "key": "header", "value": header })];
        for file in small {
            let content = fs::read(&file.local.path)
                .map_err(|source| io("reading", &file.local.path, source))?;
            let content = BASE64.encode(content);
            let value =
                json!({ "path": file.local.name, "encoding": "base64", "content": content });
            lines.push(json!({ "key": "file", "value": value }));
        }
        for file in large {
            let (path, size) = (&file.local.name, file.local.size);
            let value = json!({ "path": path, "algo": "sha256", "oid": file.sha256, "size": size });
            lines.push(json!({ "key": "lfsFile", "value": value }));
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let committed: Committed = self
            .requests
            .commit(&self.api("commit"), &body)
            .and_then(|answer| answer.json())
            .map_err(|failure| self.fail("making the commit", failure))?;
        match is_commit(&committed.commit_oid) {
            true => Ok(committed.commit_oid),
            false => Err(hub_error(self.repo, "the hub's answer names no commit")),
        }
    }
}
