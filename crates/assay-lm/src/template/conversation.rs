//! Conversations of chat clients: JSON turns, and variables of a template.

use minijinja::Value as TemplateValue;
use minijinja::value::Serde;
use serde_json::{Map, Value};

use super::{ChatTemplate, GenerationPrompt, Kind, plain_ids, rendered_ids, unused_mark};
use crate::LmError;
use crate::tokenizer::Tokenizer;

/// Turns and variables of one rendering.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'c> {
    /// JSON objects with `role` and `content`, and other fields that a template reads, such as
    /// `tool_calls` and `name`.
    pub turns: &'c [Value],
    /// Variables besides the turns, such as `enable_thinking` and `tools`.
    pub variables: &'c Map<String, Value>,
}

impl ChatTemplate {
    /// Token ids of a conversation, up to and with the header of the assistant's turn.
    ///
    /// As in [`ChatTemplate::prompt_ids`], no text of a turn or a variable becomes a control token.
    /// The plain template reads only `content`.
    ///
    /// # Errors
    /// As [`ChatTemplate::prompt_ids`].
    pub fn conversation_ids(
        &self,
        tokenizer: &Tokenizer,
        conversation: Conversation<'_>,
    ) -> Result<Vec<u32>, LmError> {
        let Conversation { turns, variables } = conversation;
        let engine = match &self.kind {
            Kind::Jinja(engine) => engine,
            Kind::Plain => {
                let contents = turns.iter().filter_map(|turn| turn["content"].as_str());
                let text: String = contents.map(|content| format!("{content}\n\n")).collect();
                return plain_ids(tokenizer, &text);
            }
            Kind::Absent => {
                return Err(LmError::NoTemplate {
                    path: self.path.clone(),
                });
            }
        };
        let variables = Value::Object(variables.clone());
        // JSON text holds the characters of its strings, escapes aside.
        let texts: Vec<String> = turns
            .iter()
            .chain([&variables])
            .map(Value::to_string)
            .collect();
        let mark = unused_mark(texts.iter().map(String::as_str));
        let guard = |value: &Value| TemplateValue::from(Serde(guarded(value, tokenizer, mark)));
        let turns: TemplateValue = turns.iter().map(guard).collect();
        let text = self.render_turns(engine, turns, GenerationPrompt::Add, guard(&variables))?;
        rendered_ids(tokenizer, &text, mark)
    }

    /// Whether the template's source reads the tool calls of earlier turns.
    pub fn reads_tool_calls(&self) -> bool {
        self.source()
            .is_some_and(|source| source.contains("tool_calls"))
    }
}

/// The value with `mark` inserted into names of control tokens in its texts.
fn guarded(value: &Value, tokenizer: &Tokenizer, mark: char) -> Value {
    match value {
        Value::String(text) => Value::String(tokenizer.guard(text, mark)),
        Value::Array(values) => {
            let values = values.iter().map(|value| guarded(value, tokenizer, mark));
            Value::Array(values.collect())
        }
        Value::Object(fields) => {
            let guarded = |(name, value): (&String, &Value)| {
                (tokenizer.guard(name, mark), guarded(value, tokenizer, mark))
            };
            Value::Object(fields.iter().map(guarded).collect())
        }
        other => other.clone(),
    }
}
