//! Text for a terminal: traces as heatmaps, summaries as tables, metrics as curves.
//!
//! The text of a trace is not trusted: control characters, including escape sequences, are
//! replaced. Without colours each line of text is followed by a line with the class of every token
//! under its first character, from `0` (lowest) to `9` (highest). The predicted error is in
//! brackets and, without colours, marked `^`.

mod curves;

use std::fmt::Write;

use assay_evals::Summary;
use assay_tasks::trace::ScoredTrace;

use crate::heat::{HEAT_CLASSES, HeatScale, predicted_token};
use crate::numbers::format_number;

pub use curves::curves;

/// The colours that a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourMode {
    /// 24-bit colours.
    TrueColour,
    /// The 256-colour palette.
    Palette,
    /// No escape sequences.
    Plain,
}

/// What a process knows about its terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct TerminalEnvironment<'a> {
    /// Whether standard output is a terminal.
    pub is_terminal: bool,
    /// `NO_COLOR`: any non-empty value turns colours off, see no-color.org.
    pub no_color: Option<&'a str>,
    /// `COLORTERM`: `truecolor` or `24bit` if the terminal has 24-bit colours.
    pub colorterm: Option<&'a str>,
    /// `TERM`.
    pub term: Option<&'a str>,
}

impl ColourMode {
    /// The best mode for standard output: plain if it is not a terminal or colours are turned off.
    pub fn detect(environment: &TerminalEnvironment<'_>) -> Self {
        let disabled = environment.no_color.is_some_and(|value| !value.is_empty());
        let term = environment.term.unwrap_or("");
        if disabled || !environment.is_terminal || term.is_empty() || term == "dumb" {
            return Self::Plain;
        }
        Self::with_colours(environment)
    }

    /// The best mode with colours, whether or not standard output is a terminal.
    pub fn with_colours(environment: &TerminalEnvironment<'_>) -> Self {
        let full = environment
            .colorterm
            .is_some_and(|value| value == "truecolor" || value == "24bit");
        if full
            || environment
                .term
                .is_some_and(|term| term.ends_with("-direct"))
        {
            Self::TrueColour
        } else {
            Self::Palette
        }
    }
}

type Rgb = (u8, u8, u8);

/// Background and text colour of each class, from the lowest (orange) over none to the highest
/// (blue).
const TRUE_COLOURS: [Option<(Rgb, Rgb)>; HEAT_CLASSES] = [
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
/// The nearest entries of the 256-colour palette: background and text colour.
const PALETTE: [Option<(u8, u8)>; HEAT_CLASSES] = [
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

/// The heading and the coloured tokens of a trace; ends with a line break.
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
        painter.push(gap, Paint::None);
        let paint = match reward.map(|reward| scale.class(f64::from(reward))) {
            None => Paint::None,
            Some(class) if predicted == Some(token) => Paint::Predicted(class),
            Some(class) => Paint::Class(class),
        };
        painter.push(own, paint);
    }
    painter.push(trace.text.get(written..).unwrap_or_default(), Paint::None);
    text.push_str(&painter.finish());
    text
}

/// One line that explains the colours or digits.
pub fn legend(scale: &HeatScale, mode: ColourMode) -> String {
    let (low, high) = (format_number(scale.low()), format_number(scale.high()));
    let cells: String = match mode {
        ColourMode::Plain => "0 1 2 3 4 5 6 7 8 9".to_owned(),
        _ => (0..HEAT_CLASSES)
            .map(|class| format!("{}  {}", opening(class, mode), closing(class)))
            .collect(),
    };
    let mark = match mode {
        ColourMode::Plain => "[token], ^",
        _ => "[token]",
    };
    format!("reward {low} {cells} {high}   {mark}: largest drop, the predicted error\n")
}

