//! A square of correlations as coloured cells with their numbers.

use std::fmt::Write;

use super::escape;

const CELL: f64 = 34.0;
const LEFT: f64 = 92.0;
const TOP: f64 = 104.0;
/// Room for the last column's slanted name.
const RIGHT: f64 = 44.0;

/// Cells from -1 (orange) over 0 (no colour) to 1 (blue), each with its number; `None` is left empty.
pub fn matrix(title: &str, names: &[&str], values: &[Vec<Option<f64>>]) -> String {
    let size = CELL * names.len() as f64;
    let (width, height) = (LEFT + size + RIGHT, TOP + size + 8.0);
    let title = escape(title);
    let mut svg = format!(
        r#"<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><text class="title" x="8" y="16">{title}</text>"#
    );
    for (i, name) in names.iter().enumerate() {
        let middle = (i as f64 + 0.5) * CELL;
        let name = escape(name);
        let _ = write!(
            svg,
            r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{name}</text><text class="tick" transform="translate({:.1} {:.1}) rotate(-50)">{name}</text>"#,
            LEFT - 6.0,
            TOP + middle + 3.5,
            LEFT + middle,
            TOP - 6.0
        );
    }
    for (i, row) in values.iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                continue;
            };
            let class = (5.0 + 5.0 * value.clamp(-1.0, 1.0)).round();
            let (x, y) = (LEFT + j as f64 * CELL, TOP + i as f64 * CELL);
            let _ = write!(
                svg,
                r#"<rect class="m{class}" x="{x:.1}" y="{y:.1}" width="{0}" height="{0}" rx="3"/><text class="cell" x="{1:.1}" y="{2:.1}" text-anchor="middle">{value:.2}</text>"#,
                CELL - 2.0,
                x + CELL / 2.0 - 1.0,
                y + CELL / 2.0 + 2.5
            );
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_class_of_their_value() {
        let values = [vec![Some(1.0), Some(-0.4)], vec![None, Some(f64::NAN)]];
        let svg = matrix("<t>", &["a", "b"], &values);
        assert!(
            svg.contains("class=\"m10\"") && svg.contains("class=\"m3\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("&lt;t&gt;") && svg.contains(">-0.40<") && !svg.contains("NaN"));
    }
}
