//! Binned estimates: entropy-based adaptive binning (EBAB), uniform bins, discrete information in bits.
//!
//! EBAB puts equal numbers of *distinct* activities into bins, per layer and epoch, so that any strictly increasing map of
//! the activations leaves every bin as it is. Departure from the released code: repeated edges are dropped.

use std::collections::HashMap;

use super::{Activations, Error, Estimate, Result};

/// Bins of the paper.
pub const BINS: usize = 30;

/// The value that means "silent"; it gets a bin of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// A known value: 0 for ReLU, softplus and abs, [`Floor::BELOW_MINUS_ONE`] for tanh and ELU.
    At(f32),
    /// The smallest activation of the layer.
    Minimum,
}

impl Floor {
    /// Just below -1, under every value of tanh and ELU.
    pub const BELOW_MINUS_ONE: Floor = Floor::At(-1.000_001);
}

/// Edges of bins, strictly increasing; a value is in the bin of the last edge not above it.
#[derive(Clone, Debug, PartialEq)]
pub struct Edges {
    edges: Vec<f32>,
    assumption: String,
}

impl Edges {
    /// EBAB: `[low, U0, U(1·m/n), ..., U((n-1)·m/n), U(m-1)]` over the `m` distinct activities `U` without `low`.
    ///
    /// # Errors
    /// [`Error::Setting`] for no bin; [`Error::Value`] for an activation below the floor.
    pub fn ebab(layer: &Activations, floor: Floor, bins: usize) -> Result<Self> {
        check_bins(bins)?;
        let mut distinct = layer.values.to_vec();
        distinct.sort_unstable_by(f32::total_cmp);
        // By ==, so that 0 and -0 are one value.
        distinct.dedup_by(|a, b| a == b);
        let low = match floor {
            Floor::At(low) => low,
            Floor::Minimum => distinct[0],
        };
        if low.is_nan() || distinct[0] < low {
            let at = layer.values.iter().position(|&v| v < low).unwrap_or(0);
            return Err(Error::Value {
                value: layer.values[at],
                row: at / layer.units,
                unit: at % layer.units,
                expected: "no value below the floor",
            });
        }
        distinct.retain(|&v| v != low);
        let mut edges = vec![low];
        edges.extend(
            (0..bins)
                .filter_map(|k| distinct.get((k as u128 * distinct.len() as u128 / bins as u128) as usize)),
        );
        edges.extend(distinct.last());
        edges.dedup();
        Ok(Self { edges, assumption: format!("{bins} bins of equal content per layer and epoch") })
    }

    /// `bins` equal bins over `[low, high]`; what lies outside goes to the first or the last. `scope` says whose range it
    /// is, such as "all layers" or "this layer".
    ///
    /// # Errors
    /// [`Error::Setting`] for no bin, or a range that is not finite or is reversed.
    pub fn uniform(low: f32, high: f32, bins: usize, scope: &str) -> Result<Self> {
        check_bins(bins)?;
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(Error::Setting {
                what: "upper end",
                found: high.into(),
                expected: "finite, not below the lower",
            });
        }
        let step = (f64::from(high) - f64::from(low)) / bins as f64;
        let mut edges: Vec<f32> = (0..bins).map(|k| (f64::from(low) + k as f64 * step) as f32).collect();
        edges.dedup();
        Ok(Self { edges, assumption: format!("{bins} uniform bins over the range of {scope}") })
    }

    /// `bins` equal bins over the range of this layer.
    ///
    /// # Errors
    /// [`Error::Setting`] for no bin.
    pub fn uniform_of_layer(layer: &Activations, bins: usize) -> Result<Self> {
        let low = layer.values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = layer.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self::uniform(low, high, bins, "this layer")
    }

    /// The edges.
    pub fn edges(&self) -> &[f32] {
        &self.edges
    }

    /// The bin of a value.
    pub fn bin(&self, value: f32) -> usize {
        self.edges.partition_point(|&edge| edge <= value).saturating_sub(1)
    }

    /// A number for each row: rows with the same bins have the same number. Numbers count up in order of appearance.
    pub fn codes(&self, layer: &Activations) -> Vec<usize> {
        let mut seen = HashMap::<Vec<usize>, usize>::new();
        let mut code = |row| {
            let next = seen.len();
            *seen.entry(layer.row(row).iter().map(|&v| self.bin(v)).collect()).or_insert(next)
        };
        (0..layer.rows()).map(&mut code).collect()
    }

    /// `I(T;X)` and `I(T;Y)` of a deterministic layer. Rows are taken for distinct inputs, so that `I(T;X) = H(T)`, at most
    /// `log2 rows`.
    ///
    /// # Errors
    /// [`Error::Length`] of the labels.
    pub fn estimate(
        &self,
        estimator: &'static str,
        layer: &Activations,
        labels: &[usize],
    ) -> Result<Estimate> {
        let codes = self.codes(layer);
        let (i_tx, i_ty) = (Some(entropy(&codes)), information(&codes, labels)?);
        Ok(Estimate { estimator, assumption: self.assumption.clone(), i_tx, i_ty })
    }
}

fn check_bins(bins: usize) -> Result<()> {
    if bins > 0 { Ok(()) } else { Err(Error::Setting { what: "bins", found: 0.0, expected: "at least 1" }) }
}

