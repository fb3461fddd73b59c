//! `assay serve`: serves the critic over HTTP.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use assay_evals::calibration::Calibration;
use assay_evals::scores::TraceScore;
use assay_lm::{LanguageModel, Placement, peft};
use assay_serve::{
    Batching, Events, Generator, Limits, Models, ServeSettings, ServedPolicy, ServedReward, Server,
    Token, Upstream,
};
use assay_tasks::labels::{LabelFile, OpenedLabels, RepairedTail};

use crate::args::ServeArgs;
use crate::open;
use crate::progress::message;

/// Largest file of a secret, in bytes.
const LARGEST_SECRET: u64 = 4096;

/// Base models by path. Rewards and a policy with the same base share it.
struct Bases {
    opened: Vec<(PathBuf, Arc<LanguageModel>)>,
    placement: Placement,
}

impl Bases {
    fn open(&mut self, path: &Path) -> Result<Arc<LanguageModel>> {
        if let Some((_, model)) = self.opened.iter().find(|(known, _)| known == path) {
            return Ok(Arc::clone(model));
        }
        let model = Arc::new(open::model(path, &self.placement)?);
        self.opened.push((path.to_owned(), Arc::clone(&model)));
        Ok(model)
    }
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let score = args.score.as_deref().map(TraceScore::parse).transpose()?;
    if let Some(score) = score {
        let made = TraceScore::OF_REWARDS.contains(&score);
        ensure!(
            made,
            "--score {} is not computed from token rewards",
            score.name()
        );
    }
    ensure!(args.token_budget > 0, "--token-budget must be at least 1");
    ensure!(args.max_batch > 0, "--max-batch must be at least 1");
    ensure!(args.timeout > 0, "--timeout must be at least 1");
    let timeout = Duration::from_secs(args.timeout);
    let settings = settings(args, timeout)?;
    let mut bases = Bases {
        opened: Vec::new(),
        placement: args.compute.placement()?,
    };
    let rewards = rewards(args, &mut bases)?;
    let generator = generator(args, &mut bases, timeout)?;
    let names: Vec<&str> = rewards.iter().map(|reward| reward.name.as_str()).collect();
    let names = names.join(", ");
    let models = Models::new(rewards, generator, score)?;
    let server = Server::bind(&args.addr, models, settings)?;
    let address = server.address();
    message(&format!(
        "serving {names} on http://{address} (viewer at /, description at /openapi.json)"
    ))?;
    if server.is_exposed() {
        message(&format!(
            "warning: {address} can be reached from other machines and requests need no token; add --token-file"
        ))?;
    }
    server.run()?;
    message("all requests answered, stopped")?;
    Ok(())
}

fn settings(args: &ServeArgs, timeout: Duration) -> Result<ServeSettings> {
    Ok(ServeSettings {
        limits: Limits {
            request_timeout: timeout,
            ..Limits::default()
        },
        batching: Batching {
            token_budget: args.token_budget,
            requests: args.max_batch,
        },
        token: args.token_file.as_deref().map(token).transpose()?,
        labels: args.labels.as_deref().map(labels).transpose()?,
        seed: args.seed,
        events: Events::new(|text| drop(message(text))),
    })
}

/// Opens a file of labels and prints how many it holds.
fn labels(path: &Path) -> Result<Arc<LabelFile>> {
    let OpenedLabels {
        file,
        labels,
        repaired,
    } = LabelFile::open(path)?;
    for note in labels.notes() {
        message(&note)?;
    }
    let name = path.display();
    match repaired {
        Some(RepairedTail::Removed(bytes)) => message(&format!(
            "{name}: removed the last {bytes} bytes, an incompletely written label"
        ))?,
        Some(RepairedTail::Ended) => {
            message(&format!("{name}: added the missing end of the last line"))?
        }
        None => {}
    }
    message(&format!("{name}: {} labels", labels.labels.len()))?;
    Ok(Arc::new(file))
}

/// Rewards by name: `NAME=DIR`, else `reward`, `reward-2`, ...
fn rewards(args: &ServeArgs, bases: &mut Bases) -> Result<Vec<ServedReward>> {
    let mut rewards = Vec::with_capacity(args.rewards.len());
    for (index, given) in args.rewards.iter().enumerate() {
        let (name, dir) = match given.split_once('=') {
            Some((name, dir)) if is_name(name) => (name.to_owned(), dir),
            _ if index == 0 => ("reward".to_owned(), given.as_str()),
            _ => (format!("reward-{}", index + 1), given.as_str()),
        };
        let dir = &open::reward_dir(open::locate(Path::new(dir))?)?;
        let path = match &args.model {
            Some(path) => path.clone(),
            None => PathBuf::from(peft::base_model(dir)?),
        };
        let model = bases.open(&path).with_context(|| {
            format!(
                "the base model of {} is {}; name another with --model",
                dir.display(),
                path.display()
            )
        })?;
        rewards.push(ServedReward {
            reward: open::reward_on(&model, dir, args.model.as_deref())?,
            calibration: Calibration::read(dir)?,
            name,
            model,
        });
    }
    Ok(rewards)
}

fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(known)
}

fn generator(args: &ServeArgs, bases: &mut Bases, timeout: Duration) -> Result<Option<Generator>> {
    if let Some(url) = &args.upstream {
        let key = args.upstream_key_file.as_deref().map(secret).transpose()?;
        let key = key.map(|key| key.trim().to_owned());
        return Ok(Some(Generator::Upstream(Upstream::new(url, key, timeout)?)));
    }
    let Some(path) = &args.policy else {
        return Ok(None);
    };
    let model = bases.open(path)?;
    let policy = open::policy(&model, args.adapter.as_deref())?;
    Ok(Some(Generator::Local(ServedPolicy { model, policy })))
}

fn token(path: &Path) -> Result<Token> {
    Token::parse(&secret(path)?).with_context(|| format!("reading {}", path.display()))
}

fn secret(path: &Path) -> Result<String> {
    let cannot_read = || format!("cannot read {}", path.display());
    let size = fs::metadata(path).with_context(cannot_read)?.len();
    ensure!(
        size <= LARGEST_SECRET,
        "{} has {size} bytes, too many for a file with one token",
        path.display()
    );
    fs::read_to_string(path).with_context(cannot_read)
}
