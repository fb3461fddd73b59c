//! The templates of pages and figures, and how values are written into them.
//!
//! Every value is escaped unless the template marks it as `safe`. Only the output of another
//! template is marked so. A template that uses an undefined value is an error.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{
    AutoEscape, Environment, Output, State, UndefinedBehavior, Value, escape_formatter,
};
use serde::Serialize;

use crate::error::ReportError;
use crate::numbers::format_number;

const SOURCES: [(&str, &str); 6] = [
    ("article.html", include_str!("templates/article.html")),
    ("matrix.svg", include_str!("templates/matrix.svg")),
    ("notebook.html", include_str!("templates/notebook.html")),
    ("page.html", include_str!("templates/page.html")),
    ("plot.svg", include_str!("templates/plot.svg")),
    ("table.html", include_str!("templates/table.html")),
];

/// Colours and lines of figures, on the page and in separate files.
pub(crate) const PLOT_STYLE: &str = include_str!("templates/plot.css");

/// The compiled templates.
pub(crate) struct Templates {
    engine: Environment<'static>,
}

impl Templates {
    /// Compiles all templates.
    ///
    /// # Errors
    /// [`ReportError::Template`].
    pub(crate) fn new() -> Result<Self, ReportError> {
        let mut engine = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|source| ReportError::Template { name: "", source })?;
        engine.set_syntax(syntax);
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        engine.set_auto_escape_callback(|_| AutoEscape::Html);
        engine.set_formatter(write_value);
        engine.add_filter("fixed", fixed);
        engine.add_filter("reward", reward);
        engine.add_filter("number", format_number);
        let assets = [
            ("plot_style", PLOT_STYLE),
            ("page_style", include_str!("templates/style.css")),
            ("script", include_str!("templates/script.js")),
        ];
        for (name, text) in assets {
            engine.add_global(name, Value::from_safe_string(text.to_owned()));
        }
        for (name, source) in SOURCES {
            engine
                .add_template(name, source)
                .map_err(|source| ReportError::Template { name, source })?;
        }
        Ok(Self { engine })
    }

    /// Renders a template with the fields of `view` as its variables.
    ///
    /// # Errors
    /// [`ReportError::Template`].
    pub(crate) fn render(
        &self,
        name: &'static str,
        view: &impl Serialize,
    ) -> Result<String, ReportError> {
        let template = self.engine.get_template(name);
        template
            .and_then(|template| template.render(Serde(view)))
            .map_err(|source| ReportError::Template { name, source })
    }
}

/// Writes text with its markup escaped and its control characters replaced.
fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    match value.as_str() {
        Some(text) if value.kind() == ValueKind::String && !value.is_safe() => {
            escape(text, out).map_err(minijinja::Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// Escapes text for HTML and SVG, including attributes; control characters become U+FFFD.
fn escape(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    for c in text.chars() {
        match c {
            '&' => out.write_str("&amp;")?,
            '<' => out.write_str("&lt;")?,
            '>' => out.write_str("&gt;")?,
            '"' => out.write_str("&quot;")?,
            '\'' => out.write_str("&#39;")?,
            '\n' | '\t' => out.write_char(c)?,
            c if c.is_control() => out.write_char('\u{fffd}')?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}

/// A number with a fixed count of decimals.
fn fixed(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

/// A reward with two decimals and a typographic minus sign.
fn reward(value: f64) -> String {
    format!("{value:.2}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_covers_markup_and_control_characters() {
        let mut escaped = String::new();
        escape("<a b='\"'>&\u{0}\u{1b}é", &mut escaped).unwrap();
        assert_eq!(
            escaped,
            "&lt;a b=&#39;&quot;&#39;&gt;&amp;\u{fffd}\u{fffd}é"
        );
    }

    #[test]
    fn values_are_escaped_and_missing_ones_fail() {
        let mut templates = Templates::new().unwrap();
        let source = "{{ text }}|{{ text|safe }}|{{ x|fixed(2) }}|{{ x|reward }}";
        templates.engine.add_template("t", source).unwrap();
        let view = minijinja::context! { text => "<\u{7}", x => -1.5 };
        assert_eq!(
            templates.render("t", &view).unwrap(),
            "&lt;\u{fffd}|<\u{7}|-1.50|\u{2212}1.50"
        );
        let missing = templates.render("t", &minijinja::context! { x => 1 });
        let message = missing.unwrap_err().to_string();
        assert_eq!(message, "cannot render the template `t`");
    }
}
