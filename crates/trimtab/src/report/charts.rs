//! The charts of the page, as SVG.
//!
//! They are drawn in the light colours of the page. The style sheet knows these few colours by their value and turns
//! them over where dark is preferred, so the drawing itself carries no style. Every chart is drawn for a wide and for a
//! narrow page: scaled down, its letters could not be read.

use std::fmt::Display;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::text::{bytes, number};
use super::{Report, SiteEntry};
use crate::error::{Error, Result};

const INK: RGBColor = RGBColor(0x1f, 0x1e, 0x1b);
const MUTED: RGBColor = RGBColor(0x6e, 0x6a, 0x62);
const LINE: RGBColor = RGBColor(0xe3, 0xdf, 0xd6);
const ACCENT: RGBColor = RGBColor(0x0b, 0x66, 0x85);
const PAPER: RGBColor = RGBColor(0xfd, 0xfc, 0xfa);

/// A chart at two widths, with what it is in words.
pub(super) struct Chart {
    pub id: &'static str,
    pub title: &'static str,
    pub description: String,
    pub drawings: [Drawing; 2],
}

/// The inside of an `<svg>`, its size, and the class of the pages that it is for.
pub(super) struct Drawing {
    pub class: &'static str,
    pub width: u32,
    pub height: u32,
    pub svg: String,
}

/// Draws at both sizes.
fn both(
    (id, title, description): (&'static str, &'static str, String),
    draw: impl Fn(Size) -> Result<String>,
) -> Result<Chart> {
    let at = |class: &'static str, width: u32, height: u32| -> Result<Drawing> {
        Ok(Drawing { class, width, height, svg: inside(&draw(Size { width, height })?)? })
    };
    let drawings = [at("wide", 760, 380)?, at("narrow", 368, 320)?];
    Ok(Chart { id, title, description, drawings })
}

#[derive(Clone, Copy)]
struct Size {
    width: u32,
    height: u32,
}

impl Size {
    fn labels(self, wide: usize, narrow: usize) -> usize {
        if self.width > 500 { wide } else { narrow }
    }
}

fn failed(error: impl Display) -> Error {
    Error::Data { what: "chart".into(), message: error.to_string() }
}

/// What is between the outer tags: the page writes its own, with a title and a description.
fn inside(svg: &str) -> Result<String> {
    let begin = svg.find('>').map(|at| at + 1);
    let range = begin.zip(svg.rfind("</svg>")).filter(|(begin, end)| begin <= end);
    let (begin, end) = range.ok_or_else(|| failed("the drawing is no SVG"))?;
    Ok(svg[begin..end].trim().to_string())
}

/// A logarithmic axis that is labelled at round numbers, as many as there is room for.
struct Logarithmic {
    low: f64,
    high: f64,
    inner: RangedCoordf64,
}

impl Logarithmic {
    /// Room of a tenth of a decade on both sides.
    fn around(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut range: Option<(f64, f64)> = None;
        for value in values.into_iter().filter(|v| v.is_finite() && *v > 0.0) {
            let (low, high) = range.unwrap_or((value, value));
            range = Some((low.min(value), high.max(value)));
        }
        let (low, high) = range?;
        let (low, high) = (low / 1.3, high * 1.3);
        Some(Self { low, high, inner: (low.log10()..high.log10()).into() })
    }
}

impl Ranged for Logarithmic {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(&value.max(self.low).log10(), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let at = |steps: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
            all.filter(|v| (self.low..=self.high).contains(v)).collect()
        };
        let room = hint.max_num_points().max(2);
        let digits = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let choices = [&digits[..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]].map(at);
        choices.into_iter().find(|points| points.len() <= room).unwrap_or_default()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Logarithmic {
    fn format_ext(&self, value: &f64) -> String {
        format!("{value:e}")
    }
}

/// One digit and as many zeros as it takes.
fn tick(value: &f64) -> String {
    let short = format!("{value:.0e}");
    match value.abs() {
        a if (1e-4..1e5).contains(&a) => short.parse::<f64>().map_or(short, |v| v.to_string()),
        _ => short,
    }
}

/// Places labels beside points so that none lies on another.
#[derive(Default)]
struct Labels {
    taken: Vec<[i32; 4]>,
}

impl Labels {
    /// Where the label of the point at `(x, y)` can begin; `None` if there is no room.
    fn place(&mut self, (x, y): (i32, i32), text: &str, size: Size) -> Option<(i32, i32)> {
        let width = 7 * text.chars().count() as i32;
        let offsets = [
            (9, -6),
            (9, -17),
            (9, 5),
            (-9 - width, 5),
            (-9 - width, -17),
            (-width / 2, -22),
            (-width / 2, 11),
        ];
        for (dx, dy) in offsets {
            let place = [x + dx, y + dy, x + dx + width, y + dy + 13];
            let inside = place[0] > 64 && place[2] < size.width as i32 - 6 && place[1] > 4;
            let free = |other: &[i32; 4]| {
                place[2] < other[0] || other[2] < place[0] || place[3] < other[1] || other[3] < place[1]
            };
            if inside && self.taken.iter().all(free) {
                self.taken.push(place);
                return Some((dx, dy));
            }
        }
        None
    }

