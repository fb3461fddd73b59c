//! Counter-based randomness: every random decision has its own stream, which a seed and a path of
//! numbers determine. The path begins with the word of a [`StreamKey`].
//!
//! A stream is ChaCha8 with the 32-byte key mixed from `(seed, path)`. Nothing is shared between
//! streams, so results do not depend on the order in which streams are used, on threads, or on
//! where a run was resumed. The mixing and the conversions below are fixed by tests with recorded
//! numbers: the same key has the same stream in every version.
//!
//! # The mixing
//! `mix` is the finaliser of splitmix64 and `G = 0x9e3779b97f4a7c15`. Four lanes `k = 0..4` start
//! at `mix(seed + (k + 1) G)`. Each word `w` of the path, then its length, is absorbed as `lane_k =
//! mix(mix(lane_k ^ w) + (k + 1) G)`. The key is the four lanes in little-endian order.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// An independent stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    generator: ChaCha8Rng,
}

impl Stream {
    /// The stream of `seed` and `path`; equal arguments give equal streams.
    pub fn new(seed: u64, path: &[u64]) -> Self {
        Self {
            generator: ChaCha8Rng::from_seed(key(seed, path)),
        }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Uniform in [0, 1) with 24 random bits.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1) with 53 random bits.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in 0..n without bias; 0 when `n` is 0.
    ///
    /// The high half of `x n` for 64 random bits `x`, redrawn while the low half is below `2^64 mod
    /// n`.
    pub fn below(&mut self, n: usize) -> usize {
        if n <= 1 {
            return 0;
        }
        let bound = n as u64;
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// Permutes `items` uniformly (Fisher-Yates from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }

    /// A standard normal number: `sqrt(-2 ln u) cos(2 pi v)` with `u` in (0, 1], computed in f64.
    pub fn normal_f32(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform_f64();
        (radius * angle.cos()) as f32
    }
}

/// The purpose of a random stream.
///
/// Every random decision of the program takes its stream from here, so that two purposes never
/// share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKey {
    /// The order of a run's data. Path: epoch.
    DataOrder,
    /// Demonstrations that a robustness study replaces, and their replacements. Path:
    /// demonstration.
    WrongDemonstrations,
    /// Samples of a training iteration. Path: iteration, problem, sample.
    Rollout,
    /// Samples of an evaluation. Path: problem, sample.
    Evaluation,
    /// Perturbations of demonstrations. Path: iteration, discriminator update, problem.
    Perturbation,
    /// Past samples that the discriminator replays. Path: iteration, discriminator update.
    Replay,
    /// The error injected into a demonstration that localisation scores. Path: [`text_key`] of the
    /// problem.
    InjectedError,
    /// Samples of a request to the server. Path: request if it names no seed, sample.
    Served,
    /// Samples of a search. Path: problem, tree, round, prefix, child.
    Search,
    /// Problems of the arithmetic task. Path: draw.
    Arithmetic,
    /// Problems of the deduction task. Path: draw.
    Deduction,
    /// Where branches of a demonstration begin, and their continuations. Path: iteration, problem;
    /// or empty, with a number of that stream as the seed.
    Branch,
    /// Misleading versions of a demonstration that a judge reads. Path: problem, or its
    /// [`text_key`].
    Hints,
    /// Steps of a demonstration that are rewritten, and seeds of the server that does it. Path:
    /// [`text_key`] of the problem.
    Edits,
    /// Resamples of a bootstrap. Path: resample; and the index of the draw if there are two.
    Bootstrap,
    /// Texts of a benchmark. Path: empty.
    BenchTexts,
    /// Samples of a benchmark. Path: prompt, sample.
    BenchSamples,
    /// The policy's adapter before its first update: a seed, see [`StreamKey::seed`].
    PolicyAdapter,
    /// The reward's adapter before its first update: a seed.
    RewardAdapter,
    /// Random weights. Path: number of the tensor. The seed is derived for these weights.
    Weights,
}

impl StreamKey {
    /// Every purpose.
    pub const ALL: [Self; 20] = [
        Self::DataOrder,
        Self::WrongDemonstrations,
        Self::Rollout,
        Self::Evaluation,
        Self::Perturbation,
        Self::Replay,
        Self::InjectedError,
        Self::Served,
        Self::Search,
        Self::Arithmetic,
        Self::Deduction,
        Self::Branch,
        Self::Hints,
        Self::Edits,
        Self::Bootstrap,
        Self::BenchTexts,
        Self::BenchSamples,
        Self::PolicyAdapter,
        Self::RewardAdapter,
        Self::Weights,
    ];

    /// The stream of a seed and a path within this purpose.
    pub fn stream(self, seed: u64, path: &[u64]) -> Stream {
        match self.word() {
            Some(word) => Stream::new(seed, &[&[word], path].concat()),
            None => Stream::new(seed, path),
        }
    }

