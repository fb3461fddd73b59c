//! The CPU side of [`crate::token_logprobs()`].

use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result as CandleResult, Shape, Tensor,
};
use rayon::prelude::*;

use crate::cpu::routines::product::{
    Output, Pair, Panels, Part, Right, Term, View, Write, multiply_terms,
};
use crate::cpu::routines::{dispatched, exponential::exp, reduce};
use crate::values::{Values, slice, zeros};
use crate::{Matrix, OpsError, TokenLogprobs};

const NAME: &str = "token_logprobs";
/// Rows of one parallel task: whole register tiles.
const ROWS: usize = 56;
/// Words whose logits a task holds at a time; whole depth blocks of the matrix product.
const WORDS: usize = 1024;

/// hidden `[N, d]` f32, contiguous; `targets` are words of the output matrix.
pub(crate) fn token_logprobs(
    hidden: &Tensor,
    output: &Matrix,
    targets: &Arc<[u32]>,
) -> Result<TokenLogprobs, OpsError> {
    let saved = Arc::new(OnceLock::new());
    let tracked = match output {
        Matrix::Dense(table) if table.track_op() => Some(table.contiguous()?),
        _ => None,
    };
    let operation = Logprobs {
        output: output.clone(),
        targets: targets.clone(),
        prepares_gradient: tracked.is_none() && hidden.track_op(),
        saved: saved.clone(),
    };
    let logprobs = match tracked {
        Some(table) => hidden.apply_op2(&table, operation)?,
        None => hidden.apply_op1(operation)?,
    };
    let entropies = saved
        .get()
        .map(|saved: &Saved| saved.entropies.clone())
        .unwrap_or_default();
    Ok(TokenLogprobs {
        logprobs,
        entropies: Tensor::from_vec(entropies, targets.len(), &Device::Cpu)?,
    })
}

struct Saved {
    log_normalisers: Vec<f32>,
    entropies: Vec<f32>,
    /// d logprob / d hidden, `[N, d]`; empty unless [`Logprobs::prepares_gradient`].
    prepared: Vec<f32>,
}

struct Logprobs {
    output: Matrix,
    targets: Arc<[u32]>,
    /// Whether the forward pass computes d logprob / d hidden.
    prepares_gradient: bool,
    saved: Arc<OnceLock<Saved>>,
}

impl Logprobs {
    fn forward(&self, hidden: &[f32]) -> CandleResult<Vec<f32>> {
        let (_, width) = self.output.dims()?;
        let mut states = vec![State::default(); self.targets.len()];
        let mut prepared = zeros(if self.prepares_gradient {
            hidden.len()
        } else {
            0
        })?;
        let mut target_words = zeros(prepared.len())?;
        let fold = Fold {
            hidden,
            targets: &self.targets,
            width,
        };
        each_words(&self.output, |words| {
            fold.words(words, &mut states, &mut prepared);
            copy_targets(words, width, &self.targets, &mut target_words);
        })?;
        let rows = prepared.chunks_exact_mut(width.max(1));
        for ((gradient, word), state) in rows
            .zip(target_words.chunks_exact(width.max(1)))
            .zip(&states)
        {
            // W[target] - sum e^(logit - largest) W / sum e^(logit - largest). With bf16 factors
            // the sum leaves out the target: where its probability is near 1, rounding its weight
            // would hide the rest of the gradient.
            let scale = 1.0 / state.sum;
            let weight = match self.output.factors() {
                DType::BF16 => 1.0 - exp(state.target - state.largest) * scale,
                _ => 1.0,
            };
            for (gradient, word) in gradient.iter_mut().zip(word) {
                *gradient = weight * word - *gradient * scale;
            }
        }
        let _ = self.saved.set(Saved {
            log_normalisers: states.iter().map(State::log_normaliser).collect(),
            entropies: states.iter().map(State::entropy).collect(),
            prepared,
        });
        Ok(states
            .iter()
            .map(|state| state.target - state.log_normaliser())
            .collect())
    }

    fn saved(&self) -> CandleResult<&Saved> {
        match self.saved.get() {
            Some(saved) => Ok(saved),
            None => candle_core::bail!("{NAME}: backward before forward"),
        }
    }

