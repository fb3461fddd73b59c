//! Requests to a hub: the listing of a revision, a file's identity, a file's bytes. The crate
//! `hf-hub` is not used: release 1.0 depends on 284 crates and an asynchronous runtime; release 0.5
//! joins unchecked commits and entity tags to paths, and appends a whole file if a server ignores
//! ranges.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::typestate::WithoutBody;
use ureq::{Agent, RequestBuilder};

use super::cache::{create_parent, io, is_commit, is_etag};
use super::{Download, HubSettings, RepoKind, Watch, hub_error};
use crate::LmError;

/// The largest listing that is read.
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// Maximum number of consecutive attempts without new bytes. Each resumes where the last one ended.
const TRIES: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 3;

/// A client for one repository of one hub.
pub(super) struct Client {
    /// Follows redirects; sends the token to the same host only.
    agent: Agent,
    /// Returns redirects instead of following them.
    plain: Agent,
    endpoint: String,
    authorization: Option<String>,
    api: String,
    files: String,
}

/// Why a listing is missing.
pub(super) enum Failure {
    /// The hub did not respond.
    NoAnswer(String),
    /// The hub refused, or its response is invalid.
    Refused(String),
}

/// Commit and files of a revision.
#[derive(Deserialize)]
pub(super) struct Listing {
    pub(super) sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    pub(super) fn files(&self) -> Vec<String> {
        self.siblings
            .iter()
            .map(|file| file.rfilename.clone())
            .collect()
    }
}

/// A file on the hub.
pub(super) struct RemoteFile {
    name: String,
    url: String,
    pub(super) etag: String,
    size: u64,
}

