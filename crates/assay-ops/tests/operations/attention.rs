use std::sync::Arc;

use assay_ops::*;
use candle_core::{D, DType, Device, Tensor};

use crate::compare::*;

/// Dense attention with an explicit mask, composed of primitive operations.
fn dense(t: &[Tensor], layout: &AttentionLayout, shape: HeadShape) -> Tensor {
    let rows = layout.rows();
    let mut mask = vec![f64::NEG_INFINITY; rows * rows];
    for group in layout.groups() {
        let prompt = Branch::from(group.prompt.clone());
        for span in std::iter::once(&prompt).chain(&group.completions) {
            let before = span.shared.iter().chain([&group.prompt]).cloned().flatten();
            for row in span.own.clone() {
                for key in (span.own.start..row + 1).chain(before.clone()) {
                    if key <= row {
                        mask[row * rows + key] = 0.0;
                    }
                }
            }
        }
    }
    let mask = Tensor::from_vec(mask, (1, rows, rows), &Device::Cpu).unwrap();
    let heads = |x: &Tensor, count: usize| {
        x.reshape((rows, count, shape.head_dim))
            .unwrap()
            .transpose(0, 1)
            .unwrap()
    };
    let repeat = |x: Tensor| {
        let sharing = shape.heads / shape.kv_heads;
        let dims = (shape.kv_heads, sharing, rows, shape.head_dim);
        let x = x
            .contiguous()
            .unwrap()
            .unsqueeze(1)
            .unwrap()
            .broadcast_as(dims)
            .unwrap();
        x.reshape((shape.heads, rows, shape.head_dim)).unwrap()
    };
    let (q, k, v) = (
        heads(&t[0], shape.heads),
        heads(&t[1], shape.kv_heads),
        heads(&t[2], shape.kv_heads),
    );
    let (q, k, v) = (q.contiguous().unwrap(), repeat(k), repeat(v));
    let scores = (q
        .matmul(&k.transpose(1, 2).unwrap().contiguous().unwrap())
        .unwrap()
        / (shape.head_dim as f64).sqrt())
    .unwrap();
    let scores = scores.broadcast_add(&mask).unwrap();
    let e = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1).unwrap().detach())
        .unwrap()
        .exp()
        .unwrap();
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1).unwrap()).unwrap();
    p.matmul(&v)
        .unwrap()
        .transpose(0, 1)
        .unwrap()
        .reshape((rows, shape.query_width()))
        .unwrap()
}

