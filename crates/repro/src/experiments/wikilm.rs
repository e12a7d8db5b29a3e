//! wikilm, a llama of 6 blocks that was trained on English texts: what experiments on branches open, treat, train and judge.

use std::error::Error as StdError;

use trimtab::calibration::{Calibration, CalibrationSettings};
use trimtab::choice::Choice;
use trimtab::floors::calibrate::Batch;
use trimtab::floors::io::read_text;
use trimtab::floors::models::Model;
use trimtab::floors::nn::{Network, host};
use trimtab::floors::plan::Selection;
use trimtab::floors::train::TokenWindows;
use trimtab::floors::train::objectives::TaughtWindows;
use trimtab::form::Form;
use trimtab::inventory::{Inventory, TreatedSite};
use trimtab::judge::{Judge, Quality};
use trimtab::monitor::Quiet;
use trimtab::quantizer::Quantizer;
use trimtab::training::correct::{CorrectionSettings, taught_by, train_branches, with_branches};
use trimtab::treating::{Assignment, Job};

use crate::lab::Lab;

/// Why a step failed.
pub type Failure = Box<dyn StdError + Send + Sync>;
/// Result of a step.
pub type Attempt<T> = std::result::Result<T, Failure>;

const MODEL: &str = "lm/wikilm";
const SEEN: &str = "text/reviews/calibration.txt";
const HELD_OUT: &str = "text/reviews/test.txt";
/// Tokens of a window.
pub const WINDOW: usize = 256;

/// The model, its original network, and reviews that nothing was trained or calibrated on.
pub struct WikiLm {
    pub model: Model,
    pub inventory: Inventory,
    pub original: Network,
    judge: Judge,
    /// Tokens of the reviews to train and calibrate on.
    seen: Vec<u32>,
}

impl WikiLm {
    /// Opens it, to be judged on so many windows.
    pub fn open(lab: &Lab<'_>, judged: usize) -> Attempt<Self> {
        let model = Model::open(&lab.file(MODEL)?.display().to_string(), None)?;
        let inventory = Inventory::take(&model, &Selection::default(), Form::Packed)?;
        let original = model.network()?;
        let encode = |name: &str| -> Attempt<Vec<u32>> {
            Ok(model.tokenizer()?.encode(&read_text(lab.file(name)?)?, false)?)
        };
        let (tokens, seen) = (encode(HELD_OUT)?, encode(SEEN)?);
        let judge = Judge::Text { tokens, window: WINDOW, stride: WINDOW, limit: judged };
        Ok(Self { model, inventory, original, judge, seen })
    }

    /// What it is, in one line.
    pub fn describe(&self) -> String {
        format!(
            "wikilm: llama of 6 blocks, width 256, {} weights in {} maps",
            self.inventory.totals.treated_weights,
            self.inventory.sites.len()
        )
    }

    /// A sample of the reviews to calibrate on.
    pub fn calibration(&self, lab: &Lab<'_>, samples: usize, seed: u64) -> Attempt<Calibration> {
        self.calibration_on(SEEN, lab, samples, seed)
    }

    /// A sample of a text.
    pub fn calibration_on(
        &self,
        text: &str,
        lab: &Lab<'_>,
        samples: usize,
        seed: u64,
    ) -> Attempt<Calibration> {
        let settings = CalibrationSettings {
            source: Some(lab.file(text)?),
            samples: Some(samples),
            window: Some(WINDOW),
            seed,
            ..CalibrationSettings::default()
        };
        Ok(Calibration::load(&self.model, &settings)?)
    }

    /// The network with one choice for every map.
    pub fn treated(
        &self,
        choice: Choice,
        quantizer: &Quantizer,
        calibration: Option<&Calibration>,
    ) -> Attempt<Network> {
        let of = |site: &TreatedSite| (site.meta.name.clone(), choice);
        let assignment: Assignment = self.inventory.sites.iter().map(of).collect();
        let (model, inventory) = (&self.model, &self.inventory);
        let job = Job { model, inventory, assignment: &assignment, quantizer, form: Form::Packed };
        let treated = job.collected(calibration, &mut Quiet::default())?;
        let mut network = self.model.network()?;
        treated.put(&mut network, inventory)?;
        Ok(network)
    }

