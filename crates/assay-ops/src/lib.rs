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
mod attention_layout;
mod cached_attention;
mod ceilings;
mod cpu;
mod cuda;
mod draw;
mod embedding;
mod error;
mod grouped_attention;
mod heads;
mod linear;
mod matrix;
mod panel_matrix;
mod quantised;
mod reward_head;
mod rms_norm;
mod rope;
mod seed_gradient;
mod swiglu;
mod threads;
mod token_logprobs;
mod values;

pub use adamw::{
    AdamWSettings, AdamWTensors, AdamWUpdate, MomentSlices, adamw, adamw_on_device,
    squares_on_device,
};
pub use add::add;
pub use attention_layout::{AttentionLayout, GroupSpans};
pub use cached_attention::{CacheRow, CacheRows, KvCache, PromptKeyValues, cached_attention};
pub use ceilings::Ceilings;
pub use cuda::recording::{Recording, StepInput, record};
pub use cuda::{free_bytes, has_kernels, open_gpu};
pub use draw::{DeviceDraw, DrawSettings, DrawnTokens, draw_on_device, output_logits};
pub use embedding::embedding;
pub use error::{OpsError, is_out_of_memory};
pub use grouped_attention::grouped_attention;
pub use heads::HeadShape;
pub use linear::{LaidOut, Lora, linear};
pub use matrix::Matrix;
pub use panel_matrix::PanelMatrix;
pub use quantised::QuantisedMatrix;
pub use reward_head::reward_head;
pub use rms_norm::rms_norm;
pub use rope::{RopeTable, rope};
pub use seed_gradient::seed_gradient;
pub use swiglu::swiglu;
pub use threads::use_one_thread_pool;
pub use token_logprobs::{TokenLogprobs, token_logprobs};
