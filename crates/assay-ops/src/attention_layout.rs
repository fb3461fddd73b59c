//! Which rows of a packed batch attend to which.

use std::ops::Range;

use candle_core::DeviceLocation;

use crate::OpsError;
use crate::cuda::grouped_attention::Tiles;
use crate::cuda::memo::Memo;

/// Rows of one group: a prompt, then its completions without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpans {
    /// Rows of the prompt; never empty.
    pub prompt: Range<usize>,
    /// Rows of each completion; may be empty.
    pub completions: Vec<Range<usize>>,
}

/// The validated spans of a packed batch.
///
/// A prompt's row attends to the prompt's rows up to itself; a completion's row attends to its whole prompt and to the
/// completion's rows up to itself, and to no other rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionLayout {
    groups: Vec<GroupSpans>,
    rows: usize,
    /// Tiles for a device and a tile size, computed on first use.
    pub(crate) tiles: Memo<(DeviceLocation, usize), Tiles>,
}

impl AttentionLayout {
    /// Checks that the groups cover rows 0, 1, 2, ... without gaps or overlaps.
    ///
    /// # Errors
    /// [`OpsError::EmptyPrompt`], [`OpsError::Spans`].
    pub fn new(groups: Vec<GroupSpans>) -> Result<Self, OpsError> {
        let mut rows = 0;
        for (group, spans) in groups.iter().enumerate() {
            if spans.prompt.is_empty() {
                return Err(OpsError::EmptyPrompt { group });
            }
            rows = follow(group, "prompt", &spans.prompt, rows)?;
            for completion in &spans.completions {
                rows = follow(group, "completion", completion, rows)?;
            }
        }
        Ok(Self {
            groups,
            rows,
            tiles: Memo::default(),
        })
    }

    /// The groups in row order.
    pub fn groups(&self) -> &[GroupSpans] {
        &self.groups
    }

    /// Number of rows in the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Checks that `span` starts at `expected` and returns its end.
fn follow(
    group: usize,
    part: &'static str,
    span: &Range<usize>,
    expected: usize,
) -> Result<usize, OpsError> {
    if span.start != expected || span.end < span.start {
        return Err(OpsError::Spans {
            group,
            part,
            found: span.clone(),
            expected,
        });
    }
    Ok(span.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_overlaps_and_empty_prompts_are_errors() {
        let group = |prompt: Range<usize>, completions: Vec<Range<usize>>| GroupSpans {
            prompt,
            completions,
        };
        assert_eq!(
            AttentionLayout::new(vec![group(0..3, vec![3..5, 5..5, 5..6])])
                .unwrap()
                .rows(),
            6
        );
        assert!(matches!(
            AttentionLayout::new(vec![group(0..0, vec![])]),
            Err(OpsError::EmptyPrompt { group: 0 })
        ));
        let gap = AttentionLayout::new(vec![group(0..3, vec![3..3, 4..5])]);
        assert!(matches!(
            gap,
            Err(OpsError::Spans {
                group: 0,
                part: "completion",
                expected: 3,
                ..
            })
        ));
        let overlap = AttentionLayout::new(vec![group(0..3, vec![]), group(2..4, vec![])]);
        assert!(matches!(
            overlap,
            Err(OpsError::Spans {
                group: 1,
                part: "prompt",
                expected: 3,
                ..
            })
        ));
    }
}
