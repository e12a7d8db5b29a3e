//! What a network for super-resolution can be made of, and what was chosen of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use trimtab_math::random::Stream;

use super::rounding::hwgq_step;
use crate::error::{Error, Result};

/// Colours of an image.
pub(super) const COLOURS: usize = 3;

/// Factor of the channels in the middle of an operation that grows.
const GROWTH: usize = 2;

/// Version of the files of genotypes.
const VERSION: u32 = 1;

/// What can stand at an edge of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A convolution of one pixel.
    Conv1,
    /// A convolution of 3 by 3 pixels.
    Conv3,
    /// A convolution of 5 by 5 pixels.
    Conv5,
    /// A convolution of 3 by 3 pixels in two groups of channels.
    Grouped3,
    /// Two convolutions of 3 by 3 pixels with twice the channels between them.
    Growth3,
}

/// One convolution of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConvSize {
    pub(super) kernel: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) groups: usize,
}

impl ConvSize {
    /// Products for a pixel.
    fn macs(&self) -> u64 {
        (self.kernel * self.kernel * self.inputs / self.groups * self.outputs) as u64
    }
}

impl Operation {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Conv1, Self::Conv3, Self::Conv5, Self::Grouped3, Self::Growth3];

    /// Its convolutions between so many channels, in order.
    pub(super) fn convolutions(self, inputs: usize, outputs: usize) -> Vec<ConvSize> {
        let conv = |kernel, inputs, outputs, groups| ConvSize { kernel, inputs, outputs, groups };
        match self {
            Self::Conv1 => vec![conv(1, inputs, outputs, 1)],
            Self::Conv3 => vec![conv(3, inputs, outputs, 1)],
            Self::Conv5 => vec![conv(5, inputs, outputs, 1)],
            Self::Grouped3 => vec![conv(3, inputs, outputs, 2)],
            Self::Growth3 => {
                let middle = GROWTH * inputs;
                vec![conv(3, inputs, middle, 1), conv(3, middle, outputs, 1)]
            }
        }
    }

    /// Whether it can stand between so many channels.
    fn fits(self, inputs: usize, outputs: usize) -> bool {
        self != Self::Grouped3 || (inputs.is_multiple_of(2) && outputs.is_multiple_of(2))
    }

    /// Multiply-adds for a pixel.
    pub fn macs(self, inputs: usize, outputs: usize) -> u64 {
        self.convolutions(inputs, outputs).iter().map(ConvSize::macs).sum()
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Conv1 => "conv1",
            Self::Conv3 => "conv3",
            Self::Conv5 => "conv5",
            Self::Grouped3 => "grouped3",
            Self::Growth3 => "growth3",
        })
    }
}

/// An operation and the bits of its weights and inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The operation.
    pub op: Operation,
    /// Bits.
    pub bits: u8,
}

/// The parts of a network that are not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Skeleton {
    /// Channels between the operations: a multiple of 6, so that colours are repeated and halves have halves.
    pub channels: usize,
    /// Cells, one after another.
    pub cells: usize,
    /// How many times larger images become.
    pub scale: usize,
}

impl Default for Skeleton {
    fn default() -> Self {
        Self { channels: 12, cells: 2, scale: 2 }
    }
}

/// Operations of a chain in a cell, and the first of them that have a side path.
pub(super) const CHAIN: usize = 4;
pub(super) const SIDES: usize = 3;

/// A place of the network with what can stand there.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeSpec {
    /// Name in files.
    pub name: String,
    /// Channels that it reads.
    pub inputs: usize,
    /// Channels that it writes.
    pub outputs: usize,
    /// Whether its input is added to its output.
    pub skip: bool,
    /// Pixels that it computes for a pixel of the small image.
    pub pixels: usize,
    /// Operations to choose from.
    pub ops: Vec<Operation>,
    /// Widths to choose from.
    pub bits: Vec<u8>,
}

impl EdgeSpec {
    /// Multiply-adds for a pixel of the small image times bits of weights times bits of inputs.
    pub fn bit_ops(&self, choice: Choice) -> f64 {
        let macs = choice.op.macs(self.inputs, self.outputs) * self.pixels as u64;
        macs as f64 * f64::from(choice.bits) * f64::from(choice.bits)
    }

