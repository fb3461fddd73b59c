//! Small plots as inline SVG: lines with a band, histograms, reliability diagrams, matrices.
//!
//! Colours come from CSS classes of the page (`s0` .. `s5`), so plots follow its light and dark modes; no script, no
//! network. Text is escaped. Points that are not finite are left out.

use std::fmt::Write;

mod matrix;

pub use matrix::matrix;

use crate::classification::ReliabilityBin;
use crate::evaluation::ScoreHistogram;
use crate::summary::short;

/// A named line; each point is x, y and, if known, the ends of its interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points in ascending x.
    pub points: Vec<Point>,
}

/// One point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Horizontal position.
    pub x: f64,
    /// Vertical position.
    pub y: f64,
    /// Lower and upper end of the band.
    pub band: Option<(f64, f64)>,
}

/// What is written around a plot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Labels<'a> {
    /// Above the plot.
    pub title: &'a str,
    /// Below the horizontal axis.
    pub x: &'a str,
}

/// A vertical line with a word at its foot.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Horizontal position.
    pub x: f64,
    /// What happened there.
    pub text: String,
}

/// Escapes text for HTML and SVG, attributes included. Control characters become a visible replacement.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Lines over a shared axis, each with its band; a legend if there is more than one; vertical marks.
pub fn lines(labels: Labels<'_>, series: &[Series], marks: &[Mark]) -> String {
    let finite = |series: &Series| -> Vec<Point> {
        let points = series.points.iter().copied();
        points
            .filter(|p| p.x.is_finite() && p.y.is_finite())
            .collect()
    };
    let clean: Vec<(&str, Vec<Point>)> = series
        .iter()
        .map(|s| (s.name.as_str(), finite(s)))
        .collect();
    let points = || clean.iter().flat_map(|(_, points)| points);
    let x = range(points().map(|p| p.x));
    let y = padded(range(points().flat_map(|p| {
        let (low, high) = p.band.unwrap_or((p.y, p.y));
        [p.y, low, high]
    })));
    let frame = Frame { x, y };
    let names: Vec<&str> = clean.iter().map(|(name, _)| *name).collect();
    let legend = if names.len() > 1 { names } else { Vec::new() };
    let mut svg = frame.open(labels, legend);
    for mark in marks.iter().filter(|mark| mark.x >= x.0 && mark.x <= x.1) {
        let (at, _) = frame.place(mark.x, y.0);
        let (bottom, text) = (HEIGHT - BOTTOM, escape(&mark.text));
        let _ = write!(
            svg,
            r#"<g class="mark"><line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom}"/><path d="M{at:.1} {TOP}l-4.5 -7h9z"/><title>{text}</title></g>"#
        );
    }
    for (index, (name, points)) in clean.iter().enumerate() {
        push_line(&mut svg, &frame, (index, name), points);
    }
    svg + "</svg>"
}

fn push_line(svg: &mut String, frame: &Frame, (index, name): (usize, &str), points: &[Point]) {
    let colour = index % COLOURS;
    let upper = points.iter().filter_map(|p| Some(frame.at(p.x, p.band?.1)));
    let lower = points
        .iter()
        .rev()
        .filter_map(|p| Some(frame.at(p.x, p.band?.0)));
    let band: Vec<String> = upper.chain(lower).collect();
    if band.len() > 2 {
        let corners = band.join(" ");
        let _ = write!(
            svg,
            r#"<polygon class="band s{colour}" points="{corners}"/>"#
        );
    }
    let line: Vec<String> = points.iter().map(|p| frame.at(p.x, p.y)).collect();
    let corners = line.join(" ");
    let _ = write!(
        svg,
        r#"<polyline class="line s{colour}" points="{corners}"/>"#
    );
    if points.len() > 20 {
        return;
    }
    for p in points {
        let (cx, cy) = frame.place(p.x, p.y);
        let band = p.band.map_or(String::new(), |(low, high)| {
            format!(" [{}, {}]", short(low), short(high))
        });
        let text = escape(&format!("{name} at {}: {}{band}", p.x, short(p.y)));
        let _ = write!(
            svg,
            r#"<circle class="dot s{colour}" cx="{cx:.1}" cy="{cy:.1}" r="2.8"><title>{text}</title></circle>"#
        );
    }
}

