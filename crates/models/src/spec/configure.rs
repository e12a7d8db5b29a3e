//! From a specification and a `config.json` to the options of the module.

use serde_json::Value;
use trimtab_nn::attention::Scoring;
use trimtab_nn::rotary::Rotary;

use super::fields::{Fields, Key};
use super::layout::{EmbedScale, HeadKind, InputKind, PositionKind};
use super::rope::{Reach, rotary};
use super::{Body, ModelSpec, Names, PartSpec};
use crate::error::{Error, Result};
use crate::transformer::{
    Biases, BlockOptions, CENTERED, ExpertOptions, Head, Input, LearnedPositions, NormStyle, Pool,
    RelativePositions, TransformerConfig, Untied,
};

impl ModelSpec {
    /// The options of the module for one `config.json`, and the names that they need; `model` is for messages.
    ///
    /// # Errors
    /// [`Error::Config`] if a field is missing, of the wrong kind, or says what the family cannot.
    pub fn configure(&self, config: &Value, model: &str) -> Result<(TransformerConfig, Names)> {
        if !self.parts.is_empty() {
            let parts: Vec<&str> = self.parts.iter().map(PartSpec::label).collect();
            return Err(Error::Config {
                model: model.into(),
                message: format!(
                    "{} models have parts ({}), each with options of its own",
                    self.name,
                    parts.join(", ")
                ),
            });
        }
        let config = self.section.as_ref().and_then(|section| config.get(section)).unwrap_or(config);
        let body = self.resolve(config, model)?;
        let fields = Fields { config, defaults: &body.defaults, family: &self.name, model };
        for (field, value) in &body.require {
            if let Some(found) = fields.field(field).filter(|found| *found != value) {
                return Err(fields.fail(format!("\"{field}\" is {found}; only {value} is known")));
            }
        }
        Ok((options(&body, &fields)?, body.names))
    }

    /// What changes with a head of its own in the place of one that borrows the embedding; `None` where `config.json` has no
    /// say in it. `tied` are the options as they are.
    pub(crate) fn untied(
        &self,
        config: &Value,
        tied: &TransformerConfig,
        model: &str,
    ) -> Result<Option<Untied>> {
        let Some(field) = self.base.get("keys").and_then(|keys| keys.get("tied")?.as_str()) else {
            return Ok(None);
        };
        let mut config = config.clone();
        let table = match &self.section {
            Some(section) if config.get(section).is_some() => config.get_mut(section),
            _ => Some(&mut config),
        };
        if let Some(table) = table.and_then(Value::as_object_mut) {
            table.insert(field.into(), false.into());
        }
        let (own, names) = self.configure(&config, model)?;
        let factor = f64::from(tied.logit_scale.unwrap_or(1.0)) / f64::from(own.logit_scale.unwrap_or(1.0));
        Ok((own.head == Head::Language).then(|| Untied { field: field.into(), head: names.head, factor }))
    }

    /// The table of `config.json` that describes the transformer, where it is not the whole.
    pub(crate) fn section_in(&self, config: &Value) -> Option<String> {
        self.section.clone().filter(|section| config.get(section).is_some())
    }
}

