//! The charts of the page, as SVG.
//!
//! They carry classes and no colours: the style sheet of the page colours them, light or dark. Every chart is drawn for a
//! wide and for a narrow page: scaled down, its letters could not be read.

use askama::Template;
use svg::node::element::{Circle, Group, Line, Polyline, Text};

use super::text::{bytes, number, shorten};
use super::{Report, SiteEntry};

/// Room around the plane: left, top, right, bottom.
const ROOM: [f64; 4] = [70.0, 8.0, 14.0, 44.0];

/// A chart at two widths, with what it is in words. As text it is the elements of a page.
#[derive(Template)]
#[template(path = "chart.html")]
pub struct Chart {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) drawings: [Drawing; 2],
}

/// The inside of an `<svg>`, its size, and the class of the pages that it is for.
pub(super) struct Drawing {
    pub class: &'static str,
    pub width: u32,
    pub height: u32,
    pub svg: String,
}

/// Draws at both sizes.
pub(super) fn both(draw: impl Fn(f64, f64) -> Group) -> [Drawing; 2] {
    [("wide", 760, 380), ("narrow", 368, 320)].map(|(class, width, height)| {
        let svg = draw(f64::from(width), f64::from(height)).to_string();
        Drawing { class, width, height, svg }
    })
}

/// A range of values on one axis.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// From the least to the largest value, and some room on both sides; `None` without values.
    fn around(values: impl IntoIterator<Item = f64>, logarithmic: bool) -> Option<Self> {
        let (low, high) = range(values, logarithmic)?;
        let (low, high) = if logarithmic { (low / 1.3, high * 1.3) } else { (low - 0.15, high + 0.15) };
        Some(Self { low, high, logarithmic })
    }

    /// From the least to the largest value, with room in proportion; `None` without values.
    pub(super) fn along(values: impl IntoIterator<Item = f64>, logarithmic: bool) -> Option<Self> {
        let (low, high) = range(values, logarithmic)?;
        // Equal values need some room, too.
        let room = 0.04 * if high > low { high - low } else { high.abs().max(1.0) };
        let (low, high) = if logarithmic { (low / 1.1, high * 1.1) } else { (low - room, high + room) };
        Some(Self { low, high, logarithmic })
    }

    /// Where a value lies between the ends, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// Round numbers, as many as there is room for.
    fn ticks(&self, room: usize) -> Vec<f64> {
        let inside = |values: Vec<f64>| -> Vec<f64> {
            values.into_iter().filter(|v| (self.low..=self.high).contains(v)).collect()
        };
        let choices: Vec<Vec<f64>> = match self.logarithmic {
            true => {
                let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
                let digits = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
                [&digits[..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]]
                    .map(|steps| {
                        decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d))).collect()
                    })
                    .into()
            }
            false => {
                let finest = (self.high - self.low).log10().floor() as i32 - 1;
                let steps = (finest..finest + 3).flat_map(|d| [1.0, 2.0, 5.0].map(|s| s * 10f64.powi(d)));
                // The ends as whole numbers of steps, so that 0 is 0.
                steps
                    .map(|step| {
                        let first = (self.low / step).ceil() as i64;
                        (first..=(self.high / step).floor() as i64).map(|i| i as f64 * step).collect()
                    })
                    .collect()
            }
        };
        choices.into_iter().map(inside).find(|ticks| ticks.len() <= room).unwrap_or_default()
    }

    /// A tick as it is written.
    fn label(&self, value: f64) -> String {
        match self.logarithmic {
            // One digit and as many zeros as it takes.
            true if (1e-4..1e5).contains(&value) => {
                format!("{value:.0e}").parse::<f64>().map_or(String::new(), |v| v.to_string())
            }
            true => format!("{value:.0e}"),
            false => {
                // As many digits as tell it from its neighbours; whole numbers only where the axis is long.
                let least = usize::from(self.high - self.low < 20.0);
                let exact = |digits: &usize| {
                    let scaled = value * 10f64.powi(*digits as i32);
                    (scaled - scaled.round()).abs() < 1e-6
                };
                format!("{value:.*}", (least..6).find(exact).unwrap_or(6))
            }
        }
    }
}

