//! Small plots as inline SVG: lines with a band, histograms, reliability diagrams, matrices.
//!
//! No suitable crate draws these: plotters writes colours as attributes and cannot give an element
//! a class, title or role; charming needs JavaScript; poloto has no bands and no titles on points.
//!
//! Colours come from CSS classes (`s0` .. `s5`), so plots follow the light and dark modes of the
//! page. Points that are not finite are left out.

mod frame;
mod matrix;

use assay_evals::{HistogramClass, ReliabilityBin, ScoreHistogram};
use serde::Serialize;

use crate::error::ReportError;
use crate::numbers::format_number;
use crate::templates::{PLOT_STYLE, Templates};
use frame::{COLOURS, Frame, FrameView};

pub(crate) use frame::{Labels, Range};
pub(crate) use matrix::matrix;

/// Maximum number of points of a line that are drawn as dots.
const MAX_DOTS: usize = 20;
const DOT_RADIUS: f64 = 2.8;

/// A named line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    /// Name in the legend.
    pub(crate) name: String,
    /// Points in ascending x.
    pub(crate) points: Vec<Point>,
}

/// One point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Horizontal position.
    pub(crate) x: f64,
    /// Vertical position.
    pub(crate) y: f64,
    /// Its interval, if known.
    pub(crate) band: Option<Range>,
}

/// A vertical line with a triangle at its top.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mark {
    /// Horizontal position.
    pub(crate) x: f64,
    /// The label of the mark.
    pub(crate) text: String,
}

/// The bins of one reliability curve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReliabilityCurve<'a> {
    /// Name in the legend.
    pub(crate) name: &'a str,
    pub(crate) bins: &'a [ReliabilityBin],
}

/// The variables of `plot.svg`.
#[derive(Serialize)]
struct PlotView<'a> {
    frame: FrameView<'a>,
    /// SVG points of the diagonal that marks perfect calibration.
    diagonal: Option<String>,
    marks: Vec<MarkView<'a>>,
    curves: Vec<CurveView>,
}

#[derive(Serialize)]
struct MarkView<'a> {
    x: f64,
    text: &'a str,
}

#[derive(Serialize)]
struct CurveView {
    colour: usize,
    area: Option<AreaView>,
    corners: String,
    dots: Vec<DotView>,
}

#[derive(Serialize)]
struct AreaView {
    class: &'static str,
    corners: String,
}

#[derive(Serialize)]
struct DotView {
    x: f64,
    y: f64,
    radius: f64,
    text: String,
}

/// Lines on shared axes, each with its band, vertical marks, and a legend for two lines or more.
pub(crate) fn lines(
    templates: &Templates,
    labels: Labels<'_>,
    series: &[Series],
    marks: &[Mark],
) -> Result<String, ReportError> {
    let clean: Vec<Series> = series.iter().map(finite).collect();
    let points = || clean.iter().flat_map(|series| &series.points);
    let frame = Frame {
        x: Range::over(points().map(|p| p.x)),
        y: Range::over(points().flat_map(|p| {
            let band = p.band.unwrap_or(Range {
                low: p.y,
                high: p.y,
            });
            [p.y, band.low, band.high]
        }))
        .padded(),
    };
    let names: Vec<&str> = clean.iter().map(|series| series.name.as_str()).collect();
    let legend = if names.len() > 1 { names } else { Vec::new() };
    let inside = |mark: &&Mark| mark.x >= frame.x.low && mark.x <= frame.x.high;
    let view = PlotView {
        diagonal: None,
        marks: marks
            .iter()
            .filter(inside)
            .map(|mark| MarkView {
                x: frame.place_x(mark.x),
                text: &mark.text,
            })
            .collect(),
        curves: clean
            .iter()
            .enumerate()
            .map(|(index, series)| curve(&frame, index % COLOURS, series))
            .collect(),
        frame: frame.view(labels, &legend),
    };
    templates.render("plot.svg", &view)
}

