//! One file a pass.

mod center_layer_norm;
mod fold_batch_norm;
mod fold_layer_scale;
mod fold_norm_gain;
mod inject_outliers;
mod move_scales;
mod rotate;
mod rotate_heads;
mod scale_channels;
mod untie;

pub use center_layer_norm::CenterLayerNorm;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_layer_scale::FoldLayerScale;
pub use fold_norm_gain::FoldNormGain;
pub use inject_outliers::InjectOutliers;
pub use move_scales::MoveScales;
pub use rotate::Rotate;
pub use rotate_heads::RotateHeads;
pub use scale_channels::ScaleChannels;
pub use untie::Untie;

use trimtab_nn::wiring::Stream;

use crate::draft::Draft;
use crate::error::Result;

/// What a head that borrows the embedding keeps from being done.
const TIED: &str = "the head is the embedding, which the stream is made of as well\n\
                    hint: --untie gives the head a copy of its own (the file grows by one matrix)";

/// Why there is nothing to do, for a network whose norms are all part of the stream.
fn no_free_norm(draft: &Draft<'_>) -> String {
    let norms = draft.wiring.norms.iter().filter(|norm| !norm.is_free());
    let mut blocked = norms.filter_map(|norm| Some((&norm.name, norm.obstacle.as_ref()?)));
    match blocked.next_back() {
        Some((name, obstacle)) => format!("no norm is read by linear maps alone; \"{name}\": {obstacle}"),
        None => "it has no norm with a gain that linear maps read".into(),
    }
}

/// Whether the factors of channels before a stream are all one.
fn has_unit_scales(draft: &Draft<'_>, stream: usize) -> Result<bool> {
    for scale in draft.wiring.scales.iter().filter(|scale| scale.stream == Some(stream)) {
        if draft.peek(&scale.tensor, scale.size)?.iter().any(|factor| *factor != 1.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What to tell of streams that were left alone, or the reason to refuse where none was not.
fn left_alone(streams: &[Stream], reasons: &[(usize, String)]) -> Vec<String> {
    reasons.iter().map(|(i, reason)| format!("{}: {reason}", streams[*i].name)).collect()
}
