//! The report as one HTML page. It needs no network, has light and dark colours and works with the
//! keyboard.
//!
//! The page shows its input and computes no statistic. A small script sorts and filters traces and
//! shows the values of tokens; the page is readable without it.

use serde::Serialize;

use crate::error::ReportError;
use crate::exhibits::Exhibits;
use crate::figures::Figure;
use crate::heatmap::{self, TokensView};
use crate::input::{ReportInput, ReportSettings, RunView};
use crate::tables::Table;
use crate::templates::Templates;

/// The title of a report whose input has none.
const DEFAULT_TITLE: &str = "assay report";

/// The variables of `page.html`; a section without entries is left out.
#[derive(Serialize)]
struct PageView<'a> {
    title: &'a str,
    /// Whether the page compares several runs, whose names it then shows.
    several: bool,
    counts: Vec<CountView<'a>>,
    alarms: Vec<RunAlarmsView<'a>>,
    key_tables: Vec<TableView<'a>>,
    training: Vec<&'a str>,
    other_training: Vec<&'a str>,
    evaluation: Vec<RunFiguresView<'a>>,
    tokens: Option<TokensView<'a>>,
    details: Vec<TableView<'a>>,
}

/// How many traces an evaluation is based on.
#[derive(Serialize)]
struct CountView<'a> {
    name: &'a str,
    traces: usize,
    problems: usize,
    unlabelled: usize,
}

#[derive(Serialize)]
struct RunAlarmsView<'a> {
    name: &'a str,
    /// Number of lines of metrics.
    lines: usize,
    alarms: Vec<AlarmView>,
}

#[derive(Serialize)]
struct AlarmView {
    headline: &'static str,
    iteration: String,
    value: f64,
    threshold: f64,
    advice: &'static str,
}

#[derive(Serialize)]
struct TableView<'a> {
    caption: &'a str,
    rows: usize,
    html: String,
}

#[derive(Serialize)]
struct RunFiguresView<'a> {
    name: &'a str,
    figures: Vec<&'a str>,
}

/// Renders the page as one HTML document, below 10 MB for four runs at the default settings.
///
/// # Errors
/// [`ReportError::Template`].
pub fn render(input: &ReportInput<'_>, settings: &ReportSettings) -> Result<String, ReportError> {
    let templates = Templates::new()?;
    let exhibits = Exhibits::render(&templates, input.runs)?;
    let view = PageView {
        title: match input.title {
            "" => DEFAULT_TITLE,
            title => title,
        },
        several: input.runs.len() > 1,
        counts: input.runs.iter().filter_map(count).collect(),
        alarms: alarms(&exhibits, input.runs),
        key_tables: tables(&templates, &exhibits.key_tables)?,
        training: svgs(&exhibits.training),
        other_training: svgs(&exhibits.other_training),
        evaluation: evaluation(&exhibits, input.runs),
        tokens: heatmap::tokens(&templates, input.runs, settings)?,
        details: tables(&templates, &exhibits.summaries)?,
    };
    Ok(templates.render("page.html", &view)? + "\n")
}

fn count<'a>(run: &RunView<'a>) -> Option<CountView<'a>> {
    let evaluation = run.evaluation?;
    Some(CountView {
        name: run.name,
        traces: evaluation.traces,
        problems: evaluation.problems,
        unlabelled: evaluation.unlabelled,
    })
}

/// The alarms of the runs that have metrics.
fn alarms<'a>(exhibits: &Exhibits, runs: &[RunView<'a>]) -> Vec<RunAlarmsView<'a>> {
    runs.iter()
        .zip(&exhibits.alarms)
        .filter(|(run, _)| !run.metrics.is_empty())
        .map(|(run, alarms)| RunAlarmsView {
            name: run.name,
            lines: run.metrics.len(),
            alarms: alarms
                .iter()
                .map(|alarm| AlarmView {
                    headline: alarm.kind.headline(),
                    iteration: alarm.iteration.to_string(),
                    value: alarm.value,
                    threshold: alarm.threshold,
                    advice: alarm.kind.advice(),
                })
                .collect(),
        })
        .collect()
}

fn tables<'a>(
    templates: &Templates,
    tables: &'a [Table],
) -> Result<Vec<TableView<'a>>, ReportError> {
    tables
        .iter()
        .map(|table| {
            Ok(TableView {
                caption: &table.caption,
                rows: table.rows.len(),
                html: table.html(templates)?,
            })
        })
        .collect()
}

