//! Examples from the draw to the rows.

use super::*;
use crate::denoise::rows::IGNORED;
use trimtab_math::random::Stream;

/// T5's ids: `<extra_id_0>` is 32099, the end 1, padding 0; the mode tokens come after.
fn t5() -> Vocabulary {
    Vocabulary::numbered(32_099, 100, Some([32_100, 32_101, 32_102]), 1, 0).unwrap()
}

fn wide() -> Vocabulary {
    Vocabulary::numbered(4_999, 1_100, Some([6_000, 6_001, 6_002]), 1, 0).unwrap()
}

/// Every denoiser of both mixtures, alone.
fn corruptions() -> Vec<SpanCorrupt> {
    let mut all = MixtureConfig::ul2().denoisers;
    all.extend(MixtureConfig::ul2r().denoisers);
    all.iter().flat_map(|d| [d.corruption, SpanCorrupt { offset: true, ..d.corruption }]).collect()
}

#[test]
fn a_hundred_thousand_texts_come_back() {
    let (vocabulary, all) = (wide(), corruptions());
    let text: Vec<u32> = (0..2048).map(|i| 2 + (i * 7) % 1000).collect();
    for item in 0..100_000u64 {
        let mut stream = Stream::new(3, "denoise", 0, item);
        let tokens = 2 + stream.below(2047);
        let (text, corruption) = (&text[..tokens], &all[item as usize % all.len()]);
        let counts = corruption.counts(tokens).unwrap();
        let spans = corruption.draw(tokens, &mut stream).unwrap();
        let masked = ((tokens as f64 * corruption.rate).round_ties_even() as usize).clamp(1, tokens - 1);
        assert_eq!(spans.iter().map(|s| s.len()).sum::<usize>(), masked);
        assert_eq!((counts.masked, counts.spans), (masked, spans.len()));
        assert!(spans[0].start > 0 && spans.windows(2).all(|w| w[0].end < w[1].start));
        assert!(corruption.offset || spans[spans.len() - 1].end == tokens);
        let example = Example::from_spans(text, &spans, Mode::R, Some(6_000), &vocabulary).unwrap();
        assert_eq!((example.inputs.len(), example.targets.len()), length::rendered(counts, 1));
        assert_eq!(example.restore(true, &vocabulary).unwrap(), text);
    }
}

#[test]
fn a_damaged_example_does_not_come_back() {
    let (vocabulary, text) = (wide(), [10, 11, 12, 13, 14, 15]);
    let good = Example::from_spans(&text, &[1..2, 3..5], Mode::R, None, &vocabulary).unwrap();
    assert_eq!(good.restore(false, &vocabulary).unwrap(), text);
    let mut swapped = good.clone();
    swapped.targets.swap(0, 2);
    assert!(swapped.restore(false, &vocabulary).is_err());
    let mut changed = good.clone();
    changed.targets[1] = 99;
    assert_ne!(changed.restore(false, &vocabulary).unwrap(), text);
    assert_ne!(good.restore(true, &vocabulary).ok().as_deref(), Some(&text[..]), "a mode that is not there");
}

#[test]
fn the_mask_of_t5_by_hand() {
    // Worked by hand from the published recipe (noise_span_to_unique_sentinel, nonnoise_span_to_unique_sentinel), with
    // T5's ids: mask 0 0 1 1 0 0 0 1 0 1 1 over the tokens 100..111.
    let text: Vec<u32> = (100..111).collect();
    let example = Example::from_spans(&text, &[2..4, 7..8, 9..11], Mode::R, None, &t5()).unwrap();
    assert_eq!(example.inputs, [100, 101, 32_099, 104, 105, 106, 32_098, 108, 32_097, 1]);
    assert_eq!(example.targets, [32_099, 102, 103, 32_098, 107, 32_097, 109, 110, 1]);
    // Control: sentinels counted upwards are another rendering.
    let up = Vocabulary::new((32_000..32_100).collect(), None, 1, 0).unwrap();
    assert_ne!(Example::from_spans(&text, &[2..4, 7..8, 9..11], Mode::R, None, &up).unwrap(), example);
}