    /// Gradient at hidden from the gradient that the forward pass prepared.
    fn scaled_gradient(&self, grad: &[f32]) -> CandleResult<Vec<f32>> {
        let (_, width) = self.output.dims()?;
        let mut dh = self.saved()?.prepared.clone();
        for (row, &grad) in dh.chunks_exact_mut(width.max(1)).zip(grad) {
            row.iter_mut().for_each(|value| *value *= grad);
        }
        Ok(dh)
    }

    /// Gradients at hidden and at the output matrix `[V, d]`. Recomputes the logits.
    fn backward(&self, hidden: &[f32], grad: &[f32], dw: &mut [f32]) -> CandleResult<Vec<f32>> {
        let saved = self.saved()?;
        let (_, width) = self.output.dims()?;
        let mut dh = zeros(hidden.len())?;
        let pass = Backward {
            hidden,
            grad,
            log_normalisers: &saved.log_normalisers,
            targets: &self.targets,
            width,
        };
        let mut scratch = Vec::new();
        each_words(&self.output, |words| {
            let at = words.first * width;
            let dw = &mut dw[at..at + words.count * width];
            pass.words(words, &mut dh, dw, &mut scratch);
        })?;
        Ok(dh)
    }
}

impl CustomOp1 for Logprobs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, hidden: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let logprobs = self.forward(slice(hidden, layout)?)?;
        Ok((CpuStorage::F32(logprobs), Shape::from(self.targets.len())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        _logprobs: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dh = self.scaled_gradient(&Values::of(&grad)?)?;
        Ok(Some(Tensor::from_vec(dh, hidden.shape(), hidden.device())?))
    }
}

impl CustomOp2 for Logprobs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        layout: &Layout,
        _output: &CpuStorage,
        _output_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        CustomOp1::cpu_fwd(self, hidden, layout)
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        output: &Tensor,
        _logprobs: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut dw = zeros(output.elem_count())?;
        let dh = self.backward(&Values::of(hidden)?, &Values::of(&grad)?, &mut dw)?;
        let dh = Tensor::from_vec(dh, hidden.shape(), hidden.device())?;
        Ok((
            Some(dh),
            Some(Tensor::from_vec(dw, output.shape(), output.device())?),
        ))
    }
}

/// The rows of an output matrix that belong to one block of words.
#[derive(Clone, Copy)]
struct Words<'a> {
    first: usize,
    count: usize,
    /// Their transpose `[d, count]`, as it is stored.
    turned: Right<'a>,
    /// Type of the factors of products with it.
    factors: DType,
}

/// Calls `visit` with [`WORDS`] words at a time, in order.
fn each_words(output: &Matrix, mut visit: impl FnMut(Words<'_>)) -> CandleResult<()> {
    let (limit, width) = output.dims()?;
    if let Matrix::Panels(panels) = output {
        for first in (0..limit).step_by(WORDS) {
            let count = WORDS.min(limit - first);
            let turned = panels.turned_columns(first, count);
            visit(Words {
                first,
                count,
                turned,
                factors: output.factors(),
            });
        }
        return Ok(());
    }
    output.each_rows(|start, values| {
        for (block, values) in values.chunks(WORDS * width.max(1)).enumerate() {
            visit(Words {
                first: start + block * WORDS,
                count: values.len() / width.max(1),
                turned: View::rows(values, width).transposed().into(),
                factors: output.factors(),
            });
        }
        Ok(())
    })
}

/// A packed right factor, in the type of the output matrix.
enum Packed {
    F32(Panels),
    Bf16(Panels<Pair>),
}

/// Some columns of a packed right factor.
#[derive(Clone, Copy)]
enum PackedPart<'a> {
    F32(Part<'a>),
    Bf16(Part<'a, Pair>),
}

impl Words<'_> {
    /// The transpose `[d, count]` in panels; `packed` stores it if the matrix was not packed
    /// before.
    fn forward<'p>(&'p self, width: usize, packed: &'p mut Option<Packed>) -> PackedPart<'p> {
        match self.turned {
            Right::Panels(part) => PackedPart::F32(part),
            Right::Pairs(part) => PackedPart::Bf16(part),
            unpacked => packed
                .insert(self.pack(unpacked, [width, self.count]))
                .all(),
        }
    }

    /// The rows `[count, d]`, packed.
    fn back(&self, width: usize) -> Packed {
        self.pack(self.turned.transposed(), [self.count, width])
    }

    fn pack(&self, right: Right<'_>, dims: [usize; 2]) -> Packed {
        match self.factors {
            DType::BF16 => Packed::Bf16(Panels::pairs_of(right, dims)),
            _ => {
                let mut packed = Panels::default();
                packed.pack(right, dims);
                Packed::F32(packed)
            }
        }
    }
}

impl Packed {
    fn all(&self) -> PackedPart<'_> {
        match self {
            Self::F32(panels) => PackedPart::F32(panels.all()),
            Self::Bf16(panels) => PackedPart::Bf16(panels.all()),
        }
    }
}

