//! The same on text: a language model whose weights are tuned at several widths at once.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use trimtab::choice::Choice;
use trimtab::floors::nn::{Ctx, Flow, Network, Role};
use trimtab::floors::train::quantized::{DoubleRounding as Widths, Joint, Rounding, Switchable};
use trimtab::floors::train::{
    Group, NextToken, OptimizerConfig, Paths, Phase, Schedule, Settings, Silent, TokenWindows, Trainer,
};
use trimtab::quantizer::{Method, Quantizer};

use crate::experiment::Table;
use crate::experiments::figures::mean;
use crate::experiments::wikilm::{Attempt, WikiLm};
use crate::lab::Lab;

/// Of weights alone.
pub(super) const BITS: [u8; 4] = [8, 6, 4, 3];
/// Windows of a step, and tokens of a window.
const BATCH: usize = 4;
const WINDOW: usize = 128;
const RATE: f64 = 5e-5;
/// Of the steps of the codes, which are a thousand times smaller than weights.
const STEPS_RATE: f64 = 1e-6;

/// How much is tuned and judged.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub steps: usize,
    pub seeds: u64,
    /// Windows to judge on.
    pub judged: usize,
}

/// What is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    /// All widths of one code.
    Double,
    /// All widths, the low bits of the code dropped.
    Truncated,
    /// A network for each width, LSQ.
    Separate,
    /// Nothing is rounded: what tuning alone does.
    Full,
}

impl Arm {
    const ALL: [Self; 4] = [Self::Double, Self::Truncated, Self::Separate, Self::Full];

    fn name(self) -> &'static str {
        match self {
            Self::Double => "double rounding, tuned",
            Self::Truncated => "truncation, tuned",
            Self::Separate => "four networks, LSQ, tuned",
            Self::Full => "not rounded, tuned",
        }
    }

    /// The runs of the arm; `None` rounds nothing.
    fn runs(self) -> Vec<Option<Widths>> {
        // Rates by width are for plain descent: Adam takes a factor of all gradients out again.
        let joint = |rounding| {
            let widths = BITS.to_vec();
            Widths { widths, rounding, inputs: false, alrs: false, ..Widths::default() }
        };
        match self {
            Self::Double => vec![Some(joint(Rounding::Double))],
            Self::Truncated => vec![Some(joint(Rounding::Truncate))],
            Self::Separate => {
                let alone = |bits| Some(Widths { widths: vec![bits], ..joint(Rounding::Direct) });
                BITS.map(alone).to_vec()
            }
            Self::Full => vec![None],
        }
    }
}

/// Perplexities.
pub(super) struct Found {
    original: f64,
    /// By width: of rounding to nearest, and of double rounding, nothing tuned.
    untuned: [Vec<f64>; 2],
    /// `[arm][seed][width]`; of [`Arm::Full`] one figure a seed.
    arms: Vec<(Arm, Vec<Vec<f64>>)>,
    size: Size,
}

fn logits(model: &Network, ids: Tensor<2, Int>, ctx: &mut Ctx<'_>) -> trimtab::floors::nn::Result<Tensor<3>> {
    model.forward(Flow::Tokens(ids), ctx)?.hidden("loss")
}

/// The model with widths; its head stays as it is.
fn switchable(lm: &WikiLm, widths: &Widths) -> Attempt<Switchable> {
    let network = lm.model.trainable(&Device::flex().autodiff())?;
    let head = lm.model.sites(Role::Head).map(|site| site.name.clone()).collect();
    let widths = Widths { keep: Some(Paths(head)), ..widths.clone() };
    let ids = Tensor::from_ints([[0, 1, 2, 3]], &Device::flex());
    Ok(Switchable::new(network, &widths, |network, ctx| Ok(logits(network, ids, ctx).map(drop)?))?)
}

fn perplexities(lm: &WikiLm, networks: &[Network]) -> Attempt<Vec<f64>> {
    let all: Vec<&Network> = networks.iter().collect();
    Ok(lm.judged(&all)?.into_iter().map(|quality| quality.perplexity.unwrap_or(f64::NAN)).collect())
}

