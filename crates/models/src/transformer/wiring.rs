//! How the parts of a plan hang together: the edges that rewrites move diagonal maps, means and rotations over.

use trimtab_nn::wiring::Stream;
use trimtab_nn::{Axis, MatrixPart, NormEdge, NormKind, ScaleEdge, TiedHead, ValuePath, Wiring, Writer};

use super::network::NetworkPlan;
use super::plan::Blueprint;
use super::stage_plan::{AttentionPlan, BlockPlan, EmbedPlan, FeedPlan, MlpPlan};
use super::{
    EmbedProjection, Head, Input, NormPlace, NormPlan, NormStyle, Pool, QkvKind, SitePlan, TablePlan,
};

/// Field of `config.json` that says that the residual stream has the mean zero, so that layer norms on it are computed as RMS
/// norms. Other programs pass it by and find the same result with the mean.
pub(crate) const CENTERED: &str = "centered_residual_stream";

/// What is behind a reader: the last norm of another part, or its stream.
#[derive(Clone, Copy)]
enum Memory {
    Norm(usize),
    Stream(usize),
}

impl NetworkPlan {
    /// The wiring of the network.
    pub fn wiring(&self) -> Wiring {
        let mut wiring = Wiring::default();
        match self {
            Self::One(plan) => drop(plan.wire(&mut wiring, "the residual stream", None, None)),
            Self::Pair(parts) => {
                let [first, second] = &**parts;
                let across = second.names.cross.is_some();
                let names = match across {
                    true => ["the encoder's stream", "the decoder's stream"],
                    false => ["the first tower's stream", "the second tower's stream"],
                };
                let memory = first.wire(&mut wiring, names[0], None, across.then_some(()));
                second.wire(&mut wiring, names[1], across.then_some(memory), None);
            }
            Self::Multimodal(parts) => {
                let tower = parts.tower.wire(&mut wiring, "the vision tower's stream", None, Some(()));
                let [up, down] = parts.projector.ends();
                feed_memory(&mut wiring, tower, [part(up)]);
                let memory = parts.decoder.wire(&mut wiring, "the decoder's stream", None, None);
                let stream = match memory {
                    Memory::Stream(stream) => Some(stream),
                    Memory::Norm(norm) => wiring.norms[norm].stream,
                };
                if let Some(stream) = stream.filter(|_| down.meta.output == parts.decoder.residual()) {
                    wiring.streams[stream].writers.push(Writer::Map(part(down)));
                }
            }
        }
        wiring
    }
}

/// Lets maps read what the last norm of a part gives.
fn feed_memory(wiring: &mut Wiring, memory: Memory, readers: impl IntoIterator<Item = MatrixPart>) {
    match memory {
        Memory::Norm(norm) => wiring.norms[norm].readers.extend(readers),
        Memory::Stream(stream) => wiring.streams[stream].readers.extend(readers),
    }
}

fn part(site: &SitePlan) -> MatrixPart {
    MatrixPart::of_site(&site.meta, site.bias)
}

fn table(plan: &TablePlan) -> Writer {
    let width = plan.shape.last().copied().unwrap_or(1);
    let rows = plan.shape.iter().product::<usize>() / width.max(1);
    Writer::Table(MatrixPart::whole(plan.tensor.as_str(), [rows, width]))
}

