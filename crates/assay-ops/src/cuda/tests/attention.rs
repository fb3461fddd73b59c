use std::ops::Range;
use std::sync::Arc;

use super::Kind::Activation;
use super::*;
use crate::cuda::grouped_attention::{self as kernels, TileLists};
use crate::{AttentionLayout, Branch, GroupSpans, HeadShape};

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
        completions: completions
            .iter()
            .map(|&count| take(count).into())
            .collect(),
    });
    Arc::new(AttentionLayout::new(spans.collect()).unwrap())
}

/// A group whose completions share rows: two branch from the first, one from the second of those.
fn tree() -> GroupSpans {
    let branch = |shared: &[Range<usize>], own: Range<usize>| Branch {
        shared: shared.to_vec(),
        own,
    };
    GroupSpans {
        prompt: 0..35,
        completions: vec![
            branch(&[], 35..85),
            branch(&[35..45], 85..105),
            branch(&[35..80], 105..108),
            branch(&[35..45, 85..104], 108..148),
            branch(&[], 148..150),
        ],
    }
}

#[test]
fn grouped_attention() {
    let trees = Arc::new(AttentionLayout::new(vec![tree()]).unwrap());
    let cases: [(Arc<AttentionLayout>, [usize; 3]); 7] = [
        (layout(&[(1, &[])]), [1, 1, 4]),
        (layout(&[(3, &[2, 0, 1]), (5, &[])]), [2, 1, 8]),
        (layout(&[(40, &[37, 1, 50]), (2, &[33])]), [6, 2, 24]),
        (layout(&[(35, &[20, 40])]), [2, 2, 64]),
        (layout(&[(19, &[18, 3])]), [2, 1, 100]),
        (trees.clone(), [4, 2, 16]),
        (trees, [2, 1, 128]),
    ];
    for (layout, [heads, kv_heads, head_dim]) in cases {
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
            &format!("grouped_attention {:?} {shape:?}", layout.groups()),
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
    check_tiles(&layout(&[(40, &[37, 0, 600]), (2, &[33])]));
    check_tiles(&AttentionLayout::new(vec![tree()]).unwrap());
}

/// Asserts that every pair of a row and a key that it attends to occurs once in the tiles of
/// queries and once in those of keys.
fn check_tiles(layout: &AttentionLayout) {
    let rows = layout.rows();
    let lists = TileLists::new(layout, 32);
    let mut by_query = vec![0; rows * rows];
    for tile in &lists.queries {
        let [first, count, range, range_end, own] = tile.map(|n| n as usize);
        let before = lists.ranges[range..range_end].iter();
        let before = before.flat_map(|range| range[0] as usize..range[1] as usize);
        for row in first..first + count {
            let keys = before.clone().chain(own..row + 1);
            keys.for_each(|key| by_query[row * rows + key] += 1);
        }
    }
    let mut by_key = vec![0; rows * rows];
    for [first, count, first_item, end] in lists.keys.iter().map(|t| t.map(|n| n as usize)) {
        for item in &lists.items[first_item..end] {
            assert!(item[0] as usize == first && item[1] as usize <= count);
            for row in item[2]..item[3] {
                let keys = first..first + item[1] as usize;
                let seen = keys.filter(|&key| key <= row as usize);
                seen.for_each(|key| by_key[row as usize * rows + key] += 1);
            }
        }
    }
    let expected = attending_pairs(layout);
    assert!(by_query == expected && by_key == expected);
    assert!(lists.items.iter().all(|item| item[3] - item[2] <= 512));
}

/// `[row, key]` flattened: 1 where the row attends to the key.
fn attending_pairs(layout: &AttentionLayout) -> Vec<i32> {
    let rows = layout.rows();
    let mut pairs = vec![0; rows * rows];
    for group in layout.groups() {
        let prompt = (Branch::from(group.prompt.clone()), 0..0);
        let after = |branch: &Branch| (branch.clone(), group.prompt.clone());
        for (span, prompt) in std::iter::once(prompt).chain(group.completions.iter().map(after)) {
            for row in span.own.clone() {
                let own = span.own.start..row + 1;
                let keys = span.shared.iter().chain([&prompt, &own]).cloned().flatten();
                keys.for_each(|key| pairs[row * rows + key] = 1);
            }
        }
    }
    pairs
}
