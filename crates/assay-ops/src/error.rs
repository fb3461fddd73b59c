//! The one error type of the crate.

use std::io::{self, ErrorKind};
use std::ops::Range;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

/// What an operation refused or failed at.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// An argument's shape does not fit the operation.
    #[error("{operation}: {argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that refused.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// The expected shape, in words.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// An argument's element type is not f32 (on a GPU: not one of f32 and bf16, where both are taken).
    #[error("{operation}: {argument} has element type {found:?}, expected F32")]
    ElementType {
        /// The operation that refused.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// The element type found.
        found: DType,
    },
    /// A list has another length than the rows it describes.
    #[error("{operation}: {argument} has {found} entries, expected {expected}")]
    Length {
        /// The operation that refused.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
        /// The expected number of entries.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// An index points outside what it indexes.
    #[error("{operation}: {what} {index} at row {row} is outside 0..{limit}")]
    Index {
        /// The operation that refused.
        operation: &'static str,
        /// What the index names (token id, position, slot).
        what: &'static str,
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
    /// A group's prompt has no rows.
    #[error("attention layout: the prompt of group {group} is empty")]
    EmptyPrompt {
        /// Index of the group.
        group: usize,
    },
    /// A row of queries has nothing to attend to.
    #[error("cached attention: row {row} has no prompt and no tokens in the cache")]
    NoKeys {
        /// The row.
        row: usize,
    },
    /// Head counts that do not divide.
    #[error(
        "attention: {heads} query heads do not divide into {kv_heads} key-value heads of size {head_dim}"
    )]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key-value heads.
        kv_heads: usize,
        /// Values a head.
        head_dim: usize,
    },
    /// Bytes that do not hold the blocks of a quantised matrix.
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
        /// Values a block.
        block: usize,
    },
    /// A tracked input that has no gradient in this operation.
    #[error("{operation}: {argument} is tracked, but no gradient reaches it")]
    Untracked {
        /// The operation that refused.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
    },
    /// An argument is on another device than the one it works with.
    #[error("{operation}: {argument} is not on the device of the values; make it for that device")]
    Elsewhere {
        /// The operation that refused.
        operation: &'static str,
        /// Name of the argument.
        argument: &'static str,
    },
    /// The system has no memory for a tensor.
    #[error("out of memory: {bytes} bytes were refused")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The tensor library failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

impl OpsError {
    /// Whether memory was refused, on the CPU or on a device.
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
        // The driver's and cuBLAS's codes come as text only.
        Error::Cuda(inner) => {
            let told = format!("{inner} {inner:?}");
            told.contains("CUDA_ERROR_OUT_OF_MEMORY") || told.contains("CUBLAS_STATUS_ALLOC_FAILED")
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
            // Found again by `is_out_of_memory` after the tensor library has carried it.
            OpsError::OutOfMemory { .. } => io::Error::new(ErrorKind::OutOfMemory, error).into(),
            other => Self::wrap(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_refused_is_known_wherever_the_error_has_been() {
        let refused = |bytes| OpsError::OutOfMemory { bytes };
        let carried = candle_core::Error::from(refused(12)).context("in a graph");
        assert!(is_out_of_memory(&carried));
        assert!(OpsError::from(carried).is_out_of_memory());
        assert!(refused(12).is_out_of_memory());
        let driver = |code: &str| {
            let told = format!("DriverError({code}, \"...\")");
            candle_core::Error::Cuda(Box::new(io::Error::other(told)))
        };
        assert!(is_out_of_memory(&driver("CUDA_ERROR_OUT_OF_MEMORY")));
        assert!(!is_out_of_memory(&driver("CUDA_ERROR_ILLEGAL_ADDRESS")));
        assert!(!is_out_of_memory(&io::Error::other("full").into()));
    }

    #[test]
    fn more_than_there_is_is_refused() {
        let error = crate::values::zeros(usize::MAX / 8).unwrap_err();
        let bytes = usize::MAX / 8 * 4;
        assert!(matches!(error, OpsError::OutOfMemory { bytes: asked } if asked == bytes));
    }
}