impl Blueprint {
    /// Adds this part of the network; `memory` is what it looks across at. `inner` tells that another part of the network
    /// reads what this one gives, and nothing else does.
    fn wire(&self, wiring: &mut Wiring, name: &str, memory: Option<Memory>, inner: Option<()>) -> Memory {
        let (c, embed) = (&self.config, self.embed());
        // A decoder that borrows the encoder's embedding has its stream as well: both change together.
        let shared = memory.filter(|_| c.borrows_embedding).and_then(|memory| match memory {
            Memory::Norm(norm) => wiring.norms[norm].stream,
            Memory::Stream(stream) => Some(stream),
        });
        let stream = shared.unwrap_or(wiring.streams.len());
        if shared.is_none() {
            wiring.streams.push(Stream {
                name: name.into(),
                axis: self.residual(),
                writers: Vec::new(),
                readers: Vec::new(),
                obstacles: Vec::new(),
                centered: c.centered,
                centered_field: self.field(CENTERED),
            });
        } else {
            wiring.streams[stream].name = "the stream of encoder and decoder".into();
        }
        if c.norm_place == NormPlace::After {
            let message = "its norms stand on the stream, after the sums (Post-LN)";
            wiring.streams[stream].obstacles.push(message.into());
        }
        self.wire_embedding(wiring, stream, &embed);
        for i in 0..c.blocks.len() {
            self.wire_block(wiring, stream, &self.block(i), memory);
        }
        self.wire_head(wiring, stream, &embed, inner.is_some())
    }

    /// A field of the table of `config.json` that describes this part.
    fn field(&self, name: &str) -> Vec<String> {
        self.section.iter().cloned().chain([name.to_string()]).collect()
    }

    fn edge(&self, plan: &NormPlan, stream: Option<usize>) -> NormEdge {
        NormEdge {
            name: plan.name.clone(),
            kind: plan.style.kind,
            gain: format!("{}.weight", plan.name),
            bias: plan.style.bias.then(|| format!("{}.bias", plan.name)),
            offset: f64::from(plan.style.offset),
            axis: plan.axis.clone(),
            stream,
            readers: Vec::new(),
            seen_by: None,
            obstacle: None,
            tied: false,
        }
    }

    fn wire_embedding(&self, wiring: &mut Wiring, stream: usize, embed: &EmbedPlan) {
        let c = &self.config;
        let last = c.embed_projection == EmbedProjection::Last && embed.projection.is_some();
        let into = &mut wiring.streams[stream];
        match (&embed.projection, c.input) {
            (Some(site), _) => into.writers.push(Writer::Map(part(site))),
            (None, Input::Tokens { .. }) if !embed.borrowed => {
                into.writers.push(Writer::Table(part(&embed.site)));
            }
            (None, Input::Patches { .. }) => into.writers.push(Writer::Map(part(&embed.site))),
            (None, Input::Audio { .. }) => {
                let name = &embed.stem.as_ref().unwrap_or(&embed.site).meta.name;
                into.obstacles.push(format!("a GELU stands between \"{name}\" and the stream"));
            }
            _ => {}
        }
        let tables = embed.tokens.iter().chain(&embed.positions).chain(&embed.token_types);
        if !last {
            into.writers.extend(tables.map(table));
        }
        let Some(norm) = &embed.norm else { return };
        let mut edge = self.edge(norm, None);
        match &embed.projection {
            Some(site) if last => edge.readers = vec![part(site)],
            _ => {
                let message = "what it gives is the residual stream itself";
                edge.obstacle = Some(message.into());
                let name = &norm.name;
                into.obstacles.push(format!("the norm \"{name}\" stands on the embedding, in the stream"));
            }
        }
        wiring.norms.push(edge);
    }

