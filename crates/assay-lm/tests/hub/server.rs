//! A server that follows the hub's documentation.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use assay_lm::LmError;
use assay_lm::hub::{HubSettings, RepoName, fetch};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::pushes::Pushes;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server says.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Entity tags that are not the file's digest.
    pub(crate) etags: HashMap<String, String>,
    pub(crate) commit: String,
    /// Interrupts this many downloads of files over 1000 bytes in the middle.
    pub(crate) breaks: usize,
    /// Sends nothing more after this many bytes of files over 1000 bytes, and keeps the connection.
    pub(crate) stalls_after: Option<usize>,
    /// Every request: method, path, range, token.
    pub(crate) asked: Vec<(String, String, String, String)>,
    pub(crate) ignores_ranges: bool,
    /// Whether the address of the repository itself answers.
    pub(crate) readable: bool,
    /// What was pushed, and how the server behaves then.
    pub(crate) pushes: Pushes,
}

pub(crate) struct Hub {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) settings: HubSettings,
    _cache: TempDir,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let world = World {
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
                .collect(),
            commit: COMMIT.to_owned(),
            ..World::default()
        };
        let world = Arc::new(Mutex::new(world));
        let served = Arc::clone(&world);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer(&stream.unwrap(), &served));
            }
        });
        let cache = TempDir::new().unwrap();
        let settings = HubSettings {
            endpoint,
            cache: cache.path().to_owned(),
            token: Some("secret".to_owned()),
            offline: false,
            body_timeout: Duration::from_millis(500),
        };
        Self {
            world,
            settings,
            _cache: cache,
        }
    }

    pub(crate) fn fetch(&self, name: &str) -> Result<std::path::PathBuf, LmError> {
        fetch(&RepoName::parse(name).unwrap(), &self.settings, &mut |_| ())
    }

    pub(crate) fn refused(&self, name: &str) -> String {
        self.fetch(name).unwrap_err().to_string()
    }

    pub(crate) fn asked(&self, method: &str, part: &str) -> usize {
        let world = self.world.lock().unwrap();
        let asked = world.asked.iter();
        asked
            .filter(|(how, path, ..)| how == method && path.contains(part))
            .count()
    }
}

/// Method and path of a request, and its headers.
fn head_of(reader: &mut impl BufRead) -> Option<([String; 2], HashMap<String, String>)> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut parts = line.split_whitespace().map(str::to_owned);
    let first = [parts.next()?, parts.next()?];
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => return Some((first, headers)),
        };
    }
}

/// A request with a body.
struct Request<'r> {
    method: &'r str,
    path: &'r str,
    headers: &'r HashMap<String, String>,
}

/// Reads the body of a request and answers it as a hub that is written to.
fn receive(
    request: &Request<'_>,
    reader: &mut impl Read,
    mut stream: &TcpStream,
    mut world: MutexGuard<'_, World>,
) {
    let stalls = world.pushes.stalls_on.as_ref();
    if stalls.is_some_and(|part| request.path.contains(part)) {
        drop(world);
        std::thread::sleep(Duration::from_secs(8));
        return;
    }
    let length = request.headers["content-length"].parse().unwrap();
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let pushes = &mut world.pushes;
    let answer = pushes.answer(request.method, request.path, request.headers, &body);
    let text = answer.body.to_string();
    let head = format!(
        "HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\netag: \"{}\"\r\n\r\n{text}",
        answer.status,
        text.len(),
        digest(&body)
    );
    let _ = stream.write_all(head.as_bytes());
}

/// One connection, one request: the listing, a file's description (a redirect with headers) or its
/// bytes.
fn answer(stream: &TcpStream, world: &Mutex<World>) {
    let mut reader = BufReader::new(stream);
    let Some((line, headers)) = head_of(&mut reader) else {
        return;
    };
    let (method, path) = (line[0].as_str(), line[1].as_str());
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut world = world.lock().unwrap();
    let (range, token) = (header("range"), header("authorization"));
    world
        .asked
        .push((method.to_owned(), path.to_owned(), range.clone(), token));
    if method == "POST" || method == "PUT" {
        let request = Request {
            method,
            path,
            headers: &headers,
        };
        return receive(&request, &mut reader, stream, world);
    }
    let reply = |status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
        );
        let mut stream = stream;
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(if method == "HEAD" { &[] } else { body });
    };
    if path.starts_with("/api/") {
        let files: Vec<_> = world
            .files
            .keys()
            .map(|name| json!({ "rfilename": name }))
            .collect();
        let listing = json!({ "sha": world.commit, "siblings": files }).to_string();
        return match path.contains("absent") || path.ends_with("/mine") && !world.readable {
            true => reply("404 Not Found", "", b""),
            false => reply("200 OK", "", listing.as_bytes()),
        };
    }
    let (_, name) = path
        .split_once(&format!("/resolve/{COMMIT}/"))
        .unwrap_or(("", &path[5..]));
    let Some(bytes) = world.files.get(name).cloned() else {
        return reply("404 Not Found", "", b"");
    };
    let etag = world
        .etags
        .get(name)
        .cloned()
        .unwrap_or_else(|| digest(&bytes));
    if path.contains("/resolve/") {
        let headers = format!(
            "location: /cdn/{name}\r\nx-repo-commit: {COMMIT}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\n",
            bytes.len()
        );
        return reply("302 Found", &headers, b"");
    }
    let start = range
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-'));
    let start: usize = start
        .filter(|_| !world.ignores_ranges)
        .map_or(0, |start| start.parse().unwrap());
    let stalls = world.stalls_after.filter(|_| bytes.len() > 1000);
    if stalls.is_some() || bytes.len() > 1000 && world.breaks > 0 {
        world.breaks = world.breaks.saturating_sub(1);
        let sent = stalls.unwrap_or(400).min(bytes.len() - start);
        let status = match start {
            0 => "200 OK",
            _ => "206 Partial Content",
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
            bytes.len() - start
        );
        let mut stream = stream;
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&bytes[start..start + sent]).unwrap();
        drop(world);
        if stalls.is_some() {
            std::thread::sleep(Duration::from_secs(3));
        }
        return;
    }
    match start {
        0 => reply("200 OK", "", &bytes),
        _ => reply("206 Partial Content", "", &bytes[start..]),
    }
}
