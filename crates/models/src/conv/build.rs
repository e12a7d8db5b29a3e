//! From layers of a specification to sites and norms, along the axes that they share.

use serde_json::Value;
use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{Axis, SiteKind, SiteMeta};

use super::name::Place;
use super::op::Op;
use super::shapes::{Shapes, WeightShape, full_name};
use super::spec::{ConvSpec, LayerSpec, Padding, PoolSpec, SqueezeSpec, Stride};

/// Where a list of layers stands.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// Name of the block.
    pub block: &'a str,
    pub place: Place,
    /// Stride of the block.
    pub stride: usize,
}

/// Builds layer after layer and keeps track of the axis.
#[derive(Clone)]
pub(super) struct Builder<'a> {
    pub spec: &'a ConvSpec,
    pub shapes: &'a Shapes<'a>,
    pub config: Option<&'a Value>,
    /// Axis of the channels that the next layer reads.
    pub axis: Axis,
    /// Whether the next layer reads one vector an image.
    pub vector: bool,
    /// Axes made so far.
    made: usize,
    /// The axis that the layer with this count writes to instead of one of its own.
    given: Option<(usize, Axis)>,
}

impl<'a> Builder<'a> {
    pub fn new(spec: &'a ConvSpec, shapes: &'a Shapes<'a>, config: Option<&'a Value>, image: Axis) -> Self {
        Self { spec, shapes, config, axis: image, vector: false, made: 0, given: None }
    }

    /// A builder of another path, which begins at `axis`.
    pub fn from(&self, axis: Axis) -> Self {
        Self { axis, vector: false, ..self.clone() }
    }

    /// The layers, the last one that makes an axis writing to `target`.
    pub fn onto(&mut self, target: Axis, layers: &[LayerSpec], spot: Spot<'_>) -> Result<Vec<Op>, String> {
        let mut dry = Self { made: 0, given: None, ..self.clone() };
        dry.run(layers, spot)?;
        if dry.axis.size() != target.size() {
            let (from, to) = (dry.axis, target);
            return Err(format!(
                "\"{}\": the shortcut joins {from} and {to}, which are not of one size",
                spot.block
            ));
        }
        (self.made, self.given) = (0, Some((dry.made, target)));
        let ops = self.run(layers, spot);
        self.given = None;
        ops
    }

    /// The layers that the checkpoint has.
    pub fn run(&mut self, layers: &[LayerSpec], spot: Spot<'_>) -> Result<Vec<Op>, String> {
        let mut ops = Vec::new();
        for (i, layer) in layers.iter().enumerate() {
            if layer.pool == Some(PoolSpec::Flatten) {
                let reader = layers[i + 1..].iter().find_map(|layer| layer.linear.as_ref());
                ops.push(self.flatten(reader, spot)?);
            } else if !layer.optional || self.shapes.fits(layer, spot.block, spot.place) {
                self.layer(layer, spot, &mut ops)?;
            }
        }
        Ok(ops)
    }

    fn layer(&mut self, layer: &LayerSpec, spot: Spot<'_>, ops: &mut Vec<Op>) -> Result<(), String> {
        let name = |name: &str| {
            let full = full_name(spot.block, name, spot.place);
            full.ok_or_else(|| format!("\"{name}\" has a negative index in \"{}\"", spot.block))
        };
        if let Some(conv) = &layer.conv {
            ops.push(self.conv(name(conv)?, layer, spot)?);
        }
        if let Some(linear) = &layer.linear {
            ops.push(self.linear(name(linear)?)?);
        }
        if let Some(norm) = &layer.norm {
            let name = name(norm)?;
            let counter = self.shapes.tensor(&format!("{name}.num_batches_tracked")).is_some();
            ops.push(Op::BatchNorm {
                axis: self.axis.clone(),
                eps: self.eps(layer, self.spec.batch_norm_eps)?,
                counter,
                name,
            });
        }
        if let Some(norm) = &layer.layer_norm {
            let eps = self.eps(layer, self.spec.layer_norm_eps)?;
            ops.push(Op::LayerNorm { name: name(norm)?, axis: self.axis.clone(), eps });
        }
        if let Some(scale) = &layer.scale {
            ops.push(self.scale(name(scale)?)?);
        }
        if let Some(SqueezeSpec { reduce, expand, act, gate }) = &layer.squeeze {
            ops.push(self.squeeze([name(reduce)?, name(expand)?], [act, gate])?);
        }
        if let Some(pool) = layer.pool {
            ops.push(self.pool(pool, layer));
        }
        if let Some(act) = &layer.act {
            ops.push(Op::Act(self.spec.activation(act, self.config)?));
        }
        Ok(())
    }