#[test]
fn mixtures_keep_limits_and_shares() {
    for (config, s_share) in [(MixtureConfig::ul2(), 1.0 / 7.0), (MixtureConfig::ul2r(), 0.5)] {
        let sequence = Some(900);
        let config = MixtureConfig { limits: Limits { sequence, ..Limits::default() }, ..config };
        let mixture = Mixture::new(config, t5()).unwrap();
        let text: Vec<u32> = (0..2048).map(|i| 2 + i % 30_000).collect();
        let (mut drawn, n) = ([0usize; 3], 14_000);
        for item in 0..n {
            let length = 2 + (item as usize * 37) % 2047;
            let example = mixture.example(&text[..length], 5, 1, item).unwrap();
            drawn[example.mode as usize] += 1;
            assert!(mixture.config().limits.hold(example.inputs.len(), example.targets.len()));
            assert_eq!(Some(example.inputs[0]), t5().mode(example.mode));
            assert_eq!(example.restore(true, &t5()).unwrap(), text[..example.tokens]);
        }
        let found = drawn[Mode::S as usize] as f64 / n as f64;
        // Five standard errors of a share at 14,000 draws.
        assert!((found - s_share).abs() < 5.0 * (s_share * (1.0 - s_share) / n as f64).sqrt(), "{found}");
        let r = if s_share == 0.5 { 0.25 } else { 2.0 / 7.0 };
        assert!((drawn[Mode::R as usize] as f64 / n as f64 - r).abs() < 0.02);
    }
}

#[test]
fn an_example_depends_on_its_name_alone() {
    let mixture = Mixture::new(MixtureConfig::ul2(), t5()).unwrap();
    let text: Vec<u32> = (2..1002).collect();
    let at = |seed, epoch, item| mixture.example(&text, seed, epoch, item).unwrap();
    let first = at(1, 2, 3);
    let _ = at(1, 2, 4);
    assert_eq!(at(1, 2, 3), first);
    for other in [at(2, 2, 3), at(1, 3, 3), at(1, 2, 4)] {
        assert_ne!(other, first);
    }
}

#[test]
fn the_loss_is_on_targets_and_nowhere_else() {
    let (vocabulary, text) = (t5(), [10, 11, 12, 13, 14]);
    let spans = Example::from_spans(&text, &[1..3, 4..5], Mode::R, Some(32_100), &vocabulary).unwrap();
    let prefix = Example::from_prefix(&text, 3, Mode::S, Some(32_101), &vocabulary).unwrap();
    for example in [&spans, &prefix] {
        let row = &Sequence::pack(std::slice::from_ref(example), 20, &vocabulary).unwrap()[0];
        let predicted: Vec<u32> =
            (0..19).filter(|&t| row.loss_mask[t]).map(|t| row.input_ids[t + 1]).collect();
        assert_eq!(predicted, example.targets);
        // With the mode at 0 and n inputs after it: places n up to n + targets - 1.
        let n = example.inputs.len() - 1;
        let places: Vec<usize> = (0..20).filter(|&t| row.loss_mask[t]).collect();
        assert_eq!(places, (n..n + example.targets.len()).collect::<Vec<_>>());
        let labelled: Vec<i64> = row.labels.iter().copied().filter(|&l| l != IGNORED).collect();
        assert_eq!(labelled, example.targets.iter().map(|&id| i64::from(id)).collect::<Vec<_>>());
        // Control: the labels, unshifted, are one place later than the predictions.
        assert_ne!(row.labels.iter().map(|&l| l != IGNORED).collect::<Vec<_>>(), row.loss_mask);
    }
}

