//! Parses the response of a completions server into tokens with log-probabilities.
//!
//! Ids come from `token_ids` (vLLM with `return_token_ids`) or from tokens named `token_id:N` (vLLM
//! and SGLang on request). If there is only text, it is encoded again, and every token must have
//! the text of the server's token.

use assay_lm::LanguageModel;
use assay_lm::sampling::Completion;
use serde_json::Value;

/// Highest log-probability that rounding may produce.
const ROUNDING: f64 = 1e-3;

/// A completion of a server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampled {
    /// Tokens, including the end-of-turn token if it ended.
    pub(super) ids: Vec<u32>,
    /// The server's log-probability of each token; `None` if it returns none, as llama.cpp for the
    /// end-of-turn token.
    pub(super) logprobs: Vec<Option<f32>>,
    /// Whether the completion limit was reached.
    pub(super) truncated: bool,
}

impl Sampled {
    /// Reads the first choice of a response.
    ///
    /// # Errors
    /// The reason why it cannot be used.
    pub(super) fn read(body: &[u8], model: &LanguageModel, limit: usize) -> Result<Self, String> {
        let answer: Value =
            serde_json::from_slice(body).map_err(|_| "the answer is not JSON".to_owned())?;
        let choice = answer
            .pointer("/choices/0")
            .ok_or("the answer has no choice")?;
        let truncated = match choice.get("finish_reason").and_then(Value::as_str) {
            Some("length") => true,
            Some("stop") => false,
            other => {
                return Err(format!(
                    "finish_reason is {other:?}, not \"stop\" or \"length\""
                ));
            }
        };
        let logprobs = token_logprobs(choice)?;
        let mut sampled = Self {
            ids: token_ids(choice, model, logprobs.len())?,
            logprobs,
            truncated,
        };
        let end = model.end_of_turn();
        if !truncated && sampled.ids.last() != Some(&end) {
            sampled.ids.push(end);
            sampled.logprobs.push(None);
        }
        sampled.check(model.tokenizer.vocab_size(), limit)?;
        Ok(sampled)
    }

    fn check(&self, vocabulary: usize, limit: usize) -> Result<(), String> {
        if self.ids.is_empty() || self.ids.len() > limit {
            let found = self.ids.len();
            return Err(format!("{found} tokens, where 1 to {limit} were asked for"));
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(format!(
                "token id {id} is beyond the vocabulary of {vocabulary}"
            ));
        }
        Ok(())
    }

    /// Converts it into a sampled completion. `policy` are the trainer's own log-probabilities,
    /// which replace missing ones of the server.
    pub(super) fn into_completion(self, policy: Vec<f32>) -> Completion {
        let given = self.logprobs.iter().zip(&policy);
        Completion {
            sampling_logprobs: given.map(|(given, own)| given.unwrap_or(*own)).collect(),
            policy_logprobs: policy,
            token_ids: self.ids,
            truncated: self.truncated,
        }
    }
}

fn token_logprobs(choice: &Value) -> Result<Vec<Option<f32>>, String> {
    let values = choice
        .pointer("/logprobs/token_logprobs")
        .and_then(Value::as_array)
        .ok_or("the answer has no log-probabilities: the server must return them (llama.cpp: --logits_all true)")?;
    let read = |value: &Value| match value.as_f64() {
        Some(number) if number.is_finite() && number <= ROUNDING => {
            Ok(Some(number.min(0.0) as f32))
        }
        _ => Err(format!("{value} is no log-probability")),
    };
    values.iter().map(read).collect()
}

fn token_ids(choice: &Value, model: &LanguageModel, count: usize) -> Result<Vec<u32>, String> {
    let ids = match choice.get("token_ids").filter(|ids| !ids.is_null()) {
        Some(ids) => serde_json::from_value(ids.clone()).map_err(|_| "token_ids are no ids")?,
        None => match named_ids(choice) {
            Some(ids) => ids,
            None => encoded(choice, model)?,
        },
    };
    if ids.len() != count {
        let found = ids.len();
        return Err(format!("{found} tokens, but {count} log-probabilities"));
    }
    Ok(ids)
}

/// Ids from tokens that are all named `token_id:N`.
fn named_ids(choice: &Value) -> Option<Vec<u32>> {
    let tokens = choice.pointer("/logprobs/tokens")?.as_array()?;
    let id = |token: &Value| token.as_str()?.strip_prefix("token_id:")?.parse().ok();
    tokens.iter().map(id).collect()
}

/// The text's tokens. Fails if one has another text than the server's token.
fn encoded(choice: &Value, model: &LanguageModel) -> Result<Vec<u32>, String> {
    let text = choice.get("text").and_then(Value::as_str).unwrap_or("");
    let encoding = model.tokenizer.encode_with_offsets(text);
    let (ids, spans) = encoding.map_err(|error| error.to_string())?;
    let tokens = choice.pointer("/logprobs/tokens").and_then(Value::as_array);
    let tokens = tokens.ok_or("the answer has neither token_ids nor tokens")?;
    // Servers return U+FFFD for a token that is a part of a character.
    let differs = |(token, &(start, end)): (&Value, &(usize, usize))| {
        let spelled = token.as_str().unwrap_or("");
        !spelled.contains(char::REPLACEMENT_CHARACTER) && text.get(start..end) != Some(spelled)
    };
    if tokens.len() != ids.len() || tokens.iter().zip(&spans).any(differs) {
        return Err("the server's tokens are not those of the model's tokenizer".to_owned());
    }
    Ok(ids)
}
