//! Writing the object `quantization_config`.

use serde_json::{Value, json};

use super::config::QuantizationConfig;
use super::float::no_format;
use super::float_scheme;
use super::format::CompressedFormat;
use super::group::{AffineGroup, ConfigGroup, GroupScheme};
use super::target::Target;
use crate::activation::ActivationScheme;
use crate::affine::{AffineScheme, AffineTensor};
use crate::error::Result;

impl QuantizationConfig {
    /// The configuration of a checkpoint whose packed matrices are `modules`, by full module name, and whose other
    /// linear maps are all in `ignore`.
    ///
    /// One scheme throughout becomes one group for the class `Linear`; several become one group each that lists its
    /// modules. Groups stand in the order in which their schemes first appear.
    pub fn of<'a>(modules: impl IntoIterator<Item = (&'a str, &'a AffineTensor)>, ignore: &[String]) -> Self {
        let schemes =
            modules.into_iter().map(|(module, tensor)| (module, tensor.scheme, tensor.g_idx.is_some()));
        Self::of_schemes(schemes, ignore)
    }

    /// The same from the schemes of the modules, each with whether its columns carry a group index.
    pub fn of_schemes<'a>(
        modules: impl IntoIterator<Item = (&'a str, AffineScheme, bool)>,
        ignore: &[String],
    ) -> Self {
        let modules = modules.into_iter().map(|(module, scheme, act_order)| {
            let codes = GroupScheme::Affine(AffineGroup { scheme, per_tensor: false, act_order });
            (module, codes, CompressedFormat::PackQuantized)
        });
        Self::grouped(modules, ignore)
    }

    /// The same from any schemes: integers are `pack-quantized`, floats have the format that holds them.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for floats that no format holds.
    pub fn of_codes<'a>(
        modules: impl IntoIterator<Item = (&'a str, GroupScheme)>,
        ignore: &[String],
    ) -> Result<Self> {
        let with_format = |(module, codes): (&'a str, GroupScheme)| match codes {
            GroupScheme::Affine(_) => Ok((module, codes, CompressedFormat::PackQuantized)),
            GroupScheme::Float(scheme) => match CompressedFormat::of_floats(&scheme) {
                Some(format) => Ok((module, scheme.into(), format)),
                None => Err(no_format(module, &scheme)),
            },
        };
        let modules = modules.into_iter().map(with_format).collect::<Result<Vec<_>>>()?;
        Ok(Self::grouped(modules, ignore))
    }

    fn grouped<'a>(
        modules: impl IntoIterator<Item = (&'a str, GroupScheme, CompressedFormat)>,
        ignore: &[String],
    ) -> Self {
        let mut groups: Vec<ConfigGroup> = Vec::new();
        for (module, scheme, format) in modules {
            let group = ConfigGroup {
                name: format!("group_{}", groups.len()),
                scheme,
                format,
                input_activations: None,
                targets: vec![Target::Name(module.into())],
            };
            match groups.iter_mut().find(|other| other.codes_as(&group)) {
                Some(other) => other.targets.extend(group.targets),
                None => groups.push(group),
            }
        }
        if let [group] = &mut groups[..] {
            group.targets = vec![Target::Class("Linear".into())];
        }
        Self { groups, ignore: ignore.iter().map(|module| Target::Name(module.clone())).collect() }
    }

    /// The same modules in another format, those whose codes it holds; `input_activations` says how an engine quantizes their inputs, for example
    /// `{"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true}`.
    pub fn in_format(mut self, format: CompressedFormat, input_activations: Option<&Value>) -> Self {
        for group in self.groups.iter_mut().filter(|group| format.holds(&group.scheme)) {
            group.format = format;
            group.input_activations = input_activations.cloned();
        }
        self
    }

    /// The same modules with inputs that are quantized, where this has words for them, beside integers. Codes of 8 bits are written
    /// a byte each then, which is what engines multiply.
    pub fn with_inputs(mut self, scheme: &ActivationScheme) -> Self {
        let Some(json) = scheme.to_json() else { return self };
        for group in &mut self.groups {
            let GroupScheme::Affine(codes) = group.scheme else { continue };
            group.input_activations = Some(json.clone());
            if codes.scheme.bits == 8 {
                group.format = CompressedFormat::IntQuantized;
            }
        }
        self
    }

    /// How the input of `module` is quantized beside its codes; `None` for floats.
    ///
    /// # Errors
    /// What [`Self::group_of`] and [`ActivationScheme::of_json`] refuse.
    pub fn input_of(&self, module: &str) -> Result<Option<ActivationScheme>> {
        let inputs = self.group_of(module)?.and_then(|group| group.input_activations.as_ref());
        Ok(inputs.map(ActivationScheme::of_json).transpose()?.flatten())
    }

    /// The object for `config.json`.
    ///
    /// The format of the whole is that of its groups: `mixed-precision` is for groups of different formats, not of
    /// different widths.
    pub fn to_json(&self) -> Value {
        let first = self.groups.first().map_or(CompressedFormat::PackQuantized, |group| group.format);
        let mixed = self.groups.iter().any(|group| group.format != first);
        let groups = self.groups.iter().map(|group| (group.name.clone(), group_json(group)));
        json!({
            "quant_method": "compressed-tensors",
            "format": if mixed { "mixed-precision" } else { first.name() },
            "quantization_status": "compressed",
            "config_groups": Value::Object(groups.collect()),
            "ignore": self.ignore().collect::<Vec<_>>(),
            "kv_cache_scheme": null,
            "global_compression_ratio": null,
        })
    }
}

