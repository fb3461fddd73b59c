//! Fused differentiable operations over candle tensors: f32 on the CPU, f32 or bf16 on an NVIDIA GPU (feature `cuda`).
//!
//! Decided here: which operations a transformer trained with adapters needs as one kernel each, with a hand-written
//! backward pass. Left out: models, losses, sampling.
//!
//! Every operation keeps three promises. A tracked input that is documented to receive a gradient receives one. A row's
//! result has the same bits whatever other rows are in the batch and however many threads run. Gradients of inputs that
//! are not tracked ([`candle_core::Tensor::track_op`]) are never computed.

mod adamw;
mod add;
mod attention;
mod ceilings;
mod device;
mod draw;
mod embedding;
mod error;
mod kernels;
mod linear;
mod logprobs;
mod matrix;
mod norm;
mod panel_matrix;
mod quantised;
mod reward_head;
mod rope;
mod seed;
mod swiglu;
mod threads;
mod values;

pub use adamw::{AdamWSettings, adamw, adamw_on_device, squares_on_device};
pub use add::add;
pub use attention::{
    AttentionLayout, CacheRow, CacheRows, GroupSpans, HeadShape, KvCache, cached_attention,
    grouped_attention,
};
pub use ceilings::Ceilings;
pub use device::recording::{Recording, StepInput, record};
pub use device::{free_bytes, has_kernels, open_gpu};
pub use draw::{DeviceDraw, DrawSettings, DrawnTokens, draw_on_device, output_logits};
pub use embedding::embedding;
pub use error::{OpsError, is_out_of_memory};
pub use linear::{LaidOut, Lora, linear};
pub use logprobs::{TokenLogprobs, token_logprobs};
pub use matrix::Matrix;
pub use norm::rms_norm;
pub use panel_matrix::PanelMatrix;
pub use quantised::QuantisedMatrix;
pub use reward_head::reward_head;
pub use rope::{RopeTable, rope};
pub use seed::seed_gradient;
pub use swiglu::swiglu;
pub use threads::use_one_thread_pool;
