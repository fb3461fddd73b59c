//! The GPU side of [`crate::draw_on_device`].

use candle_core::{DType, Result as CandleResult, Tensor};

use super::launch::{Fresh, Launch};
use super::recording;
use crate::DeviceDrawSettings;

const DRAW_THREADS: usize = 512;

/// Draws one token per row of f32 logits `[S, V]`. Returns ids u32, and log-probabilities under the
/// sampling distribution and under the policy.
pub(crate) fn draw_tokens(
    logits: &Tensor,
    uniforms: &[f64],
    settings: DeviceDrawSettings,
) -> CandleResult<[Tensor; 3]> {
    let (rows, words) = logits.dims2()?;
    let device = logits.device();
    let inverse_temperature = match settings.temperature {
        0.0 => 0.0,
        temperature => 1.0 / temperature as f32,
    };
    let uniforms = recording::input(Tensor::from_slice(uniforms, rows, device)?, None);
    let tokens = Fresh::new(device, DType::U32, rows)?;
    let (sampling, policy) = (
        Fresh::new(device, DType::F32, rows)?,
        Fresh::new(device, DType::F32, rows)?,
    );
    Launch::new("draw_tokens", DType::F32, [rows, 1, 1], DRAW_THREADS)?
        .tensor(logits, DType::F32)?
        .tensor(&uniforms, DType::F64)?
        .fills(&tokens)?
        .fills(&sampling)?
        .fills(&policy)?
        .number(words)?
        .float(inverse_temperature)
        .double(settings.top_p)
        .number(settings.top_k)?
        .run(device)?;
    Ok([tokens.tensor(), sampling.tensor(), policy.tensor()])
}
