//! The page: what the template shows, in words and numbers.

use askama::Template;

use super::charts::{self, Chart};
use super::reasons::{Culprit, culprits};
use super::terminal::{header, row};
use super::text::{bytes, number, percent, seconds, shorten};
use super::{Report, SiteEntry, Verb};
use crate::error::{Error, Result};

/// Sites that are shown before the fold.
const WORST: usize = 10;

/// The page of a report.
pub(super) fn page(report: &Report) -> Result<String> {
    let page = Page::of(report)?;
    let mut text =
        page.render().map_err(|e| Error::Data { what: "report".into(), message: e.to_string() })?;
    // Names and texts may hold characters that no page may.
    text.retain(|c| !c.is_control() || c == '\n' || c == '\t');
    Ok(text)
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    report: &'r Report,
    title: String,
    lead: Vec<String>,
    figures: Vec<Figure>,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    curve: Option<Chart>,
    curve_rows: Vec<Vec<String>>,
    halves_chart: Option<Chart>,
    halves: Vec<Fact>,
    model: Picture<'r>,
    promises: Vec<Promise>,
    worst: Vec<Worst<'r>>,
    all: Vec<SiteRow<'r>>,
    samples: Vec<Continued<'r>>,
    phases: Vec<Vec<String>>,
    command: String,
}

/// A large number with its caption.
struct Figure {
    value: String,
    caption: String,
}

/// A name with a value.
struct Fact {
    name: &'static str,
    value: String,
}

/// Something predicted and what came of it.
struct Promise {
    what: String,
    predicted: String,
    measured: String,
    verdict: String,
}

/// A site in the table of the worst.
struct Worst<'r> {
    site: &'r SiteEntry,
    bits: String,
    share: String,
    /// Length of the bar in percent of the longest.
    bar: u32,
    error: Option<String>,
    sensitivity: Option<String>,
    why: String,
}

/// A site in the table of all.
struct SiteRow<'r> {
    site: &'r SiteEntry,
    cells: Vec<String>,
}

/// A sample, cut where the continuations part.
struct Continued<'r> {
    prompt: &'r str,
    common: &'r str,
    original: &'r str,
    result: &'r str,
}

/// The model as a table: blocks from left to right, in each the kinds of sites.
struct Picture<'r> {
    blocks: Vec<String>,
    kinds: Vec<(&'r str, Vec<Option<Cell<'r>>>)>,
}

/// A site in the picture.
struct Cell<'r> {
    site: &'r SiteEntry,
    bits: String,
    /// Strength of the colour in percent.
    shade: u32,
}

impl<'r> Page<'r> {
    fn of(report: &'r Report) -> Result<Self> {
        let all = culprits(report);
        Ok(Self {
            title: title(report),
            lead: lead(report),
            figures: figures(report),
            header: header(&report.rows),
            rows: report.rows.iter().map(|each| row(each, usize::MAX)).collect(),
            curve: charts::curve(report),
            curve_rows: curve_rows(report),
            halves_chart: charts::halves(report),
            halves: halves(report),
            model: picture(&report.sites),
            promises: promises(report),
            worst: worst(&all),
            all: report.sites.iter().map(site_row).collect(),
            samples: report.samples.iter().map(continued).collect(),
            phases: phases(report),
            command: report.command.clone(),
            report,
        })
    }

    /// When the run ended, to the minute.
    fn time(&self) -> String {
        match (self.report.finished.get(..10), self.report.finished.get(11..16)) {
            (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
            _ => self.report.finished.clone(),
        }
    }

    fn metric(&self) -> &'static str {
        charts::metric_name(self.report)
    }

    fn cosine(&self, value: &f64) -> String {
        format!("{value:.3}")
    }

    fn size(&self, n: &u64) -> String {
        bytes(*n)
    }
}

/// The name of the model: the end of its path.
fn model_name(report: &Report) -> String {
    let parts: Vec<&str> = report.model.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let last = parts.last().copied().unwrap_or("model");
    // `…/name/model` says more with its parent.
    let name = match parts.len() {
        n if n > 1 && matches!(last, "model" | "model.safetensors") => format!("{}/{last}", parts[n - 2]),
        _ => last.to_string(),
    };
    shorten(&name, 60)
}