    /// A seed of this purpose, derived from the seed of a run: the first number of the purpose's
    /// stream without a path. So seeds of different purposes do not coincide for neighbouring run
    /// seeds.
    pub fn seed(self, seed: u64) -> u64 {
        self.stream(seed, &[]).next_u64()
    }

    /// The first word of the paths of this purpose. [`StreamKey::Weights`] has none: only its paths
    /// are one word long, which distinguishes them from all others.
    fn word(self) -> Option<u64> {
        Some(match self {
            Self::DataOrder => 0x0d,
            Self::WrongDemonstrations => 0x3d,
            Self::Rollout => 0x5a,
            Self::Evaluation => 0xe7,
            Self::Perturbation => 0x9e,
            Self::Replay => 0x4e,
            Self::InjectedError => 0x1e,
            Self::Served => 0x5e,
            Self::Search => 0x5c,
            Self::Arithmetic => 0x6172_6974_686d_6574, // "arithmet"
            Self::Deduction => 0x6465_6475_6374_696f,  // "deductio"
            Self::Branch => 0xb4,
            Self::Hints => 0x4a,
            Self::Edits => 0xed,
            Self::Bootstrap => 0xb5,
            Self::BenchTexts => 0xb0,
            Self::BenchSamples => 0xb1,
            Self::PolicyAdapter => 0xa0,
            Self::RewardAdapter => 0xa1,
            Self::Weights => return None,
        })
    }
}

/// A 64-bit hash of a text, so that an identifier can be part of a stream's key: FNV-1a, then the
/// splitmix64 finaliser.
pub fn text_key(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

fn key(seed: u64, path: &[u64]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (lane, slot) in bytes.chunks_exact_mut(8).enumerate() {
        let step = GOLDEN.wrapping_mul(lane as u64 + 1);
        let mut state = mix(seed.wrapping_add(step));
        for &word in path.iter().chain(std::iter::once(&(path.len() as u64))) {
            state = mix(mix(state ^ word).wrapping_add(step));
        }
        slot.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_the_same_in_every_version() {
        let mut stream = Stream::new(42, &[1, 2]);
        // From an independent implementation of the mixing and of ChaCha8.
        let expected = [12_760_878_020_040_882_212, 8_882_233_246_677_115_663];
        assert_eq!([stream.next_u64(), stream.next_u64()], expected);
        assert_eq!(text_key("gsm8k-0"), 16_761_523_903_590_184_388);
    }

    #[test]
    fn a_key_is_its_streams_first_word() {
        let first = |mut stream: Stream| stream.next_u64();
        let samples = StreamKey::Rollout.stream(42, &[3, 1, 0]);
        assert_eq!(first(samples), first(Stream::new(42, &[0x5a, 3, 1, 0])));
        let weights = StreamKey::Weights.stream(42, &[7]);
        assert_eq!(first(weights), first(Stream::new(42, &[7])));
    }

    #[test]
    fn purposes_share_no_stream() {
        // A run's seed and its neighbours. With an exclusive or, the reward adapter of seed 42 had
        // the seed of seed 41's policy adapter.
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            for key in StreamKey::ALL {
                assert!(seen.insert(key.stream(seed, &[5]).next_u64()), "{key:?}");
                if key != StreamKey::Weights {
                    assert!(seen.insert(key.seed(seed)), "{key:?}");
                }
            }
        }
    }

    #[test]
    fn different_paths_give_different_streams() {
        let first = |seed, path: &[u64]| Stream::new(seed, path).next_u64();
        let all = [
            first(1, &[]),
            first(1, &[0]),
            first(1, &[0, 0]),
            first(1, &[1, 0]),
            first(1, &[0, 1]),
            first(0, &[1]),
        ];
        for (index, value) in all.iter().enumerate() {
            assert!(!all[..index].contains(value));
        }
        assert_eq!(first(7, &[3]), first(7, &[3]));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(0, &[]);
        let count = 40_000;
        let (mut uniform, mut normal, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            let value = stream.uniform_f32();
            assert!((0.0..1.0).contains(&value));
            uniform += f64::from(value);
            let value = f64::from(stream.normal_f32());
            normal += value;
            square += value * value;
        }
        let count = f64::from(count);
        assert!((uniform / count - 0.5).abs() < 0.006 && (normal / count).abs() < 0.02);
        assert!((square / count - 1.0).abs() < 0.03);
    }

    #[test]
    fn below_is_uniform_and_bounded() {
        let mut stream = Stream::new(3, &[9]);
        let mut counts = [0; 6];
        for _ in 0..60_000 {
            counts[stream.below(6)] += 1;
        }
        assert!(
            counts
                .iter()
                .all(|&count: &i32| (count - 10_000).abs() < 400),
            "{counts:?}"
        );
        assert_eq!((stream.below(0), stream.below(1)), (0, 0));
        let mut items: Vec<usize> = (0..50).collect();
        stream.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