impl PackedPart<'_> {
    /// c = a `[rows, depth]` times this part, or added to it; bf16 parts round a.
    fn multiply(&self, a: View<'_>, dims: [usize; 2], c: Output<'_>, write: Write) {
        match self {
            Self::F32(part) => part.multiply(a, dims[0], c, write),
            Self::Bf16(part) => part.multiply(a, dims, c, write),
        }
    }

    fn is_bf16(&self) -> bool {
        matches!(self, Self::Bf16(_))
    }
}

/// Running sums of one row over the words so far.
#[derive(Clone, Copy)]
struct State {
    /// Largest logit.
    largest: f32,
    /// Sum of e^(logit - largest).
    sum: f32,
    /// Sum of e^(logit - largest) (logit - largest).
    weighted: f32,
    /// The target's logit.
    target: f32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            largest: f32::NEG_INFINITY,
            sum: 0.0,
            weighted: 0.0,
            target: f32::NEG_INFINITY,
        }
    }
}

impl State {
    fn log_normaliser(&self) -> f32 {
        self.largest + self.sum.ln()
    }

    /// -sum p log p = log(sum) - weighted / sum.
    fn entropy(&self) -> f32 {
        self.sum.ln() - self.weighted / self.sum
    }
}

/// Inputs of the forward pass for all rows.
struct Fold<'a> {
    hidden: &'a [f32],
    targets: &'a [u32],
    width: usize,
}

impl Fold<'_> {
    /// Folds the logits of one block of words into every row's state, and their weights times their
    /// words into `prepared` (`[N, d]`, or empty), both relative to the row's largest logit so far.
    fn words(&self, words: Words<'_>, states: &mut [State], prepared: &mut [f32]) {
        let (count, width) = (words.count, self.width);
        let mut packed = None;
        let packed = words.forward(width, &mut packed);
        let back = (!prepared.is_empty()).then(|| words.back(width));
        let task =
            |task: usize, logits: &mut Vec<f32>, states: &mut [State], prepared: &mut [f32]| {
                let hidden = View::rows(&self.hidden[task * ROWS * width..], width);
                logits.resize(ROWS * count, 0f32);
                let dims = [states.len(), width];
                packed.multiply(hidden, dims, Output::rows(logits, count), Write::Set);
                let rows = states.iter_mut().zip(logits.chunks_exact_mut(count));
                for (row, (state, logits)) in rows.enumerate() {
                    let before = state.largest;
                    fold_row(logits, state);
                    let target =
                        (self.targets[task * ROWS + row] as usize).checked_sub(words.first);
                    let target = target.filter(|&target| target < count);
                    if let Some(target) = target {
                        state.target = logits[target];
                    }
                    if back.is_some() {
                        // Before a row's first block there is nothing to rescale.
                        if before.is_finite() && before < state.largest {
                            let keep = exp(before - state.largest);
                            let gradient = &mut prepared[row * width..(row + 1) * width];
                            gradient.iter_mut().for_each(|value| *value *= keep);
                        }
                        softmax_gradient(logits, state.largest, -1.0);
                        if let (true, Some(target)) = (packed.is_bf16(), target) {
                            logits[target] = 0.0;
                        }
                    }
                }
                if let Some(back) = &back {
                    let (weights, dims) = (View::rows(logits, count), [states.len(), count]);
                    let prepared = Output::rows(prepared, width);
                    back.all().multiply(weights, dims, prepared, Write::Add);
                }
            };
        let rows = states.par_chunks_mut(ROWS).enumerate().with_max_len(1);
        if prepared.is_empty() {
            rows.for_each_init(Vec::new, |logits, (i, states)| {
                task(i, logits, states, &mut []);
            });
        } else {
            let rows = rows.zip(prepared.par_chunks_mut(ROWS * width));
            rows.for_each_init(Vec::new, |logits, ((i, states), prepared)| {
                task(i, logits, states, prepared);
            });
        }
    }
}

