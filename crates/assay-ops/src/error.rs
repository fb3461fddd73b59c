//! The error type of the crate.

use std::io::{self, ErrorKind};
use std::ops::Range;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpsError {
    /// An argument's shape does not fit the operation.
    #[error("{operation}: {argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// The expected shape, in words.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// The element type of an argument is not f32 (on a GPU: neither f32 nor bf16).
    #[error("{operation}: {argument} has element type {found:?}, expected F32")]
    ElementType {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// The element type found.
        found: DType,
    },
    /// A list has the wrong number of entries.
    #[error("{operation}: {argument} has {found} entries, expected {expected}")]
    Length {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// The expected number of entries.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// An index is out of range.
    #[error("{operation}: {index_of} {index} at row {row} is outside 0..{limit}")]
    Index {
        /// The operation that failed.
        operation: &'static str,
        /// What the index selects (token id, position, slot).
        index_of: &'static str,
        /// Row that holds the index.
        row: usize,
        /// The index.
        index: usize,
        /// First index that is not allowed.
        limit: usize,
    },
    /// Attention spans leave a gap, overlap or are out of order.
    #[error(
        "attention layout: the {part} of group {group} is rows {found:?}, expected to start at row {expected}"
    )]
    Spans {
        /// Index of the group.
        group: usize,
        /// Which part of the group.
        part: &'static str,
        /// The span found.
        found: Range<usize>,
        /// Row at which it had to start.
        expected: usize,
    },
    /// Shared rows that do not start with an earlier completion of the group, or overlap.
    #[error(
        "attention layout: a completion of group {group} shares rows {found:?}, which are not the beginning of earlier completions"
    )]
    SharedRows {
        /// Index of the group.
        group: usize,
        /// The shared rows.
        found: Range<usize>,
    },
    /// A group's prompt has no rows.
    #[error("attention layout: the prompt of group {group} is empty")]
    EmptyPrompt {
        /// Index of the group.
        group: usize,
    },
    /// A row of queries has no keys.
    #[error("cached attention: row {row} has no prompt and no tokens in the cache")]
    NoKeys {
        /// The row.
        row: usize,
    },
    /// The number of query heads is not a multiple of the number of key-value heads.
    #[error(
        "attention: {heads} query heads do not divide into {kv_heads} key-value heads of size {head_dim}"
    )]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key-value heads.
        kv_heads: usize,
        /// Values per head.
        head_dim: usize,
    },
    /// The number of bytes does not match the shape of a quantised matrix.
    #[error("quantised matrix {dtype:?} [{out}, {input}]: {found} bytes, expected {expected}")]
    Blocks {
        /// Block type.
        dtype: GgmlDType,
        /// Rows.
        out: usize,
        /// Columns.
        input: usize,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A row of a quantised matrix is not a whole number of blocks.
    #[error("quantised matrix {dtype:?}: rows of {input} values are not whole blocks of {block}")]
    PartialBlock {
        /// Block type.
        dtype: GgmlDType,
        /// Columns.
        input: usize,
        /// Values per block.
        block: usize,
    },
    /// An input is tracked, but the operation computes no gradient for it.
    #[error("{operation}: {argument} is tracked, but no gradient reaches it")]
    Untracked {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
    },
    /// An argument is on the wrong device.
    #[error("{operation}: {argument} is not on the device of the values; make it for that device")]
    Elsewhere {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
    },
    /// The system refused to allocate memory.
    #[error("out of memory: {bytes} bytes were refused")]
    OutOfMemory {
        /// Number of bytes requested.
        bytes: usize,
    },
    /// The tensor library failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

impl OpsError {
    /// Returns whether an allocation failed, on the CPU or on a device.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            Self::Tensor(error) => is_out_of_memory(error),
            _ => false,
        }
    }
}

/// [`OpsError::is_out_of_memory`] of an error of the tensor library.
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    use candle_core::Error;
    match error {
        Error::Io(inner) => inner.kind() == ErrorKind::OutOfMemory,
        // The driver's and cuBLAS's codes are available as text only.
        Error::Cuda(inner) => {
            let message = format!("{inner} {inner:?}");
            message.contains("CUDA_ERROR_OUT_OF_MEMORY")
                || message.contains("CUBLAS_STATUS_ALLOC_FAILED")
        }
        Error::Context { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::WithBacktrace { inner, .. } => is_out_of_memory(inner),
        _ => false,
    }
}

impl From<OpsError> for candle_core::Error {
    fn from(error: OpsError) -> Self {
        match error {
            OpsError::Tensor(inner) => inner,
            // `is_out_of_memory` finds this kind after the error has passed through the tensor
            // library.
            OpsError::OutOfMemory { .. } => io::Error::new(ErrorKind::OutOfMemory, error).into(),
            other => Self::wrap(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_survives_the_tensor_library() {
        let refused = |bytes| OpsError::OutOfMemory { bytes };
        let carried = candle_core::Error::from(refused(12)).context("in a graph");
        assert!(is_out_of_memory(&carried));
        assert!(OpsError::from(carried).is_out_of_memory());
        assert!(refused(12).is_out_of_memory());
        let driver = |code: &str| {
            let message = format!("DriverError({code}, \"...\")");
            candle_core::Error::Cuda(Box::new(io::Error::other(message)))
        };
        assert!(is_out_of_memory(&driver("CUDA_ERROR_OUT_OF_MEMORY")));
        assert!(!is_out_of_memory(&driver("CUDA_ERROR_ILLEGAL_ADDRESS")));
        assert!(!is_out_of_memory(&io::Error::other("full").into()));
    }

    #[test]
    fn impossible_allocations_are_errors() {
        let error = crate::values::zeros(usize::MAX / 8).unwrap_err();
        let bytes = usize::MAX / 8 * 4;
        assert!(matches!(error, OpsError::OutOfMemory { bytes: asked } if asked == bytes));
    }
}
