//! Checks that no namespace can contain itself.
//!
//! A template's `namespace()` is its only mutable value. If it is stored inside itself, printing it
//! recurses without end. So a namespace must be assigned to a name directly, and the name may be
//! used only for its attributes. Then no expression has a namespace as its value, and none can be
//! stored.

use std::collections::HashSet;

/// A name in a tag and the characters around it.
struct Word<'s> {
    text: &'s str,
    /// The characters before and after it, without blanks.
    before: Option<char>,
    after: Option<char>,
}

/// The first name of a namespace that is used other than for its attributes.
pub(super) fn escaping(source: &str) -> Option<String> {
    let tags: Vec<Vec<Word<'_>>> = tags(source).into_iter().map(words).collect();
    let mut names = HashSet::new();
    for tag in &tags {
        let calls = tag.iter().filter(|word| word.is("namespace")).count();
        match tag.as_slice() {
            [set, name, call, ..] if calls == 1 && set.is("set") && call.is("namespace") => {
                let direct =
                    name.after == Some('=') && call.before == Some('=') && call.after == Some('(');
                if !direct {
                    return Some(name.text.to_owned());
                }
                names.insert(name.text);
            }
            _ if calls > 0 => return Some("namespace".to_owned()),
            _ => {}
        }
    }
    let bound =
        |tag: &[Word<'_>]| usize::from(tag.len() > 2 && tag[0].is("set") && tag[2].is("namespace"));
    tags.iter().find_map(|tag| {
        let used = tag.iter().skip(2 * bound(tag));
        let bare = |word: &&Word<'_>| {
            names.contains(word.text)
                && word.before != Some('.')
                && !matches!(word.after, Some('.' | '['))
        };
        used.filter(bare).map(|word| word.text.to_owned()).next()
    })
}

impl Word<'_> {
    fn is(&self, text: &str) -> bool {
        self.text == text && self.before != Some('.')
    }
}

/// The contents of `{{ }}` and `{% %}`; comments are skipped.
fn tags(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (open, inside) = (&rest[at..], rest.get(at + 2..).unwrap_or(""));
        let close = match open.get(..2) {
            Some("{{") => "}}",
            Some("{%") => "%}",
            Some("{#") => "#}",
            _ => {
                rest = &open[1..];
                continue;
            }
        };
        let end = match close {
            "#}" => inside.find(close).unwrap_or(inside.len()),
            _ => end_of_tag(inside, close),
        };
        if close != "#}" {
            found.push(&inside[..end]);
        }
        rest = inside.get(end + 2..).unwrap_or("");
    }
    found
}

/// Where a tag ends: `close` outside of quotes.
fn end_of_tag(inside: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if inside[at..].starts_with(close) => return at,
            None => {}
        }
    }
    inside.len()
}

/// The names in a tag, except those in quotes.
fn words(tag: &str) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    let mut before = None;
    let mut at = 0;
    while let Some(c) = tag[at..].chars().next() {
        let rest = &tag[at..];
        let end = |belongs: fn(char) -> bool| rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        if c.is_alphanumeric() || c == '_' {
            let length = end(|c| c.is_alphanumeric() || c == '_');
            let after = rest[length..].trim_start().chars().next();
            found.push(Word {
                text: &rest[..length],
                before,
                after,
            });
            before = Some('_');
            at += length;
        } else if c == '"' || c == '\'' {
            at += 1 + end_of_quote(&rest[1..], c);
            before = Some(c);
        } else {
            before = if c.is_whitespace() { before } else { Some(c) };
            at += c.len_utf8();
        }
    }
    found
}

/// Where the text after a quote continues.
fn end_of_quote(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_free_and_everything_else_is_not() {
        let free = [
            "{%- set ns = namespace(found=false, x=[]) -%}{% set ns.found = ns.x + [ns.found] %}{{ ns['found'] }} ns",
            "{{ 'ns namespace' }}{# ns #}{% set ns = namespace() %}{% if not ns.x %}{{ \"it's ns\" }}{% endif %}",
            "namespace ns { {{ message.ns }}{% set ns=namespace( a = 1 ) %}",
        ];
        for source in free {
            assert_eq!(escaping(source), None, "{source}");
        }
        let caught = [
            ("{% set ns = namespace() %}{% set ns.x = ns %}", "ns"),
            ("{% set ns = namespace() %}{% set ns.x = [ns] %}", "ns"),
            (
                "{% set ns = namespace() %}{% set a = ns %}{% set a.x = a %}",
                "ns",
            ),
            ("{% set ns = namespace() %}{{ ns|string }}", "ns"),
            ("{% set ns = namespace(x=namespace()) %}", "namespace"),
            ("{% set a, b = namespace(), 1 %}", "namespace"),
            ("{% set a = [namespace()] %}", "a"),
            ("{% set f = namespace %}", "f"),
            ("{% for n in [namespace()] %}{% endfor %}", "namespace"),
            ("{% with n = namespace() %}{% endwith %}", "namespace"),
        ];
        for (source, name) in caught {
            assert_eq!(escaping(source).as_deref(), Some(name), "{source}");
        }
    }
}
