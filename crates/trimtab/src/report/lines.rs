//! Curves over one axis, such as losses over steps, with a legend: a chart for any page.

use serde::Serialize;
use svg::node::element::{Group, Line, Text};

use super::charts::{Axis, Chart, Drawing, Plane, both, round};

/// Classes of the style sheet for lines.
const STYLES: usize = 8;
/// Height of a row of the legend.
const ROW: f64 = 18.0;

/// Named curves over one axis.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lines {
    /// What the chart shows.
    pub title: String,
    /// What lies across, with its unit.
    pub x: String,
    /// What lies up, with its unit.
    pub y: String,
    /// Whether the axis across is logarithmic; what is not above 0 is then not drawn.
    pub logarithmic_x: bool,
    /// The curves.
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

impl Lines {
    /// The chart; `None` without a point. `id` is that of no other element of the page.
    pub fn chart(&self, id: &str) -> Option<Chart> {
        let drawable =
            |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite() && (!self.logarithmic_x || p.0 > 0.0);
        let points = || self.series.iter().flat_map(|series| &series.points).filter(|p| drawable(p));
        let x = Axis::along(points().map(|p| p.0), self.logarithmic_x)?;
        let y = Axis::along(points().map(|p| p.1), false)?;
        let draw = |width: f64, height: f64| {
            let (legend, rows) = self.legend(width);
            let mut plane = Plane::new((x, &self.x), (y, &self.y), width, height);
            for (i, series) in self.series.iter().enumerate() {
                let points: Vec<(f64, f64)> = series.points.iter().copied().filter(drawable).collect();
                plane.curve(&points, &class(i));
            }
            let below = format!("translate(0 {})", round(rows as f64 * ROW));
            Group::new().add(legend).add(plane.drawn.set("transform", below))
        };
        let drawings = both(draw).map(|drawing| {
            let (_, rows) = self.legend(f64::from(drawing.width));
            Drawing { height: drawing.height + (rows as f64 * ROW) as u32, ..drawing }
        });
        let ends: Vec<String> = self
            .series
            .iter()
            .filter_map(|series| {
                let points: Vec<&(f64, f64)> = series.points.iter().filter(|p| drawable(p)).collect();
                let (first, last) = (points.first()?, points.last()?);
                Some(format!("{}: {:.3} to {:.3}", series.name, first.1, last.1))
            })
            .collect();
        let scale = if self.logarithmic_x { ", on a logarithmic scale" } else { "" };
        let description = format!(
            "{} by {}{scale}. From the first point to the last: {}.",
            self.y,
            self.x,
            ends.join("; ")
        );
        Some(Chart { id: id.into(), title: self.title.clone(), description, drawings })
    }

    /// A stroke and a name for each curve, and the rows that they take at this width.
    fn legend(&self, width: f64) -> (Group, usize) {
        let (mut drawn, mut left, mut row) = (Group::new(), 8.0, 0);
        for (i, series) in self.series.iter().enumerate() {
            let room = 34.0 + 6.8 * series.name.chars().count() as f64;
            if left > 8.0 && left + room > width {
                (left, row) = (8.0, row + 1);
            }
            let at = row as f64 * ROW + 12.0;
            let stroke =
                Line::new().set("class", class(i)).set("x1", round(left)).set("x2", round(left + 20.0));
            let name = Text::new(&series.name).set("x", round(left + 26.0)).set("y", round(at));
            drawn = drawn.add(stroke.set("y1", round(at - 4.0)).set("y2", round(at - 4.0))).add(name);
            left += room + 8.0;
        }
        (drawn, row + usize::from(!self.series.is_empty()))
    }
}

impl Chart {
    /// What it shows.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What it shows, in words and figures.
    pub fn description(&self) -> &str {
        &self.description
    }
}

fn class(series: usize) -> String {
    format!("series s{}", series % STYLES)
}

#[cfg(test)]
mod tests {
    use askama::Template;

    use super::*;

    #[test]
    fn curves_have_a_legend_and_a_description() {
        let series =
            |name: &str| Series { name: name.into(), points: vec![(0.0, 9.0), (1.0, 3.0), (100.0, 1.5)] };
        let mut lines = Lines {
            title: "Loss".into(),
            x: "step".into(),
            y: "nats".into(),
            logarithmic_x: true,
            series: (0..9).map(|i| series(&format!("a curve with a long name, {i}"))).collect(),
        };
        let chart = lines.chart("loss").unwrap();
        assert!(chart.description().contains("name, 8: 3.000 to 1.500"), "0 is not on a logarithmic axis");
        let page = chart.render().unwrap();
        assert!(page.contains("s7") && !page.contains("s8"), "styles come round");
        assert!(chart.drawings[1].height > chart.drawings[0].height, "a narrow legend is high");
        assert_eq!(page.matches("<polyline").count(), 18);
        lines.series.clear();
        assert!(lines.chart("loss").is_none());
    }
}
