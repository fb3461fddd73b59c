use super::*;

fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<(), TrainError> {
    move |dir: &Path| {
        let part = dir.join("policy");
        fs::create_dir(&part).map_err(|e| TrainError::io("creating", &part, e))?;
        fs::write(part.join("weights"), text).map_err(|e| TrainError::io("writing", dir, e))?;
        fs::write(dir.join("state"), text).map_err(|e| TrainError::io("writing", dir, e))
    }
}

fn numbers(run: &Path) -> Vec<usize> {
    list(run).unwrap().into_iter().map(|(n, _)| n).collect()
}

fn run_of(iterations: &[usize]) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    for &iteration in iterations {
        write(run.path(), iteration, fill("contents")).unwrap();
    }
    run
}

#[test]
fn a_failed_checkpoint_leaves_the_previous_one() {
    let run = run_of(&[3, 10]);
    let failed = write(run.path(), 11, |dir| {
        fs::write(dir.join("a"), "half").unwrap();
        Err(TrainError::NotFinite {
            what: "a test".to_owned(),
        })
    });
    assert!(failed.is_err());
    assert_eq!(numbers(run.path()), [3, 10]);
    assert_eq!(
        entries(run.path()).unwrap().len(),
        2,
        "nothing half written"
    );
    write(run.path(), 11, fill("eleven")).unwrap();
    prune(run.path(), 2, None).unwrap();
    assert_eq!(numbers(run.path()), [10, 11]);
}

#[test]
fn the_best_checkpoint_is_never_pruned() {
    let run = run_of(&[1, 2, 3, 4, 5]);
    prune(run.path(), 2, Some(2)).unwrap();
    assert_eq!(numbers(run.path()), [2, 4, 5]);
    prune(run.path(), 0, Some(2)).unwrap();
    assert_eq!(
        numbers(run.path()),
        [2, 5],
        "the newest stays whatever is asked"
    );
}

#[test]
fn leftovers_of_a_kill_are_removed() {
    let run = run_of(&[1]);
    for left in [".iter-2.partial", ".iter-1.removed"] {
        let path = run.path().join(DIRECTORY).join(left);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("weights"), "half").unwrap();
    }
    assert_eq!(numbers(run.path()), [1]);
    remove_leftovers(run.path()).unwrap();
    assert_eq!(entries(run.path()).unwrap().len(), 1);
}

/// For every kind of damage, the reason names the file, and the previous checkpoint is used.
#[test]
fn damage_is_found_and_the_previous_checkpoint_used() {
    type Harm = fn(&Path);
    let cases: [(Harm, &str); 9] = [
        (
            |dir| fs::write(dir.join("state"), "Contents").unwrap(),
            "state is not what was written",
        ),
        (
            |dir| fs::write(dir.join("policy/weights"), "cont").unwrap(),
            "policy/weights has 4 bytes, 8",
        ),
        (
            |dir| fs::write(dir.join("policy/weights"), "").unwrap(),
            "policy/weights has 0 bytes, 8",
        ),
        (
            |dir| fs::remove_file(dir.join("policy/weights")).unwrap(),
            "policy/weights is missing",
        ),
        (
            |dir| fs::remove_dir_all(dir.join("policy")).unwrap(),
            "policy/weights is missing",
        ),
        (
            |dir| fs::remove_file(dir.join(MANIFEST)).unwrap(),
            "manifest.json is missing",
        ),
        (
            |dir| fs::write(dir.join(MANIFEST), "{\"files\": {").unwrap(),
            "manifest.json: EOF",
        ),
        (
            |dir| fs::write(dir.join(MANIFEST), [0xff]).unwrap(),
            "manifest.json is not text",
        ),
        (
            |dir| {
                fs::write(
                    dir.join(MANIFEST),
                    r#"{"files":{"../../x":{"bytes":1,"sha256":""}}}"#,
                )
                .unwrap()
            },
            "a path outside",
        ),
    ];
    for (harm, expected) in cases {
        let run = run_of(&[1, 2]);
        harm(&run.path().join("checkpoints/iter-2"));
        let Newest { whole, damaged } = newest_whole(run.path()).unwrap();
        assert_eq!(whole.unwrap().0, 1, "{expected}");
        assert!(
            damaged[0].reason.contains(expected),
            "{}",
            damaged[0].reason
        );
        let aside = set_aside(&damaged[0].path).unwrap();
        assert!(aside.ends_with("damaged-iter-2"));
        assert_eq!(
            numbers(run.path()),
            [1],
            "the damaged one is out of the way"
        );
    }
}

#[test]
fn without_a_whole_checkpoint_the_error_says_so() {
    let run = run_of(&[1, 2]);
    for number in [1, 2] {
        let path = run.path().join(format!("checkpoints/iter-{number}/state"));
        fs::write(path, "x").unwrap();
    }
    let error = newest_whole(run.path()).unwrap_err().to_string();
    assert!(error.contains("iter-2: state has 1 bytes"), "{error}");
    assert_eq!(
        numbers(run.path()),
        [1, 2],
        "nothing is moved when nothing can be used"
    );
    let empty = newest_whole(run_of(&[]).path()).unwrap();
    assert!(empty.whole.is_none() && empty.damaged.is_empty());
}

#[test]
fn a_file_added_later_is_no_damage() {
    let run = run_of(&[1]);
    fs::write(run.path().join("checkpoints/iter-1/policy/more"), "x").unwrap();
    assert_eq!(newest_whole(run.path()).unwrap().whole.unwrap().0, 1);
}
