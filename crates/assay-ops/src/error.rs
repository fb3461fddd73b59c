//! The one error type of the crate.

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
    /// The tensor library failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

impl From<OpsError> for candle_core::Error {
    fn from(error: OpsError) -> Self {
        match error {
            OpsError::Tensor(inner) => inner,
            other => Self::wrap(other),
        }
    }
}
