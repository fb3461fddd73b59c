//! The report: one HTML file with everything in it. No network, readable in light and dark, usable from the keyboard.
//!
//! It shows what it is given and computes nothing that is not in the summary, the evaluation or the alarms. One small
//! script sorts, filters and names tokens; without it everything can still be read.

mod gallery;
mod heatmap;

use std::fmt::Write;

pub use gallery::Gallery;
pub use heatmap::HeatmapTrace;

use crate::alarms::{Alarm, alarms};
use crate::evaluation::Evaluation;
use crate::figures::{self, Figure, Training};
use crate::metrics::MetricRow;
use crate::plot::escape;
use crate::summary::Summary;
use crate::tables::{self, Table};

/// What the page shows of one run; empty parts are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunView<'a> {
    /// The run's name.
    pub name: &'a str,
    /// Its results.
    pub summary: Option<&'a Summary>,
    /// Its training metrics.
    pub metrics: &'a [MetricRow],
    /// Reliability, histograms and correlations.
    pub evaluation: Option<&'a Evaluation>,
    /// Traces to draw as heatmaps.
    pub traces: &'a [HeatmapTrace<'a>],
    /// Traces with rewards that these were chosen from; 0 where these are all.
    pub chosen_from: usize,
}

/// What the page shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportInput<'a> {
    /// Heading.
    pub title: &'a str,
    /// The runs, side by side.
    pub runs: &'a [RunView<'a>],
}

/// Limits of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportSettings {
    /// Most heatmaps shown a run.
    pub heatmaps: usize,
    /// Bytes after which no further heatmap of a run is added.
    pub heatmap_bytes: usize,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            heatmaps: 60,
            heatmap_bytes: 2 << 20,
        }
    }
}

/// The figures and tables of a report, in the order of the page.
#[derive(Clone, Debug, Default)]
pub struct Exhibits {
    /// Training curves that are looked at first.
    pub training: Vec<Figure>,
    /// The other training curves.
    pub other_training: Vec<Figure>,
    /// By run: selection, calibration, correlations, localisation.
    pub evaluation: Vec<Vec<Figure>>,
    /// Key figures, errors by kind, every entry of each run.
    pub tables: Vec<Table>,
    /// By run: its alarms.
    pub alarms: Vec<Vec<Alarm>>,
}

impl Exhibits {
    /// Everything that can be drawn of the runs.
    pub fn of(runs: &[RunView<'_>]) -> Self {
        let alarms: Vec<Vec<Alarm>> = runs.iter().map(|run| alarms(run.metrics)).collect();
        let trainings: Vec<Training<'_>> = runs
            .iter()
            .zip(&alarms)
            .filter(|(run, _)| !run.metrics.is_empty())
            .map(|(run, alarms)| Training {
                name: run.name,
                metrics: run.metrics,
                alarms,
            })
            .collect();
        let empty = Summary::default();
        let evaluation = runs.iter().map(|run| {
            figures::evaluation(run.name, run.evaluation, run.summary.unwrap_or(&empty))
        });
        Self {
            training: figures::training(&trainings),
            other_training: figures::other_training(&trainings),
            evaluation: evaluation.collect(),
            tables: tables_of(runs),
            alarms,
        }
    }

    /// All figures.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        let training = self.training.iter().chain(&self.other_training);
        training.chain(self.evaluation.iter().flatten())
    }
}