    fn eps(&self, layer: &LayerSpec, default: f64) -> Result<f64, String> {
        layer.eps.as_ref().map_or(Ok(default), |eps| self.spec.number(eps, self.config))
    }

    fn conv(&mut self, name: String, layer: &LayerSpec, spot: Spot<'_>) -> Result<Op, String> {
        let channels = self.axis.size();
        let weight = self.weight(&name)?;
        let (rows, cols, kernel) = match weight {
            WeightShape::Dense(shape) => match shape[..] {
                [rows, inputs, kh, kw] => (rows, inputs.saturating_mul(kh).saturating_mul(kw), [kh, kw]),
                _ => {
                    return Err(format!(
                        "\"{name}.weight\" has shape {shape:?}, expected that of a convolution"
                    ));
                }
            },
            WeightShape::Packed([rows, cols]) => (rows, cols, packed_kernel(cols, channels, layer)),
        };
        let area = kernel[0].saturating_mul(kernel[1]);
        let inputs = cols.checked_div(area).unwrap_or(0);
        let groups = channels.checked_div(inputs).unwrap_or(0);
        if groups == 0
            || inputs * area != cols
            || inputs * groups != channels
            || !rows.is_multiple_of(groups)
            || rows == 0
        {
            return Err(format!(
                "\"{name}\": a kernel {kernel:?} of {cols} inputs and {rows} outputs does not fit {channels} channels"
            ));
        }
        let stride = match &layer.stride {
            None => 1,
            Some(Stride::Fixed(stride)) => *stride,
            Some(Stride::Named(_)) => spot.stride,
        };
        let same = layer.padding == Some(Padding::Named("same".into())) && stride > 1;
        let padding = match &layer.padding {
            Some(Padding::Fixed(padding)) => [*padding; 2],
            Some(Padding::Named(_)) if same => [0; 2],
            _ => kernel.map(|k| k / 2),
        };
        let geometry = ConvGeometry { kernel, stride: [stride; 2], padding, groups };
        // One kernel a channel: what comes out of a channel is that channel.
        let depthwise = groups == channels && rows == channels && groups > 1;
        let bias = self.has_bias(&name);
        let site = self.site(name, SiteKind::Conv(geometry), [rows, cols], depthwise);
        Ok(Op::Conv { site, bias, same })
    }

    fn linear(&mut self, name: String) -> Result<Op, String> {
        let [rows, cols] = match self.weight(&name)? {
            WeightShape::Packed(dims) => dims,
            WeightShape::Dense(shape) => shape[..].try_into().map_err(|_| {
                format!("\"{name}.weight\" has shape {shape:?}, expected that of a linear map")
            })?,
        };
        if cols != self.axis.size() || rows == 0 {
            return Err(format!(
                "\"{name}\" is a map of {cols} to {rows} channels, but {} reach it",
                self.axis.size()
            ));
        }
        let bias = self.has_bias(&name);
        Ok(Op::Linear { site: self.site(name, SiteKind::Linear, [rows, cols], false), bias })
    }

    fn site(&mut self, name: String, kind: SiteKind, [rows, cols]: [usize; 2], keeps_axis: bool) -> SiteMeta {
        let input = self.axis.clone();
        if !keeps_axis {
            self.made += 1;
            let given = self.given.iter().find(|(count, _)| *count == self.made);
            self.axis = given.map_or_else(|| Axis::new(name.as_str(), rows), |(_, axis)| axis.clone());
        }
        SiteMeta {
            kind,
            rows,
            cols,
            transposed: false,
            input,
            output: self.axis.clone(),
            reads: format!("{name}.input"),
            fused: None,
            name,
        }
    }