/// Counts of each class over the score, as shares of the class.
pub fn histogram(labels: Labels<'_>, histogram: &ScoreHistogram) -> String {
    let shares = |counts: &[usize]| -> Vec<f64> {
        let total = counts.iter().sum::<usize>().max(1) as f64;
        counts.iter().map(|&count| count as f64 / total).collect()
    };
    let classes: Vec<(String, Vec<f64>)> = histogram
        .classes
        .iter()
        .map(|class| {
            let total: usize = class.counts.iter().sum();
            (format!("{} ({total})", class.name), shares(&class.counts))
        })
        .collect();
    let bars = || classes.iter().flat_map(|(_, bars)| bars).copied();
    let top = bars().fold(0.01, f64::max);
    let high = if histogram.high > histogram.low {
        histogram.high
    } else {
        histogram.low + 1.0
    };
    let frame = Frame {
        x: (histogram.low, high),
        y: (0.0, top * 1.05),
    };
    let mut svg = frame.open(
        labels,
        classes.iter().map(|(name, _)| name.as_str()).collect(),
    );
    for (class, (_, bars)) in classes.iter().enumerate() {
        let colour = class % COLOURS;
        let width = (high - histogram.low) / bars.len().max(1) as f64;
        // An outline of steps beside the area: overlapping classes stay readable without colour.
        let mut outline = frame.at(histogram.low, 0.0);
        for (bin, share) in bars.iter().enumerate() {
            let left = histogram.low + bin as f64 * width;
            let _ = write!(
                outline,
                " {} {}",
                frame.at(left, *share),
                frame.at(left + width, *share)
            );
        }
        let _ = write!(outline, " {}", frame.at(high, 0.0));
        let _ = write!(
            svg,
            r#"<polygon class="bar s{colour}" points="{outline}"/><polyline class="line s{colour}" points="{outline}"/>"#
        );
    }
    svg + "</svg>"
}

/// Accuracy against confidence; a dot's area grows with the number of traces, the diagonal is perfect calibration.
pub fn reliability(labels: Labels<'_>, series: &[(&str, &[ReliabilityBin])]) -> String {
    let frame = Frame {
        x: (0.0, 1.0),
        y: (0.0, 1.0),
    };
    let mut svg = frame.open(labels, series.iter().map(|(name, _)| *name).collect());
    let _ = write!(
        svg,
        r#"<polyline class="diagonal" points="{} {}"/>"#,
        frame.at(0.0, 0.0),
        frame.at(1.0, 1.0)
    );
    for (colour, (_, bins)) in series.iter().enumerate() {
        let line: Vec<String> = bins
            .iter()
            .map(|bin| frame.at(bin.confidence, bin.accuracy))
            .collect();
        let _ = write!(
            svg,
            r#"<polyline class="line s{colour}" points="{}"/>"#,
            line.join(" ")
        );
        let total = bins.iter().map(|bin| bin.count).sum::<usize>().max(1) as f64;
        for bin in *bins {
            let (cx, cy) = frame.place(bin.confidence, bin.accuracy);
            let radius = 2.0 + 9.0 * (bin.count as f64 / total).sqrt();
            let _ = write!(
                svg,
                r#"<circle class="dot s{colour}" cx="{cx:.1}" cy="{cy:.1}" r="{radius:.1}"><title>{} traces, confidence {:.3}, accuracy {:.3}</title></circle>"#,
                bin.count, bin.confidence, bin.accuracy
            );
        }
    }
    svg + "</svg>"
}

/// The plot as a file of its own: with its namespace, a white ground and the light palette.
pub fn standalone(svg: &str) -> String {
    const OPENING: &str = r#"<svg class="plot""#;
    const WITH_NAMESPACE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" class="plot""#;
    let named = svg.replacen(OPENING, WITH_NAMESPACE, 1);
    let Some(end) = named.find('>') else {
        return named;
    };
    let (opening, rest) = named.split_at(end + 1);
    let style = include_str!("report/plot.css");
    format!(
        "{opening}<style>{style}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>{rest}\n"
    )
}

const COLOURS: usize = 6;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 54.0;
/// Width that the keys of a legend share; what does not fit goes to a second line.
const LEGEND_WIDTH: f64 = WIDTH - LEFT - RIGHT;
const BOTTOM: f64 = 40.0;

