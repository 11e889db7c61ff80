//! What sessions do beside running: refusals, cancelling, generations.

use super::*;

#[test]
fn what_the_gpu_cannot_do_has_a_name() {
    let _alone = alone();
    let model = |change: &dyn Fn(&mut Config)| {
        let config = config(|c| change(c));
        let variant = Variant::v2(&config);
        Model::new(Checkpoint::random(config, variant, Dtype::F32, 1).unwrap()).on(&emulator::device(), |_, _| {})
    };
    let refused = |what: &str, model: doge_engine::Result<Model>| {
        let error = model.expect_err(what).to_string();
        assert!(error.contains("does not run on the GPU") && error.contains(what), "{error}");
    };
    refused("head_dim 258", model(&|c| c.head_dim = 258));
    let moe =
        |keys: usize, top| move |c: &mut Config| (c.is_moe, c.num_experts, c.num_experts_per_tok) = (true, keys * keys, top);
    refused("257 experts", model(&moe(20, 257)));
}

/// Routing by other tokens: a prompt of two parts, of which the last may be a single token, as one call; then tokens after it.
#[test]
fn long_prompts_routed_by_other_tokens() {
    let _alone = alone();
    emulator::schedule(2);
    use reference::product_key_router::Routing::Reference;
    let options = || SessionOptions::default().routing(Routing::Reference);
    for (v1, layers, dtype, top, tokens) in [(false, 2, Dtype::F32, 5, 1025), (true, 1, Dtype::Bf16, 16, 1060)] {
        let ids = prompt(tokens);
        let model = on_the_gpu(
            config(|c| {
                (c.hidden_size, c.head_dim, c.intermediate_size, c.num_hidden_layers) = (24, 6, 8, layers);
                (c.num_attention_heads, c.num_key_value_heads) = (2, 1);
                (c.is_moe, c.num_experts, c.num_experts_per_tok, c.keep_window_size) = (true, 16, top, 80);
            }),
            v1,
            dtype,
        );
        let checkpoint = model.checkpoint();
        let mut truth = reference::forward::Session::new(&checkpoint.config, &checkpoint.weights);
        let (mut session, mut seen) = (Session::new(&model, &cpu(), options()).unwrap(), All::default());
        let mut want = truth.forward(&ids, Reference);
        session.feed_observed(&ids, &mut seen).unwrap();
        for id in [7, 8] {
            want.extend(truth.forward(&[id], Reference));
            seen.0.push(session.feed(&[id]).unwrap().to_vec());
        }
        assert_eq!(seen.0.len(), want.len());
        for (place, (ours, want)) in seen.0.iter().zip(&want).enumerate() {
            let top = want.iter().fold(0f64, |top, x| top.max(x.abs()));
            for (ours, want) in ours.iter().zip(want) {
                let error = (f64::from(*ours) - want).abs();
                assert!(error <= 2e-5f64.max(1e-5 * top), "{dtype}, v1 {v1}, place {place}: {ours}, expected {want}");
            }
        }
        // On tensor cores: all experts are chosen, so that rounding chooses no others.
        if top == 16 {
            let rounding = cpu().with_activations(Activations::Bf16);
            let mut session = Session::new(&model, &rounding, options()).unwrap();
            let (rounded, exact) = (session.feed(&ids).unwrap(), &seen.0[ids.len() - 1]);
            let largest = exact.iter().fold(0f32, |top, x| top.max(x.abs()));
            let worst = rounded.iter().zip(exact).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst > 0.0 && worst < 0.05 * largest, "{worst} of {largest}");
        }
    }
}

/// The tokens of a block: what is asked for, as far as a device takes it, else what suits the place.
#[test]
fn blocks_suit_the_place() {
    let _alone = alone();
    let on_the_cpu = Model::new(Checkpoint::random(config(|_| ()), Variant::v2(&config(|_| ())), Dtype::F32, 11).unwrap());
    let on_the_gpu = on_the_cpu.on(&emulator::device(), |_, _| {}).unwrap();
    let block = |model: &Model, options| Session::new(model, &cpu(), options).unwrap().block();
    let of_both = |options| (block(&on_the_cpu, options), block(&on_the_gpu, options));
    assert_eq!(of_both(SessionOptions::default()), (256, 1024));
    assert_eq!(of_both(SessionOptions::default().block(7)), (7, 7));
    assert_eq!(of_both(SessionOptions::default().block(3000)), (3000, 1024));
}

/// What only sessions on the CPU have is refused by name, and leaves the session as it was.
#[test]
fn what_only_the_cpu_has_is_refused() {
    let _alone = alone();
    let model = on_the_gpu(config(|_| ()), false, Dtype::F32);
    let mut session = session(&model);
    let logits = bits(session.feed(&prompt(5)).unwrap());
    let refused = |error: Error, what: &str| {
        assert!(matches!(&error, Error::UnsupportedOnDevice { what: named, .. } if named == what), "{error}");
    };
    refused(session.save().unwrap_err(), "saving a session");
    refused(Session::load(&model, &cpu(), SessionOptions::default(), &[]).unwrap_err(), "a saved session");
    refused(Batch::new(&model, &cpu()).feed(&mut [&mut session], &[3]).unwrap_err(), "a batch of sessions");
    let on_the_cpu = Model::new(Checkpoint::random(config(|_| ()), *model.variant(), Dtype::F32, 11).unwrap());
    refused(Batch::new(&on_the_cpu, &cpu()).feed(&mut [&mut session], &[3]).unwrap_err(), "a batch of sessions");
    assert_eq!((session.tokens(), bits(session.logits().unwrap())), (5, logits));
}

