//! The stages of the quickstart: it generates problems, trains the base model by supervised
//! fine-tuning and continues training in three ways.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use assay_critic::policy_model::PolicyModel;
use assay_critic::reward_model::RewardModel;
use assay_lm::transformer::Transformer;
use assay_lm::{
    Architecture, ChatTemplate, LanguageModel, ModelConfig, Placement, RopeScaling, RopeSettings,
    Storage, Tokenizer,
};
use assay_tasks::arithmetic::Split;
use assay_tasks::problem::{Problem, assert_disjoint};
use assay_train::ranks::SingleProcess;
use assay_train::run::RunLock;
use assay_train::run::{RunMode, TrainInputs, Trained, TrainerKind, train};
use assay_train::settings::{PolicyStart, Settings, TrainedParameters};

use crate::args::Task;
use crate::progress::Progress;

/// Numbers of demonstrations, validation problems and test problems.
const DEMONSTRATIONS: usize = 12_000;
const VALIDATION: usize = 64;
const TEST: usize = 200;
/// The end-of-turn token, the first entry of the vocabulary.
const END: &str = "<|end|>";
const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}\
{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}";

/// Everything that the stages share.
pub(super) struct Stages<'s> {
    /// Settings of AIRL training. Each stage derives its own from them.
    pub(super) settings: Settings,
    task: Task,
    /// Demonstrations.
    pub(super) train: Vec<Problem>,
    /// Problems on which trace scores and calibration are fitted.
    pub(super) validation: Vec<Problem>,
    /// Problems on which results are reported.
    pub(super) test: Vec<Problem>,
    out: &'s Path,
}

/// The trained policies and the reward.
pub(super) struct Players {
    /// The policy of AIRL.
    pub(super) airl: PolicyModel,
    /// The reward of AIRL.
    pub(super) reward: RewardModel,
    /// The policy trained by GRPO with the verifier.
    pub(super) grpo: PolicyModel,
    /// The policy trained on more demonstrations.
    pub(super) more_sft: PolicyModel,
}

impl<'s> Stages<'s> {
    /// Generates the problems.
    pub(super) fn new(task: Task, settings: &Settings, out: &'s Path) -> Result<Self> {
        let of = |problems, split| task.problems(problems, split, settings.seed);
        let train = of(DEMONSTRATIONS, Split::Train)?;
        let validation = of(VALIDATION, Split::Validation)?;
        let test = of(TEST, Split::Test)?;
        assert_disjoint(&train, &validation, &test)?;
        let mut settings = settings.clone();
        settings.reward.perturbations.alphabet = task.alphabet();
        Ok(Self {
            settings,
            task,
            train,
            validation,
            test,
            out,
        })
    }

    /// The base model: all weights are trained from scratch on the demonstrations.
    pub(super) fn fine_tune(&self) -> Result<LanguageModel> {
        let dir = self.out.join("model");
        let fresh = self.fresh_model()?;
        let mut settings = self.settings.clone();
        settings.policy.trained = TrainedParameters::Whole;
        let trained = self.train(TrainerKind::Sft, &settings, &fresh, "sft")?;
        std::fs::create_dir_all(&dir)?;
        let base = LanguageModel {
            transformer: Arc::new(trained.policy.transformer.detached()),
            ..fresh
        };
        base.save(&dir)?;
        Ok(LanguageModel::open(
            &dir,
            Storage::Expanded,
            &Placement::cpu(),
        )?)
    }

    /// Trains the base model further in three ways: AIRL, GRPO and more SFT.
    pub(super) fn play(&self, base: &LanguageModel) -> Result<Players> {
        let mut settings = self.settings.clone();
        settings.model.path = PathBuf::from(&base.name);
        let airl = self.train(TrainerKind::Airl, &settings, base, "airl")?;
        let Some(reward) = airl.reward else {
            anyhow::bail!("AIRL training returned no reward model")
        };
        let mut grpo = settings.clone();
        grpo.run.iterations -= grpo.reward.schedule.warmup_iterations;
        let policy_iterations = grpo.run.iterations;
        let grpo = self.train(TrainerKind::Grpo, &grpo, base, "grpo")?;
        let mut more = settings;
        more.policy.start = PolicyStart::Base;
        more.sft.epochs = 1;
        more.sft.demonstrations_per_update = more.run.prompts_per_iteration * more.sampling.samples;
        more.optimiser.sft = more.optimiser.policy.clone();
        let seen = more.sft.demonstrations_per_update * policy_iterations;
        let subset = &self.train[..seen.min(self.train.len())];
        let more_sft = self.train_on(TrainerKind::Sft, &more, base, "more-sft", subset)?;
        Ok(Players {
            airl: airl.policy,
            reward,
            grpo: grpo.policy,
            more_sft: more_sft.policy,
        })
    }

    fn train(
        &self,
        kind: TrainerKind,
        settings: &Settings,
        model: &LanguageModel,
        name: &str,
    ) -> Result<Trained> {
        self.train_on(kind, settings, model, name, &self.train)
    }

    fn train_on(
        &self,
        kind: TrainerKind,
        settings: &Settings,
        model: &LanguageModel,
        name: &str,
        problems: &[Problem],
    ) -> Result<Trained> {
        let dir = self.fresh_directory(name)?;
        let inputs = TrainInputs {
            kind,
            settings,
            model,
            reward_backbone: Arc::clone(&model.transformer),
            train: problems,
            validation: &self.validation,
            ranks: &SingleProcess,
        };
        let mut progress = Progress::new(name, 0);
        let trained = train(&inputs, &dir, RunMode::Fresh, &mut progress)?;
        progress.finish();
        Ok(trained)
    }

    /// The directory of a run, without an earlier run of this name: a quickstart never resumes.
    fn fresh_directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.out.join(name);
        if dir.exists() {
            let _lock = RunLock::acquire(&dir)?;
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(dir)
    }

    fn fresh_model(&self) -> Result<LanguageModel> {
        let entries: Vec<&str> = std::iter::once(END).chain(self.task.vocabulary()).collect();
        let tokenizer = Tokenizer::from_vocabulary(&entries)?;
        let template = ChatTemplate::new(TEMPLATE, &tokenizer, Path::new("built-in template"))?;
        let config = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: tokenizer.vocab_size(),
            hidden_size: 64,
            intermediate_size: 176,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            rms_norm_eps: 1e-5,
            rope: RopeSettings {
                theta: self.task.rope_theta(),
                scaling: RopeScaling::None,
            },
            max_positions: 256,
            pattern: assay_lm::LayerPattern::default(),
            qkv_bias: false,
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_ids: vec![template.end_of_turn()],
        };
        let (transformer, _) = Transformer::random(&config, self.settings.seed)?;
        let name = self.out.join("model").display().to_string();
        Ok(LanguageModel {
            transformer: Arc::new(transformer.detached()),
            tokenizer,
            template,
            name,
        })
    }
}
