//! A decoding step on an accelerator that is recorded for a number of rows and then replayed.
//!
//! Sequences leave the batch when they end. Their rows become idle: they write to a separate slot
//! and are not read. When half of the rows are idle, the step is recorded again for the remaining
//! rows.

use assay_ops::{CacheRow, CacheRows, DeviceDraw, Recording, StepInput, draw_on_device, record};
use assay_tasks::random::Stream;

use super::{Decoder, StepRows};
use crate::LmError;
use crate::draw::{DrawSettings, Drawn, read_drawn};

/// A step for a fixed number of rows.
pub(super) struct RecordedStep {
    rows: usize,
    recording: Recording,
    drawn: DeviceDraw,
}

impl RecordedStep {
    /// Whether `active` sequences fit and fill more than half of the rows.
    fn suits(&self, active: usize) -> bool {
        active <= self.rows && 2 * active > self.rows
    }
}

impl Decoder<'_> {
    /// [`Decoder::step`] with a recording.
    pub(super) fn recorded_step(&mut self, settings: &DrawSettings) -> Result<Vec<Drawn>, LmError> {
        let active = self.active.len();
        let streams = self.active.iter_mut().map(|sequence| &mut sequence.stream);
        let mut uniforms: Vec<f64> = streams.map(Stream::uniform_f64).collect();
        let mut rows = self.rows();
        let suited = self.recorded.take().filter(|step| step.suits(active));
        let step = match suited {
            Some(mut step) => {
                rows.idle_to(
                    step.rows,
                    self.caches.first().map_or(0, |cache| cache.slots() - 1),
                );
                uniforms.resize(step.rows, 0.5);
                self.replay(&mut step.recording, rows, &uniforms)?;
                step
            }
            None => {
                let device = self.model.placement().device;
                let (drawn, recording) = record(&device, || -> Result<_, LmError> {
                    let logits = self.logits(rows)?;
                    Ok(draw_on_device(&logits, &uniforms, settings.into())?)
                })?;
                RecordedStep {
                    rows: active,
                    recording,
                    drawn,
                }
            }
        };
        let drawn = read_drawn(&step.drawn, active);
        self.recorded = Some(step);
        drawn
    }

    /// Replays a recorded step. The inputs are in the order in which a step reads them.
    fn replay(
        &self,
        recording: &mut Recording,
        rows: StepRows,
        uniforms: &[f64],
    ) -> Result<(), LmError> {
        let cached = CacheRows::new(rows.cached);
        if let Some(cache) = self.caches.first() {
            cache.check(&cached, self.prompts.len())?;
        }
        recording.replay(&[
            StepInput::Ids(&rows.tokens),
            StepInput::Ids(&rows.positions),
            StepInput::Ids(&cached.table()),
            StepInput::Numbers(uniforms),
        ])?;
        Ok(())
    }
}

impl StepRows {
    /// Fills up with idle rows: the first token of the vocabulary after the first token of all
    /// prompts.
    fn idle_to(&mut self, rows: usize, slot: usize) {
        self.tokens.resize(rows, 0);
        self.positions.resize(rows, 0);
        let idle = CacheRow {
            prompt: 0..1,
            slot,
            len: 1,
        };
        self.cached.resize(rows, idle);
    }
}
