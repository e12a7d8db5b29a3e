//! A PEFT adapter over a model: settings, names, shapes, merged weights.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{described, exhaust, folder, parts};
use trimtab_io::{Adapter, Checkpoint};

fuzz_target!(|input: &[u8]| {
    let [config, adapter, model, data] = parts(input);
    let base = folder(&[("model.safetensors", &described(model, data))]);
    let over =
        folder(&[("adapter_config.json", config), ("adapter_model.safetensors", &described(adapter, data))]);
    if let Ok(adapter) = Adapter::open(over.path()) {
        for module in adapter.modules() {
            if let Ok(Some(delta)) = adapter.delta(module)
                && delta.d_output.saturating_mul(delta.d_input) < 1 << 20
            {
                assert_eq!(delta.product().len(), delta.d_output * delta.d_input);
            }
        }
    }
    let both = format!("{}+{}", base.path().display(), over.path().display());
    if let Ok(merged) = Checkpoint::open(both) {
        exhaust(&merged);
    }
});