fn tables_of(runs: &[RunView<'_>]) -> Vec<Table> {
    let named: Vec<(&str, &Summary)> = runs
        .iter()
        .filter_map(|run| Some((run.name, run.summary?)))
        .filter(|(_, summary)| !summary.is_empty())
        .collect();
    if named.is_empty() {
        return Vec::new();
    }
    let mut tables = vec![tables::key_figures(&named)];
    tables.extend(
        named
            .iter()
            .filter_map(|(name, summary)| tables::by_kind(name, summary)),
    );
    tables.extend(
        named
            .iter()
            .map(|(name, summary)| tables::everything(name, summary)),
    );
    tables
}

/// The page as one HTML document, below 10 MB for four runs at the default settings.
pub fn render(input: &ReportInput<'_>, settings: &ReportSettings) -> String {
    let exhibits = Exhibits::of(input.runs);
    let title = escape(if input.title.is_empty() {
        "assay report"
    } else {
        input.title
    });
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'nonce-assay-report'\">\
         <title>{title}</title><style>{}{}</style></head><body><main><h1>{title}</h1>",
        include_str!("report/plot.css"),
        include_str!("report/style.css")
    );
    push_counts(&mut page, input.runs);
    push_navigation(&mut page, &exhibits, input.runs);
    push_alarms(&mut page, &exhibits, input.runs);
    push_tables(&mut page, &exhibits);
    push_training(&mut page, &exhibits);
    push_evaluation(&mut page, &exhibits, input.runs);
    let columns: Vec<heatmap::Column<'_>> = input
        .runs
        .iter()
        .map(|run| heatmap::Column {
            name: if input.runs.len() > 1 { run.name } else { "" },
            traces: run.traces,
            of: run.chosen_from,
        })
        .collect();
    heatmap::push(&mut page, &columns, settings);
    push_details(&mut page, &exhibits);
    let script = include_str!("report/script.js");
    let _ = writeln!(
        page,
        "</main><div id=\"inspector\" role=\"status\" aria-live=\"polite\" hidden></div>\
         <script nonce=\"assay-report\">{script}</script></body></html>"
    );
    page
}

