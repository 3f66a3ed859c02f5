//! Plots as SVG: horizontal bars with their spread.

use plotters::element::{PathElement, Rectangle, Text};
use plotters::prelude::{DrawingBackend, IntoDrawingArea, IntoFont, RGBColor, SVGBackend, TextStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, WHITE};

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// The spread.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Whether it is dbstreamd's, and stands out.
    pub(crate) ours: bool,
}

const WIDTH: u32 = 900;
const BAR: i32 = 26;
const HEAD: i32 = 44;
const FOOT: i32 = 14;
/// Where bars begin, and the longest ends.
const LEFT: i32 = 330;
const RIGHT: i32 = 830;
/// A font of so many pixels is asked for by its line height.
const FONT_SCALE: f64 = 1.24;
const INK: RGBColor = RGBColor(40, 40, 40);
const OURS: RGBColor = RGBColor(38, 112, 196);
const THEIRS: RGBColor = RGBColor(176, 184, 194);

/// The plot; none when there is nothing to show, or it cannot be drawn.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> Option<String> {
    let longest = bars.iter().map(|bar| bar.high.max(bar.value)).fold(0.0, f64::max);
    if longest <= 0.0 || !longest.is_finite() {
        return None;
    }
    let height = HEAD + BAR * i32::try_from(bars.len()).ok()? + FOOT;
    let mut svg = String::new();
    let backend = SVGBackend::with_string(&mut svg, (WIDTH, height.unsigned_abs()));
    draw(backend, title, bars, longest).ok()?;
    Some(svg)
}

fn draw<B: DrawingBackend>(backend: B, title: &str, bars: &[Bar], longest: f64) -> Result<(), String>
where
    B::ErrorType: 'static,
{
    let area = backend.into_drawing_area();
    let say = |error: plotters::drawing::DrawingAreaErrorKind<B::ErrorType>| error.to_string();
    let text = |size: i32, side: HPos| {
        TextStyle::from(("sans-serif", FONT_SCALE * f64::from(size)).into_font())
            .color(&INK)
            .pos(Pos::new(side, VPos::Center))
    };
    #[expect(clippy::cast_possible_truncation, reason = "between LEFT and RIGHT")]
    let x = |value: f64| LEFT + (value / longest * f64::from(RIGHT - LEFT)) as i32;
    area.fill(&WHITE).map_err(say)?;
    area.draw(&Text::new(title, (10, HEAD / 2), text(16, HPos::Left))).map_err(say)?;
    let mut y = HEAD;
    for bar in bars {
        let (middle, colour) = (y + BAR / 2, if bar.ours { OURS } else { THEIRS });
        let body = Rectangle::new([(LEFT, y + 4), (x(bar.value), y + BAR - 4)], colour.filled());
        area.draw(&body).map_err(say)?;
        area.draw(&PathElement::new([(x(bar.low), middle), (x(bar.high), middle)], INK)).map_err(say)?;
        for end in [bar.low, bar.high] {
            area.draw(&PathElement::new([(x(end), middle - 4), (x(end), middle + 4)], INK)).map_err(say)?;
        }
        area.draw(&Text::new(bar.label.as_str(), (LEFT - 8, middle), text(13, HPos::Right))).map_err(say)?;
        let figure = format!("{:.0}", bar.value);
        let beside = (x(bar.high.max(bar.value)) + 8, middle);
        area.draw(&Text::new(figure, beside, text(13, HPos::Left))).map_err(say)?;
        y += BAR;
    }
    area.present().map_err(say)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_every_label_and_nothing_gives_no_plot() {
        let bar =
            |label: &str, value| Bar { label: label.into(), value, low: value - 1.0, high: value + 1.0, ours: false };
        let svg = bars("rows <per> second", &[bar("one", 10.0), bar("two", 20.0)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("one") && svg.contains("two") && svg.contains("&lt;per&gt;"), "{svg}");
        assert!(bars("empty", &[]).is_none());
        assert!(bars("not a number", &[bar("x", f64::INFINITY)]).is_none());
    }
}
