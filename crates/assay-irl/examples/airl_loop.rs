//! The whole method on a toy task, without trainer, files or settings: `cargo run --release --example airl_loop`.
//!
//! A random model learns clock arithmetic from demonstrations of mixed style (supervised fine-tuning). Then
//! two adapters on the frozen result play the game: a discriminator learns to tell demonstrations from demonstrations with
//! an injected error, token by token; its logits are the policy's rewards. No answer is looked at in training.

#![allow(clippy::print_stdout)] // an example prints what it does

mod toy;

use std::error::Error;
use std::sync::Arc;

use assay_irl::IrlError;
use assay_irl::adam::AdamW;
use assay_irl::encode::{Demonstration, Encoder, TokenLimits};
use assay_irl::metrics::IterationMetrics;
use assay_irl::optimiser::OptimiserSettings;
use assay_irl::player::{Passes, Player, Reach, update};
use assay_irl::policy::advantage::{AdvantageKind, ExpertInGroup};
use assay_irl::policy_model::{PolicyModel, Trainable};
use assay_irl::reward::TraceRole;
use assay_irl::reward::loss::{DiscriminatorLossSettings, LabelledTrace, discriminator_loss};
use assay_irl::reward_model::RewardModel;
use assay_irl::settings::{HeadSettings, PolicySettings, RewardSettings};
use assay_irl::sft::token_mean_nll;
use assay_irl::trainer::order;
use assay_irl::trainer::policy_phase::{
    PolicyOptimiser, policy_groups, token_rewards, update_policy,
};
use assay_irl::trainer::rollout::RolloutGroup;
use assay_lm::LanguageModel;
use assay_lm::adapter::{Adapter, LoraSettings};
use assay_lm::packed::Group;
use assay_tasks::arithmetic::{ArithmeticSettings, Split, alphabet, generate};
use assay_tasks::perturbations::{DemonstrationGroup, Perturbation, Registry};
use assay_tasks::problem::Problem;
use assay_tasks::prompts::{PromptSettings, PromptStyle};
use assay_tasks::random::Stream;

const SEED: u64 = 1;
const SFT_UPDATES: usize = 900;
/// Updates of the discriminator before the policy moves, and iterations of the game after that.
const WARMUP: usize = 80;
const GAME: usize = 40;
const PROMPTS: usize = 12;
const SAMPLES: usize = 8;
const TOKENS: usize = 1 << 14;
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
    let test = generate(
        &ArithmeticSettings {
            problems: 60,
            ..task.clone()
        },
        Split::Test,
        SEED,
    )?;
    let style = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    let base = fine_tuned(&train, &style)?;
    let encoder = Encoder::new(&base, &style, LIMITS);
    let (demonstrations, _) = encoder.demonstrations(&train)?;
    let kinds = [
        Perturbation::CorruptNumbers,
        Perturbation::FlipOperator,
        Perturbation::CorruptAnswer,
    ];
    let registry = Registry::of(&kinds).within(&alphabet(&task));

    let mut game = Game::new(&base)?;
    println!(
        "pass@1 after supervised fine-tuning {:.3}",
        toy::accuracy(&game.policy, &encoder, &test)?
    );
    for iteration in 0..WARMUP + GAME {
        let picked = order::batch(SEED, demonstrations.len(), PROMPTS, iteration);
        let picked: Vec<(usize, &Demonstration)> = picked
            .into_iter()
            .map(|i| (i, &demonstrations[i]))
            .collect();
        let loss = game.teach_discriminator(&picked, (&encoder, &registry), iteration)?;
        if iteration < WARMUP {
            continue;
        }
        let samples = game.sample(&picked, &encoder, iteration)?;
        let reward = game.teach_policy(&samples)?;
        if iteration % 10 == 0 {
            println!(
                "iteration {iteration}: discriminator loss {loss:.3}, mean reward {reward:+.2}"
            );
        }
    }
    println!(
        "pass@1 after the game, no answers seen {:.3}",
        toy::accuracy(&game.policy, &encoder, &test)?
    );
    Ok(())
}

/// The two players on one frozen base.
struct Game {
    policy: PolicyModel,
    reward: RewardModel,
    policy_optimiser: AdamW,
    reward_optimiser: AdamW,
}

impl Game {
    fn new(base: &LanguageModel) -> Result<Self, IrlError> {
        let config = base.transformer.config();
        let policy = PolicyModel {
            transformer: Arc::clone(&base.transformer),
            trainable: Trainable::Adapter(Adapter::new(config, &LoraSettings::with_rank(8), SEED)?),
        };
        let adapter = Adapter::new(config, &LoraSettings::with_rank(8), SEED + 1)?;
        let head = HeadSettings::Hybrid {
            beta: 5.0,
            reference_weight: 0.3,
        };
        let reward = RewardModel::new(Arc::clone(&base.transformer), adapter, head)?;
        let head_learns_faster = |name: &str| {
            if RewardModel::is_head(name) {
                20.0
            } else {
                1.0
            }
        };
        Ok(Self {
            policy_optimiser: AdamW::new(&policy.parameters())?,
            reward_optimiser: AdamW::with_factors(&reward.parameters(), head_learns_faster)?,
            policy,
            reward,
        })
    }

