//! Token heatmaps: the reward of each token as a colour, with the predicted error outlined and the
//! rewards along the trace drawn below.

use assay_evals::calibration::PROBABILITY;
use assay_evals::statistics::{mean, quantile};
use assay_tasks::trace::ScoredTrace;
use serde::Serialize;

use crate::error::ReportError;
use crate::heat::{HEAT_CLASSES, HeatScale, predicted_token};
use crate::input::{HeatmapTrace, ReportSettings, RunView};
use crate::templates::Templates;

/// Discount of the return drawn below the raw rewards.
const DISCOUNT: f64 = 0.9;
/// Size of the curve below a trace, in SVG units.
const CURVE_WIDTH: u32 = 600;
const CURVE_HEIGHT: u32 = 54;
/// Maximum number of characters of a question that are shown.
const MAX_QUESTION: usize = 1500;

/// The variables of the section `tokens` of `page.html`.
#[derive(Serialize)]
pub(crate) struct TokensView<'a> {
    classes: usize,
    low: f64,
    centre: f64,
    high: f64,
    discount: f64,
    columns: Vec<ColumnView<'a>>,
}

/// The traces of one run.
#[derive(Serialize)]
struct ColumnView<'a> {
    /// The run's name; empty if the page shows one run.
    name: &'a str,
    /// Number of traces that the shown ones were chosen from.
    total: usize,
    /// The heatmaps as HTML.
    articles: Vec<String>,
}

/// The variables of `article.html`: one trace.
#[derive(Serialize)]
struct ArticleView<'a> {
    /// Its place in the file.
    place: usize,
    id: &'a str,
    generator: &'a str,
    question: String,
    verdict: &'static str,
    /// The value that the page's filter compares.
    kind: &'static str,
    probability: Option<f64>,
    /// Mean token reward.
    score: f64,
    /// Distance of the score from the median if it is on the wrong side.
    misjudged: f64,
    largest_drop: f64,
    lowest: f64,
    /// Tokens between the predicted and the known error, -1 if one of them is missing.
    miss: i64,
    /// Number of tokens.
    length: usize,
    pieces: Vec<PieceView<'a>>,
    course: Option<CourseView>,
}

/// A piece of a trace's text: a scored token, or text without a reward.
#[derive(Serialize)]
pub(crate) struct PieceView<'a> {
    text: &'a str,
    mark: Option<MarkView>,
}

/// The values of a scored token.
#[derive(Serialize)]
struct MarkView {
    class: usize,
    reward: f64,
    /// Fall from the scored token before.
    drop: Option<f64>,
    predicted: bool,
    injected: bool,
}

/// The rewards along a trace; lengths in SVG units.
#[derive(Serialize)]
struct CourseView {
    width: u32,
    height: u32,
    /// Height of the scale's centre.
    centre: f64,
    /// Place of the predicted error.
    predicted: Option<f64>,
    /// Corners of both lines.
    raw: String,
    discounted: String,
}

/// A token's index and its reward.
#[derive(Clone, Copy)]
struct TokenReward {
    token: usize,
    reward: f64,
}

/// As many heatmaps of each run as the settings allow, at least one; `None` without token rewards.
///
/// # Errors
/// [`ReportError::Template`].
pub(crate) fn tokens<'a>(
    templates: &Templates,
    runs: &[RunView<'a>],
    settings: &ReportSettings,
) -> Result<Option<TokensView<'a>>, ReportError> {
    let scored: Vec<Vec<&HeatmapTrace<'_>>> = runs
        .iter()
        .map(|run| run.traces.iter().filter(|shown| is_scored(shown)).collect())
        .collect();
    if scored.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let scale = HeatScale::from_traces(scored.iter().flatten().map(|shown| shown.trace));
    let columns = runs.iter().zip(&scored).map(|(run, traces)| {
        Ok(ColumnView {
            name: if runs.len() > 1 { run.name } else { "" },
            total: run.chosen_from.max(traces.len()),
            articles: articles(templates, traces, &scale, settings)?,
        })
    });
    Ok(Some(TokensView {
        classes: HEAT_CLASSES,
        low: scale.low(),
        centre: scale.centre(),
        high: scale.high(),
        discount: DISCOUNT,
        columns: columns.collect::<Result<_, ReportError>>()?,
    }))
}

fn is_scored(shown: &HeatmapTrace<'_>) -> bool {
    shown.trace.token_rewards.iter().any(Option::is_some)
}

