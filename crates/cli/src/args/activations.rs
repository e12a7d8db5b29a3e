//! Activations in few bits.

use clap::{Args, ValueEnum};

/// What is quantized of activations.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Activations")]
pub struct ActivationArgs {
    /// Quantize what the treated maps read: 'int8 token' (a range for each row, found as it comes), 'int8 tensor dynamic' (one for
    /// all rows of a call), 'int8 tensor' (one for all, found on calibration data), 'int8 channel' (one a channel); 4 to 8 bits,
    /// `sym` without zero points [default: not at all].
    #[arg(long, value_name = "SCHEME")]
    pub activations: Option<String>,
    /// How ranges are found on calibration data.
    #[arg(long, value_enum, value_name = "BY", default_value_t = RangeName::Percentile, requires = "activations")]
    pub activation_range: RangeName,
    /// Quantize queries, keys and values as well: 'int4 tensor'. Only this program runs the result.
    #[arg(long, value_name = "SCHEME", requires = "activations")]
    pub attention_operands: Option<String>,
    /// Quantize what the softmax of the attention gives: 'int4 log-sqrt2', 'int4 log2' or 'int8 uniform'. Only this program runs the
    /// result.
    #[arg(long, value_name = "CODE", requires = "activations")]
    pub softmax: Option<String>,
    /// Rewrite norms and the maps behind them so that one range for all channels does what a range a channel would (RepQ-ViT); for
    /// --activations 'int4 tensor' and the like.
    #[arg(long, requires = "activations")]
    pub scale_reparameterization: bool,
    /// Learn the ends of the range of each channel before that, by descent on the output error of the maps (RepQuant).
    #[arg(long, requires = "scale_reparameterization")]
    pub learn_clipping: bool,
    /// Choose codes for the weights that come closest to the original on quantized inputs, not for the weights themselves (RepQuant).
    #[arg(long, requires = "activations")]
    pub absorb_activations: bool,
    /// Search factors that shrink the ranges found on calibration data, 1 to 0.4, by what maps then give (Q-VLM); for 'int4 channel',
    /// 'int4 tensor' and the like.
    #[arg(long, value_enum, value_name = "HOW", requires = "activations")]
    pub clip_search: Option<ClipSearchName>,
}

/// How clip factors are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClipSearchName {
    /// Each for itself.
    Layer,
    /// Together in blocks of up to three layers that depend on each other, by entropy; every combination.
    Joint,
    /// In the same blocks, one after the other in two sweeps.
    Descend,
}

/// How ranges are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RangeName {
    /// From the least to the largest.
    MinMax,
    /// Between the best of three quantiles.
    #[default]
    Percentile,
}