fn svgs(figures: &[Figure]) -> Vec<&str> {
    figures.iter().map(|figure| figure.svg.as_str()).collect()
}

/// The figures of the runs that have any.
fn evaluation<'a>(exhibits: &'a Exhibits, runs: &[RunView<'a>]) -> Vec<RunFiguresView<'a>> {
    runs.iter()
        .zip(&exhibits.evaluation)
        .filter(|(_, figures)| !figures.is_empty())
        .map(|(run, figures)| RunFiguresView {
            name: run.name,
            figures: svgs(figures),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use assay_evals::statistics::Estimate;
    use assay_evals::{Evaluation, Summary, parse_metrics};
    use assay_tasks::trace::ScoredTrace;

    use super::*;
    use crate::input::HeatmapTrace;

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

    fn page(run: RunView<'_>, settings: &ReportSettings) -> String {
        let input = ReportInput {
            title: "",
            runs: &[run],
        };
        render(&input, settings).unwrap()
    }

    #[test]
    fn hostile_text_stays_text() {
        let trace = hostile();
        let traces = [HeatmapTrace {
            trace: &trace,
            injected: Some(8..9),
        }];
        let mut summary = Summary::default();
        summary.insert("<em>.x", Estimate::exact(1.0));
        let rows =
            parse_metrics("{\"iteration\": 1, \"<u>\": 2}\n{\"iteration\": 2, \"<u>\": 2}\n")
                .unwrap();
        let run = RunView {
            name: "<s>",
            summary: Some(&summary),
            metrics: &rows,
            traces: &traces,
            ..RunView::default()
        };
        let input = ReportInput {
            title: "<h1>",
            runs: &[run, run],
        };
        let page = render(&input, &ReportSettings::default()).unwrap();
        for forbidden in [
            "<script>", "<img", "<em>", "<u>", "<s>", "<b>\"", "\u{0}", "http://", "https://",
            "<h1><h1>",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(
            page.matches("<article").count(),
            page.matches("</article>").count()
        );
        for tag in ["i", "span", "div", "section", "details"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_largest_drop_is_marked_once() {
        let trace = hostile();
        let one = HeatmapTrace {
            trace: &trace,
            injected: None,
        };
        let traces = vec![one; 5];
        let run = RunView {
            traces: &traces,
            chosen_from: 70,
            ..RunView::default()
        };
        let two = ReportSettings {
            heatmaps: 2,
            ..ReportSettings::default()
        };
        let shown = page(run, &two);
        assert!(shown.contains("2 of 70 traces: the most misjudged"));
        assert_eq!(shown.matches("predicted\" data-r").count(), 2);
        let tight = ReportSettings {
            heatmap_bytes: 1,
            ..ReportSettings::default()
        };
        let small = page(
            RunView {
                chosen_from: 0,
                ..run
            },
            &tight,
        );
        assert!(small.contains("1 of 5 traces"));
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let empty = render(&ReportInput::default(), &ReportSettings::default()).unwrap();
        assert!(empty.starts_with("<!doctype html>") && empty.ends_with("</html>\n"));
        let evaluation = Evaluation::default();
        let run = RunView {
            evaluation: Some(&evaluation),
            ..RunView::default()
        };
        assert!(!page(run, &ReportSettings::default()).contains("NaN"));
    }

    #[test]
    fn alarms_are_listed_with_advice_and_marked() {
        let lines: String = (0..30)
            .map(|i| {
                format!(
                    "{{\"iteration\": {i}, \"policy/sampling_gap_mean\": {}}}\n",
                    i / 20
                )
            })
            .collect();
        let rows = parse_metrics(&lines).unwrap();
        let run = RunView {
            name: "one",
            metrics: &rows,
            ..RunView::default()
        };
        let shown = page(run, &ReportSettings::default());
        assert!(
            shown.contains("sampler and trainer disagree</b> one, iteration 20"),
            "{shown}"
        );
        assert!(shown.contains("class=\"mark\"") && shown.contains("check model and adapter"));
        let calm = RunView {
            metrics: &rows[..20],
            ..run
        };
        assert!(page(calm, &ReportSettings::default()).contains("one: none in 20 lines"));
    }
}
