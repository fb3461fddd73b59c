//! The hub's cache and requests, tested with a local server that behaves like the hub. The real hub
//! is not contacted.

#![allow(clippy::unwrap_used, clippy::panic)] // tests stop where something is not as expected

mod push;
mod pushes;
mod server;

use std::fs;
use std::path::Path;
use std::time::Duration;

use assay_lm::hub::{HubSettings, RepoName, fetch, locate};
use tempfile::TempDir;

use server::{COMMIT, Hub, digest};

fn large() -> Vec<u8> {
    (0..3000_u32).map(|i| (i % 251) as u8).collect()
}

fn model() -> Hub {
    Hub::new(&[
        ("config.json", b"{}"),
        ("generation_config.json", b"{\"a\": 1}"),
        ("tokenizer.json", b"{\"t\": 1}"),
        ("tokenizer_config.json", b"{\"t\": 2}"),
        ("model.safetensors", &large()),
        ("pytorch_model.bin", b"never"),
        ("onnx/model.onnx", b"never"),
        ("original/tokenizer.model", b"never"),
    ])
}

#[test]
fn only_needed_files_enter_the_cache() {
    let hub = model();
    let mut seen = Vec::new();
    let name = RepoName::parse("org/name").unwrap();
    let path = fetch(&name, &hub.settings, &mut |d| {
        seen.push((d.file.to_owned(), d.done, d.total))
    })
    .unwrap();
    let root = hub.settings.cache.join("models--org--name");
    assert_eq!(path, root.join("snapshots").join(COMMIT));
    let mut names: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(path.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(digest(&large())));
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), large());
    assert_eq!(seen.last().unwrap().1, seen.last().unwrap().2);
    assert!(seen.contains(&("model.safetensors".to_owned(), 3000, 3000)));

    let before = hub.asked("GET", "/cdn/");
    assert_eq!(hub.fetch("org/name").unwrap(), path);
    assert_eq!(
        hub.asked("GET", "/cdn/"),
        before,
        "nothing is downloaded twice"
    );
    let world = hub.world.lock().unwrap();
    assert!(
        world
            .asked
            .iter()
            .all(|(.., token)| token == "Bearer secret")
    );
}

/// The first attempt ends after 400 bytes, the second after 400 more, the third returns the rest.
#[test]
fn a_broken_download_continues() {
    let hub = model();
    hub.world.lock().unwrap().breaks = 2;
    let path = hub.fetch("org/name@v1.0").unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), large());
    let world = hub.world.lock().unwrap();
    let ranges: Vec<&str> = world
        .asked
        .iter()
        .filter(|(how, path, ..)| how == "GET" && path.ends_with("/cdn/model.safetensors"))
        .map(|(_, _, range, _)| range.as_str())
        .collect();
    assert_eq!(ranges, ["", "bytes=400-", "bytes=800-"]);
}

#[test]
fn a_stalled_download_is_given_up() {
    let hub = model();
    // Each response sends some bytes and then stalls. The download is slow but completes.
    hub.world.lock().unwrap().stalls_after = Some(large().len() / 5 + 1);
    let path = hub.fetch("org/name").unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), large());
    let hub = model();
    hub.world.lock().unwrap().stalls_after = Some(0);
    let said = hub.refused("org/name");
    assert!(
        said.contains("model.safetensors") && said.contains("broke off after 0 bytes"),
        "{said}"
    );
}

#[test]
fn ignored_ranges_corrupt_no_file() {
    let hub = model();
    let blobs = hub.settings.cache.join("models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{}.incomplete", digest(&large()))),
        &large()[..700],
    )
    .unwrap();
    hub.world.lock().unwrap().ignores_ranges = true;
    let path = hub.fetch("org/name").unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), large());
}

#[test]
fn unexpected_bytes_are_not_kept() {
    let hub = model();
    let other = digest(b"another file");
    hub.world
        .lock()
        .unwrap()
        .etags
        .insert("model.safetensors".to_owned(), other.clone());
    let error = hub.refused("org/name");
    assert!(
        error.contains("SHA-256") && error.contains(&other),
        "{error}"
    );
    let blobs = hub.settings.cache.join("models--org--name/blobs");
    assert!(!blobs.join(&other).exists() && !blobs.join(format!("{other}.incomplete")).exists());
}

#[test]
fn shards_come_as_their_index_names_them() {
    let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let hub = Hub::new(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", b"one"),
        ("model-00002-of-00002.safetensors", b"two"),
        ("consolidated.safetensors", b"never"),
    ]);
    let path = hub.fetch("org/name").unwrap();
    assert_eq!(
        fs::read(path.join("model-00002-of-00002.safetensors")).unwrap(),
        b"two"
    );
    assert!(!path.join("consolidated.safetensors").exists());
}

