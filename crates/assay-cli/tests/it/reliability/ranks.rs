//! One run in several processes: it has the same bits as in one process, and stops if a process
//! dies or differs.
//!
//! These tests need the feature `mpi` and Open MPI's `mpirun`; `tools/parallel` runs them.

#[cfg(not(feature = "mpi"))]
use super::Lab;

/// A token budget that splits every update into more micro-batches than there are ranks.
#[cfg(feature = "mpi")]
const BUDGET: &str = "run.token_budget=150";

#[cfg(not(feature = "mpi"))]
#[test]
fn one_of_several_processes_needs_mpi() {
    let lab = Lab::new();
    let mut command = lab.command("run", &[]);
    let output = command.env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("one of 2 processes") && said.contains("--features mpi"),
        "{said}"
    );
}

#[cfg(feature = "mpi")]
mod together {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use assay_tasks::random::Stream;
    use assay_train::metrics::read;

    use super::super::{Lab, row, wait_until};
    use super::BUDGET;

    /// `mpirun -n RANKS`, to be followed by a program.
    fn mpirun(lab: &Lab, ranks: usize) -> Command {
        let mut command = Command::new("mpirun");
        command
            .current_dir(lab.path("."))
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("RAYON_NUM_THREADS", "1")
            .args(["--oversubscribe", "--bind-to", "none", "-n"])
            .arg(ranks.to_string())
            .stdin(Stdio::null());
        command
    }

    fn train<'c>(command: &'c mut Command, out: &str, more: &[&str]) -> &'c mut Command {
        command
            .arg(env!("CARGO_BIN_EXE_assay"))
            .args(["train", "airl", "-c", "run.toml", "--out", out])
            .args(["--set", BUDGET])
            .args(more)
    }

    /// Whether `mpirun` is installed; prints a message if not.
    #[allow(clippy::print_stderr)]
    fn is_there() -> bool {
        let found = Command::new("mpirun").arg("--version").output().is_ok();
        if !found {
            eprintln!("skipped: mpirun is not installed");
        }
        found
    }

    /// Trains to the end with several ranks and returns stderr.
    fn finish(lab: &Lab, ranks: usize, out: &str, more: &[&str]) -> String {
        let output = train(&mut mpirun(lab, ranks), out, more).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{ranks} ranks: {said}");
        said
    }

    #[test]
    fn any_number_of_ranks_ends_as_one_process() {
        if !is_there() {
            return;
        }
        let lab = Lab::new();
        let long = [
            "--set",
            "run.iterations=20",
            "--set",
            "run.checkpoint_every=5",
        ];
        lab.finish("one", &[&["--set", BUDGET][..], long.as_slice()].concat());
        let expected = lab.outcome("one");
        for ranks in [2, 3] {
            let out = format!("ranks-{ranks}");
            let said = finish(&lab, ranks, &out, &long);
            assert_eq!(said.matches("done: ").count(), 1, "{said}");
            assert_eq!(lab.outcome(&out), expected, "{ranks} ranks");
        }
        assert_eq!(read(&lab.path("one/metrics.jsonl")).unwrap().len(), 22);
        row(
            "`mpirun -n 2` and `-n 3`: the bits of one process after 22 iterations",
            2,
        );
    }

    /// The processes of a running `mpirun`, in the order of their ranks.
    fn processes(mpirun: &Child) -> Vec<u32> {
        let parent = mpirun.id().to_string();
        let output = Command::new("pgrep")
            .args(["-P", &parent])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn lines(run: &Path) -> usize {
        read(&run.join("metrics.jsonl")).map_or(0, |lines| lines.len())
    }

    #[test]
    fn a_killed_rank_ends_the_run() {
        if !is_there() {
            return;
        }
        let lab = Lab::new();
        lab.finish("one", &["--set", BUDGET]);
        let expected = lab.outcome("one");
        let mut stream = Stream::new(17, &[]);
        for (number, rank) in [0, 1, 1].into_iter().enumerate() {
            let out = format!("killed-{number}");
            let run = lab.path(&out);
            let mut command = mpirun(&lab, 2);
            let mut child = train(&mut command, &out, &[])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            wait_until(|| lines(&run) > number + 1);
            std::thread::sleep(Duration::from_secs_f64(0.1 * stream.uniform_f64()));
            let victim = processes(&child)[rank].to_string();
            let killed = Command::new("kill").args(["-KILL", &victim]).status();
            assert!(killed.unwrap().success());
            assert!(!child.wait().unwrap().success());
            let mut said = String::new();
            std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
            assert!(
                said.contains(&format!("rank {rank}")) && said.contains("signal 9"),
                "{said}"
            );
            if number == 0 {
                lab.finish(&out, &["--resume", "--set", BUDGET]);
            } else {
                finish(&lab, number + 1, &out, &["--resume"]);
            }
            assert_eq!(lab.outcome(&out), expected, "rank {rank} killed");
        }
        row(
            "SIGKILL of a rank of two, then `--resume` with one, two and three",
            3,
        );
    }

    #[test]
    fn ranks_that_differ_are_refused() {
        if !is_there() {
            return;
        }
        let lab = Lab::new();
        let mut command = mpirun(&lab, 1);
        train(&mut command, "run", &[]).args([":", "-n", "1"]);
        let output = train(&mut command, "run", &["--set", "seed=4"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(
            said.contains("rank 1 has other settings than rank 0"),
            "{said}"
        );
        assert_eq!(said.matches("error:").count(), 1, "told once: {said}");
        assert!(
            !lab.path("run/settings.toml").exists(),
            "the directory holds no run"
        );
    }
}
