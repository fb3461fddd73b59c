//! Fused differentiable operations over candle tensors: f32 on the CPU, f32 or bf16 on an NVIDIA
//! GPU (feature `cuda`).
//!
//! The backward passes are written by hand. Models, losses and sampling are in other crates.
//!
//! Every operation guarantees three properties:
//! - A tracked input that is documented to receive a gradient receives one.
//! - The bits of a row's result depend neither on the other rows of the batch nor on the number of
//!   threads.
//! - Gradients of inputs that are not tracked ([`candle_core::Tensor::track_op`]) are never
//!   computed.
//!
//! # Where an operation is
//! An operation has one name and up to four files. For [`linear()`]:
//! - `src/linear.rs`: the public function, its documentation and the checks of its arguments.
//! - `src/cpu/linear.rs`: forward and backward pass on the CPU.
//! - `src/cuda/linear.rs`: forward and backward pass on a GPU.
//! - `src/cuda/kernels/linear.cu`: its kernels.
//!
//! A *kernel* is a function of a `.cu` file. A *routine* is a function on slices in
//! `src/cpu/routines`, compiled for several instruction sets. On the CPU, operations are built from
//! routines; on a GPU, from kernels and cuBLAS products.
//!
//! # Example
//! ```
//! use assay_ops::{Lora, Matrix, linear, seed_gradient};
//! use candle_core::{Device, Tensor, Var};
//!
//! # fn main() -> Result<(), assay_ops::OpsError> {
//! let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
//! let weight = Matrix::Dense(Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?);
//! let a = Var::new(&[[1f32, 1.0]], &Device::Cpu)?;
//! let b = Var::new(&[[0.5f32]], &Device::Cpu)?;
//! let lora = Lora {
//!     a: &a,
//!     b: &b,
//!     scale: 2.0,
//!     laid_out: None,
//! };
//! // 1 * 3 + 2 * 4 + 2 * (1 + 2) * 0.5
//! let y = linear(&x, &weight, None, Some(lora))?;
//! assert_eq!(y.to_vec2::<f32>()?, [[14.0]]);
//! // The gradient of y with respect to B is 2 * (1 + 2).
//! let gradients = seed_gradient(&y, &y.ones_like()?)?.backward()?;
//! assert_eq!(gradients.get(&b).map(|g| g.to_vec2::<f32>()).transpose()?, Some(vec![vec![6.0]]));
//! # Ok(())
//! # }
//! ```

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
pub use attention_layout::{AttentionLayout, Branch, GroupSpans};
pub use cached_attention::{CacheRow, CacheRows, KvCache, PromptKeyValues, cached_attention};
pub use ceilings::Ceilings;
pub use cpu::routines::product::multiplies_bf16_natively;
pub use cuda::recording::{Recording, StepInput, record};
pub use cuda::{free_bytes, has_kernels, open_gpu};
pub use draw::{DeviceDraw, DeviceDrawSettings, DrawnTokens, draw_on_device, output_logits};
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
