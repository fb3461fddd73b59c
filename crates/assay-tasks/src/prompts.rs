//! Prompt styles: the messages that ask a question, and the layout of a completion.
//!
//! Demonstrations, policy samples and traces of other programs are written in the same layout.
//! Otherwise a discriminator would learn their layout instead of their reasoning. Chat templates
//! belong to the model, not to this module.

use serde::{Deserialize, Serialize};

use crate::answers::{AnswerForm, extract_lenient, without_trailing_control};
use crate::message::Message;
use crate::problem::Problem;

/// The instructions and the completion's layout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// Reasoning inside `<think>`, the answer inside `<answer>`, as a system message requests.
    #[default]
    ThinkAnswer,
    /// Reasoning lines, then `#### answer`, as a system message requests.
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

/// The prompt of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSettings {
    /// The instructions and the completion's layout.
    pub style: PromptStyle,
    /// Worked examples shown as earlier turns.
    pub examples: Vec<WorkedExample>,
    /// The chat template that renders the messages.
    pub template: Template,
}

/// A chat template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// The model's own.
    #[default]
    Own,
    /// Contents of messages with a blank line after each: for base models, which have none.
    Plain,
}

/// A text of another program in the layout of a style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedTrace {
    /// The completion text.
    pub text: String,
    /// The final answer the text states, else its last number.
    pub answer: Option<String>,
}

const THINK_ANSWER: &str = "You solve problems step by step. Write your reasoning inside <think> </think> and then only \
the final answer inside <answer> </answer>.";

const HASHES: &str = "You solve problems step by step, one step a line. On the last line write #### and the final answer.";

impl PromptSettings {
    /// The chat that asks `question`: system message, worked examples, question.
    pub fn messages(&self, question: &str) -> Vec<Message> {
        let mut messages = Vec::with_capacity(2 * self.examples.len() + 2);
        match &self.style {
            PromptStyle::ThinkAnswer => messages.push(Message::system(THINK_ANSWER)),
            PromptStyle::Gsm8k => messages.push(Message::system(HASHES)),
            PromptStyle::Plain => {}
            PromptStyle::Custom { system, .. } => messages.push(Message::system(system)),
        }
        for example in &self.examples {
            messages.push(Message::user(&example.question));
            messages.push(Message::assistant(
                self.completion(&example.reasoning, &example.answer),
            ));
        }
        messages.push(Message::user(question));
        messages
    }

    /// The completion that reasons and answers.
    pub fn completion(&self, reasoning: &str, answer: &str) -> String {
        let (reasoning, answer) = (reasoning.trim(), answer.trim());
        match self.answer_form() {
            AnswerForm::Tags => {
                format!("<think>\n{reasoning}\n</think>\n<answer>\n{answer}\n</answer>")
            }
            AnswerForm::Hashes if reasoning.is_empty() => format!("#### {answer}"),
            AnswerForm::Hashes => format!("{reasoning}\n#### {answer}"),
        }
    }

    /// How completions of this style state their answer.
    pub fn answer_form(&self) -> AnswerForm {
        match &self.style {
            PromptStyle::ThinkAnswer => AnswerForm::Tags,
            PromptStyle::Gsm8k | PromptStyle::Plain => AnswerForm::Hashes,
            PromptStyle::Custom { form, .. } => *form,
        }
    }

    /// The completion of a problem's demonstration; `None` if it has no demonstration.
    ///
    /// Without a gold answer the completion ends with the reasoning.
    pub fn demonstration(&self, problem: &Problem) -> Option<String> {
        let reasoning = problem.demonstration.as_deref()?;
        Some(match &problem.answer {
            Some(answer) => self.completion(reasoning, answer),
            None => self.unanswered(reasoning),
        })
    }

    /// Rewrites a text of another program in this style.
    ///
    /// Calculator marks and control tokens at the end are removed. A separate answer (`<answer>`,
    /// `####`, `A: 26`, a line `The answer is 26.`) is moved to the end in the style's form; text
    /// after it is kept before it. A text without an answer ends with its reasoning; no answer is
    /// added.
    pub fn render_foreign(&self, text: &str) -> RenderedTrace {
        let plain = without_calculator_marks(text);
        let (reasoning, stated) = split_completion(&plain);
        let text = match &stated {
            Some(answer) => self.completion(&reasoning, answer),
            None => self.unanswered(&reasoning),
        };
        let answer = stated.or_else(|| extract_lenient(&plain).map(|found| found.text.to_owned()));
        RenderedTrace { text, answer }
    }

