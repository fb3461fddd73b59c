//! Records a pass of kernels while it runs, and replays it over the same memory with other inputs.
//!
//! A recording holds every kernel and matrix product in order, and the memory that they read and
//! write, except weights and caches, which the caller keeps. On a GPU the driver runs it as one
//! graph. If the driver cannot, and in the emulator, the kernels are launched one by one.
//! Operations of candle are not recorded, so a pass must consist of operations of this crate.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::executor::{self, Graph};
use super::launch::{Launch, tensor_address};
use super::product::Product;
use crate::OpsError;

/// A pass that can be replayed.
pub struct Recording {
    device: Device,
    work: Vec<Work>,
    inputs: Vec<Tensor>,
    _kept: Vec<Tensor>,
    graph: Graph,
}

/// An input of a pass, which every replay replaces.
#[derive(Clone, Copy, Debug)]
pub enum StepInput<'v> {
    /// Token ids, positions or a table of sequences.
    Ids(&'v [u32]),
    /// Uniform numbers.
    Numbers(&'v [f64]),
}

/// One piece of work of a device.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Kernel(Launch),
    Product(Product),
}

#[derive(Default)]
struct Recorder {
    work: Vec<Work>,
    /// Tensors copied to the device, each with its original list, so that a pass copies a list only
    /// once.
    inputs: Vec<(Option<Arc<[u32]>>, Tensor)>,
    kept: Vec<Tensor>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Stops recording when a pass ends, even with an error.
struct Stop;

impl Drop for Stop {
    fn drop(&mut self) {
        RECORDER.set(None);
    }
}

/// Runs a pass on `device` in this thread and records it. A replay overwrites the tensors that the
/// pass returned.
///
/// # Errors
/// An error of `pass`.
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
    /// Replays the pass with other inputs of the same sizes, in the order in which the pass first
    /// copied them to the device.
    ///
    /// # Errors
    /// [`OpsError::Length`] for an input of another size; a failure of the device.
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

/// Records work, if this thread records.
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

/// Returns whether this thread records. A recorded pass must not use or keep cached copies of
/// lists.
pub(super) fn active() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// Returns the copy of a list that this pass has already made.
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

/// Records an input and the list that it is a copy of, if this thread records.
pub(super) fn input(tensor: Tensor, list: Option<&Arc<[u32]>>) -> Tensor {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            recorder.inputs.push((list.cloned(), tensor.clone()));
        }
    });
    tensor
}
