//! The sampler against transformers' numbers, against a plain transcription of transformers' rules, and at its edges.

use doge_engine::{Error, Sampler, SamplingSettings};
use proptest::prelude::*;
use serde_json::Value;

const NINF: f32 = f32::NEG_INFINITY;

fn all() -> SamplingSettings {
    SamplingSettings::default().do_sample(true).top_k(0)
}

fn probabilities(settings: SamplingSettings, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Vec<f32> {
    Sampler::new(settings).unwrap().probabilities(logits, prompt, generated).unwrap().to_vec()
}

fn greedy(logits: &[f32]) -> Result<u32, Error> {
    Sampler::new(SamplingSettings::default()).unwrap().sample(logits, &[], &[])
}

#[test]
fn golden_probabilities() {
    let expected: Value = serde_json::from_str(include_str!("golden/sampling/expected.json")).unwrap();
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>();
    let atol = expected["atol"].as_f64().unwrap() as f32;
    let rows = expected["rows"].as_array().unwrap();
    for row in rows {
        let mut settings = all();
        for (key, value) in row["settings"].as_object().unwrap() {
            let value = value.as_f64().unwrap();
            match key.as_str() {
                "temperature" => settings.temperature = value as f32,
                "top_k" => settings.top_k = value as usize,
                "top_p" => settings.top_p = value as f32,
                "min_p" => settings.min_p = value as f32,
                "repetition_penalty" => settings.repetition_penalty = value as f32,
                other => panic!("setting {other} is not read"),
            }
        }
        let history: Vec<u32> = row["history"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
        let wanted = numbers(&row["probabilities"]);
        // Where the prompt ends does not matter to these settings.
        for split in [0, 4, history.len()] {
            let (prompt, generated) = history.split_at(split);
            let made = probabilities(settings.clone(), &numbers(&row["logits"]), prompt, generated);
            assert_eq!(made.len(), wanted.len());
            for (i, (a, b)) in made.iter().zip(&wanted).enumerate() {
                assert!((a - b).abs() <= atol && (*a == 0.0) == (*b == 0.0), "{}: token {i}: {a} for {b}", row["settings"]);
            }
        }
    }
    assert_eq!(rows.len(), 14);
}

/// transformers' processors, each on a full vector with negative infinity for what is gone.
fn transcription(s: &SamplingSettings, logits: &[f32], history: &[u32]) -> Vec<f64> {
    let softmax = |x: &[f64]| {
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|v| (v - max).exp()).sum();
        x.iter().map(|v| (v - max).exp() / sum).collect::<Vec<f64>>()
    };
    let ascending = |key: &[f64]| {
        let mut order: Vec<usize> = (0..key.len()).collect();
        order.sort_by(|&a, &b| key[a].total_cmp(&key[b]));
        order
    };
    let gone = f64::NEG_INFINITY;
    let mut x: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
    for (id, v) in x.iter_mut().enumerate() {
        if history.contains(&(id as u32)) {
            let penalty = f64::from(s.repetition_penalty);
            *v = if *v < 0.0 { *v * penalty } else { *v / penalty };
        }
        *v /= f64::from(s.temperature);
    }
    if s.top_k > 0 {
        let order = ascending(&x);
        let kth = x[order[x.len() - s.top_k.min(x.len())]];
        x.iter_mut().filter(|v| **v < kth).for_each(|v| *v = gone);
    }
    if s.top_p < 1.0 {
        let (order, p) = (ascending(&x), softmax(&x));
        let mut sum = 0.0;
        for &i in &order[..order.len() - 1] {
            sum += p[i];
            if sum <= 1.0 - f64::from(s.top_p) {
                x[i] = gone;
            }
        }
    }
    let p = softmax(&x);
    let top = p.iter().copied().fold(0.0, f64::max);
    x.iter_mut().zip(&p).filter(|(_, p)| **p < f64::from(s.min_p) * top).for_each(|(v, _)| *v = gone);
    if s.typical_p < 1.0 {
        let p = softmax(&x);
        let entropy: f64 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let shifted: Vec<f64> = p.iter().map(|p| (-p.ln() - entropy).abs()).collect();
        let order = ascending(&shifted);
        let mut sum = 0.0;
        let below = order.iter().filter(|&&i| {
            sum += p[i];
            sum < f64::from(s.typical_p)
        });
        let last = shifted[order[below.count().min(order.len() - 1)]];
        x.iter_mut().zip(&shifted).filter(|(_, s)| **s > last).for_each(|(v, _)| *v = gone);
    }
    softmax(&x)
}

proptest! {
    #[test]
    fn follows_transformers_rules(
        logits in prop::collection::vec(-12f32..12.0, 2..700),
        history in prop::collection::vec(0u32..2, 0..6),
        (temperature, repetition_penalty) in (0.2f32..3.0, 0.7f32..1.5),
        top_k in prop_oneof![Just(0usize), Just(1), 2usize..40, Just(500)],
        (top_p, min_p) in (prop_oneof![Just(1f32), 0.01f32..0.999], prop_oneof![Just(0f32), 0.001f32..0.5]),
        typical_p in prop_oneof![Just(1f32), 0.1f32..0.95],
    ) {
        let settings = all().temperature(temperature).repetition_penalty(repetition_penalty).top_k(top_k).top_p(top_p).min_p(min_p).typical_p(typical_p);
        let wanted = transcription(&settings, &logits, &history);
        let made = probabilities(settings.clone(), &logits, &history, &[]);
        prop_assert!((made.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs() < 1e-5);
        for (a, b) in made.iter().zip(&wanted) {
            prop_assert!((f64::from(*a) - b).abs() < 1e-5, "{a} for {b} with {settings:?}");
            // The same tokens are kept; what f32 can't hold may round to nothing.
            prop_assert!(if *a > 0.0 { *b > 0.0 } else { *b < 1e-37 }, "{a} for {b} with {settings:?}");
        }
        // What is drawn is what may be drawn.
        let mut sampler = Sampler::new(settings).unwrap();
        for _ in 0..8 {
            let id = sampler.sample(&logits, &history, &[]).unwrap();
            prop_assert!(made[id as usize] > 0.0);
        }
    }

    /// Ties, infinities and a bias everywhere: never a panic, always a distribution or a named error.
    #[test]
    fn survives_anything(
        logits in prop::collection::vec(prop_oneof![Just(0f32), Just(1f32), Just(NINF), Just(f32::INFINITY), Just(f32::MAX), Just(f32::MIN), Just(f32::NAN), -1f32..1.0], 0..40),
        generated in prop::collection::vec(0u32..45, 0..6),
        (top_k, top_p, min_p, typical_p) in (0usize..5, 0f32..=1.0, 0f32..=1.0, 0.01f32..=1.0),
        (temperature, do_sample) in (prop_oneof![Just(0f32), Just(1e-38f32), Just(1e30f32), 0f32..2.0], any::<bool>()),
        logit_bias in prop::collection::vec((0u32..45, prop_oneof![Just(NINF), -5f32..5.0]), 0..4),
    ) {
        let settings = all().do_sample(do_sample).top_k(top_k).top_p(top_p).min_p(min_p).typical_p(typical_p).temperature(temperature).logit_bias(logit_bias).repetition_penalty(1.5).presence_penalty(0.5).frequency_penalty(-0.25);
        let mut sampler = Sampler::new(settings).unwrap();
        match sampler.probabilities(&logits, &[], &generated).map(<[f32]>::to_vec) {
            Ok(p) => {
                prop_assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-4);
                let id = sampler.sample(&logits, &[], &generated).unwrap();
                prop_assert!(p[id as usize] > 0.0 && logits[id as usize] > NINF);
            }
            Err(e) => prop_assert!(matches!(e, Error::NonFiniteValue { .. } | Error::TokenOutOfRange { .. } | Error::BadArgument { .. }), "{e}"),
        }
    }
}

/// Vocabularies beyond what the filters handle in one piece, in the orders that are worst for them.
#[test]
fn large_vocabularies_are_filtered_alike() {
    let scattered: Vec<f32> = (0..6000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 2e6).collect();
    let mut ascending = scattered.clone();
    ascending.sort_unstable_by(f32::total_cmp);
    let descending: Vec<f32> = ascending.iter().rev().copied().collect();
    for logits in [scattered, ascending, descending] {
        for (top_k, top_p) in [(1, 1.0), (7, 1.0), (1500, 1.0), (5999, 1.0), (0, 0.3), (0, 0.999), (3000, 0.9)] {
            let settings = all().top_k(top_k).top_p(top_p);
            let wanted = transcription(&settings, &logits, &[]);
            let made = probabilities(settings, &logits, &[], &[]);
            let differ =
                made.iter().zip(&wanted).filter(|(a, b)| (f64::from(**a) - **b).abs() > 1e-6 || (**a > 0.0) != (**b > 0.0));
            assert_eq!(differ.count(), 0, "top_k {top_k}, top_p {top_p}");
        }
        let steps: Vec<f32> = logits.iter().map(|x| x.round()).collect();
        let wanted = transcription(&all().top_k(1100), &steps, &[]);
        let made = probabilities(all().top_k(1100), &steps, &[], &[]);
        assert!(made.iter().zip(&wanted).all(|(a, b)| (*a > 0.0) == (*b > 0.0)), "ties");
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(greedy(&[0.5, 2.0, 2.0, -1.0]).unwrap(), 1);
    assert_eq!(greedy(&[NINF, NINF, f32::MIN]).unwrap(), 2);
    assert_eq!(greedy(&[1.0, f32::INFINITY, f32::INFINITY]).unwrap(), 1);
    let zero_temperature = all().temperature(0.0);
    assert_eq!(probabilities(zero_temperature, &[0.0, 3.0, 3.0], &[], &[]), [0.0, 1.0, 0.0]);
}

#[test]
fn bad_logits_are_named() {
    assert_eq!(greedy(&[0.0, f32::NAN]).unwrap_err().to_string(), "non-finite value in the logits (NaN for token 1)");
    assert!(greedy(&[NINF, NINF]).unwrap_err().to_string().contains("all are negative infinity"));
    assert!(matches!(greedy(&[]), Err(Error::BadArgument { what: "logits", .. })));
    let mut sampler = Sampler::new(all()).unwrap();
    assert!(matches!(sampler.sample(&[1.0, f32::NAN], &[], &[]), Err(Error::NonFiniteValue { .. })));
    let mut sampler = Sampler::new(all().repetition_penalty(1.1)).unwrap();
    assert!(matches!(sampler.sample(&[1.0, 2.0], &[7], &[]), Err(Error::TokenOutOfRange { id: 7, vocab_size: 2 })));
    // An error leaves the sampler usable.
    assert!(sampler.sample(&[1.0, 2.0], &[1], &[0]).unwrap() < 2);
}

#[test]
fn bad_settings_are_named() {
    let bad = |change: fn(&mut SamplingSettings)| {
        let mut settings = all();
        change(&mut settings);
        match Sampler::new(settings) {
            Err(Error::BadArgument { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bad(|s| s.temperature = -1.0), "temperature");
    assert_eq!(bad(|s| s.temperature = f32::NAN), "temperature");
    assert_eq!(bad(|s| s.top_p = 1.5), "top_p");
    assert_eq!(bad(|s| s.min_p = -0.1), "min_p");
    assert_eq!(bad(|s| s.typical_p = 0.0), "typical_p");
    assert_eq!(bad(|s| s.repetition_penalty = 0.0), "repetition_penalty");
    assert_eq!(bad(|s| s.presence_penalty = f32::INFINITY), "presence_penalty");
    assert_eq!(bad(|s| s.frequency_penalty = f32::NAN), "frequency_penalty");
    assert_eq!(bad(|s| s.logit_bias = vec![(0, f32::NAN)]), "logit_bias");
}

#[test]
fn top_k_keeps_what_ties_with_the_last_and_top_p_does_not() {
    let logits = [1.0, 2.0, 1.0, 1.0, 0.0];
    let kept = |s: SamplingSettings| probabilities(s, &logits, &[], &[]).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
    assert_eq!(kept(all().top_k(2)), [true, true, true, true, false]);
    // e^2 / (e^2 + 3e + 1) = 0.45: one more is needed, and it is the lowest id.
    assert_eq!(kept(all().top_p(0.5)), [true, true, false, false, false]);
    assert_eq!(kept(all().top_p(0.0)), [false, true, false, false, false]);
    // Exactly on the boundary, as torch has it: of four equal ones, half.
    let equal = probabilities(all().top_p(0.5), &[3.0; 4], &[], &[]);
    assert_eq!(equal, [0.5, 0.5, 0.0, 0.0]);
}

#[test]
fn penalties_know_prompt_from_output() {
    let logits = [1.0, -1.0, 1.0, 1.0];
    // The scores behind the probabilities, relative to token 3, which nothing touches.
    let scores = |s: SamplingSettings, prompt: &[u32], generated: &[u32]| -> Vec<f32> {
        let p = probabilities(s, &logits, prompt, generated);
        p.iter().map(|x| ((x / p[3]).ln() * 100.0).round() / 100.0 + 1.0).collect()
    };
    let repetition = |window| all().repetition_penalty(2.0).repetition_window(window);
    assert_eq!(scores(repetition(None), &[0, 0, 1], &[2, 2]), [0.5, -2.0, 0.5, 1.0]);
    assert_eq!(scores(repetition(Some(3)), &[0, 0, 1], &[2, 2]), [1.0, -2.0, 0.5, 1.0]);
    assert_eq!(scores(repetition(Some(1)), &[0, 0, 1], &[2, 2]), [1.0, -1.0, 0.5, 1.0]);
    assert_eq!(scores(repetition(Some(0)), &[0, 0, 1], &[2, 2]), [1.0, -1.0, 1.0, 1.0]);
    let presence = all().presence_penalty(0.5);
    assert_eq!(scores(presence, &[0], &[2, 2, 1]), [1.0, -1.5, 0.5, 1.0]);
    let frequency = all().frequency_penalty(0.25);
    assert_eq!(scores(frequency, &[0], &[2, 2, 1]), [1.0, -1.25, 0.5, 1.0]);
    // Bias, then repetition, then presence: (1 + 1) / 2 - 0.5.
    let both = repetition(None).logit_bias(vec![(2, 0.5), (2, 0.5)]).presence_penalty(0.5);
    assert_eq!(scores(both, &[], &[2]), [1.0, -1.0, 0.5, 1.0]);
}

#[test]
fn bias_and_penalties_steer_greedy_decoding() {
    let pick =
        |s: SamplingSettings, generated: &[u32]| Sampler::new(s).unwrap().sample(&[2.0, 1.9, 0.0], &[], generated).unwrap();
    let greedy = SamplingSettings::default;
    assert_eq!(pick(greedy(), &[0]), 0);
    assert_eq!(pick(greedy().repetition_penalty(1.2), &[0]), 1);
    assert_eq!(pick(greedy().presence_penalty(0.2), &[0]), 1);
    assert_eq!(pick(greedy().logit_bias(vec![(0, NINF), (1, NINF)]), &[]), 2);
    // What only shapes a distribution has no say.
    assert_eq!(pick(greedy().top_p(0.1).temperature(5.0).typical_p(0.1), &[]), 0);
}

#[test]
fn infinite_logits_share_everything() {
    assert_eq!(probabilities(all(), &[f32::INFINITY, 1.0, f32::INFINITY, NINF], &[], &[]), [0.5, 0.0, 0.5, 0.0]);
    // Dividing by this temperature alone would overflow both.
    let cold = all().temperature(1e-38);
    assert_eq!(probabilities(cold, &[30.0, 10.0], &[], &[]), [1.0, 0.0]);
}

#[test]
fn a_seed_is_a_promise() {
    let logits: Vec<f32> = (0..50u32).map(|i| (i * i % 17) as f32 * 0.25).collect();
    let draws = |seed| {
        let mut sampler = Sampler::new(all().seed(seed)).unwrap();
        (0..12).map(|_| sampler.sample(&logits, &[], &[]).unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(draws(7), draws(7));
    assert_ne!(draws(7), draws(8));
    // Written down once: a change of generator, exponential or order of summing breaks everybody's seeds.
    assert_eq!(draws(42), [25, 27, 26, 13, 33, 47, 13, 43, 13, 30, 7, 7]);
}

#[test]
fn the_edges_of_the_ranges() {
    assert_eq!(probabilities(all().min_p(1.0), &[1.0, 2.0, 2.0, 0.0], &[], &[]), [0.0, 0.5, 0.5, 0.0]);
    for outside in [
        all().top_p(-0.1),
        all().min_p(1.1),
        all().typical_p(1.1),
        all().repetition_penalty(f32::INFINITY),
        all().presence_penalty(f32::NAN),
        all().frequency_penalty(f32::INFINITY),
        all().logit_bias(vec![(0, f32::INFINITY)]),
    ] {
        assert!(matches!(Sampler::new(outside.clone()), Err(Error::BadArgument { .. })), "{outside:?}");
    }
}

#[test]
fn probabilities_of_one_call_leave_nothing_to_the_next() {
    let mut sampler = Sampler::new(all().top_k(1)).unwrap();
    assert_eq!(sampler.probabilities(&[0.0, 3.0], &[], &[]).unwrap(), [0.0, 1.0]);
    assert_eq!(sampler.probabilities(&[3.0, 0.0], &[], &[]).unwrap(), [1.0, 0.0]);
}

#[test]
fn a_token_of_the_history_without_a_logit_is_named() {
    for settings in [all().repetition_penalty(1.1), all().presence_penalty(0.1), all().frequency_penalty(0.1)] {
        let mut sampler = Sampler::new(settings).unwrap();
        assert!(matches!(sampler.sample(&[1.0, 2.0], &[], &[7]), Err(Error::TokenOutOfRange { id: 7, vocab_size: 2 })));
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0, 0.0, 2.0, -1.0, NINF];
    let expected = probabilities(all(), &logits, &[], &[]);
    let mut sampler = Sampler::new(all().seed(3)).unwrap();
    let mut counts = [0f64; 5];
    let n = 40_000;
    for _ in 0..n {
        counts[sampler.sample(&logits, &[], &[]).unwrap() as usize] += 1.0;
    }
    let chi2: f64 = counts
        .iter()
        .zip(&expected)
        .filter(|(_, p)| **p > 0.0)
        .map(|(c, p)| (c - f64::from(*p) * n as f64).powi(2) / (f64::from(*p) * n as f64))
        .sum();
    assert!(chi2 < 16.3, "chi2 {chi2} with 3 degrees of freedom (p = 0.001)");
    assert_eq!(counts[4], 0.0);
}
