//! Samples completions. Each prompt is computed once, samples of all prompts share a batch, and
//! finished sequences leave it.
//!
//! This module decides which sequences are in the batch at each decoding step and which random
//! number each token gets. Sample i of a prompt has its own stream and token t takes the stream's
//! t-th number, so results do not depend on batch layout. How one token is drawn from logits is in
//! [`mod@crate::draw`].

mod recorded;

use std::collections::VecDeque;
use std::sync::Arc;

use assay_ops::{
    CacheRow, CacheRows, HeadShape, KvCache, PromptKeyValues, cached_attention, has_kernels,
    output_logits,
};
use assay_tasks::random::Stream;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::LmError;
use crate::adapter::Adapter;
use crate::draw::{DrawSettings, Drawn, draw, draw_tensor};
use crate::packed::{Group, PackedBatch};
use crate::transformer::{Attend, PromptCache, Transformer};
use recorded::RecordedStep;

/// Prompt rows of one forward pass on the CPU, and on a GPU. A longer prompt is computed in one
/// pass.
const PREFILL_ROWS: usize = 512;
const DEVICE_PREFILL_ROWS: usize = 1 << 14;

/// One prompt and the random streams of its samples.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// The rendered prompt; never empty.
    pub prompt: Vec<u32>,
    /// One stream per sample.
    pub streams: Vec<Stream>,
    /// Maximum number of tokens of each of these samples, if below the general limit; at least 1.
    pub max_new_tokens: Option<usize>,
    /// A token that is excluded from the distribution of each sample's first token.
    pub not_first: Option<u32>,
}

/// A sampled completion.
///
/// # Shapes
/// All three lists have one entry per token, the end-of-turn token included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Token ids.
    pub token_ids: Vec<u32>,
    /// log-probability of each token under the distribution it was drawn from.
    pub sampling_logprobs: Vec<f32>,
    /// log-probability of each token under the policy at temperature 1, as the sampler saw it.
    pub policy_logprobs: Vec<f32>,
    /// Whether the completion limit was reached before an end-of-turn token.
    pub truncated: bool,
}

/// Limits of a sampling run.
#[derive(Clone, Debug)]
pub struct SamplingLimits {
    /// Maximum number of tokens of a completion; at least 1.
    pub max_new_tokens: usize,
    /// Tokens that end a completion; they are part of it.
    pub stop_tokens: Vec<u32>,
    /// Maximum number of sequences decoded at the same time; at least 1.
    pub max_sequences: usize,
}

/// Samples every request; the result has the requests' order, one list of completions per prompt.
///
/// `on_token` receives the number of tokens drawn at each step, for progress.
///
/// # Errors
/// An empty prompt, a limit of zero, or a failing operation.
pub fn sample(
    model: &Transformer,
    adapter: Option<&Adapter>,
    requests: &[SampleRequest],
    draw_settings: &DrawSettings,
    limits: &SamplingLimits,
    mut on_token: impl FnMut(usize),
) -> Result<Vec<Vec<Completion>>, LmError> {
    let whole = |drawn| {
        on_token(drawn);
        true
    };
    let drawn = sample_while(model, adapter, requests, draw_settings, limits, whole)?;
    Ok(drawn.unwrap_or_default())
}

