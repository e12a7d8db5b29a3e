//! How the linear maps of a network hang together: which norms feed which maps, what writes to a residual stream, what
//! lies between values and outputs of an attention.
//!
//! A network tells its wiring; a rewrite that preserves the function asks it. An edge is known by its norm and its axis, never
//! by a name that happens to have some word in it. What stands in the way of a rewrite is part of the wiring, in words.

use std::ops::Range;

use crate::axis::Axis;
use crate::norm::NormKind;
use crate::site::{SiteKind, SiteMeta};

/// A part of a tensor of the checkpoint, seen as a part of a matrix `[rows, cols]`: of a linear map, of a convolution on its
/// patches, or of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixPart {
    /// Name of the tensor.
    pub tensor: String,
    /// Dimensions of the whole matrix.
    pub dims: [usize; 2],
    /// Whether the tensor is stored as `[cols, rows]`.
    pub transposed: bool,
    /// Rows of the part.
    pub rows: Range<usize>,
    /// Columns of the part.
    pub cols: Range<usize>,
    /// Columns in a row that belong to one input channel: the pixels of a kernel.
    pub spread: usize,
    /// Whether zeros stand beside the input, as the padding of a convolution: a constant that is added to the input does not
    /// then come to the same constant in every pixel of the output.
    pub pads: bool,
    /// Tensor of what is added to the output, one number for each row of the whole matrix.
    pub bias: Option<String>,
}

impl MatrixPart {
    /// A whole matrix.
    pub fn whole(tensor: impl Into<String>, dims: [usize; 2]) -> Self {
        Self {
            tensor: tensor.into(),
            dims,
            transposed: false,
            rows: 0..dims[0],
            cols: 0..dims[1],
            spread: 1,
            pads: false,
            bias: None,
        }
    }

    /// The whole weight of a site.
    pub fn of_site(site: &SiteMeta, bias: bool) -> Self {
        let (spread, pads) = match &site.kind {
            SiteKind::Conv(conv) | SiteKind::Conv1d(conv) => {
                (conv.kernel[0] * conv.kernel[1], conv.padding != [0; 2])
            }
            SiteKind::Linear | SiteKind::Embedding => (1, false),
        };
        Self {
            transposed: site.transposed,
            spread,
            pads,
            bias: bias.then(|| format!("{}.bias", site.name)),
            ..Self::whole(site.weight_name(), [site.rows, site.cols])
        }
    }

    /// The same matrix, some rows of it.
    pub fn with_rows(self, rows: Range<usize>) -> Self {
        Self { rows, ..self }
    }

    /// The same matrix, some columns of it.
    pub fn with_cols(self, cols: Range<usize>) -> Self {
        Self { cols, ..self }
    }
}

/// What adds to a residual stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The output of a linear map: its rows run along the stream, and so does its bias.
    Map(MatrixPart),
    /// Rows of a table: its columns run along the stream.
    Table(MatrixPart),
}

/// A residual stream: one axis, everything that is added to it, everything that reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// How messages call it.
    pub name: String,
    /// Its channels.
    pub axis: Axis,
    /// What is added to it.
    pub writers: Vec<Writer>,
    /// Maps that read it without a norm.
    pub readers: Vec<MatrixPart>,
    /// Why it is not the sum of linear maps alone, or is seen from outside; empty if neither.
    pub obstacles: Vec<String>,
    /// Whether it has the mean zero, by that field.
    pub centered: bool,
    /// Field of `config.json` that says that the stream has the mean zero, so that its layer norms are RMS norms.
    pub centered_field: Vec<String>,
}

/// A norm and the maps that read what it gives.
#[derive(Clone, Debug, PartialEq)]
pub struct NormEdge {
    /// Module path in the checkpoint.
    pub name: String,
    /// Which statistics it removes.
    pub kind: NormKind,
    /// Tensor of the gain.
    pub gain: String,
    /// Tensor of the bias.
    pub bias: Option<String>,
    /// What the stored gain lacks.
    pub offset: f64,
    /// Its channels.
    pub axis: Axis,
    /// Index of the stream that it reads.
    pub stream: Option<usize>,
    /// Maps that read all of what it gives, and nothing else.
    pub readers: Vec<MatrixPart>,
    /// A site that sees all rows which the norm gives.
    pub seen_by: Option<String>,
    /// What else sees its output, if anything does.
    pub obstacle: Option<String>,
    /// Whether a head that borrows the embedding reads it.
    pub tied: bool,
}

/// The way of one value head: the channels between the map that makes its values and the maps that read their mixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValuePath {
    /// How messages call it.
    pub name: String,
    /// Rows of the map of values.
    pub values: MatrixPart,
    /// Columns of the map of outputs, one part for each query head that shares the values.
    pub outputs: Vec<MatrixPart>,
}

/// Factors of channels behind linear maps (LayerScale).
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleEdge {
    /// Tensor of the factors.
    pub tensor: String,
    /// How many they are.
    pub size: usize,
    /// The maps before it; empty if it stands behind something else.
    pub sources: Vec<MatrixPart>,
    /// Index of the stream that it writes to.
    pub stream: Option<usize>,
}

/// A batch norm and the map before it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormEdge {
    /// Module path in the checkpoint.
    pub name: String,
    /// Added to the variance.
    pub eps: f64,
    /// Channels.
    pub size: usize,
    /// The convolution, or linear map, whose output it alone reads.
    pub source: Option<MatrixPart>,
}

/// A head that borrows the embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct TiedHead {
    /// The embedding.
    pub embedding: MatrixPart,
    /// The tensor that the head has once it is on its own.
    pub head: String,
    /// Factor of the logits that the network does without once the head is on its own.
    pub factor: f64,
    /// The field of `config.json` that says that the head borrows.
    pub field: Vec<String>,
}

/// How a network hangs together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wiring {
    /// Residual streams.
    pub streams: Vec<Stream>,
    /// Norms, with what reads them.
    pub norms: Vec<NormEdge>,
    /// Values of the attention.
    pub values: Vec<ValuePath>,
    /// Factors of channels.
    pub scales: Vec<ScaleEdge>,
    /// Batch norms.
    pub batch_norms: Vec<BatchNormEdge>,
    /// The head, where it borrows the embedding.
    pub tied: Option<TiedHead>,
}

impl Wiring {
    /// Norms that maps read and nothing else does: a diagonal map may be moved over each of these edges.
    pub fn free_norms(&self) -> impl Iterator<Item = &NormEdge> {
        self.norms.iter().filter(|norm| norm.is_free())
    }
}

impl NormEdge {
    /// Whether maps of its own read the norm, and nothing else does.
    pub fn is_free(&self) -> bool {
        !self.readers.is_empty() && self.obstacle.is_none() && !self.tied
    }
}