    fn wire_block(&self, wiring: &mut Wiring, stream: usize, block: &BlockPlan, memory: Option<Memory>) {
        let c = &self.config;
        let feed = block.feed.readers();
        let attention: Vec<&SitePlan> = block.attention.qkv.iter().collect();
        let together = c.parallel && block.mlp_norm.is_none();
        let first: Vec<&SitePlan> = match together {
            true => attention.iter().copied().chain(feed.iter().copied()).collect(),
            false => attention,
        };
        let cross: Vec<&SitePlan> = block.cross.iter().flat_map(|cross| &cross.qkv[..1]).collect();
        self.wire_norm(wiring, stream, &block.attention_norm, &first);
        if block.cross.is_some() {
            self.wire_norm(wiring, stream, &block.cross_norm, &cross);
        }
        if !together {
            self.wire_norm(wiring, stream, &block.mlp_norm, &feed);
        }
        if let (Some(cross), Some(memory)) = (&block.cross, memory) {
            feed_memory(wiring, memory, cross.qkv[1..].iter().map(part));
        }
        let branches = [
            (vec![&block.attention.o], &block.attention_post_norm, &block.attention_scale),
            (block.cross.iter().map(|cross| &cross.o).collect(), &None, &None),
            (block.feed.writers(), &block.mlp_post_norm, &block.mlp_scale),
        ];
        for (writers, post_norm, scale) in branches {
            let writers: Vec<MatrixPart> = writers.into_iter().map(part).collect();
            if let Some(norm) = post_norm {
                let message = format!("the norm \"{}\" stands between a sublayer and the stream", norm.name);
                wiring.streams[stream].obstacles.push(message);
                let mut edge = self.edge(norm, None);
                edge.obstacle = Some("what it gives is added to the residual stream".into());
                wiring.norms.push(edge);
            } else {
                wiring.streams[stream].writers.extend(writers.iter().cloned().map(Writer::Map));
            }
            if let Some(scale) = scale {
                wiring.scales.push(ScaleEdge {
                    tensor: scale.tensor.clone(),
                    size: scale.shape.iter().product(),
                    sources: if post_norm.is_none() { writers } else { Vec::new() },
                    stream: Some(stream),
                });
            }
        }
        self.wire_values(wiring, &block.name, &block.attention);
        if let Some(cross) = &block.cross {
            self.wire_values(wiring, &format!("{} (across)", block.name), cross);
        }
    }

    /// A norm on the stream, or maps that read the stream without one.
    fn wire_norm(&self, wiring: &mut Wiring, stream: usize, norm: &Option<NormPlan>, readers: &[&SitePlan]) {
        let parts = readers.iter().map(|site| part(site));
        // After the sums, a norm is part of the stream, and the maps read the stream.
        let (norm, parts): (_, Vec<MatrixPart>) = (norm.as_ref(), parts.collect());
        let Some(norm) = norm else { return wiring.streams[stream].readers.extend(parts) };
        let mut edge = self.edge(norm, Some(stream));
        match self.config.norm_place {
            NormPlace::Before => {
                edge.readers = parts;
                edge.seen_by = readers.first().map(|site| site.meta.name.clone());
            }
            NormPlace::After => {
                edge.obstacle = Some("what it gives is the residual stream itself (Post-LN)".into());
                wiring.streams[stream].readers.extend(parts);
            }
        }
        wiring.norms.push(edge);
    }

    fn wire_values(&self, wiring: &mut Wiring, name: &str, attention: &AttentionPlan) {
        let c = &self.config;
        let (d, kv) = (c.head_width, c.kv_heads);
        let group = c.heads / kv;
        let (site, first, step) = match (c.qkv, attention.qkv.as_slice()) {
            (QkvKind::Split, [_, _, v]) => (v, 0, d),
            (QkvKind::Fused, [all]) => (all, (c.heads + kv) * d, d),
            (QkvKind::Interleaved, [all]) => (all, (group + 1) * d, (group + 2) * d),
            // Attention to another part has its maps apart, whatever the blocks have.
            (_, [_, _, v]) => (v, 0, d),
            _ => return,
        };
        let output = part(&attention.o);
        for head in 0..kv {
            let start = first + head * step;
            let columns = (head * group..(head + 1) * group).map(|q| q * d..(q + 1) * d);
            wiring.values.push(ValuePath {
                name: format!("value head {head} of {name}"),
                values: part(site).with_rows(start..start + d),
                outputs: columns.map(|cols| output.clone().with_cols(cols)).collect(),
            });
        }
    }

