//! The verdict by the rule, and the tables.

use super::runs::Searched;
use super::{Net, Size, Way};
use crate::experiment::{Measurement, Table, Verdict};
use crate::experiments::figures::{mean, spread};

/// What was found.
pub(super) struct Found {
    pub(super) searches: Vec<(u64, Way)>,
    pub(super) found: Vec<Searched>,
    pub(super) nets: Vec<(u64, Net)>,
    /// PSNR in dB and bit operations for a pixel of each.
    pub(super) trained: Vec<[f64; 2]>,
    /// PSNR of repeated pixels.
    pub(super) enlarged: f64,
}

impl Found {
    fn of_searches(&self, way: Way, figure: impl Fn(&Searched) -> f64) -> Vec<f64> {
        let own = self.searches.iter().zip(&self.found).filter(|((_, other), _)| *other == way);
        own.map(|(_, found)| figure(found)).collect()
    }

    /// A figure of all networks of a kind, seed by seed.
    fn of_nets(&self, which: impl Fn(Net) -> bool, what: usize) -> Vec<f64> {
        let own = self.nets.iter().zip(&self.trained).filter(|((_, net), _)| which(*net));
        own.map(|(_, trained)| trained[what]).collect()
    }

    /// On each seed the mean of the random networks and their standard deviation.
    fn random(&self, seeds: u64) -> Vec<[f64; 2]> {
        let of = |seed: u64| {
            let own = self.nets.iter().zip(&self.trained);
            let own = own.filter(|((other, net), _)| *other == seed && matches!(net, Net::Random(_)));
            let all: Vec<f64> = own.map(|(_, trained)| trained[0]).collect();
            let centre = mean(&all);
            let squares: f64 = all.iter().map(|ratio| (ratio - centre).powi(2)).sum();
            [centre, (squares / (all.len() as f64 - 1.0)).sqrt()]
        };
        (0..seeds).map(of).collect()
    }
}

fn below(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a < b)
}

pub(super) fn judge(found: &Found, size: Size) -> Measurement {
    let step = |way| found.of_searches(way, |found| found.step);
    let sure = |way| found.of_searches(way, |found| found.certainty);
    let (random, own) = (found.random(size.seeds), found.of_nets(|net| net == Net::Of(Way::Noise), 0));
    let gains: Vec<f64> = own.iter().zip(&random).map(|(own, [centre, _])| own - centre).collect();
    let deviation = mean(&random.iter().map(|[_, deviation]| *deviation).collect::<Vec<_>>());
    let parts = [
        below(&step(Way::Noise), &step(Way::Rounding)),
        gains.iter().all(|gain| *gain > 0.0) && mean(&gains) > deviation,
        sure(Way::Noise).iter().all(|share| *share > 0.9)
            && sure(Way::Unsure).iter().all(|share| *share <= 0.9),
    ];
    let verdict = match parts.iter().filter(|held| **held).count() {
        3 => Verdict::Reproduced,
        0 => Verdict::NotReproduced,
        _ => Verdict::Partly,
    };
    let ratio = mean(&step(Way::Noise)) / mean(&step(Way::Rounding));
    let psnr = |net: Net| mean(&found.of_nets(|other| other == net, 0));
    let figure = format!(
        "a step by noise takes {ratio:.2} of one by rounding; found by noise {:.2} dB, by rounding {:.2}, random at equal cost {:.2} \
         (gain {}, deviation {deviation:.3}), 3 x 3 in 4 bits {:.2}, in 8 bits {:.2}; largest coefficient {:.2}, {:.2} without entropy",
        psnr(Net::Of(Way::Noise)),
        psnr(Net::Of(Way::Rounding)),
        mean(&random.iter().map(|[centre, _]| *centre).collect::<Vec<_>>()),
        spread(&gains, 3),
        psnr(Net::Hand(4)),
        psnr(Net::Hand(8)),
        mean(&sure(Way::Noise)),
        mean(&sure(Way::Unsure)),
    );
    let Size { pictures: [train, test], search: [first, both], train: steps, seeds } = size;
    let scale = format!(
        "x2, 8 x 8 to 16 x 16, CIFAR-10, {train} pictures, {test} held out; {first} and {both} steps of 16 to search, {steps} to train; {seeds} seeds"
    );
    let tables = vec![of_networks(found), of_searches(found)];
    Measurement { tables, ..Measurement::new(verdict, figure, scale) }
}

