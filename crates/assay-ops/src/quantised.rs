//! Matrices in the block formats of GGUF files, stored as in the file and expanded a few rows at a
//! time.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, BlockQ8_1, BlockQ8K,
};
use candle_core::quantized::{GgmlDType, GgmlType};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::cuda::quantised::DeviceBlocks;
use crate::values::zeros;
use crate::{OpsError, cuda};

/// A frozen matrix `[out, in]` in a GGUF block format.
///
/// The blocks are the bytes of the file, row after row; every row is a whole number of blocks.
#[derive(Clone)]
pub struct QuantisedMatrix {
    dtype: GgmlDType,
    out: usize,
    input: usize,
    row_bytes: usize,
    bytes: Arc<[u8]>,
    /// The blocks on another device. `bytes` is empty then.
    placed: Option<(DeviceBlocks, DType)>,
    /// Type to which products on the CPU round both factors.
    factors: DType,
}

impl std::fmt::Debug for QuantisedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "QuantisedMatrix({:?}, [{}, {}])",
            self.dtype, self.out, self.input
        )
    }
}

impl QuantisedMatrix {
    /// Makes a matrix `[out, input]` from the bytes of its blocks.
    ///
    /// # Errors
    /// [`OpsError::PartialBlock`] when a row is not a whole number of blocks, [`OpsError::Blocks`]
    /// when the number of bytes is wrong for the shape.
    pub fn new(
        dtype: GgmlDType,
        out: usize,
        input: usize,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<Self, OpsError> {
        let (bytes, block) = (bytes.into(), dtype.block_size());
        if !input.is_multiple_of(block) {
            return Err(OpsError::PartialBlock {
                dtype,
                input,
                block,
            });
        }
        let row_bytes = input / block * dtype.type_size();
        let expected = row_bytes.saturating_mul(out);
        if bytes.len() != expected {
            return Err(OpsError::Blocks {
                dtype,
                out,
                input,
                expected,
                found: bytes.len(),
            });
        }
        Ok(Self {
            dtype,
            out,
            input,
            row_bytes,
            bytes,
            placed: None,
            factors: DType::F32,
        })
    }

    /// Returns the same blocks for products on the CPU that round both factors to `dtype`, F32 or
    /// BF16.
    pub fn with_factors(&self, dtype: DType) -> Self {
        Self {
            factors: dtype,
            ..self.clone()
        }
    }

    pub(crate) fn factors(&self) -> DType {
        self.factors
    }

    /// Copies the blocks to a device, where each operation expands them to `dtype`.
    ///
    /// # Errors
    /// A block format without a kernel, too little memory on the device.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Self, OpsError> {
        cuda::quantised::name(self.dtype)?;
        let bytes = Tensor::from_slice(&self.bytes, self.bytes.len(), device)?;
        let blocks = DeviceBlocks {
            format: self.dtype,
            out: self.out,
            input: self.input,
            bytes,
        };
        Ok(Self {
            bytes: Arc::from([]),
            placed: Some((blocks, dtype)),
            ..self.clone()
        })
    }

    pub(crate) fn placement(&self) -> (Device, DType) {
        match &self.placed {
            Some((blocks, dtype)) => (blocks.bytes.device().clone(), *dtype),
            None => (Device::Cpu, DType::F32),
        }
    }

    pub(crate) fn on_device(&self) -> Option<&DeviceBlocks> {
        self.placed.as_ref().map(|(blocks, _)| blocks)
    }

    /// Rows on the device, in the type that the model has there.
    pub(crate) fn device_rows(&self, ids: &Arc<[u32]>) -> candle_core::Result<Tensor> {
        match &self.placed {
            Some((blocks, dtype)) => cuda::quantised::embedding(blocks, ids, *dtype),
            None => candle_core::bail!("the blocks are not on a device"),
        }
    }

    /// The block format.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// Rows.
    pub fn out_features(&self) -> usize {
        self.out
    }

    /// Columns.
    pub fn in_features(&self) -> usize {
        self.input
    }

    /// Size of the blocks in bytes.
    pub fn size_in_bytes(&self) -> usize {
        self.out * self.row_bytes
    }

