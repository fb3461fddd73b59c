//! Token log-probabilities from hidden states without the matrix of all logits.

use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result as CandleResult, Shape, Tensor,
};
use rayon::prelude::*;

use crate::cpu::routines::product::{Output, Panels, Part, Right, Term, View, Write, multiply_terms};
use crate::cpu::routines::{dispatched, exponential::exp, reduce};
use crate::values::{Values, matrix_dims, slice, zeros};
use crate::{Matrix, OpsError, cuda};

const NAME: &str = "token_logprobs";
/// Rows of one parallel task: whole register tiles.
const ROWS: usize = 56;
/// Words whose logits exist at one time, a task; whole depth blocks of the matrix product.
const WORDS: usize = 1024;

/// Log-probabilities of chosen tokens and entropies of the whole distributions.
#[derive(Clone, Debug)]
pub struct TokenLogprobs {
    /// `log softmax(hidden_i W^T)[target_i]`, `[N]` f32, nats; gradients flow.
    pub logprobs: Tensor,
    /// Entropy of softmax(hidden_i W^T), `[N]` f32, nats; no gradient.
    pub entropies: Tensor,
}

/// Log-probabilities of `targets` under softmax(hidden W^T), and entropies.
///
/// The `[N, V]` matrix of logits never exists as a whole, forward or backward: logits of a few rows and words at a time are
/// computed and folded into running sums. With a frozen output matrix and tracked hidden states the same pass sums what a
/// row's log-probability pulls on its hidden state, `W[target] - softmax(hidden W^T) W`, so that the backward pass only scales
/// it. A tracked output matrix computes the logits again in the backward pass. Memory does not grow with V, except by the
/// gradient of a tracked output matrix.
///
/// # Shapes
/// hidden `[N, d]`, output `[V, d]`, targets `[N]`, results `[N]`; f32, logits max-subtracted; on a GPU
/// hidden and output may be bf16, logits and results stay f32.
///
/// Gradients reach hidden and a tracked dense output matrix.
///
/// # Errors
/// Shapes that do not fit, a target outside the vocabulary.
pub fn token_logprobs(
    hidden: &Tensor,
    output: &Matrix,
    targets: &Arc<[u32]>,
) -> Result<TokenLogprobs, OpsError> {
    let (rows, width) = matrix_dims(NAME, "hidden", hidden)?;
    let (limit, input) = output.dims()?;
    if width != input {
        let expected = format!("[rows, {input}]");
        return Err(OpsError::Shape {
            operation: NAME,
            argument: "hidden",
            expected,
            found: hidden.dims().to_vec(),
        });
    }
    if targets.len() != rows {
        let found = targets.len();
        return Err(OpsError::Length {
            operation: NAME,
            argument: "targets",
            expected: rows,
            found,
        });
    }
    if let Some(row) = targets.iter().position(|&t| t as usize >= limit) {
        let index = targets[row] as usize;
        return Err(OpsError::Index {
            operation: NAME,
            what: "target",
            row,
            index,
            limit,
        });
    }
    let hidden = hidden.contiguous()?;
    if cuda::takes(&hidden) {
        return Ok(cuda::token_logprobs::token_logprobs(&hidden, output, targets)?);
    }
    let saved = Arc::new(OnceLock::new());
    let tracked = match output {
        Matrix::Dense(table) if table.track_op() => Some(table.contiguous()?),
        _ => None,
    };
    let operation = Logprobs {
        output: output.clone(),
        targets: targets.clone(),
        pulls: tracked.is_none() && hidden.track_op(),
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
        entropies: Tensor::from_vec(entropies, rows, &Device::Cpu)?,
    })
}

struct Saved {
    log_normalisers: Vec<f32>,
    entropies: Vec<f32>,
    /// d logprob / d hidden, `[N, d]`; empty unless [`Logprobs::pulls`].
    pulls: Vec<f32>,
}

struct Logprobs {
    output: Matrix,
    targets: Arc<[u32]>,
    /// Whether the forward pass prepares the gradient at hidden.
    pulls: bool,
    saved: Arc<OnceLock<Saved>>,
}

