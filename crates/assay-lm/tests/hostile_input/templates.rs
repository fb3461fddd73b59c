//! Hostile chat templates that try to read files, run forever or exhaust memory. Each quickly ends
//! in an error or in a bounded text.

use std::path::Path;

use assay_lm::{ChatTemplate, GenerationPrompt, Tokenizer};
use assay_tasks::message::Message;

use crate::{message, tried};

/// Maximum number of bytes that any of these may render to, as limited by the work budget.
const MOST_TEXT: usize = 256 << 20;

fn outcome(source: &str) -> String {
    let tokenizer = Tokenizer::from_vocabulary(&["a", "<|end|>"]).unwrap();
    let template = match ChatTemplate::new(source, &tokenizer, Path::new("m/chat_template.jinja")) {
        Ok(template) => template,
        Err(error) => return message::<()>(Err(error)),
    };
    match template.render(&[Message::user("a")], GenerationPrompt::Add) {
        Ok(text) => {
            assert!(text.len() < MOST_TEXT, "{} bytes", text.len());
            format!("text {text}")
        }
        Err(error) => message::<()>(Err(error)),
    }
}

/// A template and a part of its expected result: an error's message, or `text` and the rendered
/// text.
const CASES: &[(&str, &str)] = &[
    // Files and other templates.
    ("{% include 'x' %}", "template not found"),
    ("{% include '/etc/passwd' %}", "template not found"),
    ("{% import 'x' as y %}{{ y.z }}", "template not found"),
    ("{% from '../x' import y %}{{ y }}", "template not found"),
    ("{% extends 'chat' %}", "chat template failed"),
    ("{% include 'chat' %}", "chat template failed"),
    ("{{ open('/etc/passwd').read() }}", "unknown function"),
    (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "chat template failed",
    ),
    ("{{ self.__init__.__globals__ }}", "chat template failed"),
    (
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "chat template failed",
    ),
    ("{{ request.application }}", "chat template failed"),
    ("{{ config.items() }}", "chat template failed"),
    ("{{ lipsum() }}", "unknown function"),
    ("{{ env('HOME') }}", "unknown function"),
    ("{{ __import__('os') }}", "unknown function"),
    ("{{ messages|map(attribute='__class__')|list }}", "text"),
    // Work without end.
    (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "ran out of fuel",
    ),
    (
        "{% for a in range(10**9) %}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "chat template failed",
    ),
    (
        "{% macro f(n) %}{{ f(n+1) }}{{ f(n+1) }}{% endmacro %}{{ f(0) }}",
        "chat template failed",
    ),
    (
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ g() }}",
        "chat template failed",
    ),
    (
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% set ns = namespace(a=range(90000)) %}{% for i in ns.a %}{{ ns.a|list|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ range(99999)|list|sort|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ 5 in range(99999)|reverse|list }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ range(99999)|unique|list|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ range(99999)|batch(3)|list|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ range(99999)|list|tojson|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ range(99999)|string|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ ('a'*99999).replace('a','b')|length }}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% for i in range(99999) %}{{ ('a'*99999)|upper|length }}{% endfor %}",
        "chat template failed",
    ),
    // Memory without end.
    ("{{ 'x' * 10**9 }}", "chat template failed"),
    ("{{ 'x' * 99999999999999999999 }}", "chat template failed"),
    ("{{ [0] * 10**9 }}", "chat template failed"),
    ("{{ ([0] * 10**9)|list|length }}", "chat template failed"),
    ("{{ ([0] * 10**9)|tojson }}", "chat template failed"),
    ("{{ range(10**9)|list }}", "chat template failed"),
    ("{{ 'x'|center(10**9) }}", "chat template failed"),
    ("{{ 'x'|indent(10**9) }}", "chat template failed"),
    ("{{ '%1000000000d'|format(1) }}", "chat template failed"),
    ("{{ '%.1000000000f'|format(1.5) }}", "chat template failed"),
    ("{{ '{:>1000000000}'.format(1) }}", "wider than 9999"),
    (
        "{{ '{:>{}}'.format(1, 10**9) }}",
        "takes its width from an argument",
    ),
    ("{{ '{:>4}|{}'.format(1, 2) }}", "text    1|2"),
    ("{{ 'x'.ljust(10**9) }}", "chat template failed"),
    ("{{ 'x'.zfill(10**9) }}", "chat template failed"),
    ("{{ 'x'.center(10**9) }}", "chat template failed"),
    ("{{ [1]|batch(10**9, 0)|list }}", "chat template failed"),
    ("{{ [1]|slice(10**9)|list|length }}", "chat template failed"),
    ("{{ [1]|tojson(indent=10**9) }}", "text"),
    ("{{ 10 ** 10 ** 10 }}", "chat template failed"),
    ("{{ 2 ** 100000000 }}", "chat template failed"),
    ("{{ 1.0|round(10**9) }}", "text"),
    (
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "ran out of fuel",
    ),
    (
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('x','xxxxxxxx') %}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s|replace('x','xxxxxxxx') %}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s]|join('y') %}{% endfor %}",
        "chat template failed",
    ),
    (
        "{% set ns = namespace(s=['x']) %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
        "chat template failed",
    ),
    (
        "{% set ns = namespace(s=['x']) %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s == ns.s[0] }}",
        "text",
    ),
    // Depth without end: rendered, compared, written as JSON and dropped.
    (
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}done",
        "text",
    ),
    (
        "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'k': ns.x} %}{% endfor %}done",
        "text",
    ),
    (
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "text",
    ),
    (
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "text",
    ),
    (
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "text",
    ),
    (
        "{% set ns = namespace(x=[]) %}{% set ns.x = ns %}{{ ns }}",
        "`ns` is a namespace used for more than its attributes",
    ),
    (
        "{% set ns = namespace(x=range(9)) %}{% for i in range(99999) %}{% set ns.x = ns.x|map('string') %}{% endfor %}{{ ns.x|list }}",
        "text",
    ),
    (
        "{% set ns = namespace(x='a') %}{% for i in range(99999) %}{% set ns.x = ns.x|reverse %}{% endfor %}done",
        "text",
    ),
    // Malformed.
    ("{% for %}", "parsing the chat template failed"),
    ("{{", "parsing the chat template failed"),
    ("{% endfor %}", "parsing the chat template failed"),
    ("{% if %}{% endif %}", "parsing the chat template failed"),
    ("{{ 'unclosed }}", "parsing the chat template failed"),
    ("{# never closed", "parsing the chat template failed"),
    ("{{ \u{0} }}", "parsing the chat template failed"),
    ("{{ 1 / 0 }}", "chat template failed"),
    ("{{ 1 // 0 }}", "chat template failed"),
    ("{{ 1 % 0 }}", "chat template failed"),
    ("{{ messages[99].content.x }}", "chat template failed"),
    ("{{ messages[-9223372036854775808] }}", "text"),
    ("{{ 'abc'[99999999999:1] }}", "text"),
    ("{{ 'é'[0:1] }}", "text é"),
    ("{{ 'x'|nosuch }}", "unknown filter"),
    ("{{ x is nosuch }}", "unknown test"),
    ("{{ raise_exception('roles') }}", "roles"),
    ("{{ raise_exception() }}", "chat template failed"),
    ("{{ strftime_now() }}", "chat template failed"),
    ("{{ strftime_now('%') }}", "text"),
    ("{{ strftime_now('%-') }}", "text"),
    ("{{ [1]|tojson(bad=1) }}", "chat template failed"),
    ("{{ undefined_thing.attribute }}", "chat template failed"),
];