/// Text that cannot control the terminal: control characters other than line breaks and tabs become
/// U+FFFD.
fn printable(text: &str) -> String {
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

/// A summary as an aligned table of name, value, interval and n.
pub fn summary_table(summary: &Summary) -> String {
    let names = summary.iter().map(|(name, _)| name.chars().count());
    let width = names.max().unwrap_or(0).max("name".len());
    let mut table = format!(
        "{:width$}  {:>10}  {:>23}  {:>7}\n",
        "name", "value", "95 % interval", "n"
    );
    for (name, e) in summary.iter() {
        let interval = format!("{} .. {}", format_number(e.low), format_number(e.high));
        let value = format_number(e.value);
        let _ = writeln!(
            table,
            "{name:width$}  {value:>10}  {interval:>23}  {:>7}",
            e.n
        );
    }
    table
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
                format_number(f64::from(*trace.scores.get(name)?))
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

/// How a piece of text is marked.
#[derive(Clone, Copy, PartialEq)]
enum Paint {
    /// Text without a reward.
    None,
    /// A token with its colour class.
    Class(usize),
    /// The predicted error, with its colour class.
    Predicted(usize),
}

/// Writes pieces of text; in plain mode a line of classes follows each line of text.
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

    fn push(&mut self, text: &str, paint: Paint) {
        let safe = printable(text).replace('\t', "    ");
        let shown = match paint {
            Paint::Predicted(_) if !safe.is_empty() => bracketed(&safe),
            _ => safe,
        };
        for (place, piece) in shown.split('\n').enumerate() {
            if place > 0 {
                self.end_line();
            }
            self.push_piece(piece, paint);
        }
    }

    fn push_piece(&mut self, piece: &str, paint: Paint) {
        if piece.is_empty() {
            return;
        }
        if self.mode == ColourMode::Plain {
            let digit = match paint {
                Paint::None => ' ',
                Paint::Predicted(_) => '^',
                Paint::Class(class) => char::from_digit((class * 9 / 10) as u32, 10).unwrap_or(' '),
            };
            self.classes.push(digit);
            self.classes.extend(piece.chars().skip(1).map(|_| ' '));
            self.text.push_str(piece);
            return;
        }
        let _ = match paint {
            Paint::None => write!(self.text, "{piece}"),
            Paint::Class(class) => {
                let (open, close) = (opening(class, self.mode), closing(class));
                write!(self.text, "{open}{piece}{close}")
            }
            Paint::Predicted(class) => {
                let open = opening(class, self.mode);
                write!(self.text, "\x1b[1;4m{open}{piece}\x1b[0m")
            }
        };
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

/// The token with its visible part in brackets; spaces around it stay outside.
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
        ColourMode::TrueColour => TRUE_COLOURS[class].map_or(String::new(), |(ground, text)| {
            let ((r, g, b), (tr, tg, tb)) = (ground, text);
            format!("\x1b[48;2;{r};{g};{b};38;2;{tr};{tg};{tb}m")
        }),
        ColourMode::Palette => PALETTE[class].map_or(String::new(), |(ground, text)| {
            format!("\x1b[48;5;{ground};38;5;{text}m")
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
    use assay_evals::statistics::Estimate;

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
    fn plain_text_has_classes_under_the_tokens() {
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
    fn colours_are_reset_and_all_text_shown() {
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
    fn trace_text_cannot_control_the_terminal() {
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
        let facts = |no_color, colorterm, term, is_terminal| TerminalEnvironment {
            is_terminal,
            no_color,
            colorterm,
            term,
        };
        let mode = |f: TerminalEnvironment<'_>| ColourMode::detect(&f);
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

    #[test]
    fn the_table_is_aligned() {
        let estimate = |value, low, high| Estimate {
            value,
            low,
            high,
            n: 8,
        };
        let mut summary = Summary::default();
        summary.insert("select.majority.at_4", estimate(0.5, 0.25, 0.1 + 0.2));
        summary.insert("select.random.at_4", estimate(1.0 / 3.0, 0.25, 0.75));
        summary.insert("seconds", Estimate::exact(12.5));
        let table = summary_table(&summary);
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
        assert!(table.contains("0.3333") && table.contains("0.2500 .. 0.7500"));
        assert_eq!(widths.len(), 4);
    }
}
