//! One verb, one file.

mod apply;
mod bench;
mod eval;
mod fit;
mod generate;
mod inspect;
mod plan;
mod reproduce;
mod settings;
mod train;

use trimtab::floors::models::Model;

use crate::Status;
use crate::args::{Cli, DeviceName, Global, ModelArg, Verb};
use crate::interrupt;
use crate::ui::Ui;

/// Runs the verb.
pub fn run(cli: &Cli, ui: &mut Ui) -> anyhow::Result<Status> {
    let global = &cli.global;
    interrupt::listen()?;
    rayon::ThreadPoolBuilder::new().num_threads(global.threads).build_global()?;
    match &cli.verb {
        Verb::Inspect(args) => inspect::run(args, global, ui),
        Verb::Eval(args) => eval::run(args, global, ui),
        Verb::Plan(args) => plan::run(args, global, ui),
        Verb::Apply(args) => apply::run(args, global, ui),
        Verb::Fit(args) => fit::run(args, global, ui),
        Verb::Generate(args) => generate::run(args, global, ui),
        Verb::Train(args) => train::run(args, global, ui),
        Verb::Reproduce(args) => reproduce::run(args, ui),
        Verb::Bench(args) => bench::run(args, global, ui),
    }
}

/// Opens a model on the device asked for.
fn open(model: &ModelArg, global: &Global) -> anyhow::Result<Model> {
    Ok(Model::open(&model.model, model.spec.as_deref())?.on(device(global.device)))
}

fn device(name: DeviceName) -> burn::tensor::Device {
    use burn::tensor::Device;
    match name {
        DeviceName::Cpu => Device::flex(),
        #[cfg(feature = "cuda")]
        DeviceName::Cuda => Device::cuda(0usize),
        #[cfg(feature = "rocm")]
        DeviceName::Rocm => Device::rocm(0usize),
        #[cfg(feature = "metal")]
        DeviceName::Metal => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "vulkan")]
        DeviceName::Vulkan => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        DeviceName::Wgpu => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
    }
}
