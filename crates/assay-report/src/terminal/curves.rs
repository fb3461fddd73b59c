//! Small curves of a run for a terminal, in plain characters.
//!
//! ```text
//! reward loss (weighted sum of terms)
//!     1.386 |*
//!           | ***
//!           |    *****
//!           |         ********
//!    0.6931 |                 ****
//!           +----------------------
//!            0                  499   iteration
//! ```
//!
//! A column is the mean of the values that fall into it.

use std::fmt::Write;

use assay_evals::MetricRow;

use crate::numbers::format_number;

/// Width of a line in characters.
const WIDTH: usize = 80;
/// Width of the label of a value.
const LABEL: usize = 10;
/// Columns of the plot: the width without the label, a space and the axis.
const COLUMNS: usize = WIDTH - LABEL - 2;
/// Lines of the plot.
const ROWS: usize = 5;

/// A metric that is drawn if a run recorded it.
struct Shown {
    metric: &'static str,
    name: &'static str,
    unit: &'static str,
}

const SHOWN: [Shown; 6] = [
    shown("sft/loss", "supervised loss", "nats a token"),
    shown("reward/loss", "reward loss", "weighted sum of terms"),
    shown(
        "rollout/reward",
        "reward of samples",
        "mean of token rewards",
    ),
    shown(
        "rollout/accuracy",
        "accuracy of samples",
        "share that is right",
    ),
    shown(
        "validation/accuracy",
        "accuracy on validation",
        "share that is right",
    ),
    shown("rollout/length", "length of samples", "tokens"),
];

const fn shown(metric: &'static str, name: &'static str, unit: &'static str) -> Shown {
    Shown { metric, name, unit }
}

/// A value of a metric.
#[derive(Clone, Copy)]
struct Value {
    iteration: f64,
    value: f64,
}

/// The smallest and largest of some numbers.
#[derive(Clone, Copy)]
struct Extent {
    low: f64,
    high: f64,
}

/// Curves of the losses, accuracies and lengths that a run recorded at two iterations or more.
/// Lines have at most 80 characters, all of them ASCII.
pub fn curves(rows: &[MetricRow]) -> String {
    let mut text = String::new();
    for shown in &SHOWN {
        let value = |row: &MetricRow| {
            let value = *row.values.get(shown.metric)?;
            let iteration = row.iteration;
            (value.is_finite() && iteration.is_finite()).then_some(Value { iteration, value })
        };
        let values: Vec<Value> = rows.iter().filter_map(value).collect();
        draw(shown, &values, &mut text);
    }
    text
}

/// Draws one curve; nothing for fewer than two iterations.
fn draw(shown: &Shown, values: &[Value], text: &mut String) {
    let iterations = Extent::over(values.iter().map(|value| value.iteration));
    if iterations.high <= iterations.low {
        return;
    }
    let columns = columns(values, iterations);
    let drawn = Extent::over(columns.iter().flatten().copied());
    let mut grid = [[b' '; COLUMNS]; ROWS];
    for (column, value) in columns.iter().enumerate() {
        if let Some(value) = value {
            grid[ROWS - 1 - drawn.place(*value, ROWS)][column] = b'*';
        }
    }
    let _ = writeln!(text, "{} ({})", shown.name, shown.unit);
    for (row, line) in grid.iter().enumerate() {
        let label = match row {
            0 => format_number(drawn.high),
            _ if row == ROWS - 1 && drawn.low < drawn.high => format_number(drawn.low),
            _ => String::new(),
        };
        let line = String::from_utf8_lossy(line);
        let _ = writeln!(text, "{}", format!("{label:>LABEL$} |{line}").trim_end());
    }
    let _ = writeln!(text, "{:LABEL$} +{}", "", "-".repeat(COLUMNS));
    axis(iterations, text);
}

/// The first and last iteration under the axis.
fn axis(iterations: Extent, text: &mut String) {
    let (first, last) = (
        format!("{:.0}", iterations.low),
        format!("iteration {:.0}", iterations.high),
    );
    let room = COLUMNS.saturating_sub(first.len());
    let _ = writeln!(text, "{:LABEL$}  {first}{last:>room$}\n", "");
}

