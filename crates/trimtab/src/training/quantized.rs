//! Recipes that train a network for few bits.

use std::collections::BTreeMap;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use trimtab_io::{Dtype, InputCode, PackedConfig, QuantizationConfig, RawTensor, RealScheme};
use trimtab_models::{Normalization, Zoo};
use trimtab_nn::{Ctx, Network};
use trimtab_train::objectives::ImageBatch;
use trimtab_train::quantized::{
    Adapt, Attention, Binary, Bivit, DoubleRounding, FixedPoint, Format, InBits, InFixedPoint, Joint,
    Rounding, SiteFormat, Stages, Switchable,
};
use trimtab_train::{BatchTransform, Dataset, Item, Measured, Objective, Outcome, Pictures, Trainer};

use super::{Output, Recipe, Run, Summary, WeightType, logits};
use crate::apply::pretty;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::switching;

/// Images by which the steps of inputs begin.
const FIRST: usize = 100;

/// The formats of a model in fixed point, beside it.
const FORMATS: &str = "formats.json";

/// How a network is trained for few bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum QuantizationSettings {
    /// All widths of one integer code at once; `trimtab apply --bits` chooses one.
    DoubleRounding(DoubleRounding),
    /// Fixed point with formats that change during training (AdaPT).
    Adapt(Adapt),
    /// Transformers of one bit (BiViT); phases of the run make them so by and by.
    Bivit(Bivit),
}

impl QuantizationSettings {
    /// Refuses what makes no sense in a recipe, before anything is written.
    pub(super) fn check(&self, recipe: &Recipe) -> Result<()> {
        let refused =
            |what: &'static str, message: &str| Err(Error::Setting { what, message: message.into() });
        if recipe.dtype != WeightType::F32 {
            let message = "must be \"f32\": what is trained for few bits is written as it was measured";
            return refused("dtype", message);
        }
        match self {
            Self::DoubleRounding(settings) if settings.mixed.is_some() => refused(
                "quantization.mixed",
                "is for experiments: a recipe trains every width with norms of its own",
            ),
            Self::DoubleRounding(settings) if settings.rounding != Rounding::Double => refused(
                "quantization.rounding",
                "is for experiments: only codes that are rounded twice can be switched",
            ),
            Self::Adapt(_) if recipe.training.average.is_some() => {
                refused("training.average", "cannot be kept of networks whose formats change")
            }
            // The phase is a number of the module, of which the mean over steps is none.
            Self::Bivit(settings)
                if recipe.training.average.is_some() && settings.stages != Stages::Together =>
            {
                let message = "cannot be kept of a network that becomes binary by phases\nhint: leave it out, or set quantization.stages = \"together\"";
                refused("training.average", message)
            }
            Self::DoubleRounding(settings) => Ok(settings.check()?),
            Self::Adapt(settings) => Ok(settings.check()?),
            Self::Bivit(_) if !matches!(recipe.network, Some(Zoo::Vit { .. })) => {
                refused("quantization.method", "bivit is for transformers: expected [network] kind = \"vit\"")
            }
            Self::Bivit(settings) => share_of(settings).and(Ok(settings.check()?)),
        }
    }
}

/// The share by which attention is binary; that by signs is what it is compared with, and no file holds it.
fn share_of(settings: &Bivit) -> Result<f32> {
    match settings.attention {
        Attention::Share(share) => Ok(share),
        _ => {
            let message = "is what is compared with: a file holds attention by a share alone".into();
            Err(Error::Setting { what: "quantization.attention", message })
        }
    }
}

/// What a switchable network does on held-out data at one width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtWidth {
    /// Bits.
    pub bits: u8,
    /// Mean loss, nats.
    pub loss: f64,
    /// Share of images that are classified right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// A recipe with its data.
