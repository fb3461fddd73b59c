//! Chats in the formats of data sets: OpenAI's `role` and `content`, ShareGPT's `from` and `value`.
//!
//! Content is a text, null, or a list of parts. Reasoning of an assistant turn is in
//! `reasoning_content`, `reasoning` or `thinking`, or in a part of that type.

use serde_json::{Map, Value};

use super::rows::problem_of_marker;
use crate::RecordFault;

/// Keys that name the speaker of a turn.
const ROLE_KEYS: [&str; 2] = ["role", "from"];
/// Keys that hold the text of a turn.
const CONTENT_KEYS: [&str; 3] = ["content", "value", "text"];
/// Keys of the reasoning of an assistant's turn or part.
const REASONING_KEYS: [&str; 4] = ["reasoning_content", "thinking", "reasoning", "thought"];

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaker {
    System,
    User,
    Assistant,
    /// A tool, or the call of one.
    Tool,
}

/// One turn of a chat.
#[derive(Debug)]
pub(super) struct Turn {
    speaker: Speaker,
    text: String,
    reasoning: Option<String>,
}

/// A question and the reply to it, taken from a chat.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    /// The last user turn before the reply.
    pub(super) question: Option<String>,
    /// The last assistant turn, with its reasoning inside `<think>`.
    pub(super) reply: Option<String>,
    /// Notes on other content of the chat.
    pub(super) notes: Vec<String>,
}

/// Whether a value looks like a chat: a list whose first element is an object with a speaker.
pub(super) fn is_chat(value: &Value) -> bool {
    let first = value.as_array().and_then(|turns| turns.first());
    let first = first.and_then(Value::as_object);
    first.is_some_and(|turn| ROLE_KEYS.iter().any(|key| turn.contains_key(*key)))
}

/// The turns of a chat.
///
/// # Errors
/// [`RecordFault::Column`] for a value that is not a chat, an unknown speaker, or content that is
/// not text.
pub(super) fn turns(column: &str, value: &Value) -> Result<Vec<Turn>, RecordFault> {
    let fault = |problem: String| RecordFault::Column {
        column: column.to_owned(),
        problem,
    };
    let parsed: Value;
    let value = match value.as_str() {
        Some(text) if text.trim_start().starts_with('[') => {
            parsed = serde_json::from_str(text).unwrap_or_default();
            &parsed
        }
        _ => value,
    };
    let Value::Array(elements) = value else {
        let problem = problem_of_marker(value).unwrap_or("is not a list of turns");
        return Err(fault(problem.to_owned()));
    };
    elements
        .iter()
        .map(|element| turn(element).map_err(&fault))
        .collect()
}

fn turn(element: &Value) -> Result<Turn, String> {
    let turn = element
        .as_object()
        .ok_or("has a turn that is not an object with `role` and `content`")?;
    let role = ROLE_KEYS.iter().find_map(|key| turn.get(*key)?.as_str());
    let role = role.ok_or("has a turn without a `role`")?;
    let speaker = speaker(role).ok_or_else(|| {
        format!("has a turn of the unknown role `{role}`; known are system, developer, user, assistant and tool")
    })?;
    let content = CONTENT_KEYS.iter().find_map(|key| turn.get(*key));
    let (text, in_parts) = match (content, speaker) {
        // Output of tools is not used.
        (_, Speaker::Tool) | (None, _) => (String::new(), None),
        (Some(content), _) => content_text(content)?,
    };
    Ok(Turn {
        speaker,
        text,
        reasoning: reasoning(turn).or(in_parts),
    })
}

fn speaker(role: &str) -> Option<Speaker> {
    Some(match role.trim().to_lowercase().as_str() {
        "system" | "developer" => Speaker::System,
        "user" | "human" | "prompter" => Speaker::User,
        "assistant" | "gpt" | "chatgpt" | "model" | "bot" | "ai" => Speaker::Assistant,
        "tool" | "function" | "tool_call" | "tool_response" | "tool_result" | "function_call"
        | "function_response" | "observation" | "ipython" => Speaker::Tool,
        _ => return None,
    })
}

fn reasoning(object: &Map<String, Value>) -> Option<String> {
    let mut texts = REASONING_KEYS
        .iter()
        .filter_map(|key| object.get(*key)?.as_str());
    texts
        .find(|text| !text.trim().is_empty())
        .map(str::to_owned)
}

/// The text of a turn's content, and the reasoning in its parts.
fn content_text(content: &Value) -> Result<(String, Option<String>), String> {
    let parts = match content {
        Value::Null => return Ok((String::new(), None)),
        Value::String(text) => return Ok((text.clone(), None)),
        Value::Number(number) => return Ok((number.to_string(), None)),
        Value::Array(parts) => parts.as_slice(),
        Value::Object(_) => std::slice::from_ref(content),
        Value::Bool(_) => return Err("has a turn whose content is not text".to_owned()),
    };
    let (mut texts, mut reasons) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Value::String(text) => texts.push(text.clone()),
            Value::Object(part) => match part_text(part)? {
                Part::Text(text) => texts.push(text),
                Part::Reasoning(text) => reasons.push(text),
            },
            _ => return Err("has a turn with a part that is not text".to_owned()),
        }
    }
    let reasoning = (!reasons.is_empty()).then(|| reasons.join("\n"));
    Ok((texts.join("\n"), reasoning))
}

enum Part {
    Text(String),
    Reasoning(String),
}

