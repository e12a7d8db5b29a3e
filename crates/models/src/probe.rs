//! Random inputs of the kind that a model takes: what two models can be compared on without data.

use burn::tensor::{Device, Int, Tensor, TensorData};
use trimtab_math::random::Stream;
use trimtab_nn::{Flow, SiteKind};

use crate::conv::ConvPlan;
use crate::transformer::{Input, NetworkPlan, TransformerConfig};

/// Tokens of a text, at most.
const TOKENS: usize = 32;
/// Pixels along a side of an image, where the network takes any.
const PIXELS: usize = 64;

fn image(shape: [usize; 4], random: &mut Stream, device: &Device) -> Flow {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Flow::Image(Tensor::from_data(TensorData::new(values, shape), device))
}

/// What one transformer takes.
fn input(config: &TransformerConfig, random: &mut Stream, device: &Device) -> Flow {
    match config.input {
        Input::Tokens { vocab } => {
            let limit = config.positions.map_or(TOKENS, |learned| learned.rows - learned.offset);
            let n = limit.min(TOKENS);
            let ids: Vec<i64> = (0..n).map(|_| random.below(vocab.max(1)) as i64).collect();
            Flow::Tokens(Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), device))
        }
        Input::Patches { image: side, channels, .. } => image([1, channels, side, side], random, device),
        Input::Audio { mels, frames } => image([1, mels, 1, frames], random, device),
    }
}

/// What a network of transformers takes; of a decoder that reads images, the text alone.
pub(crate) fn of_transformer(plan: &NetworkPlan, random: &mut Stream, device: &Device) -> Option<Flow> {
    let mut inputs: Vec<Flow> =
        plan.blueprints().iter().map(|plan| input(&plan.config, random, device)).collect();
    let last = inputs.pop()?;
    Some(match (plan, inputs.pop()) {
        (NetworkPlan::Pair(_), Some(first)) => Flow::both(first, last),
        _ => last,
    })
}

/// What a convolutional network takes.
pub(crate) fn of_conv(plan: &ConvPlan, random: &mut Stream, device: &Device) -> Option<Flow> {
    let stages = plan.stages();
    let first = stages.iter().flat_map(|stage| &stage.sites).next()?;
    let channels = match &first.kind {
        SiteKind::Conv(conv) => first.cols / (conv.kernel[0] * conv.kernel[1]) * conv.groups,
        _ => plan.normalization()?.mean.len(),
    };
    Some(image([1, channels, PIXELS, PIXELS], random, device))
}