/// A doubled list shares its halves, so computing its length takes time that the work budget does
/// not count.
#[test]
fn the_clock_stops_slow_templates() {
    let double = "{% set ns = namespace(s=['x']) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}\
                  {{ ns.s|length }}";
    let text = outcome(double);
    assert!(
        text.contains("rendering the chat template failed"),
        "{text:.200}"
    );
}

#[test]
fn each_ends_in_its_own_way() {
    tried(CASES.len());
    let mut wrong = Vec::new();
    for (source, expected) in CASES {
        let text = outcome(source);
        let shown: String = text.chars().take(160).collect();
        if !text.contains(expected) {
            wrong.push(format!(
                "{source}\n    expected {expected:?}\n    found    {shown:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Source text nested or chained far deeper than any stack.
#[test]
fn deep_sources_are_refused_or_rendered() {
    let n = 100_000;
    let nested = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    let cases = [
        nested("{{ ((", "1", ""),
        format!("{{{{ {} }}}}", nested("(", "1", ")")),
        format!("{{{{ {} }}}}", nested("[", "1", "]")),
        format!("{{{{ {} }}}}", nested("{'a':", "1", "}")),
        format!("{{{{ {} }}}}", nested("not ", "1", "")),
        format!("{{{{ {} }}}}", nested("-", "1", "")),
        format!("{{{{ {} }}}}", nested("", "1", "+1")),
        format!("{{{{ {} }}}}", nested("", "1", "~1")),
        format!("{{{{ {} }}}}", nested("", "1", " and 1")),
        format!("{{{{ {} }}}}", nested("", "1", "**1")),
        format!("{{{{ {} }}}}", nested("", "x", ".a")),
        format!("{{{{ {} }}}}", nested("", "x", "[0]")),
        format!("{{{{ {} }}}}", nested("", "x", "|e")),
        format!("{{{{ {} }}}}", nested("", "x", "()")),
        format!("{{{{ {} }}}}", nested("", "1", " if 1 else 2")),
        format!("{{{{ {} }}}}", nested("", "1", "==1")),
        nested("{%if 1%}", "", ""),
        nested("{%if 1%}", "x", "{%endif%}")[..900_000].to_owned(),
        format!(
            "{}x{}",
            "{%if 1%}".repeat(50_000),
            "{%endif%}".repeat(50_000)
        ),
        format!(
            "{}x{}",
            "{%for i in [1]%}".repeat(30_000),
            "{%endfor%}".repeat(30_000)
        ),
        format!("{}x", "{%set x%}".repeat(100_000)),
        format!(
            "{}x{}",
            "{%macro a()%}".repeat(30_000),
            "{%endmacro%}".repeat(30_000)
        ),
        format!("{{%if 1%}}{}x{{%endif%}}", "{%elif 1%}".repeat(90_000)),
    ];
    tried(cases.len());
    for (index, source) in cases.iter().enumerate() {
        let text = outcome(source);
        assert!(
            text.contains("chat template failed") || text.starts_with("text"),
            "{index}: {text:.200}"
        );
    }
}
