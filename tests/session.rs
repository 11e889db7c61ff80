//! What a caller may do with sessions: fork, save, cancel, batch, score. Whatever they do, the bits stay those of a session
//! that was fed straight through.

#[path = "common/doge.rs"]
mod doge;

use std::cell::Cell;

use doge::{bits, config, cpu, go_on, model, models, moe, prompt, session};
use doge_engine::{
    model::{Batch, Checkpoint, Config, Model, Observer, RopeParameters, Session, SessionOptions, Variant},
    ops::Routing,
    Dtype, Error, Layout, Tensor, TokenLogprob,
};

#[test]
fn a_fork_goes_its_own_way() {
    let ids = prompt(120);
    for (name, model) in models() {
        for at in [0, 1, 30, 90] {
            let mut root = session(&model, &cpu(2), 16);
            if at > 0 {
                root.feed(&ids[..at]).unwrap();
            }
            let (mut one, mut other) = (root.fork().unwrap(), root.fork().unwrap());
            assert_eq!(one.logits().map(bits), root.logits().map(bits), "{name}");
            go_on(&mut other, &[7; 20]);
            let straight = go_on(&mut root, &ids[at..]);
            assert_eq!(straight, go_on(&mut one, &ids[at..]), "{name}: forked at {at}");
            let mut fresh = session(&model, &cpu(1), 64);
            if at > 0 {
                fresh.feed(&ids[..at]).unwrap();
            }
            assert_eq!(straight, go_on(&mut fresh, &ids[at..]), "{name}: root after a fork at {at}");
        }
    }
}