#[test]
fn packed_segments_do_not_see_each_other() {
    let (vocabulary, text) = (t5(), [10, 11, 12, 13]);
    let one = Example::from_prefix(&text, 2, Mode::S, Some(32_101), &vocabulary).unwrap();
    let two = Example::from_spans(&text, std::slice::from_ref(&(1..2)), Mode::X, Some(32_102), &vocabulary)
        .unwrap();
    let rows = Sequence::pack(&[one.clone(), two.clone(), one.clone()], 16, &vocabulary).unwrap();
    assert_eq!(rows.len(), 2, "6 and 9 places fit into 16, another 6 do not");
    let row = &rows[0];
    assert_eq!(row.segment_ids, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0]);
    assert_eq!(row.prefix_lengths, [3, 6]);
    assert!(row.sees(0, 2) && !row.sees(0, 3) && row.sees(3, 2) && row.sees(6, 11) && !row.sees(6, 12));
    assert!(!row.sees(6, 5) && !row.sees(2, 6) && !row.sees(15, 15) && !row.sees(99, 0));
    // Prefixes of 3 and 6 see themselves; each target one place more than the one before it.
    let seen = row.mask().iter().filter(|&&seen| seen).count();
    assert_eq!(seen, (3 * 3 + 4 + 5 + 6) + (6 * 6 + 7 + 8 + 9));
    assert!(
        Sequence::pack(std::slice::from_ref(&two), 8, &vocabulary)
            .unwrap_err()
            .to_string()
            .contains("9 tokens")
    );

    let empty = Example { mode: Mode::R, tokens: 0, inputs: vec![], targets: vec![] };
    let row = &Sequence::pack(&[empty.clone(), one.clone()], 8, &vocabulary).unwrap()[0];
    assert_eq!((row.loss_mask.len(), row.prefix_lengths.len()), (8, 2));
    assert!(TwoStacks::pack(&[empty], 2, 2, &vocabulary).is_ok());

    let rows = TwoStacks::pack(&[one, two], 12, 8, &vocabulary).unwrap();
    let row = &rows[0];
    assert_eq!(row.decoder_segment_ids, [1, 1, 1, 2, 2, 2, 0, 0]);
    assert_eq!(row.decoder_input_ids, [0, 12, 13, 0, 32_099, 11, 0, 0]);
    assert_eq!(row.labels, [12, 13, 1, 32_099, 11, 1, IGNORED, IGNORED]);
    assert_eq!(row.attention_mask.iter().map(|&m| usize::from(m)).sum::<usize>(), 9);
}

#[test]
fn settings_have_defaults_and_are_checked() {
    let read = |json: &str| serde_json::from_str::<MixtureConfig>(json).unwrap();
    assert_eq!(read("{}"), MixtureConfig::ul2());
    let config = read(
        r#"{"s_share": 0.2, "pivot": "uniform", "too_many_spans": "refuse",
            "denoisers": [{"mode": "X", "corruption": {"mean_span": 3, "rate": 0.5}}]}"#,
    );
    assert_eq!(config.denoisers[0].weight, 1.0);
    let error = |config: MixtureConfig| Mixture::new(config, t5()).unwrap_err().to_string();
    assert!(error(config).contains("127 masked spans"), "the mode token takes the place of one");
    assert!(error(MixtureConfig { s_share: 1.5, ..Default::default() }).contains("s_share"));
    assert!(error(MixtureConfig { denoisers: vec![], ..Default::default() }).contains("weights"));
    let mut wrong = MixtureConfig::ul2();
    wrong.denoisers[0].mode = Mode::S;
    assert!(error(wrong).contains("R or X"));
    let plain = Vocabulary::numbered(99, 10, None, 1, 0).unwrap();
    assert!(Mixture::new(MixtureConfig::ul2(), plain).unwrap_err().to_string().contains("[NLU]"));
    let mixture = Mixture::new(MixtureConfig::ul2(), t5()).unwrap();
    assert!(mixture.example(&[5], 0, 0, 0).is_err() && mixture.example(&[5, 32_050], 0, 0, 0).is_err());
}