    /// What can stand there, in the order of coefficients: operation by operation.
    pub fn candidates(&self) -> Vec<Choice> {
        let of = |op: &Operation| self.bits.iter().map(|&bits| Choice { op: *op, bits }).collect::<Vec<_>>();
        self.ops.iter().flat_map(of).collect()
    }

    /// Whether there is something to choose.
    pub fn is_open(&self) -> bool {
        self.ops.len() * self.bits.len() > 1
    }
}

impl Skeleton {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] with the field.
    pub fn check(&self) -> Result<()> {
        let Self { channels, cells, scale } = *self;
        if channels == 0 || channels % (2 * COLOURS) != 0 || channels > 1024 {
            let message = format!("must be a multiple of {} up to 1024, found {channels}", 2 * COLOURS);
            return Err(Error::setting("channels", message));
        }
        if !(1..=64).contains(&cells) {
            return Err(Error::setting("cells", format!("must lie between 1 and 64, found {cells}")));
        }
        if !(2..=4).contains(&scale) {
            return Err(Error::setting("scale", format!("must be 2, 3 or 4, found {scale}")));
        }
        Ok(())
    }

    /// All places in the order in which data reaches them: in each cell a chain of four with three side paths, and what joins them;
    /// then what makes the image larger, and what it passes at last. What joins is a convolution of one pixel in 8 bits.
    pub fn edges(&self, ops: &[Operation], bits: &[u8]) -> Vec<EdgeSpec> {
        let Self { channels, cells, scale } = *self;
        let open = |name: String, [inputs, outputs]: [usize; 2], skip: bool, pixels: usize| EdgeSpec {
            name,
            inputs,
            outputs,
            skip,
            pixels,
            ops: ops.iter().copied().filter(|op| op.fits(inputs, outputs)).collect(),
            bits: bits.to_vec(),
        };
        let mut edges = Vec::new();
        for cell in 0..cells {
            for i in 0..CHAIN {
                if i < SIDES {
                    edges.push(open(format!("cells.{cell}.side.{i}"), [channels, channels / 2], false, 1));
                }
                edges.push(open(format!("cells.{cell}.chain.{i}"), [channels; 2], true, 1));
            }
            let join =
                open(format!("cells.{cell}.join"), [channels + SIDES * channels / 2, channels], false, 1);
            edges.push(EdgeSpec { ops: vec![Operation::Conv1], bits: vec![8], ..join });
        }
        edges.push(open("enlarge".into(), [channels, COLOURS * scale * scale], false, 1));
        edges.push(open("tail".into(), [COLOURS; 2], true, scale * scale));
        edges
    }
}

/// A network: what stands at each place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genotype {
    /// Version of the format; 1.
    pub version: u32,
    /// The parts that are not chosen.
    pub skeleton: Skeleton,
    /// What stands at each place, by its name.
    pub edges: BTreeMap<String, Choice>,
}

impl Genotype {
    fn of(skeleton: Skeleton, edges: &[EdgeSpec], mut choose: impl FnMut(&EdgeSpec) -> Choice) -> Self {
        let edges = edges.iter().map(|edge| (edge.name.clone(), choose(edge))).collect();
        Self { version: VERSION, skeleton, edges }
    }

    /// What has the largest coefficient at each place; `alphas` are in the order of `edges` and of their candidates. The first of equals.
    pub fn derive(skeleton: Skeleton, edges: &[EdgeSpec], alphas: &[Vec<f32>]) -> Self {
        let mut of = alphas.iter();
        Self::of(skeleton, edges, |edge| {
            let candidates = edge.candidates();
            // Not from 0: coefficients may be logits, which are negative as well.
            let (mut best, mut most) = (0, f32::NEG_INFINITY);
            for (i, &alpha) in of.next().into_iter().flatten().enumerate() {
                if alpha > most {
                    (best, most) = (i, alpha);
                }
            }
            candidates[best.min(candidates.len() - 1)]
        })
    }

    /// The same operation in the same bits at every open place.
    pub fn uniform(skeleton: Skeleton, choice: Choice) -> Self {
        let edges = skeleton.edges(&[choice.op], &[choice.bits]);
        Self::of(skeleton, &edges, |edge| edge.candidates().first().copied().unwrap_or(choice))
    }

