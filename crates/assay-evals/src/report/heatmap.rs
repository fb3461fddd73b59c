//! Token heatmaps: the reward of each token as a colour, the predicted error outlined.

use std::fmt::Write;

use assay_tasks::trace::ScoredTrace;

use super::{HeatmapTrace, ReportSettings};
use crate::localisation::{LocalisationCase, Predictor};
use crate::plot::escape;
use crate::statistics::quantile;
use crate::summary::short;

/// The shared colour scale: the median reward is uncoloured, the 95th percentile of the distance from it saturates.
struct Scale {
    centre: f64,
    reach: f64,
}

/// Adds the legend and as many heatmaps as the settings allow, at least one, and says how many of how many.
pub(super) fn push(page: &mut String, traces: &[HeatmapTrace<'_>], settings: &ReportSettings) {
    let scored: Vec<&HeatmapTrace<'_>> = traces
        .iter()
        .filter(|shown| shown.trace.token_rewards.iter().any(Option::is_some))
        .collect();
    if scored.is_empty() {
        return;
    }
    let scale = Scale::of(&scored);
    let (mut body, mut shown) = (String::new(), 0);
    for heatmap in scored.iter().take(settings.heatmaps.max(1)) {
        if shown > 0 && body.len() >= settings.heatmap_bytes {
            break;
        }
        push_article(&mut body, heatmap, &scale);
        shown += 1;
    }
    let _ = write!(
        page,
        "<h2>Token rewards</h2><p class=\"note\">{shown} of {} traces.</p>",
        scored.len()
    );
    push_legend(page, &scale);
    page.push_str(&body);
}

fn push_legend(page: &mut String, scale: &Scale) {
    let cells: String = (0..=10)
        .map(|class| format!("<span class=\"cell h{class}\"></span>"))
        .collect();
    let (low, high) = (
        short(scale.centre - scale.reach),
        short(scale.centre + scale.reach),
    );
    let _ = write!(
        page,
        "<p class=\"legend\">reward <b>{low}</b> {cells} <b>{high}</b>, uncoloured at {}. \
         <span class=\"predicted\">outlined</span>: largest drop, the predicted error. \
         <span class=\"injected\">wavy</span>: known error. Hover for token, reward and drop.</p>",
        short(scale.centre)
    );
}

fn push_article(page: &mut String, heatmap: &HeatmapTrace<'_>, scale: &Scale) {
    let trace = heatmap.trace;
    let verdict = match trace.correct {
        Some(true) => " · correct",
        Some(false) => " · wrong",
        None => "",
    };
    let score = trace
        .scores
        .get("mean")
        .map(|mean| format!(" · mean reward {}", short(f64::from(*mean))));
    let _ = write!(
        page,
        "<article><header>{} · {}{verdict}{}</header><p class=\"question\">{}</p><div class=\"tokens\">",
        escape(&trace.id),
        escape(&trace.generator),
        score.unwrap_or_default(),
        escape(&clipped(&trace.question, 1500))
    );
    push_tokens(page, heatmap, scale);
    page.push_str("</div></article>");
}

/// Text between tokens and text of tokens that do not lie on character boundaries is written plainly: nothing of the
/// trace is lost.
fn push_tokens(page: &mut String, heatmap: &HeatmapTrace<'_>, scale: &Scale) {
    let trace = heatmap.trace;
    let predicted = predicted_token(trace);
    let (mut written, mut before) = (0, None);
    for (token, (&(start, end), reward)) in trace
        .token_offsets
        .iter()
        .zip(&trace.token_rewards)
        .enumerate()
    {
        let drop = reward.and_then(|now| before.replace(now).map(|was: f32| was - now));
        let (Some(gap), Some(text)) = (trace.text.get(written..start), trace.text.get(start..end))
        else {
            continue;
        };
        page.push_str(&escape(gap));
        written = end;
        let Some(reward) = reward.filter(|_| !text.is_empty()) else {
            page.push_str(&escape(text));
            continue;
        };
        let mark = if predicted == Some(token) {
            " predicted"
        } else {
            ""
        };
        let known = heatmap
            .injected
            .as_ref()
            .is_some_and(|span| start < span.end.max(span.start + 1) && end > span.start);
        let injected = if known { " injected" } else { "" };
        let shown = escape(text);
        let drop = drop
            .map(|drop| format!(", drop {drop:+.3}"))
            .unwrap_or_default();
        let class = scale.class(f64::from(reward));
        let _ = write!(
            page,
            "<span class=\"h{class}{injected}{mark}\" title=\"{shown} | reward {reward:+.3}{drop}\">{shown}</span>"
        );
    }
    page.push_str(&escape(trace.text.get(written..).unwrap_or_default()));
}

/// The token of the largest drop, the first of equal ones; `None` if no reward falls.
fn predicted_token(trace: &ScoredTrace) -> Option<usize> {
    let case = LocalisationCase {
        text: &trace.text,
        token_offsets: &trace.token_offsets,
        token_rewards: &trace.token_rewards,
        ..LocalisationCase::default()
    };
    let drops = Predictor::LargestDrop.suspicion(&case, None)?;
    let falls = drops
        .iter()
        .enumerate()
        .filter_map(|(token, drop)| Some((token, drop.filter(|drop| *drop > 0.0)?)));
    falls
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(token, _)| token)
}

fn clipped(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

impl Scale {
    fn of(traces: &[&HeatmapTrace<'_>]) -> Self {
        let rewards = traces
            .iter()
            .flat_map(|shown| shown.trace.token_rewards.iter().flatten());
        let mut rewards: Vec<f64> = rewards
            .map(|&r| f64::from(r))
            .filter(|r| r.is_finite())
            .collect();
        rewards.sort_by(f64::total_cmp);
        let centre = quantile(&rewards, 0.5).unwrap_or(0.0);
        let mut distances: Vec<f64> = rewards.iter().map(|r| (r - centre).abs()).collect();
        distances.sort_by(f64::total_cmp);
        let reach = quantile(&distances, 0.95)
            .filter(|reach| *reach > 0.0)
            .unwrap_or(1.0);
        Self { centre, reach }
    }

    /// Colour class 0 (lowest) to 10 (highest), 5 at the centre.
    fn class(&self, reward: f64) -> usize {
        let place = ((reward - self.centre) / self.reach).clamp(-1.0, 1.0);
        (5.0 + 5.0 * place).round() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_span_the_scale() {
        let scale = Scale {
            centre: 1.0,
            reach: 2.0,
        };
        assert_eq!(
            [-9.0, -1.0, 0.2, 1.0, 3.0, 9.0].map(|reward| scale.class(reward)),
            [0, 0, 3, 5, 10, 10]
        );
    }

    #[test]
    fn every_character_is_written_even_with_broken_offsets() {
        let trace = ScoredTrace {
            text: "aéb c".into(),
            token_offsets: vec![(0, 2), (1, 3), (4, 5)],
            token_rewards: vec![Some(1.0), Some(0.0), Some(-1.0)],
            ..ScoredTrace::default()
        };
        let mut page = String::new();
        let scale = Scale {
            centre: 0.0,
            reach: 1.0,
        };
        push_tokens(
            &mut page,
            &HeatmapTrace {
                trace: &trace,
                injected: None,
            },
            &scale,
        );
        let mut text = String::new();
        let mut inside = false;
        for c in page.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => text.push(c),
                _ => {}
            }
        }
        assert_eq!(text, "aéb c");
        assert!(page.contains("drop +1.000"));
    }
}
