//! The file that labels are appended to, by one process at a time.
//!
//! `append` returns after the label is on the disk. An incomplete line, left by a crash, is removed
//! when the file is opened again, so that no label is appended to it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{FirstError, Label, Labels, MAX_LABEL_BYTES, MAX_LABELS_BYTES, read_labels};
use crate::TasksError;

/// The beginning of every line that assay writes. It identifies an incomplete line of assay.
const LINE_START: &[u8] = b"{\"trace\":\"";

/// A file of labels that is open for appending.
#[derive(Debug)]
pub struct LabelFile {
    path: PathBuf,
    /// Maximum size in bytes.
    pub(super) limit: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Length to which the file must be truncated before the next write, after a failed append.
    torn_at: Option<u64>,
    marks: BTreeMap<MarkKey, Marked>,
    /// Number of marks so far.
    numbered: u64,
}

/// A trace and its annotator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MarkKey {
    trace: String,
    annotator: String,
}

#[derive(Clone, Copy, Debug)]
struct Marked {
    number: u64,
    first_error: Option<FirstError>,
    time: u64,
}

/// A label that counts, without question and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMark {
    /// [`super::trace_key`] of the trace.
    pub trace: String,
    /// The annotator.
    pub annotator: String,
    /// The first wrong token; `None` if the whole text is right.
    pub first_error: Option<FirstError>,
    /// Time in seconds since 1970.
    pub time: u64,
}

/// How a last line without a line end was repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairedTail {
    /// It was complete, or not written by assay: a line end was added.
    Ended,
    /// It was an incomplete label: this number of bytes was removed.
    Removed(u64),
}

/// A file of labels and its contents.
#[derive(Debug)]
pub struct OpenedLabels {
    /// The file.
    pub file: LabelFile,
    /// Its labels.
    pub labels: Labels,
    /// How a last line without a line end was repaired.
    pub repaired: Option<RepairedTail>,
}

impl LabelFile {
    /// Opens a file of labels for appending, or creates it, and locks it against other processes.
    ///
    /// # Errors
    /// [`TasksError::LabelsInUse`], [`TasksError::LabelsFull`]; [`TasksError::FileKind`] for a file
    /// with other contents. The file cannot be read or written.
    pub fn open(path: &Path) -> Result<OpenedLabels, TasksError> {
        let is_new = !path.exists();
        let unwritable = |source| TasksError::Write {
            path: path.to_owned(),
            source,
        };
        let mut file = locked(path)?;
        let bytes = bounded(&mut file, path)?;
        if starts_otherwise(&bytes) {
            return Err(foreign(path));
        }
        let tail = Tail::of(&bytes);
        let mut labels = read_labels(path)?;
        let torn = usize::from(matches!(tail, Some(Tail::Torn(_))));
        let skipped: usize = labels.report.skipped.values().map(|r| r.count).sum();
        if labels.report.loaded + labels.withdrawn == 0 && skipped > torn {
            return Err(foreign(path));
        }
        let repaired = match tail {
            Some(tail) => Some(tail.repair(&mut file, bytes.len()).map_err(unwritable)?),
            None => None,
        };
        if repaired.is_some() {
            labels = read_labels(path)?;
        }
        if is_new {
            sync_folder(path).map_err(unwritable)?;
        }
        Ok(OpenedLabels {
            file: Self {
                path: path.to_owned(),
                limit: MAX_LABELS_BYTES,
                state: Mutex::new(State::new(file, &labels)),
            },
            labels,
            repaired,
        })
    }

    /// Appends a label and waits until it is on the disk.
    ///
    /// # Errors
    /// [`TasksError::LabelTooLong`], [`TasksError::LabelsFull`]; the file cannot be written. After
    /// an error the file is unchanged.
    pub fn append(&self, label: &Label) -> Result<(), TasksError> {
        let mut line = serde_json::to_vec(label).map_err(|source| TasksError::Encode {
            id: label.trace.clone(),
            source,
        })?;
        if line.len() > MAX_LABEL_BYTES {
            return Err(TasksError::LabelTooLong {
                limit: MAX_LABEL_BYTES,
            });
        }
        line.push(b'\n');
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let unwritable = |source| TasksError::Write {
            path: self.path.clone(),
            source,
        };
        let bytes = state.end().map_err(unwritable)?;
        if bytes + line.len() as u64 > self.limit {
            return Err(TasksError::LabelsFull {
                path: self.path.clone(),
                limit: self.limit,
            });
        }
        state.write(&line, bytes).map_err(unwritable)?;
        state.mark(label);
        Ok(())
    }