pub(super) struct Job<'a, 'r> {
    pub run: &'a Run<'r>,
    pub zoo: &'a Zoo,
    pub colours: &'a Normalization,
    /// To train on, and to measure on.
    pub data: [&'a Pictures; 2],
    pub transform: Option<&'a dyn BatchTransform<ImageBatch>>,
}

/// A network that is trained at all widths of one code.
pub(super) struct AllWidths<'a, 'r, D: Dataset> {
    pub run: &'a Run<'r>,
    pub settings: &'a DoubleRounding,
    /// To train on, and to measure on.
    pub data: [&'a D; 2],
    pub transform: Option<&'a dyn BatchTransform<D::Batch>>,
    /// What the data are counted in.
    pub unit: &'static str,
    /// `config.json` of the network, if it has one.
    pub config: Option<Value>,
    /// Of the checkpoint.
    pub metadata: &'a BTreeMap<String, String>,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// How it went.
pub(super) struct Trained {
    pub outcome: Outcome<Switchable>,
    pub measured: Measured,
    pub widths: Vec<AtWidth>,
}

impl<D: Dataset> AllWidths<'_, '_, D> {
    /// Trains `network` and writes its files but for those of a tokenizer; also the numbers written. `first` runs a network on the items
    /// that the steps of its inputs begin by.
    pub fn train(
        self,
        network: Network,
        objective: &impl Objective<Network, D::Batch>,
        first: impl FnOnce(&Network, &mut Ctx<'_>) -> trimtab_train::Result<()>,
        out: &mut Output,
        monitor: &mut dyn Monitor,
    ) -> Result<(Trained, usize)> {
        let (training, [data, heldout]) = (&self.run.recipe.training, self.data);
        let switchable = Switchable::new(network, self.settings, first)?;
        let joint = Joint::new(objective, self.settings.clone());
        let mut trainer = Trainer::new(data, &joint, training, self.run.device.clone());
        trainer.heldout = Some(heldout);
        trainer.transform = self.transform;
        let (outcome, measured) = self.run.go(&mut trainer, switchable, out, self.unit, monitor)?;
        let trained = outcome.result().valid();
        let inner = Trainer::new(data, objective, training, self.run.device.clone());
        let at_width = |(width, &bits): (usize, &u8)| -> Result<AtWidth> {
            let measured = inner.heldout_loss(&trained.at(width), heldout)?;
            Ok(AtWidth { bits, loss: measured.loss, accuracy: measured.accuracy })
        };
        let widths = self.settings.widths.iter().enumerate().map(at_width).collect::<Result<_>>()?;
        let exported = switching::export(&trained, self.config, self.tied)?;
        Run::write_tensors(out, &exported.tensors, self.metadata)?;
        out.put_file("config.json", pretty(&exported.config).as_bytes())?;
        out.put_file(switching::WIDTHS, &exported.widths)?;
        Ok((Trained { outcome, measured, widths }, exported.params))
    }
}

impl Job<'_, '_> {
    /// Trains `network` and writes what became of it.
    pub fn train(
        &self,
        network: Network,
        settings: &QuantizationSettings,
        objective: &impl Objective<Network, ImageBatch>,
        out: Output,
        monitor: &mut dyn Monitor,
    ) -> Result<Summary> {
        match settings {
            QuantizationSettings::DoubleRounding(settings) => {
                self.double_rounding(network, settings, objective, out, monitor)
            }
            QuantizationSettings::Bivit(settings) => self.bivit(network, settings, objective, out, monitor),
            QuantizationSettings::Adapt(settings) => self.adapt(network, settings, objective, out, monitor),
        }
    }

    /// The first images, as the network sees them.
    fn first(&self) -> Result<ImageBatch> {
        let [data, _] = self.data;
        let items: Vec<Item> = (0..data.len().min(FIRST)).map(|index| Item { index, epoch: 0 }).collect();
        Ok(data.batch(&items, self.run.device)?)
    }

    fn double_rounding(
        &self,
        network: Network,
        settings: &DoubleRounding,
        objective: &impl Objective<Network, ImageBatch>,
        mut out: Output,
        monitor: &mut dyn Monitor,
    ) -> Result<Summary> {
        let images = self.first()?.images;
        let training = AllWidths {
            run: self.run,
            settings,
            data: self.data,
            transform: self.transform,
            unit: "images",
            config: self.zoo.config()?,
            metadata: &self.zoo.metadata(self.colours),
            tied: false,
        };
        let first = |network: &Network, ctx: &mut Ctx<'_>| Ok(logits(network, images, ctx).map(drop)?);
        let (trained, params) = training.train(network, objective, first, &mut out, monitor)?;
        let Trained { outcome, measured, widths } = trained;
        let summary = self.run.publish(out, outcome, measured, [params, self.data[0].len()])?;
        Ok(Summary { widths, ..summary })
    }

    fn adapt(
        &self,
        network: Network,
        settings: &Adapt,
        objective: &impl Objective<Network, ImageBatch>,
        mut out: Output,
        monitor: &mut dyn Monitor,
    ) -> Result<Summary> {
        let (recipe, [data, heldout]) = (self.run.recipe, self.data);
        let module = FixedPoint::new(network, settings)?;
        let objective = InFixedPoint { inner: objective, l1: settings.l1 };
        let mut trainer = Trainer::new(data, &objective, &recipe.training, self.run.device.clone());
        trainer.heldout = Some(heldout);
        trainer.transform = self.transform;
        let (outcome, measured) = self.run.go(&mut trainer, module, &out, "images", monitor)?;
        let trained = outcome.result().valid();
        let formats = trained.formats();
        let inputs = formats.iter().map(|SiteFormat { site, format, .. }| {
            let [low, high] = format.ends();
            (site.clone(), InputCode::Grid { step: format.step() as f32, low, high })
        });
        let codes = QuantizationConfig::of_schemes([], &[]);
        let quantization = PackedConfig::new(codes, []).with_input_codes(inputs.collect()).to_json();
        let mut config = self.zoo.config()?.unwrap_or_else(|| json!({}));
        config["quantization_config"] = quantization;
        let (mut tensors, mut params) = (Vec::new(), 0);
        for (name, shape, values) in trained.rounded().tensors() {
            params += values.len();
            tensors.push((name, RawTensor::from_f32(shape, &values, Dtype::F32)?));
        }
        Run::write_tensors(&mut out, &tensors, &self.zoo.metadata(self.colours))?;
        out.put_file("config.json", pretty(&config).as_bytes())?;
        let told: Map<String, Value> = formats.iter().map(told).collect();
        out.put_file(FORMATS, pretty(&Value::Object(told)).as_bytes())?;
        let summary = self.run.publish(out, outcome, measured, [params, data.len()])?;
        Ok(Summary { word_bits: Some(trained.mean_word()), ..summary })
    }

    fn bivit(
        &self,
        network: Network,
        settings: &Bivit,
        objective: &impl Objective<Network, ImageBatch>,
        mut out: Output,
        monitor: &mut dyn Monitor,
    ) -> Result<Summary> {
        let (recipe, [data, heldout]) = (self.run.recipe, self.data);
        let share = share_of(settings)?;
        let objective = InBits(objective);
        let mut trainer = Trainer::new(data, &objective, &recipe.training, self.run.device.clone());
        trainer.heldout = Some(heldout);
        trainer.transform = self.transform;
        let (outcome, measured) =
            self.run.go(&mut trainer, Binary::new(network, settings)?, &out, "images", monitor)?;
        let trained = outcome.result().valid();
        let signs: BTreeMap<String, _> =
            trained.signs().into_iter().map(|site| (site.meta.name.clone(), site)).collect();
        let (mut tensors, mut params) = (Vec::new(), 0);
        for layer in trained.network.layers() {
            let coded = layer.site().and_then(|site| signs.get(site.name()));
            if let Some(site) = coded {
                tensors.extend(site.packed()?.to_tensors(&site.meta.name)?);
                params += site.positive.len();
            }
            for (name, shape, values) in layer.tensors() {
                if coded.is_none_or(|site| name != site.meta.weight_name()) {
                    params += values.len();
                    tensors.push((name, RawTensor::from_f32(shape, &values, Dtype::F32)?));
                }
            }
        }
        let bit = RealScheme { bits: 1, group_size: None }.codes();
        let codes = QuantizationConfig::of_schemes(signs.keys().map(|name| (name.as_str(), bit, false)), &[]);
        let inputs =
            signs.iter().filter(|(_, site)| site.inputs).map(|(name, _)| (name.clone(), InputCode::Signs));
        let mut packed = PackedConfig::new(codes, signs.keys().cloned()).with_input_codes(inputs.collect());
        if trained.attends_in_bits() {
            packed = packed.with_binary_attention(share);
        }
        let mut config = self.zoo.config()?.unwrap_or_else(|| json!({}));
        config["quantization_config"] = packed.to_json();
        Run::write_tensors(&mut out, &tensors, &self.zoo.metadata(self.colours))?;
        out.put_file("config.json", pretty(&config).as_bytes())?;
        self.run.publish(out, outcome, measured, [params, data.len()])
    }
}

/// The format of a site as DSPs name it: `Qm.n` has `m` bits before the point, without the sign, and `n` behind it.
fn told(of: &SiteFormat) -> (String, Value) {
    let SiteFormat { site, format: Format { word, fraction }, numel, nonzero } = of;
    let whole = i32::from(*word) - i32::from(*fraction) - 1;
    let value = json!({
        "word": word, "fraction": fraction, "q": format!("Q{whole}.{fraction}"), "weights": numel, "nonzero": nonzero,
    });
    (site.clone(), value)
}