/// [`sample`] that returns `None` as soon as `wanted` returns false after a decoding step.
///
/// `wanted` is called with the number of tokens drawn at each step.
///
/// # Errors
/// As [`sample`].
pub fn sample_while(
    model: &Transformer,
    adapter: Option<&Adapter>,
    requests: &[SampleRequest],
    draw_settings: &DrawSettings,
    limits: &SamplingLimits,
    mut wanted: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<Completion>>>, LmError> {
    if limits.max_new_tokens == 0 || limits.max_sequences == 0 {
        return Err(LmError::InvalidSampling {
            reason: "max_new_tokens and max_sequences must be at least 1".into(),
        });
    }
    draw_settings.validate()?;
    let total: usize = requests.iter().map(|r| r.streams.len()).sum();
    if total == 0 {
        return Ok(Some(requests.iter().map(|_| Vec::new()).collect()));
    }
    let (model, adapter) = for_decoding(model, adapter)?;
    let mut decoder = Decoder::new(&model, adapter.as_ref(), requests, limits)?;
    loop {
        let mut started = 0;
        let unfinished = decoder.refill(requests, draw_settings, &mut |drawn| started += drawn)?;
        if started > 0 && !wanted(started) {
            return Ok(None);
        }
        if !unfinished {
            return Ok(Some(decoder.finished));
        }
        let drawn = decoder.step(draw_settings)?;
        decoder.advance(drawn);
        if !wanted(decoder.drawn_last) {
            return Ok(None);
        }
    }
}

/// The model in its form for decoding. On a GPU the adapter is merged, which halves the number of
/// kernels of a decoding step; on the CPU it stays separate.
fn for_decoding(
    model: &Transformer,
    adapter: Option<&Adapter>,
) -> Result<(Transformer, Option<Adapter>), LmError> {
    match adapter {
        Some(adapter) if has_kernels(&model.placement().device) => {
            Ok((model.merged(adapter)?, None))
        }
        _ => Ok((
            model.detached().for_decoding()?,
            adapter
                .map(|adapter| adapter.for_decoding(model.factors()))
                .transpose()?,
        )),
    }
}

/// The packed prompts, their keys and values, and the hidden state after each, `[prompts, hidden]`.
/// A forward pass computes a few prompts at a time, which bounds memory. The values do not depend
/// on this split.
fn prefill(
    model: &Transformer,
    adapter: Option<&Adapter>,
    requests: &[SampleRequest],
) -> Result<(PackedBatch, PromptCache, Tensor), LmError> {
    let group = |request: &SampleRequest| Group {
        prompt: request.prompt.clone(),
        completions: Vec::new(),
    };
    let groups: Vec<Group> = requests.iter().map(group).collect();
    let most = match has_kernels(&model.placement().device) {
        true => DEVICE_PREFILL_ROWS,
        false => PREFILL_ROWS,
    };
    let (mut caches, mut last) = (Vec::new(), Vec::new());
    let mut rest = groups.as_slice();
    while !rest.is_empty() {
        let mut rows = 0;
        let fits = |group: &&Group| {
            rows += group.rows();
            rows <= most
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        let batch = PackedBatch::new(now)?;
        let (hidden, cache) = model.prefill(&batch, adapter)?;
        let ends: Vec<u32> = batch.prompts.iter().map(|p| p.end as u32 - 1).collect();
        let ends = Tensor::from_vec(ends, count, hidden.device())?;
        last.push(hidden.index_select(&ends, 0)?);
        caches.push(cache);
        rest = later;
    }
    let cache = PromptCache::joined(caches)?;
    Ok((PackedBatch::new(&groups)?, cache, Tensor::cat(&last, 0)?))
}

/// A sequence in the batch.
struct Active {
    request: usize,
    sample: usize,
    slot: u32,
    stream: Stream,
}

/// Logits after each prompt, `[prompts, vocab]` f32, on the device that draws tokens.
enum FirstLogits {
    Host(Vec<Vec<f32>>),
    Device(Tensor),
}

impl FirstLogits {
    /// Number of prompts whose logits are copied at a time.
    const ROWS: usize = 64;

    /// The logits of every request, without those of excluded first tokens, which are removed on
    /// the host.
    fn new(logits: Tensor, requests: &[SampleRequest]) -> Result<Self, LmError> {
        let excludes = requests.iter().any(|request| request.not_first.is_some());
        if has_kernels(logits.device()) && !excludes {
            return Ok(Self::Device(logits));
        }
        let mut rows: Vec<Vec<f32>> = logits.to_vec2()?;
        for (row, request) in rows.iter_mut().zip(requests) {
            let excluded = request.not_first.map(|token| token as usize);
            if let Some(logit) = excluded.and_then(|token| row.get_mut(token)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(Self::Host(rows))
    }

    /// A first token for each sample, from its prompt's row and with its stream's next number.
    fn draw(
        &self,
        rows: &[usize],
        settings: &DrawSettings,
        streams: &mut [Stream],
    ) -> Result<Vec<Drawn>, LmError> {
        let pairs = rows.chunks(Self::ROWS).zip(streams.chunks_mut(Self::ROWS));
        let mut drawn = Vec::with_capacity(rows.len());
        for (rows, streams) in pairs {
            match self {
                Self::Host(logits) => {
                    for (&row, stream) in rows.iter().zip(streams) {
                        drawn.push(draw(&logits[row], settings, stream.uniform_f64())?);
                    }
                }
                Self::Device(logits) => {
                    let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
                    let rows = Tensor::from_slice(&rows, rows.len(), logits.device())?;
                    let logits = logits.index_select(&rows, 0)?;
                    drawn.extend(draw_tensor(&logits, settings, streams.iter_mut())?);
                }
            }
        }
        Ok(drawn)
    }
}

struct Decoder<'m> {
    model: &'m Transformer,
    adapter: Option<&'m Adapter>,
    limits: &'m SamplingLimits,
    prompts: PackedBatch,
    prompt_cache: PromptCache,
    first_logits: FirstLogits,
    caches: Vec<KvCache>,
    /// Maximum number of tokens of a sample, by request.
    most: Vec<usize>,
    waiting: VecDeque<(usize, usize)>,
    free_slots: Vec<u32>,
    active: Vec<Active>,
    finished: Vec<Vec<Completion>>,
    drawn_last: usize,
    /// Whether decoding steps are recorded and replayed, and the current recording.
    records: bool,
    recorded: Option<RecordedStep>,
}

/// The inputs of a decoding step, one entry per row.
#[derive(Default)]
struct StepRows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    cached: Vec<CacheRow>,
}

impl<'m> Decoder<'m> {
    fn new(
        model: &'m Transformer,
        adapter: Option<&'m Adapter>,
        requests: &[SampleRequest],
        limits: &'m SamplingLimits,
    ) -> Result<Self, LmError> {
        let (prompts, prompt_cache, last) = prefill(model, adapter, requests)?;
        let logits = output_logits(&last, model.output_matrix())?;
        let first_logits = FirstLogits::new(logits, requests)?;
        let waiting: VecDeque<_> = requests
            .iter()
            .enumerate()
            .flat_map(|(request, r)| (0..r.streams.len()).map(move |sample| (request, sample)))
            .collect();
        let slots = limits.max_sequences.min(waiting.len());
        let kv_dim = model.config().kv_heads * model.config().head_dim;
        let place = model.placement();
        let records = has_kernels(&place.device) && model.can_be_recorded();
        let (device, dtype) = (&place.device, place.dtype);
        // One more slot for the idle rows of a recorded step.
        let held = slots + usize::from(records);
        let caches = (0..model.config().layers)
            .map(|_| KvCache::new(held, limits.max_new_tokens, kv_dim, device, dtype))
            .collect::<Result<_, _>>()?;
        let finished = requests
            .iter()
            .map(|r| vec![Completion::default(); r.streams.len()])
            .collect();
        let free_slots = (0..slots as u32).rev().collect();
        let limit = limits.max_new_tokens;
        let most = requests
            .iter()
            .map(|r| r.max_new_tokens.unwrap_or(limit).min(limit));
        let most = most.collect();
        let active = Vec::with_capacity(slots);
        Ok(Self {
            model,
            adapter,
            limits,
            prompts,
            prompt_cache,
            first_logits,
            caches,
            most,
            waiting,
            free_slots,
            active,
            finished,
            drawn_last: 0,
            records,
            recorded: None,
        })
    }

    /// Puts waiting samples into free slots and draws their first tokens. Returns false if nothing
    /// is left to decode.
    fn refill(
        &mut self,
        requests: &[SampleRequest],
        settings: &DrawSettings,
        on_token: &mut impl FnMut(usize),
    ) -> Result<bool, LmError> {
        while !self.free_slots.is_empty() && !self.waiting.is_empty() {
            let count = self.free_slots.len().min(self.waiting.len());
            let starting: Vec<_> = self.waiting.drain(..count).collect();
            let rows: Vec<usize> = starting.iter().map(|&(request, _)| request).collect();
            let mut streams: Vec<Stream> = starting
                .iter()
                .map(|&(request, sample)| requests[request].streams[sample].clone())
                .collect();
            let drawn = self.first_logits.draw(&rows, settings, &mut streams)?;
            on_token(count);
            for (((request, sample), stream), drawn) in starting.into_iter().zip(streams).zip(drawn)
            {
                if !self.record(request, sample, drawn)
                    && let Some(slot) = self.free_slots.pop()
                {
                    self.active.push(Active {
                        request,
                        sample,
                        slot,
                        stream,
                    });
                }
            }
        }
        Ok(!self.active.is_empty())
    }

    /// Appends a token to a completion; returns whether the completion ends with it.
    fn record(&mut self, request: usize, sample: usize, drawn: Drawn) -> bool {
        let completion = &mut self.finished[request][sample];
        completion.token_ids.push(drawn.token);
        completion.sampling_logprobs.push(drawn.sampling_logprob);
        completion.policy_logprobs.push(drawn.policy_logprob);
        let stopped = self.limits.stop_tokens.contains(&drawn.token);
        completion.truncated = !stopped && completion.token_ids.len() >= self.most[request];
        stopped || completion.truncated
    }

    /// One decoding step: a token for every active sequence.
    fn step(&mut self, settings: &DrawSettings) -> Result<Vec<Drawn>, LmError> {
        if self.records {
            return self.recorded_step(settings);
        }
        let logits = self.logits(self.rows())?;
        draw_tensor(
            &logits,
            settings,
            self.active.iter_mut().map(|s| &mut s.stream),
        )
    }

    /// The inputs of the next decoding step, one row for each active sequence.
    fn rows(&self) -> StepRows {
        let mut rows = StepRows::default();
        for sequence in &self.active {
            let own = &self.finished[sequence.request][sequence.sample].token_ids;
            let prompt = self.prompts.prompts[sequence.request].clone();
            rows.tokens.extend(own.last());
            rows.positions.push((prompt.len() + own.len() - 1) as u32);
            rows.cached.push(CacheRow {
                prompt,
                slot: sequence.slot as usize,
                len: own.len(),
            });
        }
        rows
    }

    /// Logits `[S, vocab]` of a step.
    fn logits(&mut self, rows: StepRows) -> Result<Tensor, LmError> {
        let mut attention = CachedAttention {
            prompts: &self.prompt_cache,
            caches: &mut self.caches,
            rows: &CacheRows::new(rows.cached),
            shape: self.model.head_shape(),
        };
        let (tokens, positions): (Arc<[u32]>, Arc<[u32]>) =
            (rows.tokens.into(), rows.positions.into());
        let hidden = self
            .model
            .run(&tokens, &positions, self.adapter, &mut attention)?;
        Ok(output_logits(&hidden, self.model.output_matrix())?)
    }

    /// Appends one token to each sequence and removes finished sequences from the batch.
    fn advance(&mut self, drawn: Vec<Drawn>) {
        self.drawn_last = drawn.len();
        let sequences = std::mem::take(&mut self.active);
        for (sequence, drawn) in sequences.into_iter().zip(drawn) {
            if self.record(sequence.request, sequence.sample, drawn) {
                self.free_slots.push(sequence.slot);
            } else {
                self.active.push(sequence);
            }
        }
    }
}

/// Attention of decoding: appends the new keys and values, then attends to prompt and cache.
struct CachedAttention<'c> {
    prompts: &'c PromptCache,
    caches: &'c mut [KvCache],
    rows: &'c CacheRows,
    shape: HeadShape,
}

impl Attend for CachedAttention<'_> {
    fn attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, LmError> {
        let cache = &mut self.caches[layer];
        cache.append(k, v, self.rows)?;
        let (prompt_k, prompt_v) = &self.prompts.layers[layer];
        Ok(cached_attention(
            q,
            PromptKeyValues {
                keys: prompt_k,
                values: prompt_v,
            },
            cache,
            self.rows,
            self.shape,
        )?)
    }
}
