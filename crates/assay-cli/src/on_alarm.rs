//! `assay train --on-alarm`: runs a command, or posts to a URL, for every alarm.
//!
//! Both receive the alarm as one JSON object. After [`LIMIT`] the command and all processes that it
//! started are killed, or the request is cancelled. A failure is a message to the user, never an
//! error of the run. The command's stdout is not read; the first bytes of its stderr are kept for
//! that message.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use assay_evals::Alarm;
use serde_json::json;
use ureq::Agent;
use ureq::http::Uri;

/// Time limit of one call. The run waits at most this long.
const LIMIT: Duration = Duration::from_secs(10);
/// Interval at which a command is polled for its end.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a failed command's stderr that are shown.
const SHOWN: usize = 400;

/// The command or the address that is called for an alarm.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OnAlarm {
    /// A shell command line, which reads the alarm from stdin.
    Command(String),
    /// An address that receives the alarm as the body of a POST request.
    Webhook(String),
}

impl FromStr for OnAlarm {
    type Err = String;

    /// Text that begins with `http://` or `https://` is an address; other text is a command.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if !(lower.starts_with("http://") || lower.starts_with("https://")) {
            return match text.trim().is_empty() {
                true => Err("name a command or a URL".to_owned()),
                false => Ok(Self::Command(text.to_owned())),
            };
        }
        match text.parse::<Uri>() {
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => {
                Ok(Self::Webhook(text.to_owned()))
            }
            _ => Err("the URL names no host".to_owned()),
        }
    }
}

impl OnAlarm {
    /// Runs the command, or posts to the address, for an alarm of a run.
    ///
    /// # Errors
    /// The text of a warning. It does not contain the address, which may hold a secret.
    pub(crate) fn tell(&self, alarm: &Alarm, run: &Path) -> Result<(), String> {
        self.tell_within(alarm, run, LIMIT)
    }

    fn tell_within(&self, alarm: &Alarm, run: &Path, limit: Duration) -> Result<(), String> {
        let payload = payload(alarm, run);
        match self {
            Self::Command(command) => call(command, &payload, limit),
            Self::Webhook(url) => post(url, &payload, limit),
        }
    }
}

/// The alarm as one line of JSON.
fn payload(alarm: &Alarm, run: &Path) -> String {
    let value = json!({
        "run": run.display().to_string(),
        "alarm": alarm.kind,
        "headline": alarm.kind.headline(),
        "iteration": alarm.iteration as u64,
        "value": alarm.value,
        "threshold": alarm.threshold,
        "advice": alarm.kind.advice(),
    });
    format!("{value}\n")
}

fn post(url: &str, payload: &str, limit: Duration) -> Result<(), String> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(limit))
        .build()
        .into();
    let request = agent.post(url).header("content-type", "application/json");
    match request.send(payload) {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("the server answers {}", answer.status())),
        Err(ureq::Error::Timeout(_)) => Err(format!(
            "the server does not answer in {} s",
            limit.as_secs()
        )),
        Err(ureq::Error::Io(error)) => Err(format!("no connection: {error}")),
        Err(_) => Err("the request failed".to_owned()),
    }
}

fn call(command: &str, payload: &str, limit: Duration) -> Result<(), String> {
    let mut child = shell(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the command does not start: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        // An alarm fits into a pipe, so this does not wait for a command that reads nothing.
        let _ = input.write_all(payload.as_bytes());
    }
    let said = child.stderr.take().map(first_bytes);
    let ended = wait(&mut child, limit);
    let why = match ended {
        Ok(Some(status)) if status.success() => return Ok(()),
        Ok(Some(status)) => format!("the command ends with {status}"),
        Ok(None) => format!(
            "the command does not end in {} s and is killed",
            limit.as_secs()
        ),
        Err(error) => format!("waiting for the command fails: {error}"),
    };
    let said = said.and_then(|said| said.recv_timeout(Duration::from_secs(1)).ok());
    match said.filter(|said| !said.is_empty()) {
        Some(said) => Err(format!("{why}: {said}")),
        None => Err(why),
    }
}

/// The shell with a command line, in its own process group, so that all its processes can be
/// killed.
fn shell(command: &str) -> Command {
    if cfg!(windows) {
        let mut shell = Command::new("cmd");
        shell.arg("/C").arg(command);
        return shell;
    }
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    shell
}

/// Waits for a process; kills it and its group after `limit` and returns `None`.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(PAUSE);
    }
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Reads all of stderr, so that the command is never blocked, and sends its first bytes as one line
/// without control characters.
fn first_bytes(mut stderr: ChildStderr) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            let room = SHOWN - kept.len();
            kept.extend(&buffer[..read.min(room)]);
        }
        let text = String::from_utf8_lossy(&kept);
        let safe = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = text.trim().chars().map(safe).collect();
        let _ = send.send(line);
    });
    receive
}

#[cfg(test)]
mod tests;