fn title(report: &Report) -> String {
    let what = match report.verb {
        Verb::Fit => "fitted to",
        Verb::Apply => "treated:",
        Verb::Plan => "planned at",
    };
    format!("{} {what} {:.2} bits per weight", model_name(report), report.bits_per_weight)
}

/// A value that no line breaks inside.
fn whole(value: impl Into<String>) -> String {
    value.into().replace(' ', "\u{a0}")
}

/// What happened, in a few sentences.
fn lead(report: &Report) -> Vec<String> {
    let mut lead = Vec::new();
    let share = report.bytes as f64 / report.bytes_original.max(1) as f64;
    let verb = if report.verb == Verb::Plan { "would become" } else { "became" };
    let budget = match (&report.budget, report.within_budget) {
        (Some(budget), true) => format!(", within the budget of {budget}"),
        (Some(budget), false) => format!(", and the budget of {budget} was missed"),
        (None, _) => String::new(),
    };
    let target = report.reached.as_ref().map_or(String::new(), |reached| match reached.proved {
        Some(false) => format!("; the target {} was missed by the proof", reached.target),
        _ => format!("; the smallest found that keeps {}", reached.target),
    });
    lead.push(format!(
        "{} of weights {verb} {} ({}){budget}{target}.",
        whole(bytes(report.bytes_original)),
        whole(bytes(report.bytes)),
        whole(percent(share))
    ));
    if let [first, .., plan] = report.rows.as_slice() {
        let rivals = &report.rows[1..report.rows.len() - 1];
        let distance = |row: &super::Row| row.quality.kl.or(row.quality.embedding_distance);
        let named =
            if plan.quality.kl.is_some() { "KL to the original" } else { "1 − cos to the original" };
        let best = rivals.iter().filter(|row| distance(row).is_some());
        let best = best.min_by(|a, b| distance(a).unwrap_or(0.0).total_cmp(&distance(b).unwrap_or(0.0)));
        if let (Some(own), Some(best)) = (distance(plan), best) {
            let theirs = distance(best).unwrap_or(0.0);
            lead.push(format!(
                "On data that it was not calibrated on, {named} is {}; {} has {} at {}.",
                number(own),
                best.name,
                number(theirs),
                whole(bytes(best.bytes))
            ));
        }
        if let (Some(before), Some(after)) = (first.quality.perplexity, plan.quality.perplexity) {
            lead.push(format!("Perplexity went from {before:.3} to {after:.3}."));
        }
        if let (Some(before), Some(after)) = (first.quality.spearman, plan.quality.spearman) {
            lead.push(format!("Spearman correlation × 100 went from {before:.2} to {after:.2}."));
        }
        if let (Some(before), Some(after)) = (first.quality.accuracy, plan.quality.accuracy) {
            lead.push(format!("Accuracy went from {before:.2} % to {after:.2} %."));
        }
    } else if report.verb != Verb::Plan {
        lead.push("What that cost was not measured in this run.".into());
    }
    lead
}

fn figures(report: &Report) -> Vec<Figure> {
    let mut figures = vec![
        Figure { value: bytes(report.bytes), caption: format!("from {}", bytes(report.bytes_original)) },
        Figure {
            value: format!("{:.3}", report.bits_per_weight),
            caption: match report.bits_without_branches {
                Some(bits) => format!("bits per weight, {bits:.3} without branches"),
                None => "bits per weight".into(),
            },
        },
    ];
    if let Some(plan) = report.rows.last() {
        if let Some(kl) = plan.quality.kl {
            let caption = match plan.quality.kl_standard_error.filter(|e| e.is_finite()) {
                Some(error) => format!("KL to the original ± {}", number(error)),
                None => "KL to the original".into(),
            };
            figures.push(Figure { value: number(kl), caption });
        } else if let Some(distance) = plan.quality.embedding_distance {
            figures.push(Figure { value: number(distance), caption: "1 − cos to the original".into() });
        }
    } else if let Some(damage) = report.damage_predicted {
        let caption = format!("{}, predicted", charts::metric_name(report));
        figures.push(Figure { value: number(damage), caption });
    }
    figures.push(Figure { value: seconds(report.seconds), caption: "from start to end".into() });
    figures
}

