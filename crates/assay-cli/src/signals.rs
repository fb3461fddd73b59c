//! Ctrl-C and SIGTERM: the first one stops long work at a point from which it can continue, the
//! second ends the process at once.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assay_evals::Alarm;
use assay_train::metrics::IterationMetrics;
use assay_train::run::Observer;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::on_alarm::OnAlarm;
use crate::progress::Progress;

/// Exit status after a signal: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether a signal has asked to stop.
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Installs the signal handlers. A second signal ends the process.
    pub(crate) fn listen() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // This order matters: the second signal must find the flag that the first one set.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self(asked))
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Work that a signal stopped; its results so far are kept.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {done} of {all} {what}; {} holds them", .path.display())]
pub(crate) struct Interrupted {
    /// Number done.
    pub(crate) done: usize,
    /// Number requested.
    pub(crate) all: usize,
    /// Name of the things counted.
    pub(crate) what: &'static str,
    /// The file or directory of the results.
    pub(crate) path: PathBuf,
}

/// Observer of a run that a signal can stop. It has no progress on ranks that print nothing.
pub(crate) struct Stoppable {
    progress: Option<Progress>,
    on_alarm: Option<AlarmCall>,
    asked: StopFlag,
    told: bool,
}

/// The call for each alarm of a run.
pub(crate) struct AlarmCall {
    /// The command or address.
    pub(crate) action: OnAlarm,
    /// The run's directory.
    pub(crate) run: PathBuf,
}

impl Stoppable {
    /// Installs the signal handlers.
    pub(crate) fn new(progress: Option<Progress>, on_alarm: Option<AlarmCall>) -> io::Result<Self> {
        Ok(Self {
            progress,
            on_alarm,
            asked: StopFlag::listen()?,
            told: false,
        })
    }

    /// Ends the bar.
    pub(crate) fn finish(&self) {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
    }

    fn tell(&mut self) {
        if self.wants_stop() && !self.told {
            self.told = true;
            self.note("stopping after this iteration; a second signal stops at once");
        }
    }
}

impl Observer for Stoppable {
    fn iteration(&mut self, metrics: &IterationMetrics, total: usize) {
        if let Some(progress) = &mut self.progress {
            progress.iteration(metrics, total);
        }
        self.tell();
    }

    fn tokens(&mut self, count: usize) {
        if let Some(progress) = &mut self.progress {
            progress.tokens(count);
        }
        self.tell();
    }

    fn note(&mut self, text: &str) {
        if let Some(progress) = &mut self.progress {
            progress.note(text);
        }
    }

    fn alarm(&mut self, alarm: &Alarm) {
        self.note(&format!("alarm: {}", alarm.text()));
        if let Some(call) = &self.on_alarm
            && let Err(reason) = call.action.tell(alarm, &call.run)
        {
            self.note(&format!("warning: --on-alarm failed: {reason}"));
        }
    }

    fn wants_stop(&self) -> bool {
        self.asked.is_raised()
    }
}
