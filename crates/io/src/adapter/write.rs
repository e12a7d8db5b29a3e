//! Branches as a LoRA adapter that PEFT, vLLM and others load beside the model that they stand beside.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{CONFIG, PREFIX, WEIGHTS};
use crate::branch::BranchFactors;
use crate::error::{Error, Result};
use crate::tensor::RawTensor;
use crate::write::to_safetensors;

/// One module of an adapter that is written.
#[derive(Clone, Debug)]
pub struct AdapterModule {
    /// Path of the module in the model.
    pub name: String,
    /// What it adds; the scale is 1.
    pub branch: BranchFactors,
    /// `[in, kernel ...]` of a convolution without groups; absent for a linear map.
    pub kernel: Option<Vec<usize>>,
}

/// The files of an adapter, by name: `adapter_config.json` and `adapter_model.safetensors`.
///
/// Every module keeps its own rank; `lora_alpha` is the rank, so that the scale is 1. `task` is PEFT's `task_type`, such as
/// `CAUSAL_LM`; `transposed` says that weights are stored `[in, out]` (the Conv1D of GPT-2).
///
/// # Errors
/// [`Error::Invalid`] without modules, or if a kernel is not that of its branch.
pub fn adapter_files(
    modules: &[AdapterModule],
    base: &str,
    task: Option<&str>,
    transposed: bool,
) -> Result<[(&'static str, Vec<u8>); 2]> {
    let Some(most) = modules.iter().map(|module| module.branch.rank()).max() else {
        return Err(Error::invalid("adapter", "there is no branch to write"));
    };
    let mut tensors = Vec::new();
    let mut ranks = Map::new();
    for AdapterModule { name, branch, kernel } in modules {
        let [a, b] = [branch.a().clone(), branch.b().clone()];
        let (a, b) = match kernel {
            None => (a, b),
            Some(kernel) => {
                let spatial = vec![1; kernel.len().saturating_sub(1)];
                let a_shape = [&[branch.rank()], kernel.as_slice()].concat();
                let b_shape = [&b.shape[..], &spatial].concat();
                (RawTensor::new(a.dtype, a_shape, a.bytes)?, RawTensor::new(b.dtype, b_shape, b.bytes)?)
            }
        };
        tensors.push((format!("{PREFIX}{name}.lora_A.weight"), a));
        tensors.push((format!("{PREFIX}{name}.lora_B.weight"), b));
        if branch.rank() != most {
            ranks.insert(name.clone(), branch.rank().into());
        }
    }
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": most,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": names,
        "rank_pattern": Value::Object(ranks.clone()),
        "alpha_pattern": Value::Object(ranks),
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "modules_to_save": null,
    });
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    Ok([(CONFIG, format!("{config:#}\n").into_bytes()), (WEIGHTS[0], to_safetensors(&tensors, &metadata)?)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Adapter;
    use crate::bytes::Bytes;
    use crate::checkpoint::Checkpoint;
    use crate::dtype::Dtype;

    fn branch(rank: usize, rows: usize, cols: usize) -> BranchFactors {
        let numbers = |n: usize, k: usize| (0..n).map(|i| ((i * k) % 7) as f32 - 3.0).collect::<Vec<_>>();
        BranchFactors::from_f32(&numbers(rank * cols, 3), &numbers(rank * rows, 5), rank, Dtype::F32).unwrap()
    }

    #[test]
    fn is_read_back_as_the_branches_it_was_made_of() {
        let module = |name: &str, rank, kernel| AdapterModule {
            name: name.into(),
            branch: branch(rank, 4, 18),
            kernel,
        };
        let modules = [
            module("layers.1.up", 2, None),
            module("layers.11.up", 3, None),
            module("conv", 1, Some(vec![2, 3, 3])),
        ];
        let files = adapter_files(&modules, "base", Some("CAUSAL_LM"), false).unwrap();
        let files = files.map(|(name, bytes)| (name.to_string(), Bytes::from(bytes)));
        let adapter = Adapter::from_checkpoint(Checkpoint::from_bytes(files.to_vec()).unwrap()).unwrap();
        assert_eq!(adapter.base_model(), Some("base"));
        assert_eq!(adapter.modules().count(), 3);
        for module in &modules {
            let mut expected = vec![0.5; 4 * 18];
            module.branch.merge_into(&mut expected).unwrap();
            let dims = if module.kernel.is_some() { vec![4, 2, 3, 3] } else { vec![4, 18] };
            let delta = adapter.delta(&module.name).unwrap().unwrap();
            assert_eq!((delta.rank, delta.scale), (module.branch.rank(), 1.0), "{}", module.name);
            assert_eq!(adapter.merged(&module.name, &[0.5; 4 * 18], &dims).unwrap(), expected);
        }
        assert!(adapter_files(&[], "base", None, false).is_err());
        let wrong = [module("conv", 1, Some(vec![2, 2, 3]))];
        assert!(adapter_files(&wrong, "base", None, false).is_err(), "a kernel of 12 for patches of 18");
    }
}