    fn unanswered(&self, reasoning: &str) -> String {
        match self.answer_form() {
            AnswerForm::Tags => format!("<think>\n{}\n</think>", reasoning.trim()),
            AnswerForm::Hashes => reasoning.trim().to_owned(),
        }
    }
}

/// Removes GSM8K's calculator marks: `2*3 = <<2*3=6>>6` becomes `2*3 = 6`.
pub fn without_calculator_marks(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("<<") {
        let line = rest[open..]
            .find('\n')
            .map_or(rest.len(), |length| open + length);
        let Some(close) = rest[open..line].find(">>") else {
            plain.push_str(&rest[..open + 2]);
            rest = &rest[open + 2..];
            continue;
        };
        plain.push_str(&rest[..open]);
        rest = &rest[open + close + 2..];
    }
    plain.push_str(rest);
    plain
}

/// The reasoning of a completion in any layout, and its separate answer.
///
/// Text after the answer belongs to the reasoning, so no text is lost.
pub(crate) fn split_completion(text: &str) -> (String, Option<String>) {
    let text = &text[..without_trailing_control(text, 0..text.len()).end];
    let Some(found) = extract_lenient(text).filter(|found| found.source.is_separate()) else {
        return (without_think_tags(text), None);
    };
    let mut reasoning = without_think_tags(&text[..found.mark.start]);
    let after = without_think_tags(&text[found.mark.end..]);
    if !reasoning.is_empty() && !after.is_empty() {
        reasoning.push('\n');
    }
    reasoning.push_str(&after);
    (reasoning, Some(found.text.to_owned()))
}