/// Rows of each group's prompt and of its completions.
type Lengths<'a> = &'a [(usize, &'a [usize])];

/// A layout from lengths: a prompt and its completions per group.
pub(crate) fn layout(groups: Lengths<'_>) -> Arc<AttentionLayout> {
    let mut row = 0;
    let mut span = |len: usize| {
        row += len;
        row - len..row
    };
    let spans = groups.iter().map(|(prompt, completions)| GroupSpans {
        prompt: span(*prompt),
        completions: completions.iter().map(|&len| span(len).into()).collect(),
    });
    Arc::new(AttentionLayout::new(spans.collect()).unwrap())
}

#[test]
fn grouped_attention_agrees_with_dense_attention() {
    let cases: [(Lengths, HeadShape); 6] = [
        (
            &[(5, &[])],
            HeadShape {
                heads: 1,
                kv_heads: 1,
                head_dim: 4,
            },
        ),
        (
            &[(1, &[1])],
            HeadShape {
                heads: 2,
                kv_heads: 2,
                head_dim: 8,
            },
        ),
        (
            &[(7, &[3, 0, 1, 12]), (2, &[5]), (4, &[])],
            HeadShape {
                heads: 6,
                kv_heads: 2,
                head_dim: 8,
            },
        ),
        (
            &[(70, &[65, 1, 130])],
            HeadShape {
                heads: 3,
                kv_heads: 1,
                head_dim: 64,
            },
        ),
        (
            &[(64, &[64]), (129, &[33, 31])],
            HeadShape {
                heads: 4,
                kv_heads: 4,
                head_dim: 16,
            },
        ),
        (
            &[(33, &[17, 40])],
            HeadShape {
                heads: 4,
                kv_heads: 1,
                head_dim: 20,
            },
        ),
    ];
    for (groups, shape) in cases {
        let layout = layout(groups);
        let rows = layout.rows();
        let inputs = [
            (tensor(&[rows, shape.query_width()], 1) * 3.0).unwrap(),
            (tensor(&[rows, shape.kv_width()], 2) * 3.0).unwrap(),
            tensor(&[rows, shape.kv_width()], 3),
        ];
        let fused = |t: &[Tensor]| grouped_attention(&t[0], &t[1], &t[2], &layout, shape).unwrap();
        assert_agree(&inputs, &fused, &|t| dense(t, &layout, shape));
    }
}

#[test]
fn attention_survives_scores_that_would_overflow() {
    let shape = HeadShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
    };
    let q = Tensor::new(&[[1f32], [1000.0], [1000.0]], &Device::Cpu).unwrap();
    let k = Tensor::new(&[[-1000f32], [0.0], [1.0]], &Device::Cpu).unwrap();
    let v = Tensor::new(&[[1f32], [2.0], [3.0]], &Device::Cpu).unwrap();
    let y = grouped_attention(&q, &k, &v, &layout(&[(3, &[])]), shape).unwrap();
    assert_eq!(
        y.to_vec2::<f32>().unwrap(),
        vec![vec![1.0], vec![2.0], vec![3.0]]
    );
}

#[test]
fn cached_attention_gives_the_bits_of_packed_attention() {
    let shape = HeadShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
    };
    let layout = layout(&[(70, &[66, 3]), (5, &[2])]);
    let rows = layout.rows();
    let (q, k, v) = (
        (tensor(&[rows, shape.query_width()], 1) * 3.0).unwrap(),
        tensor(&[rows, shape.kv_width()], 2),
        tensor(&[rows, shape.kv_width()], 3),
    );
    let packed = grouped_attention(&q, &k, &v, &layout, shape).unwrap();
    let mut cache = KvCache::new(4, 80, shape.kv_width(), &Device::Cpu, DType::F32).unwrap();
    let sequences: Vec<_> = layout
        .groups()
        .iter()
        .flat_map(|group| {
            group
                .completions
                .iter()
                .map(|branch| (group.prompt.clone(), branch.own.clone()))
        })
        .collect();
    for t in 0..66 {
        let active: Vec<_> = sequences
            .iter()
            .enumerate()
            .filter(|(_, (_, own))| t < own.len())
            .collect();
        let index: Vec<u32> = active
            .iter()
            .map(|(_, (_, own))| (own.start + t) as u32)
            .collect();
        let index = Tensor::from_vec(index, active.len(), &Device::Cpu).unwrap();
        let pick = |x: &Tensor| x.index_select(&index, 0).unwrap();
        let cache_rows = active
            .iter()
            .map(|(i, (prompt, _))| CacheRow {
                prompt: prompt.clone(),
                slot: 3 - i,
                len: t + 1,
            })
            .collect();
        let cache_rows = CacheRows::new(cache_rows);
        cache.append(&pick(&k), &pick(&v), &cache_rows).unwrap();
        let found = cached_attention(
            &pick(&q),
            PromptKeyValues {
                keys: &k,
                values: &v,
            },
            &cache,
            &cache_rows,
            shape,
        )
        .unwrap();
        assert_eq!(bits(&found), bits(&pick(&packed)), "token {t}");
    }
}

#[test]
fn attention_bits_do_not_depend_on_the_group() {
    let shape = HeadShape {
        heads: 3,
        kv_heads: 1,
        head_dim: 64,
    };
    let (together, alone) = (
        layout(&[(9, &[4]), (70, &[20, 90, 7])]),
        layout(&[(70, &[90])]),
    );
    let make = |width: usize, seed: u64| tensor(&[together.rows(), width], seed);
    let (q, k, v) = (make(192, 1), make(64, 2), make(64, 3));
    let rows: Vec<u32> = (13..83).chain(103..193).collect();
    let rows = Tensor::from_vec(rows, 160, &Device::Cpu).unwrap();
    let pick = |x: &Tensor| x.index_select(&rows, 0).unwrap();
    let packed = grouped_attention(&q, &k, &v, &together, shape).unwrap();
    let single = grouped_attention(&pick(&q), &pick(&k), &pick(&v), &alone, shape).unwrap();
    assert_eq!(bits(&pick(&packed)), bits(&single));
    // Gradients at the completion's own queries, keys and values are its own too.
    let gradients = |inputs: &[Tensor], layout: &Arc<AttentionLayout>, seed: &Tensor| {
        let vars: Vec<_> = inputs
            .iter()
            .map(|t| candle_core::Var::from_tensor(t).unwrap())
            .collect();
        let y = grouped_attention(&vars[0], &vars[1], &vars[2], layout, shape).unwrap();
        let store = y.mul(seed).unwrap().sum_all().unwrap().backward().unwrap();
        vars.iter()
            .map(|v| store.get(v.as_tensor()).unwrap().clone())
            .collect::<Vec<_>>()
    };
    let seed = make(192, 4);
    let packed = gradients(&[q.clone(), k.clone(), v.clone()], &together, &seed);
    let single = gradients(&[pick(&q), pick(&k), pick(&v)], &alone, &pick(&seed));
    for (packed, single) in packed.iter().zip(&single) {
        let (packed, single) = (
            pick(packed).narrow(0, 70, 90).unwrap(),
            single.narrow(0, 70, 90).unwrap(),
        );
        assert_eq!(
            bits(&packed.contiguous().unwrap()),
            bits(&single.contiguous().unwrap())
        );
    }
    assert_eq!(packed[0].dtype(), DType::F32);
}

