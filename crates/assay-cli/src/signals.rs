//! Ctrl-C and SIGTERM: the first asks a run to stop after its iteration, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assay_irl::metrics::IterationMetrics;
use assay_irl::trainer::Observer;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::progress::Progress;

/// Exit status after a second signal: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Progress of a run that a signal stops; none for a rank that stays silent.
pub(crate) struct Stoppable {
    progress: Option<Progress>,
    asked: Arc<AtomicBool>,
    told: bool,
}

impl Stoppable {
    /// Listens from now on.
    pub(crate) fn new(progress: Option<Progress>) -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag that the first one set.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self {
            progress,
            asked,
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

    fn wants_stop(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}