/// The mean value of each column; `None` for a column without values.
fn columns(values: &[Value], iterations: Extent) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0_usize); COLUMNS];
    for value in values {
        let (sum, count) = &mut sums[iterations.place(value.iteration, COLUMNS)];
        *sum += value.value;
        *count += 1;
    }
    let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
    sums.into_iter().map(mean).collect()
}

impl Extent {
    fn over(numbers: impl Iterator<Item = f64>) -> Self {
        let empty = Self {
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
        };
        numbers.fold(empty, |extent, number| Self {
            low: extent.low.min(number),
            high: extent.high.max(number),
        })
    }

    /// Index of the one of `count` equal parts that contains a number; the ends are in the first
    /// and the last part. If all numbers are equal, it is the last part.
    fn place(self, number: f64, count: usize) -> usize {
        let share = (number - self.low) / (self.high - self.low);
        match share.is_finite() {
            true => (share.clamp(0.0, 1.0) * (count - 1) as f64).round() as usize,
            false => count - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(metric: &str, values: &[f64]) -> Vec<MetricRow> {
        let row = |(iteration, value): (usize, &f64)| MetricRow {
            iteration: iteration as f64,
            values: [(metric.to_owned(), *value)].into(),
        };
        values.iter().enumerate().map(row).collect()
    }

    /// Five falling values: one in each row, at columns 0, 17, 33 (33.5 rounds to 34), 50 and 67 of
    /// 68.
    #[test]
    fn a_falling_loss_by_hand() {
        let text = curves(&rows("reward/loss", &[4.0, 3.0, 2.0, 1.0, 0.0]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "reward loss (weighted sum of terms)");
        let star = |line: &str| line.find('*').map(|at| at - LABEL - 2);
        let stars: Vec<_> = lines[1..6].iter().map(|line| star(line)).collect();
        assert_eq!(stars, [Some(0), Some(17), Some(34), Some(50), Some(67)]);
        assert_eq!(
            lines[1].split('|').next().unwrap().trim(),
            format_number(4.0)
        );
        assert_eq!(
            lines[5].split('|').next().unwrap().trim(),
            format_number(0.0)
        );
        assert_eq!(lines[6], format!("           +{}", "-".repeat(68)));
        assert_eq!(lines[7].trim_start(), format!("0{:>67}", "iteration 4"));
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[8], "");
    }

    /// A thousand values alternate between 0 and 1: a column's mean is near 1/2.
    #[test]
    fn many_values_are_averaged_by_column() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i % 2)).collect();
        let found = columns(
            &rows("x", &values)
                .iter()
                .map(|row| Value {
                    iteration: row.iteration,
                    value: row.values["x"],
                })
                .collect::<Vec<_>>(),
            Extent {
                low: 0.0,
                high: 999.0,
            },
        );
        assert_eq!(found.len(), COLUMNS);
        for mean in found {
            assert!((mean.unwrap() - 0.5).abs() < 0.1, "{mean:?}");
        }
    }

    #[test]
    fn every_line_is_short_and_plain() {
        let mut all = rows("rollout/length", &[1e300, -1e300, 3.0]);
        for (iteration, row) in all.iter_mut().enumerate() {
            row.iteration = 1e15 + iteration as f64;
            row.values.insert("sft/loss".to_owned(), 0.123_456_789);
            row.values
                .insert("validation/accuracy".to_owned(), f64::NAN);
        }
        let text = curves(&all);
        assert!(text.contains("length of samples (tokens)"), "{text}");
        assert!(text.contains("supervised loss"), "{text}");
        assert!(!text.contains("validation"), "{text}");
        for line in text.lines() {
            assert!(line.len() <= 80 && line.is_ascii(), "{line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn constants_are_lines_and_single_values_nothing() {
        let text = curves(&rows("rollout/accuracy", &[0.0, 0.0]));
        let first = text.lines().nth(1).unwrap();
        assert_eq!(first.matches('*').count(), 2, "{text}");
        assert!(text.lines().nth(5).unwrap().trim() == "|", "{text}");
        assert_eq!(curves(&rows("rollout/accuracy", &[0.5])), "");
        assert_eq!(curves(&rows("other", &[0.5, 1.0])), "");
        assert_eq!(curves(&[]), "");
    }
}
