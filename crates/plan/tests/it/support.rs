//! A small deterministic generator, and random price lists made with it.

use trimtab_plan::{PriceList, SiteOption, SitePrices};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n` (the bias of the remainder does not matter here).
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What a random list looks like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub max_sites: u64,
    pub max_options: u64,
    /// Costs in `0..=max_cost`; small values make ties.
    pub max_cost: u64,
    /// Damages are multiples of 1/8 in `0..=max_eighths / 8`, so that their sums are exact in any order.
    pub max_eighths: u64,
    pub groups: bool,
    pub pins: bool,
}

/// A random list with bytes, macs and latency prices.
pub fn random_list(random: &mut Random, shape: Shape) -> PriceList {
    let n_sites = 1 + random.below(shape.max_sites);
    let mut sites = Vec::new();
    for s in 0..n_sites {
        // Sites of a group need the same labels: with groups, all sites have the same number of options.
        let n_options = if shape.groups { shape.max_options } else { 1 + random.below(shape.max_options) };
        let options = (0..n_options).map(|o| {
            let damage = random.below(shape.max_eighths + 1) as f64 / 8.0;
            let mut option = SiteOption::new(format!("o{o}"), random.below(shape.max_cost + 1), damage);
            option.costs.macs = Some(random.below(shape.max_cost + 1));
            option.costs.latency_s = Some(random.below(shape.max_cost + 1) as f64 * 1e-3);
            option
        });
        let mut site = SitePrices::new(format!("site{s}"), 8, options.collect());
        if shape.groups && random.below(2) == 0 {
            site.group = Some(format!("g{}", random.below(2)));
        }
        if shape.pins && random.below(4) == 0 && site.group.is_none() {
            site.pinned = Some(format!("o{}", random.below(site.options.len() as u64)));
        }
        sites.push(site);
    }
    PriceList::new("kl", sites).unwrap()
}

/// `n_sites` sites priced like integer quantization of transformer layers: widths 2 to 8, four group sizes,
/// damage that falls by 4 a bit with noise, and layers of very different sensitivity.
pub fn quantization_list(seed: u64, n_sites: usize) -> PriceList {
    let mut random = Random(seed);
    let shapes =
        [4096 * 4096u64, 4096 * 1024, 4096 * 1024, 4096 * 4096, 4096 * 14336, 4096 * 14336, 14336 * 4096];
    let sites = (0..n_sites).map(|s| {
        let weights = shapes[s % shapes.len()];
        let sensitivity = (6.0 * random.unit()).exp() * 1e-4;
        let mut options = Vec::new();
        for bits in 2..=8u64 {
            for group in [32u64, 64, 128, 256] {
                let bytes = weights * bits / 8 + weights / group * 2;
                let noise = 0.8 + 0.4 * random.unit();
                let damage =
                    sensitivity * noise * 4f64.powi(-(bits as i32)) * (1.0 + (group as f64).log2() / 10.0);
                options.push(SiteOption::new(format!("int{bits} g{group}"), bytes, damage));
            }
        }
        SitePrices::new(format!("model.layers.{}.{}", s / shapes.len(), s % shapes.len()), weights, options)
    });
    PriceList::new("kl", sites.collect()).unwrap()
}
