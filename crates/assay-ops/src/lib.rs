//! Fused differentiable operations over candle tensors: f32 on the CPU, f32 or bf16 on an NVIDIA GPU (feature `cuda`).
//!
//! Decided here: which operations a transformer trained with adapters needs as one kernel each, with a hand-written
//! backward pass. Left out: models, losses, sampling.
//!
//! Every operation keeps three promises. A tracked input that is documented to receive a gradient receives one. A row's
//! result has the same bits whatever other rows are in the batch and however many threads run. Gradients of inputs that
//! are not tracked ([`candle_core::Tensor::track_op`]) are never computed.

mod attention_layout;
mod ceilings;
mod cpu;
mod cuda;
mod draw;
mod error;
mod heads;
mod matrix;
mod panel_matrix;
mod quantised;
mod threads;
mod values;

pub use attention_layout::{AttentionLayout, GroupSpans};
pub use ceilings::Ceilings;
pub use cpu::adamw::{AdamWSettings, adamw, adamw_on_device, squares_on_device};
pub use cpu::add::add;
pub use cpu::cached_attention::{CacheRow, CacheRows, KvCache, cached_attention};
pub use cpu::embedding::embedding;
pub use cpu::grouped_attention::grouped_attention;
pub use cpu::linear::{LaidOut, Lora, linear};
pub use cpu::reward_head::reward_head;
pub use cpu::rms_norm::rms_norm;
pub use cpu::rope::{RopeTable, rope};
pub use cpu::seed_gradient::seed_gradient;
pub use cpu::swiglu::swiglu;
pub use cpu::token_logprobs::{TokenLogprobs, token_logprobs};
pub use cuda::recording::{Recording, StepInput, record};
pub use cuda::{free_bytes, has_kernels, open_gpu};
pub use draw::{DeviceDraw, DrawSettings, DrawnTokens, draw_on_device, output_logits};
pub use error::{OpsError, is_out_of_memory};
pub use heads::HeadShape;
pub use matrix::Matrix;
pub use panel_matrix::PanelMatrix;
pub use quantised::QuantisedMatrix;
pub use threads::use_one_thread_pool;
