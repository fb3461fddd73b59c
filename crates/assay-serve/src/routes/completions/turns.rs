//! Reads the turns of a chat from a request and prepares them for the policy's chat template.
//!
//! A template that reads tool calls gets them unchanged. Otherwise, and if the template raises an
//! error, calls are written into the text of their turn and results become turns of the user, so
//! that nothing is lost.

use assay_lm::{Conversation, LanguageModel, LmError};
use assay_tasks::message::{Message, Role};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::refusal::Refusal;
use crate::requests::{ChatRequest, Content, Turn};

/// Variables of a chat template that only the server sets.
const RESERVED: [&str; 2] = ["messages", "add_generation_prompt"];

/// A chat that is ready for a template.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    /// Turns with `role`, a text as `content`, and the other fields as sent.
    turns: Vec<Value>,
    variables: Map<String, Value>,
}

/// The role of a turn in a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    System,
    User,
    Assistant,
    Tool,
}

impl Speaker {
    fn of(role: &str) -> Option<Self> {
        match role.to_ascii_lowercase().as_str() {
            "system" | "developer" => Some(Self::System),
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "tool" | "function" => Some(Self::Tool),
            _ => None,
        }
    }

    /// The role's name in chat templates.
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl Chat {
    /// Reads the turns and the template's variables of a request.
    pub(crate) fn new(app: &App, request: &ChatRequest) -> Result<Self, Refusal> {
        let turns = &request.messages;
        app.ensure_count("messages", turns.len())?;
        let mut read = Vec::with_capacity(turns.len());
        for (index, turn) in turns.iter().enumerate() {
            let param = format!("messages[{index}]");
            let turn = read_turn(&param, turn)?;
            app.ensure_text(&param, turn["content"].as_str().unwrap_or_default())?;
            read.push(turn);
        }
        Ok(Self {
            turns: read,
            variables: variables(request)?,
        })
    }

    /// The last turn of the user.
    pub(crate) fn question(&self) -> Option<&str> {
        let question = self.turns.iter().rfind(|turn| turn["role"] == "user");
        question.and_then(|turn| turn["content"].as_str())
    }

    pub(crate) fn has_system(&self) -> bool {
        self.turns.iter().any(|turn| turn["role"] == "system")
    }

    /// Inserts turns before those of the request.
    pub(crate) fn prepend(&mut self, messages: &[Message]) {
        let turn = |message: &Message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({ "role": role, "content": message.content })
        };
        let before: Vec<Value> = messages.iter().map(turn).collect();
        self.turns.splice(0..0, before);
    }

    /// The prompt as token ids of a model.
    pub(crate) fn encode(&self, model: &LanguageModel) -> Result<Vec<u32>, LmError> {
        let render = |turns: &[Value]| {
            model.conversation_ids(Conversation {
                turns,
                variables: &self.variables,
            })
        };
        if !self.turns.iter().any(uses_tools) {
            return render(&self.turns);
        }
        if model.template.reads_tool_calls()
            && let Ok(ids) = render(&self.turns)
        {
            return Ok(ids);
        }
        render(&without_tools(&self.turns))
    }
}

fn read_turn(param: &str, turn: &Turn) -> Result<Value, Refusal> {
    let speaker = Speaker::of(&turn.role).ok_or_else(|| {
        let message = "has a role other than system, developer, user, assistant, tool and function";
        Refusal::field(param, message)
    })?;
    let content = match &turn.content {
        Some(content) => text(param, content)?,
        None if matches!(speaker, Speaker::Assistant | Speaker::Tool) => String::new(),
        None => {
            let message = "has no content; expected a string or a list of parts with `text`";
            return Err(Refusal::field(param, message));
        }
    };
    let mut read = turn.rest.clone();
    read.retain(|_, value| !value.is_null());
    read.insert("role".to_owned(), speaker.name().into());
    read.insert("content".to_owned(), content.into());
    if let Some(calls) = read.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(parse_arguments);
    }
    Ok(Value::Object(read))
}