    /// Expands rows into `values`, row-major f32 of `rows.len() * in_features` values.
    ///
    /// # Errors
    /// Rows outside the matrix, or a slice of another length.
    pub fn dequantise_rows(&self, rows: Range<usize>, values: &mut [f32]) -> Result<(), OpsError> {
        self.expect_host("dequantise")?;
        if rows.end > self.out || rows.start > rows.end {
            let (row, index) = (rows.start, rows.end);
            return Err(OpsError::Index {
                operation: "dequantise",
                index_of: "row",
                row,
                index,
                limit: self.out + 1,
            });
        }
        let expected = rows.len() * self.input;
        if values.len() != expected {
            let found = values.len();
            return Err(OpsError::Length {
                operation: "dequantise",
                argument: "values",
                expected,
                found,
            });
        }
        expand(
            self.dtype,
            &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes],
            values,
        );
        Ok(())
    }

    /// Expands the whole matrix, `[out, in]`: f32 on the CPU, in parallel; on a device in the type
    /// it was placed with.
    ///
    /// # Errors
    /// [`OpsError::OutOfMemory`] or a failure of the device.
    pub fn dequantise(&self) -> Result<Tensor, OpsError> {
        if let Some((blocks, dtype)) = &self.placed {
            return Ok(cuda::quantised::expanded(blocks, None, *dtype)?);
        }
        let mut values = zeros(self.out * self.input)?;
        if !values.is_empty() {
            let rows = values
                .par_chunks_mut(self.input)
                .zip(self.bytes.par_chunks(self.row_bytes));
            rows.for_each(|(row, blocks)| expand(self.dtype, blocks, row));
        }
        Ok(Tensor::from_vec(
            values,
            (self.out, self.input),
            &Device::Cpu,
        )?)
    }

    /// Returns the matrix of the given rows, in the given order, in the same format.
    ///
    /// # Errors
    /// [`OpsError::Index`] for a row outside the matrix.
    pub fn select_rows(&self, rows: &[usize]) -> Result<Self, OpsError> {
        self.expect_host("select_rows")?;
        let mut bytes = Vec::with_capacity(rows.len() * self.row_bytes);
        for (row, &index) in rows.iter().enumerate() {
            if index >= self.out {
                return Err(OpsError::Index {
                    operation: "select_rows",
                    index_of: "row",
                    row,
                    index,
                    limit: self.out,
                });
            }
            bytes.extend_from_slice(
                &self.bytes[index * self.row_bytes..(index + 1) * self.row_bytes],
            );
        }
        let selected = Self::new(self.dtype, rows.len(), self.input, bytes)?;
        Ok(selected.with_factors(self.factors))
    }
}

impl QuantisedMatrix {
    fn expect_host(&self, operation: &'static str) -> Result<(), OpsError> {
        match self.placed {
            None => Ok(()),
            Some(_) => Err(OpsError::Elsewhere {
                operation,
                argument: "blocks",
            }),
        }
    }
}

/// Expands whole blocks of `dtype` into f32.
fn expand(dtype: GgmlDType, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        GgmlDType::F32 => expand_plain(bytes, values, f32::from_le_bytes),
        GgmlDType::F16 => expand_plain(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
        GgmlDType::BF16 => expand_plain(bytes, values, |b| bf16::from_le_bytes(b).to_f32()),
        GgmlDType::Q4_0 => expand_blocks::<BlockQ4_0>(bytes, values),
        GgmlDType::Q4_1 => expand_blocks::<BlockQ4_1>(bytes, values),
        GgmlDType::Q5_0 => expand_blocks::<BlockQ5_0>(bytes, values),
        GgmlDType::Q5_1 => expand_blocks::<BlockQ5_1>(bytes, values),
        GgmlDType::Q8_0 => expand_blocks::<BlockQ8_0>(bytes, values),
        GgmlDType::Q8_1 => expand_blocks::<BlockQ8_1>(bytes, values),
        GgmlDType::Q2K => expand_blocks::<BlockQ2K>(bytes, values),
        GgmlDType::Q3K => expand_blocks::<BlockQ3K>(bytes, values),
        GgmlDType::Q4K => expand_blocks::<BlockQ4K>(bytes, values),
        GgmlDType::Q5K => expand_blocks::<BlockQ5K>(bytes, values),
        GgmlDType::Q6K => expand_blocks::<BlockQ6K>(bytes, values),
        GgmlDType::Q8K => expand_blocks::<BlockQ8K>(bytes, values),
    }
}

fn expand_plain<const N: usize>(bytes: &[u8], values: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = read(*bytes);
    }
}

/// Expands blocks one at a time through an aligned copy, so the bytes may start anywhere.
#[allow(unsafe_code)]
fn expand_blocks<B: GgmlType>(bytes: &[u8], values: &mut [f32]) {
    let blocks = bytes
        .chunks_exact(size_of::<B>())
        .zip(values.chunks_exact_mut(B::BLCK_SIZE));
    for (bytes, values) in blocks {
        // SAFETY: the block types are plain integers and half floats without padding (their sizes
        // are asserted where they are defined), every bit pattern is a value of them, and `bytes`
        // has exactly the size of one block.
        let block = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<B>()) };
        B::to_float(std::slice::from_ref(&block), values);
    }
}
