//! Reading tensors as f32 slices, and the checks of arguments that every operation shares.

use std::mem::MaybeUninit;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, Layout, Storage, Tensor};
use rayon::prelude::*;

use crate::OpsError;

/// Values that one task writes.
const ZEROS: usize = 1 << 18;

/// Returns `count` zeros.
///
/// All threads write them, because the system clears memory page by page when it is first written.
///
/// # Errors
/// [`OpsError::OutOfMemory`].
pub(crate) fn zeros(count: usize) -> Result<Vec<f32>, OpsError> {
    defaults(count)
}

/// Returns `count` default values of a plain type, written by all threads.
///
/// # Errors
/// [`OpsError::OutOfMemory`].
pub(crate) fn defaults<T: Copy + Default + Send + Sync>(count: usize) -> Result<Vec<T>, OpsError> {
    let mut values: Vec<T> = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| OpsError::OutOfMemory {
            bytes: count.saturating_mul(size_of::<T>()),
        })?;
    let fresh = &mut values.spare_capacity_mut()[..count];
    fresh
        .par_chunks_mut(ZEROS)
        .with_max_len(1)
        .for_each(|part| part.fill(MaybeUninit::new(T::default())));
    // SAFETY: there is room for `count` values, and the line above has written each of them.
    #[allow(unsafe_code)]
    unsafe {
        values.set_len(count);
    }
    Ok(values)
}

/// The values of a contiguous f32 tensor on the CPU, row-major, borrowed for as long as this lives.
pub(crate) struct Values<'t> {
    guard: Box<dyn Deref<Target = Storage> + 't>,
    start: usize,
    end: usize,
}

impl<'t> Values<'t> {
    /// Borrows the values of `tensor`.
    ///
    /// # Errors
    /// The tensor is not contiguous, not f32 or not on the CPU.
    pub(crate) fn of(tensor: &'t Tensor) -> candle_core::Result<Self> {
        let (guard, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a strided tensor has no contiguous values")
        };
        match &*guard {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self {
                guard: Box::new(guard),
                start,
                end,
            }),
            Storage::Cpu(other) => candle_core::bail!(
                "expected f32 values, found another type of {} values",
                storage_len(other)
            ),
            _ => candle_core::bail!(
                "this operation runs on the CPU only; move the tensor to the CPU"
            ),
        }
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.end],
            _ => &[],
        }
    }
}

/// The f32 slice of a storage given to a custom operation.
pub(crate) fn slice<'s>(
    storage: &'s CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'s [f32]> {
    let CpuStorage::F32(values) = storage else {
        candle_core::bail!(
            "expected f32 values, found another type of {} values",
            storage_len(storage)
        )
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a custom operation was given a strided tensor"),
    }
}

/// Returns whether activations may have this type on this device: f32 everywhere, bf16 only on a
/// GPU.
fn is_activation(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DType::F32 => true,
        DType::BF16 => crate::cuda::takes(tensor),
        _ => false,
    }
}

/// Checks that `tensor` holds activations (f32, bf16 on a GPU) of exactly the shape `expected`.
pub(crate) fn expect(
    operation: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    expected: &[usize],
) -> Result<(), OpsError> {
    if !is_activation(tensor) {
        return Err(OpsError::ElementType {
            operation,
            argument,
            found: tensor.dtype(),
        });
    }
    expect_shape(operation, argument, tensor, expected)
}

/// Checks that `tensor` is f32 of exactly the shape `expected`.
pub(crate) fn expect_f32(
    operation: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    expected: &[usize],
) -> Result<(), OpsError> {
    if tensor.dtype() != DType::F32 {
        return Err(OpsError::ElementType {
            operation,
            argument,
            found: tensor.dtype(),
        });
    }
    expect_shape(operation, argument, tensor, expected)
}

fn expect_shape(
    operation: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    expected: &[usize],
) -> Result<(), OpsError> {
    if tensor.dims() != expected {
        let found = tensor.dims().to_vec();
        return Err(OpsError::Shape {
            operation,
            argument,
            expected: format!("{expected:?}"),
            found,
        });
    }
    Ok(())
}

/// Rows and columns of a matrix argument: f32, bf16 on a GPU.
pub(crate) fn matrix_dims(
    operation: &'static str,
    argument: &'static str,
    tensor: &Tensor,
) -> Result<(usize, usize), OpsError> {
    if !is_activation(tensor) {
        return Err(OpsError::ElementType {
            operation,
            argument,
            found: tensor.dtype(),
        });
    }
    match *tensor.dims() {
        [rows, columns] => Ok((rows, columns)),
        ref dims => Err(OpsError::Shape {
            operation,
            argument,
            expected: "[rows, columns]".to_owned(),
            found: dims.to_vec(),
        }),
    }
}

fn storage_len(storage: &CpuStorage) -> usize {
    match storage {
        CpuStorage::U8(v) => v.len(),
        CpuStorage::U32(v) => v.len(),
        CpuStorage::I64(v) => v.len(),
        CpuStorage::BF16(v) => v.len(),
        CpuStorage::F16(v) => v.len(),
        CpuStorage::F64(v) => v.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_overwrite_old_memory() {
        for count in [0, 5, ZEROS, 2 * ZEROS + 3] {
            drop(vec![7f32; count]);
            let values = zeros(count).unwrap();
            assert_eq!(values.len(), count);
            assert!(values.iter().all(|value| value.to_bits() == 0));
        }
    }
}
