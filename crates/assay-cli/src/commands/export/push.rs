//! `assay export --push`: the exported directory as one commit of a model repository on the hub.

use std::path::Path;

use anyhow::{Context, Result};
use assay_lm::hub::{self, HubSettings, LocalFile, Pushed, RepoName};
use serde_json::{Value, json};

use crate::progress::{Downloads, message};

/// Parses the name of a model repository.
pub(crate) fn repository(text: &str) -> Result<RepoName, String> {
    let name = RepoName::parse(text).filter(RepoName::is_model);
    name.ok_or_else(|| "give org/name or org/name@branch, as on the hub".to_owned())
}

/// The result, as JSON for programs and as text for people.
pub(crate) struct Done {
    pub(crate) json: Value,
    pub(crate) text: String,
}

/// Lists the files that a push of a directory would upload. Needs no network.
pub(crate) fn list(dir: &Path, name: &RepoName) -> Result<Done> {
    let files = hub::local_files(dir).context("nothing can be pushed")?;
    Ok(listed(name, &files))
}

/// Pushes a directory.
pub(crate) fn push(dir: &Path, name: &RepoName) -> Result<Done> {
    let files = hub::local_files(dir).context("nothing can be pushed")?;
    let mut shown = Downloads::default();
    let settings = HubSettings::from_env();
    let text = format!("Upload with assay {}", env!("CARGO_PKG_VERSION"));
    let pushed = hub::push(&files, name, &settings, &text, &mut |file| shown.show(file));
    shown.finish();
    let pushed = pushed.context("the directory was not pushed")?;
    for file in &pushed.ignored {
        message(&format!("{file}: left out by the repository's .gitignore"))?;
    }
    Ok(Done {
        text: summary(&pushed),
        json: json!({
            "repository": name.to_string(),
            "url": pushed.url,
            "commit": pushed.commit,
            "changed": pushed.changed,
            "ignored": pushed.ignored,
        }),
    })
}

fn summary(pushed: &Pushed) -> String {
    match &pushed.commit {
        Some(commit) => format!(
            "{}: {} files in commit {commit}",
            pushed.url,
            pushed.changed.len()
        ),
        None => format!("{}: all files were there before", pushed.url),
    }
}

fn listed(name: &RepoName, files: &[LocalFile]) -> Done {
    let total: u64 = files.iter().map(|file| file.size).sum();
    let lines = files
        .iter()
        .map(|file| format!("{:>14}  {}\n", file.size, file.name));
    let lines: String = lines.collect();
    let count = files.len();
    let rows: Vec<Value> = files
        .iter()
        .map(|file| json!({ "file": file.name, "bytes": file.size }))
        .collect();
    Done {
        json: json!({ "repository": name.to_string(), "files": rows, "bytes": total }),
        text: format!("{lines}{total:>14}  bytes in {count} files would be pushed to {name}"),
    }
}