fn of_networks(found: &Found) -> Table {
    let row = |name: &str, which: &dyn Fn(Net) -> bool| {
        let [ratio, cost] = [0, 1].map(|what| found.of_nets(which, what));
        let cost: Vec<f64> = cost.iter().map(|cost| cost / 1e6).collect();
        vec![name.to_string(), spread(&ratio, 2), spread(&cost, 2)]
    };
    Table {
        title: "Networks that were trained in their bits, mean and spread".into(),
        columns: ["", "PSNR, dB", "bit operations a pixel, millions"].map(String::from).into(),
        rows: vec![
            row("found by noise", &|net| net == Net::Of(Way::Noise)),
            row("found by rounding", &|net| net == Net::Of(Way::Rounding)),
            row("random, cost of the first", &|net| matches!(net, Net::Random(_))),
            row("3 x 3, 4 bits", &|net| net == Net::Hand(4)),
            row("3 x 3, 8 bits", &|net| net == Net::Hand(8)),
            vec!["pixels repeated".into(), format!("{:.2}", found.enlarged), "0".into()],
        ],
    }
}

fn of_searches(found: &Found) -> Table {
    let row = |way: Way| {
        let end = |kind: usize, end: usize| found.of_searches(way, |found| found.ratios[kind][end]);
        let ends = |kind: usize| format!("{:.2} .. {:.2}", mean(&end(kind, 0)), mean(&end(kind, 1)));
        vec![
            way.name().to_string(),
            spread(&found.of_searches(way, |found| 1e3 * found.step), 0),
            spread(&found.of_searches(way, |found| found.certainty), 3),
            ends(0),
            ends(1),
        ]
    };
    let columns = [
        "search by",
        "ms a step",
        "largest coefficient",
        "normal noise, variance by that of rounding, 3 to 8 bits",
        "uniform noise",
    ];
    Table {
        title: "Searches, mean and spread".into(),
        columns: columns.map(String::from).into(),
        rows: Way::ALL.map(row).into(),
    }
}

#[cfg(test)]
mod tests {
    use trimtab::floors::train::search::{Choice, Genotype, Operation, Skeleton};

    use super::*;

    /// Two seeds: milliseconds of a step by noise (100 by rounding), what noise finds, its coefficients without entropy.
    fn verdict(step: [f64; 2], own: [f64; 2], unsure: f64) -> Verdict {
        let genotype = Genotype::uniform(Skeleton::default(), Choice { op: Operation::Conv1, bits: 4 });
        let (mut searches, mut found, mut nets, mut trained) = (vec![], vec![], vec![], vec![]);
        for seed in 0..2 {
            for way in Way::ALL {
                let step = if way == Way::Rounding { 0.1 } else { step[seed] };
                let certainty = if way == Way::Unsure { unsure } else { 0.95 };
                searches.push((seed as u64, way));
                found.push(Searched { genotype: genotype.clone(), certainty, step, ratios: [[1.0; 2]; 2] });
            }
            for net in Net::all() {
                let ratio = match net {
                    Net::Of(_) => own[seed],
                    Net::Random(i) => 30.0 + 0.1 * i as f64,
                    Net::Hand(_) => 31.0,
                };
                nets.push((seed as u64, net));
                trained.push([ratio, 1e6]);
            }
        }
        let size = Size { pictures: [1, 1], search: [1, 1], train: 1, seeds: 2 };
        judge(&Found { searches, found, nets, trained, enlarged: 25.0 }, size).verdict
    }

    #[test]
    fn the_rule_is_what_it_says() {
        // Random networks: 30.2 on average, deviation 0.158.
        assert_eq!(verdict([0.05; 2], [30.4, 30.5], 0.5), Verdict::Reproduced);
        assert_eq!(verdict([0.05, 0.11], [30.4, 30.5], 0.5), Verdict::Partly, "one seed is slower");
        assert_eq!(verdict([0.05; 2], [30.3, 30.3], 0.5), Verdict::Partly, "less than a deviation");
        assert_eq!(verdict([0.05; 2], [30.1, 30.9], 0.5), Verdict::Partly, "one seed is below");
        assert_eq!(verdict([0.05; 2], [30.4, 30.5], 0.92), Verdict::Partly, "sure without entropy");
        assert_eq!(verdict([0.2; 2], [30.0; 2], 0.92), Verdict::NotReproduced);
    }
}