    fn weight(&self, name: &str) -> Result<WeightShape, String> {
        self.shapes.weight(name).ok_or_else(|| format!("no tensor \"{name}.weight\""))
    }

    fn has_bias(&self, name: &str) -> bool {
        self.shapes.tensor(&format!("{name}.bias")).is_some()
    }

    fn scale(&self, name: String) -> Result<Op, String> {
        let shape = self.shapes.tensor(&name).ok_or_else(|| format!("no tensor \"{name}\""))?.to_vec();
        match shape.iter().product::<usize>() == self.axis.size() {
            true => Ok(Op::Scale { name, shape }),
            false => {
                Err(format!("\"{name}\" has shape {shape:?}, expected one factor for each of {}", self.axis))
            }
        }
    }

    fn squeeze(&mut self, [reduce, expand]: [String; 2], acts: [&String; 2]) -> Result<Op, String> {
        let outer = self.axis.clone();
        // The two maps are a path of their own: their axes do not count among those of the block.
        let mut inner = Self { given: None, ..self.clone() };
        let map = |builder: &mut Self, name: String| match builder.weight(&name)? {
            WeightShape::Dense(shape) if shape.len() == 2 => builder.linear(name),
            _ => {
                let spot = Spot { block: "", place: Place::default(), stride: 1 };
                builder.conv(name, &LayerSpec::default(), spot)
            }
        };
        let reduce = Box::new(map(&mut inner, reduce)?);
        (inner.made, inner.given) = (0, Some((1, outer.clone())));
        let expand = Box::new(map(&mut inner, expand)?);
        if expand.sites().iter().any(|(site, _)| site.rows != outer.size()) {
            return Err(format!("the gate of \"{outer}\" has another width"));
        }
        let [act, gate] = acts.map(|act| self.spec.activation(act, self.config));
        Ok(Op::Squeeze { reduce, expand, act: act?, gate: gate? })
    }

    fn pool(&mut self, pool: PoolSpec, layer: &LayerSpec) -> Op {
        let size = layer.size.unwrap_or(1);
        let stride = match layer.stride {
            Some(Stride::Fixed(stride)) => stride,
            _ => size,
        };
        let padding = match layer.padding {
            Some(Padding::Fixed(padding)) => padding,
            _ => 0,
        };
        let window =
            ConvGeometry { kernel: [size; 2], stride: [stride; 2], padding: [padding; 2], groups: 1 };
        match pool {
            PoolSpec::Max => Op::Max(window),
            PoolSpec::Average => Op::Average(window),
            PoolSpec::Global => {
                self.vector = true;
                Op::Global
            }
            PoolSpec::Flatten => unreachable!("it is built with the layers that follow it"),
        }
    }

    /// As many pixels as the linear map `reader` takes.
    fn flatten(&mut self, reader: Option<&String>, spot: Spot<'_>) -> Result<Op, String> {
        let reader = reader.ok_or("a flattening pool needs a linear map after it")?;
        let name = full_name(spot.block, reader, spot.place).unwrap_or_default();
        let cols = match self.weight(&name)? {
            WeightShape::Packed([_, cols]) => cols,
            WeightShape::Dense(shape) => shape.get(1).copied().unwrap_or(0),
        };
        let channels = self.axis.size();
        let size = cols.checked_div(channels).unwrap_or(0).isqrt();
        let area = size * size;
        if area == 0 || area * channels != cols {
            return Err(format!(
                "\"{name}\" reads {cols} numbers: no square of {channels} channels has so many"
            ));
        }
        if area > 1 {
            self.axis = Axis::new(format!("{}.pixels", self.axis.name()), cols).in_units_of(area);
        }
        self.vector = true;
        Ok(Op::Flatten(size))
    }
}

/// A square kernel from the columns of a packed weight.
fn packed_kernel(cols: usize, channels: usize, layer: &LayerSpec) -> [usize; 2] {
    let side = |area: usize| area.isqrt();
    match layer.kernel {
        Some(kernel) => [kernel; 2],
        None if layer.depthwise => [side(cols); 2],
        None => [side(cols.checked_div(channels).unwrap_or(0)); 2],
    }
}