    /// Keeps labels off what lies around a point.
    fn avoid(&mut self, (x, y): (i32, i32), radius: i32) {
        self.taken.push([x - radius, y - radius, x + radius, y + radius]);
    }
}

/// Size against damage: the frontier, uniform plans, whole plans that were measured, and the choice.
pub(super) fn curve(report: &Report) -> Result<Option<Chart>> {
    let Some(curve) = &report.curve else { return Ok(None) };
    let chosen = report.bits_per_weight;
    let in_view = |bits: f64| bits <= (2.2 * chosen).max(chosen + 1.5);
    let line: Vec<(f64, f64)> = curve
        .frontier
        .iter()
        .map(|p| (p.bits_per_weight, p.damage))
        .filter(|p| p.1 > 0.0 && in_view(p.0))
        .collect();
    let uniform: Vec<(f64, f64, &str)> = curve
        .uniform
        .iter()
        .map(|p| (p.bits_per_weight, p.damage, p.name.as_str()))
        .filter(|p| p.1 > 0.0 && in_view(p.0))
        .collect();
    let measured: Vec<(f64, f64)> = report
        .candidates
        .iter()
        .map(|c| (c.bits_per_weight, c.damage_measured))
        .filter(|p| p.1 > 0.0 && in_view(p.0))
        .collect();
    let promised = report.damage_predicted.filter(|damage| *damage > 0.0).map(|damage| (chosen, damage));
    let kept = report.damage_measured.filter(|damage| *damage > 0.0).map(|damage| (chosen, damage));
    let all: Vec<(f64, f64)> = line
        .iter()
        .copied()
        .chain(uniform.iter().map(|p| (p.0, p.1)))
        .chain(measured.iter().copied())
        .chain(promised)
        .chain(kept)
        .collect();
    if all.len() < 2 {
        return Ok(None);
    }
    let lowest = all.iter().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let highest = all.iter().map(|p| p.0).fold(0.0, f64::max);
    let metric = metric_name(report);
    let description = format!(
        "Damage in {metric}, on a logarithmic scale, falls as bits per weight grow. The chosen plan has {chosen:.3} bits \
         per weight, {} on disk{}.",
        bytes(report.bytes),
        promised.map_or(String::new(), |p| format!(", and a predicted damage of {}", number(p.1))),
    );
    let draw = |size: Size| -> Result<String> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (size.width, size.height)).into_drawing_area();
            let y = Logarithmic::around(all.iter().map(|p| p.1)).ok_or_else(|| failed("no damage"))?;
            let mut chart = axes(&root, RangedCoordf64::from(lowest - 0.15..highest + 0.15), y)?;
            chart
                .configure_mesh()
                .disable_x_mesh()
                .bold_line_style(LINE)
                .light_line_style(TRANSPARENT)
                .axis_style(MUTED)
                .label_style(("sans-serif", 12).into_font().color(&MUTED))
                .x_desc("bits per weight")
                .y_desc(format!("damage, {metric}"))
                .axis_desc_style(("sans-serif", 12).into_font().color(&MUTED))
                .x_labels(size.labels(9, 5))
                .y_labels(size.labels(8, 7))
                .x_label_formatter(&|x| format!("{x:.1}"))
                .y_label_formatter(&tick)
                .draw()
                .map_err(failed)?;
            chart
                .draw_series(LineSeries::new(line.iter().copied(), ACCENT.stroke_width(2)))
                .map_err(failed)?;
            let mut labels = Labels::default();
            let rings = uniform.iter().map(|p| Circle::new((p.0, p.1), 3, MUTED.stroke_width(1)));
            chart.draw_series(rings).map_err(failed)?;
            let crosses = measured.iter().map(|&p| Cross::new(p, 4, INK.stroke_width(1)));
            chart.draw_series(crosses).map_err(failed)?;
            for mark in promised.iter().chain(&kept) {
                labels.avoid(chart.backend_coord(mark), 7);
            }
            for p in &uniform {
                labels.avoid(chart.backend_coord(&(p.0, p.1)), 4);
            }
            for p in &line {
                labels.avoid(chart.backend_coord(p), 1);
            }
            chart
                .draw_series(promised.iter().map(|&p| Circle::new(p, 6, ACCENT.filled())))
                .map_err(failed)?;
            if let Some(mark) = kept {
                for style in [PAPER.filled(), ACCENT.stroke_width(2)] {
                    chart.draw_series([Circle::new(mark, 6, style)]).map_err(failed)?;
                }
            }
            let named = [(promised, "plan, predicted"), (kept, "plan, measured")];
            let named = named.into_iter().filter_map(|(at, name)| Some((at?, name, INK)));
            let others = uniform.iter().map(|p| ((p.0, p.1), p.2, MUTED));
            for (at, name, color) in named.chain(others) {
                let name = super::text::shorten(name, 24);
                let Some(offset) = labels.place(chart.backend_coord(&at), &name, size) else { continue };
                let style = ("sans-serif", 12).into_font().color(&color);
                let label = EmptyElement::at(at) + Text::new(name, offset, style);
                chart.draw_series([label]).map_err(failed)?;
            }
            root.present().map_err(failed)?;
        }
        Ok(svg)
    };
    both(("curve", "Size against damage", description), draw).map(Some)
}

