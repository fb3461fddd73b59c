//! The part of the server for pushes: the repository, its commits and its large-file storage.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::server::{COMMIT, digest};

/// The state of the server after pushes, and its behaviour.
#[derive(Default)]
pub(crate) struct Pushes {
    /// Address of the server, for the addresses of its storage.
    pub(crate) endpoint: String,
    repositories: BTreeSet<String>,
    /// Contents in large-file storage, by SHA-256.
    pub(crate) stored: BTreeMap<String, Vec<u8>>,
    /// Parts that wait for their last request, by content and number.
    parts: BTreeMap<(String, u64), Vec<u8>>,
    /// Files of the repository: the name of each content.
    pub(crate) files: BTreeMap<String, String>,
    /// Contents that a commit contained itself.
    pub(crate) small: BTreeMap<String, Vec<u8>>,
    /// Summaries of the commits.
    pub(crate) commits: Vec<String>,
    /// Length of a part; 0 for whole files.
    pub(crate) part: usize,
    /// Answers this status to requests whose path contains the text, so many times.
    pub(crate) fails: Option<Fails>,
    /// Never answers requests whose path contains this.
    pub(crate) stalls_on: Option<String>,
    /// Names an address of another host for uploads.
    pub(crate) misleads: bool,
}

pub(crate) struct Fails {
    pub(crate) part: String,
    pub(crate) status: u16,
    pub(crate) times: usize,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, body }
}

fn refuse(status: u16) -> Answer {
    let body = json!({ "error": format!("said\u{7} {status}") });
    Answer { status, body }
}

impl Pushes {
    pub(crate) fn answer(
        &mut self,
        method: &str,
        path: &str,
        headers: &HashMap<String, String>,
        body: &[u8],
    ) -> Answer {
        if let Some(fails) = &mut self.fails
            && path.contains(&fails.part)
            && fails.times > 0
        {
            fails.times -= 1;
            return refuse(fails.status);
        }
        let token = headers.get("authorization").map(String::as_str);
        let is_hub = !path.starts_with("/storage/");
        assert_eq!(token, is_hub.then_some("Bearer secret"), "{path}");
        if method == "PUT" {
            return self.put(path, body);
        }
        if path.ends_with("/commit/main") {
            return self.commit(body);
        }
        let body: Value = serde_json::from_slice(body).unwrap();
        match path {
            "/api/repos/create" => {
                assert_eq!(
                    body,
                    json!({ "type": "model", "organization": "org", "name": "mine" })
                );
                match self.repositories.insert("org/mine".to_owned()) {
                    true => ok(json!({ "url": "x" })),
                    false => refuse(409),
                }
            }
            "/api/models/org/mine/preupload/main" => self.preupload(&body),
            "/org/mine.git/info/lfs/objects/batch" => self.batch(&body),
            "/verify" => match self.stored.contains_key(body["oid"].as_str().unwrap()) {
                true => ok(json!({})),
                false => refuse(404),
            },
            _ => self.complete(path, &body),
        }
    }

    fn preupload(&self, body: &Value) -> Answer {
        let told = |file: &Value| {
            let name = file["path"].as_str().unwrap();
            let sample = BASE64.decode(file["sample"].as_str().unwrap()).unwrap();
            assert!(sample.len() as u64 == file["size"].as_u64().unwrap().min(512));
            json!({
                "path": name,
                "uploadMode": if name.ends_with(".safetensors") { "lfs" } else { "regular" },
                "shouldIgnore": name.ends_with(".log"),
                "oid": self.files.get(name),
            })
        };
        let files: Vec<Value> = body["files"].as_array().unwrap().iter().map(told).collect();
        ok(json!({ "files": files }))
    }

    fn batch(&self, body: &Value) -> Answer {
        assert_eq!(
            (&body["operation"], &body["hash_algo"]),
            (&json!("upload"), &json!("sha256"))
        );
        assert_eq!(body["ref"], json!({ "name": "main" }));
        let object = |object: &Value| {
            let (oid, size) = (
                object["oid"].as_str().unwrap(),
                object["size"].as_u64().unwrap(),
            );
            if self.stored.contains_key(oid) {
                return json!({ "oid": oid, "size": size });
            }
            // Another name of this machine: to the client it is another host.
            let host = match self.misleads {
                true => "ftp://127.0.0.1:9".to_owned(),
                false => self.endpoint.replace("127.0.0.1", "localhost"),
            };
            let verify = json!({ "href": format!("{}/verify", self.endpoint) });
            let whole = json!({ "href": format!("{host}/storage/{oid}?signature=secret") });
            let upload = match self.part {
                0 => whole,
                part => {
                    let mut header = json!({ "chunk_size": part.to_string() });
                    for number in 1..=size.div_ceil(part as u64) {
                        let url = format!("{host}/storage/{oid}/{number}");
                        header[format!("{number:05}")] = json!(url);
                    }
                    json!({ "href": format!("{host}/storage/complete/{oid}"), "header": header })
                }
            };
            json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
        };
        let objects: Vec<Value> = body["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(object)
            .collect();
        ok(json!({ "transfer": "basic", "objects": objects }))
    }

    fn put(&mut self, path: &str, body: &[u8]) -> Answer {
        let path = path.split('?').next().unwrap();
        let mut names = path.trim_start_matches("/storage/").split('/');
        let oid = names.next().unwrap().to_owned();
        match names.next() {
            Some(number) => drop(
                self.parts
                    .insert((oid, number.parse().unwrap()), body.to_vec()),
            ),
            None => {
                assert_eq!(digest(body), oid);
                self.stored.insert(oid, body.to_vec());
            }
        }
        ok(json!({}))
    }

    fn complete(&mut self, path: &str, body: &Value) -> Answer {
        let oid = path.strip_prefix("/storage/complete/").unwrap();
        assert_eq!(body["oid"], oid);
        let mut content = Vec::new();
        for (place, part) in body["parts"].as_array().unwrap().iter().enumerate() {
            assert_eq!(part["partNumber"], place + 1);
            let bytes = self
                .parts
                .remove(&(oid.to_owned(), place as u64 + 1))
                .unwrap();
            assert_eq!(part["etag"], format!("\"{}\"", digest(&bytes)));
            content.extend(bytes);
        }
        assert_eq!(digest(&content), oid);
        self.stored.insert(oid.to_owned(), content);
        ok(json!({}))
    }

    fn commit(&mut self, body: &[u8]) -> Answer {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let mut lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let header = lines.next().unwrap();
        assert_eq!(header["key"], "header");
        self.commits
            .push(header["value"]["summary"].as_str().unwrap().to_owned());
        for line in lines {
            let value = &line["value"];
            let name = value["path"].as_str().unwrap().to_owned();
            if line["key"] == "lfsFile" {
                let oid = value["oid"].as_str().unwrap().to_owned();
                assert_eq!(value["size"], self.stored[&oid].len());
                self.files.insert(name, oid);
            } else {
                assert_eq!(
                    (&line["key"], &value["encoding"]),
                    (&json!("file"), &json!("base64"))
                );
                let content = BASE64.decode(value["content"].as_str().unwrap()).unwrap();
                self.files.insert(name.clone(), git_name(&content));
                self.small.insert(name, content);
            }
        }
        ok(json!({ "success": true, "commitOid": COMMIT, "commitUrl": "x" }))
    }
}

/// Git's name of a file: `git hash-object` of "hello\n" is
/// ce013625030ba8dba906f756967f9e9ca394464a.
fn git_name(content: &[u8]) -> String {
    let mut digest = Sha1::new();
    digest.update(format!("blob {}\0", content.len()));
    digest.update(content);
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
