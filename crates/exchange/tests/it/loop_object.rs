//! The object of the training loop: policies, skipped steps, state and bytes.

use trimtab_exchange::{
    Accordion, Alone, Communicator, Error, Exchange, ExchangeConfig, Exchanged, Family, LGrecoConfig,
    LowRankErrors, Named, Policy, ResidualOf, RoundingMode, Schedule, State,
};

use crate::support::{gradient, mean, normal, on_ranks, wide, worst};

const SHAPES: [(&str, &[usize]); 4] =
    [("embed", &[60, 40]), ("bias", &[40]), ("conv", &[32, 8, 3, 3]), ("small", &[3, 5])];

const POWER: Family = Family::PowerSgd { rank: 4, residual_of: ResidualOf::Mean };
const FAMILIES: [Family; 5] = [
    POWER,
    Family::PowerSgd { rank: 2, residual_of: ResidualOf::Own },
    Family::TopK { density: 100, error_feedback: true },
    Family::Qsgd { bits: 4, rounding: RoundingMode::Stochastic, error_feedback: true },
    Family::Dense,
];

fn greco() -> Policy {
    let settings = LGrecoConfig { low_rank: LowRankErrors::Exact, ..LGrecoConfig::default() };
    Policy::LGreco { schedule: Schedule { start: 3, period: 3, window: 2 }, settings }
}

/// Gradients of one rank at one step, by tensor: some nearly of low rank, others noise.
fn gradients(rank: usize, step: u64) -> Vec<Vec<f32>> {
    let len = |shape: &[usize]| shape.iter().product::<usize>();
    let one = |(name, shape): &(&str, &[usize])| match *name {
        "embed" => gradient(rank, step, shape[0], shape[1]),
        _ => normal(name, step, rank as u64, len(shape)),
    };
    SHAPES.iter().map(one).collect()
}

/// Exchanges `values` in place.
fn one_step(exchange: &mut Exchange, values: &mut [Vec<f32>], comm: &dyn Communicator) -> Exchanged {
    let named = SHAPES.iter().zip(values);
    let mut tensors: Vec<Named<'_>> =
        named.map(|((name, shape), values)| Named { name, shape, values }).collect();
    exchange.exchange(&mut tensors, comm).unwrap()
}

/// Means of all steps in `steps`, and the state at the end; from `state` if there is one.
fn run(
    config: ExchangeConfig,
    steps: std::ops::Range<u64>,
    from: Option<&[State]>,
) -> Vec<(Vec<Vec<f32>>, State)> {
    on_ranks(3, |comm| {
        let mut exchange = Exchange::new(config).unwrap();
        if let Some(states) = from {
            exchange.load(&states[comm.rank()]).unwrap();
        }
        let mut means = Vec::new();
        for step in steps.clone() {
            let mut values = gradients(comm.rank(), step);
            one_step(&mut exchange, &mut values, comm);
            means.extend(values);
        }
        (means, exchange.save())
    })
}

#[test]
fn a_run_that_is_saved_and_loaded_goes_on_with_the_same_bits() {
    for family in FAMILIES {
        let accordion = Accordion::default();
        let schedule = Schedule { start: 3, period: 3, window: 2 };
        for policy in [Policy::Uniform, greco(), Policy::Accordion { schedule, accordion }] {
            let config = ExchangeConfig { family, policy, ..Default::default() };
            let whole = run(config, 0..8, None);
            assert!(whole.iter().all(|(means, _)| *means == whole[0].0), "{family:?}: ranks differ");
            // Five steps: in the middle of a window.
            let states: Vec<State> = run(config, 0..5, None).into_iter().map(|(_, state)| state).collect();
            let rest = run(config, 5..8, Some(&states));
            for ((whole, whole_state), (rest, rest_state)) in whole.iter().zip(&rest) {
                assert_eq!(whole[5 * SHAPES.len()..], rest[..], "{family:?} {policy:?}");
                assert_eq!(whole_state, rest_state);
            }
            if family != Family::Dense {
                // The control: without the state, the rest is another.
                let fresh = run(config, 5..8, None);
                assert_ne!(whole[0].0[5 * SHAPES.len()..], fresh[0].0[..], "{family:?}");
            }
        }
    }
}

