//! Saved sessions: that they go on as if nothing had been, and what they must be for a model to take them.

#[path = "common/doge.rs"]
mod doge;

use doge::{bits, config, cpu, go_on, model, models, moe, prompt, session};
use doge_engine::{
    model::{Checkpoint, Model, Session, SessionOptions, Variant},
    Dtype, Error, Float, Tensor,
};
use xxhash_rust::xxh3::xxh3_64;

#[test]
fn a_saved_session_goes_on_elsewhere() {
    let ids = prompt(120);
    let in_format = |(i, (name, model))| (name, model, Float::ALL[i % 3]); // of K and V
    for (name, model, kv_dtype) in models().into_iter().enumerate().map(in_format) {
        for at in [0, 1, 30, 90] {
            let options = SessionOptions::default().kv_dtype(kv_dtype);
            let mut first = Session::new(&model, &cpu(2), options.block(16)).unwrap();
            if at > 0 {
                first.feed(&ids[..at]).unwrap();
            }
            let saved = first.save().unwrap();
            let mut loaded = Session::load(&model, &cpu(1), options.block(5), &saved).unwrap();
            assert_eq!((loaded.tokens(), loaded.logits().map(bits)), (at, first.logits().map(bits)), "{name}");
            assert_eq!(saved, loaded.save().unwrap(), "{name}: what is saved depends on the sequence alone");
            assert_eq!(go_on(&mut first, &ids[at..]), go_on(&mut loaded, &ids[at..]), "{name}: saved at {at}");
        }
    }
}

#[test]
fn a_saved_session_belongs_to_its_model() {
    let [one, other] = [Dtype::F32, Dtype::Bf16].map(|dtype| model(config(|_| {}), false, dtype));
    let mut session = session(&one, &cpu(1), 16);
    session.feed(&prompt(9)).unwrap();
    let saved = session.save().unwrap();
    let load = |model: &Model, options| Session::load(model, &cpu(1), options, &saved).map(drop);
    let error = load(&other, SessionOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::BadSession { why } if why.contains("another model")), "{error}");
    // Of the same matrices.
    for change in [
        (|c| c.weights.layers[1].q_proj.bias.as_mut().unwrap()[3] = 0.5) as fn(&mut Checkpoint),
        |c| c.weights.layers[1].dt_proj.bias.as_mut().unwrap()[0] = 0.5,
        |c| c.weights.layers[0].k_norm.as_mut().unwrap()[3] = 0.5,
    ] {
        let config = config(|c| c.attention_bias = true);
        let variant = Variant::v2(&config);
        let [like, unlike] = [|_: &mut Checkpoint| (), change].map(|change| {
            let mut checkpoint = Checkpoint::random(config.clone(), variant, Dtype::F32, 11).unwrap();
            change(&mut checkpoint);
            Model::new(checkpoint)
        });
        let saved = self::session(&like, &cpu(1), 16).save().unwrap();
        assert!(Session::load(&unlike, &cpu(1), SessionOptions::default(), &saved).is_err());
        assert!(Session::load(&like, &cpu(1), SessionOptions::default(), &saved).is_ok());
    }
    let error = load(&one, SessionOptions::default().ctx_size(8)).unwrap_err();
    assert!(matches!(error, Error::ContextFull { limit: 8 }), "{error}");
    load(&one, SessionOptions::default().ctx_size(9)).unwrap();
}

#[test]
fn a_bad_saved_session_is_refused() {
    let load =
        |model: &Model, bytes: &[u8]| Session::load(model, &cpu(1), SessionOptions::default(), bytes).map(drop).unwrap_err();
    for (name, model) in models().into_iter().filter(|(name, _)| ["v1 window", "sliding", "moe"].contains(name)) {
        let mut session = session(&model, &cpu(1), 16);
        session.feed(&prompt(20)).unwrap();
        let good = session.save().unwrap();
        for n in (0..good.len()).step_by(7).chain([good.len() - 1]) {
            assert!(matches!(load(&model, &good[..n]), Error::BadSession { .. }), "{name}: {n} bytes of {}", good.len());
            let mut bad = good.clone();
            bad[n] ^= 1 << (n % 8);
            assert!(matches!(load(&model, &bad), Error::BadSession { .. }), "{name}: byte {n} changed");
        }
        let longer = [&good[..], &[0; 8]].concat();
        assert!(matches!(load(&model, &longer), Error::BadSession { .. }), "{name}");

        // Damage with a good checksum: refused, or a session that runs.
        for at in (0..good.len() - 8).step_by(3) {
            let mut forged = good.clone();
            forged[at] = forged[at].wrapping_add(101);
            let sum = xxh3_64(&forged[..good.len() - 8]);
            forged[good.len() - 8..].copy_from_slice(&sum.to_le_bytes());
            match Session::load(&model, &cpu(1), SessionOptions::default(), &forged) {
                Ok(mut session) => _ = session.feed(&[1]).map(drop),
                Err(error) => assert!(matches!(error, Error::BadSession { .. } | Error::ContextFull { .. }), "{name}: {error}"),
            }
        }
    }
}

