use trimtab_io::ActivationGranularity;
use trimtab_math::gram::GramAccumulator;

use super::*;

const D: usize = 12;

fn scheme(symmetric: bool) -> ActivationScheme {
    ActivationScheme { bits: 4, symmetric, granularity: ActivationGranularity::Channel }
}

/// Rows with a rare outlier in each channel, and `Wᵀ W` of a map.
fn case(n: usize, rate: usize) -> (Vec<f32>, Square, Vec<f32>) {
    let mut stream = Stream::new(2, "test/repquant", n as u64, 0);
    let rows =
        (0..n * D).map(|i| (stream.normal() * if i % rate == 5 { 12.0 } else { 1.0 }) as f32).collect();
    let weight: Vec<f32> = (0..6 * D).map(|_| stream.normal() as f32).collect();
    let mut gram = GramAccumulator::new(D);
    gram.add(&weight, None).unwrap();
    let mean = gram.mean().unwrap();
    let maps = Square::new(D, mean.as_slice().iter().map(|x| 6.0 * x).collect()).unwrap();
    (rows, maps, weight)
}

fn widest(rows: &[f32], scheme: ActivationScheme) -> Vec<ActivationStep> {
    let channel = |d: usize| {
        let all = rows.iter().skip(d).step_by(D);
        let (low, high) = all.fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
        scheme.step(low, high)
    };
    (0..D).map(channel).collect()
}

#[test]
fn the_error_is_that_of_the_maps_behind() {
    let (rows, maps, weight) = case(40, 97);
    let scheme = scheme(false);
    let steps = widest(&rows, scheme);
    let mut sum = 0.0;
    for row in rows.chunks(D) {
        for w in weight.chunks(D) {
            let y: f64 = row
                .iter()
                .zip(w)
                .zip(&steps)
                .map(|((&x, &w), step)| {
                    f64::from(step.decode(step.code(x, scheme.highest())) - x) * f64::from(w)
                })
                .sum();
            sum += y * y;
        }
    }
    let found = error(&rows, &maps, &steps, scheme);
    assert!((found - sum / 40.0).abs() < 1e-9 * found, "{found} {}", sum / 40.0);
}

#[test]
fn gradients_are_those_of_differences_with_codes_held_fast() {
    // Rounding passes gradients on: with the codes of one point, x̂ = x + s (q - z - x/s at that point) inside. Outside it is an end, or
    // of symmetric codes as many steps as it was.
    for symmetric in [false, true] {
        let (rows, maps, _) = case(64, 97);
        let scheme = scheme(symmetric);
        let ends = Ends::of(&rows, &widest(&rows, scheme), scheme);
        let narrow = Ends { logits: ends.logits.iter().map(|l| l - 4.5).collect(), ..ends };
        let steps = narrow.steps(scheme);
        let q = f64::from(scheme.highest());
        let size = |[up, down]: [f64; 2]| if symmetric { up.max(-down) / 7.0 } else { (up - down) / 15.0 };
        let fast: Vec<(f64, f64)> = rows
            .iter()
            .zip(steps.iter().cycle())
            .map(|(&x, step)| {
                let at = f64::from(x / step.scale + f32::from(step.zero));
                let value =
                    f64::from(step.decode(step.code(x, scheme.highest())) / step.scale - x / step.scale);
                (at, value)
            })
            .collect();
        let loss = |ends: &Ends| -> f64 {
            let errors: Vec<f64> = fast
                .iter()
                .enumerate()
                .map(|(i, (at, share))| {
                    let (now, then) = (ends.ends(i % D), narrow.ends(i % D));
                    let base = steps[i % D];
                    let grown = size(now) - size(then);
                    let x = f64::from(rows[i]);
                    let clipped = |end: usize, code: u8| {
                        let count = f64::from(code) - f64::from(base.zero);
                        let by = if symmetric { count * grown } else { now[end] - then[end] };
                        f64::from(base.decode(code)) + by - x
                    };
                    match at {
                        at if *at > q => clipped(0, scheme.highest()),
                        at if *at < 0.0 => clipped(1, 0),
                        _ => share * (f64::from(base.scale) + grown),
                    }
                })
                .collect();
            let through = product(&errors, &maps);
            errors.iter().zip(through).map(|(e, g)| e * g).sum::<f64>() / 64.0
        };
        let gradient = narrow.gradient(&rows, &maps, scheme);
        assert_eq!(gradient.len(), if symmetric { D } else { 2 * D });
        let clipped = fast.iter().filter(|(at, _)| *at > q || *at < 0.0).count();
        assert!(clipped > 40 && clipped < rows.len() / 2, "{clipped}");
        for (at, found) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut logits = narrow.logits.clone();
                logits[at] += by;
                loss(&Ends { logits, high: narrow.high.clone(), low: narrow.low.clone() })
            };
            let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
            assert!((slope - found).abs() < 1e-4 * slope.abs() + 1e-5, "{symmetric}: {slope} {found}");
        }
        assert!(gradient.iter().all(|g| g.abs() > 1e-6), "control: there is a slope, {gradient:?}");
    }
}