fn options(body: &Body, fields: &Fields<'_>) -> Result<TransformerConfig> {
    let (layout, keys) = (&body.layout, &body.keys);
    let (width, heads) = (fields.count(&keys.width)?, fields.count(&keys.heads)?);
    let kv_heads = fields.optional(&keys.kv_heads, Fields::count)?.unwrap_or(heads);
    let head_width = match fields.optional(&keys.head_width, Fields::count)? {
        Some(width) => width,
        None if width.is_multiple_of(heads) => width / heads,
        None => {
            let (w, h) = (keys.width.label(), keys.heads.label());
            return Err(fields.fail(format!("{w} = {width} is no multiple of {h} = {heads}")));
        }
    };
    if !heads.is_multiple_of(kv_heads) {
        return Err(fields.fail(format!("{heads} query heads cannot share {kv_heads} key-value heads")));
    }
    let switch = |fixed: bool, key: &Option<Key>| -> Result<bool> {
        Ok(fixed || fields.optional(key, Fields::flag)?.unwrap_or(false))
    };
    let single = |number: f64| number as f32;
    let scaled =
        |key: &Option<Key>| -> Result<Option<f32>> { Ok(fields.optional(key, Fields::number)?.map(single)) };
    let mut norm = NormStyle::of(layout.norm, fields.number(&keys.eps)?);
    norm.bias = layout.norm_bias.unwrap_or(norm.bias);
    norm.offset = if layout.norm_gain_less_one { 1.0 } else { 0.0 };
    let qkv_bias = switch(layout.qkv_bias, &keys.qkv_bias)?;
    let input = input(body, fields)?;
    let tied = fields.optional(&keys.tied, Fields::flag)?.unwrap_or(false);
    Ok(TransformerConfig {
        width,
        embed_width: fields.optional(&keys.embed_width, Fields::count)?.unwrap_or(width),
        heads,
        kv_heads,
        head_width,
        hidden: hidden(body, fields, width)?,
        projection: fields.optional(&keys.projection, Fields::count)?.unwrap_or(width),
        norm,
        centered: fields.config.get(CENTERED) == Some(&Value::Bool(true)),
        norm_place: layout.norm_place,
        parallel: layout.parallel,
        qk_norm: layout.qk_norm.map(|over| (over, norm.with_bias(layout.qk_norm_bias.unwrap_or(norm.bias)))),
        activation: fields.activation(&keys.activation)?,
        positions: positions(body, fields, input)?,
        position_form: layout.position_form,
        token_form: layout.token_form,
        input,
        placeholder: None,
        token_types: fields.optional(&keys.token_types, Fields::count)?,
        embed_projection: layout.embed_projection,
        relative: match layout.positions {
            PositionKind::Relative => {
                let buckets = fields.optional(&keys.relative_buckets, Fields::count)?;
                let max_distance = fields.optional(&keys.relative_distance, Fields::count)?;
                buckets
                    .zip(max_distance)
                    .map(|(buckets, max_distance)| RelativePositions { buckets, max_distance })
            }
            _ => None,
        },
        borrows_embedding: layout.borrows_embedding,
        initial: layout.initial,
        causal: layout.causal,
        scoring: Scoring {
            scale: match fields.optional(&keys.attention_root, Fields::number)? {
                Some(root) => Some(single(root.powf(-0.5))),
                None => scaled(&keys.attention_scale)?,
            },
            soft_cap: scaled(&keys.attention_cap)?,
            slopes: (layout.positions == PositionKind::Alibi).then(|| {
                let slopes = Scoring::alibi_slopes(heads).into_iter();
                let factor = if layout.alibi_scaled { (head_width as f32).powf(-0.5) } else { 1.0 };
                slopes.map(|slope| slope * factor).collect()
            }),
            quantizer: None,
        },
        blocks: blocks(body, fields, head_width)?,
        qkv: layout.qkv,
        biases: Biases {
            qkv: qkv_bias,
            key: layout.key_bias.unwrap_or(qkv_bias),
            out: switch(layout.out_bias, &keys.out_bias)?,
            mlp: switch(layout.mlp_bias, &keys.mlp_bias)?,
            embed: layout.embed_bias,
            embed_projection: layout.embed_projection_bias,
            head: layout.head_bias,
        },
        mlp: layout.mlp,
        experts: experts(body, fields)?,
        stored_in_out: layout.stored_in_out,
        embed_scale: match layout.embed_scale {
            Some(EmbedScale::SqrtWidth) => Some((width as f32).sqrt()),
            None => scaled(&keys.embed_scale)?,
        },
        residual_scale: scaled(&keys.residual_scale)?,
        logit_scale: match fields.optional(&keys.logit_divisor, Fields::number)? {
            Some(divisor) => Some(single(1.0 / divisor)),
            None if layout.logits_over_root_width => Some((width as f32).powf(-0.5)),
            None => scaled(&keys.logit_scale)?,
        },
        logit_cap: scaled(&keys.logit_cap)?,
        head: match layout.head {
            HeadKind::Pooler => Head::Pooler,
            HeadKind::First => Head::Pooled(Pool::First),
            HeadKind::Last => Head::Pooled(Pool::Last),
            HeadKind::End => Head::Pooled(Pool::End),
            HeadKind::Attended => Head::Attended,
            HeadKind::None => Head::None,
            HeadKind::Language => match tied {
                true => Head::Tied,
                false => Head::Language,
            },
        },
    })
}

/// What enters the network.
fn input(body: &Body, fields: &Fields<'_>) -> Result<Input> {
    let keys = &body.keys;
    // The specification was checked when it was resolved: each kind of input has its keys.
    let count = |key: &Option<Key>| fields.optional(key, Fields::count);
    if body.layout.input == InputKind::Tokens {
        let vocab = keys.vocab.as_ref().map(|key| fields.count(key)).transpose()?;
        return Ok(Input::Tokens { vocab: vocab.unwrap_or_default() });
    }
    if body.layout.input == InputKind::Audio {
        let (mels, positions) = (count(&keys.mels)?, count(&keys.positions)?);
        let (mels, positions) = (mels.unwrap_or_default(), positions.unwrap_or_default());
        return Ok(Input::Audio { mels, frames: 2 * positions });
    }
    let (image, patch) = (count(&keys.image_size)?, count(&keys.patch_size)?);
    let channels = count(&keys.channels)?;
    match (image, patch, channels) {
        (Some(image), Some(patch), Some(channels)) if image >= patch => {
            Ok(Input::Patches { image, patch, channels })
        }
        _ => Err(fields.fail(format!(
            "images of {image:?} pixels cannot be cut into patches of {patch:?} with {channels:?} channels"
        ))),
    }
}

