//! What compression owes is part of a run: two ranks that are stopped and go on end where they would have.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_exchange::{ExchangeConfig, Family, ResidualOf, State, Threads};
use trimtab_io::Checkpoint;
use trimtab_math::random::Stream;

use super::*;
use crate::parameters::values;

const RANKS: usize = 2;
const WIDE: usize = 8;
const TALL: usize = 6;
/// Where the state of an exchange keeps what it owes.
const RESIDUAL: &str = "residual/";

/// `y = x W^T`.
#[derive(Module, Debug)]
struct Map {
    weight: Param<Tensor<2>>,
}

fn normal(name: &str, shape: [usize; 2], device: &Device) -> Tensor<2> {
    let mut stream = Stream::new(0, name, 0, 0);
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| stream.normal() as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Points and where a fixed map takes them.
struct Points;

impl Dataset for Points {
    type Batch = (Tensor<2>, Tensor<2>);

    fn len(&self) -> usize {
        32
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<Self::Batch> {
        let rows = items.iter().map(|item| normal(&format!("point {}", item.index), [1, WIDE], device));
        let x = Tensor::cat(rows.collect(), 0);
        Ok((x.clone(), x.matmul(normal("goal", [TALL, WIDE], device).transpose())))
    }
}

struct SquaredError;

impl Objective<Map, (Tensor<2>, Tensor<2>)> for SquaredError {
    fn loss(&self, model: &Map, (x, y): &(Tensor<2>, Tensor<2>), _: &mut Pass) -> Result<Loss> {
        let far = x.clone().matmul(model.weight.val().transpose()) - y.clone();
        Ok(Loss::new(far.square().mean(), y.dims()[0]))
    }
}

/// Asks to stop after so many steps.
struct StopAfter(usize, bool);

impl Observer<Map> for StopAfter {
    fn step(&mut self, record: &StepRecord, _: &Map) {
        self.1 = record.step == self.0;
    }

    fn interrupted(&self) -> bool {
        self.1
    }
}

/// What a rank does with the saved states of all.
#[derive(Clone, Copy, PartialEq)]
enum Memory {
    Whole,
    /// What is owed becomes zero; all else is kept.
    NoResiduals,
    /// Each rank takes up the residuals of the other.
    Swapped,
}

struct Rank(Ranks<Threads>, Memory);

impl Workers for Rank {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn exchange(&mut self, gradients: &mut Gradients) -> Result<()> {
        Workers::exchange(&mut self.0, gradients)
    }

    fn sum(&mut self, numbers: &mut [f64]) -> Result<()> {
        self.0.sum(numbers)
    }

    fn save(&mut self) -> Result<Vec<State>> {
        self.0.save()
    }

    fn load(&mut self, states: &[State]) -> Result<()> {
        let mut states = states.to_vec();
        let owed = |state: &mut State| -> Vec<(String, Vec<f32>)> {
            state.tensors.extract_if(.., |name, _| name.starts_with(RESIDUAL)).collect()
        };
        let kept: Vec<_> = states.iter_mut().map(owed).collect();
        for (rank, state) in states.iter_mut().enumerate() {
            let of = if self.1 == Memory::Swapped { kept.len() - 1 - rank } else { rank };
            let value = |values: &[f32]| match self.1 {
                Memory::NoResiduals => vec![0.0; values.len()],
                Memory::Whole | Memory::Swapped => values.to_vec(),
            };
            state.tensors.extend(kept[of].iter().map(|(name, values)| (name.clone(), value(values))));
        }
        self.0.load(&states)
    }
}

/// The numbers of both ranks after a run, or a part of it.
fn run(family: Family, state: Option<&Path>, stop: usize, memory: Memory) -> [Vec<f32>; RANKS] {
    let settings = Settings {
        seed: 1,
        ..Settings::new(
            4,
            vec![Phase::new(12, 0.05, OptimizerConfig::Sgd { momentum: 0.9, weight_decay: 0.0 })],
        )
    };
    let config = ExchangeConfig { family, min_rate: 0, ..ExchangeConfig::default() };
    let rank = |group| {
        let mut workers = Rank(Ranks::new(group, config).unwrap(), memory);
        let mut trainer = Trainer::new(&Points, &SquaredError, &settings, Device::flex());
        trainer.state = state.map(Into::into);
        let start = normal("start", [TALL, WIDE], &Device::flex().autodiff());
        let module = Map { weight: Param::from_tensor(start) };
        let outcome = trainer.run_with(module, &mut StopAfter(stop, false), &mut workers).unwrap();
        assert_eq!(outcome.step, if stop == 0 { 12 } else { stop });
        values(&outcome.module)
            .into_iter()
            .flat_map(|(_, data)| data.try_into_vec::<f32>().unwrap())
            .collect()
    };
    std::thread::scope(|scope| {
        let groups = Threads::ranks(RANKS).into_iter();
        let threads: Vec<_> = groups.map(|group| scope.spawn(|| rank(group))).collect();
        let all: Vec<Vec<f32>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        all.try_into().unwrap()
    })
}

#[test]
fn residuals_survive_an_interruption() {
    let families = [
        Family::PowerSgd { rank: 1, residual_of: ResidualOf::Mean },
        Family::PowerSgd { rank: 1, residual_of: ResidualOf::Own },
        Family::TopK { density: 1000, error_feedback: true },
    ];
    for family in families {
        let straight = run(family, None, 0, Memory::Whole);
        assert_eq!(straight[0], straight[1], "{family:?}: all ranks hold the same bits");
        let resumed = |memory: Memory| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.safetensors");
            run(family, Some(&path), 5, memory);
            let saved = Checkpoint::open(&path).unwrap();
            let owed = |rank: usize| {
                let name = format!("exchange/{rank}/{RESIDUAL}weight");
                saved.tensor(&name).unwrap_or_else(|e| panic!("{family:?}: {e}")).to_f32().unwrap()
            };
            assert!(
                owed(0).iter().any(|v| *v != 0.0) && owed(0) != owed(1),
                "{family:?}: each rank owes its own"
            );
            run(family, Some(&path), 0, memory)
        };
        assert_eq!(resumed(Memory::Whole), straight, "{family:?}");
        // Controls: a run that forgets what it owes, or takes what another owes, ends elsewhere.
        assert_ne!(resumed(Memory::NoResiduals)[0], straight[0], "{family:?}");
        // The factors of PowerSGD depend on the mean of what is owed alone; which entries are large, on whose they are.
        if matches!(family, Family::TopK { .. }) {
            assert_ne!(resumed(Memory::Swapped)[0], straight[0], "{family:?}");
        }
    }
}
