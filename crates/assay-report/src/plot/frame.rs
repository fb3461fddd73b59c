//! The axes of a plot: where values are placed, tick labels and the legend.

use serde::Serialize;

/// Number of line colours; further lines use the same colours again.
pub(super) const COLOURS: usize = 6;
const WIDTH: u32 = 420;
const HEIGHT: u32 = 250;
const LEFT: u32 = 52;
const TOP: u32 = 54;
/// Right end of the plot area.
const RIGHT: u32 = WIDTH - 12;
/// Lower end of the plot area.
const BOTTOM: u32 = HEIGHT - 40;
/// Baseline of the first line of the legend.
const LEGEND_TOP: f64 = 27.0;
const LEGEND_LINE: f64 = 13.0;
const MAX_TICKS: usize = 12;

/// The texts around a plot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Labels<'a> {
    /// Above the plot.
    pub(crate) title: &'a str,
    /// Below the horizontal axis.
    pub(crate) x: &'a str,
}

/// The lowest and the highest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The data ranges that the plot area shows.
pub(super) struct Frame {
    pub(super) x: Range,
    pub(super) y: Range,
}

/// The part of `plot.svg`'s variables that all plots share; lengths in SVG units.
#[derive(Serialize)]
pub(super) struct FrameView<'a> {
    width: u32,
    height: u32,
    left: u32,
    right: u32,
    top: u32,
    bottom: u32,
    title: &'a str,
    x_label: &'a str,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    legend: Vec<LegendKey>,
}

#[derive(Serialize)]
struct Tick {
    at: f64,
    text: String,
}

#[derive(Serialize)]
struct LegendKey {
    colour: usize,
    x: f64,
    y: f64,
    name: String,
}

impl Range {
    /// The range of the finite values, [0, 1] without any; one half either way around a single
    /// value.
    pub(super) fn over(values: impl Iterator<Item = f64>) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let range = finite.fold(
            Self {
                low: f64::INFINITY,
                high: f64::NEG_INFINITY,
            },
            |range, value| Self {
                low: range.low.min(value),
                high: range.high.max(value),
            },
        );
        match range {
            Self { low, high } if low > high => Self {
                low: 0.0,
                high: 1.0,
            },
            Self { low, high } if high > low => range,
            Self { low, high } => Self {
                low: low - 0.5,
                high: high + 0.5,
            },
        }
    }

    /// The range with a margin of 6 % on both sides.
    pub(super) fn padded(self) -> Self {
        let margin = 0.06 * (self.high - self.low);
        Self {
            low: self.low - margin,
            high: self.high + margin,
        }
    }

    /// The place of a value in the range: 0 at the lower end, 1 at the upper end.
    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Round values inside the range, one, two or five times a power of ten apart.
    fn ticks(self) -> Vec<f64> {
        let rough = (self.high - self.low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let distance = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|distance| *distance >= rough)
            .unwrap_or(rough);
        let first = (self.low / distance).ceil();
        (0..MAX_TICKS)
            .map(|i| (first + i as f64) * distance)
            .take_while(|tick| *tick <= self.high + 1e-9 * distance)
            .collect()
    }

    /// A tick's value with as many decimals as the range needs.
    fn tick_label(self, value: f64) -> String {
        let size = self.low.abs().max(self.high.abs());
        if !(1e-3..1e5).contains(&size) {
            return format!("{value:.1e}");
        }
        let spacing = (self.high - self.low) / 5.0;
        let decimals = (1.0 - spacing.log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.decimals$}");
        let trimmed = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        match trimmed {
            "-0" => "0".to_owned(),
            trimmed => trimmed.to_owned(),
        }
    }
}

impl Frame {
    /// Horizontal position of a value in the plot, in SVG units.
    pub(super) fn place_x(&self, x: f64) -> f64 {
        f64::from(LEFT) + self.x.share(x) * f64::from(RIGHT - LEFT)
    }

    /// Vertical position of a value in the plot, in SVG units from the top.
    pub(super) fn place_y(&self, y: f64) -> f64 {
        f64::from(BOTTOM) - self.y.share(y) * f64::from(BOTTOM - TOP)
    }

    /// A point in the notation of SVG's `points`.
    pub(super) fn corner(&self, x: f64, y: f64) -> String {
        format!("{:.1},{:.1}", self.place_x(x), self.place_y(y))
    }

    /// Texts, ticks and legend for the template.
    pub(super) fn view<'a>(&self, labels: Labels<'a>, legend: &[&str]) -> FrameView<'a> {
        let x_tick = |value| Tick {
            at: self.place_x(value),
            text: self.x.tick_label(value),
        };
        let y_tick = |value| Tick {
            at: self.place_y(value),
            text: self.y.tick_label(value),
        };
        FrameView {
            width: WIDTH,
            height: HEIGHT,
            left: LEFT,
            right: RIGHT,
            top: TOP,
            bottom: BOTTOM,
            title: labels.title,
            x_label: labels.x,
            x_ticks: self.x.ticks().into_iter().map(x_tick).collect(),
            y_ticks: self.y.ticks().into_iter().map(y_tick).collect(),
            legend: legend_keys(legend),
        }
    }
}

/// Keys side by side; a key that does not fit moves to the next line.
fn legend_keys(names: &[&str]) -> Vec<LegendKey> {
    let (mut x, mut y) = (0.0, LEGEND_TOP);
    let mut keys = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let width = 30.0 + 5.6 * name.chars().count() as f64;
        if x > 0.0 && x + width - 12.0 > f64::from(RIGHT - LEFT) {
            (x, y) = (0.0, y + LEGEND_LINE);
        }
        keys.push(LegendKey {
            colour: index % COLOURS,
            x: f64::from(LEFT) + x,
            y,
            name: (*name).to_owned(),
        });
        x += width;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(low: f64, high: f64) -> Range {
        Range { low, high }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            range(0.0, 1.0).ticks(),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert_eq!(range(-7.0, 9.0).ticks(), [-5.0, 0.0, 5.0]);
        assert_eq!(range(0.0, 1.0).tick_label(0.6000000000000001), "0.6");
        assert_eq!(range(0.0, 4e6).tick_label(2e6), "2.0e6");
        assert_eq!(range(-1.0, 1.0).tick_label(-0.0), "0");
    }

    #[test]
    fn points_land_where_the_arithmetic_says() {
        let frame = Frame {
            x: range(0.0, 10.0),
            y: range(0.0, 1.0),
        };
        assert_eq!((frame.place_x(0.0), frame.place_y(0.0)), (52.0, 210.0));
        assert_eq!((frame.place_x(10.0), frame.place_y(1.0)), (408.0, 54.0));
        assert_eq!(frame.corner(5.0, 0.5), "230.0,132.0");
    }
}