/// Hidden units of the feed-forward sublayer.
fn hidden(body: &Body, fields: &Fields<'_>, width: usize) -> Result<usize> {
    let keys = &body.keys;
    if let Some(hidden) = fields.optional(&keys.hidden, Fields::count)? {
        return Ok(hidden);
    }
    let ratio = fields.optional(&keys.hidden_ratio, Fields::number)?.unwrap_or(4.0);
    let hidden = (width as f64 * ratio) as usize;
    if !body.layout.hidden_two_thirds {
        return Ok(hidden);
    }
    // DINOv2 keeps two thirds of them in its gated form, rounded up to a multiple of eight.
    Ok(((hidden as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8)
}

/// The table of learned positions.
fn positions(body: &Body, fields: &Fields<'_>, input: Input) -> Result<Option<LearnedPositions>> {
    let layout = &body.layout;
    if layout.positions != PositionKind::Learned {
        return Ok(None);
    }
    if let Input::Patches { image, patch, .. } = input {
        let rows = (image / patch).pow(2) + body.names.tokens.len();
        return Ok(Some(LearnedPositions { rows, offset: 0, padding: None }));
    }
    let Some(key) = &body.keys.positions else { return Ok(None) };
    let padding = fields.optional(&body.keys.padding, Fields::index)?;
    let offset = padding.map_or(layout.position_offset, |id| id + 1);
    let rows = fields.count(key)? + if padding.is_some() { 0 } else { layout.position_offset };
    if rows <= offset {
        return Err(fields.fail(format!("\"{}\" leaves no row for a position", key.label())));
    }
    Ok(Some(LearnedPositions { rows, offset, padding }))
}

/// Blocks, and experts of a block, at most: more than any network has, few enough to list.
const MOST: usize = 10_000;

/// Windows, rotations and mixtures of every block.
fn blocks(body: &Body, fields: &Fields<'_>, head_width: usize) -> Result<Vec<BlockOptions>> {
    let (layout, keys) = (&body.layout, &body.keys);
    let n = fields.bounded(&keys.blocks, MOST)?;
    let windowed = fields.optional(&keys.use_window, Fields::flag)?.unwrap_or(true);
    let window = if windowed { fields.optional(&keys.window, Fields::count)? } else { None };
    let full = fields.optional(&keys.full_attention_blocks, Fields::index)?.unwrap_or(0);
    let pattern = fields.optional(&keys.window_pattern, Fields::count)?;
    let types = fields.optional(&keys.layer_types, |fields, key| {
        fields.list::<String>(key, "a list with \"full_attention\" or \"sliding_attention\" for each block")
    })?;
    if let (Some(types), Some(key)) = (&types, &keys.layer_types) {
        let known = |name: &String| name == "full_attention" || name == "sliding_attention";
        if types.len() != n || !types.iter().all(known) {
            let expected = "\"full_attention\" or \"sliding_attention\" for each block";
            return Err(fields.wrong(key, &Value::from(types.clone()), expected));
        }
    }
    let sees_all = |i: usize| match (&types, pattern) {
        (Some(types), _) => types[i] == "full_attention",
        (None, Some(pattern)) => (i + 1).is_multiple_of(pattern),
        (None, None) => i < full,
    };
    let rotation = |reach| -> Result<Option<Rotary>> {
        let rotates = layout.positions == PositionKind::Rotary;
        let turn = rotates.then(|| rotary(fields, keys, head_width, reach)).transpose()?;
        Ok(turn.map(|turn| Rotary { interleaved: layout.rotary_interleaved, ..turn }))
    };
    let wide = rotation(Reach::Full)?;
    let local = if keys.rope_local_theta.is_some() { rotation(Reach::Local)? } else { wide.clone() };
    let step = fields.optional(&keys.experts_step, Fields::count)?.unwrap_or(1);
    let dense =
        fields.optional(&keys.dense_blocks, |fields, key| fields.list::<usize>(key, "a list of blocks"))?;
    let dense = dense.unwrap_or_default();
    let block = |i: usize| BlockOptions {
        window: window.filter(|_| !sees_all(i)),
        rotary: if sees_all(i) { wide.clone() } else { local.clone() },
        experts: body.names.experts.is_some() && (i + 1).is_multiple_of(step) && !dense.contains(&i),
    };
    let blocks: Vec<_> = (0..n).map(block).collect();
    if let Some(i) = blocks.iter().position(|block| !block.experts && body.names.down.is_none()) {
        return Err(
            fields.fail(format!("block {i} has no experts, and {} models have no other kind", fields.family))
        );
    }
    Ok(blocks)
}

/// The mixture of experts.
fn experts(body: &Body, fields: &Fields<'_>) -> Result<Option<ExpertOptions>> {
    let keys = &body.keys;
    let (Some(count), Some(per_token)) = (&keys.experts, &keys.experts_per_token) else { return Ok(None) };
    let options = ExpertOptions {
        count: fields.bounded(count, MOST)?,
        per_token: fields.count(per_token)?,
        hidden: match fields.optional(&keys.expert_hidden, Fields::count)? {
            Some(hidden) => hidden,
            None => hidden(body, fields, fields.count(&keys.width)?)?,
        },
        shared_hidden: fields.optional(&keys.shared_hidden, Fields::count)?,
        normalize: fields.optional(&keys.normalize_experts, Fields::flag)?.unwrap_or(true),
    };
    if options.per_token > options.count {
        let message = format!("a token cannot go to {} of {} experts", options.per_token, options.count);
        return Err(fields.fail(message));
    }
    Ok(Some(options))
}
