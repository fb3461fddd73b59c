//! Measured limits of the machine: the rates of a large matrix product and of copying memory.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::{Matrix, OpsError, linear};

/// Bytes of one buffer of the copy, much larger than the caches.
const COPY_BYTES: usize = 1 << 27;
/// Rows, width and outputs of the matrix product.
const SIDE: usize = 2048;
/// As [`SIDE`], for a GPU.
const DEVICE_SIDE: usize = 8192;
const DEVICE_COPY_BYTES: usize = 1 << 30;
const REPEATS: usize = 5;

/// Measured rates, each the best of five runs.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Multiplications and additions per second of a large matrix product, with all threads of a
    /// CPU.
    pub product_operations_per_second: f64,
    /// Bytes read and written per second by copying memory, with all threads of a CPU.
    pub copy_bytes_per_second: f64,
}

impl Ceilings {
    /// Measures both rates on `device`, the product with factors of type `dtype`. Takes about a
    /// second on a CPU.
    ///
    /// # Errors
    /// An operation fails.
    pub fn measure(device: &Device, dtype: DType) -> Result<Self, OpsError> {
        Ok(Self {
            product_operations_per_second: product(device, dtype)?,
            copy_bytes_per_second: match device.is_cpu() {
                true => copy(),
                false => copy_on_device(device)?,
            },
        })
    }
}

fn best(mut run: impl FnMut() -> Result<(), OpsError>) -> Result<f64, OpsError> {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn product(device: &Device, dtype: DType) -> Result<f64, OpsError> {
    let side = if device.is_cpu() { SIDE } else { DEVICE_SIDE };
    // On a CPU activations are f32, and bf16 is a type of frozen matrices.
    let activations = if device.is_cpu() { DType::F32 } else { dtype };
    let x = Tensor::ones((side, side), activations, device)?;
    let weight = match (device.is_cpu(), dtype) {
        (true, DType::BF16) => Matrix::Dense(x.clone()).in_panels(dtype)?,
        _ => Matrix::Dense(x.clone()),
    };
    let seconds = best(|| {
        black_box(linear(&x, &weight, None, None)?);
        Ok(device.synchronize()?)
    })?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}

fn copy_on_device(device: &Device) -> Result<f64, OpsError> {
    let source = Tensor::zeros(DEVICE_COPY_BYTES, DType::U8, device)?;
    let seconds = best(|| {
        black_box(source.copy()?);
        Ok(device.synchronize()?)
    })?;
    Ok(2.0 * DEVICE_COPY_BYTES as f64 / seconds)
}

fn copy() -> f64 {
    let source = vec![1_u8; COPY_BYTES];
    let mut target = vec![0_u8; COPY_BYTES];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = COPY_BYTES.div_ceil(threads);
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in source.chunks(part).zip(target.chunks_mut(part)) {
                scope.spawn(move || to.copy_from_slice(black_box(from)));
            }
        });
        best = best.min(started.elapsed().as_secs_f64());
        black_box(&target);
    }
    2.0 * COPY_BYTES as f64 / best
}