/// The least and the largest value that can be drawn.
fn range(values: impl IntoIterator<Item = f64>, logarithmic: bool) -> Option<(f64, f64)> {
    let mut range: Option<(f64, f64)> = None;
    for value in values.into_iter().filter(|v| v.is_finite() && (!logarithmic || *v > 0.0)) {
        let (low, high) = range.unwrap_or((value, value));
        range = Some((low.min(value), high.max(value)));
    }
    range
}

/// Two axes on a drawing, and what is drawn on them.
pub(super) struct Plane {
    x: Axis,
    y: Axis,
    width: f64,
    height: f64,
    pub(super) drawn: Group,
    /// What labels must not lie on: left, top, right, bottom.
    taken: Vec<[f64; 4]>,
}

impl Plane {
    /// Axes with ticks and names.
    pub(super) fn new((x, x_name): (Axis, &str), (y, y_name): (Axis, &str), width: f64, height: f64) -> Self {
        let mut plane = Self { x, y, width, height, drawn: Group::new(), taken: Vec::new() };
        let [left, top, right, bottom] = ROOM;
        let (right, bottom) = (width - right, height - bottom);
        for value in y.ticks(8) {
            let (_, at) = plane.at((x.low, value));
            plane.line((left, at), (right, at), "grid");
            plane.text((left - 8.0, at + 4.0), "end", y.label(value));
        }
        for value in x.ticks((width / 75.0) as usize) {
            let (at, _) = plane.at((value, y.low));
            plane.line((at, bottom), (at, bottom + 5.0), "axis");
            plane.text((at, bottom + 19.0), "middle", x.label(value));
        }
        plane.line((left, top), (left, bottom), "axis");
        plane.line((left, bottom), (right, bottom), "axis");
        plane.text(((left + right) / 2.0, height - 6.0), "middle", x_name.into());
        let middle = (top + bottom) / 2.0;
        let name = Text::new(y_name).set("class", "middle").set("x", 11).set("y", round(middle));
        plane.draw(name.set("transform", format!("rotate(-90 11 {})", round(middle))));
        plane
    }

    /// Where a point lies on the drawing.
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let [left, top, right, bottom] = ROOM;
        let across = left + self.x.place(x) * (self.width - left - right);
        let up = self.height - bottom - self.y.place(y) * (self.height - top - bottom);
        (across, up)
    }

    fn draw(&mut self, node: impl Into<Box<dyn svg::Node>>) {
        self.drawn = std::mem::take(&mut self.drawn).add(node);
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let line = Line::new().set("class", class);
        let line = line.set("x1", round(from.0)).set("y1", round(from.1));
        self.draw(line.set("x2", round(to.0)).set("y2", round(to.1)));
    }

    fn text(&mut self, (x, y): (f64, f64), class: &str, text: String) {
        self.draw(Text::new(text).set("class", class).set("x", round(x)).set("y", round(y)));
    }

    /// A line through points.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], class: &str) {
        let places: Vec<(f64, f64)> = points.iter().map(|&point| self.at(point)).collect();
        let list: Vec<String> = places.iter().map(|(x, y)| format!("{},{}", round(*x), round(*y))).collect();
        self.draw(Polyline::new().set("class", class).set("points", list.join(" ")));
        // Names must not lie between two points of the line either.
        for pair in places.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let steps = ((x1 - x0).hypot(y1 - y0) / 4.0).ceil().max(1.0);
            for i in 0..=steps as usize {
                let t = i as f64 / steps;
                let (x, y) = (x0 + t * (x1 - x0), y0 + t * (y1 - y0));
                self.taken.push([x - 1.0, y - 1.0, x + 1.0, y + 1.0]);
            }
        }
    }

    /// A disc or ring around a point.
    fn circle(&mut self, point: (f64, f64), radius: f64, class: &str) {
        let (x, y) = self.at(point);
        let circle = Circle::new().set("class", class).set("r", radius);
        self.draw(circle.set("cx", round(x)).set("cy", round(y)));
        self.taken.push([x - radius - 1.0, y - radius - 1.0, x + radius + 1.0, y + radius + 1.0]);
    }

    fn cross(&mut self, point: (f64, f64)) {
        let (x, y) = self.at(point);
        self.line((x - 4.0, y - 4.0), (x + 4.0, y + 4.0), "cross");
        self.line((x - 4.0, y + 4.0), (x + 4.0, y - 4.0), "cross");
    }

    /// Names a point where there is room beside it, and not otherwise.
    fn name(&mut self, point: (f64, f64), name: &str, class: &str) {
        let (x, y) = self.at(point);
        let name = shorten(name, 24);
        let width = 6.6 * name.chars().count() as f64;
        let places = [
            (9.0, 4.0),
            (9.0, -7.0),
            (9.0, 15.0),
            (-9.0 - width, 15.0),
            (-9.0 - width, 4.0),
            (-9.0 - width, -7.0),
        ];
        for (dx, dy) in places {
            let place = [x + dx, y + dy - 10.0, x + dx + width, y + dy + 3.0];
            let inside = place[0] > ROOM[0]
                && place[2] < self.width - 4.0
                && place[1] > 2.0
                && place[3] < self.height - ROOM[3];
            let free = |other: &[f64; 4]| {
                place[2] < other[0] || other[2] < place[0] || place[3] < other[1] || other[3] < place[1]
            };
            if inside && self.taken.iter().all(free) {
                self.taken.push(place);
                return self.text((x + dx, y + dy), class, name);
            }
        }
    }
}

