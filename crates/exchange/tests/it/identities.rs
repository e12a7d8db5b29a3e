//! What each family promises of one exchange, on four threads.

use trimtab_exchange::{
    Alone, Communicator, Compressor, Input, PowerSgd, Qsgd, ResidualOf, RoundingMode, TopK,
};

use crate::support::{Trace, gradient, mean, on_ranks, run, wide, worst};

/// Entries are of order 1 to 10, and sums of them are `f32`.
const TOLERANCE: f64 = 1e-5;

fn power(residual_of: ResidualOf) -> impl Fn() -> Box<dyn Compressor> + Sync {
    move || Box::new(PowerSgd::new(5, residual_of))
}

fn top_k() -> Box<dyn Compressor> {
    Box::new(TopK::new(true))
}

fn qsgd(rounding: RoundingMode) -> impl Fn() -> Box<dyn Compressor> + Sync {
    move || Box::new(Qsgd::new(5, rounding, true))
}

fn inputs_mean(traces: &[Trace]) -> Vec<f64> {
    mean(&traces.iter().map(|t| t.corrected.clone()).collect::<Vec<_>>())
}

fn same_bits(traces: &[Trace]) {
    let bits = |t: &Trace| t.reduced.mean.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(traces.iter().all(|t| bits(t) == bits(&traces[0])), "ranks differ");
}

/// How far `mean(residual) + mean` is from the mean of the inputs, relative to their largest entry.
fn missing(traces: &[Trace]) -> f64 {
    same_bits(traces);
    let expected = inputs_mean(traces);
    let residuals: Vec<_> = traces.iter().map(|t| t.reduced.residual.clone().unwrap()).collect();
    let mut found = mean(&residuals);
    found.iter_mut().zip(wide(&traces[0].reduced.mean)).for_each(|(r, m)| *r += m);
    worst(&found, &expected) / largest(&expected)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, v| v.abs().max(most))
}

/// How far the result is from the mean of the inputs.
fn error(traces: &[Trace]) -> f64 {
    let expected = inputs_mean(traces);
    worst(&wide(&traces[0].reduced.mean), &expected) / largest(&expected)
}

#[test]
fn full_rank_is_the_mean() {
    // Householder, Gram-Schmidt, tall, wide, one column.
    for [n, m] in [[24, 40], [40, 24], [9, 9], [30, 2], [2, 30], [1, 5]] {
        let traces = run(4, 2, [n, m, n.min(m)], power(ResidualOf::Mean));
        same_bits(&traces);
        assert!(error(&traces) < TOLERANCE, "{n} x {m}: {}", error(&traces));
    }
    // The control: one rank less is not the mean.
    let less = run(4, 2, [24, 40, 23], power(ResidualOf::Mean));
    assert!(error(&less) > 1e-3, "{}", error(&less));
}

#[test]
fn nothing_is_lost_between_result_and_residuals() {
    for steps in [1, 2, 5] {
        for residual_of in [ResidualOf::Mean, ResidualOf::Own] {
            for level in [1, 2, 4] {
                let traces = run(4, steps, [30, 50, level], power(residual_of));
                assert!(missing(&traces) < TOLERANCE, "{residual_of:?} {level}: {}", missing(&traces));
                assert!(error(&traces) > 1e-3, "the control: the result alone is not the mean");
            }
        }
        let traces = run(4, steps, [30, 50, 500], top_k);
        assert!(missing(&traces) < TOLERANCE && error(&traces) > 1e-3);
        for rounding in [RoundingMode::Nearest, RoundingMode::Stochastic] {
            for ranks in [1, 2, 4, 7] {
                // 5 buckets: with seven ranks, two own nothing.
                let traces = run(ranks, steps, [50, 50, 3], qsgd(rounding));
                assert!(missing(&traces) < TOLERANCE, "{ranks} ranks: {}", missing(&traces));
                assert!(error(&traces) > 1e-3);
            }
        }
    }
}

#[test]
fn without_the_owners_part_quantization_loses() {
    // The control: an owner that keeps its second error once and not N times.
    let mut traces = run(4, 1, [50, 50, 3], qsgd(RoundingMode::Nearest));
    let whole = missing(&traces);
    for (rank, trace) in traces.iter_mut().enumerate() {
        // 2500 numbers are five buckets; rank r owns buckets 5r/4 to 5(r + 1)/4.
        let (start, end) = (5 * rank / 4 * 512, (5 * (rank + 1) / 4 * 512).min(2500));
        let residual = trace.reduced.residual.as_mut().unwrap();
        residual[start..end].iter_mut().for_each(|r| *r /= 4.0);
    }
    assert!(whole < TOLERANCE && missing(&traces) > 1e-2, "{whole}, {}", missing(&traces));
}