#[test]
fn what_does_not_pay_is_the_exact_mean_and_the_rest_is_owed() {
    for family in FAMILIES {
        let config = ExchangeConfig { family, ..Default::default() };
        let results = on_ranks(3, |comm| {
            let mut exchange = Exchange::new(config).unwrap();
            let mut values = gradients(comm.rank(), 0);
            let inputs = values.clone();
            one_step(&mut exchange, &mut values, comm);
            let residuals = SHAPES.map(|(name, _)| exchange.residual(name).map(<[f32]>::to_vec));
            (inputs, values, residuals)
        });
        for (t, (name, _)) in SHAPES.iter().enumerate() {
            let expected = mean(&results.iter().map(|r| r.0[t].clone()).collect::<Vec<_>>());
            let found = wide(&results[0].1[t]);
            match &results[0].2[t] {
                None => assert!(worst(&found, &expected) < 1e-6, "{name}"),
                Some(_) => {
                    assert!(*name != "bias" && worst(&found, &expected) > 1e-3, "{name}");
                    let owed = mean(&results.iter().map(|r| r.2[t].clone().unwrap()).collect::<Vec<_>>());
                    let sum: Vec<f64> = found.iter().zip(owed).map(|(m, r)| m + r).collect();
                    assert!(worst(&sum, &expected) < 1e-5, "{name}: {}", worst(&sum, &expected));
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_skip_the_step_on_all_ranks() {
    for family in FAMILIES {
        for poison in [f32::NAN, f32::INFINITY, 1e38] {
            let config = ExchangeConfig { family, ..Default::default() };
            let results = on_ranks(3, |comm| {
                let mut exchange = Exchange::new(config).unwrap();
                one_step(&mut exchange, &mut gradients(comm.rank(), 0), comm);
                let before = exchange.save();
                let mut values = gradients(comm.rank(), 1);
                if comm.rank() == 1 {
                    values[0][7] = poison;
                }
                let kept = values.clone();
                let outcome = one_step(&mut exchange, &mut values, comm);
                assert_eq!(outcome, Exchanged::Skipped { ranks: vec![1] });
                assert!(
                    values
                        .iter()
                        .flatten()
                        .zip(kept.iter().flatten())
                        .all(|(a, b)| a.to_bits() == b.to_bits())
                );
                let after = exchange.save();
                assert_eq!((exchange.step(), exchange.skipped()), (1, 1));
                assert!(before.tensors == after.tensors, "{family:?}: state has changed");
                one_step(&mut exchange, &mut gradients(comm.rank(), 2), comm);
                exchange.save()
            });
            let finite = |s: &State| s.tensors.values().flatten().all(|x| x.is_finite());
            assert!(results.iter().all(finite), "{family:?}");
        }
    }
}

#[test]
fn l_greco_takes_fewer_bytes_for_no_more_error_and_all_ranks_follow() {
    for family in &FAMILIES[..4] {
        let config = ExchangeConfig { family: *family, policy: greco(), ..Default::default() };
        let results = on_ranks(3, |comm| {
            let mut exchange = Exchange::new(config).unwrap();
            let mut decided = Vec::new();
            for step in 0..7 {
                let outcome = one_step(&mut exchange, &mut gradients(comm.rank(), step), comm);
                if let Exchanged::Averaged { adjusted: true, .. } = outcome {
                    decided.push(step);
                }
            }
            (decided, exchange.levels().clone(), exchange.adjustment().cloned())
        });
        assert!(results.iter().all(|r| r.0 == [3, 6] && r.1 == results[0].1), "{family:?}");
        let made = results[0].2.as_ref().unwrap().choice.as_ref().unwrap();
        let chosen = made.chosen.as_ref().unwrap();
        assert!(results[1].2.is_none() && made.tables.len() >= 2);
        assert!(chosen.error <= made.budget && chosen.bytes <= made.uniform.bytes);
        if *family == POWER {
            // Two directions are enough for one, noise needs what it can get: ranks move apart.
            assert!(chosen.bytes < made.uniform.bytes, "{chosen:?} {:?}", made.uniform);
            assert!(results[0].1["embed"] < 4, "{:?}", results[0].1);
        }
    }
}

#[test]
fn sent_bytes_are_those_of_the_payloads() {
    let sent = |family| {
        let config = ExchangeConfig { family, ..Default::default() };
        let sent = on_ranks(2, |comm| {
            let mut exchange = Exchange::new(config).unwrap();
            one_step(&mut exchange, &mut gradients(comm.rank(), 0), comm);
            assert_eq!(exchange.sent_bytes(), comm.sent_bytes());
            exchange.sent_bytes()
        });
        sent.iter().sum::<u64>() / 2
    };
    // 2400 and 2304 numbers are compressed, 40 and 15 are not; nine bytes of agreement. Two ranks: a sum of n numbers
    // is n numbers sent.
    assert_eq!(sent(Family::Dense), 9 + 4 * (2400 + 2304 + 55));
    assert_eq!(sent(POWER), 9 + 4 * 55 + 4 * 4 * (60 + 40 + 32 + 72));
    // One entry of the 15 pays, too.
    assert_eq!(sent(FAMILIES[2]), 9 + 4 * 40 + 8 * (24 + 23 + 1));
    // Half a byte a number and 8 bytes for each of five buckets, once for the scatter of halves and once for the gather.
    assert_eq!(sent(FAMILIES[3]), 9 + 4 * 40 + (1200 + 1152 + 8) + 8 * (5 + 5 + 1));
}

#[test]
fn ranks_with_other_tensors_are_told_so() {
    let ended = on_ranks(2, |comm| {
        let mut exchange = Exchange::new(ExchangeConfig::default()).unwrap();
        let name = if comm.rank() == 0 { "a" } else { "b" };
        let mut values = [1.0];
        exchange.exchange(&mut [Named { name, shape: &[1], values: &mut values }], comm)
    });
    assert!(ended.iter().all(|e| matches!(e, Err(Error::Mismatch { what: "exchange", .. }))), "{ended:?}");
}

#[test]
fn senseless_tensors_settings_and_states_are_refused() {
    let mut exchange = Exchange::new(ExchangeConfig::default()).unwrap();
    let mut values = [0.0; 6];
    let (a, b) = values.split_at_mut(3);
    let wrong = exchange.exchange(&mut [Named { name: "w", shape: &[2, 2], values: &mut *a }], &Alone);
    assert!(wrong.unwrap_err().to_string().contains("3 values for the shape [2, 2], expected 4"));
    let mut twice =
        [Named { name: "w", shape: &[3], values: a }, Named { name: "w", shape: &[3], values: b }];
    assert!(matches!(exchange.exchange(&mut twice, &Alone), Err(Error::Duplicate { .. })));
    for family in [
        Family::PowerSgd { rank: 0, residual_of: ResidualOf::Mean },
        Family::TopK { density: 0, error_feedback: true },
        Family::Qsgd { bits: 9, rounding: RoundingMode::Nearest, error_feedback: false },
    ] {
        assert!(Exchange::new(ExchangeConfig { family, ..Default::default() }).is_err());
    }
    assert!(matches!(exchange.load(&State::default()), Err(Error::State { .. })));
    let mut state = exchange.save();
    state.tensors.insert("residual/w".to_string(), vec![f32::NAN]);
    assert!(exchange.load(&state).unwrap_err().to_string().contains("residual/w"));
}

#[test]
fn a_group_of_another_size_owes_the_same() {
    let config = ExchangeConfig { family: POWER, ..Default::default() };
    let states: Vec<State> = run(config, 0..3, None).into_iter().map(|(_, state)| state).collect();
    let resized = State::resized(&states).unwrap();
    let old: Vec<Vec<f32>> = states.iter().map(|s| s.tensors["residual/embed"].clone()).collect();
    assert!(worst(&wide(&resized.tensors["residual/embed"]), &mean(&old)) < 1e-5);
    assert_eq!(resized.tensors["q/embed"], states[0].tensors["q/embed"]);
    let mut exchange = Exchange::new(config).unwrap();
    exchange.load(&resized).unwrap();
    one_step(&mut exchange, &mut gradients(0, 3), &Alone);
    assert_eq!(exchange.step(), 4);
}

#[test]
fn a_lost_rank_ends_the_exchange_of_the_others() {
    let config = ExchangeConfig { family: POWER, ..Default::default() };
    let ranks: Vec<_> = trimtab_exchange::Threads::ranks(3)
        .into_iter()
        .map(|comm| {
            std::thread::spawn(move || -> Result<u64, Error> {
                let mut exchange = Exchange::new(config)?;
                for step in 0..if comm.rank() == 1 { 2 } else { 5 } {
                    let mut values = gradients(comm.rank(), step);
                    let named = SHAPES.iter().zip(&mut values);
                    let mut tensors: Vec<Named<'_>> =
                        named.map(|((name, shape), values)| Named { name, shape, values }).collect();
                    exchange.exchange(&mut tensors, &comm)?;
                }
                Ok(exchange.step())
            })
        })
        .collect();
    let ended: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    assert_eq!(ended, [Err(Error::Lost { rank: 1 }), Ok(2), Err(Error::Lost { rank: 1 })]);
}

/// One decision after three equal steps, another after three more; rank 0's levels of "embed" and what was weighed.
fn two_decisions(policy: Policy) -> Vec<(usize, Option<trimtab_exchange::Choice>)> {
    let config = ExchangeConfig { family: POWER, policy, ..Default::default() };
    let mut exchange = Exchange::new(config).unwrap();
    let mut decisions = Vec::new();
    for step in 0..7 {
        // The same gradient at every step: its norm grows by the residuals alone, by less than the threshold.
        let mut values = gradients(0, 0);
        let outcome = one_step(&mut exchange, &mut values, &Alone);
        if let Exchanged::Averaged { adjusted: true, .. } = outcome {
            assert!(step == 3 || step == 6);
            let made = exchange.adjustment().unwrap();
            decisions.push((exchange.levels()["embed"], made.choice.clone()));
        }
    }
    decisions
}

#[test]
fn accordion_is_high_at_first_and_low_when_norms_settle() {
    let schedule = Schedule { start: 3, period: 3, window: 1 };
    let accordion = Accordion { threshold: 3.0, ..Accordion::default() };
    let alone = two_decisions(Policy::Accordion { schedule, accordion });
    assert_eq!(alone.iter().map(|d| d.0).collect::<Vec<_>>(), [8, 2]);

    // Beside L-GreCo it sets the error allowed: that of rank 8, then that of rank 2.
    let settings =
        LGrecoConfig { gamma: 0.25, beta: 4.0, accordion: Some(accordion), ..LGrecoConfig::default() };
    let both = two_decisions(Policy::LGreco { schedule, settings });
    for ((_, choice), rank) in both.iter().zip([8, 2]) {
        let choice = choice.as_ref().unwrap();
        let at_rank = |t: &trimtab_exchange::ErrorTable| t.errors[t.at_most(rank)];
        assert_eq!(choice.budget, choice.tables.iter().map(at_rank).sum::<f64>());
        assert!(choice.chosen.as_ref().unwrap().error <= choice.budget);
    }
    assert!(both[0].1.as_ref().unwrap().budget < both[1].1.as_ref().unwrap().budget);
}

#[test]
fn settings_and_states_are_data() {
    let text = r#"{"family": {"family": "power_sgd", "rank": 4}, "policy": {"policy": "l_greco", "schedule": {"start": 20}}}"#;
    let config: ExchangeConfig = serde_json::from_str(text).unwrap();
    let schedule = Schedule { start: 20, ..Schedule::default() };
    let policy = Policy::LGreco { schedule, settings: LGrecoConfig::default() };
    assert_eq!(config, ExchangeConfig { family: POWER, policy, ..Default::default() });
    let again: ExchangeConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    let typo = serde_json::from_str::<ExchangeConfig>(&text.replace("rank", "rnk"));
    assert!(typo.unwrap_err().to_string().contains("rnk"));

    let state = run(ExchangeConfig { family: POWER, ..Default::default() }, 0..2, None).remove(0).1;
    let again: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    assert_eq!(again, state);
}

#[test]
fn a_tensor_of_another_size_is_refused_and_not_passed_over() {
    let mut exchange = Exchange::new(ExchangeConfig { family: POWER, ..Default::default() }).unwrap();
    one_step(&mut exchange, &mut gradients(0, 0), &Alone);
    let mut values = vec![1.0; 60 * 50];
    let refused =
        exchange.exchange(&mut [Named { name: "embed", shape: &[60, 50], values: &mut values }], &Alone);
    assert!(
        refused.unwrap_err().to_string().contains("\"residual/embed\": found 2400 values, expected 3000")
    );
}