/// A tenth of a pixel is as fine as anybody sees.
pub(super) fn round(x: f64) -> f64 {
    (10.0 * x).round() / 10.0
}

/// Size against damage: the frontier, uniform plans, whole plans that were measured, and the choice.
pub(super) fn curve(report: &Report) -> Option<Chart> {
    let curve = report.curve.as_ref()?;
    let chosen = report.bits_per_weight;
    let in_view = |p: &(f64, f64)| p.1 > 0.0 && p.0 <= (2.2 * chosen).max(chosen + 1.5);
    let frontier: Vec<(f64, f64)> =
        curve.frontier.iter().map(|p| (p.bits_per_weight, p.damage)).filter(in_view).collect();
    let uniform: Vec<((f64, f64), &str)> = curve
        .uniform
        .iter()
        .map(|p| ((p.bits_per_weight, p.damage), p.name.as_str()))
        .filter(|(p, _)| in_view(p))
        .collect();
    let measured: Vec<(f64, f64)> =
        report.candidates.iter().map(|c| (c.bits_per_weight, c.damage_measured)).filter(in_view).collect();
    let at_choice =
        |damage: Option<f64>| damage.filter(|damage| *damage > 0.0).map(|damage| (chosen, damage));
    let (predicted, kept) = (at_choice(report.damage_predicted), at_choice(report.damage_measured));
    let all: Vec<(f64, f64)> = frontier
        .iter()
        .chain(uniform.iter().map(|(p, _)| p))
        .chain(&measured)
        .chain(&predicted)
        .chain(&kept)
        .copied()
        .collect();
    let x = Axis::around(all.iter().map(|p| p.0), false)?;
    let y = Axis::around(all.iter().map(|p| p.1), true)?;
    let metric = metric_name(report);
    let y_name = format!("damage, {metric}");
    let drawings = both(|width, height| {
        let mut plane = Plane::new((x, "bits per weight"), (y, &y_name), width, height);
        plane.curve(&frontier, "front");
        for (point, _) in &uniform {
            plane.circle(*point, 3.0, "ring");
        }
        for point in &measured {
            plane.cross(*point);
        }
        for (point, class) in predicted.iter().map(|p| (p, "dot")).chain(kept.iter().map(|p| (p, "mark"))) {
            plane.circle(*point, 5.0, class);
        }
        for (point, name) in [(predicted, "plan, predicted"), (kept, "plan, measured")] {
            if let Some(point) = point {
                plane.name(point, name, "strong");
            }
        }
        for (point, name) in &uniform {
            plane.name(*point, name, "ring");
        }
        plane.drawn
    });
    let description = format!(
        "Damage in {metric}, on a logarithmic scale, falls as bits per weight grow. The chosen plan has {chosen:.3} bits \
         per weight, {} on disk{}.",
        bytes(report.bytes),
        predicted.map_or(String::new(), |p| format!(", and a predicted damage of {}", number(p.1))),
    );
    Some(Chart { id: "curve".into(), title: "Size against damage".into(), description, drawings })
}

