//! How a question is asked and how a completion is written: one rendering for demonstrations and foreign traces alike.

use serde::{Deserialize, Serialize};

use crate::answers::AnswerForm;
use crate::message::Message;
use crate::problem::Problem;

/// The instructions and the completion's layout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// Reasoning inside `<think>`, the answer inside `<answer>`, asked for by a system message.
    #[default]
    ThinkAnswer,
    /// Reasoning lines, then `#### answer`, asked for by a system message.
    Gsm8k,
    /// The question alone; completions as in `Gsm8k`.
    Plain,
    /// Another system message.
    Custom {
        /// The system message.
        system: String,
        /// The completion's layout.
        #[serde(default)]
        form: AnswerForm,
    },
}

/// A worked example shown before the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkedExample {
    /// The example's question.
    pub question: String,
    /// Its reasoning.
    pub reasoning: String,
    /// Its answer.
    pub answer: String,
}

/// How questions are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSettings {
    /// The instructions and the completion's layout.
    pub style: PromptStyle,
    /// Worked examples shown as earlier turns.
    pub examples: Vec<WorkedExample>,
}

/// A foreign text in the layout of a style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedTrace {
    /// The completion text.
    pub text: String,
    /// The final answer, if the text states one.
    pub answer: Option<String>,
}

impl PromptSettings {
    /// The chat that asks `question`.
    pub fn messages(&self, _question: &str) -> Vec<Message> {
        Vec::new()
    }

    /// The completion that reasons and answers.
    pub fn completion(&self, _reasoning: &str, _answer: &str) -> String {
        String::new()
    }

    /// How completions of this style state their answer.
    pub fn answer_form(&self) -> AnswerForm {
        AnswerForm::Tags
    }

    /// The completion of a problem's demonstration, or `None` where it has no demonstration.
    pub fn demonstration(&self, _problem: &Problem) -> Option<String> {
        None
    }

    /// Rewrites a foreign text in this style.
    pub fn render_foreign(&self, text: &str) -> RenderedTrace {
        RenderedTrace { text: text.to_owned(), answer: None }
    }
}
