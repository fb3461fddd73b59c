//! A model's own chat template, rendered as in transformers.
//!
//! The template always comes from the prompted model, never from a table of names. For a model
//! without one, rendering fails until [`ChatTemplate::plain`] is chosen. Templates are untrusted
//! programs: they have limits on work and memory, and no access to files or other templates. Text
//! of messages never becomes a control token.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_tasks::message::Message;
use minijinja::{Environment, Value, context};
use serde::Deserialize;

use crate::config::read_json;
use crate::files::read_text;
use crate::tokenizer::{Piece, Tokenizer};
use crate::weights::GgufFile;
use crate::{ControlTokens, LmError};

mod conversation;
mod date;
mod environment;
mod namespaces;

pub use conversation::Conversation;
pub use date::TemplateDate;

const TEMPLATE_FILE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const NAME: &str = "chat";

/// Whether a rendering ends with the header of the assistant's turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GenerationPrompt {
    /// The rendering is a prompt: the model's next token is the completion's first.
    Add,
    /// The rendering is a finished conversation.
    Omit,
}

/// A compiled chat template of one model.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    kind: Kind,
    source: Option<String>,
    names: TokenNames,
    end_of_turn: u32,
}

/// How a template renders.
#[derive(Clone, Debug)]
enum Kind {
    /// As a Jinja program.
    Jinja(Arc<Environment<'static>>),
    /// Contents of messages, a blank line after each.
    Plain,
    /// Rendering fails: the model has no template, and none was chosen.
    Absent,
}

/// Names of control tokens that a template may print.
#[derive(Clone, Debug, Default)]
struct TokenNames {
    bos: Option<String>,
    eos: Option<String>,
    pad: Option<String>,
}

#[derive(Deserialize)]
struct TokenizerConfigFile {
    chat_template: Option<TemplateField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TemplateField {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Compiles a template for a tokenizer and finds the token that ends an assistant's turn.
    ///
    /// `origin` is named in errors: the file that the template comes from.
    ///
    /// # Errors
    /// [`LmError::Template`] if the source does not parse, [`LmError::ForeignTemplate`] if it ends
    /// a turn with a control token that the tokenizer does not have, [`LmError::NoEndOfTurn`] if no
    /// token ends a turn.
    pub fn new(source: &str, tokenizer: &Tokenizer, origin: &Path) -> Result<Self, LmError> {
        let engine =
            environment::compile(source, NAME, TemplateDate::default()).map_err(|source| {
                LmError::Template {
                    path: origin.to_owned(),
                    action: "parsing",
                    source,
                }
            })?;
        let mut template = Self {
            path: origin.to_owned(),
            kind: Kind::Jinja(Arc::new(engine)),
            source: Some(source.to_owned()),
            names: TokenNames::of(tokenizer),
            end_of_turn: 0,
        };
        template.end_of_turn = template.find_end_of_turn(tokenizer)?;
        Ok(template)
    }

    /// The template of a base model: contents of messages with a blank line after each, no roles,
    /// no control tokens.
    ///
    /// A turn ends with the tokenizer's end-of-text token.
    ///
    /// # Errors
    /// [`LmError::NoEndOfTurn`] when the tokenizer names no such token.
    pub fn plain(tokenizer: &Tokenizer) -> Result<Self, LmError> {
        Self::without_source(Kind::Plain, tokenizer.path(), tokenizer)
    }

    /// The template of a model that has none. Every rendering fails with an error that names the
    /// alternative.
    ///
    /// # Errors
    /// As [`ChatTemplate::plain`].
    pub(crate) fn absent(model: &Path, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        Self::without_source(Kind::Absent, model, tokenizer)
    }

    fn without_source(kind: Kind, path: &Path, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        let path = path.to_owned();
        match tokenizer.eos() {
            Some(end_of_turn) => Ok(Self {
                path,
                kind,
                source: None,
                names: TokenNames::of(tokenizer),
                end_of_turn,
            }),
            None => Err(LmError::NoEndOfTurn { path }),
        }
    }

    /// Reads `chat_template.jinja`, else `tokenizer_config.json`, of a directory.
    pub(crate) fn from_directory(dir: &Path, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        let path = dir.join(TEMPLATE_FILE);
        if path.is_file() {
            let source = read_text(&path)?;
            return Self::new(&source, tokenizer, &path);
        }
        let path = dir.join(TOKENIZER_CONFIG_FILE);
        let field = match path.is_file() {
            true => {
                read_json::<TokenizerConfigFile>(&path, "tokenizer configuration")?.chat_template
            }
            false => None,
        };
        let source = match field {
            Some(TemplateField::One(source)) => Some(source),
            Some(TemplateField::Named(list)) => list
                .into_iter()
                .find(|named| named.name == "default")
                .map(|named| named.template),
            None => None,
        };
        match source {
            Some(source) => Self::new(&source, tokenizer, &path),
            None => Err(LmError::NoTemplate {
                path: dir.to_owned(),
            }),
        }
    }

    /// Reads `tokenizer.chat_template` of a GGUF file.
    pub(crate) fn from_gguf(file: &GgufFile, tokenizer: &Tokenizer) -> Result<Self, LmError> {
        match file.text("tokenizer.chat_template")? {
            Some(source) => Self::new(source, tokenizer, file.path()),
            None => Err(LmError::NoTemplate {
                path: file.path().to_owned(),
            }),
        }
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`LmError::Template`] when the template raises an exception, fails or exceeds its budget,
    /// [`LmError::NoTemplate`] when the model has none.
    pub fn render(
        &self,
        messages: &[Message],
        prompt: GenerationPrompt,
    ) -> Result<String, LmError> {
        let engine = match &self.kind {
            Kind::Jinja(engine) => engine,
            Kind::Plain => {
                let contents = messages.iter();
                return Ok(contents
                    .map(|message| format!("{}\n\n", message.content))
                    .collect());
            }
            Kind::Absent => {
                return Err(LmError::NoTemplate {
                    path: self.path.clone(),
                });
            }
        };
        let turns: Value = messages
            .iter()
            .map(|message| context! { role => message.role.name(), content => message.content.as_str() })
            .collect();
        self.render_turns(engine, turns, prompt, context! {})
    }

    /// Renders turns; `variables` is an object with the template's other variables.
    fn render_turns(
        &self,
        engine: &Arc<Environment<'static>>,
        turns: Value,
        prompt: GenerationPrompt,
        variables: Value,
    ) -> Result<String, LmError> {
        // Of equal names the first is used.
        let unset = context! { tools => (), documents => () };
        let others = context! { ..variables, ..context! { ..unset, ..self.names.context() } };
        let context = context! {
            messages => turns,
            add_generation_prompt => prompt == GenerationPrompt::Add,
            ..others
        };
        let failed = |source| LmError::Template {
            path: self.path.clone(),
            action: "rendering",
            source,
        };
        environment::render(engine, NAME, context).map_err(failed)
    }

    /// Token ids of a prompt, up to and with the header of the assistant's turn.
    ///
    /// Control tokens of the template become control tokens; their names in messages stay text. The
    /// template writes the beginning-of-text token, so it is never added twice. The plain template
    /// puts it first if the tokenizer expects it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn prompt_ids(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<Vec<u32>, LmError> {
        if matches!(self.kind, Kind::Plain) {
            return plain_ids(tokenizer, &self.render(messages, GenerationPrompt::Add)?);
        }
        let mark = unused_mark(messages.iter().map(|message| message.content.as_str()));
        let guarded: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: message.role,
                content: tokenizer.guard(&message.content, mark),
            })
            .collect();
        let text = self.render(&guarded, GenerationPrompt::Add)?;
        rendered_ids(tokenizer, &text, mark)
    }

    /// The token that ends an assistant's turn, the last token of every completion that is not
    /// truncated.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// The template's source; none for the plain template.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Writes `chat_template.jinja` into an existing directory; nothing for the plain template.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<(), LmError> {
        let Some(source) = &self.source else {
            return Ok(());
        };
        let path = dir.join(TEMPLATE_FILE);
        fs::write(&path, source).map_err(|source| LmError::Io {
            action: "writing",
            path,
            source,
        })
    }

    /// The first control token after an assistant's content, else the tokenizer's end of text.
    fn find_end_of_turn(&self, tokenizer: &Tokenizer) -> Result<u32, LmError> {
        let messages = [Message::user("question"), Message::assistant(PROBE)];
        let rendered = self
            .render(&messages, GenerationPrompt::Omit)
            .unwrap_or_default();
        let after = rendered.rsplit_once(PROBE).map_or("", |(_, after)| after);
        if let Some(token) =
            control_shaped(after).filter(|token| tokenizer.token_id(token).is_none())
        {
            return Err(LmError::ForeignTemplate {
                path: self.path.clone(),
                token: token.to_owned(),
            });
        }
        let control = tokenizer
            .pieces(after)
            .into_iter()
            .find_map(|piece| match piece {
                Piece::Control(id) => Some(id),
                Piece::Text(_) => None,
            });
        control
            .or(tokenizer.eos())
            .ok_or_else(|| LmError::NoEndOfTurn {
                path: self.path.clone(),
            })
    }
}

