//! The paper's model of what a run and its result cost.

use trimtab::floors::nn::{Network, SiteKind};
use trimtab::floors::train::quantized::{Adapt as Formats, SiteFormat};

use super::BATCH;

/// Multiplications of every site on an image of 16 pixels, of which the side halves where channels double: `kh kw Cin Cout H W`.
pub(super) fn products(network: &Network, width: usize) -> Vec<f64> {
    let of = |meta: &trimtab::floors::nn::SiteMeta| {
        let side = match &meta.kind {
            SiteKind::Conv(_) => 16.0 * width as f64 / meta.rows as f64,
            _ => 1.0,
        };
        meta.numel() as f64 * side * side
    };
    network.sites().map(|site| of(site.meta())).collect()
}

/// Bits of the weights that are not 0, as a share of those of float32.
pub(super) fn size(sites: &[SiteFormat]) -> f64 {
    let bits: f64 = sites.iter().map(|site| f64::from(site.format.word) * site.nonzero as f64).sum();
    bits / (32.0 * sites.iter().map(|site| site.numel as f64).sum::<f64>())
}

/// How many times as fast a step is as one of float32: products by the bits of their weights, of which zeros are left out; where formats
/// change, histograms and sums of gradients on top, once in as many steps as there are between changes.
pub(super) fn faster(sites: &[SiteFormat], products: &[f64], formats: &Formats, changing: bool) -> f64 {
    let [least, _] = formats.lookback;
    let (mut plain, mut own) = (0.0, 0.0);
    for (site, products) in sites.iter().zip(products) {
        // Forward and two products backward, for a batch.
        let products = 3.0 * BATCH as f64 * products;
        let (word, numel) = (f64::from(site.format.word), site.numel as f64);
        let nonzero = site.nonzero as f64 / numel.max(1.0);
        plain += 32.0 * products;
        own += word * nonzero * products;
        if changing {
            let bisection = 2.0 * ((word - 8.0).max(1.0) + 1.0).log2();
            let histograms = 3.0 * numel * bisection * f64::from(formats.resolution[0]) * nonzero;
            own += 32.0 * (histograms + (f64::from(least) + 1.0) * numel) / f64::from(least);
        }
    }
    plain / own
}

#[cfg(test)]
mod tests {
    use trimtab::floors::train::quantized::Format;

    use super::*;

    #[test]
    fn half_the_bits_of_half_the_weights_are_a_quarter() {
        let site = SiteFormat {
            site: "a".into(),
            format: Format { word: 16, fraction: 8 },
            numel: 100,
            nonzero: 50,
        };
        assert_eq!(size(std::slice::from_ref(&site)), 0.25);
        assert_eq!(faster(std::slice::from_ref(&site), &[1e4], &Formats::default(), false), 4.0);
        assert!(faster(&[site], &[1e4], &Formats::default(), true) < 4.0);
    }
}