#[test]
fn warm_start_finds_the_strong_directions() {
    // Two strong directions in 0.3 of noise: at rank 2 the mean of four is nearly all of it after a few steps.
    let first = error(&run(4, 1, [40, 60, 2], power(ResidualOf::Own)));
    let later = error(&run(4, 6, [40, 60, 2], power(ResidualOf::Own)));
    assert!(later < first, "{later} after warm starts, {first} at first");
}

#[test]
fn a_tensor_that_begins_with_zeros_is_learned_later() {
    for level in [1, 2, 4] {
        let mut compressor = PowerSgd::new(0, ResidualOf::Mean);
        let values = gradient(0, 0, 20, 20);
        let reduce = |compressor: &mut PowerSgd, values: &[f32]| {
            let input = Input { name: "w", n: 20, m: 20, level, values };
            compressor.reduce(&[input], &Alone).unwrap().unwrap().remove(0).mean
        };
        assert_eq!(reduce(&mut compressor, &[0.0; 400]), [0.0; 400]);
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
        let at_once = reduce(&mut compressor, &values);
        let later = reduce(&mut compressor, &values);
        assert!(norm(&at_once) > 0.0 && norm(&later) > 0.3 * norm(&values), "rank {level}");
    }
}

#[test]
fn scale_does_not_matter_down_to_tiny_gradients() {
    let values = gradient(0, 0, 20, 30);
    let last = |scale: f32| {
        let mut compressor = PowerSgd::new(0, ResidualOf::Mean);
        let scaled: Vec<f32> = values.iter().map(|v| v * scale).collect();
        let mut result = Vec::new();
        for _ in 0..4 {
            let input = Input { name: "w", n: 20, m: 30, level: 2, values: &scaled };
            result = compressor.reduce(&[input], &Alone).unwrap().unwrap().remove(0).mean;
        }
        result.iter().map(|v| v / scale).collect::<Vec<f32>>()
    };
    // A power of two changes no bit.
    assert_eq!(last(1.0), last(2f32.powi(-80)));
}

#[test]
fn levels_out_of_range_are_errors() {
    for level in [0, 4] {
        let input = Input { name: "w", n: 3, m: 5, level, values: &[1.0; 15] };
        let refused = PowerSgd::new(0, ResidualOf::Mean).reduce(&[input], &Alone);
        assert!(refused.unwrap_err().to_string().contains("power sgd: rank"));
    }
}

/// PowerSGD is linear: four ranks give what one rank gives for the mean of their gradients, as long as all start from
/// the same factor. All other identities hold as well if they do not, so this one is what sees it.
#[test]
fn four_ranks_are_one_rank_with_the_mean_gradient() {
    let step = |compressor: &mut PowerSgd, values: &[f32], level, comm: &dyn Communicator| {
        let input = Input { name: "w", n: 30, m: 50, level, values };
        compressor.reduce(&[input], comm).unwrap().unwrap().remove(0).mean
    };
    // The rank changes after two steps: a new start, from the shared stream again.
    let levels = [2, 2, 4, 4];
    let run = |seed_of: fn(usize) -> u64| {
        let ranks = on_ranks(4, |comm| {
            let rank = comm.rank();
            let mut compressor = PowerSgd::new(seed_of(rank), ResidualOf::Mean);
            let one = |s: usize| gradient(rank, s as u64, 30, 50);
            (0..4).map(|s| step(&mut compressor, &one(s), levels[s], comm)).collect::<Vec<_>>()
        });
        let mut alone = PowerSgd::new(seed_of(0), ResidualOf::Mean);
        let mut apart = Vec::new();
        for (s, &level) in levels.iter().enumerate() {
            let all: Vec<_> = (0..4).map(|rank| gradient(rank, s as u64, 30, 50)).collect();
            let mean: Vec<f32> = mean(&all).into_iter().map(|x| x as f32).collect();
            let one = wide(&step(&mut alone, &mean, level, &Alone));
            apart.push(worst(&wide(&ranks[0][s]), &one) / largest(&one));
        }
        apart
    };
    // Ten times the tolerance of one step: at rank 4, two directions lie in noise, which warm starts turn by rounding.
    let apart = run(|_| 5);
    assert!(apart.iter().all(|&d| d < 10.0 * TOLERANCE), "{apart:?}");
    // The control: ranks that draw their own starts.
    let apart = run(|rank| 5 + rank as u64);
    assert!(apart[0] > 1e-2 && apart[2] > 1e-2, "{apart:?}");
}
