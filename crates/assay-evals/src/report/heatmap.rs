//! Token heatmaps: the reward of each token as a colour, the predicted error outlined, the course of the reward below.

use std::fmt::Write;
use std::ops::Range;

use assay_tasks::trace::ScoredTrace;

use super::ReportSettings;
use crate::heat::{HEAT_CLASSES, HeatScale, predicted_token};
use crate::plot::escape;
use crate::statistics::quantile;

/// A trace to draw as a heatmap.
#[derive(Clone, Debug)]
pub struct HeatmapTrace<'a> {
    /// The trace; its `token_rewards` are the colours.
    pub trace: &'a ScoredTrace,
    /// Byte range of an error known to be there.
    pub injected: Option<Range<usize>>,
}

/// The traces of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column<'a> {
    /// The run's name; empty where there is one.
    pub(super) name: &'a str,
    pub(super) traces: &'a [HeatmapTrace<'a>],
    /// Traces with rewards that these were chosen from.
    pub(super) of: usize,
}

/// Discount of the curve drawn beside the raw rewards.
const DISCOUNT: f64 = 0.9;
const CURVE_WIDTH: f64 = 600.0;
const CURVE_HEIGHT: f64 = 54.0;

/// Adds the legend, the controls and as many heatmaps of each run as the settings allow, at least one.
pub(super) fn push(page: &mut String, columns: &[Column<'_>], settings: &ReportSettings) {
    let scored: Vec<Vec<&HeatmapTrace<'_>>> = columns
        .iter()
        .map(|column| {
            column
                .traces
                .iter()
                .filter(|shown| is_scored(shown))
                .collect()
        })
        .collect();
    if scored.iter().all(Vec::is_empty) {
        return;
    }
    page.push_str("<section id=\"tokens\"><h2>Token rewards</h2>");
    let scale = HeatScale::of(scored.iter().flatten().map(|shown| shown.trace));
    push_legend(page, &scale);
    page.push_str("<div class=\"columns\">");
    for (column, traces) in columns.iter().zip(&scored) {
        push_column(page, column, traces, (&scale, settings));
    }
    page.push_str("</div></section>");
}

fn is_scored(shown: &HeatmapTrace<'_>) -> bool {
    shown.trace.token_rewards.iter().any(Option::is_some)
}

fn push_column(
    page: &mut String,
    column: &Column<'_>,
    traces: &[&HeatmapTrace<'_>],
    (scale, settings): (&HeatScale, &ReportSettings),
) {
    let middle = median_score(traces);
    let (mut body, mut shown) = (String::new(), 0);
    for (place, heatmap) in traces.iter().take(settings.heatmaps.max(1)).enumerate() {
        if shown > 0 && body.len() >= settings.heatmap_bytes {
            break;
        }
        push_article(&mut body, heatmap, scale, (place, middle));
        shown += 1;
    }
    page.push_str("<div class=\"column\">");
    if !column.name.is_empty() {
        let _ = write!(page, "<h3>{}</h3>", escape(column.name));
    }
    let of = column.of.max(traces.len());
    let chosen = if shown < of {
        ": the most misjudged ones (wrong with a high score, correct with a low one) and a fixed sample"
    } else {
        ""
    };
    let _ = write!(
        page,
        "<p class=\"note\">{shown} of {of} traces{chosen}.</p>"
    );
    page.push_str(&body);
    page.push_str("</div>");
}

fn push_legend(page: &mut String, scale: &HeatScale) {
    let cells: String = (0..HEAT_CLASSES)
        .map(|class| format!("<i class=\"cell h{class}\"></i>"))
        .collect();
    let _ = write!(
        page,
        "<div class=\"legend\"><p><b>{}</b> {cells} <b>{}</b> reward; uncoloured at the median, {}. \
         <i class=\"predicted h2\">outlined</i> largest drop: the predicted error. \
         <i class=\"injected\">wavy</i> known error. \
         Below each trace: <span class=\"raw\">raw</span> rewards and their \
         <span class=\"discounted\">discounted</span> return (1 - γ) Σ γ<sup>k</sup> r, γ = {DISCOUNT}.</p>\
         <p class=\"controls\"><label>Sort by <select id=\"sort\">\
         <option value=\"place\">file order</option>\
         <option value=\"misjudged\" data-descending>most misjudged</option>\
         <option value=\"drop\" data-descending>largest drop</option>\
         <option value=\"miss\" data-descending>distance of prediction from the known error</option>\
         <option value=\"lowest\">lowest token reward</option>\
         <option value=\"score\">lowest mean reward</option>\
         <option value=\"length\" data-descending>longest</option></select></label> \
         <label>Show <select id=\"show\"><option value=\"\">all</option><option>correct</option><option>wrong</option>\
         <option value=\"known\">known error</option></select></label> \
         <span class=\"keys\"><kbd>j</kbd> <kbd>k</kbd> next and previous trace, <kbd>←</kbd> <kbd>→</kbd> token, \
         <kbd>e</kbd> predicted error, <kbd>s</kbd> sort</span></p></div>",
        rounded(scale.low()),
        rounded(scale.high()),
        rounded(scale.centre())
    );
}

/// The middle of the shown traces' mean rewards.
fn median_score(traces: &[&HeatmapTrace<'_>]) -> f64 {
    let mut scores: Vec<f64> = traces
        .iter()
        .map(|shown| mean_reward(shown.trace))
        .collect();
    scores.sort_by(f64::total_cmp);
    quantile(&scores, 0.5).unwrap_or(0.0)
}

fn mean_reward(trace: &ScoredTrace) -> f64 {
    let rewards: Vec<f64> = trace
        .token_rewards
        .iter()
        .flatten()
        .map(|&r| f64::from(r))
        .collect();
    crate::statistics::mean(&rewards).unwrap_or(0.0)
}

fn push_article(
    page: &mut String,
    heatmap: &HeatmapTrace<'_>,
    scale: &HeatScale,
    (place, middle): (usize, f64),
) {
    let trace = heatmap.trace;
    let tokens = Tokens::of(heatmap);
    let score = mean_reward(trace);
    let (verdict, kind, misjudged) = match (&heatmap.injected, trace.correct) {
        (Some(_), _) => ("known error", "known", 0.0),
        (None, Some(true)) => ("correct", "correct", middle - score),
        (None, Some(false)) => ("wrong", "wrong", score - middle),
        (None, None) => ("", "", 0.0),
    };
    let probability = trace
        .scores
        .get(crate::calibration::PROBABILITY)
        .map_or(String::new(), |p| format!("P(correct) {p:.2} · "));
    let _ = write!(
        page,
        "<article tabindex=\"-1\" data-place=\"{place}\" data-kind=\"{kind}\" data-misjudged=\"{misjudged:.4}\" \
         data-drop=\"{:.4}\" data-miss=\"{}\" data-lowest=\"{:.4}\" data-score=\"{score:.4}\" data-length=\"{}\">\
         <header><span class=\"verdict {kind}\">{verdict}</span> <span>{}</span> <span>{}</span>\
         <span class=\"score\">{probability}mean reward {}</span></header><p class=\"question\">{}</p>\
         <div class=\"tokens\" tabindex=\"0\" role=\"group\" aria-label=\"token rewards of {}\">",
        tokens.largest_drop,
        tokens.miss.map_or(-1, |miss| miss as i64),
        tokens.lowest,
        trace.token_rewards.len(),
        escape(&trace.id),
        escape(&trace.generator),
        rounded(score),
        escape(&clipped(&trace.question, 1500)),
        escape(&trace.id),
    );
    tokens.push(page, heatmap, scale);
    page.push_str("</div>");
    push_course(page, trace, scale, tokens.predicted);
    page.push_str("</article>");
}

/// What is known of a trace's tokens before they are written.
struct Tokens {
    predicted: Option<usize>,
    largest_drop: f64,
    lowest: f64,
    /// Tokens between the predicted and the known error.
    miss: Option<usize>,
    /// Fall from the scored token before, of each token.
    drops: Vec<Option<f32>>,
}

impl Tokens {
    fn of(heatmap: &HeatmapTrace<'_>) -> Self {
        let trace = heatmap.trace;
        let predicted = predicted_token(trace);
        let mut before = None;
        let drops: Vec<Option<f32>> = trace
            .token_rewards
            .iter()
            .map(|reward| reward.and_then(|now| before.replace(now).map(|was: f32| was - now)))
            .collect();
        let known = heatmap.injected.as_ref().and_then(|span| {
            let offsets = trace.token_offsets.iter();
            offsets
                .clone()
                .position(|&(start, end)| end > span.start && end > start)
        });
        let rewards = trace.token_rewards.iter().flatten();
        Self {
            predicted,
            largest_drop: predicted.and_then(|p| drops[p]).map_or(0.0, f64::from),
            lowest: rewards.fold(f64::INFINITY, |low, &r| low.min(f64::from(r))),
            miss: known
                .zip(predicted)
                .map(|(known, predicted)| known.abs_diff(predicted)),
            drops,
        }
    }

    /// Text between tokens and text of tokens that do not lie on character boundaries is written plainly: nothing of
    /// the trace is lost.
    fn push(&self, page: &mut String, heatmap: &HeatmapTrace<'_>, scale: &HeatScale) {
        let trace = heatmap.trace;
        let mut written = 0;
        for (token, (&(start, end), reward)) in trace
            .token_offsets
            .iter()
            .zip(&trace.token_rewards)
            .enumerate()
        {
            let (Some(gap), Some(text)) =
                (trace.text.get(written..start), trace.text.get(start..end))
            else {
                continue;
            };
            page.push_str(&escape(gap));
            written = end;
            let Some(reward) = reward.filter(|_| !text.is_empty()) else {
                page.push_str(&escape(text));
                continue;
            };
            let mark = if self.predicted == Some(token) {
                " predicted"
            } else {
                ""
            };
            let known = heatmap
                .injected
                .as_ref()
                .is_some_and(|span| start < span.end.max(span.start + 1) && end > span.start);
            let injected = if known { " injected" } else { "" };
            let drop =
                self.drops[token].map_or(String::new(), |drop| format!(" data-d=\"{drop:.3}\""));
            let class = scale.class(f64::from(reward));
            let _ = write!(
                page,
                "<i class=\"h{class}{injected}{mark}\" data-r=\"{reward:.3}\"{drop}>{}</i>",
                escape(text)
            );
        }
        page.push_str(&escape(trace.text.get(written..).unwrap_or_default()));
    }
}

/// Raw rewards and their discounted return over the tokens, on the scale of the colours.
fn push_course(
    page: &mut String,
    trace: &ScoredTrace,
    scale: &HeatScale,
    predicted: Option<usize>,
) {
    let raw: Vec<(usize, f64)> = trace
        .token_rewards
        .iter()
        .enumerate()
        .filter_map(|(token, reward)| Some((token, f64::from((*reward)?))))
        .collect();
    let last = trace.token_rewards.len().saturating_sub(1);
    if raw.len() < 2 {
        return;
    }
    let mut discounted = raw.clone();
    let mut ahead = raw.last().map_or(0.0, |(_, reward)| *reward);
    for (_, value) in discounted.iter_mut().rev() {
        ahead = (1.0 - DISCOUNT) * *value + DISCOUNT * ahead;
        *value = ahead;
    }
    let x = |token: usize| CURVE_WIDTH * token as f64 / last as f64;
    let y = |reward: f64| {
        let share = (reward - scale.low()) / (scale.high() - scale.low());
        CURVE_HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    };
    let line = |points: &[(usize, f64)]| -> String {
        let corner = |(token, reward): &(usize, f64)| format!("{:.0},{:.1}", x(*token), y(*reward));
        points.iter().map(corner).collect::<Vec<_>>().join(" ")
    };
    let middle = y(scale.centre());
    let mark = predicted.map_or(String::new(), |token| {
        format!(
            "<line class=\"at\" x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"0\" y2=\"{CURVE_HEIGHT}\"/>",
            x(token)
        )
    });
    let _ = write!(
        page,
        "<svg class=\"course\" viewBox=\"0 -2 {CURVE_WIDTH} {}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"raw and discounted rewards along the trace\"><line class=\"zero\" x1=\"0\" x2=\"{CURVE_WIDTH}\" \
         y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>{mark}<polyline class=\"raw\" points=\"{}\"/>\
         <polyline class=\"discounted\" points=\"{}\"/></svg>",
        CURVE_HEIGHT + 4.0,
        line(&raw),
        line(&discounted)
    );
}

fn rounded(reward: f64) -> String {
    format!("{reward:.2}").replace('-', "\u{2212}")
}

fn clipped(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(page: &str) -> String {
        let mut inside = false;
        let mut text = String::new();
        for c in page.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => text.push(c),
                _ => {}
            }
        }
        text
    }

    #[test]
    fn every_character_is_written_even_with_broken_offsets() {
        let trace = ScoredTrace {
            text: "aéb c".into(),
            token_offsets: vec![(0, 2), (1, 3), (4, 5)],
            token_rewards: vec![Some(1.0), Some(0.0), Some(-1.0)],
            ..ScoredTrace::default()
        };
        let heatmap = HeatmapTrace {
            trace: &trace,
            injected: None,
        };
        let mut page = String::new();
        Tokens::of(&heatmap).push(&mut page, &heatmap, &HeatScale::new(0.0, 1.0));
        assert_eq!(text_of(&page), "aéb c");
        assert!(page.contains("data-d=\"1.000\""), "{page}");
    }

    #[test]
    fn the_return_is_discounted_from_the_end() {
        let trace = ScoredTrace {
            token_rewards: vec![Some(0.0), Some(1.0)],
            ..ScoredTrace::default()
        };
        let mut page = String::new();
        push_course(&mut page, &trace, &HeatScale::new(0.0, 1.0), Some(1));
        // G_2 = 1, G_1 = .1 x 0 + .9 x 1: heights 54 (1 - (1 + .9) / 2) = 2.7 and 0.
        assert!(
            page.contains("class=\"discounted\" points=\"0,2.7 600,0.0\""),
            "{page}"
        );
        assert!(
            page.contains("class=\"raw\" points=\"0,27.0 600,0.0\""),
            "{page}"
        );
    }

    #[test]
    fn misjudged_and_missed_are_numbers_to_sort_by() {
        let trace = |correct, rewards: [f32; 3]| ScoredTrace {
            text: "abc".into(),
            correct,
            token_offsets: vec![(0, 1), (1, 2), (2, 3)],
            token_rewards: rewards.map(Some).to_vec(),
            ..ScoredTrace::default()
        };
        let wrong = trace(Some(false), [3.0, 3.0, 3.0]);
        let right = trace(Some(true), [1.0, 1.0, 1.0]);
        let known = trace(None, [2.0, 1.0, 3.0]);
        let shown = [(&wrong, None), (&right, None), (&known, Some(2..3))]
            .map(|(trace, injected)| HeatmapTrace { trace, injected });
        let column = Column {
            name: "",
            traces: &shown,
            of: 3,
        };
        let mut page = String::new();
        push(&mut page, &[column], &ReportSettings::default());
        // The median of the means 3, 1, 2 is 2: the wrong trace lies 1 above, the correct one 1 below.
        assert_eq!(page.matches("data-misjudged=\"1.0000\"").count(), 2);
        // The drop is at token 1, the known error at token 2.
        assert!(
            page.contains("data-miss=\"1\"") && page.contains("data-drop=\"1.0000\""),
            "{page}"
        );
        assert!(page.contains("3 of 3 traces."));
    }
}