/// A prompt ends before the block at which it was cancelled, and goes on from there; a fork has the logits, a run leaves none.
#[test]
fn cancelled_prompts_go_on_and_logits_are_those_of_the_last_token() {
    let _alone = alone();
    struct After(usize, All);
    impl Observer for After {
        fn logits(&mut self, place: usize, logits: &[f32]) {
            self.1.logits(place, logits);
        }
        fn cancels(&self) -> bool {
            self.1 .0.len() >= self.0
        }
    }
    let model = on_the_gpu(config(|c| c.keep_window_size = 6), true, Dtype::F32);
    let ids = prompt(20);
    let want = bits(session(&model).feed(&ids).unwrap());
    let mut session = Session::new(&model, &cpu(), SessionOptions::default().block(8)).unwrap();
    let error = session.feed_observed(&ids, &mut After(9, All::default())).unwrap_err();
    assert!(matches!(error, Error::Cancelled { tokens: 16 }), "{error}");
    assert_eq!((session.tokens(), session.logits()), (16, None));
    let cancel = AtomicBool::new(true);
    assert!(matches!(session.feed_until(&ids[16..], &cancel), Err(Error::Cancelled { tokens: 16 })));
    cancel.store(false, Ordering::Relaxed);
    assert_eq!(bits(session.feed_until(&ids[16..], &cancel).unwrap()), want);
    let mut fork = session.fork().unwrap();
    assert_eq!(bits(fork.logits().unwrap()), want);
    session.decode(4, 3, &[]).unwrap();
    assert!(session.logits().is_none() && fork.tokens() == 20);
    let mut again = super::session(&model);
    again.feed(&ids).unwrap();
    assert_eq!(bits(fork.feed(&[4]).unwrap()), bits(again.feed(&[4]).unwrap()));
}

/// A hook and log probabilities see every token's logits, also where the GPU could choose by itself.
#[test]
fn generations_with_hooks_and_log_probabilities() {
    let _alone = alone();
    let model = on_the_gpu(config(|_| ()), false, Dtype::F32);
    let ids = prompt(7);
    let until = Until::default().max_new_tokens(9).ahead(4);
    let mut greedy = Sampler::new(SamplingSettings::default()).unwrap();
    let run = |greedy: &mut Sampler, change: &dyn Fn(Generation<'_>) -> (Vec<u32>, usize)| {
        change(Generation::new(&mut session(&model), greedy, &ids, until).unwrap())
    };
    let all = |generation: &mut Generation<'_>| generation.map(|id| id.unwrap()).collect::<Vec<u32>>();
    let (want, none) = run(&mut greedy, &|mut g| (all(&mut g), g.logprobs().len()));
    assert_eq!((want.len(), none), (9, 0));
    assert_eq!(
        run(&mut greedy, &|g| {
            let mut g = g.with_logprobs(2);
            (all(&mut g), g.logprobs().len())
        }),
        (want.clone(), 9)
    );
    let forbidden = want[3];
    let (without, _) = run(&mut greedy, &|g| {
        (all(&mut g.with_logits_hook(move |logits, _, _| logits[forbidden as usize] = f32::NEG_INFINITY)), 0)
    });
    assert!(without.len() == 9 && !without.contains(&forbidden));
}

/// Drawn on the device, a few tokens at a time, and drawn on the host: the same tokens of a seed.
#[test]
fn a_seed_draws_the_same_tokens_on_the_device_and_on_the_host() {
    let _alone = alone();
    emulator::schedule(2);
    let model = on_the_gpu(config(|c| c.keep_window_size = 9), true, Dtype::Bf16);
    let ids = prompt(7);
    let settings = SamplingSettings::default().do_sample(true).temperature(0.7).seed(5);
    for settings in [settings.clone().top_k(20), settings.clone().top_p(0.8).min_p(0.01), settings.temperature(3.0)] {
        let run = |ahead: usize, on_the_host: bool| {
            let (mut session, mut sampler) = (session(&model), Sampler::new(settings.clone()).unwrap());
            assert!(sampler.draws_on_device());
            let until = Until::default().max_new_tokens(24).ahead(ahead);
            let mut generation = Generation::new(&mut session, &mut sampler, &ids, until).unwrap();
            if on_the_host {
                generation = generation.with_logprobs(0);
            }
            let got = generation.map(|id| id.unwrap()).collect::<Vec<u32>>();
            // What comes after it too: both samplers stand at the same random number.
            (got, sampler.sample(&[0.0; 90], &[], &[]).unwrap())
        };
        let want = run(1, true);
        let kinds = want.0.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(kinds > 4, "a draw that always takes the same shows nothing: {:?}", want.0);
        for ahead in [1, 5, 23, 64] {
            assert_eq!(run(ahead, false), want, "{ahead} ahead, {settings:?}");
        }
    }
    let penalty = Sampler::new(SamplingSettings::default().do_sample(true).repetition_penalty(1.1)).unwrap();
    assert!(!penalty.draws_on_device() && penalty.draws(1).is_err());
}