/// Tunes a run of an arm; the perplexity at each of its widths.
fn tuned(lm: &WikiLm, widths: Option<&Widths>, size: Size, seed: u64) -> Attempt<Vec<f64>> {
    let count = size.steps * BATCH;
    // Every seed sees other windows.
    let tokens = lm.seen().get(seed as usize * count * WINDOW..).unwrap_or_default();
    let tokens = tokens.get(..count * WINDOW + 1).ok_or("too little text")?;
    let data = TokenWindows::new(tokens.to_vec(), WINDOW, lm.model.vocab().unwrap_or(0), "reviews")?;
    let schedule = Schedule::Cosine { warmup: 0.1, floor: 0.0 };
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.95, epsilon: 1e-8, weight_decay: 0.0 };
    let steps = Group {
        paths: Paths(vec!["steps.".into()]),
        optimizer: None,
        rate: Some(STEPS_RATE),
        schedule: None,
    };
    let groups = if widths.is_some() { vec![steps] } else { Vec::new() };
    let phase = Phase { schedule, groups, ..Phase::new(size.steps, RATE, optimizer) };
    let settings = Settings { seed, clip_norm: Some(1.0), ..Settings::new(BATCH, vec![phase]) };
    let (device, inner) = (Device::flex(), NextToken(logits));
    match widths {
        None => {
            let network = lm.model.trainable(&device.clone().autodiff())?;
            let trainer = Trainer::new(&data, &inner, &settings, device);
            let network = trainer.run(network, &mut Silent::default())?.module.valid();
            perplexities(lm, &[network])
        }
        Some(widths) => {
            let joint = Joint::new(&inner, widths.clone());
            let trainer = Trainer::new(&data, &joint, &settings, device);
            let found = trainer.run(switchable(lm, widths)?, &mut Silent::default())?.module.valid();
            let networks: Vec<Network> = (0..widths.widths.len()).map(|width| found.at(width)).collect();
            perplexities(lm, &networks)
        }
    }
}

/// All arms.
pub(super) fn measure(lab: &Lab<'_>, size: Size) -> Attempt<Found> {
    let lm = WikiLm::open(lab, size.judged)?;
    let rounded = BITS.map(|bits| -> Attempt<Network> {
        let choice: Choice = format!("int{bits} row sym").parse()?;
        lm.treated(choice, &Quantizer::plain(Method::Rtn), None)
    });
    let rounded = perplexities(&lm, &rounded.into_iter().collect::<Attempt<Vec<_>>>()?)?;
    let widths = Arm::Double.runs().into_iter().flatten().next().ok_or("widths")?;
    let begun = switchable(&lm, &widths)?.valid();
    let begun: Vec<Network> = (0..BITS.len()).map(|width| begun.at(width)).collect();
    let begun = perplexities(&lm, &begun)?;
    let seeds = 0..size.seeds;
    let mut arms = Vec::new();
    for arm in Arm::ALL {
        let mut by_seed = Vec::new();
        for seed in seeds.clone() {
            lab.tell(&format!("seed {seed}: text, {}", arm.name()))?;
            let runs = arm.runs();
            let runs = runs.iter().map(|widths| tuned(&lm, widths.as_ref(), size, seed));
            by_seed.push(runs.collect::<Attempt<Vec<_>>>()?.concat());
        }
        arms.push((arm, by_seed));
    }
    Ok(Found { original: lm.perplexity()?, untuned: [rounded, begun], arms, size })
}

impl Found {
    fn of(&self, arm: Arm) -> Vec<f64> {
        let seeds = self.arms.iter().find(|(other, _)| *other == arm).map_or(&[][..], |(_, seeds)| seeds);
        let widths = seeds.first().map_or(0, Vec::len);
        (0..widths).map(|width| mean(&seeds.iter().map(|seed| seed[width]).collect::<Vec<_>>())).collect()
    }

    /// In one line.
    pub(super) fn figure(&self) -> String {
        let at =
            |arm| self.of(arm)[2..].iter().map(|ppl| format!("{ppl:.1}")).collect::<Vec<_>>().join(" and ");
        format!(
            "text at 4 and 3 bits, perplexity: double rounding {}, truncation {}, a network for each {}, not rounded {:.1}",
            at(Arm::Double),
            at(Arm::Truncated),
            at(Arm::Separate),
            mean(&self.of(Arm::Full)),
        )
    }

    /// All of it.
    pub(super) fn table(&self) -> Table {
        let line = |name: &str, values: &[f64]| -> Vec<String> {
            std::iter::once(name.to_string()).chain(values.iter().map(|ppl| format!("{ppl:.2}"))).collect()
        };
        let [rounded, begun] = &self.untuned;
        let mut rows = vec![
            line("as it was, not rounded", &[self.original; 4]),
            line("rounding to nearest", rounded),
            line("double rounding, nothing tuned", begun),
        ];
        rows.extend(self.arms.iter().map(|(arm, _)| {
            let found = self.of(*arm);
            let each: Vec<f64> = found.iter().copied().cycle().take(BITS.len()).collect();
            line(arm.name(), &each)
        }));
        let columns = std::iter::once(String::new()).chain(BITS.map(|bits| format!("{bits} bits")));
        let Size { steps, seeds, judged } = self.size;
        let title = format!(
            "Perplexity of wikilm, weights of the blocks alone, tuned for {steps} steps of {BATCH} windows of {WINDOW} tokens, mean of \
             {seeds} seeds, {judged} windows of 256 to judge on"
        );
        Table { title, columns: columns.collect(), rows }
    }
}