fn push_counts(page: &mut String, runs: &[RunView<'_>]) {
    for run in runs {
        let Some(evaluation) = run.evaluation else {
            continue;
        };
        let name = if runs.len() > 1 {
            format!("{}: ", escape(run.name))
        } else {
            String::new()
        };
        let _ = write!(
            page,
            "<p class=\"note\">{name}{} judged traces of {} problems; {} traces of unknown correctness left out.</p>",
            evaluation.traces, evaluation.problems, evaluation.unjudged
        );
    }
}

fn push_navigation(page: &mut String, exhibits: &Exhibits, runs: &[RunView<'_>]) {
    let parts = [
        (
            "alarms",
            "Alarms",
            runs.iter().any(|run| !run.metrics.is_empty()),
        ),
        ("figures", "Key figures", !exhibits.tables.is_empty()),
        ("training", "Training", !exhibits.training.is_empty()),
        (
            "evaluation",
            "Selection and calibration",
            exhibits.evaluation.iter().any(|f| !f.is_empty()),
        ),
        (
            "tokens",
            "Token rewards",
            runs.iter().any(|run| !run.traces.is_empty()),
        ),
        ("details", "Everything", !exhibits.tables.is_empty()),
    ];
    page.push_str("<nav aria-label=\"sections\">");
    for (id, name, _) in parts.into_iter().filter(|(.., shown)| *shown) {
        let _ = write!(page, "<a href=\"#{id}\">{name}</a>");
    }
    page.push_str("</nav>");
}

fn push_alarms(page: &mut String, exhibits: &Exhibits, runs: &[RunView<'_>]) {
    let watched: Vec<_> = runs
        .iter()
        .zip(&exhibits.alarms)
        .filter(|(run, _)| !run.metrics.is_empty())
        .collect();
    if watched.is_empty() {
        return;
    }
    page.push_str("<section id=\"alarms\"><h2>Alarms</h2>");
    for (run, alarms) in watched {
        let name = escape(run.name);
        if alarms.is_empty() {
            let _ = write!(
                page,
                "<p class=\"calm\">{name}: none in {} lines of metrics.</p>",
                run.metrics.len()
            );
            continue;
        }
        page.push_str("<ul class=\"alarms\">");
        for alarm in alarms {
            let _ = write!(
                page,
                "<li><b>{}</b> {name}, iteration {}: {:.3} against {:.3}<br><span>{}</span></li>",
                escape(alarm.kind.headline()),
                alarm.iteration,
                alarm.value,
                alarm.threshold,
                escape(alarm.kind.advice())
            );
        }
        page.push_str("</ul>");
    }
    page.push_str("</section>");
}

/// The key figures and the errors by kind.
fn push_tables(page: &mut String, exhibits: &Exhibits) {
    let shown: Vec<&Table> = exhibits
        .tables
        .iter()
        .filter(|table| !table.name.starts_with("summary_"))
        .collect();
    if shown.is_empty() {
        return;
    }
    page.push_str("<section id=\"figures\"><h2>Key figures</h2>");
    for table in shown {
        let _ = write!(
            page,
            "<p class=\"note\">{}.</p>{}",
            escape(&table.caption),
            table.html()
        );
    }
    page.push_str("</section>");
}

fn push_training(page: &mut String, exhibits: &Exhibits) {
    if exhibits.training.is_empty() && exhibits.other_training.is_empty() {
        return;
    }
    page.push_str(
        "<section id=\"training\"><h2>Training</h2><p class=\"note\">Long curves are averaged over neighbouring \
         iterations; a dashed line with a triangle marks an alarm.</p>",
    );
    push_grid(page, &exhibits.training);
    if !exhibits.other_training.is_empty() {
        let _ = write!(
            page,
            "<details><summary>{} further curves</summary>",
            exhibits.other_training.len()
        );
        push_grid(page, &exhibits.other_training);
        page.push_str("</details>");
    }
    page.push_str("</section>");
}

fn push_evaluation(page: &mut String, exhibits: &Exhibits, runs: &[RunView<'_>]) {
    if exhibits.evaluation.iter().all(Vec::is_empty) {
        return;
    }
    page.push_str(
        "<section id=\"evaluation\"><h2>Selection and calibration</h2>\
         <p class=\"note\">Bands and brackets are 95 % intervals.</p>",
    );
    for (run, figures) in runs.iter().zip(&exhibits.evaluation) {
        if runs.len() > 1 && !figures.is_empty() {
            let _ = write!(page, "<h3>{}</h3>", escape(run.name));
        }
        push_grid(page, figures);
    }
    page.push_str("</section>");
}

fn push_grid(page: &mut String, figures: &[Figure]) {
    page.push_str("<div class=\"grid\">");
    figures.iter().for_each(|figure| page.push_str(&figure.svg));
    page.push_str("</div>");
}

/// Every entry of every summary, closed.
fn push_details(page: &mut String, exhibits: &Exhibits) {
    let mut tables = exhibits
        .tables
        .iter()
        .filter(|table| table.name.starts_with("summary_"))
        .peekable();
    if tables.peek().is_none() {
        return;
    }
    page.push_str(
        "<section id=\"details\"><h2>Everything</h2><p class=\"note\">n counts independent units.</p>",
    );
    for table in tables {
        let _ = write!(
            page,
            "<details><summary>{} ({})</summary>{}</details>",
            escape(&table.caption),
            table.rows.len(),
            table.html()
        );
    }
    page.push_str("</section>");
}

#[cfg(test)]
mod tests {
    use assay_tasks::trace::ScoredTrace;

    use super::*;
    use crate::metrics::parse_metrics;
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

    fn page(run: RunView<'_>, settings: &ReportSettings) -> String {
        let input = ReportInput {
            title: "",
            runs: &[run],
        };
        render(&input, settings)
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
        let page = render(&input, &ReportSettings::default());
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
    fn the_largest_drop_is_marked_once_and_the_counts_are_told() {
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
        let empty = render(&ReportInput::default(), &ReportSettings::default());
        assert!(empty.starts_with("<!doctype html>") && empty.ends_with("</html>\n"));
        let evaluation = Evaluation::default();
        let run = RunView {
            evaluation: Some(&evaluation),
            ..RunView::default()
        };
        assert!(!page(run, &ReportSettings::default()).contains("NaN"));
    }

    #[test]
    fn alarms_are_listed_with_their_advice_and_marked_in_the_curve() {
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