/// The output error of every site by the two halves of the data.
pub(super) fn halves(report: &Report) -> Option<Chart> {
    let by_halves = |site: &SiteEntry| site.halves.map(|[a, b]| (a, b));
    let points: Vec<(f64, f64)> =
        report.sites.iter().filter_map(by_halves).filter(|(a, b)| *a > 0.0 && *b > 0.0).collect();
    let axis = Axis::around(points.iter().flat_map(|p| [p.0, p.1]), true)?;
    let drawings = both(|width, height| {
        let names = ["output error, first half", "output error, second half"];
        let mut plane = Plane::new((axis, names[0]), (axis, names[1]), width, height);
        plane.curve(&[(axis.low, axis.low), (axis.high, axis.high)], "diagonal");
        for point in &points {
            plane.circle(*point, 4.0, "dot");
        }
        plane.drawn
    });
    let description = format!(
        "Output error of {} sites by the first and by the second half of the calibration data, both on logarithmic \
         scales. Points on the diagonal are sites on which the halves agree.",
        points.len()
    );
    let title = "Two halves of the calibration data".into();
    Some(Chart { id: "halves".into(), title, description, drawings })
}

/// The metric as people call it.
pub(super) fn metric_name(report: &Report) -> &'static str {
    match (report.metric.as_deref(), report.task.as_str()) {
        (Some("kl"), "encoder") => "1 − cos",
        (Some("kl"), _) => "KL",
        (Some("sqnr"), _) => "noise power",
        _ => "output error",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn axes_have_round_ticks_that_fit() {
        let axis = |low, high, logarithmic| Axis { low, high, logarithmic };
        let decades = axis(0.0008, 0.4, true);
        let ticks = decades.ticks(8);
        assert!(ticks.len() > 3 && ticks.len() <= 8, "{ticks:?}");
        assert!(ticks.iter().all(|&t| decades.label(t).trim_matches(['0', '.']).len() == 1), "{ticks:?}");
        assert!((decades.place(0.0008), decades.place(0.4)) == (0.0, 1.0));
        assert_eq!(axis(0.9e-9, 1.1e-9, true).label(1e-9), "1e-9");
        assert_eq!(axis(1.9, 4.1, false).ticks(5).len(), 5, "2.0, 2.5, ... 4.0");
        assert!(Axis::around([0.0, -1.0, f64::NAN], true).is_none());
        let written = |low, high, room| {
            let axis = axis(low, high, false);
            axis.ticks(room).into_iter().map(|tick| axis.label(tick)).collect::<Vec<_>>()
        };
        assert_eq!(written(-0.01, 0.13, 4), ["0.0", "0.05", "0.1"]);
        assert_eq!(written(-80.0, 2080.0, 6), ["0", "500", "1000", "1500", "2000"]);
        assert!(Axis::along([3.0, 3.0], false).is_some_and(|axis| axis.low < 3.0 && axis.high > 3.0));
    }

    #[test]
    fn labels_lie_on_nothing() {
        let mut plane = Plane::new(
            (Axis::around([1.0, 4.0], false).unwrap(), ""),
            (Axis::around([0.1, 1.0], true).unwrap(), ""),
            760.0,
            380.0,
        );
        plane.circle((2.0, 0.5), 5.0, "dot");
        let before = plane.taken.len();
        (0..20).for_each(|_| plane.name((2.0, 0.5), "a name", "strong"));
        let placed = &plane.taken[before..];
        assert!(!placed.is_empty() && placed.len() < 20, "{} labels at one point", placed.len());
        for (i, a) in placed.iter().enumerate() {
            assert!(placed[..i].iter().all(|b| a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1]));
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_left_out() {
        let mut report = example();
        assert!(curve(&report).is_some() && halves(&report).is_some());
        report.sites.iter_mut().for_each(|site| site.halves = None);
        report.curve = None;
        assert!(curve(&report).is_none() && halves(&report).is_none());
    }
}
