//! The report: one HTML file with everything in it. No script, no network, readable in light and dark.
//!
//! It shows what it is given and computes nothing that is not in the summary or the evaluation.

mod heatmap;
mod metrics;

use std::fmt::Write;
use std::ops::Range;

use assay_tasks::trace::ScoredTrace;

pub use metrics::{MetricRow, parse_metrics};

use crate::evaluation::Evaluation;
use crate::plot::{Labels, Point, Series, escape, histogram, lines, reliability};
use crate::summary::{Summary, short};

/// A trace to draw as a heatmap.
#[derive(Clone, Debug)]
pub struct HeatmapTrace<'a> {
    /// The trace; its `token_rewards` are the colours.
    pub trace: &'a ScoredTrace,
    /// Byte range of an error known to be there.
    pub injected: Option<Range<usize>>,
}

/// What the page shows; empty parts are left out.
#[derive(Clone, Debug, Default)]
pub struct ReportInput<'a> {
    /// Heading.
    pub title: &'a str,
    /// The summary table.
    pub summary: Option<&'a Summary>,
    /// Training curves.
    pub metrics: &'a [MetricRow],
    /// Selection curves, reliability and histogram.
    pub evaluation: Option<&'a Evaluation>,
    /// Candidates for heatmaps, the most interesting first.
    pub traces: &'a [HeatmapTrace<'a>],
}

/// Limits of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportSettings {
    /// Most heatmaps shown.
    pub heatmaps: usize,
    /// Bytes after which no further heatmap is added.
    pub heatmap_bytes: usize,
    /// Most training curves shown.
    pub curves: usize,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            heatmaps: 40,
            heatmap_bytes: 6 << 20,
            curves: 60,
        }
    }
}

/// The page as one HTML document, below 10 MB at the default settings.
pub fn render(input: &ReportInput<'_>, settings: &ReportSettings) -> String {
    let title = escape(if input.title.is_empty() {
        "assay report"
    } else {
        input.title
    });
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{}</style></head><body><main><h1>{title}</h1>",
        include_str!("report/style.css")
    );
    if let Some(evaluation) = input.evaluation {
        let counts = (evaluation.traces, evaluation.problems, evaluation.unjudged);
        let _ = write!(
            page,
            "<p class=\"note\">{} judged traces of {} problems; {} traces of unknown correctness left out.</p>",
            counts.0, counts.1, counts.2
        );
        push_evaluation(&mut page, evaluation);
    }
    push_metrics(&mut page, input.metrics, settings.curves);
    heatmap::push(&mut page, input.traces, settings);
    if let Some(summary) = input.summary.filter(|summary| !summary.is_empty()) {
        push_summary(&mut page, summary);
    }
    page + "</main></body></html>\n"
}

/// One table a top-level name, the first open.
fn push_summary(page: &mut String, summary: &Summary) {
    page.push_str(
        "<h2>Summary</h2><p class=\"note\">Intervals are 95 %; n counts independent units.</p>",
    );
    let entries: Vec<_> = summary.iter().collect();
    let family = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    for (place, group) in entries
        .chunk_by(|a, b| family(a.0) == family(b.0))
        .enumerate()
    {
        let open = if place == 0 { " open" } else { "" };
        let name = escape(&family(group[0].0));
        let _ = write!(
            page,
            "<details{open}><summary>{name} ({})</summary><div class=\"table\"><table>",
            group.len()
        );
        page.push_str("<tr><th>name</th><th>value</th><th>low</th><th>high</th><th>n</th></tr>");
        for (name, e) in group {
            let cells = [short(e.value), short(e.low), short(e.high)]
                .map(|cell| format!("<td>{cell}</td>"))
                .concat();
            let _ = write!(
                page,
                "<tr><td>{}</td>{cells}<td>{}</td></tr>",
                escape(name),
                e.n
            );
        }
        page.push_str("</table></div></details>");
    }
}