fn part_text(part: &Map<String, Value>) -> Result<Part, String> {
    let kind = part.get("type").and_then(Value::as_str);
    let text = CONTENT_KEYS.iter().find_map(|key| part.get(*key)?.as_str());
    match kind {
        Some("thinking" | "reasoning" | "thought") => reasoning(part)
            .or_else(|| text.map(str::to_owned))
            .map(Part::Reasoning)
            .ok_or_else(|| "has a turn with a reasoning part without text".to_owned()),
        Some("text" | "input_text" | "output_text") | None => text
            .map(|text| Part::Text(text.to_owned()))
            .ok_or_else(|| "has a turn with a part without text".to_owned()),
        Some(other) => Err(format!(
            "has a turn with a part of type `{other}`; only text is read"
        )),
    }
}

/// The last assistant turn and the last user turn before it; without an assistant turn, the last
/// user turn.
pub(super) fn exchange(turns: &[Turn]) -> Exchange {
    let reply = turns
        .iter()
        .rposition(|turn| turn.speaker == Speaker::Assistant);
    let before = &turns[..reply.unwrap_or(turns.len())];
    let question = before
        .iter()
        .rposition(|turn| turn.speaker == Speaker::User);
    let mut notes = Vec::new();
    if turns.iter().any(|turn| turn.speaker == Speaker::System) {
        notes.push("a system turn is not used: the prompt style's takes its place".to_owned());
    }
    let unused = turns.iter().enumerate().any(|(index, turn)| {
        turn.speaker != Speaker::System && Some(index) != question && Some(index) != reply
    });
    if unused {
        let note = "turns besides the last question and its last reply are not used";
        notes.push(note.to_owned());
    }
    Exchange {
        question: question.map(|index| turns[index].text.clone()),
        reply: reply.and_then(|index| turns[index].completion()),
        notes,
    }
}

impl Turn {
    /// The turn as a completion, its reasoning first.
    fn completion(&self) -> Option<String> {
        match &self.reasoning {
            Some(reasoning) if !self.text.contains(reasoning.trim()) => Some(format!(
                "<think>\n{}\n</think>\n{}",
                reasoning.trim(),
                self.text
            )),
            _ => (!self.text.trim().is_empty()).then(|| self.text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exchange_of(turns_json: Value) -> Exchange {
        exchange(&turns("messages", &turns_json).unwrap())
    }

    fn fault(turns_json: Value) -> String {
        turns("messages", &turns_json).unwrap_err().to_string()
    }

    #[test]
    fn roles_are_known_in_any_case_and_dialect() {
        for (user, assistant) in [
            ("user", "assistant"),
            ("USER", "Assistant"),
            ("human", "gpt"),
            ("Human", "model"),
        ] {
            let chat = json!([
                {"from": "System", "value": "s"},
                {"from": user, "value": "Q"},
                {"from": assistant, "value": "A"}
            ]);
            let exchange = exchange_of(chat);
            assert_eq!(
                (exchange.question.as_deref(), exchange.reply.as_deref()),
                (Some("Q"), Some("A"))
            );
            assert!(exchange.notes[0].contains("system turn"));
        }
        assert!(fault(json!([{"role": "root", "content": "x"}])).contains("unknown role `root`"));
    }

    #[test]
    fn tool_turns_without_text_are_skipped() {
        let chat = json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": 1}]},
            {"role": "TOOL", "content": [{"type": "image"}]},
            {"role": "assistant", "content": "42"}
        ]);
        let exchange = exchange_of(chat);
        assert_eq!(exchange.question.as_deref(), Some("Q"));
        assert_eq!(exchange.reply.as_deref(), Some("42"));
        assert_eq!(exchange.notes.len(), 2);
    }

    #[test]
    fn content_may_be_parts() {
        let chat = json!([
            {"role": "user", "content": [{"type": "text", "text": "What is"}, {"text": "1+1?", "type": "text"}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "2"}]}
        ]);
        let exchange = exchange_of(chat);
        assert_eq!(exchange.question.as_deref(), Some("What is\n1+1?"));
        assert_eq!(exchange.reply.as_deref(), Some("<think>\nhm\n</think>\n2"));
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
        assert!(fault(image).contains("part of type `image_url`; only text is read"));
    }

    #[test]
    fn reasoning_comes_before_the_reply_once() {
        for key in REASONING_KEYS {
            let chat = json!([{"role": "user", "content": "Q"}, {"role": "assistant", key: " r ", "content": "a"}]);
            let reply = exchange_of(chat).reply;
            assert_eq!(reply.as_deref(), Some("<think>\nr\n</think>\na"), "{key}");
        }
        let twice = json!([{"role": "assistant", "thinking": "r", "content": "<think>r</think>a"}]);
        let reply = exchange_of(twice).reply;
        assert_eq!(reply.as_deref(), Some("<think>r</think>a"));
        let empty = json!([{"role": "assistant", "reasoning_content": "", "content": "a"}]);
        assert_eq!(exchange_of(empty).reply.as_deref(), Some("a"));
    }

    #[test]
    fn the_question_directly_precedes_the_reply() {
        let chat = json!([
            {"role": "user", "content": "old"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": "new"}, {"role": "assistant", "content": "y"},
            {"role": "user", "content": "later"}
        ]);
        let exchange = exchange_of(chat);
        assert_eq!(
            (exchange.question.as_deref(), exchange.reply.as_deref()),
            (Some("new"), Some("y"))
        );
        assert_eq!(exchange_of(json!([])), Exchange::default());
    }
}
