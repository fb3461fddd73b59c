//! A pass of kernels that is recorded while it runs and started again over the same memory, with other inputs.
//!
//! What a recording holds: every kernel and matrix product in order, and all memory that they read and write but for weights and
//! caches, which the caller keeps. On a GPU the driver takes it as one graph; where it does not, and in the emulator, the work is
//! started piece by piece. Operations of the tensor library are not recorded: a pass must consist of this crate's own.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::executor::{self, Graph};
use super::launch::{Launch, tensor_address};
use super::product::Product;
use crate::OpsError;

/// A pass that can be started again.
pub struct Recording {
    device: Device,
    work: Vec<Work>,
    inputs: Vec<Tensor>,
    _kept: Vec<Tensor>,
    graph: Graph,
}

/// What a pass was given and is given anew when it is started again.
#[derive(Clone, Copy, Debug)]
pub enum StepInput<'v> {
    /// Token ids, positions or a table of sequences.
    Ids(&'v [u32]),
    /// Uniform numbers.
    Numbers(&'v [f64]),
}

/// Something that a device was told to do.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Kernel(Launch),
    Product(Product),
}

#[derive(Default)]
struct Recorder {
    work: Vec<Work>,
    /// What was brought to the device, and the list that it is of, so that it is brought once a pass.
    inputs: Vec<(Option<Arc<[u32]>>, Tensor)>,
    kept: Vec<Tensor>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Stops recording however a pass ends.
struct Stop;

impl Drop for Stop {
    fn drop(&mut self) {
        RECORDER.set(None);
    }
}

/// Runs a pass on `device`, in this thread, and records it. What it returns is part of the memory that a replay writes again.
///
/// # Errors
/// Whatever `pass` returns.
pub fn record<R, E>(
    device: &Device,
    pass: impl FnOnce() -> Result<R, E>,
) -> Result<(R, Recording), E> {
    let stop = Stop;
    RECORDER.set(Some(Recorder::default()));
    let made = pass()?;
    let Recorder { work, inputs, kept } = RECORDER.take().unwrap_or_default();
    drop(stop);
    let recording = Recording {
        device: device.clone(),
        work,
        inputs: inputs.into_iter().map(|(_, tensor)| tensor).collect(),
        _kept: kept,
        graph: Graph::default(),
    };
    Ok((made, recording))
}

impl Recording {
    /// Starts the pass again with other inputs of the same sizes, in the order in which it brought them to the device first.
    ///
    /// # Errors
    /// [`OpsError::Length`] where an input has another size; a device that fails.
    pub fn replay(&mut self, inputs: &[StepInput<'_>]) -> Result<(), OpsError> {
        let length = |argument, expected, found| OpsError::Length {
            operation: "replay",
            argument,
            expected,
            found,
        };
        if inputs.len() != self.inputs.len() {
            return Err(length("inputs", self.inputs.len(), inputs.len()));
        }
        for (input, tensor) in inputs.iter().zip(&self.inputs) {
            let (count, dtype) = match input {
                StepInput::Ids(values) => (values.len(), DType::U32),
                StepInput::Numbers(values) => (values.len(), DType::F64),
            };
            if count != tensor.elem_count() || dtype != tensor.dtype() {
                return Err(length("an input", tensor.elem_count(), count));
            }
        }
        for (input, tensor) in inputs.iter().zip(&self.inputs) {
            executor::write(&self.device, tensor_address(tensor)?, *input)?;
        }
        executor::start(&self.device, &self.work, &mut self.graph)?;
        Ok(())
    }
}

/// Takes down what was started, if this thread records.
pub(super) fn note(work: impl FnOnce() -> Work) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            recorder.work.push(work());
        }
    });
}

/// Keeps memory that kernels fill, if this thread records.
pub(super) fn keep(tensor: &Tensor) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            recorder.kept.push(tensor.clone());
        }
    });
}

/// Whether this thread records: then nothing that was brought to the device before may be used, and nothing remembered.
pub(super) fn active() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// What this pass has brought to the device of a list already.
pub(super) fn brought(list: &Arc<[u32]>) -> Option<Tensor> {
    RECORDER.with_borrow(|recorder| {
        let mut inputs = recorder.iter().flat_map(|recorder| &recorder.inputs);
        let same = |known: &Option<Arc<[u32]>>| {
            known.as_ref().is_some_and(|known| Arc::ptr_eq(known, list))
        };
        inputs
            .find(|(known, _)| same(known))
            .map(|(_, tensor)| tensor.clone())
    })
}

/// Takes down what was brought to the device, if this thread records, and of which list it is.
pub(super) fn input(tensor: Tensor, list: Option<&Arc<[u32]>>) -> Tensor {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            recorder.inputs.push((list.cloned(), tensor.clone()));
        }
    });
    tensor
}
