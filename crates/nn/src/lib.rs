//! Floor 2 of the house: what a network is made of.
//!
//! A network is a row of [stages](stage::Stage), a stage holds [sites](site::Site), and every site is a named linear
//! map along two named [axes](axis::Axis). [Taps](tap::Tap) look at what flows through a site. Methods work on sites,
//! axes and taps and know no model; models are built from sites and know no method.

pub mod activation;
pub mod attention;
pub mod axis;
pub mod batch_norm;
pub mod binary_attention;
pub mod constant;
pub mod conv;
pub mod ctx;
mod differentiable;
pub mod error;
mod frozen;
pub mod input_op;
pub mod kernels;
pub mod layer;
pub mod network;
pub mod norm;
pub mod rotary;
pub mod samples;
pub mod site;
pub mod stage;
pub mod straight_through;
pub mod tap;
pub mod weight;
pub mod wiring;

pub use activation::{
    ActivationGranularity, ActivationQuantizer, ActivationScheme, ActivationStep, SoftmaxCode, SoftmaxScheme,
};
pub use attention::{AttentionQuantizer, Operand, SoftmaxQuantizer};
pub use axis::Axis;
pub use batch_norm::BatchNorm;
pub use binary_attention::{BinaryAttention, Keep};
pub use constant::ConstantRows;
pub use ctx::{BatchStatistics, Ctx, KvCache, NormInput, SecondInput};
pub use error::{Error, Result};
pub use input_op::{Grid, InputOp, Signs};
pub use layer::{Held, HeldMut, Layer, LayerMut, NamedTensor, Table};
pub use network::Network;
pub use norm::{Activation, Norm, NormKind};
pub use samples::{Capture, Resolved};
pub use site::{Branch, Site, SiteKind, SiteMeta};
pub use stage::{Flow, OnPart, Part, Role, Stage, StageInfo, StageSource, Task};
pub use tap::{Tap, TapRows, TapSet};
pub use weight::{Weight, host};
pub use wiring::{BatchNormEdge, MatrixPart, NormEdge, ScaleEdge, TiedHead, ValuePath, Wiring, Writer};
