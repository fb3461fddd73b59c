//! Invalid and hostile files and arguments: the message names the cause, the exit status is 1, and
//! memory is bounded.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Address space of a child process in KiB. Hostile sizes are far larger.
const MEMORY: u64 = 6 << 20;

/// Runs the binary in a directory with bounded memory.
fn assay(dir: &TempDir, arguments: &str) -> Output {
    let binary = env!("CARGO_BIN_EXE_assay");
    Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {MEMORY}; exec {binary} {arguments}"))
        .current_dir(dir.path())
        .output()
        .unwrap()
}

/// Counts malformed cases for the table in docs/reliability.md.
#[allow(clippy::print_stdout)] // tools/reliability reads it
fn tried(cases: usize) {
    println!("\nMALFORMED {cases}");
}

fn world() -> TempDir {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("empty", b"");
    write(
        "traces.jsonl",
        b"{\"id\":\"1\",\"question\":\"q\",\"generator\":\"g\",\"text\":\"t\",\"correct\":true}\n",
    );
    write(
        "problems.jsonl",
        b"{\"question\":\"1+1?\",\"answer\":\"1+1=2\\n#### 2\"}\n",
    );
    // A page without its header, on which the parquet reader panics, and sixty thousand nested
    // groups.
    let mut damaged = include_bytes!("../../../assay-tasks/tests/data/countdown.parquet").to_vec();
    damaged[5] = 0;
    write("damaged.parquet", &damaged);
    let groups = [0x48, 1, b'a', 0x15, 2, 0].repeat(60_000);
    let footer = [&[0x15, 2, 0x19, 0xfc, 0xe0, 0xd4, 3], &groups[..]].concat();
    let length = (footer.len() as u32).to_le_bytes();
    write(
        "deep.parquet",
        &[b"PAR1", &footer[..], &length, b"PAR1"].concat(),
    );
    write("short.gguf", b"GGUF\x03\0\0\0");
    let mut billions = b"GGUF\x03\0\0\0".to_vec();
    billions.extend(4_000_000_000_u64.to_le_bytes());
    billions.extend(0_u64.to_le_bytes());
    write("billions.gguf", &billions);
    let sparse = fs::File::create(dir.path().join("sparse.gguf")).unwrap();
    let mut list = b"GGUF\x03\0\0\0".to_vec();
    list.extend(0_u64.to_le_bytes());
    list.extend(1_u64.to_le_bytes());
    list.extend(1_u64.to_le_bytes());
    list.extend(b"k");
    list.extend(9_u32.to_le_bytes());
    list.extend(0_u32.to_le_bytes());
    list.extend((1_u64 << 31).to_le_bytes());
    std::io::Write::write_all(&mut &sparse, &list).unwrap();
    sparse.set_len(3 << 30).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    for (name, base) in [("unnamed", ""), ("nested", "../../../../etc")] {
        fs::create_dir(dir.path().join(name)).unwrap();
        let card = format!(
            "{{\"r\":1,\"lora_alpha\":1,\"target_modules\":[\"q_proj\"],\"base_model_name_or_path\":\"{base}\"}}"
        );
        write(&format!("{name}/adapter_config.json"), card.as_bytes());
    }
    dir
}

