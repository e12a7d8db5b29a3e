//! Training of networks that will run on few bits.
//!
//! A method here is a module of the framework around a [`Network`](trimtab_nn::Network), and an objective around an objective of
//! networks. The module holds what the method trains beside the weights (steps, norms of each width) or merely remembers (formats,
//! sums of gradients): all of it parameters by path, so that optimizers, saved states and several processes need to know nothing
//! of it. Before every pass the module is seen as a plain network, with other numbers in its sites and with operations on their
//! inputs ([`trimtab_nn::InputOp`]), and the inner objective trains that. So any network of the house, and any of its objectives,
//! can be trained by any of the methods.

mod adapt;
mod bivit;
mod double_rounding;
mod fixed_point;
mod hasb;
mod joint;
mod switchable;

pub use adapt::{Adapt, Format, Strategy, divergence, diversity, push_down, push_of, push_up};
pub use bivit::{Attention, Binary, Bivit, InBits, Scales, SiteSigns, Stages};
pub use double_rounding::{DoubleRounding, Mixed, Rounding, Sampling, alrs_factor, eta, switch_code};
pub use fixed_point::{FixedPoint, InFixedPoint, SiteFormat};
pub use hasb::{draw_widths, site_traces};
pub use joint::{Joint, renormalized};
pub use switchable::{SiteCodes, Switchable};
