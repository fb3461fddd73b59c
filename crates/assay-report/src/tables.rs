//! Tables of results as HTML, CSV and LaTeX.

use std::collections::BTreeSet;

use assay_evals::Summary;
use assay_evals::statistics::Estimate;
use serde::Serialize;

use crate::error::ReportError;
use crate::numbers::format_number;
use crate::templates::Templates;

/// Rows of cells under a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// File name without extension.
    pub name: String,
    /// Above the table.
    pub caption: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// The rows, each as long as the header.
    pub rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Text.
    Text(String),
    /// A number with its interval; `None` if it is not defined.
    Value(Option<Estimate>),
}

/// A summary with the name of its run.
#[derive(Clone, Copy, Debug)]
pub struct NamedSummary<'a> {
    /// The run's name.
    pub name: &'a str,
    /// Its results.
    pub summary: &'a Summary,
}

/// Label and summary entry of the most important rows; `at_N` stands for the largest N of
/// selection.
const KEY_FIGURES: [(&str, &str); 24] = [
    ("One trace at random", "select.random.at_N"),
    ("Majority vote", "select.majority.at_N"),
    (
        "Majority, ties by the reward",
        "select.majority_reward_tiebreak.at_N",
    ),
    ("Best by the reward", "select.best_of_n.at_N"),
    ("Vote weighted by the reward", "select.weighted_vote.at_N"),
    ("Best by log-probability", "select.logprob.at_N"),
    ("Reward and log-probability", "select.combined.at_N"),
    ("Shortest", "select.length.at_N"),
    ("Any correct (bound)", "select.oracle.at_N"),
    ("Tokens saved, vote decided", "budget.decided.tokens_saved"),
    ("AUROC", "critic.auroc"),
    ("AUROC within problem", "critic.auroc_within"),
    (
        "AUROC of log-probability",
        "critic.by_score.logprob_sum.auroc",
    ),
    ("AUROC of a bag of tokens", "critic.probe.correct_auroc"),
    (
        "Reward explained by a bag of tokens",
        "critic.probe.reward_r2",
    ),
    (
        "AUROC beyond the bag of tokens",
        "critic.probe.residual_auroc",
    ),
    ("ECE uncalibrated", "critic.ece_raw"),
    ("ECE calibrated", "critic.ece"),
    ("Correlation with length", "critic.length_spearman"),
    (
        "Correlation with correctness given length and format",
        "critic.partial_spearman",
    ),
    ("Error found within 1 token", "localisation.hit_1"),
    ("  on kinds never trained on", "localisation.held_out.hit_1"),
    (
        "  by the most surprising number",
        "localisation.baselines.surprising_number.hit_1",
    ),
    ("  by chance", "localisation.baselines.chance.hit_1"),
];