#[test]
fn odd_inputs_are_named() {
    let sample = "sample --problems problems.jsonl --out o.jsonl --model";
    let cases = [
        ("eval --traces missing.jsonl".to_owned(), "missing.jsonl"),
        ("eval --traces folder".to_owned(), "folder"),
        ("eval --traces empty".to_owned(), "empty"),
        (
            "eval --traces problems.jsonl".to_owned(),
            "problems.jsonl:1",
        ),
        (
            "eval --traces traces.jsonl --out traces.jsonl".to_owned(),
            "would overwrite the input",
        ),
        (
            "eval --traces traces.jsonl --out folder".to_owned(),
            "is a directory or a device",
        ),
        (
            "eval --traces traces.jsonl --score nonsense".to_owned(),
            "nonsense",
        ),
        (
            "report --traces traces.jsonl --out ./folder/../traces.jsonl".to_owned(),
            "would overwrite the input",
        ),
        ("report --run missing --out r.html".to_owned(), "missing"),
        (format!("{sample} missing"), "missing is not a model"),
        (
            format!("{sample} folder"),
            "neither config.json nor a .gguf",
        ),
        (format!("{sample} empty"), "ends in .gguf"),
        (format!("{sample} short.gguf"), "short.gguf: tensor count"),
        (format!("{sample} billions.gguf"), "4000000000 is more than"),
        (format!("{sample} sparse.gguf"), "the header is longer than"),
        (
            format!("{sample} short.gguf --limit 0"),
            "--limit must be at least 1",
        ),
        (
            format!("{sample} short.gguf --samples 0"),
            "must lie between 1 and 65536",
        ),
        (
            format!("{sample} short.gguf --batch 0"),
            "--batch must be at least 1",
        ),
        (
            format!("{sample} short.gguf --max-tokens 0"),
            "--max-tokens must be at least 1",
        ),
        (
            format!("{sample} short.gguf --samples 99999999999999999999"),
            "number too large",
        ),
        (
            "sample --model short.gguf --problems problems.jsonl --out problems.jsonl".to_owned(),
            "would overwrite the input",
        ),
        (
            "sample --model short.gguf --problems problems.jsonl --out /dev/null".to_owned(),
            "is a directory or a device",
        ),
        (
            "sample --model short.gguf --problems empty --out o.jsonl".to_owned(),
            "empty holds no record",
        ),
        (
            "sample --model short.gguf --format countdown --problems damaged.parquet --out o.jsonl"
                .to_owned(),
            "the file is damaged: its reader gave up",
        ),
        (
            "sample --model short.gguf --problems deep.parquet --out o.jsonl".to_owned(),
            "groups of its schema nest deeper than 64",
        ),
        (
            "score --reward folder --traces traces.jsonl --out o.jsonl".to_owned(),
            "adapter_config.json",
        ),
        (
            "score --reward unnamed --traces traces.jsonl --out o.jsonl".to_owned(),
            "names no base model",
        ),
        (
            "score --reward nested --traces traces.jsonl --out o.jsonl".to_owned(),
            "name another with --model",
        ),
        (
            "score --reward folder --traces /dev/zero --out o.jsonl".to_owned(),
            "is not a regular file",
        ),
        (
            "localise --reward folder --demonstrations problems.jsonl --limit 0".to_owned(),
            "--limit must be at least 1",
        ),
        (
            "train sft --config /dev/zero --dry-run".to_owned(),
            "no settings file is longer",
        ),
        ("train sft --config folder --dry-run".to_owned(), "folder"),
        (
            "train sft --config missing.toml --dry-run".to_owned(),
            "missing.toml",
        ),
        (
            "train sft --config empty --set run.seedd=1 --dry-run".to_owned(),
            "unknown setting",
        ),
        (
            "train sft --config empty --set run=1 --dry-run".to_owned(),
            "run",
        ),
        (
            "train sft --config empty --set a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q=1 --dry-run"
                .to_owned(),
            "too many parts",
        ),
    ];
    let dir = world();
    tried(cases.len());
    for (arguments, expected) in cases {
        let output = assay(&dir, &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains(expected),
            "{arguments}: {text:?} lacks {expected:?}"
        );
        assert_eq!(output.status.code(), Some(1), "{arguments}: {text}");
        assert!(!text.contains("panicked"), "{arguments}: {text}");
    }
    let problems = fs::read(dir.path().join("problems.jsonl")).unwrap();
    assert!(
        problems.starts_with(b"{\"question\""),
        "an input was replaced"
    );
}

/// Files that extend two others each would be read 2^n times.
#[test]
fn settings_that_branch_are_not_read_without_end() {
    let dir = world();
    for index in 0..40 {
        let next = index + 1;
        let text = format!("extends = [\"{next}.toml\", \"{next}.toml\"]\n");
        fs::write(dir.path().join(format!("{index}.toml")), text).unwrap();
    }
    fs::write(dir.path().join("40.toml"), "").unwrap();
    let output = assay(&dir, "train sft --config 0.toml --dry-run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("more than 64 files build on each other"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// `assay ... | head` is not an error.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error() {
    let dir = world();
    let binary = env!("CARGO_BIN_EXE_assay");
    let script = format!(
        "{{ sleep 0.2; {binary} train sft --config empty --dry-run; echo $? >status; }} | true"
    );
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        fs::read_to_string(dir.path().join("status")).unwrap(),
        "0\n"
    );
}