#[test]
fn split_gguf_files_are_fetched_whole() {
    let hub = Hub::new(&[
        ("big-00001-of-00002.gguf", b"one"),
        ("big-00002-of-00002.gguf", b"two"),
    ]);
    for name in ["org/name", "org/name/big-00002-of-00002.gguf"] {
        let path = hub.fetch(name).unwrap();
        assert!(path.ends_with("big-00001-of-00002.gguf"), "{name}");
        let second = path.with_file_name("big-00002-of-00002.gguf");
        assert_eq!(fs::read(second).unwrap(), b"two", "{name}");
    }
}

#[test]
fn one_gguf_file_is_chosen() {
    let hub = Hub::new(&[("q4.gguf", b"GGUF4"), ("README.md", b"# card")]);
    let path = hub.fetch("org/name").unwrap();
    assert!(path.ends_with("q4.gguf") && fs::read(path).unwrap() == b"GGUF4");
    hub.world
        .lock()
        .unwrap()
        .files
        .insert("q8.gguf".to_owned(), b"GGUF8".to_vec());
    let error = hub.refused("org/name");
    assert!(
        error.contains("2 .gguf files; name one, e.g. org/name/q4.gguf"),
        "{error}"
    );
    assert_eq!(
        fs::read(hub.fetch("org/name/q8.gguf").unwrap()).unwrap(),
        b"GGUF8"
    );
    let error = hub.refused("org/name/q2.gguf");
    assert!(error.contains("has no file q2.gguf"), "{error}");
}

#[test]
fn data_sets_keep_their_folders() {
    let hub = Hub::new(&[
        ("main/train.parquet", b"PAR1"),
        ("socratic/test.jsonl", b"{}"),
        ("script.py", b"never"),
    ]);
    let path = hub.fetch("datasets/openai/gsm8k").unwrap();
    assert!(path.starts_with(hub.settings.cache.join("datasets--openai--gsm8k")));
    assert_eq!(fs::read(path.join("main/train.parquet")).unwrap(), b"PAR1");
    assert!(path.join("socratic/test.jsonl").exists() && !path.join("script.py").exists());
}

#[test]
fn nothing_that_a_hub_answers_leaves_the_cache() {
    let hub = Hub::new(&[
        ("config.json", b"{}"),
        ("tokenizer/../../../../evil", b"x"),
        ("model.safetensors", b"x"),
    ]);
    hub.fetch("org/name").unwrap();
    let index = br#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#;
    hub.world
        .lock()
        .unwrap()
        .files
        .insert("model.safetensors.index.json".to_owned(), index.to_vec());
    let error = hub.refused("org/name");
    assert!(
        error.contains("not a path inside its repository"),
        "{error}"
    );
    hub.world
        .lock()
        .unwrap()
        .etags
        .insert("generation_config.json".to_owned(), "../../evil".to_owned());
    hub.world
        .lock()
        .unwrap()
        .files
        .insert("generation_config.json".to_owned(), b"{}".to_vec());
    let error = hub.refused("org/name");
    assert!(error.contains("no plain entity tag"), "{error}");
    hub.world.lock().unwrap().commit = "../../../evil".to_owned();
    let error = hub.refused("org/name");
    assert!(error.contains("names no commit"), "{error}");
}

#[test]
fn without_a_network_the_cache_answers() {
    let mut hub = model();
    let path = hub.fetch("org/name").unwrap();
    hub.settings.endpoint = "http://127.0.0.1:9".to_owned();
    assert_eq!(hub.fetch("org/name").unwrap(), path);
    let error = hub.refused("org/other");
    assert!(
        error.contains("does not answer") && error.contains("nothing of it is cached"),
        "{error}"
    );
    hub.settings.offline = true;
    assert_eq!(hub.fetch("org/name").unwrap(), path);
    assert_eq!(hub.fetch(&format!("org/name@{COMMIT}")).unwrap(), path);
    let error = hub.refused("org/other");
    assert!(error.contains("HF_HUB_OFFLINE is set"), "{error}");
}

/// A cache with the layout of `huggingface_hub`.
#[test]
fn a_cache_that_python_filled_is_read() {
    let cache = TempDir::new().unwrap();
    let root = cache.path().join("models--org--py");
    let snapshot = root.join("snapshots").join(COMMIT);
    for dir in ["blobs", "refs"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(root.join("refs/main"), COMMIT).unwrap();
    fs::write(root.join("blobs/5f4d"), "{}").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/5f4d", snapshot.join("config.json")).unwrap();
    let settings = HubSettings {
        endpoint: "http://127.0.0.1:9".to_owned(),
        cache: cache.path().to_owned(),
        token: None,
        offline: true,
        body_timeout: Duration::from_secs(1),
    };
    let found = locate(Path::new("org/py"), &settings, &mut |_| ()).unwrap();
    assert_eq!(found, snapshot);
    let error = locate(Path::new("no such model"), &settings, &mut |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("not a hub name like org/name"),
        "{error}"
    );
}

#[test]
fn a_missing_repository_says_what_to_check() {
    let hub = model();
    let error = hub.refused("org/absent");
    assert!(
        error.contains("404") && error.contains("check the name and the revision"),
        "{error}"
    );
}
