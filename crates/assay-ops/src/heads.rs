//! Heads of attention.

use candle_core::Tensor;

use crate::OpsError;
use crate::values::expect;

/// Number of heads and their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Width of queries and results, heads * head_dim.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of keys and values, kv_heads * head_dim.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a key-value head.
    pub(crate) fn sharing(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The factor of scores, 1 / sqrt(head_dim).
    pub(crate) fn score_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn check(&self) -> Result<(), OpsError> {
        let Self {
            heads,
            kv_heads,
            head_dim,
        } = *self;
        if heads == 0 || kv_heads == 0 || head_dim == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(OpsError::Heads {
                heads,
                kv_heads,
                head_dim,
            });
        }
        Ok(())
    }
}

/// Checks q, k and v of `query_rows` and `key_rows` rows.
pub(crate) fn check_inputs(
    operation: &'static str,
    inputs: [&Tensor; 3],
    rows: [usize; 2],
    shape: HeadShape,
) -> Result<(), OpsError> {
    shape.check()?;
    let [q, k, v] = inputs;
    expect(operation, "q", q, &[rows[0], shape.query_width()])?;
    expect(operation, "k", k, &[rows[1], shape.kv_width()])?;
    expect(operation, "v", v, &[rows[1], shape.kv_width()])
}
