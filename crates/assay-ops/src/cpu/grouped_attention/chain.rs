//! The keys that a completion attends to after its prompt, in order: shared rows, then its own.
//!
//! Keys are split into blocks by their position in this order, not by their row. So a completion
//! that shares rows has the bits of the same completion alone. Rows of a block that are not
//! adjacent are copied first.

use std::ops::Range;

use crate::Branch;
use crate::cpu::routines::softmax::KeyValues;

/// Copied keys and values of one block, `[rows, head_dim]` each.
#[derive(Default)]
pub(super) struct Gathered {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Pieces of rows at the given places of a completion's shared and own rows.
pub(super) fn pieces(branch: &Branch, places: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (start, end) = (places.start, places.end);
    let mut before = 0;
    let all = branch.shared.iter().chain(std::iter::once(&branch.own));
    let cut = all.map(move |rows| {
        let (first, last) = (start.max(before), end.min(before + rows.len()));
        let piece = first.saturating_sub(before)..last.saturating_sub(before);
        before += rows.len();
        rows.start + piece.start..rows.start + piece.end
    });
    cut.filter(|piece| !piece.is_empty())
}

impl Gathered {
    /// Keys and values at these places, starting at row 0 of the result.
    pub(super) fn block<'a>(
        &'a mut self,
        source: KeyValues<'a>,
        dim: usize,
        branch: &Branch,
        places: &Range<usize>,
    ) -> KeyValues<'a> {
        let mut rows = pieces(branch, places);
        if let (Some(only), None) = (rows.next(), rows.next()) {
            return source.rows_from(only.start);
        }
        self.keys.clear();
        self.values.clear();
        for row in pieces(branch, places).flatten() {
            let at = row * source.stride..row * source.stride + dim;
            self.keys.extend_from_slice(&source.keys[at.clone()]);
            self.values.extend_from_slice(&source.values[at]);
        }
        KeyValues {
            keys: &self.keys,
            values: &self.values,
            stride: dim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_shared_rows_first() {
        let branch = Branch {
            shared: vec![10..13, 20..22],
            own: 30..40,
        };
        let found = |places| pieces(&branch, &places).collect::<Vec<_>>();
        assert_eq!(found(0..3), [10..13]);
        assert_eq!(found(1..4), [11..13, 20..21]);
        assert_eq!(found(2..7), [12..13, 20..22, 30..32]);
        assert_eq!(found(6..15), [31..40]);
    }
}