    /// Bits for each weight of the maps, with the branch and without.
    pub fn bits(&self, choice: Choice) -> [f64; 2] {
        [choice, Choice::from(choice.scheme)].map(|choice| {
            let bytes = self.inventory.sites.iter().map(|site| choice.bytes(&site.meta, site.dtype)).sum();
            self.inventory.totals.bits_per_weight(bytes).unwrap_or(f64::NAN)
        })
    }

    /// How good networks are, and how far from the original.
    pub fn judged(&self, networks: &[&Network]) -> Attempt<Vec<Quality>> {
        Ok(self.judge.compare(&self.model, networks, &self.original, &mut Quiet::default())?)
    }

    /// Perplexity of the original.
    pub fn perplexity(&self) -> Attempt<f64> {
        let score = self.judge.score(&self.model, &self.original, &mut Quiet::default())?;
        Ok(score.perplexity.unwrap_or(f64::NAN))
    }

    /// Windows of `length` tokens to train on, `count` of them and a few more to watch, with what the original says of each.
    pub fn lessons(&self, count: usize, length: usize, top_k: usize) -> Attempt<[TaughtWindows; 2]> {
        let vocab = self.model.vocab().unwrap_or(0);
        let watched = 4;
        let cut = |range: std::ops::Range<usize>| -> Attempt<TaughtWindows> {
            let tokens =
                self.seen.get(range.start * length..range.end * length + 1).ok_or("too little text")?;
            let windows = TokenWindows::new(tokens.to_vec(), length, vocab, "reviews")?;
            Ok(taught_by(&self.original, windows, top_k, &mut Quiet::default())?)
        };
        Ok([cut(0..count)?, cut(count..count + watched)?])
    }

    /// Trains the branches of a network, new ones where it has none; everything else stays.
    pub fn trained(
        &self,
        network: Network,
        [lessons, watched]: [&TaughtWindows; 2],
        settings: &CorrectionSettings,
    ) -> Attempt<Network> {
        let sites = &self.inventory.sites;
        let mut network = with_branches(network, sites, settings)?;
        let found = train_branches(
            network.clone(),
            sites,
            [lessons, watched],
            settings,
            None,
            &mut Quiet::default(),
        )?;
        for (name, factors) in &found.branches {
            let branch = trimtab::floors::nn::Branch::of(factors, self.model.device());
            let (_, site) = network.site_mut(name).ok_or("a site of the network")?;
            site.set_branches(vec![branch])?;
        }
        Ok(network)
    }

    /// Texts to be continued: the first tokens of held-out windows.
    pub fn begun(&self, texts: usize, length: usize) -> Vec<Vec<u32>> {
        self.held_out().chunks_exact(WINDOW).take(texts).map(|window| window[..length].to_vec()).collect()
    }

    /// Tokens of the reviews to train and calibrate on.
    pub fn seen(&self) -> &[u32] {
        &self.seen
    }

    /// Tokens of the reviews to judge on.
    pub fn held_out(&self) -> &[u32] {
        if let Judge::Text { tokens, .. } = &self.judge { tokens } else { &[] }
    }

    /// Negative log-likelihood that the original gives the tokens after the first `from`, summed.
    pub fn surprise(&self, tokens: &[u32], from: usize) -> Attempt<f64> {
        let batch = Batch::windows(&[tokens], self.model.device());
        let logits = self.original.forward(batch.input.clone(), &mut batch.ctx())?.hidden("words")?;
        let [_, _, vocab] = logits.dims();
        let logits = host(logits);
        let nats = |at: usize| {
            let row = &logits[(at - 1) * vocab..at * vocab];
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&z| f64::from(z - most).exp()).sum();
            sum.ln() + f64::from(most - row[tokens[at] as usize])
        };
        Ok((from..tokens.len()).map(nats).sum())
    }
}