    /// One update of the discriminator: each demonstration against itself with an error, labels from the first wrong token.
    fn teach_discriminator(
        &mut self,
        demonstrations: &[(usize, &Demonstration)],
        (encoder, registry): (&Encoder<'_>, &Registry),
        iteration: usize,
    ) -> Result<f64, IrlError> {
        let mut groups = Vec::new();
        let mut labels = Vec::new();
        for (place, (index, demonstration)) in demonstrations.iter().enumerate() {
            let right = &demonstration.completion;
            let mut stream = Stream::new(SEED, &[0x9e, iteration as u64, *index as u64]);
            let wrong = DemonstrationGroup::corrupt(
                (&demonstration.problem, &right.text),
                registry,
                3,
                &mut stream,
            );
            let mut completions = vec![right.ids.clone()];
            labels.push((place, TraceRole::Expert, None, None));
            for perturbed in wrong.perturbed() {
                if let Some(completion) = encoder.completion(&perturbed.text)? {
                    let from = completion.diverges_from(&right.ids);
                    let last = completion.token_at(&(perturbed.span.end - 1..perturbed.span.end));
                    labels.push((place, TraceRole::Perturbed, from, Some(last + 1)));
                    completions.push(completion.ids);
                }
            }
            groups.push(Group {
                prompt: demonstration.prompt.clone(),
                completions,
            });
        }
        let longest = groups
            .iter()
            .flat_map(|g| &g.completions)
            .map(Vec::len)
            .max();
        let positions: Vec<usize> = (0..longest.unwrap_or(0)).collect();
        let settings = DiscriminatorLossSettings::default();
        let how = (Passes::alone(TOKENS), Reach::Group);
        let (loss, gradients) = update(&self.reward, &groups, how, |logits, _| {
            let traces = labels
                .iter()
                .zip(logits)
                .map(|(&(group, role, from, until), logits)| LabelledTrace {
                    group,
                    role,
                    logits,
                    positions: &positions[..logits.len()],
                    corrupted_from: from,
                    corrupted_until: until,
                    diverges_at: None,
                    weight: 1.0,
                });
            let output = discriminator_loss(&traces.collect::<Vec<_>>(), &settings)?;
            Ok((output.loss, output.grads))
        })?;
        let adamw = OptimiserSettings::default().adamw(2e-3);
        self.reward_optimiser
            .step(&self.reward.parameters(), &gradients, &adamw, 1.0)?;
        Ok(loss)
    }

    /// Samples of the same prompts, each on a random stream of its own.
    fn sample(
        &self,
        demonstrations: &[(usize, &Demonstration)],
        encoder: &Encoder<'_>,
        iteration: usize,
    ) -> Result<Vec<RolloutGroup>, IrlError> {
        let problems: Vec<(usize, &Problem, Vec<u32>)> = demonstrations
            .iter()
            .map(|(i, d)| (*i, &d.problem, d.prompt.clone()))
            .collect();
        toy::draw(
            &self.policy,
            encoder,
            &problems,
            (SAMPLES, iteration as u64),
        )
    }

    /// One update of the policy: token rewards, advantages within a prompt, the clipped objective. Gives the mean reward.
    fn teach_policy(&mut self, samples: &[RolloutGroup]) -> Result<f64, IrlError> {
        let groups = policy_groups(samples, &[], ExpertInGroup::Off);
        let rewards = token_rewards(
            &self.reward,
            &groups,
            &RewardSettings::default(),
            Passes::alone(TOKENS),
        )?;
        let mut settings = PolicySettings::default();
        settings.advantage.estimator = AdvantageKind::SoftMin { temperature: 0.5 };
        settings.optimiser = OptimiserSettings {
            learning_rate: 1e-3,
            weight_decay: 0.0,
            ..OptimiserSettings::default()
        };
        let optimiser = PolicyOptimiser {
            schedule: settings.optimiser.schedule(GAME),
            adamw: &mut self.policy_optimiser,
        };
        let mut metrics = IterationMetrics::default();
        let on = (groups.as_slice(), &rewards);
        update_policy(
            &self.policy,
            optimiser,
            on,
            (&settings, Passes::alone(TOKENS)),
            &mut metrics,
        )?;
        let tokens = rewards.iter().flatten();
        Ok(tokens.clone().map(|&r| f64::from(r)).sum::<f64>() / tokens.count().max(1) as f64)
    }
}

/// A random model after supervised fine-tuning of every weight.
fn fine_tuned(
    problems: &[Problem],
    style: &PromptSettings,
) -> Result<LanguageModel, Box<dyn Error>> {
    let (mut model, parameters) = toy::model(SEED)?;
    let policy = PolicyModel {
        transformer: Arc::clone(&model.transformer),
        trainable: Trainable::Whole(parameters),
    };
    let (demonstrations, _) = Encoder::new(&model, style, LIMITS).demonstrations(problems)?;
    let mut optimiser = AdamW::new(&policy.parameters())?;
    let adamw = OptimiserSettings {
        learning_rate: 3e-3,
        ..OptimiserSettings::default()
    };
    let schedule = adamw.schedule(SFT_UPDATES);
    for step in 0..SFT_UPDATES {
        let picked = order::batch(SEED, demonstrations.len(), 32, step);
        let groups: Vec<Group> = picked
            .iter()
            .map(|&i| Group {
                prompt: demonstrations[i].prompt.clone(),
                completions: vec![demonstrations[i].completion.ids.clone()],
            })
            .collect();
        let how = (Passes::alone(TOKENS), Reach::Completion);
        let (_, gradients) = update(&policy, &groups, how, |logprobs, _| {
            let output = token_mean_nll(logprobs);
            Ok((output.loss, output.grads))
        })?;
        let adamw = adamw.adamw(schedule.learning_rate(step));
        optimiser.step(&policy.parameters(), &gradients, &adamw, 1.0)?;
    }
    model.transformer = Arc::new(policy.transformer.detached());
    Ok(model)
}