fn text(param: &str, content: &Content) -> Result<String, Refusal> {
    let parts = match content {
        Content::Text(text) => return Ok(text.clone()),
        Content::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match (part.kind.as_str(), &part.text) {
            ("text" | "input_text" | "output_text", Some(text)) => texts.push(text.as_str()),
            _ => {
                let message = format!(
                    "has a part of type `{}`: only texts are read here",
                    part.kind
                );
                return Err(Refusal::field(param, message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// Parses the arguments, which are sent as JSON text; templates read them as an object.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call
        .get_mut("function")
        .and_then(|f| f.get_mut("arguments"))
    else {
        return;
    };
    let parsed = arguments
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok());
    if let Some(object @ Value::Object(_)) = parsed {
        *arguments = object;
    }
}

/// The variables of the template: `chat_template_kwargs`, and fields that name one.
fn variables(request: &ChatRequest) -> Result<Map<String, Value>, Refusal> {
    let mut variables = request.chat_template_kwargs.clone().unwrap_or_default();
    if let Some(name) = RESERVED
        .into_iter()
        .find(|name| variables.contains_key(*name))
    {
        let message = "is given to the template by the server";
        return Err(Refusal::field(
            format!("chat_template_kwargs.{name}"),
            message,
        ));
    }
    let mut default = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            variables.entry(name).or_insert(value);
        }
    };
    default("enable_thinking", request.enable_thinking.map(Value::from));
    default(
        "reasoning_effort",
        request.reasoning_effort.clone().map(Value::from),
    );
    default(
        "tools",
        request
            .tools
            .clone()
            .filter(|t| !t.is_empty())
            .map(Value::from),
    );
    Ok(variables)
}

fn uses_tools(turn: &Value) -> bool {
    turn["role"] == "tool" || !calls(turn).is_empty()
}

/// The tool calls of a turn, or the single call of OpenAI's older API.
fn calls(turn: &Value) -> Vec<&Value> {
    let calls = turn["tool_calls"].as_array();
    let functions = calls
        .into_iter()
        .flatten()
        .filter_map(|call| call.get("function"));
    functions.chain(turn.get("function_call")).collect()
}

/// The turns as turns of system, user and assistant only; calls and results are written as text.
fn without_tools(turns: &[Value]) -> Vec<Value> {
    let mut plain: Vec<(&'static str, String)> = Vec::with_capacity(turns.len());
    for turn in turns {
        let content = turn["content"].as_str().unwrap_or_default();
        let speaker = Speaker::of(turn["role"].as_str().unwrap_or_default());
        let (role, content) = match speaker.unwrap_or(Speaker::User) {
            Speaker::Tool => {
                let result = format!("<tool_response>\n{content}\n</tool_response>");
                (Speaker::User.name(), result)
            }
            speaker => {
                let calls = calls(turn).into_iter();
                let calls = calls.map(|call| format!("<tool_call>\n{call}\n</tool_call>"));
                let said = Some(content.to_owned()).filter(|content| !content.is_empty());
                let parts: Vec<String> = said.into_iter().chain(calls).collect();
                (speaker.name(), parts.join("\n"))
            }
        };
        match plain.last_mut() {
            Some((last, before)) if *last == role && role == "user" => {
                before.push('\n');
                before.push_str(&content);
            }
            _ => plain.push((role, content)),
        }
    }
    let turn = |(role, content)| json!({ "role": role, "content": content });
    plain.into_iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::RequestBody;

    fn request(body: Value) -> ChatRequest {
        let Value::Object(fields) = body else {
            unreachable!("a body is an object");
        };
        ChatRequest::shape().read(fields).unwrap()
    }

    fn turns(messages: Value) -> Result<Vec<Value>, String> {
        let request = request(json!({ "messages": messages }));
        let turns = request.messages.iter().enumerate();
        let read = turns.map(|(index, turn)| read_turn(&format!("messages[{index}]"), turn));
        let read: Result<Vec<Value>, Refusal> = read.collect();
        read.map_err(|refusal| refusal.message().to_owned())
    }

    fn history() -> Value {
        json!([
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "3" }, { "type": "text", "text": "plus 4?" }] },
            { "role": "assistant", "content": null, "refusal": null, "tool_calls": [
                { "id": "1", "type": "function", "function": { "name": "add", "arguments": "{\"a\": 3}" } },
            ] },
            { "role": "tool", "tool_call_id": "1", "content": "7" },
            { "role": "user", "content": "Thanks." },
        ])
    }

    #[test]
    fn tool_turns_keep_what_templates_read() {
        let turns = turns(history()).unwrap();
        assert_eq!(
            turns[0],
            json!({ "role": "system", "content": "Be brief." })
        );
        assert_eq!(turns[1], json!({ "role": "user", "content": "3\nplus 4?" }));
        assert_eq!(turns[2]["content"], "");
        assert_eq!(
            turns[2]["tool_calls"][0]["function"]["arguments"],
            json!({ "a": 3 })
        );
        assert_eq!(turns[2].get("refusal"), None);
        assert_eq!(
            turns[3],
            json!({ "tool_call_id": "1", "role": "tool", "content": "7" })
        );
    }

    #[test]
    fn without_tools_calls_and_results_are_text() {
        let plain = without_tools(&turns(history()).unwrap());
        let call = "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":3}}\n</tool_call>";
        assert_eq!(plain[2], json!({ "role": "assistant", "content": call }));
        let result = "<tool_response>\n7\n</tool_response>\nThanks.";
        assert_eq!(plain[3], json!({ "role": "user", "content": result }));
        assert_eq!(plain.len(), 4);
        let old =
            json!([{ "role": "assistant", "function_call": { "name": "f", "arguments": "1" } }]);
        let old = without_tools(&turns(old).unwrap());
        assert!(
            old[0]["content"]
                .as_str()
                .unwrap()
                .contains("\"name\":\"f\"")
        );
    }

    #[test]
    fn variables_come_from_every_field_for_them() {
        let user = json!([{ "role": "user", "content": "1" }]);
        let read = |fields: Value| {
            let mut body = json!({ "messages": user });
            for (name, value) in fields.as_object().unwrap() {
                body[name] = value.clone();
            }
            variables(&request(body))
        };
        let given = read(json!({
            "chat_template_kwargs": { "enable_thinking": false, "x": null, "n": 1.0 },
            "enable_thinking": true, "reasoning_effort": "low", "tools": [],
        }));
        let expected =
            json!({ "enable_thinking": false, "x": null, "n": 1.0, "reasoning_effort": "low" });
        assert_eq!(Value::Object(given.unwrap()), expected);
        let refusal = read(json!({ "chat_template_kwargs": { "messages": [] } })).unwrap_err();
        assert!(
            refusal
                .message()
                .starts_with("`chat_template_kwargs.messages`: ")
        );
    }
}
