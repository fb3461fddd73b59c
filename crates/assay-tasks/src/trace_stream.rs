//! Reads a long `traces.jsonl` on several threads, in order and in bounded memory.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::TasksError;
use crate::lines::Lines;
use crate::trace::ScoredTrace;
use crate::trace_io::parse_trace;

/// Maximum number of threads that parse.
const MAX_WORKERS: usize = 8;
/// Bytes of lines handed to a thread at a time.
const BATCH: usize = 1 << 20;

/// Lines with their numbers.
type Numbered = Vec<(usize, String)>;
/// The results of a batch, up to the first error.
type Mapped<T> = Vec<Result<T, TasksError>>;

/// Parses and checks each trace and applies `map` to it on several threads. `sink` receives the
/// results in file order.
///
/// Two batches per thread are in memory, whatever the length of the file.
///
/// # Errors
/// The first error in file order, of [`crate::trace_io::TraceReader`] or of `sink`. Nothing after
/// it reaches `sink`.
pub fn map_traces<T: Send, E: From<TasksError>>(
    path: &Path,
    map: impl Fn(ScoredTrace) -> T + Sync,
    mut sink: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut lines = Lines::open(path)?;
    let workers = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
    let map = &map;
    thread::scope(|scope| {
        let mut lanes: Vec<Lane<T>> = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (sender, work) = sync_channel::<Numbered>(1);
            let (done, receiver) = sync_channel(1);
            scope.spawn(move || work_through(path, &work, &done, map));
            lanes.push(Lane {
                sender,
                receiver,
                busy: false,
            });
        }
        let mut next = 0;
        let mut failed = None;
        while let Some(batch) = next_batch(&mut lines, &mut failed) {
            let lane = &mut lanes[next % workers];
            lane.drain(&mut sink)?;
            // A thread ends before its channel only if `map` panicked; leaving the scope then
            // panics too.
            lane.busy = lane.sender.send(batch).is_ok();
            next += 1;
        }
        for _ in 0..workers {
            lanes[next % workers].drain(&mut sink)?;
            next += 1;
        }
        failed.map_or(Ok(()), |error: TasksError| Err(error.into()))
    })
}

/// One thread's ends of its two channels.
struct Lane<T> {
    sender: SyncSender<Numbered>,
    receiver: Receiver<Mapped<T>>,
    busy: bool,
}

impl<T> Lane<T> {
    /// Passes on the results of the thread's last batch.
    fn drain<E: From<TasksError>>(
        &mut self,
        sink: &mut impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        if !std::mem::take(&mut self.busy) {
            return Ok(());
        }
        for mapped in self.receiver.recv().into_iter().flatten() {
            sink(mapped?)?;
        }
        Ok(())
    }
}

fn work_through<T>(
    path: &Path,
    work: &Receiver<Numbered>,
    done: &SyncSender<Mapped<T>>,
    map: &impl Fn(ScoredTrace) -> T,
) {
    for batch in work {
        let parsed = batch
            .into_iter()
            .map(|(number, line)| parse_trace(path, number, &line).map(map));
        if done.send(parsed.collect()).is_err() {
            return;
        }
    }
}

/// The next lines up to [`BATCH`] bytes, at least one. Reading stops at a line that cannot be read.
fn next_batch<R: std::io::BufRead>(
    lines: &mut Lines<R>,
    failed: &mut Option<TasksError>,
) -> Option<Numbered> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH && failed.is_none() {
        match lines.next() {
            None => break,
            Some(Ok((number, line))) => {
                bytes += line.len();
                batch.push((number, line));
            }
            Some(Err(error)) => *failed = Some(error),
        }
    }
    (!batch.is_empty()).then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: usize, broken: Option<usize>) -> tempfile::NamedTempFile {
        let mut text = String::new();
        for i in 0..lines {
            if broken == Some(i) {
                text.push_str("{\"id\": 3\n");
                continue;
            }
            let long = "x".repeat(2000);
            text.push_str(&format!(
                "{{\"id\":\"{i}\",\"question\":\"{long}\",\"generator\":\"g\",\"text\":\"\"}}\n"
            ));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn read(path: &Path) -> (Vec<String>, Result<(), TasksError>) {
        let mut ids = Vec::new();
        let result = map_traces(
            path,
            |trace| trace.id,
            |id| {
                ids.push(id);
                Ok(())
            },
        );
        (ids, result)
    }

    #[test]
    fn order_is_kept_over_many_batches() {
        // 5000 lines of 2 kB are about ten batches.
        let file = file(5000, None);
        let (ids, result) = read(file.path());
        result.unwrap();
        let expected: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn nothing_arrives_after_the_first_error() {
        let file = file(3000, Some(1234));
        let (ids, result) = read(file.path());
        let message = result.unwrap_err().to_string();
        assert!(message.contains(":1235"), "{message}");
        assert_eq!(ids.len(), 1234);
    }

    #[test]
    fn an_error_of_the_sink_stops_reading() {
        let file = file(3000, None);
        let mut taken = 0;
        let result: Result<(), TasksError> = map_traces(
            file.path(),
            |trace| trace,
            |_| {
                taken += 1;
                Err(TasksError::Read {
                    path: "sink".into(),
                    source: std::io::Error::other("full"),
                })
            },
        );
        assert!(result.is_err());
        assert_eq!(taken, 1);
        assert!(read(Path::new("absent.jsonl")).1.is_err());
    }
}
