//! The Jinja engine with the extensions and restrictions of transformers.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

use super::{TemplateDate, namespaces};

/// Maximum work of one rendering, in units of one instruction or 64 bytes.
const FUEL: u64 = 4_000_000;
/// Longest source; published templates have up to 30 kB.
const MAX_SOURCE_BYTES: usize = 1 << 18;
/// Longest text of `tojson`.
const MAX_JSON_BYTES: usize = 1 << 24;
/// Time limit of one compilation or rendering. Both take milliseconds; some operators take longer
/// than their fuel implies.
const TIME: Duration = Duration::from_secs(5);
/// Stack size of a compilation or rendering, reserved but not filled. Values may nest as deeply as
/// the fuel allows, and their destructors recurse.
const STACK: usize = 1 << 29;

/// Compiles a template under a name into its own engine.
pub(super) fn compile(
    source: &str,
    name: &'static str,
    date: TemplateDate,
) -> Result<Environment<'static>, Error> {
    let source = source.to_owned();
    bounded(move || compile_here(&source, name, date))
}

/// Renders a compiled template.
pub(super) fn render(
    engine: &Arc<Environment<'static>>,
    name: &'static str,
    context: Value,
) -> Result<String, Error> {
    let engine = Arc::clone(engine);
    bounded(move || engine.get_template(name)?.render(context))
}

/// Runs work on a thread with a large stack and returns an error after [`TIME`]. A thread that did
/// not finish ends with the process.
fn bounded<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, result) = mpsc::channel();
    let failed = |reason: String| Error::new(ErrorKind::InvalidOperation, reason);
    thread::Builder::new()
        .name("chat template".to_owned())
        .stack_size(STACK)
        .spawn(move || done.send(work()))
        .map_err(|source| failed(format!("no thread: {source}")))?;
    result.recv_timeout(TIME).unwrap_or_else(|_| {
        Err(failed(format!(
            "the template did not end within {} seconds",
            TIME.as_secs()
        )))
    })
}

fn compile_here(
    source: &str,
    name: &'static str,
    date: TemplateDate,
) -> Result<Environment<'static>, Error> {
    if source.len() > MAX_SOURCE_BYTES {
        let reason = format!("the template is longer than {MAX_SOURCE_BYTES} bytes");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    // Jinja2 reads every kind of line end as a line feed.
    let source = &source.replace("\r\n", "\n").replace('\r', "\n");
    if let Some(name) = namespaces::escaping(source) {
        let reason = format!(
            "`{name}` is a namespace used for more than its attributes, which is not supported"
        );
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    let mut engine = Environment::new();
    engine.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    engine.set_fuel(Some(FUEL));
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" && value.as_str().is_some_and(has_computed_or_wide_field) {
            let reason =
                "a field of str.format is wider than 9999 or takes its width from an argument";
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        unknown_method_callback(state, value, method, args)
    });
    engine.set_formatter(|out, state, value| match python_constant(value) {
        Some(text) => escape_formatter(out, state, &Value::from(text)),
        None => escape_formatter(out, state, value),
    });
    engine.add_filter("tojson", to_json);
    engine.add_test("iterable", is_iterable);
    engine.add_test("sequence", is_sequence);
    engine.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    engine.add_function("strftime_now", move |format: String| date.format(&format));
    engine.add_template_owned(name, without_generation_tags(source))?;
    Ok(engine)
}

/// Whether a text for Python's `str.format` has a field of five digits, or one inside another.
fn has_computed_or_wide_field(text: &str) -> bool {
    let digits = |part: &str| {
        part.split(|c: char| !c.is_ascii_digit())
            .any(|run| run.len() > 4)
    };
    text.split('{')
        .skip(1)
        .any(|part| digits(part) || (part.contains(':') && !part.contains('}')))
}

/// Python's spelling of the constants that this engine prints differently.
fn python_constant(value: &Value) -> Option<&'static str> {
    match value.kind() {
        ValueKind::None => Some("None"),
        ValueKind::Bool => Some(if value.is_true() { "True" } else { "False" }),
        _ => None,
    }
}

/// Jinja2's test for values that Python's `iter` accepts. `none` is not iterable; an undefined name
/// is.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok() || value.kind() == ValueKind::String
}

