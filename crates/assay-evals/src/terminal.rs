//! A trace as a heatmap in the terminal.
//!
//! Text of a trace is foreign: control characters, escape sequences among them, are replaced before anything is
//! printed. Without colour each line is followed by one that gives every token's class under its first character, `0`
//! lowest to `9` highest; the predicted error is marked `^` there, and in brackets everywhere.

use std::fmt::Write;

use assay_tasks::trace::ScoredTrace;

use crate::heat::{HeatScale, predicted_token};
use crate::summary::short;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourMode {
    /// 24-bit colours.
    TrueColour,
    /// The 256-colour palette.
    Palette,
    /// No escape sequence at all.
    Plain,
}

/// What a process knows of its terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct TerminalFacts<'a> {
    /// Whether the output goes to a terminal.
    pub is_terminal: bool,
    /// `NO_COLOR`, see no-color.org: any non-empty value.
    pub no_color: Option<&'a str>,
    /// `COLORTERM`: `truecolor` or `24bit` where the terminal has all colours.
    pub colorterm: Option<&'a str>,
    /// `TERM`.
    pub term: Option<&'a str>,
}

impl ColourMode {
    /// The best mode the terminal is known to have.
    pub fn detect(facts: &TerminalFacts<'_>) -> Self {
        let silenced = facts.no_color.is_some_and(|value| !value.is_empty());
        let term = facts.term.unwrap_or("");
        if silenced || !facts.is_terminal || term.is_empty() || term == "dumb" {
            return Self::Plain;
        }
        Self::of_terminal(facts)
    }

    /// The best mode whether or not the output is a terminal, for whoever asks for colours.
    pub fn of_terminal(facts: &TerminalFacts<'_>) -> Self {
        let full = facts
            .colorterm
            .is_some_and(|value| value == "truecolor" || value == "24bit");
        if full || facts.term.is_some_and(|term| term.ends_with("-direct")) {
            Self::TrueColour
        } else {
            Self::Palette
        }
    }
}

type Rgb = (u8, u8, u8);

/// Backgrounds from the lowest class to the highest: orange over none to blue, with the ink that reads on each.
const TRUE_COLOURS: [Option<(Rgb, Rgb)>; 11] = [
    Some(((196, 84, 0), (255, 255, 255))),
    Some(((217, 106, 10), (0, 0, 0))),
    Some(((235, 142, 58), (0, 0, 0))),
    Some(((246, 184, 122), (0, 0, 0))),
    Some(((252, 221, 190), (0, 0, 0))),
    None,
    Some(((207, 226, 243), (0, 0, 0))),
    Some(((154, 196, 230), (0, 0, 0))),
    Some(((94, 155, 211), (0, 0, 0))),
    Some(((46, 117, 182), (255, 255, 255))),
    Some(((24, 86, 150), (255, 255, 255))),
];
/// The nearest entries of the 256-colour palette: background and ink.
const PALETTE: [Option<(u8, u8)>; 11] = [
    Some((130, 231)),
    Some((166, 231)),
    Some((172, 16)),
    Some((215, 16)),
    Some((223, 16)),
    None,
    Some((153, 16)),
    Some((117, 16)),
    Some((74, 16)),
    Some((32, 231)),
    Some((25, 231)),
];

/// The heading and the tokens of a trace; ends with a line break.
pub fn heatmap(trace: &ScoredTrace, scale: &HeatScale, mode: ColourMode) -> String {
    let mut text = heading(trace);
    let predicted = predicted_token(trace);
    let mut painter = Painter::new(mode);
    let mut written = 0;
    for (token, (&(start, end), reward)) in trace
        .token_offsets
        .iter()
        .zip(&trace.token_rewards)
        .enumerate()
    {
        let (Some(gap), Some(own)) = (trace.text.get(written..start), trace.text.get(start..end))
        else {
            continue;
        };
        written = end;
        painter.push(gap, None, false);
        let class = reward.map(|reward| scale.class(f64::from(reward)));
        painter.push(own, class, predicted == Some(token));
    }
    painter.push(trace.text.get(written..).unwrap_or_default(), None, false);
    text.push_str(&painter.finish());
    text
}

