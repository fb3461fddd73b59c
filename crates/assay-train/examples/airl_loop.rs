//! The whole method in one file: `cargo run --release -p assay-train --example airl_loop`.
//!
//! A random model learns clock arithmetic from demonstrations (supervised fine-tuning). Then two
//! adapters on the frozen result are trained against each other. The discriminator learns, token by
//! token, to distinguish demonstrations from demonstrations with an injected error. Its logits are
//! the policy's rewards. Training uses no answers.

#![allow(clippy::print_stdout)] // an example prints what it does

mod toy;

use std::error::Error;

use assay_critic::encode::{Encoder, TokenLimits};
use assay_critic::{HeadSettings, PolicyModel, RewardModel};
use assay_lm::LanguageModel;
use assay_lm::adapter::{Adapter, LoraSettings};
use assay_tasks::arithmetic::{ArithmeticSettings, Split, alphabet, generate};
use assay_train::adam::AdamW;
use assay_train::execution::Execution;
use assay_train::optimiser::OptimiserSettings;
use assay_train::policy::advantage::{AdvantageKind, ExpertInGroup};
use assay_train::reward::schedule::PolicyNegatives;
use assay_train::run::discriminator::{Discriminator, DiscriminatorPlan};
use assay_train::run::order;
use assay_train::run::policy_update::{PolicyPlan, fill_rewards, policy_groups, update_policy};
use assay_train::settings::{PolicySettings, RewardSettings};
use assay_train::trace::{PromptGroup, traces};

/// Seed of every random decision.
const SEED: u64 = 1;
/// Updates of the discriminator before the policy is trained.
const WARMUP_ITERATIONS: usize = 80;
/// Iterations of the game after the warm-up.
const GAME_ITERATIONS: usize = 40;
/// Prompts in an iteration.
const PROMPTS: usize = 12;
/// Samples per prompt.
const SAMPLES: usize = 8;
/// Maximum number of packed tokens of one pass.
const TOKEN_BUDGET: usize = 1 << 14;
/// Rank of both adapters.
const RANK: usize = 8;
const LIMITS: TokenLimits = TokenLimits {
    prompt: 32,
    completion: 64,
};

fn main() -> Result<(), Box<dyn Error>> {
    let task = ArithmeticSettings {
        problems: 3000,
        fewest_operations: 2,
        most_operations: 3,
        ..ArithmeticSettings::default()
    };
    let train = generate(&task, Split::Train, SEED)?;
    let fresh = ArithmeticSettings {
        problems: 60,
        ..task.clone()
    };
    let test = generate(&fresh, Split::Test, SEED)?;

    let style = toy::prompt_style();
    let base = toy::fine_tuned(&train, &style)?;
    let encoder = Encoder::new(&base, &style, LIMITS);
    let (demonstrations, _) = encoder.demonstrations(&train)?;
    let demonstrations: Vec<PromptGroup> = demonstrations
        .into_iter()
        .enumerate()
        .map(|(index, demonstration)| PromptGroup::of_demonstration(index, demonstration))
        .collect();

    let mut game = Game::new(&base, &alphabet(&task))?;
    let before = toy::accuracy(&game.policy, &encoder, &test)?;
    println!("pass@1 after supervised fine-tuning {before:.3}");
    for iteration in 0..WARMUP_ITERATIONS + GAME_ITERATIONS {
        let picked = order::batch(SEED, demonstrations.len(), PROMPTS, iteration);
        let groups: Vec<PromptGroup> = picked.iter().map(|&i| demonstrations[i].clone()).collect();
        game.play(groups, &encoder, iteration)?;
    }
    let after = toy::accuracy(&game.policy, &encoder, &test)?;
    println!("pass@1 after the game, no answers seen {after:.3}");
    Ok(())
}

/// The two players on one frozen base.
struct Game {
    policy: PolicyModel,
    policy_optimiser: AdamW,
    policy_settings: PolicySettings,
    discriminator: Discriminator,
    reward_settings: RewardSettings,
}

impl Game {
    fn new(base: &LanguageModel, alphabet: &str) -> Result<Self, Box<dyn Error>> {
        let adapter = |seed| {
            let lora = LoraSettings::with_rank(RANK);
            Adapter::new(base.transformer.config(), &lora, seed)
        };
        let policy = toy::policy(base, adapter(SEED)?);
        let head = HeadSettings::Hybrid {
            beta: 5.0,
            reference_weight: 0.3,
        };
        let reward = RewardModel::new(base.transformer.clone(), adapter(SEED + 1)?, head)?;

        let mut reward_settings = RewardSettings {
            head_learning_rate_factor: 20.0,
            ..RewardSettings::default()
        };
        reward_settings.perturbations.per_demonstration = 3;
        reward_settings.perturbations.alphabet = Some(alphabet.to_owned());
        reward_settings.schedule.policy_negatives = PolicyNegatives::Off;

        let mut policy_settings = PolicySettings::default();
        policy_settings.advantage.estimator = AdvantageKind::SoftMin { temperature: 0.5 };

        Ok(Self {
            policy_optimiser: toy::optimiser(&policy)?,
            policy,
            policy_settings,
            discriminator: Discriminator::new(reward, &reward_settings)?,
            reward_settings,
        })
    }

    /// One iteration: update the discriminator; after the warm-up also sample, score, and update
    /// the policy.
    fn play(
        &mut self,
        mut groups: Vec<PromptGroup>,
        encoder: &Encoder<'_>,
        iteration: usize,
    ) -> Result<(), Box<dyn Error>> {
        let execution = Execution::single_process(TOKEN_BUDGET);
        let updates = WARMUP_ITERATIONS + GAME_ITERATIONS;
        let optimiser = toy::optimiser_settings(2e-3);
        let plan = DiscriminatorPlan {
            settings: &self.reward_settings,
            encoder,
            optimiser: &optimiser,
            schedule: &optimiser.schedule(updates),
            execution,
            iteration,
            seed: SEED,
        };
        let learned = self.discriminator.update(&groups, 0, &plan)?;
        if iteration < WARMUP_ITERATIONS {
            return Ok(());
        }

        toy::sample(&self.policy, encoder, &mut groups, iteration as u64)?;
        let mut samples = policy_groups(&groups, ExpertInGroup::Off);
        let reward = &self.discriminator.model;
        fill_rewards(reward, &mut samples, &self.reward_settings, execution)?;

        let optimiser = OptimiserSettings {
            weight_decay: 0.0,
            ..toy::optimiser_settings(1e-3)
        };
        let plan = PolicyPlan {
            settings: &self.policy_settings,
            optimiser: &optimiser,
            schedule: &optimiser.schedule(GAME_ITERATIONS),
            execution,
        };
        update_policy(&self.policy, &mut self.policy_optimiser, &samples, &plan)?;
        if iteration.is_multiple_of(10) {
            let loss = learned.optimiser.loss;
            let reward = mean_reward(&samples);
            println!(
                "iteration {iteration}: discriminator loss {loss:.3}, mean reward {reward:+.2}"
            );
        }
        Ok(())
    }
}

fn mean_reward(groups: &[PromptGroup]) -> f64 {
    let rewards: Vec<f32> = traces(groups)
        .flat_map(|trace| trace.rewards.clone())
        .collect();
    rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / rewards.len().max(1) as f64
}