    /// The last norm and what reads it; tells what another part of the network would read.
    fn wire_head(&self, wiring: &mut Wiring, stream: usize, embed: &EmbedPlan, inner: bool) -> Memory {
        let (c, head) = (&self.config, self.head());
        let mut readers: Vec<MatrixPart> = head.projection.iter().map(part).collect();
        let (mut obstacle, mut tied, mut seen_by) = (None, false, None);
        if let (true, Some(site)) = (readers.is_empty(), &head.site) {
            readers.push(part(site));
            // A pooler sees one row of all.
            seen_by = (c.head == Head::Language).then(|| site.meta.name.clone());
        }
        match c.head {
            Head::Tied => {
                tied = readers.is_empty();
                self.wire_tied(wiring, embed);
            }
            Head::Attended => match &head.pool {
                Some(pool) => {
                    let width = c.width;
                    let all = MatrixPart::whole(pool.in_weight.tensor.as_str(), [3 * width, width]);
                    let bias = Some(pool.in_bias.tensor.clone());
                    // The first third maps the probe, which is no part of the stream.
                    readers.push(MatrixPart { bias, ..all.with_rows(width..3 * width) });
                    let mut edge = self.edge(&pool.norm, None);
                    edge.readers = vec![part(&pool.mlp.up[0])];
                    edge.seen_by = Some(pool.mlp.up[0].meta.name.clone());
                    wiring.norms.push(edge);
                }
                None => obstacle = Some("what it gives is what the network gives"),
            },
            Head::None if inner => {}
            Head::Pooled(Pool::First | Pool::Last | Pool::End) | Head::Pooler | Head::None
                if readers.is_empty() =>
            {
                obstacle = Some("what it gives is what the network gives");
            }
            _ => {}
        }
        match &head.norm {
            Some(norm) => {
                let mut edge = self.edge(norm, Some(stream));
                (edge.readers, edge.tied, edge.seen_by) = (readers, tied, seen_by);
                edge.obstacle = obstacle.map(str::to_string);
                if let Some(obstacle) = &edge.obstacle {
                    let message = format!("\"{}\": {obstacle}", norm.name);
                    wiring.streams[stream].obstacles.push(message);
                }
                wiring.norms.push(edge);
                Memory::Norm(wiring.norms.len() - 1)
            }
            None => {
                let into = &mut wiring.streams[stream];
                into.readers.extend(readers);
                if obstacle.is_some() {
                    into.obstacles.push("the stream itself is what the network gives".into());
                }
                if tied {
                    into.obstacles.push("the embedding, as a head, reads the stream without a norm".into());
                }
                Memory::Stream(stream)
            }
        }
    }

    fn wire_tied(&self, wiring: &mut Wiring, embed: &EmbedPlan) {
        let Some(untied) = &self.untied else { return };
        wiring.tied = Some(TiedHead {
            embedding: part(&embed.site),
            head: format!("{}.weight", self.module(untied.head.as_deref().unwrap_or("/lm_head"))),
            factor: untied.factor,
            field: self.field(&untied.field),
        });
    }

    /// The style of a norm on the stream: where that has the mean zero, a layer norm is an RMS norm.
    pub(super) fn style_on(&self, axis: &Axis) -> NormStyle {
        match self.config.centered && *axis == self.residual() {
            true => NormStyle { kind: NormKind::Rms, ..self.config.norm },
            false => self.config.norm,
        }
    }
}

impl FeedPlan {
    /// The maps that read what the norm before the sublayer gives; first one that sees all rows.
    fn readers(&self) -> Vec<&SitePlan> {
        match self {
            Self::Mlp(mlp) => mlp.up.iter().collect(),
            Self::Experts(all) => {
                let shared = all.shared.iter().flat_map(|mlp| &mlp.up).chain(&all.shared_gate);
                let experts = all.experts.iter().flat_map(|mlp| &mlp.up);
                std::iter::once(&all.router).chain(shared).chain(experts).collect()
            }
        }
    }

    /// The maps whose outputs the sublayer adds up.
    fn writers(&self) -> Vec<&SitePlan> {
        match self {
            Self::Mlp(mlp) => vec![&mlp.down],
            Self::Experts(all) => {
                all.shared.iter().chain(&all.experts).map(|mlp: &MlpPlan| &mlp.down).collect()
            }
        }
    }
}