/// Entropy of a column of symbols, in bits.
pub fn entropy(symbols: &[usize]) -> f64 {
    let mut sorted = symbols.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as f64;
    let term = |group: &[usize]| {
        let p = group.len() as f64 / n;
        -p * p.log2()
    };
    // `+ 0.0`: one symbol has entropy 0, not -0.
    sorted.chunk_by(|a, b| a == b).map(term).sum::<f64>() + 0.0
}

/// `H(T) − Σ p(other) H(T | other)` in bits, never below 0.
///
/// # Errors
/// [`Error::Length`] if the columns differ in length.
pub fn information(symbols: &[usize], other: &[usize]) -> Result<f64> {
    let mut rest = 0.0;
    for class in super::classes(other, symbols.len())? {
        let part: Vec<usize> = class.iter().map(|&row| symbols[row]).collect();
        rest += part.len() as f64 / symbols.len() as f64 * entropy(&part);
    }
    Ok((entropy(symbols) - rest).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(values: &[f32], units: usize) -> Activations<'_> {
        Activations::new(values, values.len() / units, units).unwrap()
    }

    #[test]
    fn information_of_a_joint_table() {
        // Counts of (t, y): (0,0) 3, (0,1) 1, (1,0) 2, (1,1) 6.
        let table = [(0, 0, 3), (0, 1, 1), (1, 0, 2), (1, 1, 6)];
        let pairs: Vec<(usize, usize)> = table.iter().flat_map(|&(t, y, n)| vec![(t, y); n]).collect();
        let (t, y): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (pt, py) = ([4.0, 8.0], [5.0, 7.0]);
        let term =
            |&(a, b, n): &(usize, usize, usize)| n as f64 / 12.0 * (n as f64 * 12.0 / (pt[a] * py[b])).log2();
        let expected: f64 = table.iter().map(term).sum();
        assert!((information(&t, &y).unwrap() - expected).abs() < 1e-12);
        assert!((information(&y, &t).unwrap() - expected).abs() < 1e-12);
        let mut shifted = y.clone();
        shifted.rotate_left(3);
        assert!((information(&t, &shifted).unwrap() - expected).abs() > 1e-3, "control: other pairs");
        assert!(information(&t, &y[1..]).is_err());
    }

    #[test]
    fn ebab_edges_by_hand() {
        // Distinct without 0: 1, 2, 3, 4, 5, however often 1 is there; three bins: U0, U[5/3], U[10/3], the largest.
        let values = [0.0, 5.0, -0.0, 1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 1.0];
        let edges = Edges::ebab(&layer(&values, 1), Floor::At(0.0), 3).unwrap();
        assert_eq!(edges.edges(), [0.0, 1.0, 2.0, 4.0, 5.0]);
        assert_eq!([0.0, 1.0, 3.0, 4.5, 5.0].map(|v| edges.bin(v)), [0, 1, 2, 3, 4]);
        let few = Edges::ebab(&layer(&[0.0, 2.0], 1), Floor::At(0.0), 30).unwrap();
        assert_eq!(few.edges(), [0.0, 2.0], "repeated edges are dropped");
        assert!(Edges::ebab(&layer(&[-1.0], 1), Floor::At(0.0), 3).unwrap_err().to_string().contains("-1"));
        assert_eq!(Edges::ebab(&layer(&[7.0; 4], 2), Floor::Minimum, 3).unwrap().edges(), [7.0]);
        assert!(Edges::uniform(0.0, f32::NAN, 3, "x").is_err() && Edges::uniform(0.0, 1.0, 0, "x").is_err());
    }

    #[test]
    fn ebab_is_invariant_and_fixed_bins_are_not() {
        let mut stream = trimtab_math::random::Stream::new(1, "information", 0, 0);
        // Steps of 1/64 stay distinct in f32 under all three maps.
        let values: Vec<f32> = (0..3000).map(|_| stream.below(320) as f32 / 64.0).collect();
        let maps: [fn(f32) -> f32; 3] = [|x| x * x * x, |x| 10.0 * x, f32::exp];
        let codes =
            |values: &[f32], edges: Edges| -> Vec<usize> { values.iter().map(|&v| edges.bin(v)).collect() };
        let ebab = |v: &[f32], low| codes(v, Edges::ebab(&layer(v, 3), Floor::At(low), BINS).unwrap());
        let fixed = |v: &[f32]| codes(v, Edges::uniform(0.0, 5.0, BINS, "all layers").unwrap());
        for map in maps {
            let mapped: Vec<f32> = values.iter().map(|&v| map(v)).collect();
            assert_eq!(ebab(&values, 0.0), ebab(&mapped, map(0.0)));
            assert_ne!(fixed(&values), fixed(&mapped), "control: fixed bins move");
        }
        let mapped: Vec<f32> = values.iter().map(|v| v.exp()).collect();
        assert_ne!(ebab(&values, 0.0), ebab(&mapped, 0.0), "control: the floor has to be mapped, too");
    }

    #[test]
    fn entropy_has_its_ends() {
        let same = [0.5f32; 64];
        let edges = Edges::uniform_of_layer(&layer(&same, 4), BINS).unwrap();
        let found = edges.estimate("uniform", &layer(&same, 4), &[0; 16]).unwrap();
        assert_eq!((found.i_tx, found.i_ty), (Some(0.0), 0.0));
        let apart: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let edges = Edges::uniform_of_layer(&layer(&apart, 1), BINS).unwrap();
        assert_eq!(entropy(&edges.codes(&layer(&apart, 1))), 4.0);
    }
}