const PROBE: &str = "assistantcontent";

impl TokenNames {
    fn of(tokenizer: &Tokenizer) -> Self {
        let name = |id: Option<u32>| id.map(|id| tokenizer.decode(&[id], ControlTokens::Keep));
        Self {
            bos: name(tokenizer.bos()),
            eos: name(tokenizer.eos()),
            pad: name(tokenizer.pad()),
        }
    }

    /// The names that exist; the others stay undefined, as in transformers.
    fn context(&self) -> Value {
        let named = [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
        ];
        let named: BTreeMap<&str, String> = named
            .into_iter()
            .filter_map(|(key, name)| Some((key, name.clone()?)))
            .collect();
        Value::from(named)
    }
}

/// A leading `<|name|>`, after whitespace.
fn control_shaped(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let inner = text.strip_prefix("<|")?;
    let end = inner.find("|>")?;
    let word = inner[..end]
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_');
    word.then(|| &text[..end + 4])
}

/// A private-use character that none of some texts contains.
fn unused_mark<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> char {
    let used = |mark: &char| texts.clone().any(|text| text.contains(*mark));
    ('\u{e000}'..='\u{f8ff}')
        .find(|mark| !used(mark))
        .unwrap_or('\u{10fffd}')
}

/// Token ids of a text with the plain template: the beginning-of-text token first if the tokenizer
/// expects it.
fn plain_ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, LmError> {
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut ids: Vec<u32> = bos.into_iter().collect();
    ids.extend(tokenizer.encode(text)?);
    Ok(ids)
}

/// Token ids of a rendered template; names of control tokens with the mark in them are text.
fn rendered_ids(tokenizer: &Tokenizer, text: &str, mark: char) -> Result<Vec<u32>, LmError> {
    let mut ids = Vec::new();
    for (index, piece) in tokenizer.pieces(text).into_iter().enumerate() {
        match piece {
            Piece::Control(id) => ids.push(id),
            Piece::Text(text) if text.contains(mark) => {
                ids.extend(tokenizer.encode_piece(&text.replace(mark, ""), index)?)
            }
            Piece::Text(text) => ids.extend(tokenizer.encode_piece(text, index)?),
        }
    }
    Ok(ids)
}