    /// A random one whose cost is within `tolerance` of `bit_ops`; `None` if none was met on the way.
    ///
    /// It begins anywhere; then single places are drawn anew, and what is no farther from the cost stays, until it is near enough.
    pub fn random(
        skeleton: Skeleton,
        edges: &[EdgeSpec],
        bit_ops: f64,
        tolerance: f64,
        stream: &mut Stream,
    ) -> Option<Self> {
        let options: Vec<Vec<Choice>> = edges.iter().map(EdgeSpec::candidates).collect();
        let mut at: Vec<usize> = options.iter().map(|options| stream.below(options.len())).collect();
        let cost =
            |at: &[usize]| -> f64 { (0..edges.len()).map(|i| edges[i].bit_ops(options[i][at[i]])).sum() };
        let off = |at: &[usize]| (cost(at) / bit_ops - 1.0).abs();
        for _ in 0..20_000 {
            let far = off(&at);
            if far <= tolerance {
                let mut chosen = at.iter().zip(&options).map(|(&i, options)| options[i]);
                return Some(Self::of(skeleton, edges, |edge| chosen.next().unwrap_or(edge.candidates()[0])));
            }
            let i = stream.below(edges.len());
            let old = std::mem::replace(&mut at[i], stream.below(options[i].len()));
            if off(&at) > far {
                at[i] = old;
            }
        }
        None
    }

    /// Its places, each with the one thing that stands there.
    ///
    /// # Errors
    /// [`Error::Setting`] for another version, a place that is missing or unknown, an operation that does not fit its place, or bits
    /// that have no published step for inputs.
    pub fn edges(&self) -> Result<Vec<EdgeSpec>> {
        if self.version != VERSION {
            return Err(Error::setting(
                "genotype.version",
                format!("is {}, expected {VERSION}", self.version),
            ));
        }
        self.skeleton.check()?;
        let mut edges = self.skeleton.edges(&Operation::ALL, &[8]);
        if let Some(name) = self.edges.keys().find(|name| !edges.iter().any(|edge| edge.name == **name)) {
            return Err(Error::setting(format!("genotype.edges.{name}"), "is no place of this network"));
        }
        for edge in &mut edges {
            let refused = |message: String| Error::setting(format!("genotype.edges.{}", edge.name), message);
            let Some(&Choice { op, bits }) = self.edges.get(&edge.name) else {
                return Err(refused("is missing".into()));
            };
            if !op.fits(edge.inputs, edge.outputs) {
                let message = format!("{op} does not fit {} and {} channels", edge.inputs, edge.outputs);
                return Err(refused(message));
            }
            check_bits(bits).map_err(refused)?;
            (edge.ops, edge.bits) = (vec![op], vec![bits]);
        }
        Ok(edges)
    }

    /// Multiply-adds for a pixel of the small image times bits of weights times bits of inputs.
    ///
    /// # Errors
    /// Those of [`Genotype::edges`].
    pub fn bit_ops(&self) -> Result<f64> {
        let edges = self.edges()?;
        Ok(edges
            .iter()
            .map(|edge| edge.candidates().iter().map(|&choice| edge.bit_ops(choice)).sum::<f64>())
            .sum())
    }
}