#[test]
fn sessions_fed_together_get_the_bits_they_get_alone() {
    let ids = prompt(150);
    for (name, model) in models() {
        for threads in [1, 3] {
            // Sequence i begins with i · 7 tokens of its own, so that they stand at different places.
            let start = |i: usize| {
                let mut session = session(&model, &cpu(threads), 16);
                if i > 0 {
                    session.feed(&ids[i..i * 8]).unwrap();
                }
                session
            };
            let (mut alone, mut together): (Vec<_>, Vec<_>) = (0..20).map(|i| (start(i % 7), start(i % 7))).unzip();
            let mut batch = Batch::new(&model, &cpu(threads));
            for step in 0..30 {
                // Another company each time.
                let from = step * 5 % 20;
                let n = 1 + step % (20 - from);
                let next: Vec<u32> = (from..from + n).map(|i| ids[(i * 11 + step) % ids.len()]).collect();
                batch.feed(&mut together[from..from + n].iter_mut().collect::<Vec<_>>(), &next).unwrap();
                for (i, &id) in (from..from + n).zip(&next) {
                    let expected = bits(alone[i].feed(&[id]).unwrap());
                    assert_eq!(expected, bits(together[i].logits().unwrap()), "{name}: session {i}, step {step}");
                }
            }
            for (alone, together) in alone.iter().zip(&together) {
                assert_eq!(alone.save().unwrap(), together.save().unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn a_batch_refuses_what_does_not_fit_and_changes_nothing() {
    let [model, stranger] = [1, 2].map(|_| model(config(|_| {}), false, Dtype::F32));
    let mut batch = Batch::new(&model, &cpu(1));
    let mut one = session(&model, &cpu(1), 16);
    let mut full = Session::new(&model, &cpu(1), SessionOptions::default().ctx_size(2)).unwrap();
    one.feed(&[1, 2]).unwrap();
    full.feed(&[1, 2]).unwrap();
    let before = one.save().unwrap();
    let mut other = session(&stranger, &cpu(1), 16);
    assert!(matches!(batch.feed(&mut [], &[]), Err(Error::BadArgument { what: "ids", .. })));
    assert!(matches!(batch.feed(&mut [&mut one], &[1, 2]), Err(Error::BadArgument { what: "ids", .. })));
    assert!(matches!(batch.feed(&mut [&mut one, &mut other], &[1, 2]), Err(Error::BadArgument { what: "sessions", .. })));
    assert!(matches!(batch.feed(&mut [&mut one], &[96]), Err(Error::TokenOutOfRange { id: 96, vocab_size: 96 })));
    assert!(matches!(batch.feed(&mut [&mut one, &mut full], &[1, 2]), Err(Error::ContextFull { limit: 2 })));
    assert_eq!(before, one.save().unwrap());
}

/// Cancels at its n-th chance.
struct Impatient {
    chances: Cell<usize>,
}

impl Observer for Impatient {
    fn cancels(&self) -> bool {
        self.chances.set(self.chances.get().wrapping_sub(1));
        self.chances.get() == usize::MAX
    }
}

#[test]
fn a_cancelled_call_leaves_whole_blocks() {
    let ids = prompt(100);
    for (name, model) in models() {
        let straight = go_on(&mut session(&model, &cpu(1), 16), &ids);
        let after = |tokens: usize| &straight[tokens * 96..];
        for chance in 0..12 {
            let mut session = session(&model, &cpu(2), 16);
            session.feed(&ids[..20]).unwrap();
            let cancelled = session.feed_observed(&ids[20..75], &mut Impatient { chances: Cell::new(chance) }).map(drop);
            let Err(Error::Cancelled { tokens }) = cancelled else { panic!("{name}: {cancelled:?}") };
            assert_eq!((tokens, session.logits()), (session.tokens(), None), "{name}, chance {chance}");
            // Two layers and the head are three chances a block.
            assert_eq!(tokens, 20 + chance / 3 * 16, "{name}, chance {chance}");
            assert_eq!(after(tokens), go_on(&mut session, &ids[tokens..]), "{name}, chance {chance}");
        }
    }
}

/// A Doge whose rotation depends on the length of a call, past 32 tokens.
fn dynamic_rope() -> Config {
    config(|c| (c.max_position_embeddings, c.rope) = (32, RopeParameters::Dynamic { factor: 4.0 }))
}

/// The table of `dynamic` RoPE depends on the longest call: one that took in nothing was never made.
#[test]
fn a_call_that_took_in_nothing_leaves_no_trace_in_rope() {
    let config = dynamic_rope();
    let model = model(config.clone(), false, Dtype::F32);
    let ids = prompt(60);
    let (mut straight, mut cancelled) = (session(&model, &cpu(1), 16), session(&model, &cpu(1), 16));
    cancelled.feed_observed(&ids, &mut Impatient { chances: Cell::new(1) }).unwrap_err();
    assert_eq!(bits(straight.feed(&ids[..33]).unwrap()), bits(cancelled.feed(&ids[..33]).unwrap()));

    // And what a longer call has left there is saved with the session.
    straight.feed(&ids[33..50]).unwrap();
    let mut loaded = Session::load(&model, &cpu(1), SessionOptions::default(), &straight.save().unwrap()).unwrap();
    assert_eq!(bits(straight.feed(&[5]).unwrap()), bits(loaded.feed(&[5]).unwrap()));

    // A step of a batch beyond the limit, with a token that is not finite.
    let mut config = config;
    config.tie_word_embeddings = false;
    let variant = Variant::v2(&config);
    let mut checkpoint = Checkpoint::random(config, variant, Dtype::F32, 11).unwrap();
    let mut bytes = checkpoint.weights.embed_tokens.matrix().bytes().to_vec();
    bytes[95 * 48 * 4..].fill(0xff);
    checkpoint.weights.embed_tokens = Tensor::owned(Dtype::F32, Layout::Rows, 96, 48, bytes).unwrap();
    let model = Model::new(checkpoint);
    let mut session = session(&model, &cpu(1), 16);
    session.feed(&ids[..32]).unwrap();
    let mut alone = session.fork().unwrap();
    assert!(matches!(alone.feed(&[95]), Err(Error::NonFinite { .. })));
    assert!(matches!(Batch::new(&model, &cpu(1)).feed(&mut [&mut session], &[95]), Err(Error::NonFinite { .. })));
    assert!(session.save().unwrap() == alone.save().unwrap()); // by bytes: what RoPE remembers is among them
}

#[test]
fn what_is_not_finite_is_named_and_taken_back() {
    for layer in [Some(0), Some(1), None] {
        let config = config(|c| c.keep_window_size = 7);
        let variant = Variant::v2(&config);
        let mut checkpoint = Checkpoint::random(config, variant, Dtype::F32, 11).unwrap();
        match layer {
            // Overflows for the token with a large enough value alone.
            Some(layer) => checkpoint.weights.layers[layer].post_attention_residual[3] = f32::INFINITY,
            None => checkpoint.weights.norm[3] = f32::NAN,
        }
        let model = Model::new(checkpoint);
        let mut session = session(&model, &cpu(1), 4);
        let error = session.feed(&prompt(10)).map(drop).unwrap_err();
        // Only the last row goes through the head.
        let step = if layer.is_some() { 0 } else { 9 };
        assert!(matches!(error, Error::NonFinite { layer: l, step: s } if (l, s) == (layer, step)), "{error}");
        let held = if layer.is_some() { 0 } else { 8 };
        assert_eq!((session.tokens(), session.logits()), (held, None));

        let mut batch = Batch::new(&model, &cpu(1));
        let error = batch.feed(&mut [&mut session], &[3]).unwrap_err();
        assert!(matches!(error, Error::NonFinite { layer: l, step } if l == layer && step == held), "{error}");
        assert_eq!(session.tokens(), held);
    }
}

/// Of finite weights, and never chosen: an expert whose score is minus infinity leaves no trace in what comes out.
#[test]
fn what_selects_is_finite() {
    let ids = prompt(10);
    for weight in [f32::MAX, f32::MIN] {
        let config = config(moe);
        let (variant, rows, cols) = (Variant::v2(&config), 2 * config.num_keys(), config.hidden_size);
        let mut checkpoint = Checkpoint::random(config, variant, Dtype::F32, 11).unwrap();
        let experts = checkpoint.weights.layers[1].experts.as_mut().unwrap();
        let mut bytes = experts.router_gate.matrix().bytes().to_vec();
        bytes[..4 * cols].copy_from_slice(&weight.to_le_bytes().repeat(cols));
        experts.router_gate = Tensor::owned(Dtype::F32, Layout::Rows, rows, cols, bytes).unwrap();
        let error = session(&Model::new(checkpoint), &cpu(1), 16).feed(&ids).map(drop).unwrap_err();
        assert!(matches!(error, Error::NonFinite { layer: Some(1), step: 0 }), "{error}");
    }
}

/// A checkpoint's fields are open to whoever wants to try something: what comes of it is refused, by the session or by the
/// operation that meets it, and never panics.
#[test]
fn a_checkpoint_that_contradicts_itself_is_refused() {
    let tensor =
        |rows: usize, cols: usize| Tensor::owned(Dtype::F32, Layout::Rows, rows, cols, vec![0; 4 * rows * cols]).unwrap();
    let factors = || vec![1.0; 3];
    let longrope = RopeParameters::Longrope {
        short_factor: factors(),
        long_factor: factors(),
        factor: 2.0,
        original_max_position_embeddings: 9,
        attention_factor: None,
    };
    type Change<'a> = &'a dyn Fn(&mut Checkpoint);
    let changes: [(&str, Change<'_>); 21] = [
        ("vocab_size", &|c| c.config.vocab_size = 97),
        ("hidden_size", &|c| c.config.hidden_size = 64),
        ("intermediate_size", &|c| c.config.intermediate_size = 8),
        ("no K/V heads", &|c| c.config.num_key_value_heads = 0),
        ("K/V heads", &|c| c.config.num_key_value_heads = 4),
        ("heads", &|c| c.config.num_attention_heads = 8),
        ("head_dim", &|c| c.config.head_dim = 7),
        ("a large head_dim", &|c| c.config.head_dim = usize::MAX),
        ("more layers", &|c| c.config.num_hidden_layers = 3),
        ("fewer layers", &|c| c.config.num_hidden_layers = 1),
        ("no keys", &|c| c.config.keep_window_size = 0),
        ("experts", &|c| c.config.num_experts_per_tok = 50),
        ("more experts", &|c| c.config.num_experts = 64),
        ("longrope", &|c| c.config.rope = longrope.clone()),
        ("mask_heads", &|c| c.variant.mask_heads = 3),
        ("another number of mask heads", &|c| c.variant.mask_heads = 4),
        ("dense", &|c| c.variant.is_moe = false),
        ("dense, but for its weights", &|c| (c.config.is_moe, c.variant.is_moe) = (false, false)),
        ("norm", &|c| _ = c.weights.norm.pop()),
        ("q_proj", &|c| c.weights.layers[1].q_proj.weight = tensor(48, 47)),
        ("embed_tokens", &|c| c.weights.embed_tokens = tensor(95, 48)),
    ];
    for (name, change) in changes {
        let config = config(moe);
        let variant = Variant::v2(&config);
        let mut checkpoint = Checkpoint::random(config, variant, Dtype::F32, 11).unwrap();
        change(&mut checkpoint);
        let _ = (checkpoint.bytes_per_token(), checkpoint.variant.parameters(&checkpoint.config));
        let model = Model::new(checkpoint);
        let fed = Session::new(&model, &cpu(2), SessionOptions::default().block(3))
            .and_then(|mut session| session.feed(&[95, 2, 3, 4, 5]).map(drop));
        assert!(fed.is_err(), "{name}");
    }
}

#[test]
fn scores_are_those_of_the_logits() {
    let ids = prompt(50);
    let model = model(config(moe), false, Dtype::F32);
    let all = go_on(&mut session(&model, &cpu(1), 16), &ids);
    let row = |place: usize| -> Vec<f32> { all[place * 96..(place + 1) * 96].iter().map(|&x| f32::from_bits(x)).collect() };
    let mut session = session(&model, &cpu(2), 16);
    let mut scores = session.score(&ids[..30], 3).unwrap();
    scores.extend(session.score(&ids[30..], 3).unwrap());
    assert_eq!(scores.len(), ids.len());
    assert!(scores[0].is_none());
    for (place, score) in scores.iter().enumerate().skip(1) {
        let score = score.as_ref().unwrap();
        assert_eq!(score, &TokenLogprob::new(&row(place - 1), ids[place], 3));
        assert_eq!(score.top.len(), 3);
        // By another way: log softmax in plain f64.
        let logits = row(place - 1);
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let logprob = f64::from(logits[ids[place] as usize]) - sum.ln();
        assert!((f64::from(score.logprob) - logprob).abs() < 1e-5, "{} and {logprob}", score.logprob);
        assert!(logits.iter().filter(|&&x| x > logits[score.top[0].id as usize]).count() == 0);
    }
}

/// What was taken in of a long call is rotated as in that call, and so is what follows it.
#[test]
fn a_call_that_was_cut_off_is_remembered_by_rope() {
    let model = model(dynamic_rope(), false, Dtype::F32);
    let ids = prompt(75);
    let mut cut = session(&model, &cpu(1), 16);
    cut.feed(&ids[..20]).unwrap();
    // Three chances a block: two blocks are through, 52 tokens.
    cut.feed_observed(&ids[20..], &mut Impatient { chances: Cell::new(6) }).unwrap_err();
    assert_eq!(cut.tokens(), 52);
    // Tokens 52 to 74, one by one: the table stays that of 75 tokens, as in the one call.
    let mut whole = session(&model, &cpu(1), 16);
    whole.feed(&ids[..20]).unwrap();
    whole.feed(&ids[20..]).unwrap();
    let last = ids[52..].iter().map(|&id| bits(cut.feed(&[id]).unwrap())).last().unwrap();
    assert_eq!(last, bits(whole.logits().unwrap()));
}

/// Unless the next call ends below the limit: then it is the table of the beginning again (spec 5). The length of the longest call
/// that RoPE remembers stands in a saved session behind magic, version, fingerprint and tokens.
#[test]
fn below_the_limit_dynamic_rope_is_plain_again() {
    let model = model(dynamic_rope(), false, Dtype::F32);
    let ids = prompt(75);
    let mut cut = session(&model, &cpu(1), 16);
    cut.feed_observed(&ids, &mut Impatient { chances: Cell::new(3) }).unwrap_err();
    assert_eq!(cut.tokens(), 16);
    let (mut plain, mut at_limit) = (cut.fork().unwrap(), cut.fork().unwrap());
    plain.feed(&ids[16..17]).unwrap(); // 17 < 32: reset
    at_limit.feed(&ids[16..32]).unwrap(); // 32: no reset
    let longest = |session: &Session| u64::from_le_bytes(session.save().unwrap()[28..36].try_into().unwrap());
    assert_eq!((longest(&cut), longest(&plain), longest(&at_limit)), (75, 32, 75));
}

#[test]
fn a_block_of_no_tokens_is_refused() {
    let model = model(config(|_| {}), false, Dtype::F32);
    assert!(matches!(
        Session::new(&model, &cpu(1), SessionOptions::default().block(0)),
        Err(Error::BadArgument { what: "block", .. })
    ));
}

/// A batch routes per token, and so does a single token in every mode.
#[test]
fn a_batch_takes_sessions_of_any_routing() {
    let model = model(config(moe), false, Dtype::F32);
    let options = SessionOptions::default().routing(Routing::Reference);
    let [mut alone, mut together] = [1, 2].map(|_| Session::new(&model, &cpu(1), options).unwrap());
    alone.feed(&prompt(9)).unwrap();
    together.feed(&prompt(9)).unwrap();
    Batch::new(&model, &cpu(1)).feed(&mut [&mut together], &[4]).unwrap();
    assert_eq!(bits(alone.feed(&[4]).unwrap()), bits(together.logits().unwrap()));
}