fn without_think_tags(reasoning: &str) -> String {
    reasoning
        .replace("<think>", "")
        .replace("</think>", "")
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answers::extract_strict;
    use crate::message::Role;

    fn settings(style: PromptStyle) -> PromptSettings {
        PromptSettings {
            style,
            examples: Vec::new(),
            template: Template::Own,
        }
    }

    #[test]
    fn the_target_is_the_papers() {
        let prompts = settings(PromptStyle::ThinkAnswer);
        assert_eq!(
            prompts.completion(" 2+2 = 4\n", "4"),
            "<think>\n2+2 = 4\n</think>\n<answer>\n4\n</answer>"
        );
        assert_eq!(
            settings(PromptStyle::Gsm8k).completion("2+2 = 4", "4"),
            "2+2 = 4\n#### 4"
        );
        let messages = prompts.messages("How many?");
        assert_eq!(
            messages.iter().map(|m| m.role).collect::<Vec<_>>(),
            [Role::System, Role::User]
        );
        assert!(messages[0].content.contains("<think> </think>"));
        assert_eq!(
            settings(PromptStyle::Plain).messages("How many?"),
            [Message::user("How many?")]
        );
    }

    #[test]
    fn worked_examples_are_earlier_turns() {
        let example = WorkedExample {
            question: "1+1?".into(),
            reasoning: "1+1 = 2".into(),
            answer: "2".into(),
        };
        let prompts = PromptSettings {
            style: PromptStyle::Plain,
            examples: vec![example],
            template: Template::Own,
        };
        assert_eq!(
            prompts.messages("2+2?"),
            [
                Message::user("1+1?"),
                Message::assistant("1+1 = 2\n#### 2"),
                Message::user("2+2?")
            ]
        );
    }

    #[test]
    fn foreign_and_demonstration_are_written_alike() {
        let problem = Problem {
            demonstration: Some("16 - 3 = 13 eggs\n13 * 2 = $26".into()),
            answer: Some("26".into()),
            ..Problem::default()
        };
        let marked = "16 - 3 = <<16-3=13>>13 eggs\n13 * 2 = $<<13*2=26>>26\n";
        for style in [
            PromptStyle::ThinkAnswer,
            PromptStyle::Gsm8k,
            PromptStyle::Plain,
        ] {
            let prompts = settings(style);
            let demonstration = prompts.demonstration(&problem).unwrap();
            for end in [
                "A: 26",
                "#### 26",
                "The answer is 26.",
                "**Answer: 26**",
                "<answer>26</answer>",
            ] {
                let rendered = prompts.render_foreign(&format!("{marked}{end}"));
                assert_eq!(
                    rendered,
                    RenderedTrace {
                        text: demonstration.clone(),
                        answer: Some("26".into())
                    },
                    "{end}"
                );
            }
            assert_eq!(prompts.render_foreign(&demonstration).text, demonstration);
        }
    }

    /// A heading, a text after the answer, a box and a control token do not shorten what is scored.
    #[test]
    fn no_text_is_cut_for_an_answer() {
        let plain = settings(PromptStyle::Plain);
        for (text, rendered, answer) in [
            (
                "#### Step 1: add\n40+2=42\n\nThe final answer is 42.",
                "#### Step 1: add\n40+2=42\n#### 42",
                "42",
            ),
            (
                "40+2=42\n#### 42\nand that checks.",
                "40+2=42\nand that checks.\n#### 42",
                "42",
            ),
            (
                "### Solution\n40+2=42\n#### Final Answer:\n42",
                "### Solution\n40+2=42\n#### 42",
                "42",
            ),
            (
                "a\n#### Step 1\nb = 41\n#### Step 2\nc = 42",
                "a\n#### Step 1\nb = 41\n#### Step 2\nc = 42",
                "42",
            ),
            (
                "so \\boxed{42}. Checked 2 times.",
                "so \\boxed{42}. Checked 2 times.",
                "42",
            ),
            ("a\n#### 42<|im_end|>", "a\n#### 42", "42"),
            ("a\nThe final answer is: $\\boxed{42}$", "a\n#### 42", "42"),
            (
                "<think>a</think>\n<answer>42</answer>\nBye.",
                "a\nBye.\n#### 42",
                "42",
            ),
        ] {
            let found = plain.render_foreign(text);
            assert_eq!(
                (found.text.as_str(), found.answer.as_deref()),
                (rendered, Some(answer))
            );
        }
    }

    #[test]
    fn no_answer_is_invented() {
        let rendered = settings(PromptStyle::ThinkAnswer).render_foreign("She has 5 left");
        assert_eq!(rendered.text, "<think>\nShe has 5 left\n</think>");
        assert_eq!(rendered.answer.as_deref(), Some("5"));
        assert_eq!(
            settings(PromptStyle::Gsm8k).render_foreign("a << b").text,
            "a << b"
        );
    }

    #[test]
    fn settings_are_read_from_toml() {
        let prompts: PromptSettings = toml::from_str("style = \"gsm8k\"").unwrap();
        assert_eq!(prompts.style, PromptStyle::Gsm8k);
        let prompts: PromptSettings =
            toml::from_str("style = { custom = { system = \"Be brief.\", form = \"hashes\" } }")
                .unwrap();
        assert_eq!(prompts.messages("Q")[0], Message::system("Be brief."));
        assert_eq!(prompts.answer_form(), AnswerForm::Hashes);
        assert!(toml::from_str::<PromptSettings>("styl = \"gsm8k\"").is_err());
    }

    proptest! {
        #[test]
        fn every_line_outside_the_answer_is_kept(text in "[a-c0-9 \n#.=:]{0,60}|(#### |Step|answer is |<answer>|</answer>|1|2|b|\n|: |\\.){0,12}") {
            let marked = extract_lenient(&text).filter(|found| found.source.is_separate());
            let mark = marked.map_or(text.len()..text.len(), |found| found.mark);
            let rendered = settings(PromptStyle::Plain).render_foreign(&text).text;
            for line in text[..mark.start].lines().chain(text[mark.end..].lines()) {
                prop_assert!(rendered.contains(line.trim()), "{:?} lost {:?}", rendered, line);
            }
        }

        #[test]
        fn rendering_twice_changes_nothing(text in "(?s).{0,60}|[a-z0-9 \n#<>/:.A]{0,60}", answer in "[a-z0-9]{1,6}") {
            for style in [PromptStyle::ThinkAnswer, PromptStyle::Plain] {
                let prompts = settings(style);
                prompts.render_foreign(&text);
                let completion = prompts.completion("3 + 4 = 7", &answer);
                prop_assert_eq!(&prompts.render_foreign(&completion).text, &completion);
                prop_assert_eq!(extract_strict(&completion, prompts.answer_form()).unwrap().text, answer.as_str());
            }
        }
    }
}
