//! Pushes: the files that the server receives, those that are not sent twice, and failed pushes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use assay_lm::LmError;
use assay_lm::hub::{Pushed, RepoName, local_files, push};
use tempfile::TempDir;

use super::pushes::{Fails, Pushes};
use super::server::{COMMIT, Hub};

fn weights() -> Vec<u8> {
    (0..3000_u32).map(|i| (i % 251) as u8).collect()
}

/// An exported directory, and a server without a repository.
struct Pushing {
    dir: TempDir,
    hub: Hub,
}

impl Pushing {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        for (name, content) in [
            ("README.md", b"hello\n".to_vec()),
            ("policy/adapter_config.json", b"{}".to_vec()),
            ("policy/adapter_model.safetensors", weights()),
            ("empty.safetensors", Vec::new()),
            ("train.log", b"left out".to_vec()),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let hub = Hub::new(&[]);
        hub.world.lock().unwrap().pushes.endpoint = hub.settings.endpoint.clone();
        Self { dir, hub }
    }

    fn set(&self, change: impl FnOnce(&mut Pushes)) {
        change(&mut self.hub.world.lock().unwrap().pushes);
    }

    fn fails(&self, part: &str, status: u16, times: usize) {
        let part = part.to_owned();
        self.set(|pushes| {
            pushes.fails = Some(Fails {
                part,
                status,
                times,
            })
        });
    }

    fn push_watched(&self, watch: &mut dyn FnMut(u64)) -> Result<Pushed, LmError> {
        let files = local_files(self.dir.path())?;
        let name = RepoName::parse("org/mine").unwrap();
        push(
            &files,
            &name,
            &self.hub.settings,
            "by a test",
            &mut |file| watch(file.done),
        )
    }

    fn push(&self) -> Result<Pushed, LmError> {
        self.push_watched(&mut |_| ())
    }

    fn refused(&self) -> String {
        self.push().unwrap_err().to_string()
    }