/// Refuses bits that weights or inputs cannot have, and says why.
pub(super) fn check_bits(bits: u8) -> Result<(), String> {
    match bits >= 2 && hwgq_step(bits).is_some() {
        true => Ok(()),
        false => Err(format!("must be 2, 3, 4, 8 or 16 bits, found {bits}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Vec<EdgeSpec> {
        Skeleton::default().edges(&Operation::ALL, &[4, 8])
    }

    #[test]
    fn costs_by_hand() {
        let edges = space();
        assert_eq!(edges.len(), 2 * 8 + 2);
        let edge = |name: &str| edges.iter().find(|edge| edge.name == name).unwrap();
        let cost = |name, op, bits| edge(name).bit_ops(Choice { op, bits });
        assert_eq!(cost("cells.0.chain.3", Operation::Conv3, 4), (9 * 12 * 12 * 16) as f64);
        assert_eq!(cost("cells.1.side.0", Operation::Conv1, 8), (12 * 6 * 64) as f64);
        assert_eq!(cost("cells.1.chain.0", Operation::Grouped3, 4), (9 * 6 * 12 * 16) as f64);
        assert_eq!(cost("enlarge", Operation::Growth3, 4), (9 * (12 * 24 + 24 * 12) * 16) as f64);
        assert_eq!(cost("tail", Operation::Conv5, 8), (4 * 25 * 9 * 64) as f64, "four pixels for one");
        assert_eq!(cost("cells.0.join", Operation::Conv1, 8), (30 * 12 * 64) as f64);
        assert!(!edge("cells.0.join").is_open() && edge("tail").is_open());
        assert!(!edge("tail").ops.contains(&Operation::Grouped3), "three channels have no halves");
        let four = Genotype::uniform(Skeleton::default(), Choice { op: Operation::Conv3, bits: 4 });
        let by_hand = 2.0 * (4.0 * 9.0 * 144.0 * 16.0 + 3.0 * 9.0 * 72.0 * 16.0 + 360.0 * 64.0)
            + 9.0 * 144.0 * 16.0
            + 4.0 * 9.0 * 9.0 * 16.0;
        assert_eq!(four.bit_ops().unwrap(), by_hand);
    }

    #[test]
    fn the_largest_coefficient_counts_whatever_its_sign() {
        let edges = space();
        let alphas: Vec<Vec<f32>> = edges
            .iter()
            .enumerate()
            .map(|(i, edge)| {
                let n = edge.candidates().len();
                (0..n).map(|j| if j == i % n { -1.0 } else { -2.0 }).collect()
            })
            .collect();
        let genotype = Genotype::derive(Skeleton::default(), &edges, &alphas);
        for (i, edge) in edges.iter().enumerate() {
            let candidates = edge.candidates();
            assert_eq!(genotype.edges[&edge.name], candidates[i % candidates.len()], "{}", edge.name);
        }
        // Of equals the first.
        let flat: Vec<Vec<f32>> = edges.iter().map(|edge| vec![0.1; edge.candidates().len()]).collect();
        let first = Genotype::derive(Skeleton::default(), &edges, &flat);
        assert!(edges.iter().all(|edge| first.edges[&edge.name] == edge.candidates()[0]));
    }

    #[test]
    fn random_ones_cost_what_was_asked_for() {
        let edges = space();
        let target = Genotype::uniform(Skeleton::default(), Choice { op: Operation::Conv3, bits: 4 });
        let target = target.bit_ops().unwrap();
        let mut all = Vec::new();
        for seed in 0..5 {
            let mut stream = Stream::new(seed, "random", 0, 0);
            let found = Genotype::random(Skeleton::default(), &edges, target, 0.05, &mut stream).unwrap();
            assert!((found.bit_ops().unwrap() / target - 1.0).abs() <= 0.05);
            all.push(found);
        }
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        let stream = &mut Stream::new(0, "random", 0, 0);
        assert_eq!(
            Genotype::random(Skeleton::default(), &edges, 1.0, 0.05, stream),
            None,
            "nothing is that cheap"
        );
    }

    #[test]
    fn files_that_do_not_hold_together_are_refused() {
        let good = Genotype::uniform(Skeleton::default(), Choice { op: Operation::Conv3, bits: 8 });
        let json = serde_json::to_string(&good).unwrap();
        let back: Genotype = serde_json::from_str(&json).unwrap();
        assert_eq!(back, good);
        let refused = |change: &dyn Fn(&mut Genotype), part: &str| {
            let mut bad = good.clone();
            change(&mut bad);
            let message = bad.edges().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(&|bad| bad.version = 2, "version");
        refused(&|bad| bad.edges.retain(|name, _| name != "tail"), "genotype.edges.tail\": is missing");
        refused(&|bad| bad.skeleton.cells = 1, "cells.1");
        refused(&|bad| bad.skeleton.channels = 8, "multiple of 6");
        refused(&|bad| bad.edges.get_mut("tail").unwrap().op = Operation::Grouped3, "3 and 3 channels");
        refused(&|bad| bad.edges.get_mut("enlarge").unwrap().bits = 5, "found 5");
        refused(&|bad| bad.skeleton.scale = 9, "scale");
    }
}
