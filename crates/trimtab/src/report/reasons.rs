//! Which sites hurt most, and what of the evidence stands out there.

use super::text::{number, percent};
use super::{Report, SiteEntry};

/// A site with its part in the damage.
pub(super) struct Culprit<'r> {
    pub site: &'r SiteEntry,
    /// Its share of the damage of all sites.
    pub share: f64,
    /// What stands out, in words.
    pub why: String,
}

/// What one site's figures are held against: the middle of all sites.
struct Middle {
    relative_error: Option<f64>,
    sensitivity: Option<f64>,
    weight_outlier: Option<f64>,
    input_outlier: Option<f64>,
    directions: Option<f64>,
}

/// From how many times the middle on a figure stands out.
const NOTABLE: f64 = 1.5;
/// Outliers below are those of any bell curve.
const OUTLIER: f64 = 6.0;

/// All sites, the worst first. By the plan's damage, or by output error where there is no plan.
pub(super) fn culprits(report: &Report) -> Vec<Culprit<'_>> {
    let damage = |site: &SiteEntry| match report.metric {
        Some(_) => site.plan_damage.unwrap_or(0.0),
        None => site.damage.unwrap_or(0.0),
    };
    let total: f64 = report.sites.iter().map(damage).sum();
    let of = |figure: fn(&SiteEntry) -> Option<f64>| median(report.sites.iter().filter_map(figure).collect());
    let middle = Middle {
        relative_error: of(|s| s.relative_error),
        sensitivity: of(|s| s.sensitivity),
        weight_outlier: of(|s| s.weight_outlier),
        input_outlier: of(|s| s.input_outlier),
        directions: of(directions_share),
    };
    let culprit = |site| Culprit {
        site,
        share: if total > 0.0 { damage(site) / total } else { 0.0 },
        why: why(site, &middle, report.bits_per_weight),
    };
    let mut all: Vec<Culprit<'_>> = report.sites.iter().map(culprit).collect();
    // Stable: equal damages stay in the order of the model.
    all.sort_by(|a, b| b.share.total_cmp(&a.share));
    all
}

fn directions_share(site: &SiteEntry) -> Option<f64> {
    site.input_directions.map(|directions| directions / site.shape[1].max(1) as f64)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().filter(|middle| *middle > 0.0)
}

fn why(site: &SiteEntry, middle: &Middle, mean_bits: f64) -> String {
    let times = |value: Option<f64>, middle: Option<f64>| value.zip(middle).map(|(v, m)| v / m);
    let mut found = Vec::new();
    if let Some(x) = times(site.sensitivity, middle.sensitivity).filter(|x| *x >= NOTABLE) {
        found.push(format!("the model minds errors here {} × as much as at the median site", number(x)));
    }
    if let Some(x) = times(site.relative_error, middle.relative_error).filter(|x| *x >= NOTABLE) {
        found.push(format!("relative output error {} × the median", number(x)));
    }
    if site.bits_per_weight < 0.85 * mean_bits {
        found.push(format!("it got {:.2} bits, below the mean of {mean_bits:.2}", site.bits_per_weight));
    }
    let outlier = |value: Option<f64>, middle: Option<f64>| {
        value.filter(|v| *v >= OUTLIER && middle.is_none_or(|m| *v >= NOTABLE * m))
    };
    if let Some(x) = outlier(site.weight_outlier, middle.weight_outlier) {
        found.push(format!("the largest weight is {} × the rms", number(x)));
    }
    if let Some(x) = outlier(site.input_outlier, middle.input_outlier) {
        found.push(format!("one input channel is {} × the rms", number(x)));
    }
    let few = times(directions_share(site), middle.directions).is_some_and(|x| x <= 1.0 / NOTABLE);
    if let Some(directions) = site.input_directions.filter(|_| few) {
        found.push(format!("its inputs use {} of {} directions", number(directions), site.shape[1]));
    }
    if let Some([a, b]) = site.halves {
        let difference = (a - b).abs() / (0.5 * (a + b));
        if difference > 0.5 {
            found.push(format!("uncertain: the halves of the data differ by {}", percent(difference)));
        }
    }
    if site.fell_back {
        found.push("GPTQ was worse than round-to-nearest, which was taken".into());
    }
    if found.is_empty() && site.weight_outlier.is_none() {
        // Without evidence there is nothing to say.
        return String::new();
    }
    let text = if found.is_empty() { "nothing stands out but its size".into() } else { found.join("; ") };
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn the_worst_site_comes_first_with_its_reason() {
        let report = example();
        let found = culprits(&report);
        assert_eq!(found[0].site.site, "model.layers.1.mlp.down_proj");
        assert!((found.iter().map(|c| c.share).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(found[0].why.contains("one input channel is 40.0 × the rms"), "{}", found[0].why);
        assert!(found[0].why.contains("model minds errors here"), "{}", found[0].why);
        let last = found.last().unwrap();
        assert!(!last.why.contains("input channel"), "{}", last.why);
    }
}
