//! The comparison of two models against the definitions.

mod common;
#[path = "common/doge.rs"]
mod doge;

use doge_engine::{
    model::{Checkpoint, Config, Model, Observer, RopeParameters, Session, SessionOptions, Variant},
    ops::Routing,
    perplexity::{compare, score, Windows},
    Dtype, Error, Kernels,
};

fn model(seed: u64, rope: &RopeParameters) -> Model {
    let mut config = Config::default();
    (config.rope, config.max_position_embeddings) = (rope.clone(), 12);
    (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers) = (300, 32, 48, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (2, 1, 16);
    let variant = Variant::v2(&config);
    Model::new(Checkpoint::random(config, variant, Dtype::F32, seed).unwrap())
}

#[derive(Default)]
struct Logits(Vec<Vec<f64>>);

impl Observer for Logits {
    fn logits(&mut self, _: usize, logits: &[f32]) {
        self.0.push(logits.iter().copied().map(f64::from).collect());
    }
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

/// A smaller one of `vocab_size` words, whose rotation changes after 12 tokens.
fn small(rope: &RopeParameters, vocab_size: usize, change: fn(&mut Config)) -> Model {
    let config = doge::config(|c| {
        (c.rope, c.max_position_embeddings, c.vocab_size) = (rope.clone(), 12, vocab_size);
        change(c);
    });
    doge::model(config, false, Dtype::F32)
}

#[test]
fn a_comparison_feeds_what_score_feeds() {
    let factors = || vec![1.0; 6];
    let longrope = RopeParameters::Longrope {
        short_factor: factors(),
        long_factor: vec![9.0; 6],
        factor: 4.0,
        original_max_position_embeddings: 12,
        attention_factor: None,
    };
    let ids: Vec<u32> = (0..50u32).map(|i| i * i % 90).collect();
    for (rope, routing) in [(longrope, Routing::PerToken), (RopeParameters::Default, Routing::Reference)] {
        let model = small(&rope, 96, doge::moe);
        let options = SessionOptions::default().block(7).routing(routing);
        let (cpu, windows) = (doge::cpu(1), Windows::of(20));
        let got = compare((&model, &cpu, options), (&model, &cpu, options), &ids, windows).unwrap();
        assert_eq!(got.nll, score(&model, &cpu, &ids, windows, options).unwrap(), "{rope:?}");
    }
    let (one, other) = (small(&RopeParameters::Default, 96, |_| {}), small(&RopeParameters::Default, 97, |_| {}));
    let options = SessionOptions::default();
    let refused = compare((&one, &doge::cpu(1), options), (&other, &doge::cpu(1), options), &ids, Windows::of(20));
    assert!(matches!(refused, Err(Error::BadArgument { what: "base", .. })));
}

#[test]
fn a_text_that_just_fills_its_windows_is_scored_to_the_end() {
    let model = small(&RopeParameters::Default, 96, |_| {});
    let ids: Vec<u32> = (0..24u32).map(|i| i * i % 90).collect();
    let count = |n: usize| score(&model, &doge::cpu(1), &ids[..n], Windows::of(8), SessionOptions::default()).unwrap().count;
    assert_eq!((count(15), count(16), count(24)), (7, 14, 21));
}

#[test]
fn one_token_has_no_spread() {
    let model = small(&RopeParameters::Default, 96, |_| {});
    let one = score(&model, &doge::cpu(1), &[7, 8], Windows::of(2), SessionOptions::default()).unwrap();
    assert_eq!((one.count, one.error), (1, 0.0));
}

#[test]
fn divergence_is_what_the_definition_says() {
    // The second looks at the length of a call: a window is one.
    for rope in [RopeParameters::Default, RopeParameters::Dynamic { factor: 4.0 }] {
        compare_by_definition(&rope);
    }
}

fn compare_by_definition(rope: &RopeParameters) {
    let cpu = common::cpu(Kernels::detect().unwrap(), 2);
    let (base, other) = (model(7, rope), model(8, rope)); // far apart, so that the direction of the divergence shows
    let ids: Vec<u32> = (0..50u32).map(|i| i * i % 300).collect();
    let windows = Windows::of(20).stride(10).count(3);
    // Blocks that do not divide a window.
    let options = SessionOptions::default().block(7);
    let got = compare((&other, &cpu, options), (&base, &cpu, options), &ids, windows).unwrap();

    let (mut kl, mut same, mut count) = (0.0, 0, 0);
    for (start, first) in [(0, 1), (10, 10), (20, 10)] {
        let predictions = [&other, &base].map(|model| {
            let mut logits = Logits::default();
            Session::new(model, &cpu, options).unwrap().feed_observed(&ids[start..start + 20], &mut logits).unwrap();
            logits.0.iter().map(|x| softmax(x)).collect::<Vec<_>>()
        });
        let scored = predictions[1].iter().zip(&predictions[0]).take(19).skip(first - 1);
        for (p, q) in scored {
            kl += p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            let top = |x: &[f64]| (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b]).then(b.cmp(&a)));
            same += usize::from(top(p) == top(q));
            count += 1;
        }
    }
    assert_eq!((got.kl.count, got.nll.count), (count, count));
    let want = kl / count as f64;
    assert!(want > 0.01 && (got.kl.mean / want - 1.0).abs() < 1e-9, "{} where {want} is wanted", got.kl.mean);
    assert_eq!((got.same_top.mean * count as f64).round() as usize, same);
    assert_eq!(got.nll, score(&other, &cpu, &ids, windows, options).unwrap());
    assert_eq!(got.base_nll, score(&base, &cpu, &ids, windows, options).unwrap());
    assert!((got.nll_difference.mean - (got.nll.mean - got.base_nll.mean)).abs() < 1e-12);
}