/// A random tree of completions: each begins with a part of an earlier one, or shares nothing.
fn tree(stream: &mut impl FnMut(usize) -> usize) -> GroupSpans {
    let prompt = 0..1 + stream(80);
    let mut row = prompt.end;
    let mut completions: Vec<Branch> = Vec::new();
    for _ in 0..1 + stream(5) {
        let mut shared = Vec::new();
        if !completions.is_empty() && stream(4) > 0 {
            let parent = &completions[stream(completions.len())];
            let mut left = stream(150);
            for rows in parent.shared.iter().chain([&parent.own]) {
                let taken = left.min(rows.len());
                if taken > 0 {
                    shared.push(rows.start..rows.start + taken);
                }
                left -= taken;
            }
        }
        let own = row..row + stream(100);
        row = own.end;
        completions.push(Branch { shared, own });
    }
    GroupSpans {
        prompt,
        completions,
    }
}

/// The rows of the tree in the order of a layout that shares nothing, and that layout.
fn flattened(tree: &GroupSpans) -> (Vec<u32>, Arc<AttentionLayout>) {
    let mut rows: Vec<usize> = tree.prompt.clone().collect();
    let mut lengths = Vec::new();
    for branch in &tree.completions {
        let before = rows.len();
        let all = branch.shared.iter().chain([&branch.own]);
        rows.extend(all.cloned().flatten());
        lengths.push(rows.len() - before);
    }
    let rows = rows.into_iter().map(|row| row as u32).collect();
    (rows, layout(&[(tree.prompt.len(), &lengths)]))
}

#[test]
fn trees_agree_with_their_flattened_traces() {
    let shape = HeadShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
    };
    let mut state = 7u64;
    let mut stream = move |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..12 {
        let spans = tree(&mut stream);
        let (rows, flat) = flattened(&spans);
        let layout = Arc::new(AttentionLayout::new(vec![spans]).unwrap());
        let index = Tensor::from_vec(rows.clone(), rows.len(), &Device::Cpu).unwrap();
        let inputs = [
            (tensor(&[layout.rows(), shape.query_width()], 1) * 3.0).unwrap(),
            (tensor(&[layout.rows(), shape.kv_width()], 2) * 3.0).unwrap(),
            tensor(&[layout.rows(), shape.kv_width()], 3),
        ];
        let pick = |t: &Tensor| t.index_select(&index, 0).unwrap();
        let packed =
            |t: &[Tensor]| pick(&grouped_attention(&t[0], &t[1], &t[2], &layout, shape).unwrap());
        let alone = |t: &[Tensor]| {
            grouped_attention(&pick(&t[0]), &pick(&t[1]), &pick(&t[2]), &flat, shape).unwrap()
        };
        assert_eq!(bits(&packed(&inputs)), bits(&alone(&inputs)));
        assert_agree(&inputs, &packed, &|t| pick(&dense(t, &layout, shape)));
    }
}

#[test]
fn rows_after_a_row_do_not_reach_it() {
    let shape = HeadShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
    };
    let layout = layout(&[(5, &[9])]);
    let (q, k, v) = (
        tensor(&[14, 16], 1),
        tensor(&[14, 8], 2),
        tensor(&[14, 8], 3),
    );
    let poisoned = |t: &Tensor| {
        let last = (t.narrow(0, 13, 1).unwrap() * f64::NAN).unwrap();
        Tensor::cat(&[t.narrow(0, 0, 13).unwrap(), last], 0).unwrap()
    };
    let right = grouped_attention(&q, &k, &v, &layout, shape).unwrap();
    let found =
        grouped_attention(&poisoned(&q), &poisoned(&k), &poisoned(&v), &layout, shape).unwrap();
    let rows = |t: &Tensor| t.narrow(0, 0, 13).unwrap().to_vec2::<f32>().unwrap();
    for (right, found) in rows(&right).concat().iter().zip(rows(&found).concat()) {
        assert!((right - found).abs() < 1e-6, "{right} {found}");
    }
}