impl Logprobs {
    fn forward(&self, hidden: &[f32]) -> CandleResult<Vec<f32>> {
        let (_, width) = self.output.dims()?;
        let mut states = vec![State::default(); self.targets.len()];
        let mut pulls = zeros(if self.pulls { hidden.len() } else { 0 })?;
        let mut target_words = zeros(pulls.len())?;
        let fold = Fold {
            hidden,
            targets: &self.targets,
            width,
        };
        each_words(&self.output, |words| {
            fold.words(words, &mut states, &mut pulls);
            copy_targets(words, width, &self.targets, &mut target_words);
        })?;
        let rows = pulls.chunks_exact_mut(width.max(1));
        for ((pull, word), state) in rows
            .zip(target_words.chunks_exact(width.max(1)))
            .zip(&states)
        {
            // W[target] - sum e^(logit - most) W / sum e^(logit - most)
            let scale = 1.0 / state.sum;
            (pull.iter_mut().zip(word)).for_each(|(pull, word)| *pull = word - *pull * scale);
        }
        let _ = self.saved.set(Saved {
            log_normalisers: states.iter().map(State::log_normaliser).collect(),
            entropies: states.iter().map(State::entropy).collect(),
            pulls,
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

    /// Gradient at hidden from what the forward pass prepared.
    fn scaled_pulls(&self, grad: &[f32]) -> CandleResult<Vec<f32>> {
        let (_, width) = self.output.dims()?;
        let mut dh = self.saved()?.pulls.clone();
        for (row, &grad) in dh.chunks_exact_mut(width.max(1)).zip(grad) {
            row.iter_mut().for_each(|value| *value *= grad);
        }
        Ok(dh)
    }

    /// Gradients at hidden and at the output matrix `[V, d]`, from logits computed again.
    fn backward(&self, hidden: &[f32], grad: &[f32], dw: &mut [f32]) -> CandleResult<Vec<f32>> {
        let saved = self.saved()?;
        let (_, width) = self.output.dims()?;
        let mut dh = zeros(hidden.len())?;
        let pull = Pull {
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
            pull.words(words, &mut dh, dw, &mut scratch);
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
        let dh = self.scaled_pulls(&Values::of(&grad)?)?;
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
}

/// Calls `visit` with [`WORDS`] words at a time, in order.
fn each_words(output: &Matrix, mut visit: impl FnMut(Words<'_>)) -> CandleResult<()> {
    let (limit, width) = output.dims()?;
    if let Matrix::Panels(panels) = output {
        for first in (0..limit).step_by(WORDS) {
            let count = WORDS.min(limit - first);
            let turned = Right::Panels(panels.turned().columns(first, count));
            visit(Words {
                first,
                count,
                turned,
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
            });
        }
    })
}

impl<'a> Words<'a> {
    /// The transpose `[d, count]` in panels; `packed` keeps it where it was not.
    fn forward<'p>(&self, width: usize, packed: &'p mut Panels) -> Part<'p>
    where
        'a: 'p,
    {
        match self.turned {
            Right::Panels(part) => part,
            unpacked => packed.pack(unpacked, [width, self.count]),
        }
    }

    /// The rows `[count, d]`, packed.
    fn back(&self, width: usize) -> Panels {
        let rows = match self.turned {
            Right::Values(turned) => Right::Values(turned.transposed()),
            Right::Panels(turned) => Right::Turned(turned),
            Right::Turned(rows) => Right::Panels(rows),
        };
        let mut packed = Panels::default();
        packed.pack(rows, [self.count, width]);
        packed
    }
}

/// Running sums of one row over the words so far.
#[derive(Clone, Copy)]
struct State {
    /// Largest logit.
    most: f32,
    /// Sum of e^(logit - most).
    sum: f32,
    /// Sum of e^(logit - most) (logit - most).
    weighted: f32,
    /// The target's logit.
    target: f32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            most: f32::NEG_INFINITY,
            sum: 0.0,
            weighted: 0.0,
            target: f32::NEG_INFINITY,
        }
    }
}

impl State {
    fn log_normaliser(&self) -> f32 {
        self.most + self.sum.ln()
    }

    /// -sum p log p = log(sum) - weighted / sum.
    fn entropy(&self) -> f32 {
        self.sum.ln() - self.weighted / self.sum
    }
}

/// What the forward pass knows of all rows.
struct Fold<'a> {
    hidden: &'a [f32],
    targets: &'a [u32],
    width: usize,
}

impl Fold<'_> {
    /// Folds the logits of one block of words into every row's state, and their weights times their words into `pulls`
    /// (`[N, d]`, or empty), both relative to the row's largest logit so far.
    fn words(&self, words: Words<'_>, states: &mut [State], pulls: &mut [f32]) {
        let (count, width) = (words.count, self.width);
        let mut packed = Panels::default();
        let packed = words.forward(width, &mut packed);
        let back = (!pulls.is_empty()).then(|| words.back(width));
        let task = |task: usize, logits: &mut Vec<f32>, states: &mut [State], pulls: &mut [f32]| {
            let hidden = View::rows(&self.hidden[task * ROWS * width..], width);
            logits.resize(ROWS * count, 0f32);
            packed.multiply(hidden, states.len(), (logits, count), Write::Set);
            let rows = states.iter_mut().zip(logits.chunks_exact_mut(count));
            for (row, (state, logits)) in rows.enumerate() {
                let before = state.most;
                fold_row(logits, state);
                let target = self.targets[task * ROWS + row] as usize;
                if let Some(&logit) = target.checked_sub(words.first).and_then(|i| logits.get(i)) {
                    state.target = logit;
                }
                if back.is_some() {
                    // Nothing is there to be rescaled before a row's first block.
                    if before.is_finite() && before < state.most {
                        let keep = exp(before - state.most);
                        let pull = &mut pulls[row * width..(row + 1) * width];
                        pull.iter_mut().for_each(|value| *value *= keep);
                    }
                    softmax_gradient(logits, state.most, -1.0);
                }
            }
            if let Some(back) = &back {
                let weights = View::rows(logits, count);
                back.multiply(weights, states.len(), (pulls, width), Write::Add);
            }
        };
        let rows = states.par_chunks_mut(ROWS).enumerate().with_max_len(1);
        if pulls.is_empty() {
            rows.for_each_init(Vec::new, |logits, (i, states)| {
                task(i, logits, states, &mut []);
            });
        } else {
            let rows = rows.zip(pulls.par_chunks_mut(ROWS * width));
            rows.for_each_init(Vec::new, |logits, ((i, states), pulls)| {
                task(i, logits, states, pulls);
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
        let most = reduce::max(logits).max(state.most);
        // A row's first block rescales sums that are zero.
        let shift = if state.most == f32::NEG_INFINITY { 0.0 } else { state.most - most };
        let keep = exp(shift);
        let (sum, weighted) = reduce::shifted_exponentials(logits, most);
        state.weighted = (state.sum.mul_add(shift, state.weighted)).mul_add(keep, weighted);
        state.sum = state.sum.mul_add(keep, sum);
        state.most = most;
    }
}

/// What the backward pass knows of all rows.
struct Pull<'a> {
    hidden: &'a [f32],
    grad: &'a [f32],
    log_normalisers: &'a [f32],
    targets: &'a [u32],
    width: usize,
}

impl Pull<'_> {
    /// Adds to dh, and sets dw, for one block of words: with G = grad (onehot - softmax), dh += G W and dw = G^T hidden.
    fn words(&self, words: Words<'_>, dh: &mut [f32], dw: &mut [f32], kept: &mut Vec<f32>) {
        let (first, count, width) = (words.first, words.count, self.width);
        let mut packed = Panels::default();
        let (forward, back) = (words.forward(width, &mut packed), words.back(width));
        kept.resize(self.targets.len() * count, 0.0);
        let task = |(task, (dh, logits)): (usize, (&mut [f32], &mut [f32]))| {
            let rows = task * ROWS..self.targets.len().min((task + 1) * ROWS);
            let hidden = View::rows(&self.hidden[rows.start * width..], width);
            forward.multiply(hidden, rows.len(), (logits, count), Write::Set);
            for (row, logits) in rows.clone().zip(logits.chunks_exact_mut(count)) {
                softmax_gradient(logits, self.log_normalisers[row], self.grad[row]);
                let target = (self.targets[row] as usize)
                    .checked_sub(first)
                    .and_then(|i| logits.get_mut(i));
                if let Some(value) = target {
                    *value += self.grad[row];
                }
            }
            let gradient = View::rows(logits, count);
            back.multiply(gradient, rows.len(), (dh, width), Write::Add);
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
    /// Logits to -grad * e^(logit - log_normaliser): with a row's log normaliser, -grad times the probabilities.
    fn softmax_gradient(logits: &mut [f32], log_normaliser: f32, grad: f32) {
        logits.iter_mut().for_each(|logit| *logit = -grad * exp(*logit - log_normaliser));
    }
}
