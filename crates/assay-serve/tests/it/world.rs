//! A tiny model with a linear reward, the offline critic over it, and a server of both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use assay_critic::Critic;
use assay_critic::policy_model::{PolicyModel, Trainable};
use assay_critic::reward_model::RewardModel;
use assay_evals::calibration::Calibration;
use assay_lm::{LanguageModel, Storage};
use assay_serve::{Generator, Models, ServeSettings, ServedPolicy, ServedReward, Server, Upstream};
use assay_tasks::arithmetic::{ArithmeticSettings, Split, generate};
use assay_tasks::labels::LabelFile;
use assay_tasks::trace::ScoredTrace;
use assay_testkit::{tiny_model, wave_reward};
use serde_json::json;
use tokio::sync::oneshot;

pub(crate) const POSITIONS: usize = 160;

/// The tiny model; always the same.
pub(crate) fn tiny() -> LanguageModel {
    tiny_model(&[], POSITIONS)
}

/// The same model with NaN as the embedding of one token, so traces with that token have no finite
/// reward.
pub(crate) fn poisoned(token: &str) -> LanguageModel {
    let dir = tempfile::TempDir::new().unwrap();
    let model = tiny();
    model.save(dir.path()).unwrap();
    let row = model.tokenizer.encode(token).unwrap()[0] as usize;
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let embedding = &tensors["model.embed_tokens.weight"];
    let start = 8 + header + embedding["data_offsets"][0].as_u64().unwrap() as usize;
    let width = 4 * embedding["shape"][1].as_u64().unwrap() as usize;
    let row = start + row * width..start + (row + 1) * width;
    for value in bytes[row].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    LanguageModel::open(dir.path(), Storage::Expanded, &assay_lm::Placement::cpu()).unwrap()
}

/// Questions with their demonstrations.
pub(crate) fn questions() -> Vec<(String, String)> {
    let settings = ArithmeticSettings {
        problems: 8,
        ..ArithmeticSettings::default()
    };
    let problems = generate(&settings, Split::Train, 5).unwrap();
    let texts = problems.into_iter().map(|problem| {
        let (reasoning, answer) = (problem.demonstration.unwrap(), problem.answer.unwrap());
        (problem.question, format!("{reasoning}\n#### {answer}"))
    });
    texts.collect()
}

/// What `assay score` computes for these texts.
pub(crate) fn offline(pairs: &[(String, String)]) -> Vec<ScoredTrace> {
    let model = tiny();
    offline_by(&model, &wave_reward(&model, 1.0), pairs)
}

pub(crate) fn offline_by(
    model: &LanguageModel,
    reward: &RewardModel,
    pairs: &[(String, String)],
) -> Vec<ScoredTrace> {
    let mut traces: Vec<ScoredTrace> = pairs
        .iter()
        .map(|(question, text)| ScoredTrace {
            question: question.clone(),
            text: text.clone(),
            ..ScoredTrace::default()
        })
        .collect();
    let critic = Critic::new(reward, model, 4096);
    assert_eq!(critic.score(&mut traces, None).unwrap().unscored, 0);
    traces
}

/// A calibration file with sigmoid(2 last - 1).
pub(crate) fn calibration() -> Calibration {
    serde_json::from_value(json!({
        "fitted": {
            "score": "last",
            "platt": { "scale": 2.0, "bias": -1.0 },
            "isotonic": { "scores": [], "probabilities": [] },
            "selectors": { "vote_temperature": 1.0, "combination_weight": 0.5 },
        },
        "scores": {}, "method": "platt", "data": "by hand", "traces": 2, "problems": 1,
    }))
    .unwrap()
}

/// Two rewards of the tiny model: `reward`, and `other` with a calibration of its last reward.
pub(crate) fn models(generator: Option<Generator>) -> Models {
    models_of(tiny(), generator)
}

pub(crate) fn models_of(model: LanguageModel, generator: Option<Generator>) -> Models {
    let model = Arc::new(model);
    let served = |name: &str, factor: f64| ServedReward {
        name: name.to_owned(),
        reward: wave_reward(&model, factor),
        model: Arc::clone(&model),
        calibration: (name == "other").then(calibration),
    };
    let rewards = vec![served("reward", 1.0), served("other", 2.0)];
    Models::new(rewards, generator, None).unwrap()
}

/// The tiny model as a policy.
pub(crate) fn policy() -> Option<Generator> {
    let model = Arc::new(tiny());
    let policy = PolicyModel {
        transformer: Arc::clone(&model.transformer),
        trainable: Trainable::Whole(Vec::new()),
    };
    Some(Generator::Local(ServedPolicy { model, policy }))
}

pub(crate) fn upstream(address: SocketAddr) -> Option<Generator> {
    let url = format!("http://{address}/v1");
    let timeout = std::time::Duration::from_secs(10);
    let upstream = Upstream::new(&url, Some("upstream key".to_owned()), timeout).unwrap();
    Some(Generator::Upstream(upstream))
}

/// A server on a free port of the loopback; it stops when it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new(models: Models, settings: ServeSettings) -> Self {
        let server = Server::bind("localhost:0", models, settings).unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            server
                .run_until(async move { drop(stopped.await) })
                .unwrap();
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A server with the default settings.
    pub(crate) fn default_of(models: Models) -> Self {
        Self::new(models, ServeSettings::default())
    }

    /// A server that keeps labels.
    pub(crate) fn labelled(models: Models) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let opened = LabelFile::open(file.path()).unwrap();
        let settings = ServeSettings {
            labels: Some(Arc::new(opened.file)),
            ..ServeSettings::default()
        };
        Self::new(models, settings)
    }

    /// Tells the server to stop, without waiting.
    pub(crate) fn tell_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has ended.
    pub(crate) fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}
