//! Sums in a fixed order that vectorises: sixteen running sums, then a tree over them.

use super::exponential::exp;

const LANES: usize = 16;

/// The sum of the values.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += value;
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    tree(lanes)
}

/// The inner product of two slices of one length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(y[lane], lanes[lane]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = x.mul_add(y, *lane);
    }
    tree(lanes)
}

/// Sum of e^(x - shift), and sum of e^(x - shift) (x - shift).
#[inline(always)]
pub(crate) fn shifted_exponentials(values: &[f32], shift: f32) -> (f32, f32) {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let (mut sums, mut weighted) = ([0f32; LANES], [0f32; LANES]);
    for block in blocks {
        for lane in 0..LANES {
            let x = block[lane] - shift;
            let e = exp(x);
            sums[lane] += e;
            weighted[lane] = e.mul_add(x, weighted[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        let x = value - shift;
        let e = exp(x);
        sums[lane] += e;
        weighted[lane] = e.mul_add(x, weighted[lane]);
    }
    (tree(sums), tree(weighted))
}

/// The largest value; negative infinity for an empty slice.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = if value > *lane { value } else { *lane };
    }
    lanes.into_iter().fold(
        f32::NEG_INFINITY,
        |most, value| if value > most { value } else { most },
    )
}

#[inline(always)]
fn tree(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_of_every_short_length() {
        for len in 0..70 {
            let values: Vec<f32> = (0..len).map(|i| (i % 7) as f32 - 2.0).collect();
            let expected: f32 = values.iter().sum();
            assert_eq!(sum(&values), expected);
            assert_eq!(
                dot(&values, &values),
                values.iter().map(|v| v * v).sum::<f32>()
            );
            assert_eq!(
                max(&values),
                values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            );
        }
    }
}