/// The series without its points that are not finite.
fn finite(series: &Series) -> Series {
    let points = series.points.iter().copied();
    Series {
        name: series.name.clone(),
        points: points
            .filter(|p| p.x.is_finite() && p.y.is_finite())
            .collect(),
    }
}

fn curve(frame: &Frame, colour: usize, series: &Series) -> CurveView {
    let points = &series.points;
    let upper = points
        .iter()
        .filter_map(|p| Some(frame.corner(p.x, p.band?.high)));
    let lower = points
        .iter()
        .rev()
        .filter_map(|p| Some(frame.corner(p.x, p.band?.low)));
    let band: Vec<String> = upper.chain(lower).collect();
    let corners: Vec<String> = points.iter().map(|p| frame.corner(p.x, p.y)).collect();
    let dotted = if points.len() > MAX_DOTS {
        &[]
    } else {
        &points[..]
    };
    CurveView {
        colour,
        area: (band.len() > 2).then(|| AreaView {
            class: "band",
            corners: band.join(" "),
        }),
        corners: corners.join(" "),
        dots: dotted.iter().map(|p| dot(frame, &series.name, p)).collect(),
    }
}

fn dot(frame: &Frame, name: &str, point: &Point) -> DotView {
    let band = point.band.map_or(String::new(), |band| {
        format!(
            " [{}, {}]",
            format_number(band.low),
            format_number(band.high)
        )
    });
    DotView {
        x: frame.place_x(point.x),
        y: frame.place_y(point.y),
        radius: DOT_RADIUS,
        text: format!("{name} at {}: {}{band}", point.x, format_number(point.y)),
    }
}

/// The distribution of each class over the score, as shares of the class.
pub(crate) fn histogram(
    templates: &Templates,
    labels: Labels<'_>,
    histogram: &ScoreHistogram,
) -> Result<String, ReportError> {
    let x = Range {
        low: histogram.low,
        high: if histogram.high > histogram.low {
            histogram.high
        } else {
            histogram.low + 1.0
        },
    };
    let shares: Vec<Vec<f64>> = histogram.classes.iter().map(shares).collect();
    let top = shares.iter().flatten().copied().fold(0.01, f64::max);
    let frame = Frame {
        x,
        y: Range {
            low: 0.0,
            high: top * 1.05,
        },
    };
    let names: Vec<String> = histogram
        .classes
        .iter()
        .map(|class| format!("{} ({})", class.name, class.counts.iter().sum::<usize>()))
        .collect();
    let legend: Vec<&str> = names.iter().map(String::as_str).collect();
    let curves = shares.iter().enumerate().map(|(class, shares)| {
        // An outline around the area: overlapping classes stay readable without colour.
        let corners = outline(&frame, shares);
        CurveView {
            colour: class % COLOURS,
            area: Some(AreaView {
                class: "bar",
                corners: corners.clone(),
            }),
            corners,
            dots: Vec::new(),
        }
    });
    let view = PlotView {
        diagonal: None,
        marks: Vec::new(),
        curves: curves.collect(),
        frame: frame.view(labels, &legend),
    };
    templates.render("plot.svg", &view)
}

/// The counts as shares of the class.
fn shares(class: &HistogramClass) -> Vec<f64> {
    let total = class.counts.iter().sum::<usize>().max(1) as f64;
    class.counts.iter().map(|&n| n as f64 / total).collect()
}

/// The corners of bars of equal width that fill the horizontal range.
fn outline(frame: &Frame, heights: &[f64]) -> String {
    let width = (frame.x.high - frame.x.low) / heights.len().max(1) as f64;
    let mut corners = vec![frame.corner(frame.x.low, 0.0)];
    for (bin, height) in heights.iter().enumerate() {
        let left = frame.x.low + bin as f64 * width;
        corners.push(frame.corner(left, *height));
        corners.push(frame.corner(left + width, *height));
    }
    corners.push(frame.corner(frame.x.high, 0.0));
    corners.join(" ")
}

