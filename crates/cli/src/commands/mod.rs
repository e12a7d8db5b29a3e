//! One verb, one file.

mod apply;
mod bench;
mod convert;
mod correct;
mod distil;
mod eval;
mod fit;
mod generate;
mod inspect;
mod plan;
mod report;
mod reproduce;
mod rewrite;
mod settings;
mod shell;
mod train;
mod verify;

use anyhow::Context;
use trimtab::floors::io::Quantization;
use trimtab::floors::models::Model;
use trimtab::monitor::Monitor;
use trimtab_hub::{Hub, Location, Progress, locate};

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
        Verb::Rewrite(args) => rewrite::run(args, global, ui),
        Verb::Convert(args) => convert::run(args, global, ui),
        Verb::Verify(args) => verify::run(args, global, ui),
        Verb::Generate(args) => generate::run(args, global, ui),
        Verb::Correct(args) => correct::run(args, global, ui),
        Verb::Distil(args) => distil::run(args, global, ui),
        Verb::Train(args) => train::run(args, global, ui),
        Verb::Reproduce(args) => reproduce::run(args, ui),
        Verb::Report(args) => report::run(args, ui),
        Verb::Bench(args) => bench::run(args, global, ui),
        Verb::Completions(args) => shell::completions(args, ui),
        Verb::Man(args) => shell::man(args, ui),
    }
}

/// Opens a model on the device asked for.
fn open(model: &ModelArg, global: &Global, ui: &mut Ui) -> anyhow::Result<Model> {
    let path = local(&model.model, ui)?;
    Ok(Model::open(&path, model.spec.as_deref())?.on(device(global.device)))
}

/// Opens a model that is written in another form. One that codes its inputs, or whose attention is binary, would lose that.
fn open_to_rewrite(model: &ModelArg, global: &Global, ui: &mut Ui) -> anyhow::Result<Model> {
    let model = open(model, global, ui)?;
    if let Some(Quantization::Trimtab(config)) = model.quantization()
        && (!config.input_codes().is_empty() || config.binary_attention().is_some())
    {
        anyhow::bail!(
            "{} was trained for few bits and codes its inputs while it runs, which nothing that is written from it would do\n\
             hint: eval, and for a switchable model `apply --bits`, take it as it is; else begin with the model before that training",
            model.checkpoint().path().display()
        );
    }
    Ok(model)
}

/// Opens a model whose weights are to be changed. Codes are no obstacle, but their user should know what becomes of them.
fn open_to_treat(model: &ModelArg, global: &Global, ui: &mut Ui) -> anyhow::Result<Model> {
    let model = open_to_rewrite(model, global, ui)?;
    if model.quantization().is_some() {
        ui.warn(&format!(
            "{} is quantized already: its codes are decoded, and what is not treated is written as plain numbers",
            model.checkpoint().path().display()
        ));
    }
    Ok(model)
}

/// The path of a model; a name on the hub is downloaded first, or found in the cache.
fn local(model: &str, ui: &mut Ui) -> anyhow::Result<String> {
    let Location::Hub(name) = locate(model) else { return Ok(model.into()) };
    let mut file = String::new();
    let mut progress = |progress: Progress<'_>| {
        if file != progress.file {
            file = progress.file.to_string();
            ui.begin(&format!("downloading {file}"), progress.total as usize);
        }
        ui.advance(progress.done as usize, "");
    };
    let snapshot = Hub::from_env()
        .fetch(&name, &mut progress)
        .with_context(|| format!("\"{model}\" is no file or directory here; as a name on the hub"))?;
    if let Some(problem) = snapshot.unreachable {
        ui.warn(&format!("the hub was not asked ({problem}); the copy in the cache is used"));
    }
    Ok(snapshot.dir.display().to_string())
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