/// Copies the words of the targets in this block into `rows` (`[N, d]`, or empty).
fn copy_targets(words: Words<'_>, width: usize, targets: &[u32], rows: &mut [f32]) {
    for (row, &target) in rows.chunks_exact_mut(width.max(1)).zip(targets) {
        let word = (target as usize).checked_sub(words.first);
        if let Some(word) = word.filter(|&word| word < words.count) {
            words.turned.column(word, row);
        }
    }
}

dispatched! {
    fn fold_row(logits: &[f32], state: &mut State) {
        let largest = reduce::max(logits).max(state.largest);
        // A row's first block rescales sums that are zero.
        let shift = if state.largest == f32::NEG_INFINITY { 0.0 } else { state.largest - largest };
        let keep = exp(shift);
        let (sum, weighted) = reduce::shifted_exponentials(logits, largest);
        state.weighted = (state.sum.mul_add(shift, state.weighted)).mul_add(keep, weighted);
        state.sum = state.sum.mul_add(keep, sum);
        state.largest = largest;
    }
}

/// Inputs of the backward pass for all rows.
struct Backward<'a> {
    hidden: &'a [f32],
    grad: &'a [f32],
    log_normalisers: &'a [f32],
    targets: &'a [u32],
    width: usize,
}

impl Backward<'_> {
    /// Adds to dh, and sets dw, for one block of words: with G = grad (onehot - softmax), dh += G W
    /// and dw = G^T hidden.
    fn words(&self, words: Words<'_>, dh: &mut [f32], dw: &mut [f32], kept: &mut Vec<f32>) {
        let (first, count, width) = (words.first, words.count, self.width);
        let mut packed = None;
        let (forward, back) = (words.forward(width, &mut packed), words.back(width));
        kept.resize(self.targets.len() * count, 0.0);
        let task = |(task, (dh, logits)): (usize, (&mut [f32], &mut [f32]))| {
            let rows = task * ROWS..self.targets.len().min((task + 1) * ROWS);
            let hidden = View::rows(&self.hidden[rows.start * width..], width);
            let dims = [rows.len(), width];
            forward.multiply(hidden, dims, Output::rows(logits, count), Write::Set);
            for (row, logits) in rows.clone().zip(logits.chunks_exact_mut(count)) {
                softmax_gradient(logits, self.log_normalisers[row], self.grad[row]);
                let target = (self.targets[row] as usize)
                    .checked_sub(first)
                    .and_then(|i| logits.get_mut(i));
                if let Some(value) = target {
                    *value += self.grad[row];
                }
            }
            let (gradient, dims) = (View::rows(logits, count), [rows.len(), count]);
            back.all()
                .multiply(gradient, dims, Output::rows(dh, width), Write::Add);
        };
        dh.par_chunks_mut(ROWS * width.max(1))
            .zip(kept.par_chunks_mut(ROWS * count))
            .enumerate()
            .with_max_len(1)
            .for_each(task);
        let term = Term {
            a: View::rows(kept, count).transposed(),
            b: View::rows(self.hidden, width).into(),
            depth: self.targets.len(),
        };
        multiply_terms([count, width], &[term], Output::rows(dw, width), Write::Set);
    }
}

dispatched! {
    /// Logits to -grad * e^(logit - log_normaliser): with a row's log normaliser, -grad times the
    /// probabilities.
    fn softmax_gradient(logits: &mut [f32], log_normaliser: f32, grad: f32) {
        logits.iter_mut().for_each(|logit| *logit = -grad * exp(*logit - log_normaliser));
    }
}
