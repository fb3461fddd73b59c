//! Which rows of a packed batch attend to which.

use std::ops::Range;

use candle_core::DeviceLocation;

use crate::OpsError;
use crate::cuda::grouped_attention::Tiles;
use crate::cuda::memo::Memo;

/// Rows of one group: a prompt, then the rows of its completions without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpans {
    /// Rows of the prompt; never empty.
    pub prompt: Range<usize>,
    /// The completions; together with the prompt they form a tree.
    pub completions: Vec<Branch>,
}

/// Rows of one completion after its prompt: first shared rows, then its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// Rows of earlier completions of the group with which this one begins, in order. Each range
    /// starts where the own rows of an earlier completion start.
    pub shared: Vec<Range<usize>>,
    /// Rows of this completion alone; may be empty.
    pub own: Range<usize>,
}

impl From<Range<usize>> for Branch {
    /// A completion that shares only its prompt.
    fn from(own: Range<usize>) -> Self {
        let shared = Vec::new();
        Self { shared, own }
    }
}

impl Branch {
    /// Number of shared rows.
    pub(crate) fn shared_len(&self) -> usize {
        self.shared.iter().map(ExactSizeIterator::len).sum()
    }
}

/// The validated spans of a packed batch.
///
/// A prompt's row attends to the prompt's rows up to itself. A completion's own row attends to its
/// whole prompt, to the rows that the completion shares and to its own rows up to itself, and to no
/// other rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionLayout {
    groups: Vec<GroupSpans>,
    rows: usize,
    /// Tiles for a device and a tile size, computed on first use.
    pub(crate) tiles: Memo<(DeviceLocation, usize), Tiles>,
}

impl AttentionLayout {
    /// Checks that the groups cover rows 0, 1, 2, ... without gaps or overlaps, and that shared
    /// rows are those of earlier completions.
    ///
    /// # Errors
    /// [`OpsError::EmptyPrompt`], [`OpsError::Spans`], [`OpsError::SharedRows`].
    pub fn new(groups: Vec<GroupSpans>) -> Result<Self, OpsError> {
        let mut rows = 0;
        for (group, spans) in groups.iter().enumerate() {
            if spans.prompt.is_empty() {
                return Err(OpsError::EmptyPrompt { group });
            }
            rows = follow(group, "prompt", &spans.prompt, rows)?;
            for (index, branch) in spans.completions.iter().enumerate() {
                check_shared(group, branch, &spans.completions[..index])?;
                rows = follow(group, "completion", &branch.own, rows)?;
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

/// Checks that each shared range starts with an earlier completion's own rows and lies before those
/// of `branch`, and that the ranges ascend.
fn check_shared(group: usize, branch: &Branch, earlier: &[Branch]) -> Result<(), OpsError> {
    let mut after = 0;
    for shared in &branch.shared {
        let starts = earlier.iter().any(|other| other.own.start == shared.start);
        let fits = !shared.is_empty() && after <= shared.start && shared.end <= branch.own.start;
        if !(starts && fits) {
            let found = shared.clone();
            return Err(OpsError::SharedRows { group, found });
        }
        after = shared.end;
    }
    Ok(())
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
            completions: completions.into_iter().map(Branch::from).collect(),
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

    #[test]
    fn shared_rows_are_those_of_earlier_completions() {
        let layout = |shared: Vec<Range<usize>>| {
            let mut completions: Vec<Branch> = vec![(2..6).into(), (6..9).into()];
            completions[1].shared = vec![2..4];
            completions.push(Branch { shared, own: 9..10 });
            AttentionLayout::new(vec![GroupSpans {
                prompt: 0..2,
                completions,
            }])
        };
        assert!(layout(vec![2..4, 6..9]).is_ok());
        for wrong in [
            vec![3..4],
            vec![2..2],
            vec![2..10],
            vec![0..2],
            vec![9..10],
            vec![6..9, 2..4],
        ] {
            let refused = layout(wrong);
            assert!(matches!(refused, Err(OpsError::SharedRows { .. })));
        }
    }
}
