//! Control tokens in rendered templates: where they are, and the text between them.

/// A control token and its treatment of adjacent whitespace.
#[derive(Clone, Debug)]
pub(super) struct ControlToken {
    pub(super) id: u32,
    content: String,
    lstrip: bool,
    rstrip: bool,
}

/// A part of a rendered template.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Piece<'t> {
    /// A control token.
    Control(u32),
    /// Text between control tokens; never empty.
    Text(&'t str),
}

impl ControlToken {
    pub(super) fn name(&self) -> &str {
        &self.content
    }

    /// The name with `mark` after its first character.
    pub(super) fn broken_name(&self, mark: char) -> String {
        let mut name = self.content.clone();
        name.insert(name.chars().next().map_or(0, char::len_utf8), mark);
        name
    }
}

/// The control tokens of a vocabulary, longest name first.
pub(super) fn control_tokens(inner: &tokenizers::Tokenizer) -> Vec<ControlToken> {
    let mut tokens: Vec<ControlToken> = inner
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special && !token.content.is_empty())
        .map(|(id, token)| ControlToken {
            id,
            content: token.content,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        })
        .collect();
    tokens.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then(a.id.cmp(&b.id)));
    tokens
}

/// Splits a text at control tokens: leftmost match, longest name.
pub(super) fn split<'t>(text: &'t str, control: &[ControlToken]) -> Vec<Piece<'t>> {
    let mut first = [false; 256];
    control
        .iter()
        .for_each(|token| first[usize::from(token.content.as_bytes()[0])] = true);
    let mut pieces = Vec::new();
    let mut push = |part: &'t str| {
        if !part.is_empty() {
            pieces.push(Piece::Text(part));
        }
        pieces.len()
    };
    let bytes = text.as_bytes();
    let (mut start, mut at) = (0, 0);
    let mut found = Vec::new();
    while at < bytes.len() {
        let hit = first[usize::from(bytes[at])]
            .then(|| {
                control
                    .iter()
                    .find(|token| bytes[at..].starts_with(token.content.as_bytes()))
            })
            .flatten();
        let Some(token) = hit else {
            at += 1;
            continue;
        };
        let before = &text[start..at];
        let before = if token.lstrip {
            before.trim_end()
        } else {
            before
        };
        found.push((push(before), token.id));
        at += token.content.len();
        if token.rstrip {
            at = text.len() - text[at..].trim_start().len();
        }
        start = at;
    }
    push(&text[start..]);
    interleave(pieces, &found)
}

/// Inserts control tokens between texts; each comes after the number of texts given with it.
fn interleave<'t>(texts: Vec<Piece<'t>>, control: &[(usize, u32)]) -> Vec<Piece<'t>> {
    let mut pieces = Vec::with_capacity(texts.len() + control.len());
    let mut next = 0;
    for &(texts_before, id) in control {
        pieces.extend_from_slice(&texts[next..texts_before]);
        pieces.push(Piece::Control(id));
        next = texts_before;
    }
    pieces.extend_from_slice(&texts[next..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> ControlToken {
        ControlToken {
            id,
            content: content.to_owned(),
            lstrip: false,
            rstrip: false,
        }
    }

    #[test]
    fn leftmost_longest() {
        let control = [token(1, "<|end_of|>"), token(2, "<|end|>"), token(3, "<|")];
        let pieces = split("é<|end|><|end_of|>x<|en", &control);
        let expected = [
            Piece::Text("é"),
            Piece::Control(2),
            Piece::Control(1),
            Piece::Text("x"),
            Piece::Control(3),
            Piece::Text("en"),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(split("", &control), []);
    }

    #[test]
    fn stripping_tokens_take_adjacent_whitespace() {
        let mask = ControlToken {
            lstrip: true,
            rstrip: true,
            ..token(7, "<m>")
        };
        assert_eq!(
            split("a \n<m>  b", &[mask]),
            [Piece::Text("a"), Piece::Control(7), Piece::Text("b")]
        );
    }
}