/// The first heatmaps within the limits of the page.
fn articles(
    templates: &Templates,
    traces: &[&HeatmapTrace<'_>],
    scale: &HeatScale,
    settings: &ReportSettings,
) -> Result<Vec<String>, ReportError> {
    let median = median_score(traces);
    let (mut articles, mut bytes) = (Vec::new(), 0);
    for (place, heatmap) in traces.iter().take(settings.heatmaps.max(1)).enumerate() {
        if place > 0 && bytes >= settings.heatmap_bytes {
            break;
        }
        let view = ArticleView {
            place,
            ..ArticleView::new(heatmap, scale, median)
        };
        let article = templates.render("article.html", &view)?;
        bytes += article.len();
        articles.push(article);
    }
    Ok(articles)
}

/// The median of the traces' mean rewards.
fn median_score(traces: &[&HeatmapTrace<'_>]) -> f64 {
    let mut scores: Vec<f64> = traces
        .iter()
        .map(|shown| mean_reward(shown.trace))
        .collect();
    scores.sort_by(f64::total_cmp);
    quantile(&scores, 0.5).unwrap_or(0.0)
}

fn mean_reward(trace: &ScoredTrace) -> f64 {
    let rewards = trace.token_rewards.iter().flatten();
    let rewards: Vec<f64> = rewards.map(|&r| f64::from(r)).collect();
    mean(&rewards).unwrap_or(0.0)
}

impl<'a> ArticleView<'a> {
    /// The first trace of a page; `median` is that of the page's mean rewards.
    fn new(heatmap: &HeatmapTrace<'a>, scale: &HeatScale, median: f64) -> Self {
        let trace = heatmap.trace;
        let tokens = Tokens::new(heatmap);
        let score = mean_reward(trace);
        let (verdict, kind, misjudged) = match (&heatmap.injected, trace.correct) {
            (Some(_), _) => ("known error", "known", 0.0),
            (None, Some(true)) => ("correct", "correct", median - score),
            (None, Some(false)) => ("wrong", "wrong", score - median),
            (None, None) => ("", "", 0.0),
        };
        let probability = trace.scores.get(PROBABILITY);
        Self {
            place: 0,
            id: &trace.id,
            generator: &trace.generator,
            question: clipped(&trace.question, MAX_QUESTION),
            verdict,
            kind,
            probability: probability.map(|p| f64::from(*p)),
            score,
            misjudged,
            largest_drop: tokens.largest_drop,
            lowest: tokens.lowest,
            miss: tokens.miss.map_or(-1, |miss| miss as i64),
            length: trace.token_rewards.len(),
            pieces: tokens.pieces(heatmap, scale),
            course: CourseView::new(trace, scale, tokens.predicted),
        }
    }
}

/// The predicted error and the drops of a trace's tokens.
struct Tokens {
    predicted: Option<usize>,
    largest_drop: f64,
    lowest: f64,
    /// Tokens between the predicted and the known error.
    miss: Option<usize>,
    /// Fall of each token from the scored token before it.
    drops: Vec<Option<f32>>,
}

impl Tokens {
    fn new(heatmap: &HeatmapTrace<'_>) -> Self {
        let trace = heatmap.trace;
        let predicted = predicted_token(trace);
        let mut before = None;
        let drops: Vec<Option<f32>> = trace
            .token_rewards
            .iter()
            .map(|reward| reward.and_then(|now| before.replace(now).map(|was: f32| was - now)))
            .collect();
        let known = heatmap.injected.as_ref().and_then(|span| {
            let mut offsets = trace.token_offsets.iter();
            offsets.position(|&(start, end)| end > span.start && end > start)
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

    /// The whole text in pieces. Tokens that do not lie on character boundaries become text without
    /// a reward.
    fn pieces<'a>(&self, heatmap: &HeatmapTrace<'a>, scale: &HeatScale) -> Vec<PieceView<'a>> {
        let trace = heatmap.trace;
        let plain = |text| PieceView { text, mark: None };
        let (mut pieces, mut written) = (Vec::new(), 0);
        let tokens = trace.token_offsets.iter().zip(&trace.token_rewards);
        for (token, (&(start, end), reward)) in tokens.enumerate() {
            let (Some(gap), Some(text)) =
                (trace.text.get(written..start), trace.text.get(start..end))
            else {
                continue;
            };
            written = end;
            let known = heatmap
                .injected
                .as_ref()
                .is_some_and(|span| start < span.end.max(span.start + 1) && end > span.start);
            let mark = reward.filter(|_| !text.is_empty()).map(|reward| MarkView {
                class: scale.class(f64::from(reward)),
                reward: f64::from(reward),
                drop: self.drops[token].map(f64::from),
                predicted: self.predicted == Some(token),
                injected: known,
            });
            pieces.push(plain(gap));
            pieces.push(PieceView { text, mark });
        }
        pieces.push(plain(trace.text.get(written..).unwrap_or_default()));
        pieces
    }
}

/// The whole text of a trace in pieces.
pub(crate) fn pieces<'a>(heatmap: &HeatmapTrace<'a>, scale: &HeatScale) -> Vec<PieceView<'a>> {
    Tokens::new(heatmap).pieces(heatmap, scale)
}

impl CourseView {
    /// Raw rewards and their discounted return over the tokens, on the scale of the colours; `None`
    /// with fewer than two rewards.
    fn new(trace: &ScoredTrace, scale: &HeatScale, predicted: Option<usize>) -> Option<Self> {
        let rewards = trace.token_rewards.iter().enumerate();
        let raw: Vec<TokenReward> = rewards
            .filter_map(|(token, reward)| {
                Some(TokenReward {
                    token,
                    reward: f64::from((*reward)?),
                })
            })
            .collect();
        if raw.len() < 2 {
            return None;
        }
        let last = trace.token_rewards.len().saturating_sub(1);
        let x = |token: usize| f64::from(CURVE_WIDTH) * token as f64 / last as f64;
        let y = |reward: f64| {
            let share = (reward - scale.low()) / (scale.high() - scale.low());
            f64::from(CURVE_HEIGHT) * (1.0 - share.clamp(0.0, 1.0))
        };
        let line = |points: &[TokenReward]| -> String {
            let corner = |p: &TokenReward| format!("{:.0},{:.1}", x(p.token), y(p.reward));
            points.iter().map(corner).collect::<Vec<_>>().join(" ")
        };
        Some(Self {
            width: CURVE_WIDTH,
            height: CURVE_HEIGHT,
            centre: y(scale.centre()),
            predicted: predicted.map(x),
            raw: line(&raw),
            discounted: line(&discounted(&raw)),
        })
    }
}

/// `G_t = (1 - γ) r_t + γ G_{t+1}`, with `G = r` after the last token.
fn discounted(rewards: &[TokenReward]) -> Vec<TokenReward> {
    let mut returns = rewards.to_vec();
    let mut next = rewards.last().map_or(0.0, |last| last.reward);
    for token in returns.iter_mut().rev() {
        next = (1.0 - DISCOUNT) * token.reward + DISCOUNT * next;
        token.reward = next;
    }
    returns
}

/// The text, truncated after `limit` characters with an ellipsis.
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

    fn article(heatmap: &HeatmapTrace<'_>, scale: HeatScale) -> String {
        let view = ArticleView::new(heatmap, &scale, 0.0);
        let templates = Templates::new().unwrap();
        templates.render("article.html", &view).unwrap()
    }

    #[test]
    fn every_character_is_written_despite_broken_offsets() {
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
        let page = article(&heatmap, HeatScale::new(0.0, 1.0));
        let (_, tokens) = page.split_once("token rewards of \">").unwrap();
        let (tokens, _) = tokens.split_once("</div>").unwrap();
        assert_eq!(text_of(tokens), "aéb c");
        assert!(page.contains("data-d=\"1.000\""), "{page}");
    }

    #[test]
    fn the_return_is_discounted_from_the_end() {
        let trace = ScoredTrace {
            token_rewards: vec![Some(0.0), Some(1.0)],
            ..ScoredTrace::default()
        };
        let heatmap = HeatmapTrace {
            trace: &trace,
            injected: None,
        };
        let page = article(&heatmap, HeatScale::new(0.0, 1.0));
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
        let run = RunView {
            traces: &shown,
            ..RunView::default()
        };
        let templates = Templates::new().unwrap();
        let view = tokens(&templates, &[run], &ReportSettings::default()).unwrap();
        let column = &view.unwrap().columns[0];
        let page = column.articles.join("");
        // The median of the means 3, 1, 2 is 2: the wrong trace lies 1 above, the correct one 1
        // below.
        assert_eq!(page.matches("data-misjudged=\"1.0000\"").count(), 2);
        // The drop is at token 1, the known error at token 2.
        assert!(
            page.contains("data-miss=\"1\"") && page.contains("data-drop=\"1.0000\""),
            "{page}"
        );
        assert_eq!((column.articles.len(), column.total), (3, 3));
    }
}