/// The damage of every site as the two halves of the data have it.
pub(super) fn halves(report: &Report) -> Result<Option<Chart>> {
    let both_halves = |site: &SiteEntry| site.halves.map(|[a, b]| (a, b));
    let points: Vec<(f64, f64)> =
        report.sites.iter().filter_map(both_halves).filter(|(a, b)| *a > 0.0 && *b > 0.0).collect();
    if points.len() < 2 {
        return Ok(None);
    }
    let description = format!(
        "Output error of {} sites by the first and by the second half of the calibration data, both on logarithmic \
         scales. Points on the diagonal are sites on which the halves agree.",
        points.len()
    );
    let draw = |size: Size| -> Result<String> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (size.width, size.height)).into_drawing_area();
            let around = || {
                let values = points.iter().flat_map(|p| [p.0, p.1]);
                Logarithmic::around(values).ok_or_else(|| failed("no damage"))
            };
            let (x, y) = (around()?, around()?);
            let ends = [(x.low, y.low), (x.high, y.high)];
            let mut chart = axes(&root, x, y)?;
            chart
                .configure_mesh()
                .bold_line_style(LINE)
                .light_line_style(TRANSPARENT)
                .axis_style(MUTED)
                .label_style(("sans-serif", 12).into_font().color(&MUTED))
                .x_desc("output error, first half")
                .y_desc("output error, second half")
                .axis_desc_style(("sans-serif", 12).into_font().color(&MUTED))
                .x_labels(size.labels(8, 4))
                .y_labels(size.labels(6, 6))
                .x_label_formatter(&tick)
                .y_label_formatter(&tick)
                .draw()
                .map_err(failed)?;
            chart.draw_series(LineSeries::new(ends, MUTED.stroke_width(1))).map_err(failed)?;
            let dots = points.iter().map(|&p| Circle::new(p, 4, ACCENT.filled()));
            chart.draw_series(dots).map_err(failed)?;
            root.present().map_err(failed)?;
        }
        Ok(svg)
    };
    both(("halves", "Two halves of the calibration data", description), draw).map(Some)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Axes<'a, X, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>;

/// The plane of a chart, with room for the labels of both axes.
fn axes<'a, X, Y>(root: &Area<'a>, x: X, y: Y) -> Result<Axes<'a, X, Y>>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    ChartBuilder::on(root)
        .margin(6)
        .margin_right(14)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(failed)
}

/// The metric as people call it.
pub(super) fn metric_name(report: &Report) -> &'static str {
    match (report.metric.as_deref(), report.task.as_str()) {
        (Some("kl"), "encoder") => "1 − cos",
        (Some("kl"), _) => "KL",
        _ => "output error",
    }
}
