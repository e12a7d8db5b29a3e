//! How good features are: nearest neighbours and a linear probe.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use trimtab::floors::nn::{Ctx, Flow, Network};
use trimtab::floors::train::{OptimizerConfig, Phase, Settings, Silent, Trainer};
use trimtab::training::Pictures;

use super::perceptron::{Classes, Digits, Start, perceptron};
use super::pictures::{self, Cause};

/// Neighbours that vote.
const NEIGHBOURS: usize = 20;
/// A neighbour of cosine `s` votes with `exp(s / TEMPERATURE)`.
const TEMPERATURE: f32 = 0.1;
/// Images of one forward pass.
const PART: usize = 500;

/// Rows of features and their classes.
pub struct Features {
    rows: Tensor<2>,
    labels: Vec<i64>,
}

impl Features {
    /// What the stages before the head of a network make of images, without changes of the images.
    pub fn of(network: &Network, images: &Pictures, labels: &[i64]) -> Result<Self, Cause> {
        let (network, images) = (network.valid(), pictures::all(images)?);
        let n = labels.len();
        let part = |start: usize| -> Result<Tensor<2>, Cause> {
            let some = Flow::Image(images.clone().narrow(0, start, PART.min(n - start)));
            Ok(network.forward_range(0, network.features(), some, &mut Ctx::default())?.vector("features")?)
        };
        let parts = (0..n).step_by(PART).map(part).collect::<Result<Vec<_>, Cause>>()?;
        Ok(Self { rows: Tensor::cat(parts, 0), labels: labels.to_vec() })
    }

    /// Share of the rows of `test` that their neighbours here, by cosine, give the right class.
    pub fn neighbours(&self, test: &Self) -> f64 {
        let unit = |x: &Tensor<2>| {
            let length = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
            x.clone() / length
        };
        let cosines = unit(&test.rows).matmul(unit(&self.rows).transpose());
        let cosines: Vec<f32> = cosines.into_data().iter::<f32>().collect();
        let right = |(row, &label): (&[f32], &i64)| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            let few = NEIGHBOURS.min(row.len()) - 1;
            order.select_nth_unstable_by(few, |&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            let mut votes = [0.0f32; 10];
            order[..=few]
                .iter()
                .for_each(|&i| votes[self.labels[i] as usize] += (row[i] / TEMPERATURE).exp());
            (0..10).max_by(|&a, &b| votes[a].total_cmp(&votes[b])) == Some(label as usize)
        };
        let rows = cosines.chunks_exact(self.labels.len()).zip(&test.labels);
        rows.filter(|row| right(*row)).count() as f64 / test.labels.len() as f64
    }

    /// Accuracy on `test` of a linear classifier of these rows, which are brought to mean 0 and variance 1 by column.
    pub fn probe(&self, test: &Self) -> Result<f64, Cause> {
        let mean = self.rows.clone().mean_dim(0);
        let deviation = (self.rows.clone() - mean.clone()).square().mean_dim(0).sqrt().clamp_min(1e-6);
        let [_, width] = self.rows.dims();
        let set = |of: &Self| {
            let rows = (of.rows.clone() - mean.clone()) / deviation.clone();
            Digits::rows(rows.into_data().iter::<f32>().collect(), of.labels.clone(), width)
        };
        let (train, test) = (set(self), set(test));
        let adam = OptimizerConfig::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let phase = Phase { steps: None, epochs: Some(20.0), ..Phase::new(1, 3e-3, adam) };
        let settings = Settings::new(200, vec![phase]);
        let mut trainer = Trainer::new(&train, &Classes, &settings, Device::flex());
        trainer.heldout = Some(&test);
        let outcome = trainer.run(perceptron(&[width, 10], Start::Zeros, 0), &mut Silent::default())?;
        Ok(outcome.last.and_then(|last| last.heldout?.accuracy).unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn classes_that_lie_apart_are_found() {
        let of = |shift: f32, count: usize| {
            let rows = (0..count).flat_map(|i| {
                let side = if i % 2 == 0 { 1.0 } else { -1.0 };
                [side + shift * (i as f32).sin(), 0.3 * (i as f32).cos()]
            });
            let rows: Vec<f32> = rows.collect();
            let rows = Tensor::from_data(TensorData::new(rows, [count, 2]), &Device::flex());
            Features { rows, labels: (0..count as i64).map(|i| i % 2).collect() }
        };
        let (train, test) = (of(0.2, 100), of(0.3, 40));
        assert_eq!(train.neighbours(&test), 1.0);
        assert!(train.probe(&test).unwrap() > 0.95);
    }
}