/// Jinja2's test for values with a length and items, including texts and mappings.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::String
        )
}

/// Turns `{% generation %}` blocks, which mark the assistant's text for training, into blocks that
/// print their body.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        text.push_str(before);
        let sign = tag.len() - tag.trim_start_matches(['-', '+']).len();
        let space = tag[sign..].len() - tag[sign..].trim_start().len();
        text.push_str(&tag[..sign + space]);
        rest = &tag[sign + space..];
        for (word, replacement) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = rest
                .strip_prefix(word)
                .filter(|after| after.trim_start().starts_with(['%', '-', '+']));
            if let Some(after) = after {
                text.push_str(replacement);
                rest = after;
                break;
            }
        }
    }
    text + rest
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    match indent {
        Some(width) => write_json(
            value,
            PrettyFormatter::with_indent(" ".repeat(width.min(16)).as_bytes()),
        ),
        None => write_json(value, PythonFormatter),
    }
}

fn write_json(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let mut text = JsonText(Vec::new());
    let failed = |reason: String| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("cannot write JSON: {reason}"),
        )
    };
    value
        .serialize(&mut serde_json::Serializer::with_formatter(
            &mut text, formatter,
        ))
        .map_err(|source| failed(source.to_string()))?;
    String::from_utf8(text.0).map_err(|source| failed(source.to_string()))
}

/// JSON text with a size limit, because a value with shared parts is far larger as text than in
/// memory.
struct JsonText(Vec<u8>);

impl std::io::Write for JsonText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_JSON_BYTES {
            let reason = format!("it is longer than {MAX_JSON_BYTES} bytes");
            return Err(std::io::Error::other(reason));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// JSON with a space after separators.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let engine = Arc::new(compile(source, "t", TemplateDate::default())?);
        super::render(&engine, "t", Value::from(()))
    }

    /// Each pair was rendered by transformers 5 as well.
    #[test]
    fn renders_as_transformers_does() {
        let pairs = [
            (
                "{{ {'a': [1, 'é<&>'], 'b': none} | tojson }}",
                r#"{"a": [1, "é<&>"], "b": null}"#,
            ),
            (
                "{{ [1, {'k': true}] | tojson(indent=2) }}",
                "[\n  1,\n  {\n    \"k\": true\n  }\n]",
            ),
            ("{{ none }} {{ true }} {{ missing }}.", "None True ."),
            (
                "a\r\n{% if true %}\r\n{{ 'b\r\n' }}\rc{% endif %}\r\n",
                "a\nb\n\nc",
            ),
            (
                "{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "012",
            ),
            ("a\n  {% if true %}\nb\n  {%- endif %}\nc\n", "a\nbc"),
            ("{%- generation -%} x {%- endgeneration %}!", "x!"),
            ("{{ ' A b '.strip().lower().split(' ')[-1] }}", "b"),
            (
                "{% set ns = namespace(n=0) %}{% for x in 'ab' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
            ("{{ 'x' if undefined_name is defined else 'y' }}", "y"),
            (
                "{{ none is iterable }} {{ 3 is iterable }} {{ missing is iterable }} {{ 'a' is iterable }}",
                "False False True True",
            ),
            (
                "{{ [] is iterable }} {{ {} is iterable }} {{ range(2) is iterable }} {{ true is iterable }}",
                "True True True False",
            ),
            (
                "{{ none is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ [1] is sequence }} {{ 2 is sequence }}",
                "False True True True False",
            ),
            (
                "{% if none is iterable and none | length > 0 %}x{% endif %}y",
                "y",
            ),
        ];
        for (source, expected) in pairs {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn endless_and_exploding_templates_run_out_of_fuel() {
        let nested =
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        let double = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
        let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        for source in [nested, double] {
            assert_eq!(
                render(source).unwrap_err().kind(),
                ErrorKind::OutOfFuel,
                "{source}"
            );
        }
        assert!(render(recursive).is_err());
        assert!(render("{% include 'secret' %}").is_err());
    }

    #[test]
    fn exceptions_carry_their_message() {
        let error = render("{{ raise_exception('System role not supported') }}").unwrap_err();
        assert!(
            error.to_string().contains("System role not supported"),
            "{error}"
        );
    }
}
