//! Damage that sites do to each other: measured terms of single sites and of pairs, and the order in which sites bear treatment.
//!
//! Source: Schaefer et al., "Augmenting Hessians with inter-layer dependencies for mixed-precision post-training quantization",
//! arXiv:2306.04879. The loss with a set of sites treated is modelled by `L(0) + sum_i g_i + sum_{i<j} t_ij` with
//! `t_ij = L(i,j) - L(i) - L(j) + L(0)`; an order is built from the site that adds least to those before it. Without pairs it is
//! the order by the single terms. [`bisect`](crate::bisect) finds how far along an order a measured condition holds.

/// Single terms and pair terms of the loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Interactions {
    alone: Vec<f64>,
    /// `[n, n]`, symmetric, 0 on the diagonal.
    pairs: Vec<f64>,
}

impl Interactions {
    /// Single terms only: what each site adds by itself.
    pub fn new(alone: Vec<f64>) -> Self {
        let pairs = vec![0.0; alone.len() * alone.len()];
        Self { alone, pairs }
    }

    /// Measures the single terms of `n` sites and the terms of these pairs. `loss` gets the sites that are treated, ascending; it
    /// has to use the same samples every time. `1 + n + pairs` measurements.
    ///
    /// # Errors
    /// What `loss` meets.
    pub fn measure<E>(
        n: usize,
        pairs: &[(usize, usize)],
        mut loss: impl FnMut(&[usize]) -> Result<f64, E>,
    ) -> Result<Self, E> {
        let none = loss(&[])?;
        let alone = (0..n).map(|i| Ok(loss(&[i])? - none)).collect::<Result<Vec<f64>, E>>()?;
        let mut found = Self::new(alone);
        for &(i, j) in pairs.iter().filter(|(i, j)| i != j) {
            let both = loss(&[i.min(j), i.max(j)])? - none;
            found.set_pair(i, j, both - found.alone[i] - found.alone[j]);
        }
        Ok(found)
    }

    /// Number of sites.
    pub fn len(&self) -> usize {
        self.alone.len()
    }

    /// Whether there is no site.
    pub fn is_empty(&self) -> bool {
        self.alone.is_empty()
    }

    /// What each site adds by itself.
    pub fn alone(&self) -> &[f64] {
        &self.alone
    }

    /// The term of a pair; 0 where it was not measured. It is negative where two errors make up for each other.
    pub fn pair(&self, i: usize, j: usize) -> f64 {
        self.pairs[i * self.len() + j]
    }

    /// States the term of two different sites.
    pub fn set_pair(&mut self, i: usize, j: usize, term: f64) {
        let n = self.len();
        if i != j {
            self.pairs[i * n + j] = term;
            self.pairs[j * n + i] = term;
        }
    }

    /// These pairs with other single terms.
    pub fn with_alone(&self, alone: Vec<f64>) -> Self {
        assert_eq!(alone.len(), self.len(), "as many terms as sites");
        Self { alone, pairs: self.pairs.clone() }
    }

    /// Increase of the loss that the terms predict with these sites treated.
    pub fn predict(&self, treated: &[usize]) -> f64 {
        let pairs = treated.iter().enumerate().flat_map(|(k, &i)| treated[..k].iter().map(move |&j| (i, j)));
        treated.iter().map(|&i| self.alone[i]).sum::<f64>() + pairs.map(|(i, j)| self.pair(i, j)).sum::<f64>()
    }

    /// All sites, each the one that adds least to those before it; of equal ones the first.
    pub fn order(&self) -> Vec<usize> {
        let mut adds = self.alone.clone();
        let mut left: Vec<usize> = (0..self.len()).collect();
        let mut order = Vec::with_capacity(left.len());
        while let Some(at) = (0..left.len()).min_by(|&a, &b| adds[left[a]].total_cmp(&adds[left[b]])) {
            let next = left.remove(at);
            left.iter().for_each(|&other| adds[other] += self.pair(next, other));
            order.push(next);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss of single terms and pairs, over 6 sites.
    fn loss(treated: &[usize]) -> f64 {
        let alone = |i: usize| ((i * 7) % 5) as f64 * 0.1 + 0.05;
        let pair = |i: usize, j: usize| ((i * 3 + j) as f64).sin() * 0.2;
        let pairs =
            treated.iter().enumerate().flat_map(|(k, &j)| treated[..k].iter().map(move |&i| pair(i, j)));
        2.0 + treated.iter().map(|&i| alone(i)).sum::<f64>() + pairs.sum::<f64>()
    }

    fn measured() -> Interactions {
        let pairs: Vec<(usize, usize)> = (0..6).flat_map(|i| (0..i).map(move |j| (i, j))).collect();
        let mut asked = 0;
        let found = Interactions::measure(6, &pairs, |treated| {
            asked += 1;
            Ok::<_, ()>(loss(treated))
        });
        assert_eq!(asked, 1 + 6 + 15);
        found.unwrap()
    }

    #[test]
    fn a_loss_of_pairs_is_predicted_for_every_set() {
        let found = measured();
        let mut without_pairs: f64 = 0.0;
        for mask in 0..64usize {
            let set: Vec<usize> = (0..6).filter(|i| mask >> i & 1 == 1).collect();
            let exact = loss(&set) - 2.0;
            assert!((found.predict(&set) - exact).abs() < 1e-12, "{set:?}");
            without_pairs =
                without_pairs.max((Interactions::new(found.alone().to_vec()).predict(&set) - exact).abs());
        }
        assert!(without_pairs > 0.3, "the control: pairs matter here");
    }

    #[test]
    fn each_site_of_an_order_adds_least_to_those_before_it() {
        let found = measured();
        let order = found.order();
        for k in 0..6 {
            let with = |i: usize| found.predict(&[&order[..k], &[i]].concat());
            let least = order[k..].iter().map(|&i| with(i)).fold(f64::INFINITY, f64::min);
            assert!((with(order[k]) - least).abs() < 1e-12, "{order:?} at {k}");
        }
        let single = Interactions::new(found.alone().to_vec());
        let mut plain: Vec<usize> = (0..6).collect();
        plain.sort_by(|&a, &b| found.alone()[a].total_cmp(&found.alone()[b]));
        assert_eq!(single.order(), plain, "without pairs the order of the single terms");
        assert_ne!(order, plain, "the control: pairs change it");
    }
}
