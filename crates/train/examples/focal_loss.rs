//! A new objective in one file: the focal loss (Lin et al., arXiv:1708.02002), which takes confident answers less seriously.
//!
//!     cargo run --release -p trimtab-train --example focal_loss

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use trimtab_train::{
    Dataset, Item, Loss, Objective, OptimizerConfig, Pass, Phase, Result, Settings, Silent, Trainer,
};

/// `(1 - p)^gamma` times the cross-entropy of the class with probability `p`.
struct FocalLoss {
    gamma: f64,
}

impl Objective<Linear, (Tensor<2>, Tensor<2, Int>)> for FocalLoss {
    fn loss(&self, model: &Linear, (x, y): &(Tensor<2>, Tensor<2, Int>), _: &mut Pass) -> Result<Loss> {
        let logits = x.clone().matmul(model.weight.val());
        let log_p = activation::log_softmax(logits, 1).gather(1, y.clone());
        let weight = (log_p.clone().exp().neg() + 1.0).powf_scalar(self.gamma);
        Ok(Loss::new((weight * log_p).mean().neg(), y.dims()[0]))
    }
}

/// Any module of the framework can be trained.
#[derive(Module, Debug)]
struct Linear {
    weight: Param<Tensor<2>>,
}

/// Points left and right of a line.
struct Points;

impl Dataset for Points {
    type Batch = (Tensor<2>, Tensor<2, Int>);

    fn len(&self) -> usize {
        256
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<Self::Batch> {
        let angle = |item: &Item| item.index as f32;
        let x: Vec<f32> = items.iter().flat_map(|item| [angle(item).cos(), angle(item).sin()]).collect();
        let y: Vec<i64> = items.iter().map(|item| i64::from(angle(item).cos() > 0.0)).collect();
        let (x, y) = (TensorData::new(x, [items.len(), 2]), TensorData::new(y, [items.len(), 1]));
        Ok((Tensor::from_data(x, device), Tensor::from_data(y, device)))
    }
}

fn main() -> Result<()> {
    let device = Device::flex();
    let model = Linear { weight: Param::from_tensor(Tensor::zeros([2, 2], &device.clone().autodiff())) };
    let settings = Settings::new(32, vec![Phase::new(200, 0.05, OptimizerConfig::default())]);
    let objective = FocalLoss { gamma: 2.0 };
    let trainer = Trainer::new(&Points, &objective, &settings, device);
    let outcome = trainer.run(model, &mut Silent::default())?;
    let loss = trainer.heldout_loss(&outcome.module, &Points)?.loss;
    assert!(loss < 0.03, "it learns: {loss} at first 0.17");
    Ok(())
}