/// The most important results, one column per run.
pub(crate) fn key_figures(runs: &[NamedSummary<'_>]) -> Table {
    let largest = largest_n(runs);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut add = |label: String, entry: &str| {
        let cells: Vec<Cell> = runs
            .iter()
            .map(|run| Cell::Value(run.summary.get(entry).copied()))
            .collect();
        if cells.iter().any(|cell| *cell != Cell::Value(None)) {
            rows.push(std::iter::once(Cell::Text(label)).chain(cells).collect());
        }
    };
    for generator in generators(runs) {
        add(
            format!("pass@1, {generator}"),
            &format!("policy.{generator}.pass_at_k.1"),
        );
    }
    for (label, entry) in KEY_FIGURES {
        match entry.strip_suffix("at_N") {
            Some(selector) => add(
                format!("{label}, N = {largest}"),
                &format!("{selector}at_{largest}"),
            ),
            None => add(label.to_owned(), entry),
        }
    }
    Table {
        name: "key_figures".to_owned(),
        caption: "Key figures, with 95 % intervals".to_owned(),
        header: std::iter::once(String::new())
            .chain(runs.iter().map(|run| run.name.to_owned()))
            .collect(),
        rows,
    }
}

/// Hit@1 of the reward and of the baselines for every kind of error; `None` without localisation.
pub(crate) fn by_kind(run: NamedSummary<'_>) -> Option<Table> {
    const PREFIX: &str = "localisation.by_kind.";
    let NamedSummary { name, summary } = run;
    let kinds: BTreeSet<&str> = summary
        .iter()
        .filter_map(|(entry, _)| entry.strip_prefix(PREFIX)?.split('.').next())
        .collect();
    let columns = [
        ("largest drop", "hit_1"),
        (
            "most surprising number",
            "baselines.surprising_number.hit_1",
        ),
        ("lowest log-probability", "baselines.lowest_logprob.hit_1"),
        ("chance", "baselines.chance.hit_1"),
    ];
    let row = |kind: &&str| -> Vec<Cell> {
        let cells = columns.map(|(_, entry)| {
            Cell::Value(summary.get(&format!("{PREFIX}{kind}.{entry}")).copied())
        });
        let first = Cell::Text((*kind).to_owned());
        std::iter::once(first).chain(cells).collect()
    };
    (!kinds.is_empty()).then(|| Table {
        name: format!("errors_by_kind_{name}"),
        caption: format!("{name}: share of injected errors found within 1 token, by kind"),
        header: std::iter::once("kind".to_owned())
            .chain(columns.map(|(label, _)| label.to_owned()))
            .collect(),
        rows: kinds.iter().map(row).collect(),
    })
}

/// Every entry of a summary.
pub(crate) fn everything(run: NamedSummary<'_>) -> Table {
    let NamedSummary { name, summary } = run;
    let row =
        |(entry, e): (&str, &Estimate)| vec![Cell::Text(entry.to_owned()), Cell::Value(Some(*e))];
    Table {
        name: format!("summary_{name}"),
        caption: format!("{name}: every entry"),
        header: vec!["name".to_owned(), "value".to_owned()],
        rows: summary.iter().map(row).collect(),
    }
}

impl Table {
    /// The table as HTML.
    ///
    /// # Errors
    /// [`ReportError::Template`].
    pub(crate) fn html(&self, templates: &Templates) -> Result<String, ReportError> {
        templates.render("table.html", self)
    }

    /// The table as CSV (RFC 4180). A number takes four columns, `NAME`, `NAME low`, `NAME high`
    /// and `NAME n`, at full precision.
    ///
    /// A cell that a spreadsheet would read as a formula starts with an apostrophe.
    pub fn csv(&self) -> String {
        let wide: Vec<bool> = (0..self.header.len())
            .map(|place| {
                let mut cells = self.rows.iter().filter_map(|row| row.get(place));
                cells.any(|cell| matches!(cell, Cell::Value(_)))
            })
            .collect();
        let mut lines = Vec::new();
        let mut header = Vec::new();
        for (name, wide) in self.header.iter().zip(&wide) {
            header.push(csv_cell(name));
            if *wide {
                header.extend(
                    ["low", "high", "n"].map(|end| csv_cell(format!("{name} {end}").trim())),
                );
            }
        }
        lines.push(header.join(","));
        for row in &self.rows {
            let mut cells = Vec::new();
            for cell in row {
                match cell {
                    Cell::Text(text) => cells.push(csv_cell(text)),
                    Cell::Value(None) => cells.extend([const { String::new() }; 4]),
                    Cell::Value(Some(e)) => {
                        cells.extend([e.value, e.low, e.high].map(|number| number.to_string()));
                        cells.push(e.n.to_string());
                    }
                }
            }
            lines.push(cells.join(","));
        }
        lines.join("\r\n") + "\r\n"
    }

    /// The table as a LaTeX `tabular` (package booktabs) with its caption as a comment.
    pub fn latex(&self) -> String {
        let columns = "r".repeat(self.header.len().saturating_sub(1));
        let mut text = format!(
            "% {}\n\\begin{{tabular}}{{l{columns}}}\n\\toprule\n",
            self.caption.replace(['\n', '\r'], " ")
        );
        let line = |cells: Vec<String>| cells.join(" & ") + " \\\\\n";
        text += &line(self.header.iter().map(|name| latex_cell(name)).collect());
        text += "\\midrule\n";
        for row in &self.rows {
            let cells = row.iter().map(|cell| match cell {
                Cell::Text(text) => latex_cell(text),
                Cell::Value(None) => "--".to_owned(),
                Cell::Value(Some(e)) => {
                    format!(
                        "${} \\; [{}, {}]$",
                        format_number(e.value),
                        format_number(e.low),
                        format_number(e.high)
                    )
                }
            });
            text += &line(cells.collect());
        }
        text + "\\bottomrule\n\\end{tabular}\n"
    }
}

fn largest_n(runs: &[NamedSummary<'_>]) -> usize {
    let entries = runs.iter().flat_map(|run| run.summary.iter());
    let counts = entries.filter_map(|(name, _)| {
        name.strip_prefix("select.random.at_")?
            .parse::<usize>()
            .ok()
    });
    counts.max().unwrap_or(1)
}

fn generators(runs: &[NamedSummary<'_>]) -> BTreeSet<String> {
    let entries = runs.iter().flat_map(|run| run.summary.iter());
    entries
        .filter_map(|(name, _)| {
            let generator = name.strip_prefix("policy.")?.strip_suffix(".pass_at_k.1")?;
            Some(generator.to_owned())
        })
        .collect()
}

fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let safe = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if safe.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

fn latex_cell(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let value = Estimate {
            value: 0.5,
            low: 0.25,
            high: 0.75,
            n: 8,
        };
        Table {
            name: "t".into(),
            caption: "50 %\nof it".into(),
            header: vec!["which".into(), "run_1".into()],
            rows: vec![
                vec![
                    Cell::Text("a, \"b\" & <c>".into()),
                    Cell::Value(Some(value)),
                ],
                vec![Cell::Text("=HYPERLINK(1)".into()), Cell::Value(None)],
            ],
        }
    }

    #[test]
    fn csv_quotes_and_widens() {
        assert_eq!(
            example().csv(),
            "which,run_1,run_1 low,run_1 high,run_1 n\r\n\
             \"a, \"\"b\"\" & <c>\",0.5,0.25,0.75,8\r\n'=HYPERLINK(1),,,,\r\n"
        );
    }

    #[test]
    fn latex_and_html_escape() {
        let latex = example().latex();
        assert!(latex.starts_with("% 50 % of it\n"), "{latex}");
        assert!(
            latex.contains("run\\_1") && latex.contains("\\& <c>"),
            "{latex}"
        );
        assert!(latex.contains("$0.5000 \\; [0.2500, 0.7500]$") && latex.contains("& -- \\\\"));
        let html = example().html(&Templates::new().unwrap()).unwrap();
        assert!(
            html.contains("&lt;c&gt;") && html.contains("0.2500 to 0.7500, n 8"),
            "{html}"
        );
    }

    #[test]
    fn key_figures_use_the_largest_n() {
        let mut one = Summary::default();
        for (name, value) in [
            ("select.random.at_4", 0.25),
            ("select.random.at_16", 0.3),
            ("policy.base.pass_at_k.1", 0.3),
        ] {
            one.insert(name, Estimate::exact(value));
        }
        let mut two = Summary::default();
        two.insert("critic.auroc", Estimate::exact(0.8));
        let named = |name, summary| NamedSummary { name, summary };
        let table = key_figures(&[named("one", &one), named("two", &two)]);
        let labels: Vec<&Cell> = table.rows.iter().map(|row| &row[0]).collect();
        let text = |t: &str| Cell::Text(t.to_owned());
        assert_eq!(
            labels,
            [
                &text("pass@1, base"),
                &text("One trace at random, N = 16"),
                &text("AUROC")
            ]
        );
        assert_eq!(table.rows[2][1], Cell::Value(None));
        assert_eq!(table.header, ["", "one", "two"]);
    }

    #[test]
    fn kinds_are_listed_with_their_baselines() {
        let mut summary = Summary::default();
        summary.insert(
            "localisation.by_kind.off_by_one.hit_1",
            Estimate::exact(0.75),
        );
        let chance = "localisation.by_kind.off_by_one.baselines.chance.hit_1";
        summary.insert(chance, Estimate::exact(0.125));
        let named = |summary| NamedSummary { name: "r", summary };
        let table = by_kind(named(&summary)).unwrap();
        assert_eq!(table.rows[0][1], Cell::Value(Some(Estimate::exact(0.75))));
        assert_eq!(table.rows[0][4], Cell::Value(Some(Estimate::exact(0.125))));
        assert_eq!(by_kind(named(&Summary::default())), None);
    }
}