fn curve_rows(report: &Report) -> Vec<Vec<String>> {
    let Some(curve) = &report.curve else { return Vec::new() };
    // Every fifth is enough to read; the document has all.
    let frontier = curve.frontier.iter().step_by(5).map(|p| ("best of its size", p));
    let uniform = curve.uniform.iter().map(|p| (p.name.as_str(), p));
    let mut rows: Vec<Vec<String>> = frontier
        .chain(uniform)
        .map(|(name, p)| {
            vec![
                name.into(),
                bytes(p.bytes),
                format!("{:.3}", p.bits_per_weight),
                number(p.damage),
                "–".into(),
            ]
        })
        .collect();
    rows.extend(report.candidates.iter().map(|candidate| {
        vec![
            format!("measured: {}", candidate.origin),
            "–".into(),
            format!("{:.3}", candidate.bits_per_weight),
            number(candidate.damage_predicted),
            number(candidate.damage_measured),
        ]
    }));
    rows
}

fn halves(report: &Report) -> Vec<Fact> {
    let Some(halves) = &report.halves else { return Vec::new() };
    let fact = |name, value| Fact { name, value };
    let mut facts = vec![
        fact("sites that both halves reached", format!("{} of {}", halves.sites, report.sites.len())),
        fact("a site’s damage differs by (median)", percent(halves.median_difference)),
        fact(
            "largest difference",
            format!("{} at {}", percent(halves.largest_difference), halves.largest_site),
        ),
    ];
    if let Some(rank) = halves.rank_correlation {
        facts.push(fact("rank correlation of the sites’ damages", format!("{rank:.3}")));
    }
    let [a, b] = halves.plan_damage;
    facts.push(fact("damage of this plan by each half’s prices", format!("{} and {}", number(a), number(b))));
    facts.push(fact(
        "plans from either half alone differ at",
        format!("{} of {} sites", halves.differing_choices, report.sites.len()),
    ));
    facts.push(fact("and cost on the other half at most", format!("{} more", percent(halves.regret))));
    facts
}

/// How strongly a cell is coloured: by the logarithm of its bits, from 1 to 16.
fn shade(bits: f64) -> u32 {
    (6.0 + 94.0 * (bits.clamp(1.0, 16.0).log2() / 4.0).powf(1.4)).round() as u32
}

fn picture(sites: &[SiteEntry]) -> Picture<'_> {
    let mut names: Vec<&str> = Vec::new();
    let mut kinds: Vec<(&str, Vec<Option<Cell<'_>>>)> = Vec::new();
    for site in sites {
        if !names.contains(&site.block.as_str()) {
            names.push(&site.block);
        }
        if !kinds.iter().any(|(kind, _)| *kind == site.kind) {
            kinds.push((&site.kind, Vec::new()));
        }
    }
    for (_, cells) in &mut kinds {
        cells.resize_with(names.len(), || None);
    }
    for site in sites {
        let at = names.iter().position(|name| *name == site.block);
        let row = kinds.iter_mut().find(|(kind, _)| *kind == site.kind);
        if let (Some(at), Some((_, cells))) = (at, row) {
            let bits = format!("{:.1}", site.bits_per_weight);
            cells[at] = Some(Cell { site, bits, shade: shade(site.bits_per_weight) });
        }
    }
    // What all blocks begin with says nothing.
    let common = names.iter().map(|name| name.rfind('.').map_or(0, |dot| dot + 1)).min().unwrap_or(0);
    let first = names.first().copied().unwrap_or("");
    let same = names.iter().all(|name| name.get(..common) == first.get(..common));
    let blocks: Vec<String> =
        names.iter().map(|name| if same { name[common..].into() } else { name.to_string() }).collect();
    Picture { blocks, kinds }
}