    /// Asserts that the server received all files unchanged.
    fn check(&self) {
        let world = self.hub.world.lock().unwrap();
        let pushes = &world.pushes;
        assert_eq!(pushes.small["README.md"], b"hello\n");
        assert_eq!(
            pushes.files["README.md"],
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        assert_eq!(pushes.small["policy/adapter_config.json"], b"{}");
        assert_eq!(pushes.small["empty.safetensors"], b"");
        let large = &pushes.files["policy/adapter_model.safetensors"];
        assert_eq!(pushes.stored[large], weights());
        assert_eq!(pushes.files.len(), 4);
    }
}

#[test]
fn a_directory_becomes_one_commit() {
    let pushing = Pushing::new();
    let mut most = 0;
    let pushed = pushing
        .push_watched(&mut |done| most = most.max(done))
        .unwrap();
    pushing.check();
    assert_eq!(most, 3000);
    assert_eq!(pushed.commit.as_deref(), Some(COMMIT));
    assert_eq!(
        pushed.url,
        format!("{}/org/mine", pushing.hub.settings.endpoint)
    );
    assert_eq!(pushed.ignored, ["train.log"]);
    assert_eq!(pushed.changed.len(), 4);
    let world = pushing.hub.world.lock().unwrap();
    assert_eq!(world.pushes.commits, ["by a test"]);
}

#[test]
fn large_files_go_in_parts() {
    let pushing = Pushing::new();
    pushing.set(|pushes| pushes.part = 1024);
    let mut seen = Vec::new();
    pushing.push_watched(&mut |done| seen.push(done)).unwrap();
    pushing.check();
    assert_eq!(pushing.hub.asked("PUT", "/storage/"), 3);
    assert!(
        seen.contains(&1024) && seen.contains(&2048) && seen.contains(&3000),
        "{seen:?}"
    );
}

/// Nothing is sent twice, and of a changed directory only the changed file.
#[test]
fn a_repeated_push_sends_what_is_missing() {
    let pushing = Pushing::new();
    pushing.push().unwrap();
    let again = pushing.push().unwrap();
    assert_eq!((again.commit, again.changed), (None, vec![]));
    assert_eq!(pushing.hub.asked("PUT", "/storage/"), 1);
    fs::write(pushing.dir.path().join("README.md"), "other").unwrap();
    let changed = pushing.push().unwrap().changed;
    assert_eq!(changed, ["README.md"]);
    assert_eq!(pushing.hub.asked("POST", "/commit/"), 2);
}

/// The commit fails after the weights are stored: the next push makes the commit and stores
/// nothing.
#[test]
fn a_broken_push_is_continued() {
    let pushing = Pushing::new();
    pushing.fails("/commit/", 503, 1);
    let said = pushing.refused();
    assert!(
        said.contains("making the commit") && said.contains("503"),
        "{said}"
    );
    pushing.push().unwrap();
    pushing.check();
    assert_eq!(pushing.hub.asked("PUT", "/storage/"), 1);
}

#[test]
fn passing_errors_are_tried_again() {
    for part in ["/preupload/", "/storage/", "/objects/batch", "/verify"] {
        let pushing = Pushing::new();
        pushing.fails(part, 500, 1);
        pushing.push().unwrap();
        pushing.check();
    }
    let pushing = Pushing::new();
    pushing.fails("/storage/", 500, 99);
    let said = pushing.refused();
    assert!(
        said.contains("adapter_model.safetensors") && said.contains("500"),
        "{said}"
    );
    assert_eq!(pushing.hub.asked("PUT", "/storage/"), 3);
}

#[test]
fn refusals_say_what_to_do() {
    for (part, status, word) in [
        ("/repos/create", 401, "HF_TOKEN"),
        ("/repos/create", 403, "write access"),
        (
            "/preupload/",
            404,
            "check the organisation, the name and the branch",
        ),
        ("/preupload/", 302, "has moved"),
        ("/objects/batch", 403, "write access"),
        ("/commit/", 412, "push again"),
    ] {
        let pushing = Pushing::new();
        pushing.fails(part, status, 99);
        let said = pushing.refused();
        assert!(
            said.contains(word) && said.contains(&status.to_string()),
            "{said}"
        );
        assert!(said.contains("said  ") && !said.contains('\u{7}'), "{said}");
        let tries = pushing.hub.asked("POST", part);
        assert_eq!(tries, 1, "a refusal is not tried again: {part}");
    }
}

/// A token may write to a repository that it could not create.
#[test]
fn an_existing_repository_needs_no_right_to_create() {
    let pushing = Pushing::new();
    pushing.fails("/repos/create", 403, 99);
    pushing.hub.world.lock().unwrap().readable = true;
    pushing.push().unwrap();
    pushing.check();
}

#[test]
fn a_stalling_hub_is_given_up() {
    for part in ["/repos/create", "/storage/", "/commit/"] {
        let pushing = Pushing::new();
        pushing.set(|pushes| pushes.stalls_on = Some(part.to_owned()));
        let started = Instant::now();
        let said = pushing.refused();
        assert!(said.contains("no answer in time"), "{said}");
        assert!(!said.contains("signature"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(7), "{part}");
    }
}

#[test]
fn untrusted_addresses_and_missing_tokens_are_refused() {
    let pushing = Pushing::new();
    pushing.set(|pushes| pushes.misleads = true);
    let said = pushing.refused();
    assert!(said.contains("not trusted"), "{said}");
    let mut pushing = Pushing::new();
    pushing.hub.settings.token = None;
    let said = pushing.refused();
    assert!(said.contains("needs a token"), "{said}");
    pushing.hub.settings.token = Some("secret".to_owned());
    pushing.hub.settings.offline = true;
    assert!(pushing.refused().contains("HF_HUB_OFFLINE"));
    assert_eq!(pushing.hub.asked("POST", "/"), 0);
}

#[test]
fn only_plain_files_are_listed() {
    let pushing = Pushing::new();
    let files = local_files(pushing.dir.path()).unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "README.md",
        "empty.safetensors",
        "policy/adapter_config.json",
        "policy/adapter_model.safetensors",
        "train.log",
    ];
    assert_eq!(names, expected);
    assert_eq!(files[3].size, 3000);
    let refused = |dir: &Path| local_files(dir).unwrap_err().to_string();
    assert!(refused(TempDir::new().unwrap().path()).contains("no file in it"));
    let odd = TempDir::new().unwrap();
    fs::write(odd.path().join("a~b"), "x").unwrap();
    assert!(refused(odd.path()).contains("characters that are not pushed"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", pushing.dir.path().join("link")).unwrap();
        assert!(refused(pushing.dir.path()).contains("not a plain file"));
    }
}
