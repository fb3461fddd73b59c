use std::ops::Range;
use std::sync::Arc;

use super::Kind::Activation;
use super::*;
use crate::cuda::grouped_attention::{self as kernels, TileLists};
use crate::{AttentionLayout, GroupSpans, HeadShape};

/// Rows of a prompt and of its completions.
type Lengths<'l> = (usize, &'l [usize]);

/// A layout of prompts and completions by their lengths.
fn layout(groups: &[Lengths<'_>]) -> Arc<AttentionLayout> {
    let mut row = 0;
    let mut take = |count: usize| -> Range<usize> {
        row += count;
        row - count..row
    };
    let spans = groups.iter().map(|(prompt, completions)| GroupSpans {
        prompt: take(*prompt),
        completions: completions.iter().map(|&count| take(count)).collect(),
    });
    Arc::new(AttentionLayout::new(spans.collect()).unwrap())
}

#[test]
fn grouped_attention() {
    let cases: [(&[Lengths<'_>], [usize; 3]); 5] = [
        (&[(1, &[])], [1, 1, 4]),
        (&[(3, &[2, 0, 1]), (5, &[])], [2, 1, 8]),
        (&[(40, &[37, 1, 50]), (2, &[33])], [6, 2, 24]),
        (&[(35, &[20, 40])], [2, 2, 64]),
        (&[(19, &[18, 3])], [2, 1, 100]),
    ];
    for (groups, [heads, kv_heads, head_dim]) in cases {
        let layout = layout(groups);
        let shape = HeadShape {
            heads,
            kv_heads,
            head_dim,
        };
        let rows = layout.rows();
        let inputs = [
            (
                (tensor(&[rows, shape.query_width()], 1) * 3.0).unwrap(),
                Activation,
            ),
            (tensor(&[rows, shape.kv_width()], 2), Activation),
            (tensor(&[rows, shape.kv_width()], 3), Activation),
        ];
        assert_agree(
            &format!("grouped_attention {groups:?} {shape:?}"),
            &inputs,
            &|t| kernels::grouped_attention([&t[0], &t[1], &t[2]], &layout, shape).unwrap(),
            &|t| crate::grouped_attention(&t[0], &t[1], &t[2], &layout, shape).unwrap(),
        );
    }
}

#[test]
fn heads_beyond_the_kernels_are_refused() {
    if places().is_empty() {
        return;
    }
    let (x, shape) = (
        tensor(&[1, 129], 1),
        HeadShape {
            heads: 1,
            kv_heads: 1,
            head_dim: 129,
        },
    );
    let refused = kernels::grouped_attention([&x, &x, &x], &layout(&[(1, &[])]), shape);
    assert!(refused.unwrap_err().to_string().contains("129"));
}

#[test]
fn tiles_cover_every_attending_pair_once() {
    let layout = layout(&[(40, &[37, 0, 600]), (2, &[33])]);
    let rows = layout.rows();
    let mut expected = vec![false; rows * rows];
    for group in layout.groups() {
        for spans in std::iter::once(&group.prompt).chain(&group.completions) {
            for row in spans.clone() {
                let own = spans.start..row + 1;
                let prompt = if spans == &group.prompt {
                    0..0
                } else {
                    group.prompt.clone()
                };
                prompt
                    .chain(own)
                    .for_each(|key| expected[row * rows + key] = true);
            }
        }
    }
    let lists = TileLists::new(&layout, 32);
    let mut by_query = vec![0; rows * rows];
    for [first, count, prompt, prompt_end, own] in
        lists.queries.iter().map(|t| t.map(|n| n as usize))
    {
        for row in first..first + count {
            (prompt..prompt_end)
                .chain(own..row + 1)
                .for_each(|key| by_query[row * rows + key] += 1);
        }
    }
    let mut by_key = vec![0; rows * rows];
    for [first, count, first_item, end] in lists.keys.iter().map(|t| t.map(|n| n as usize)) {
        for item in &lists.items[first_item..end] {
            assert_eq!([item[0], item[1]].map(|n| n as usize), [first, count]);
            for row in item[2]..item[3] {
                let seen = (first..first + count).filter(|&key| key <= row as usize);
                seen.for_each(|key| by_key[row as usize * rows + key] += 1);
            }
        }
    }
    let expected: Vec<i32> = expected.into_iter().map(i32::from).collect();
    assert!(by_query == expected && by_key == expected);
    assert!(lists.items.iter().all(|item| item[3] - item[2] <= 512));
}
