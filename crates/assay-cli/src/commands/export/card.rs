//! Model cards: a README.md with YAML metadata beside every exported model.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use assay_critic::reward_model::HEAD_FILE;

use super::Run;

/// The form of exported weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    Adapter,
    Merged,
}

const METHOD: &str = "Trained with [assay](https://arxiv.org/abs/2510.01857): adversarial inverse reinforcement learning \
of a dense, token-level reasoning reward from expert demonstrations.";

/// Writes `README.md`.
pub(super) fn write(dir: &Path, text: &str) -> Result<()> {
    let path = dir.join("README.md");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// The card of a policy.
pub(super) fn of_policy(run: &Run, base: &str, weights: Weights) -> Result<String> {
    let (library, relation) = match weights {
        Weights::Adapter => ("peft", "adapter"),
        Weights::Merged => ("transformers", "finetune"),
    };
    let mut card = metadata(base, library, relation, "text-generation");
    let what = match weights {
        Weights::Adapter => "A LoRA adapter",
        Weights::Merged => "A whole model: base and adapter merged",
    };
    write!(
        card,
        "# Policy of {}\n\n{what}, a policy that writes reasoning traces. {METHOD}\n\n",
        run.dir.display()
    )?;
    card.push_str("## Use\n\n```python\n");
    match weights {
        Weights::Adapter => write!(
            card,
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             base = AutoModelForCausalLM.from_pretrained({base:?})\n\
             model = PeftModel.from_pretrained(base, \"PATH_OF_THIS_DIRECTORY\")\n\
             tokenizer = AutoTokenizer.from_pretrained({base:?})\n"
        )?,
        Weights::Merged => card.push_str(
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             model = AutoModelForCausalLM.from_pretrained(\"PATH_OF_THIS_DIRECTORY\")\n\
             tokenizer = AutoTokenizer.from_pretrained(\"PATH_OF_THIS_DIRECTORY\")\n",
        ),
    }
    card.push_str(
        "```\n\nThe chat prompt that it was trained on is `[prompt]` in the settings below.\n\n",
    );
    if weights == Weights::Adapter && base.ends_with(".gguf") {
        card.push_str(
            "The base model is a GGUF file, which peft cannot put an adapter on: load the safetensors model that \
             the file was made from, or export with `--format merged`.\n\n",
        );
    }
    card.push_str(
        "## Intended use and limits\n\nFor reasoning tasks like those of its training data. It was trained to \
         write like the demonstrations, with a reward that was learned and can be wrong; check its answers before they \
         matter. What the base model must not be used for, it must not be used for either; the base model's licence \
         applies.\n\n",
    );
    training(&mut card, run)?;
    Ok(card)
}

/// The card of a reward.
pub(super) fn of_reward(run: &Run, base: &str, weights: Weights) -> Result<String> {
    let path = run.checkpoint.join("reward").join(HEAD_FILE);
    let head = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let classifier = run.settings.reward.head == assay_critic::HeadSettings::Linear;
    let task = if classifier {
        "token-classification"
    } else {
        "text-generation"
    };
    let (library, relation, what) = match weights {
        Weights::Adapter => ("peft", "adapter", "A LoRA adapter and a head that give"),
        Weights::Merged => (
            "transformers",
            "finetune",
            "A token classifier, base, adapter and head in one, that gives",
        ),
    };
    let mut card = metadata(base, library, relation, task);
    write!(
        card,
        "# Token reward of {}\n\n{what} every token of a reasoning trace a reward: high \
         where it reads like the expert's, low where it goes wrong. {METHOD}\n\n## Formula\n\n\
         With h_t the hidden state after token t (final norm applied), pi_D the adapted model and pi_ref the base \
         model, and in the terms of `{HEAD_FILE}`:\n\n```toml\n{}```\n\n\
         reward r_t = clamp(z_t / temperature, lower, upper), from `[scoring.transform]`. z_t = log D - log(1 - D) with D \
         the probability that the token is the expert's. Only completion tokens have a reward; with a granularity \
         other than dense a token takes the logit of the next labelled one.\n\n",
        run.dir.display(),
        head
    )?;
    card.push_str("## Use\n\n```python\n");
    card.push_str(&reward_use(base, classifier, weights));
    card.push_str("```\n\n");
    if weights == Weights::Adapter {
        card.push_str("or `assay score --reward PATH_OF_THIS_DIRECTORY --traces FILE`.\n\n");
    }
    card.push_str(
        "## Intended use and limits\n\nTo rank answers to one question, to show where a trace goes wrong, to train a \
         policy. Rewards of different questions are not comparable by construction. It knows the errors that it was \
         trained on and may overlook others; a policy trained against it for long enough will find what it \
         overlooks. It does not prove that an answer is right.\n\n",
    );
    training(&mut card, run)?;
    Ok(card)
}

/// The Python that computes a reward's logits.
fn reward_use(base: &str, classifier: bool, weights: Weights) -> String {
    let load = match (weights, classifier) {
        (Weights::Merged, _) => {
            "from transformers import AutoModelForTokenClassification\n\n\
             model = AutoModelForTokenClassification.from_pretrained(\"PATH_OF_THIS_DIRECTORY\").eval()\n"
                .to_owned()
        }
        (Weights::Adapter, true) => format!(
            "from peft import PeftModel\nfrom transformers import AutoModelForTokenClassification\n\n\
             base = AutoModelForTokenClassification.from_pretrained({base:?}, num_labels=1)\n\
             model = PeftModel.from_pretrained(base, \"PATH_OF_THIS_DIRECTORY\").eval()\n"
        ),
        (Weights::Adapter, false) => {
            return "# examples/token_rewards.py of assay computes the formula from this directory\n"
                .to_owned();
        }
    };
    load + "logits = model(input_ids).logits[0, :, 0]  # z_t, one a token of prompt and completion\n"
}

/// The YAML block. Strings are quoted as JSON, which is YAML.
fn metadata(base: &str, library: &str, relation: &str, task: &str) -> String {
    let base = serde_json::Value::from(base);
    format!(
        "---\nbase_model: {base}\nbase_model_relation: {relation}\nlibrary_name: {library}\npipeline_tag: {task}\n\
         tags:\n- assay\n- lora\n- reasoning\n- inverse-reinforcement-learning\n---\n\n"
    )
}

/// Data, metrics and settings of the run.
fn training(card: &mut String, run: &Run) -> Result<()> {
    let data = &run.settings.data;
    write!(
        card,
        "## Training\n\nCheckpoint after {} iterations, seed {}.\n\n",
        run.iteration, run.settings.seed
    )?;
    for (role, set) in [
        ("train", &data.train),
        ("validation", &data.validation),
        ("test", &data.test),
    ] {
        if !set.path.as_os_str().is_empty() {
            writeln!(card, "- {role}: `{}`", set.path.display())?;
        }
    }
    if let Some(row) = run.last_metrics() {
        write!(
            card,
            "\nMetrics of iteration {} ({}):\n\n| metric | value |\n|---|---|\n",
            row.iteration, row.phase
        )?;
        for (name, value) in &row.values {
            writeln!(card, "| {name} | {value:.6} |")?;
        }
    }
    let settings = run.settings.resolved_toml()?;
    write!(
        card,
        "\n<details><summary>All settings</summary>\n\n```toml\n{settings}```\n\n</details>\n"
    )?;
    Ok(())
}