/// Accuracy against confidence. A dot's area grows with its number of traces; the diagonal is
/// perfect calibration.
pub(crate) fn reliability(
    templates: &Templates,
    labels: Labels<'_>,
    curves: &[ReliabilityCurve<'_>],
) -> Result<String, ReportError> {
    let unit = Range {
        low: 0.0,
        high: 1.0,
    };
    let frame = Frame { x: unit, y: unit };
    let legend: Vec<&str> = curves.iter().map(|curve| curve.name).collect();
    let view = PlotView {
        diagonal: Some([frame.corner(0.0, 0.0), frame.corner(1.0, 1.0)].join(" ")),
        marks: Vec::new(),
        curves: curves
            .iter()
            .enumerate()
            .map(|(colour, curve)| reliability_curve(&frame, colour, curve.bins))
            .collect(),
        frame: frame.view(labels, &legend),
    };
    templates.render("plot.svg", &view)
}

fn reliability_curve(frame: &Frame, colour: usize, bins: &[ReliabilityBin]) -> CurveView {
    let total = bins.iter().map(|bin| bin.count).sum::<usize>().max(1) as f64;
    let corner = |bin: &ReliabilityBin| frame.corner(bin.confidence, bin.accuracy);
    let dot = |bin: &ReliabilityBin| DotView {
        x: frame.place_x(bin.confidence),
        y: frame.place_y(bin.accuracy),
        radius: 2.0 + 9.0 * (bin.count as f64 / total).sqrt(),
        text: format!(
            "{} traces, confidence {:.3}, accuracy {:.3}",
            bin.count, bin.confidence, bin.accuracy
        ),
    };
    CurveView {
        colour,
        area: None,
        corners: bins.iter().map(corner).collect::<Vec<_>>().join(" "),
        dots: bins.iter().map(dot).collect(),
    }
}

/// The plot as a file: with its namespace, a white background and the light colours.
pub(crate) fn standalone(svg: &str) -> String {
    const OPENING: &str = r#"<svg class="plot""#;
    const WITH_NAMESPACE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" class="plot""#;
    let named = svg.replacen(OPENING, WITH_NAMESPACE, 1);
    let Some(end) = named.find('>') else {
        return named;
    };
    let (opening, rest) = named.split_at(end + 1);
    format!(
        "{opening}<style>{PLOT_STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>{rest}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates() -> Templates {
        Templates::new().unwrap()
    }

    #[test]
    fn plots_survive_empty_constant_and_infinite_data() {
        let point = |x, y| Point { x, y, band: None };
        let series = Series {
            name: "<b>".into(),
            points: vec![
                point(0.0, f64::NAN),
                point(1.0, 2.0),
                point(f64::INFINITY, 1.0),
            ],
        };
        let labels = Labels {
            title: "a & b",
            x: "x",
        };
        let templates = templates();
        let svg = lines(
            &templates,
            labels,
            &[series.clone(), Series::default()],
            &[],
        )
        .unwrap();
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let empty = [
            lines(&templates, labels, &[], &[]),
            histogram(&templates, labels, &ScoreHistogram::default()),
            reliability(
                &templates,
                labels,
                &[ReliabilityCurve {
                    name: "raw",
                    bins: &[],
                }],
            ),
        ];
        for svg in empty {
            let svg = svg.unwrap();
            assert!(!svg.contains("NaN") && svg.ends_with("</svg>"), "{svg}");
        }
    }

    #[test]
    fn marks_inside_the_range_are_drawn() {
        let mark = |x| Mark {
            x,
            text: "<alarm>".into(),
        };
        let series = Series {
            name: "a".into(),
            points: (0..3)
                .map(|i| Point {
                    x: f64::from(i),
                    y: 1.0,
                    band: None,
                })
                .collect(),
        };
        let labels = Labels { title: "t", x: "x" };
        let svg = lines(&templates(), labels, &[series], &[mark(1.0), mark(9.0)]).unwrap();
        assert_eq!(svg.matches("class=\"mark\"").count(), 1);
        assert!(
            svg.contains("&lt;alarm&gt;") && svg.contains("x1=\"230.0\""),
            "{svg}"
        );
    }
}