impl Client {
    pub(super) fn new(settings: &HubSettings, kind: RepoKind, repo: &str) -> Self {
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects_will_error(false)
                .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(TIMEOUT))
                .timeout_recv_response(Some(TIMEOUT))
                .timeout_recv_body(Some(settings.body_timeout))
        };
        let follows = config().redirect_auth_headers(RedirectAuthHeaders::SameHost);
        let (api, prefix) = match kind {
            RepoKind::Model => ("models", ""),
            RepoKind::Dataset => ("datasets", "datasets/"),
        };
        let endpoint = &settings.endpoint;
        Self {
            agent: follows.build().into(),
            plain: config().max_redirects(0).build().into(),
            authorization: settings
                .token
                .as_ref()
                .map(|token| format!("Bearer {token}")),
            api: format!("{endpoint}/api/{api}/{repo}/revision/"),
            files: format!("{endpoint}/{prefix}{repo}/resolve/"),
            endpoint: endpoint.clone(),
        }
    }

    pub(super) fn listing(&self, revision: &str) -> Result<Listing, Failure> {
        let url = format!("{}{}", self.api, revision.replace('/', "%2F"));
        let request = self.with_token(self.agent.get(&url));
        let mut answer = request
            .call()
            .map_err(|error| Failure::NoAnswer(format!("{url} does not answer: {error}")))?;
        if let Some(reason) = refusal(&answer) {
            return Err(Failure::Refused(format!("{url}: {reason}")));
        }
        let body = answer.body_mut().with_config().limit(MAX_LISTING_BYTES);
        let text = body
            .read_to_string()
            .map_err(|error| Failure::NoAnswer(format!("{url} broke off: {error}")))?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|error| Failure::Refused(format!("{url} is not a listing: {error}")))?;
        match is_commit(&listing.sha) {
            true => Ok(listing),
            false => Err(Failure::Refused(format!("{url} names no commit"))),
        }
    }

    /// A file's entity tag and size, which the hub sends before it redirects to the bytes.
    pub(super) fn describe(&self, commit: &str, file: &str) -> Result<RemoteFile, LmError> {
        let url = format!("{}{commit}/{}", self.files, file.replace(' ', "%20"));
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.head(&at)?;
            let header = |name: &str| answer.headers().get(name)?.to_str().ok();
            if let Some(etag) = header("x-linked-etag").or(header("etag")) {
                let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
                let size = header("x-linked-size").or(header("content-length"));
                let size = size.and_then(|size| size.parse().ok());
                return match size.filter(|_| is_etag(&etag)) {
                    Some(size) => Ok(RemoteFile {
                        name: file.to_owned(),
                        url,
                        etag,
                        size,
                    }),
                    None => Err(hub_error(
                        &url,
                        "the answer names no size or no plain entity tag",
                    )),
                };
            }
            match header("location").filter(|to| to.starts_with('/') && !to.starts_with("//")) {
                Some(to) => at = format!("{}{to}", origin(&self.endpoint)),
                None => break,
            }
        }
        Err(hub_error(&url, "the answer has no entity tag"))
    }

    fn head(&self, url: &str) -> Result<Response<ureq::Body>, LmError> {
        // Compressed answers would have another length than the file.
        let request = self.with_token(self.plain.head(url));
        let answer = request.header("accept-encoding", "identity").call();
        let answer = answer.map_err(|error| hub_error(url, format!("no answer: {error}")))?;
        match refusal(&answer) {
            Some(reason) => Err(hub_error(url, reason)),
            None => Ok(answer),
        }
    }

    /// Downloads a file to `blob`. Resumes from `blob.incomplete` if an earlier attempt left one.
    pub(super) fn download(
        &self,
        remote: &RemoteFile,
        blob: &Path,
        watch: Watch<'_>,
    ) -> Result<(), LmError> {
        create_parent(blob)?;
        let path = blob.with_file_name(format!("{}.incomplete", remote.etag));
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path);
        let mut file = opened.map_err(|source| io("opening", &path, source))?;
        // Waits for another process that may be downloading the same file.
        file.lock().map_err(|source| io("locking", &path, source))?;
        if blob.exists() {
            return Ok(());
        }
        let length = |file: &File| file.metadata().map_or(0, |found| found.len());
        let (mut tries, mut most) = (1, length(&file));
        while let Err(error) = self.go_on(remote, &mut file, watch) {
            let now = length(&file);
            tries = if now > most { 1 } else { tries + 1 };
            most = most.max(now);
            if tries > TRIES {
                return Err(error);
            }
        }
        let whole = check(&mut file, remote);
        if whole.is_err() {
            let _ = fs::remove_file(&path);
        }
        whole?;
        file.sync_all()
            .map_err(|source| io("syncing", &path, source))?;
        fs::rename(&path, blob).map_err(|source| io("renaming", &path, source))
    }

    fn bytes_from(&self, remote: &RemoteFile, start: u64) -> Result<Response<ureq::Body>, LmError> {
        let request = self.with_token(self.agent.get(&remote.url));
        let mut request = request.header("accept-encoding", "identity");
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        let answer = request.call();
        let answer =
            answer.map_err(|error| hub_error(&remote.url, format!("no answer: {error}")))?;
        match refusal(&answer) {
            Some(reason) => Err(hub_error(&remote.url, reason)),
            None => Ok(answer),
        }
    }

    fn with_token(&self, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
        match &self.authorization {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    /// Appends the missing bytes of a file.
    fn go_on(&self, remote: &RemoteFile, file: &mut File, watch: Watch<'_>) -> Result<(), LmError> {
        let fail = |reason: String| hub_error(&remote.url, reason);
        let disk = |source: std::io::Error| fail(format!("writing to the cache failed: {source}"));
        let mut done = file.metadata().map_err(disk)?.len();
        if done > remote.size {
            file.set_len(0).map_err(disk)?;
            done = 0;
        }
        if done == remote.size {
            return Ok(());
        }
        let answer = self.bytes_from(remote, done)?;
        if done > 0 && answer.status() != 206 {
            file.set_len(0).map_err(disk)?;
            done = 0;
        }
        // Reads one byte more than announced, to detect a longer response.
        let mut body = answer
            .into_body()
            .into_reader()
            .take(remote.size - done + 1);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = body.read(&mut buffer);
            let read =
                read.map_err(|error| fail(format!("broke off after {done} bytes: {error}")))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(disk)?;
            done += read as u64;
            watch(Download {
                file: &remote.name,
                done,
                total: remote.size,
            });
        }
        match done < remote.size {
            true => Err(fail(format!(
                "broke off after {done} of {} bytes",
                remote.size
            ))),
            false => Ok(()),
        }
    }
}

/// Checks the length of a downloaded file and, if the entity tag is a SHA-256, its digest.
fn check(file: &mut File, remote: &RemoteFile) -> Result<(), LmError> {
    let disk = |source: std::io::Error| hub_error(&remote.url, format!("reading back: {source}"));
    let length = file.metadata().map_err(disk)?.len();
    if length != remote.size {
        let reason = format!(
            "{length} bytes came, {} were announced; try again",
            remote.size
        );
        return Err(hub_error(&remote.url, reason));
    }
    if remote.etag.len() != 64 {
        return Ok(());
    }
    file.seek(SeekFrom::Start(0)).map_err(disk)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(disk)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    let digest: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match digest.eq_ignore_ascii_case(&remote.etag) {
        true => Ok(()),
        false => Err(hub_error(
            &remote.url,
            format!(
                "its SHA-256 is {digest}, {} was announced; try again",
                remote.etag
            ),
        )),
    }
}

/// The reason for a failed request, for messages.
fn refusal<T>(answer: &Response<T>) -> Option<String> {
    let status = answer.status();
    Some(match status.as_u16() {
        200..=399 => return None,
        401 | 403 => format!(
            "no access ({status}); is HF_TOKEN set, and were the repository's terms accepted?"
        ),
        404 => format!(
            "not found ({status}); check the name and the revision, or set HF_TOKEN if it is private"
        ),
        416 => format!(
            "the hub does not continue this download ({status}); remove the .incomplete file"
        ),
        429 => format!("too many requests ({status}); wait a little"),
        _ => format!("the hub answers {status}"),
    })
}

/// Scheme and host of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}
