//! Operations on a GPU: `x.rs` holds the forward and backward pass of the operation `x`,
//! `kernels/x.cu` its kernels.
//!
//! The files of this folder build operations from kernels and matrix products. The module
//! `executor` launches them, with two implementations: CUDA, and for tests an emulator that runs
//! the same kernel sources on the CPU. So everything in this folder is also tested on machines
//! without a GPU.
//!
//! Activations and matrices are f32 or bf16. Vectors, adapters, logits, log-probabilities and
//! optimiser state are f32. Every sum is f32 or wider, in an order that does not depend on timing,
//! so results repeat to the bit on one device.

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
#[cfg(test)]
mod tests;
pub(crate) mod token_logprobs;

use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor};

/// Returns whether operations on this tensor run here, not in [`crate::cpu`].
pub(crate) fn takes(tensor: &Tensor) -> bool {
    has_kernels(tensor.device())
}

/// Returns whether operations on this device run as kernels, not as the CPU's routines.
pub fn has_kernels(device: &Device) -> bool {
    !device.is_cpu() || cfg!(feature = "emulator")
}

/// Opens a GPU by its number, with its own stream that runs all work in order.
///
/// # Errors
/// The GPU does not exist, or this program was built without kernels for it.
pub fn open_gpu(index: usize) -> CandleResult<Device> {
    executor::open_gpu(index)
}

/// Returns the number of free bytes on a GPU; `None` for the CPU or if the driver does not report
/// it.
pub fn free_bytes(device: &Device) -> Option<u64> {
    executor::free_bytes(device)
}

/// Copies a list of indices to the device.
pub(crate) fn upload(values: &Arc<[u32]>, device: &Device) -> CandleResult<Tensor> {
    match recording::brought(values) {
        Some(tensor) => Ok(tensor),
        None => {
            let tensor = Tensor::from_slice(values, values.len(), device)?;
            Ok(recording::input(tensor, Some(values)))
        }
    }
}