/// The data ranges that the plot area shows.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        (
            LEFT + share(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - share(y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn at(&self, x: f64, y: f64) -> String {
        let (x, y) = self.place(x, y);
        format!("{x:.1},{y:.1}")
    }

    /// The opening tag, title, legend, grid and tick labels.
    fn open(&self, labels: Labels<'_>, legend: Vec<&str>) -> String {
        let title = escape(labels.title);
        let mut svg = format!(
            r#"<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><text class="title" x="{LEFT}" y="16">{title}</text>"#
        );
        for tick in ticks(self.y) {
            let (_, y) = self.place(self.x.0, tick);
            let (right, text) = (WIDTH - RIGHT, tick_label(tick, self.y));
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 6.0,
                y + 3.5
            );
        }
        for tick in ticks(self.x) {
            let (x, _) = self.place(tick, self.y.0);
            let text = tick_label(tick, self.x);
            let y = HEIGHT - BOTTOM + 15.0;
            let _ = write!(
                svg,
                r#"<text class="tick" x="{x:.1}" y="{y:.1}" text-anchor="middle">{text}</text>"#
            );
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let (bottom, x_label) = (HEIGHT - 7.0, escape(labels.x));
        let _ = write!(
            svg,
            r#"<text class="tick" x="{middle}" y="{bottom}" text-anchor="middle">{x_label}</text>"#
        );
        svg + &legend_of(&legend)
    }
}

fn legend_of(names: &[&str]) -> String {
    let mut svg = String::new();
    let (mut x, mut y) = (0.0, 27.0);
    for (index, name) in names.iter().enumerate() {
        let (colour, text) = (index % COLOURS, escape(name));
        let width = 30.0 + 5.6 * name.chars().count() as f64;
        if x > 0.0 && x + width - 12.0 > LEGEND_WIDTH {
            (x, y) = (0.0, y + 13.0);
        }
        let left = LEFT + x;
        let _ = write!(
            svg,
            r#"<line class="line s{colour}" x1="{left:.0}" x2="{:.0}" y1="{y}" y2="{y}"/><text class="tick" x="{:.0}" y="{:.1}">{text}</text>"#,
            left + 14.0,
            left + 18.0,
            y + 3.5
        );
        x += width;
    }
    svg
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
    if low > high {
        return (0.0, 1.0);
    }
    if high > low {
        (low, high)
    } else {
        (low - 0.5, high + 0.5)
    }
}

fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let margin = 0.06 * (high - low);
    (low - margin, high + margin)
}

/// Round values inside the range, one, two or five times a power of ten apart.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil();
    (0..12)
        .map(|i| (first + f64::from(i)) * step)
        .take_while(|tick| *tick <= high + 1e-9 * step)
        .collect()
}

fn tick_label(value: f64, (low, high): (f64, f64)) -> String {
    let size = low.abs().max(high.abs());
    if !(1e-3..1e5).contains(&size) {
        return format!("{value:.1e}");
    }
    let decimals = (1.0 - ((high - low) / 5.0).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    let trimmed = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    if trimmed == "-0" {
        "0".to_owned()
    } else {
        trimmed.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            ticks((0.0, 1.0)),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert_eq!(ticks((-7.0, 9.0)), [-5.0, 0.0, 5.0]);
        assert_eq!(tick_label(0.6000000000000001, (0.0, 1.0)), "0.6");
        assert_eq!(tick_label(2e6, (0.0, 4e6)), "2.0e6");
        assert_eq!(tick_label(-0.0, (-1.0, 1.0)), "0");
    }

    #[test]
    fn points_land_where_the_arithmetic_says() {
        let frame = Frame {
            x: (0.0, 10.0),
            y: (0.0, 1.0),
        };
        assert_eq!(frame.place(0.0, 0.0), (52.0, 210.0));
        assert_eq!(frame.place(10.0, 1.0), (408.0, 54.0));
        assert_eq!(frame.at(5.0, 0.5), "230.0,132.0");
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
        let svg = lines(
            Labels {
                title: "a & b",
                x: "x",
            },
            &[series.clone(), Series::default()],
            &[],
        );
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(!lines(Labels { title: "", x: "" }, &[], &[]).contains("NaN"));
        assert!(
            !histogram(Labels { title: "", x: "" }, &ScoreHistogram::default()).contains("NaN")
        );
        assert!(!reliability(Labels { title: "", x: "" }, &[("raw", &[])]).contains("NaN"));
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
        let svg = lines(labels, &[series], &[mark(1.0), mark(9.0)]);
        assert_eq!(svg.matches("class=\"mark\"").count(), 1);
        assert!(
            svg.contains("&lt;alarm&gt;") && svg.contains("x1=\"230.0\""),
            "{svg}"
        );
    }

    #[test]
    fn escaping_covers_markup_and_control_characters() {
        assert_eq!(
            escape("<a b='\"'>&\u{0}\u{1b}é"),
            "&lt;a b=&#39;&quot;&#39;&gt;&amp;\u{fffd}\u{fffd}é"
        );
    }
}