fn promises(report: &Report) -> Vec<Promise> {
    let mut promises = Vec::new();
    if let Some(limit) = report.budget_bytes.filter(|_| report.verb != Verb::Plan) {
        promises.push(Promise {
            what: "budget for the file".into(),
            predicted: bytes(limit),
            measured: bytes(report.bytes),
            verdict: if report.within_budget { "kept" } else { "missed" }.into(),
        });
    }
    if let Some(reached) = &report.reached {
        let value = |row: Option<&super::Row>| row.and_then(|row| reached.target.measure.of(&row.quality));
        let verdict = match reached.proved {
            Some(true) => "kept",
            Some(false) => "missed",
            None => "not measured",
        };
        promises.push(Promise {
            what: "quality on data that did not select the plan".into(),
            predicted: reached.target.to_string(),
            measured: value(report.rows.last()).map_or("–".into(), |value| format!("{value:.4}")),
            verdict: verdict.into(),
        });
    }
    if report.verb != Verb::Plan {
        promises.push(Promise {
            what: "size of the file, at most".into(),
            predicted: bytes(report.bytes_predicted),
            measured: bytes(report.bytes),
            verdict: if report.bytes <= report.bytes_predicted { "kept" } else { "missed" }.into(),
        });
    }
    let off = |predicted: f64, measured: f64| match predicted > 0.0 {
        true => format!("{:+.0} %", 100.0 * (measured / predicted - 1.0)).replace('-', "−"),
        false => "–".into(),
    };
    if let Some((predicted, measured)) = report.damage_predicted.zip(report.damage_measured) {
        promises.push(Promise {
            what: format!("damage on calibration data, {}", charts::metric_name(report)),
            predicted: number(predicted),
            measured: number(measured),
            verdict: off(predicted, measured),
        });
    }
    let writing = report.phases.iter().find(|phase| phase.name == "writing");
    let memory = writing.and_then(|phase| phase.peak_anonymous_bytes);
    if let Some((predicted, measured)) = report.peak_anonymous_bytes_predicted.zip(memory) {
        promises.push(Promise {
            what: "memory while writing".into(),
            predicted: bytes(predicted),
            measured: bytes(measured),
            verdict: off(predicted as f64, measured as f64),
        });
    }
    let treating = writing.and_then(|phase| phase.steps.iter().find(|step| step.name == "treating"));
    if let Some((step, predicted)) = treating.and_then(|step| Some((step, step.seconds_predicted?))) {
        promises.push(Promise {
            what: "time to treat and write, by the first block".into(),
            predicted: seconds(predicted),
            measured: seconds(step.seconds),
            verdict: off(predicted, step.seconds),
        });
    }
    promises
}

fn worst<'r>(all: &[Culprit<'r>]) -> Vec<Worst<'r>> {
    let longest = all.first().map_or(0.0, |culprit| culprit.share);
    all.iter()
        .take(WORST)
        .filter(|culprit| culprit.share > 0.0)
        .map(|culprit| Worst {
            site: culprit.site,
            bits: format!("{:.2}", culprit.site.bits_per_weight),
            share: percent(culprit.share),
            bar: (100.0 * culprit.share / longest).round() as u32,
            error: culprit.site.relative_error.map(percent),
            sensitivity: culprit.site.sensitivity.map(number),
            why: culprit.why.clone(),
        })
        .collect()
}

fn site_row(site: &SiteEntry) -> SiteRow<'_> {
    let or_dash = |value: Option<f64>, text: fn(f64) -> String| value.map_or("–".into(), text);
    let gain = site.damage.zip(site.rtn_damage).filter(|(_, rtn)| *rtn > 0.0).map(|(own, rtn)| own / rtn);
    let halves = site.halves.filter(|[a, b]| a + b > 0.0).map(|[a, b]| (a - b).abs() / (0.5 * (a + b)));
    let cells = vec![
        format!("{} × {}", site.shape[0], site.shape[1]),
        site.scheme.clone(),
        format!("{:.2}", site.bits_per_weight),
        or_dash(site.plan_damage, number),
        or_dash(site.relative_error, percent),
        or_dash(site.sensitivity, number),
        or_dash(gain, percent),
        or_dash(halves, percent),
        or_dash(site.weight_outlier, |v| format!("{v:.1}")),
        or_dash(site.input_outlier, |v| format!("{v:.1}")),
        or_dash(site.input_directions, |v| format!("{v:.0}")),
    ];
    SiteRow { site, cells }
}

fn continued(sample: &super::Sample) -> Continued<'_> {
    let common = sample.common();
    Continued {
        prompt: sample.prompt.trim_start(),
        common: &sample.original[..common],
        original: &sample.original[common..],
        result: &sample.result[common..],
    }
}

fn phases(report: &Report) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for phase in &report.phases {
        let memory = phase.peak_anonymous_bytes.map_or("–".into(), bytes);
        rows.push(vec![phase.name.clone(), String::new(), seconds(phase.seconds), memory]);
        for step in &phase.steps {
            let runs = if step.runs > 1 { format!("{} ×", step.runs) } else { String::new() };
            rows.push(vec![step.name.clone(), runs, seconds(step.seconds), String::new()]);
        }
    }
    rows
}