/// What loading says of `good` changed, but for its checksum, which is made good again.
fn forged(model: &Model, good: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
    let mut bytes = good[..good.len() - 8].to_vec();
    change(&mut bytes);
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    Session::load(model, &cpu(1), SessionOptions::default(), &bytes).map(drop)
}

#[test]
fn forged_sessions_are_refused() {
    let model = model(config(|_| {}), false, Dtype::F32);
    let mut session = session(&model, &cpu(1), 16);
    session.feed(&prompt(9)).unwrap();
    let good = session.save().unwrap();
    forged(&model, &good, |_| {}).unwrap();
    // The last of a layer are, of each head, the places of its keys and their mask values: 9 words of each.
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 5] = [
        ("does not begin", |b| b[0] = b'd'),
        ("version 2", |b| b[8] = 2),
        ("too long", |b| b.extend([0; 4])),
        ("outside of its sequence", |b| {
            let last_mask = b.len() - 4;
            b[last_mask..].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        ("outside of its sequence", |b| {
            let first_place = b.len() - 2 * 9 * 4;
            b[first_place..][..4].copy_from_slice(&9u32.to_le_bytes());
        }),
    ];
    for (why, change) in changes {
        let error = forged(&model, &good, change).unwrap_err();
        assert!(matches!(&error, Error::BadSession { why: w } if w.contains(why)), "{why}: {error}");
    }
}

#[test]
fn saved_logits_need_tokens() {
    let model = model(config(|_| {}), false, Dtype::F32);
    let empty = session(&model, &cpu(1), 16).save().unwrap();
    // The header ends with the number of logits: as many as the vocabulary has, and there they are.
    let logits = forged(&model, &empty, |bytes| {
        bytes[36..44].copy_from_slice(&96u64.to_le_bytes());
        bytes.extend([0; 4 * 96]);
    });
    assert!(matches!(&logits, Err(Error::BadSession { why }) if why.contains("96 logits")), "{logits:?}");
}

/// A tensor with other numbers in its last row.
fn with_another_last_row(tensor: &Tensor) -> Tensor {
    let mut bytes = tensor.matrix().bytes().to_vec();
    let last = bytes.len() - bytes.len() / tensor.rows();
    bytes[last..].fill(1);
    Tensor::owned(tensor.dtype(), tensor.layout(), tensor.rows(), tensor.cols(), bytes).unwrap()
}

#[test]
fn a_model_is_known_by_every_tensor() {
    type Change = fn(&mut Checkpoint);
    let changes: [(&str, Change); 7] = [
        ("norm", |c| c.weights.norm[5] += 0.5),
        ("input_layernorm", |c| c.weights.layers[1].input_layernorm[5] += 0.5),
        ("A", |c| c.weights.layers[1].a[0] += 0.5),
        ("dt_proj", |c| c.weights.layers[1].dt_proj.weight[3] += 0.5),
        ("config", |c| c.config.rms_norm_eps = 1e-3),
        ("q_proj", |c| {
            let q_proj = &mut c.weights.layers[1].q_proj.weight;
            *q_proj = with_another_last_row(q_proj);
        }),
        ("experts", |c| {
            let up_embed = &mut c.weights.layers[1].experts.as_mut().unwrap().up_embed;
            *up_embed = with_another_last_row(up_embed);
        }),
    ];
    let config = config(moe);
    let changed = |change: Change| {
        let mut checkpoint = Checkpoint::random(config.clone(), Variant::v2(&config), Dtype::F32, 11).unwrap();
        change(&mut checkpoint);
        Model::new(checkpoint)
    };
    let load = |model: &Model, saved: &[u8]| Session::load(model, &cpu(1), SessionOptions::default(), saved).map(drop);
    let saved = session(&changed(|_| ()), &cpu(1), 16).save().unwrap();
    load(&changed(|_| ()), &saved).unwrap();
    for (name, change) in changes {
        let error = load(&changed(change), &saved).unwrap_err();
        assert!(matches!(&error, Error::BadSession { why } if why.contains("another model")), "{name}: {error}");
    }
}
