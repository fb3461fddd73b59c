//! LaTeX and Markdown written as plain text: `\dfrac{1}{2}` as `1/2`, `\text{cm}^2` as ` cm ^2`,
//! `$\pi$` as `π`.

use super::normalise::control_token_length;

/// Maximum depth of nested groups; deeper ones are copied without their marks.
const MAX_DEPTH: usize = 32;

/// Commands that are replaced by what they mean.
const SYMBOLS: [(&str, &str); 45] = [
    ("times", "*"),
    ("cdot", "*"),
    ("ast", "*"),
    ("div", "/"),
    ("over", "/"),
    ("slash", "/"),
    ("pm", "±"),
    ("pi", "π"),
    ("infty", "∞"),
    ("circ", "°"),
    ("degree", "°"),
    ("le", "<="),
    ("leq", "<="),
    ("leqslant", "<="),
    ("ge", ">="),
    ("geq", ">="),
    ("geqslant", ">="),
    ("lt", "<"),
    ("gt", ">"),
    ("ne", "!="),
    ("neq", "!="),
    ("approx", "≈"),
    ("sim", "≈"),
    ("simeq", "≈"),
    ("cup", "∪"),
    ("cap", "∩"),
    ("emptyset", "∅"),
    ("varnothing", "∅"),
    ("in", " ∈ "),
    ("to", "→"),
    ("rightarrow", "→"),
    ("Rightarrow", "→"),
    ("implies", "→"),
    ("cdots", "..."),
    ("ldots", "..."),
    ("dots", "..."),
    ("euro", "€"),
    ("pounds", "£"),
    ("textdollar", "$"),
    ("prime", "'"),
    ("quad", " "),
    ("qquad", " "),
    ("space", " "),
    ("lbrack", "["),
    ("rbrack", "]"),
];

/// Commands that only change how their argument looks.
const STYLES: [&str; 32] = [
    "text",
    "mbox",
    "hbox",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "textnormal",
    "textup",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathtt",
    "mathbb",
    "mathcal",
    "boldsymbol",
    "bm",
    "bf",
    "rm",
    "emph",
    "underline",
    "operatorname",
    "boxed",
    "fbox",
    "framebox",
    "displaystyle",
    "textstyle",
    "ensuremath",
    "mathord",
    "mathop",
];

/// Commands that are left out.
const IGNORED: [&str; 14] = [
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "limits",
    "nolimits", "phantom", "middle",
];

/// Formatting tags that never belong to an answer.
const TAGS: [&str; 10] = [
    "answer",
    "final_answer",
    "b",
    "strong",
    "i",
    "em",
    "u",
    "span",
    "p",
    "br",
];

/// The text without the marks of LaTeX, Markdown and HTML.
pub(super) fn without_markup(text: &str) -> String {
    let mut reader = Reader {
        text,
        at: 0,
        out: String::with_capacity(text.len()),
        dollars: math_dollars(text),
    };
    reader.sequence(0, text.len());
    reader.out
}

/// Positions of the `$` that enclose mathematics; any other `$` is money. In order.
///
/// A `$` before a digit is money unless a `$` that is not itself before a digit closes it.
fn math_dollars(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let raw: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at] == b'$' && (at == 0 || bytes[at - 1] != b'\\'))
        .collect();
    let before_number = |at: usize| {
        let next = text[at + 1..].trim_start_matches([' ', '-', '.']);
        next.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut found = Vec::new();
    let mut index = 0;
    while index < raw.len() {
        let Some(&close) = raw.get(index + 1) else {
            // A single `$` that is not next to a number belongs to removed mathematics.
            let behind = text[..raw[index]]
                .trim_end()
                .ends_with(|c: char| c.is_ascii_digit());
            if !before_number(raw[index]) && !behind {
                found.push(raw[index]);
            }
            break;
        };
        if before_number(raw[index]) && before_number(close) && raw[index] + 1 < close {
            index += 1;
            continue;
        }
        found.extend([raw[index], close]);
        index += 2;
    }
    found
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    out: String,
    dollars: Vec<usize>,
}

