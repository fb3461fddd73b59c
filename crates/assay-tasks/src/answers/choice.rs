//! Letters of multiple choice, and yes or no.

/// Species that are written with an initial and a small letter: `E. coli` is not a choice E.
const SPECIES: [(char, &str); 28] = [
    ('A', "baumannii"),
    ('A', "fumigatus"),
    ('A', "thaliana"),
    ('B', "anthracis"),
    ('B', "burgdorferi"),
    ('B', "cereus"),
    ('B', "fragilis"),
    ('B', "henselae"),
    ('B', "pertussis"),
    ('B', "subtilis"),
    ('C', "albicans"),
    ('C', "botulinum"),
    ('C', "difficile"),
    ('C', "diphtheriae"),
    ('C', "elegans"),
    ('C', "jejuni"),
    ('C', "neoformans"),
    ('C', "perfringens"),
    ('C', "tetani"),
    ('C', "trachomatis"),
    ('D', "melanogaster"),
    ('E', "coli"),
    ('E', "faecalis"),
    ('E', "faecium"),
    ('F', "tularensis"),
    ('G', "lamblia"),
    ('H', "influenzae"),
    ('H', "pylori"),
];

/// Words after a letter that give a reason, so that the letter is the whole choice.
const REASONS: [&str; 7] = ["because", "since", "as", "due", "is", "which", "given"];

/// The choice that a plain text states: `C`, `(C) text`, `C) text`, `C: text`, `C. text`,
/// `C - text`, `Option C`.
///
/// A letter that begins a phrase is not a choice (`C-reactive protein`, `A cell`), nor is the
/// initial of a species.
pub(super) fn read_choice(plain: &str) -> Option<char> {
    let named = without_name(plain);
    let rest = named.unwrap_or(plain).trim();
    if let Some(letter) = bare(rest) {
        return Some(letter);
    }
    let (opened, inner) = match rest.strip_prefix(['(', '[']) {
        Some(inner) => (true, inner),
        None => (false, rest),
    };
    let mut characters = inner.chars();
    let letter = characters.next().filter(is_letter)?;
    let after = characters.as_str();
    let mark = after.chars().next()?;
    let text = &after[mark.len_utf8()..];
    if opened {
        return matches!(mark, ')' | ']').then_some(letter);
    }
    let spaced = text.starts_with(char::is_whitespace);
    let word = text.trim_start();
    let closes = match mark {
        ')' | ']' => true,
        ':' | ',' | '\n' => spaced,
        '.' => spaced && !is_species(letter, word),
        ' ' => {
            let dashed = word
                .strip_prefix('-')
                .is_some_and(|after| after.starts_with(' '));
            let reason = word
                .split(' ')
                .next()
                .is_some_and(|word| REASONS.contains(&word));
            dashed || reason || (named.is_some() && word.starts_with('('))
        }
        _ => false,
    };
    closes.then_some(letter)
}

/// The text after `Option`, `Choice` or `Answer`, with the words around it.
fn without_name(plain: &str) -> Option<&str> {
    let mut rest = plain;
    let mut named = false;
    for lead in [
        "the ", "correct ", "best ", "final ", "answer", "option", "choice", " is", ":", " ",
    ] {
        if rest
            .get(..lead.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(lead))
        {
            rest = &rest[lead.len()..];
            named |= matches!(lead, "answer" | "option" | "choice");
        }
    }
    named.then_some(rest)
}

/// A letter and nothing else; in parentheses it may be small.
fn bare(text: &str) -> Option<char> {
    let enclosed = text
        .strip_prefix('(')
        .and_then(|inner| inner.strip_suffix(')'));
    let small = enclosed.map(|inner| inner.trim().to_uppercase());
    let inner = text.trim_matches(['(', ')', '.', '[', ']', ':', '*', ' ']);
    let inner = small.as_deref().unwrap_or(inner);
    let mut letters = inner.chars();
    let letter = letters.next().filter(is_letter)?;
    letters.next().is_none().then_some(letter)
}

fn is_letter(letter: &char) -> bool {
    ('A'..='J').contains(letter)
}

fn is_species(letter: char, text: &str) -> bool {
    let name: String = text.chars().take_while(|c| c.is_alphabetic()).collect();
    SPECIES.contains(&(letter, name.as_str()))
}

/// Yes or no, true or false, at the end or before a mark: `Yes, it is`, but not `no one`.
pub(super) fn read_truth(plain: &str) -> Option<bool> {
    let length = plain
        .char_indices()
        .find(|(_, c)| !c.is_alphanumeric())
        .map_or(plain.len(), |(at, _)| at);
    let (word, rest) = plain.split_at(length);
    let truth = match word.to_lowercase().as_str() {
        "yes" | "true" => true,
        "no" | "false" => false,
        _ => return None,
    };
    let ends = rest.is_empty() || rest.starts_with([',', '.', ';', ':', '!']);
    ends.then_some(truth)
}