/// One line that explains the colours, or the digits.
pub fn legend(scale: &HeatScale, mode: ColourMode) -> String {
    let (low, high) = (short(scale.low()), short(scale.high()));
    let cells: String = match mode {
        ColourMode::Plain => "0 1 2 3 4 5 6 7 8 9".to_owned(),
        _ => (0..=10)
            .map(|class| format!("{}  {}", opening(class, mode), closing(class)))
            .collect(),
    };
    let mark = match mode {
        ColourMode::Plain => "[token], ^",
        _ => "[token]",
    };
    format!("reward {low} {cells} {high}   {mark}: largest drop, the predicted error\n")
}

/// Foreign text for a terminal: control characters become a visible replacement, line breaks and tabs stay.
pub fn printable(text: &str) -> String {
    let safe = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() || is_directional(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(safe).collect()
}

/// Characters that change the order in which a terminal shows text.
fn is_directional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn heading(trace: &ScoredTrace) -> String {
    let verdict = match trace.correct {
        Some(true) => " · correct",
        Some(false) => " · wrong",
        None => "",
    };
    let scores: Vec<String> = ["p_correct", "mean", "min", "last"]
        .into_iter()
        .filter_map(|name| {
            Some(format!(
                "{name} {}",
                short(f64::from(*trace.scores.get(name)?))
            ))
        })
        .collect();
    let scores = match scores.is_empty() {
        true => String::new(),
        false => scores.join("  ") + "\n",
    };
    format!(
        "{} · {}{verdict}\n{scores}{}\n\n",
        one_line(&trace.id),
        one_line(&trace.generator),
        printable(&trace.question)
    )
}

fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Writes tokens; in plain mode the line of classes follows each line of text.
struct Painter {
    mode: ColourMode,
    text: String,
    classes: String,
}

impl Painter {
    fn new(mode: ColourMode) -> Self {
        Self {
            mode,
            text: String::new(),
            classes: String::new(),
        }
    }

    fn push(&mut self, text: &str, class: Option<usize>, predicted: bool) {
        let safe = printable(text).replace('\t', "    ");
        let shown = if predicted && !safe.is_empty() {
            bracketed(&safe)
        } else {
            safe
        };
        for (place, piece) in shown.split('\n').enumerate() {
            if place > 0 {
                self.end_line();
            }
            self.push_piece(piece, class, predicted);
        }
    }

    fn push_piece(&mut self, piece: &str, class: Option<usize>, predicted: bool) {
        if piece.is_empty() {
            return;
        }
        if self.mode == ColourMode::Plain {
            let digit = match class {
                None => ' ',
                Some(_) if predicted => '^',
                Some(class) => char::from_digit((class * 9 / 10) as u32, 10).unwrap_or(' '),
            };
            self.classes.push(digit);
            self.classes.extend(piece.chars().skip(1).map(|_| ' '));
            self.text.push_str(piece);
            return;
        }
        match class {
            Some(class) => {
                let bold = if predicted { "\x1b[1;4m" } else { "" };
                let (open, close) = (opening(class, self.mode), closing(class));
                let reset = if predicted { "\x1b[0m" } else { close };
                let _ = write!(self.text, "{bold}{open}{piece}{reset}");
            }
            None => self.text.push_str(piece),
        }
    }

    fn end_line(&mut self) {
        self.text.push('\n');
        if !self.classes.trim().is_empty() {
            self.text.push_str(self.classes.trim_end());
            self.text.push('\n');
        }
        self.classes.clear();
    }

    fn finish(mut self) -> String {
        self.end_line();
        self.text
    }
}

/// The visible part of a token in brackets: the blanks around it stay outside.
fn bracketed(token: &str) -> String {
    let inner = token.trim();
    if inner.is_empty() {
        return format!("[{}]{token}", token.replace('\n', "\\n"));
    }
    let start = token.len() - token.trim_start().len();
    format!(
        "{}[{inner}]{}",
        &token[..start],
        &token[start + inner.len()..]
    )
}

fn opening(class: usize, mode: ColourMode) -> String {
    match mode {
        ColourMode::Plain => String::new(),
        ColourMode::TrueColour => TRUE_COLOURS[class].map_or(String::new(), |((r, g, b), ink)| {
            let (ir, ig, ib) = ink;
            format!("\x1b[48;2;{r};{g};{b};38;2;{ir};{ig};{ib}m")
        }),
        ColourMode::Palette => PALETTE[class].map_or(String::new(), |(ground, ink)| {
            format!("\x1b[48;5;{ground};38;5;{ink}m")
        }),
    }
}

fn closing(class: usize) -> &'static str {
    if PALETTE[class].is_some() {
        "\x1b[0m"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str, offsets: &[(usize, usize)], rewards: &[f32]) -> ScoredTrace {
        ScoredTrace {
            id: "p\x1b]0;owned\x07".into(),
            generator: "g".into(),
            text: text.into(),
            token_offsets: offsets.to_vec(),
            token_rewards: rewards.iter().copied().map(Some).collect(),
            ..ScoredTrace::default()
        }
    }

    fn body(text: &str) -> &str {
        text.split_once("\n\n\n").map_or(text, |(_, body)| body)
    }

    #[test]
    fn plain_text_gives_classes_under_the_tokens() {
        let trace = trace(
            "ab cd\nef",
            &[(0, 2), (2, 5), (5, 6), (6, 8)],
            &[4.0, -4.0, 0.0, 0.0],
        );
        let scale = HeatScale::new(0.0, 4.0);
        let shown = heatmap(&trace, &scale, ColourMode::Plain);
        assert_eq!(body(&shown), "ab [cd]\n9 ^\nef\n4\n");
        assert!(
            !shown.contains('\x1b') && !shown.contains('\x07'),
            "{shown:?}"
        );
    }

    #[test]
    fn colours_open_and_close_and_hold_the_whole_text() {
        let trace = trace("a b c", &[(0, 1), (1, 3), (3, 5)], &[4.0, 0.0, -5.0]);
        let scale = HeatScale::new(0.0, 4.0);
        let full = heatmap(&trace, &scale, ColourMode::TrueColour);
        assert!(
            full.contains("\x1b[48;2;24;86;150;38;2;255;255;255ma\x1b[0m b"),
            "{full:?}"
        );
        let palette = heatmap(&trace, &scale, ColourMode::Palette);
        assert!(
            palette.contains("\x1b[48;5;25;38;5;231ma\x1b[0m b"),
            "{palette:?}"
        );
        assert!(palette.ends_with("\x1b[0m\n"));
    }

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        let trace = trace("x\x1b[31m\u{202e}y", &[(0, 10)], &[1.0]);
        for mode in [ColourMode::Plain, ColourMode::Palette] {
            let shown = heatmap(&trace, &HeatScale::new(1.0, 1.0), mode);
            assert!(
                !shown.contains("\x1b[31m") && !shown.contains('\u{202e}'),
                "{shown:?}"
            );
            assert!(shown.contains("x\u{fffd}[31m\u{fffd}y"), "{shown:?}");
        }
    }

    #[test]
    fn the_mode_follows_the_environment() {
        let facts = |no_color, colorterm, term, is_terminal| TerminalFacts {
            is_terminal,
            no_color,
            colorterm,
            term,
        };
        let mode = |f: TerminalFacts<'_>| ColourMode::detect(&f);
        let xterm = Some("xterm-256color");
        assert_eq!(
            mode(facts(None, Some("truecolor"), xterm, true)),
            ColourMode::TrueColour
        );
        assert_eq!(mode(facts(None, None, xterm, true)), ColourMode::Palette);
        assert_eq!(
            mode(facts(Some("1"), Some("24bit"), xterm, true)),
            ColourMode::Plain
        );
        assert_eq!(
            mode(facts(Some(""), None, xterm, true)),
            ColourMode::Palette
        );
        assert_eq!(
            mode(facts(None, Some("24bit"), Some("dumb"), true)),
            ColourMode::Plain
        );
        assert_eq!(
            mode(facts(None, Some("24bit"), xterm, false)),
            ColourMode::Plain
        );
    }
}
