//! Operations on an accelerator: which kernels run over which buffers, in which order.
//!
//! Decided here: how an operation is put together from kernels (`cuda/kernels/*.cu`) and matrix products, forward and
//! backward. Left out: how a kernel is started. That is `executor`'s, with two implementations: CUDA, and in tests an emulator
//! that runs the same kernel sources on the CPU, so that everything in this folder is tested on a machine without a GPU.
//!
//! Activations and matrices are f32 or bf16; vectors, adapters, logits, log-probabilities and optimiser state are f32. Every
//! sum is made in f32 or wider, in an order that does not depend on timing: results repeat to the bit on one device.

pub(crate) mod adamw;
pub(crate) mod add;
pub(crate) mod attach;
pub(crate) mod cached_attention;
pub(crate) mod column_sums;
pub(crate) mod draw;
pub(crate) mod embedding;
mod executor;
pub(crate) mod grouped_attention;
pub(crate) mod launch;
pub(crate) mod linear;
pub(crate) mod memo;
pub(crate) mod product;
pub(crate) mod quantised;
pub(crate) mod recording;
pub(crate) mod reward_head;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod seed_gradient;
pub(crate) mod swiglu;
pub(crate) mod token_logprobs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor};

/// Whether operations on this tensor run as kernels of this folder.
pub(crate) fn takes(tensor: &Tensor) -> bool {
    has_kernels(tensor.device())
}

/// Whether operations on this device are kernels of an accelerator, not the CPU's.
pub fn has_kernels(device: &Device) -> bool {
    !device.is_cpu() || cfg!(feature = "emulator")
}

/// A GPU by its number, with a stream of its own, in which all work is done in order.
///
/// # Errors
/// There is no such GPU, or this program has no kernels for it.
pub fn open_gpu(index: usize) -> CandleResult<Device> {
    executor::open_gpu(index)
}

/// Bytes that are free on an accelerator; `None` for the CPU and where the driver does not tell.
pub fn free_bytes(device: &Device) -> Option<u64> {
    executor::free_bytes(device)
}

/// A list of indices on the device.
pub(crate) fn upload(values: &Arc<[u32]>, device: &Device) -> CandleResult<Tensor> {
    match recording::brought(values) {
        Some(tensor) => Ok(tensor),
        None => {
            let tensor = Tensor::from_slice(values, values.len(), device)?;
            Ok(recording::input(tensor, Some(values)))
        }
    }
}
