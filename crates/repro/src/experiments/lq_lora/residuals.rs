//! Single matrices: what is left of them in two parts, and which configurations a budget buys.

use rayon::prelude::*;
use trimtab::floors::io::{Dtype, NormalFloatScheme, NormalFloatTensor};
use trimtab::floors::mend::eora::Evidence;
use trimtab::floors::mend::lq::{LqSettings, Split, lq};
use trimtab::floors::plan::{Limits, PriceList, SiteOption, SitePrices, SolveOptions, brute_force, solve};

use crate::experiment::Scale;
use crate::experiments::wikilm::{Attempt, WikiLm};

/// Budget of the allocation, bits for each weight, codes alone.
pub const BUDGET: f64 = 3.0;
/// Rank beside every configuration of it.
pub const RANK: usize = 8;
/// Matrices and options of the comparison with brute force.
const SMALL: [usize; 2] = [6, 5];

/// One matrix at one width and rank; norms of what is left.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    pub bits: u8,
    pub rank: usize,
    /// Codes alone.
    pub codes: f64,
    /// Codes, then the decomposition of their error: LoftQ with one step, EoRA without inputs.
    pub after: f64,
    /// By turns; the best round.
    pub turns: f64,
    pub rounds: usize,
}

/// What a budget buys.
#[derive(Clone, Debug)]
pub struct Allocated {
    /// Squared error of the mixed plan and of the best uniform configuration within the budget.
    pub costs: [f64; 2],
    /// Bits for each weight of the mixed plan: codes alone, and with branches.
    pub bits: [f64; 2],
    /// Name of that configuration.
    pub uniform: String,
    /// By how much the solver and brute force differ on a part of the matrices.
    pub gap: f64,
    /// Bytes of the mixed plan by matrix, as the sum of the formula and as coded.
    pub bytes: [u64; 2],
}

fn split(
    weight: &[f32],
    [rows, cols]: [usize; 2],
    scheme: NormalFloatScheme,
    rank: usize,
    rounds: usize,
) -> Attempt<Split<NormalFloatTensor>> {
    let coded = |weight: &[f32]| -> Result<(NormalFloatTensor, Vec<f32>), trimtab::floors::mend::Error> {
        let matrix = NormalFloatTensor::encode(weight, rows, cols, scheme)?;
        let values = matrix.dequantize();
        Ok((matrix, values))
    };
    let settings = LqSettings { rounds, ..LqSettings::default() };
    Ok(lq(weight, rows, Evidence::default(), (rank, Dtype::BF16), &settings, coded(weight)?, coded)?)
}

fn weights(lm: &WikiLm) -> Vec<(String, [usize; 2], Vec<f32>)> {
    let sites = lm.inventory.sites.iter();
    sites
        .filter_map(|site| {
            let found = lm.original.sites().find(|found| found.name() == site.meta.name)?;
            Some((site.meta.name.clone(), [site.meta.rows, site.meta.cols], found.to_f32()))
        })
        .collect()
}

/// Every matrix of the model at 2 and 3 bits and ranks 4 and 16; in a quick run every fourth at the first of these.
pub fn residuals(lm: &WikiLm, scale: Scale) -> Attempt<Vec<Residual>> {
    let (every, cases): (usize, &[(u8, usize)]) = match scale {
        Scale::Quick => (4, &[(2, 4)]),
        Scale::Full => (1, &[(2, 4), (2, 16), (3, 4), (3, 16)]),
    };
    let all = weights(lm);
    let all: Vec<_> =
        all.iter().step_by(every).flat_map(|matrix| cases.iter().map(move |case| (matrix, case))).collect();
    type Case<'a> = (&'a (String, [usize; 2], Vec<f32>), &'a (u8, usize));
    let one = |&((_, dims, weight), &(bits, rank)): &Case<'_>| -> Attempt<Residual> {
        let scheme = NormalFloatScheme::new(bits);
        let found = split(weight, *dims, scheme, rank, 100)?;
        let codes = NormalFloatTensor::encode(weight, dims[0], dims[1], scheme)?.dequantize();
        let codes: f64 = weight.iter().zip(&codes).map(|(w, q)| f64::from(w - q).powi(2)).sum();
        let turns = found.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let [codes, after, turns] = [codes, found.plain, turns].map(f64::sqrt);
        Ok(Residual { bits, rank, codes, after, turns, rounds: found.rounds.len() })
    };
    all.par_iter().map(one).collect()
}