fn push_evaluation(page: &mut String, evaluation: &Evaluation) {
    page.push_str("<h2>Selection and calibration</h2><div class=\"grid\">");
    let point = |(n, e): &(usize, crate::statistics::Estimate)| Point {
        x: *n as f64,
        y: e.value,
        band: Some((e.low, e.high)),
    };
    let curve = |name: &str| {
        let found = evaluation
            .curves
            .iter()
            .find(|curve| curve.selector == name)?;
        Some(Series {
            name: name.to_owned(),
            points: found.points.iter().map(point).collect(),
        })
    };
    let shown = [
        (
            "Accuracy against N: rewards",
            ["random", "majority", "best_of_n", "weighted_vote"],
        ),
        (
            "Accuracy against N: baselines and bound",
            ["random", "logprob", "length", "oracle"],
        ),
    ];
    for (title, names) in shown {
        let series: Vec<Series> = names.into_iter().filter_map(curve).collect();
        if !series.is_empty() {
            page.push_str(&lines(
                Labels {
                    title,
                    x: "traces sampled a problem",
                },
                &series,
            ));
        }
    }
    if !evaluation.reliability.is_empty() {
        let bins: [(&str, &[_]); 2] = [
            ("calibrated", &evaluation.reliability),
            ("as it stands", &evaluation.reliability_raw),
        ];
        page.push_str(&reliability(
            Labels {
                title: "Reliability",
                x: "predicted probability of correct",
            },
            &bins,
        ));
        page.push_str(&histogram(
            Labels {
                title: "Trace score of correct and wrong traces",
                x: "trace score",
            },
            &evaluation.histogram,
        ));
    }
    page.push_str("</div>");
}

fn push_metrics(page: &mut String, rows: &[MetricRow], limit: usize) {
    let series = metrics::series(rows);
    if series.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<h2>Training</h2><p class=\"note\">{} of {} curves",
        series.len().min(limit),
        series.len()
    );
    page.push_str(", long ones averaged over neighbouring iterations.</p><div class=\"grid\">");
    for one in series.iter().take(limit) {
        page.push_str(&lines(
            Labels {
                title: &one.name,
                x: "iteration",
            },
            std::slice::from_ref(one),
        ));
    }
    page.push_str("</div>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Estimate;

    fn hostile() -> ScoredTrace {
        let text = "<script>alert(1)</script>\u{0} é\"'&";
        let ends: Vec<usize> = text
            .char_indices()
            .map(|(start, _)| start)
            .chain([text.len()])
            .collect();
        ScoredTrace {
            id: "\"><img src=x onerror=alert(1)>".into(),
            question: "</article><script>".into(),
            generator: "<b>".into(),
            text: text.into(),
            token_offsets: ends.windows(2).map(|pair| (pair[0], pair[1])).collect(),
            token_rewards: (0..ends.len() - 1)
                .map(|i| Some(if i == 8 { -3.0 } else { 1.0 }))
                .collect(),
            ..ScoredTrace::default()
        }
    }

    #[test]
    fn hostile_text_stays_text() {
        let trace = hostile();
        let traces = [HeatmapTrace {
            trace: &trace,
            injected: Some(8..9),
        }];
        let mut summary = Summary::default();
        summary.insert("<i>.x", Estimate::exact(1.0));
        let rows = parse_metrics("{\"iteration\": 1, \"<u>\": 2}\n").unwrap();
        let input = ReportInput {
            title: "<h1>",
            summary: Some(&summary),
            metrics: &rows,
            traces: &traces,
            evaluation: None,
        };
        let page = render(&input, &ReportSettings::default());
        for forbidden in [
            "<script", "<img", "<i>", "<u>", "<b>\"", "\u{0}", "http://", "https://", "<h1><h1>",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(
            page.matches("<article>").count(),
            page.matches("</article>").count()
        );
        assert_eq!(
            page.matches("<span").count(),
            page.matches("</span>").count()
        );
    }

    #[test]
    fn the_largest_drop_is_marked_once_and_the_counts_are_told() {
        let trace = hostile();
        let one = HeatmapTrace {
            trace: &trace,
            injected: None,
        };
        let traces = vec![one; 5];
        let input = ReportInput {
            traces: &traces,
            ..ReportInput::default()
        };
        let page = render(
            &input,
            &ReportSettings {
                heatmaps: 2,
                ..ReportSettings::default()
            },
        );
        assert!(page.contains("2 of 5 traces"));
        assert_eq!(page.matches("predicted\" title").count(), 2);
        let small = render(
            &input,
            &ReportSettings {
                heatmap_bytes: 1,
                ..ReportSettings::default()
            },
        );
        assert!(small.contains("1 of 5 traces"));
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let page = render(&ReportInput::default(), &ReportSettings::default());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        let evaluation = Evaluation::default();
        let page = render(
            &ReportInput {
                evaluation: Some(&evaluation),
                ..ReportInput::default()
            },
            &ReportSettings::default(),
        );
        assert!(!page.contains("NaN"));
    }
}