fn group_json(group: &ConfigGroup) -> Value {
    let weights = match &group.scheme {
        GroupScheme::Affine(codes) => integers_json(codes),
        GroupScheme::Float(scheme) => float_scheme::weights_json(scheme),
    };
    json!({
        "targets": group.targets().collect::<Vec<_>>(),
        "weights": weights,
        "input_activations": group.input_activations,
        "output_activations": null,
        "format": group.format.name(),
    })
}

fn integers_json(codes: &AffineGroup) -> Value {
    let AffineScheme { bits, group_size, symmetric } = codes.scheme;
    let strategy = match (codes.per_tensor, group_size) {
        (true, _) => "tensor",
        (false, None) => "channel",
        (false, Some(_)) => "group",
    };
    let mut weights = json!({
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": false,
    });
    if codes.act_order {
        weights["actorder"] = "group".into();
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    fn tensor(bits: u8, ordered: bool) -> AffineTensor {
        let scheme = AffineScheme { bits, group_size: Some(2), symmetric: true };
        let g_idx = ordered.then(|| vec![1, 0, 1, 0]);
        AffineTensor::from_codes(1, 4, scheme, &[0; 4], vec![1.0; 2], None, g_idx, Dtype::F32).unwrap()
    }

    #[test]
    fn one_scheme_is_one_group_of_all_linear_maps() {
        let (a, b) = (tensor(4, false), tensor(4, false));
        let config = QuantizationConfig::of([("m.a", &a), ("m.b", &b)], &["lm_head".into()]);
        let json = config.to_json();
        assert_eq!(json["config_groups"]["group_0"]["targets"], json!(["Linear"]));
        assert_eq!(json["config_groups"]["group_0"]["weights"]["strategy"], "group");
        assert_eq!(json["ignore"], json!(["lm_head"]));
        let back = QuantizationConfig::parse(&json).unwrap();
        assert_eq!(back.to_json(), json);
        assert!(back.group_of("lm_head").unwrap().is_none());
    }

    #[test]
    fn mixed_schemes_list_their_modules_and_stay_pack_quantized() {
        let (a, b, c) = (tensor(4, false), tensor(3, false), tensor(4, true));
        let config = QuantizationConfig::of([("m.a", &a), ("m.b", &b), ("m.c", &c), ("m.d", &a)], &[]);
        let json = config.to_json();
        assert_eq!(json["format"], "pack-quantized");
        assert_eq!(json["config_groups"]["group_0"]["targets"], json!(["m.a", "m.d"]));
        assert_eq!(json["config_groups"]["group_2"]["weights"]["actorder"], "group");
        let back = QuantizationConfig::parse(&json).unwrap();
        let group = |module: &str| {
            let codes = back.group_of(module).unwrap()?.scheme.affine()?;
            Some((codes.scheme.bits, codes.act_order))
        };
        assert_eq!(group("m.b"), Some((3, false)));
        assert_eq!(group("m.c"), Some((4, true)));
        assert_eq!(group("m.e"), None);
    }

    #[test]
    fn groups_of_several_formats_are_mixed() {
        let (a, b) = (tensor(4, false), tensor(8, false));
        let mut config = QuantizationConfig::of([("m.a", &a), ("m.b", &b)], &[]);
        let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true});
        let bytes = config.clone().in_format(CompressedFormat::IntQuantized, Some(&inputs));
        assert_eq!(bytes.to_json()["format"], "int-quantized");
        config.groups[1] = bytes.groups[1].clone();
        let json = config.to_json();
        assert_eq!(json["format"], "mixed-precision");
        assert_eq!(json["config_groups"]["group_1"]["input_activations"], inputs);
        let back = QuantizationConfig::parse(&json).unwrap();
        assert_eq!(back.to_json(), json);
        let format = |module: &str| back.group_of(module).unwrap().unwrap().format.name();
        assert_eq!((format("m.a"), format("m.b")), ("pack-quantized", "int-quantized"));
    }
}