#[test]
fn the_end_of_symmetric_codes_is_the_far_one_whichever_that_is() {
    let ends = |sign: f32, symmetric: bool| {
        let rows: Vec<f32> = (0..8 * D).map(|i| sign * if i < D { 7.0 } else { -0.5 }).collect();
        let scheme = scheme(symmetric);
        Ends::of(&rows, &widest(&rows, scheme), scheme).ends(3)
    };
    for sign in [1.0, -1.0] {
        let [up, down] = ends(sign, true);
        assert!(up == -down && (up - 0.982 * 7.0).abs() < 1e-9, "{up} {down}");
    }
    let [up, down] = ends(1.0, false);
    assert!(up > 6.0 && down > -1.0, "control, of two ends each has its own: {up} {down}");
}

#[test]
fn learned_ends_are_better_on_rows_that_were_not_learned_on_and_never_worse() {
    for symmetric in [false, true] {
        let scheme = scheme(symmetric);
        let (rows, maps, _) = case(20_000, 997);
        let start = widest(&rows, scheme);
        let settings = ClippingSettings::default();
        let found = clip(&rows, &maps, &start, scheme, &settings).unwrap();
        assert!(found.after < 0.9 * found.before, "{symmetric}: {} {}", found.before, found.after);
        assert_eq!(clip(&rows, &maps, &start, scheme, &settings).unwrap(), found);
        // Control: one step that leaves nothing of the ranges only does harm, and is not taken.
        let wild = ClippingSettings { steps: 1, rate: 20.0, ..settings };
        let kept = clip(&rows, &maps, &start, scheme, &wild).unwrap();
        assert_eq!(kept, Clipped { steps: start, before: found.before, after: found.before });
    }
    let (rows, maps, _) = case(4, 97);
    let start = widest(&rows, scheme(false));
    assert!(clip(&rows, &maps, &start, scheme(false), &ClippingSettings::default()).is_err());
}

#[test]
fn absorbed_weights_satisfy_the_normal_equations_and_are_the_best_there_are() {
    let mut stream = Stream::new(4, "test/absorb", 0, 0);
    let (n, rows) = (300, 5);
    let x: Vec<f32> = (0..n * D).map(|_| stream.normal() as f32).collect();
    let scheme = scheme(false);
    let step = scheme.step(-2.0, 2.0);
    let quantized: Vec<f32> = x.iter().map(|&x| step.decode(step.code(x, scheme.highest()))).collect();
    let weight: Vec<f32> = (0..rows * D).map(|_| stream.normal() as f32).collect();
    let mut both = GramAccumulator::new(2 * D);
    for (x, q) in x.chunks(D).zip(quantized.chunks(D)) {
        both.add(&[x, q].concat(), None).unwrap();
    }
    let both = both.mean().unwrap();
    let block = |row: usize, column: usize| -> Square {
        let data = (0..D * D).map(|i| both.at(row + i / D, column + i % D)).collect();
        Square::new(D, data).unwrap()
    };
    let (h, cross) = (block(D, D), block(0, D));
    let (found, shift) = absorb(&weight, &h, &cross, 0.01).unwrap();
    let at = |m: &Square, w: &[f32], i: usize| -> f64 { (0..D).map(|k| f64::from(w[k]) * m.at(k, i)).sum() };
    let mut far = 0.0f64;
    for (w, star) in weight.chunks(D).zip(found.chunks(D)) {
        for i in 0..D {
            let left = at(&cross, w, i) - at(&h, star, i);
            let right = shift * f64::from(star[i] - w[i]);
            far = far.max((left - right).abs() / at(&cross, w, i).abs().max(1e-2));
        }
    }
    // Weights are rounded to single precision once.
    assert!(far < 1e-5, "{far}");
    let loss = |w: &[f32]| -> f64 {
        let mut sum = 0.0;
        for (x, q) in x.chunks(D).zip(quantized.chunks(D)) {
            for (old, new) in weight.chunks(D).zip(w.chunks(D)) {
                let y: f64 = (0..D)
                    .map(|i| f64::from(old[i]) * f64::from(x[i]) - f64::from(new[i]) * f64::from(q[i]))
                    .sum();
                sum += y * y;
            }
        }
        sum
    };
    assert!(loss(&found) < 0.999 * loss(&weight));
    // Without a difference there is nothing to absorb.
    let (same, _) = absorb(&weight, &h, &h, 0.01).unwrap();
    assert!(same.iter().zip(&weight).all(|(a, b)| (a - b).abs() < 1e-5));
    assert!(absorb(&weight[1..], &h, &cross, 0.01).is_err());
}
