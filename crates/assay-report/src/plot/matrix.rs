//! A square of correlations as coloured cells with their numbers.

use serde::Serialize;

use crate::error::ReportError;
use crate::templates::Templates;

const CELL: u32 = 34;
const LEFT: u32 = 92;
const TOP: u32 = 104;
/// Room for the last column's slanted name.
const RIGHT: u32 = 44;
/// Room below the last row.
const BOTTOM: u32 = 8;

/// The variables of `matrix.svg`; lengths in SVG units.
#[derive(Serialize)]
struct MatrixView<'a> {
    width: u32,
    height: u32,
    title: &'a str,
    names: Vec<NameView<'a>>,
    cells: Vec<CellView>,
}

#[derive(Serialize)]
struct NameView<'a> {
    text: &'a str,
    left: u32,
    top: u32,
    /// Distance of the middle of its row and column from the first cell.
    middle: f64,
}

#[derive(Serialize)]
struct CellView {
    /// 0 for -1, 5 for 0, 10 for 1.
    class: u8,
    x: f64,
    y: f64,
    size: u32,
    value: f64,
}

/// Cells from -1 (orange) over 0 (no colour) to 1 (blue), each with its number; `None` and values
/// that are not finite have no cell.
pub(crate) fn matrix(
    templates: &Templates,
    title: &str,
    names: &[&str],
    values: &[Vec<Option<f64>>],
) -> Result<String, ReportError> {
    let size = CELL * names.len() as u32;
    let mut cells = Vec::new();
    for (i, row) in values.iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                continue;
            };
            cells.push(CellView {
                class: (5.0 + 5.0 * value.clamp(-1.0, 1.0)).round() as u8,
                x: f64::from(LEFT) + j as f64 * f64::from(CELL),
                y: f64::from(TOP) + i as f64 * f64::from(CELL),
                size: CELL,
                value,
            });
        }
    }
    let view = MatrixView {
        width: LEFT + size + RIGHT,
        height: TOP + size + BOTTOM,
        title,
        names: names
            .iter()
            .enumerate()
            .map(|(place, text)| NameView {
                text,
                left: LEFT,
                top: TOP,
                middle: (place as f64 + 0.5) * f64::from(CELL),
            })
            .collect(),
        cells,
    };
    templates.render("matrix.svg", &view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_class_of_their_value() {
        let values = [vec![Some(1.0), Some(-0.4)], vec![None, Some(f64::NAN)]];
        let svg = matrix(&Templates::new().unwrap(), "<t>", &["a", "b"], &values).unwrap();
        assert!(
            svg.contains("class=\"m10\"") && svg.contains("class=\"m3\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("&lt;t&gt;") && svg.contains(">-0.40<") && !svg.contains("NaN"));
    }
}
