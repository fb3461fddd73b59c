//! Large-file storage: finds missing contents and uploads them, whole or in parts.
//!
//! It uses Git LFS's batch interface with the hub's own `multipart` transfer: the response has the
//! length of a part and an address for each part, and a last request sends the entity tags of the
//! parts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use serde::Deserialize;
use serde_json::{Value, json};

use super::requests::Failure;
use super::{Described, Repository};
use crate::LmError;
use crate::hub::{Download, Watch, hub_error};

/// The type of the batch interface's messages.
const LFS: &str = "application/vnd.git-lfs+json";
/// Number of contents of one request.
const CONTENTS_A_REQUEST: usize = 100;
/// Maximum number of parts of one file.
const MAX_PARTS: u64 = 10_000;

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Stored>,
}

/// The storage's response about one content.
#[derive(Deserialize)]
struct Stored {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<StorageError>,
}

#[derive(Deserialize)]
struct StorageError {
    code: u16,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    upload: Option<Action>,
    #[serde(default)]
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

/// A range of a file.
#[derive(Clone, Copy)]
struct Part {
    start: u64,
    length: u64,
}

impl Repository<'_> {
    /// Uploads the files that large-file storage does not have.
    pub(super) fn store(&self, files: &[&Described<'_>], watch: Watch<'_>) -> Result<(), LmError> {
        let mut contents: BTreeMap<&str, &Described<'_>> = BTreeMap::new();
        for file in files {
            contents.insert(&file.sha256, file);
        }
        let contents: Vec<&Described<'_>> = contents.into_values().collect();
        for contents in contents.chunks(CONTENTS_A_REQUEST) {
            let stored = self.batch(contents)?;
            for file in contents {
                let failed = |failure: Failure| hub_error(&file.local.name, failure.reason);
                let Some(stored) = stored.get(&file.sha256) else {
                    return Err(failed(Failure::of("storage says nothing about it")));
                };
                self.store_one(file, stored, watch).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The storage's response about each content.
    fn batch(&self, files: &[&Described<'_>]) -> Result<BTreeMap<String, Stored>, LmError> {
        let object = |file: &&Described<'_>| json!({ "oid": file.sha256, "size": file.local.size });
        let objects: Vec<Value> = files.iter().map(object).collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "hash_algo": "sha256",
            "ref": { "name": self.revision },
            "objects": objects,
        });
        let url = self
            .requests
            .url(&format!("/{}.git/info/lfs/objects/batch", self.repo));
        let batch: Batch = self
            .requests
            .post_to(&url, LFS, &body)
            .and_then(|answer| answer.json())
            .map_err(|failure| self.fail("asking large-file storage", failure))?;
        let by_name = batch
            .objects
            .into_iter()
            .map(|stored| (stored.oid.clone(), stored));
        Ok(by_name.collect())
    }

    fn store_one(
        &self,
        file: &Described<'_>,
        stored: &Stored,
        watch: Watch<'_>,
    ) -> Result<(), Failure> {
        if let Some(error) = &stored.error {
            let reason = format!("large-file storage refuses it ({})", error.code);
            return Err(Failure::of(reason));
        }
        let Some(actions) = &stored.actions else {
            return Ok(());
        };
        if let Some(upload) = &actions.upload {
            match upload.header.get("chunk_size") {
                Some(size) => self.put_parts(file, upload, size, watch)?,
                None => {
                    let whole = Part {
                        start: 0,
                        length: file.local.size,
                    };
                    self.put(&upload.href, file, whole, watch)?;
                }
            }
        }
        if let Some(verify) = &actions.verify {
            let body = json!({ "oid": file.sha256, "size": file.local.size });
            self.requests.post_to(&verify.href, LFS, &body)?;
        }
        Ok(())
    }

    fn put_parts(
        &self,
        file: &Described<'_>,
        upload: &Action,
        size: &Value,
        watch: Watch<'_>,
    ) -> Result<(), Failure> {
        let as_text = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let size: u64 = as_text(size)
            .or(size.as_u64())
            .filter(|size| *size > 0)
            .ok_or_else(|| Failure::of("storage names no length of a part"))?;
        let mut urls = BTreeMap::new();
        for (number, url) in &upload.header {
            if let (Ok(number), Some(url)) = (number.parse::<u64>(), url.as_str()) {
                urls.insert(number, url);
            }
        }
        let count = file.local.size.div_ceil(size);
        if count > MAX_PARTS || urls.len() as u64 != count {
            let reason = format!("storage names {} parts, not {count}", urls.len());
            return Err(Failure::of(reason));
        }
        let mut parts = Vec::new();
        for (place, url) in (0..count).zip(urls.values()) {
            let start = place * size;
            let length = size.min(file.local.size - start);
            let etag = self.put(url, file, Part { start, length }, watch)?;
            let etag = etag.ok_or_else(|| Failure::of("storage gives a part no entity tag"))?;
            parts.push(json!({ "partNumber": place + 1, "etag": etag }));
        }
        let body = json!({ "oid": file.sha256, "parts": parts });
        self.requests.post_to(&upload.href, LFS, &body).map(drop)
    }

    /// Uploads a part of a file and returns its entity tag.
    fn put(
        &self,
        url: &str,
        file: &Described<'_>,
        part: Part,
        watch: Watch<'_>,
    ) -> Result<Option<String>, Failure> {
        let local = file.local;
        let open = || {
            let mut open = File::open(&local.path)?;
            open.seek(SeekFrom::Start(part.start))?;
            Ok(open.take(part.length))
        };
        let answer = self.requests.put(url, part.length, open, &mut |read| {
            watch(Download {
                file: &local.name,
                done: part.start + read,
                total: local.size,
            });
        })?;
        Ok(answer.etag.filter(|etag| !etag.is_empty()))
    }
}
