//! The file of edits: JSON lines that are appended one at a time, each on the disk before the next
//! request.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::request::Edit;

/// Maximum length of a line in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// The beginning of every line that assay writes. It identifies an incomplete line of assay.
const LINE_START: &[u8] = b"{\"request\":\"";

/// A file of edits that is open for appending.
pub(super) struct EditFile {
    path: PathBuf,
    file: File,
    /// Keys of the requests whose edits it holds.
    keys: HashSet<String>,
}

impl EditFile {
    /// Opens a file of edits, or creates it. Removes an incomplete last line, which a stopped
    /// process can leave.
    ///
    /// # Errors
    /// A line is no edit: the file holds something else. The file cannot be read or written, or
    /// another process writes it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = || format!("opening {}", path.display());
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let mut file = options.open(path).with_context(failed)?;
        if file.try_lock().is_err() {
            bail!("{} is in use by another process", path.display());
        }
        let (keys, whole) = read(path, &file)?;
        file.set_len(whole).with_context(failed)?;
        file.seek(SeekFrom::End(0)).with_context(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            keys,
        })
    }

    /// Whether the edit of a request is in the file.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Appends an edit and waits until it is on the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn append(&mut self, edit: &Edit) -> Result<()> {
        let mut line = serde_json::to_vec(edit)?;
        line.push(b'\n');
        let written = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data());
        written.with_context(|| format!("writing {}", self.path.display()))
    }
}

/// The keys of a file's edits, and the number of bytes of its complete lines.
fn read(path: &Path, file: &File) -> Result<(HashSet<String>, u64)> {
    let mut reader = BufReader::new(file);
    let (mut keys, mut whole, mut line) = (HashSet::new(), 0, Vec::new());
    for number in 1_usize.. {
        line.clear();
        let mut bounded = reader.by_ref().take(MAX_LINE_BYTES);
        let read = bounded
            .read_until(b'\n', &mut line)
            .with_context(|| format!("reading {}", path.display()))?;
        if read == 0 {
            break;
        }
        let edit: Result<Edit, _> = serde_json::from_slice(&line);
        let complete = line.ends_with(b"\n");
        match edit {
            Ok(edit) if complete => {
                keys.insert(edit.request);
                whole += read as u64;
            }
            _ if !complete && LINE_START.starts_with(&line[..line.len().min(LINE_START.len())]) => {
                break;
            }
            _ => bail!(
                "{} holds something other than edits (line {number}); name another file",
                path.display()
            ),
        }
    }
    Ok((keys, whole))
}