    /// The labels that count, the newest first, at most `limit`.
    pub fn marks(&self, limit: usize) -> Vec<LabelMark> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marks: Vec<(&MarkKey, &Marked)> = state.marks.iter().collect();
        marks.sort_by_key(|(_, mark)| std::cmp::Reverse(mark.number));
        let newest = marks.into_iter().take(limit);
        newest
            .map(|(key, mark)| LabelMark {
                trace: key.trace.clone(),
                annotator: key.annotator.clone(),
                first_error: mark.first_error,
                time: mark.time,
            })
            .collect()
    }

    /// Number of labels that count.
    pub fn count(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.marks.len()
    }
}

#[cfg(test)]
impl LabelFile {
    /// Sets the state after an append that failed at `bytes` and could not be undone.
    pub(super) fn tear(&self, bytes: u64) {
        self.state.lock().unwrap().torn_at = Some(bytes);
    }
}

impl State {
    fn new(file: File, labels: &Labels) -> Self {
        let mut state = Self {
            file,
            torn_at: None,
            marks: BTreeMap::new(),
            numbered: 0,
        };
        let mut labels: Vec<&Label> = labels.labels.iter().collect();
        labels.sort_by_key(|label| label.time);
        labels.into_iter().for_each(|label| state.mark(label));
        state
    }

    /// The length of the file. First removes the remains of a failed append.
    fn end(&mut self) -> io::Result<u64> {
        if let Some(bytes) = self.torn_at {
            self.file.set_len(bytes)?;
            self.torn_at = None;
        }
        Ok(self.file.metadata()?.len())
    }

    /// Writes a line at `bytes`, the file's end.
    fn write(&mut self, line: &[u8], bytes: u64) -> io::Result<()> {
        self.torn_at = Some(bytes);
        let written = self.file.write_all(line);
        match written.and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.torn_at = None;
                Ok(())
            }
            Err(error) => {
                // If this fails too, the next append tries again.
                if self.file.set_len(bytes).is_ok() {
                    self.torn_at = None;
                }
                Err(error)
            }
        }
    }

    fn mark(&mut self, label: &Label) {
        let key = MarkKey {
            trace: label.trace.clone(),
            annotator: label.annotator.clone(),
        };
        if label.withdrawn {
            self.marks.remove(&key);
            return;
        }
        self.numbered += 1;
        let marked = Marked {
            number: self.numbered,
            first_error: label.first_error,
            time: label.time,
        };
        self.marks.insert(key, marked);
    }
}

/// A last line without an end.
enum Tail {
    /// An incomplete line of assay, with this number of bytes.
    Torn(usize),
    /// Any other text, which may be complete.
    Open,
}

impl Tail {
    fn of(bytes: &[u8]) -> Option<Self> {
        if matches!(bytes.last(), None | Some(b'\n')) {
            return None;
        }
        let start = bytes.iter().rposition(|&byte| byte == b'\n');
        let line = &bytes[start.map_or(0, |at| at + 1)..];
        let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
        let shared = line.len().min(LINE_START.len());
        let is_ours = line[..shared] == LINE_START[..shared];
        Some(match is_ours && !is_whole {
            true => Self::Torn(line.len()),
            false => Self::Open,
        })
    }

    /// Removes or ends the last line of a file with `bytes` bytes.
    fn repair(self, file: &mut File, bytes: usize) -> io::Result<RepairedTail> {
        let repaired = match self {
            Self::Torn(length) => {
                file.set_len((bytes - length) as u64)?;
                RepairedTail::Removed(length as u64)
            }
            Self::Open => {
                file.write_all(b"\n")?;
                RepairedTail::Ended
            }
        };
        file.sync_data()?;
        Ok(repaired)
    }
}

/// Opens or creates a file and locks it against other processes. On file systems without locks a
/// second process is not kept out.
fn locked(path: &Path) -> Result<File, TasksError> {
    let unwritable = |source| TasksError::Write {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).append(true).create(true);
    let file = options.open(path).map_err(unwritable)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(TasksError::LabelsInUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) if source.kind() != ErrorKind::Unsupported => {
            Err(unwritable(source))
        }
        _ => Ok(file),
    }
}

/// All bytes of a file that is not too large.
fn bounded(file: &mut File, path: &Path) -> Result<Vec<u8>, TasksError> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_LABELS_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| TasksError::Read {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > MAX_LABELS_BYTES {
        return Err(TasksError::LabelsFull {
            path: path.to_owned(),
            limit: MAX_LABELS_BYTES,
        });
    }
    Ok(bytes)
}

/// Whether a file is compressed, parquet or an array, so that no line can be appended to it.
fn starts_otherwise(bytes: &[u8]) -> bool {
    let others: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"["];
    others.iter().any(|other| bytes.starts_with(other))
}

fn foreign(path: &Path) -> TasksError {
    TasksError::FileKind {
        path: path.to_owned(),
        reason: "no file that labels can be appended to: name a new file, or JSON lines of labels",
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
