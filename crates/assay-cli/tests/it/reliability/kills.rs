//! Repeated SIGKILL at random times, SIGINT and SIGTERM, two processes in one directory.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assay_tasks::random::Stream;
use assay_tasks::trace_io::read_traces;
use assay_train::metrics::read;
use serde_json::json;

use super::{Lab, Outcome, TOTAL, row, signal, wait_until};
use crate::commands::{World, problem_lines};

/// How the moment of a kill is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// After a random time, up to a little more than a whole run takes.
    Random,
    /// As soon as a checkpoint is being written.
    InCheckpoint,
    /// Twice in a row: the resumed process is killed right after its start, then at a random time.
    Twice,
}

/// Counts of the kills.
#[derive(Default, Debug)]
struct Tally {
    kills: usize,
    in_checkpoint: usize,
    runs: usize,
}

/// Kills and resumes one run `kills` times, lets it end, and returns its results.
fn tormented(
    lab: &Lab,
    out: &str,
    moment: Moment,
    whole: Duration,
    stream: &mut Stream,
    tally: &mut Tally,
) -> Outcome {
    let kills = 1 + stream.below(3);
    for number in 0..kills {
        let mut child = lab
            .command(out, &["--resume"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let share = match moment {
            Moment::Twice if number % 2 == 0 => 0.15,
            _ => 1.05,
        };
        let deadline = Instant::now() + whole.mul_f64(share * stream.uniform_f64());
        let writing = || partial(lab, out);
        while child.try_wait().unwrap().is_none() {
            let now = match moment {
                Moment::InCheckpoint => writing() && stream.uniform_f64() < 0.3,
                _ => Instant::now() >= deadline,
            };
            if now {
                child.kill().unwrap();
                tally.kills += 1;
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        child.wait().unwrap();
        tally.in_checkpoint += usize::from(writing());
    }
    tally.runs += 1;
    lab.finish(out, &["--resume"]);
    lab.outcome(out)
}

/// Whether a checkpoint is partly written.
fn partial(lab: &Lab, out: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(lab.path(out).join("checkpoints")) else {
        return false;
    };
    entries
        .flatten()
        .any(|e| e.file_name().to_string_lossy().ends_with(".partial"))
}

fn torment(enough: impl Fn(&Tally) -> bool) -> Tally {
    let lab = Lab::new();
    let start = Instant::now();
    lab.finish("whole", &[]);
    let whole = start.elapsed();
    let expected = lab.outcome("whole");
    let mut stream = Stream::new(11, &[0]);
    let mut tally = Tally::default();
    while !enough(&tally) {
        for moment in [Moment::Random, Moment::InCheckpoint, Moment::Twice] {
            let out = format!("run-{}", tally.runs);
            let found = tormented(&lab, &out, moment, whole, &mut stream, &mut tally);
            assert_eq!(found, expected, "{out} {moment:?}");
            std::fs::remove_dir_all(lab.path(&out)).unwrap();
        }
    }
    tally
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let tally = torment(|tally| tally.kills >= 6 && tally.in_checkpoint >= 1);
    assert!(tally.runs >= 3);
}

/// The long form, for the table in docs/reliability.md.
#[test]
#[ignore = "minutes; tools/reliability runs it"]
fn a_hundred_kills() {
    let tally = torment(|tally| tally.kills >= 120 && tally.in_checkpoint >= 25);
    let (kills, inside, runs) = (tally.kills, tally.in_checkpoint, tally.runs);
    let what = format!(
        "SIGKILL of a run, then `--resume`: {runs} runs, {inside} kills inside a checkpoint"
    );
    row(&what, kills);
}

/// Long enough that signals and second processes arrive while it runs.
const SLOW: [&str; 2] = ["--set", "sampling.samples=96"];

#[test]
fn a_signal_ends_a_run_after_its_iteration() {
    let lab = Lab::new();
    lab.finish("whole", &SLOW);
    for name in ["INT", "TERM"] {
        let mut child = lab.start(name, &SLOW);
        wait_until(|| lab.path(name).join("checkpoints/iter-2").exists());
        signal(&child, name);
        let status = child.wait().unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(
            said.contains("stopped after iteration") && said.contains("--resume"),
            "{said}"
        );
        let done = read(&lab.path(name).join("metrics.jsonl")).unwrap().len();
        assert!((2..TOTAL).contains(&done), "{done} iterations");
        assert!(
            lab.path(name)
                .join(format!("checkpoints/iter-{done}"))
                .exists()
        );
        lab.finish(name, &[&SLOW[..], &["--resume"]].concat());
        assert_eq!(lab.outcome(name), lab.outcome("whole"), "{name}");
    }
    row("SIGINT or SIGTERM, then `--resume`", 2);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let lab = Lab::new();
    let mut child = lab.start(
        "run",
        &["--set", "sampling.samples=4000", "--set", "sft.epochs=1"],
    );
    wait_until(|| lab.path("run/checkpoints/iter-2").exists());
    // Well into the next iteration, which takes much longer.
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(30));
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!lab.path("run/checkpoints/iter-3").exists());
    row("a second signal: exit 130 at once", 1);
}

#[test]
fn a_run_directory_has_one_process() {
    let lab = Lab::new();
    let mut first = lab.start("run", &["--set", "sampling.samples=4000"]);
    for more in [&["--resume"][..], &[]] {
        let said = lab.refused("run", more);
        assert!(
            said.contains(&format!("in use by process {} on ", first.id())),
            "{said}"
        );
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let said = lab.refused("run", &["--resume"]);
    assert!(
        said.contains("sampling.samples: 4000 -> 3"),
        "the lock died with its holder: {said}"
    );
    row(
        "a second process on a run directory: refused; the lock dies with its holder",
        3,
    );
}

/// Sampling and scoring have no checkpoint: the output holds what was done before the signal.
#[test]
fn a_signal_keeps_what_was_sampled_and_scored() {
    let world = World::new();
    let (problems, lines) = problem_lines(3000);
    std::fs::write(world.path("many.jsonl"), lines).unwrap();
    let mut records = Vec::new();
    for (index, problem) in problems.iter().enumerate() {
        let text = format!("{}\n#### 1", problem.demonstration.as_deref().unwrap()).repeat(2);
        records.extend((0..8).map(|_| {
            json!({ "id": index.to_string(), "question": problem.question, "answer": "1", "text": text })
        }));
    }
    world.write("foreign.jsonl", &records);
    let sample = "sample --model model --problems many.jsonl --samples 8 --max-tokens 100 --style plain --out a.jsonl";
    let score = "score --reward reward --traces foreign.jsonl --out b.jsonl";
    for (command, out, chunk) in [(sample, "a.jsonl", 128), (score, "b.jsonl", 1024)] {
        let directory = world.path(out).parent().unwrap().to_owned();
        let unfinished = || -> Vec<u64> {
            let entries = std::fs::read_dir(&directory).unwrap().flatten();
            let hidden = entries.filter(|e| e.file_name().to_string_lossy().starts_with('.'));
            hidden
                .map(|e| e.metadata().map_or(0, |m| m.len()))
                .collect()
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_assay"))
            .current_dir(&directory)
            .args(command.split_whitespace())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(|| unfinished().iter().any(|&bytes| bytes > 0));
        signal(&child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(130), "{command}");
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(said.contains("stopped after"), "{said}");
        let traces = read_traces(&world.path(out)).unwrap().len();
        assert!(
            traces > 0 && traces < records.len() && traces.is_multiple_of(chunk),
            "{traces}"
        );
        assert!(unfinished().is_empty());
    }
    row(
        "SIGINT while sampling or scoring: what was done is kept, exit 130",
        2,
    );
}