impl Reader<'_> {
    fn sequence(&mut self, depth: usize, end: usize) {
        while self.at < end {
            self.one(depth, end);
        }
    }

    fn one(&mut self, depth: usize, end: usize) {
        let rest = &self.text[self.at..end];
        let Some(character) = rest.chars().next() else {
            self.at = end;
            return;
        };
        let start = self.at;
        self.at += character.len_utf8();
        match character {
            '\\' => self.command(depth, end),
            '$' if self.dollars.binary_search(&start).is_ok() => {}
            '{' | '}' | '`' => {}
            '~' => self.out.push(' '),
            '√' => self.root(depth, end),
            '^' | '_' => self.raised(character, depth, end),
            '*' if rest.starts_with("**") => self.stars(end),
            '<' if tag_length(rest).is_some() => self.at = start + tag_length(rest).unwrap_or(1),
            _ => self.out.push(character),
        }
    }

    /// `**` between two operands is a power; elsewhere it marks bold text.
    fn stars(&mut self, end: usize) {
        self.at += 1;
        let operand = |c: char| c.is_alphanumeric() || c == ')' || c == '(';
        let power = self.out.ends_with(operand) && self.text[self.at..end].starts_with(operand);
        let closed =
            self.text[self.at..end].contains("**") || self.text[..self.at - 2].contains("**");
        if power && !closed {
            self.out.push('^');
        }
    }

    fn command(&mut self, depth: usize, end: usize) {
        let rest = &self.text[self.at..end];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        if letters == 0 {
            let Some(mark) = rest.chars().next() else {
                return;
            };
            self.at += mark.len_utf8();
            match mark {
                ',' | ';' | ':' | ' ' | '\\' => self.out.push(' '),
                '!' | '(' | ')' | '[' | ']' | '{' | '}' => {}
                _ => self.out.push(mark),
            }
            return;
        }
        let name = &rest[..letters];
        self.at += letters;
        if let Some((_, symbol)) = SYMBOLS.iter().find(|(known, _)| *known == name) {
            self.out.push_str(symbol);
        } else if matches!(
            name,
            "frac" | "dfrac" | "tfrac" | "cfrac" | "nicefrac" | "sfrac" | "flatfrac"
        ) {
            self.fraction(depth, end);
        } else if name == "sqrt" {
            self.root(depth, end);
        } else if matches!(
            name,
            "color" | "textcolor" | "hspace" | "vspace" | "tag" | "label"
        ) {
            self.argument(depth, end);
        } else if IGNORED.contains(&name) {
            if self.text[self.at..end].starts_with('.') {
                self.at += 1;
            }
        } else if STYLES.contains(&name) && !rest[letters..].trim_start().starts_with('{') {
            self.out.push(' ');
        } else if STYLES.contains(&name) {
            let argument = self.argument(depth, end);
            self.out.push(' ');
            self.out.push_str(&argument);
            if argument.ends_with(|c: char| c.is_alphanumeric()) {
                self.out.push(' ');
            }
        } else {
            self.out.push('\\');
            self.out.push_str(name);
        }
    }

    fn fraction(&mut self, depth: usize, end: usize) {
        let top = self.argument(depth, end);
        let bottom = self.argument(depth, end);
        if self.out.ends_with(|c: char| c.is_ascii_digit()) {
            self.out.push(' ');
        }
        self.push_operand(&top);
        self.out.push('/');
        self.push_operand(&bottom);
    }

    fn root(&mut self, depth: usize, end: usize) {
        let rest = self.text[self.at..end].trim_start();
        let degree = rest
            .strip_prefix('[')
            .and_then(|inner| inner.split_once(']'));
        let name = match degree {
            Some((degree, after)) if degree.len() <= 3 => {
                self.at = end - after.len();
                format!("root{degree}(")
            }
            _ => "sqrt(".to_owned(),
        };
        let rest = self.text[self.at..end].trim_start();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let argument = if self.text[..self.at].ends_with('√') && digits > 0 {
            self.at = end - rest.len() + digits;
            rest[..digits].to_owned()
        } else if rest.starts_with('(') {
            self.out.push_str(name.trim_end_matches('('));
            return;
        } else {
            self.argument(depth, end)
        };
        self.out.push_str(&name);
        self.out.push_str(argument.trim());
        self.out.push(')');
    }

    fn raised(&mut self, mark: char, depth: usize, end: usize) {
        let rest = &self.text[self.at..end];
        if !rest.trim_start().starts_with(['{', '\\']) {
            self.out.push(mark);
            return;
        }
        let argument = self.argument(depth, end);
        let argument = argument.trim();
        if argument == "°" {
            self.out.push('°');
            return;
        }
        if argument.is_empty() {
            return;
        }
        self.out.push(mark);
        if argument.chars().all(char::is_alphanumeric) {
            self.out.push_str(argument);
        } else {
            self.out.push('(');
            self.out.push_str(argument);
            self.out.push(')');
        }
    }

    /// Writes a numerator or denominator, in parentheses unless it is digits or one letter.
    fn push_operand(&mut self, operand: &str) {
        let operand = operand.trim();
        let digits = operand.bytes().all(|byte| byte.is_ascii_digit());
        let letter = operand.chars().count() == 1 && operand.chars().all(char::is_alphabetic);
        if (digits && !operand.is_empty()) || letter {
            self.out.push_str(operand);
        } else {
            self.out.push('(');
            self.out.push_str(operand);
            self.out.push(')');
        }
    }

    /// The plain form of a command's argument: a group, another command, or one character.
    fn argument(&mut self, depth: usize, end: usize) -> String {
        let rest = &self.text[self.at..end];
        let trimmed = rest.trim_start();
        if depth >= MAX_DEPTH || trimmed.is_empty() {
            return String::new();
        }
        self.at = end - trimmed.len();
        let outer = std::mem::take(&mut self.out);
        match trimmed.strip_prefix('{') {
            Some(inner) => {
                let length = balanced_length(inner);
                let close = self.at + 1 + length.unwrap_or(inner.len());
                self.at += 1;
                self.sequence(depth + 1, close);
                self.at = (close + 1).min(end);
            }
            None => self.one(depth + 1, end),
        }
        std::mem::replace(&mut self.out, outer)
    }
}

/// Bytes up to the brace that closes an already opened one.
pub(super) fn balanced_length(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\\' => {
                escaped = !escaped;
                continue;
            }
            b'{' if !escaped => depth += 1,
            b'}' if !escaped => depth -= 1,
            _ => {}
        }
        escaped = false;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Bytes of the formatting tag or control token that the text begins with.
fn tag_length(text: &str) -> Option<usize> {
    if let Some(length) = control_token_length(text) {
        return Some(length);
    }
    let inner = text.strip_prefix('<')?;
    let name = inner.strip_prefix('/').unwrap_or(inner);
    let known = TAGS.iter().find(|tag| {
        name.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag))
            && name[tag.len()..]
                .trim_start_matches([' ', '/'])
                .starts_with('>')
    })?;
    let close = name[known.len()..].find('>')?;
    Some(text.len() - name.len() + known.len() + close + 1)
}