/// Prices configurations of every matrix by what is left beside a branch of [`RANK`], and solves for [`BUDGET`].
pub fn allocate(lm: &WikiLm, scale: Scale) -> Attempt<Allocated> {
    let widths: &[u8] = if scale == Scale::Quick { &[2, 3] } else { &[2, 3, 4] };
    let scheme = |bits: u8| {
        [(16, 4), (32, 8), (64, 4), (64, 8)].map(|(block, scale_bits)| NormalFloatScheme {
            block,
            scale_bits,
            ..NormalFloatScheme::new(bits)
        })
    };
    let schemes: Vec<NormalFloatScheme> = widths.iter().flat_map(|&bits| scheme(bits)).collect();
    let all = weights(lm);
    let one = |(name, dims, weight): &(String, [usize; 2], Vec<f32>)| -> Attempt<SitePrices> {
        let option = |scheme: &NormalFloatScheme| -> Attempt<SiteOption> {
            let error = split(weight, *dims, *scheme, RANK, 4)?.error;
            Ok(SiteOption::new(scheme.to_string(), scheme.bytes(dims[0], dims[1]), error))
        };
        let options = schemes.iter().map(option).collect::<Attempt<_>>()?;
        Ok(SitePrices::new(name, weight.len() as u64, options))
    };
    let sites: Vec<SitePrices> = all.par_iter().map(one).collect::<Attempt<_>>()?;
    let numbers: u64 = all.iter().map(|(.., weight)| weight.len() as u64).sum();
    let small: Vec<SitePrices> = sites.iter().take(SMALL[0]).cloned().collect();
    let small: Vec<SitePrices> = small
        .into_iter()
        .map(|site| SitePrices { options: site.options.into_iter().take(SMALL[1]).collect(), ..site })
        .collect();
    let weights: u64 = small.iter().map(|site| site.weights).sum();
    let (few, within) =
        (PriceList::new("error", small)?, |n: u64, bits: f64| Limits::bytes((n as f64 * bits / 8.0) as u64));
    let tight = within(weights, 0.5 * (2.0 + BUDGET));
    let exact = brute_force(&few, &tight)?.ok_or("brute force finds a plan")?;
    let gap = (solve(&few, &tight, &SolveOptions::default())?.damage / exact.damage - 1.0).abs();
    let prices = PriceList::new("error", sites)?;
    let limits = within(numbers, BUDGET);
    let mixed = solve(&prices, &limits, &SolveOptions::default())?;
    let mut uniform = (f64::INFINITY, String::new());
    for label in prices.labels() {
        let Some(choice) = prices.uniform(label) else { continue };
        let (costs, damage) = prices.total(&choice)?;
        if limits.exceeded_by(&costs).is_none() && damage < uniform.0 {
            uniform = (damage, label.to_string());
        }
    }
    let (costs, damage) = prices.total(&mixed.choice)?;
    let branches: u64 = all.iter().map(|(_, [rows, cols], _)| (RANK * (rows + cols) * 2) as u64).sum();
    let mut coded = 0;
    for ((_, [rows, cols], weight), &option) in all.iter().zip(&mixed.choice) {
        let tensors = NormalFloatTensor::encode(weight, *rows, *cols, schemes[option])?.to_tensors("m")?;
        coded += tensors.iter().map(|(_, tensor)| tensor.bytes.len() as u64).sum::<u64>();
    }
    let bits = |bytes: u64| 8.0 * bytes as f64 / numbers as f64;
    Ok(Allocated {
        costs: [damage, uniform.0],
        bits: [bits(costs.bytes), bits(costs.bytes + branches)],
        uniform: uniform.1,
        gap,
        bytes: [costs.bytes, coded],
    })
}
