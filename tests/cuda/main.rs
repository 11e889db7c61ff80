//! The engine on the emulated GPU, end to end: the real runtime, its graphs, the real kernels (tests/emulator says how, and
//! what this cannot show).
#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;
mod launches;
mod sessions;
mod streams;

use std::{
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        Mutex, MutexGuard, PoisonError,
    },
};

use common::emulator;
use doge_engine::{
    model::{Batch, Checkpoint, Config, Model, Observer, Session, SessionOptions, Variant},
    ops::{Activations, Cpu, Routing},
    reference, verify, Device, Dtype, Error, Generation, Kernels, Sampler, SamplingSettings, Until,
};

/// One test at a time on a real GPU, which is lost to all of them when one breaks it. On the emulator each thread has its own
/// schedule and counts.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    emulator::is_real().then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn cpu() -> Cpu {
    common::cpu(Kernels::detect().unwrap(), 1)
}

/// Runs every case under `name`, a folder of the package, in which tests run.
fn verify_on_the_gpu(name: &str, dtype: Option<Dtype>, block: usize, seed: u32) -> usize {
    emulator::schedule(seed);
    let options = verify::VerifyOptions::new(cpu()).device(Device::Cuda(emulator::device())).dtype(dtype).block(block);
    let mut wrong = Vec::new();
    let reports = verify::run(Path::new(name), &options, |report| {
        if !report.passed() {
            wrong.push(report.to_string());
        }
    });
    assert!(wrong.is_empty(), "{name}, {dtype:?}, blocks of {block}, schedule {seed}:\n{}", wrong.join("\n"));
    reports.unwrap().len()
}

#[test]
fn golden_cases() {
    let _alone = alone();
    assert_eq!(verify_on_the_gpu("tests/golden", None, 256, 2), 52);
}

/// Where weights are rounded the engine is held to the reference on the same weights.
#[test]
fn golden_cases_in_other_formats_blocks_and_schedules() {
    let _alone = alone();
    for (i, case) in ["moe_window", "v1_window_6", "sliding_9_window_5", "window_ties", "v2_bias", "doge2_moe", "bf16_moe_window"]
        .into_iter()
        .enumerate()
    {
        let name = format!("tests/golden/{case}");
        verify_on_the_gpu(&name, None, [7, 1][i % 2], (i % 2) as u32);
        verify_on_the_gpu(&name, Some(Dtype::ALL[i % 5]), 16, 2);
    }
}

/// A small Doge; `change` edits a V2 model of hidden size 48.
fn config(change: impl FnOnce(&mut Config)) -> Config {
    let json = r#"{"model_type": "doge", "vocab_size": 90, "hidden_size": 48, "intermediate_size": 56,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
    let mut config = Config::from_json(json.as_bytes(), "config.json".as_ref()).unwrap();
    change(&mut config);
    config
}

fn on_the_gpu(config: Config, v1: bool, dtype: Dtype) -> Model {
    let variant = if v1 { Variant::v1(&config) } else { Variant::v2(&config) };
    Model::new(Checkpoint::random(config, variant, dtype, 11).unwrap()).on(&emulator::device(), |_, _| {}).unwrap()
}

fn session(model: &Model) -> Session {
    Session::new(model, &cpu(), SessionOptions::default()).unwrap()
}

fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|t| t * t % 83 + 3).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

#[derive(Default)]
struct All(Vec<Vec<f32>>);

impl Observer for All {
    fn logits(&mut self, _: usize, logits: &[f32]) {
        self.0.push(logits.to_vec());
    }
}

/// Ragged shapes, every format (integer weights exactly as stored), both kinds of mask heads, experts: the logits of a prompt
/// and of decode steps beside those of the f64 reference.
#[test]
fn random_models_agree_with_the_reference() {
    let _alone = alone();
    emulator::schedule(3);
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        for v1 in [false, true] {
            let config = config(|c| {
                (c.hidden_size, c.intermediate_size, c.head_dim) = ([48, 44, 70][i % 3], [56, 51, 30][i % 3], [12, 10, 6][i % 3]);
                c.keep_window_size = [5, 9, 100][(i + usize::from(v1)) % 3];
                c.sliding_window = [None, None, Some(14)][i % 3];
                if i % 2 == 0 {
                    (c.is_moe, c.num_experts, c.num_experts_per_tok) = (true, 49, 9);
                }
            });
            let model = on_the_gpu(config, v1, dtype);
            let checkpoint = model.checkpoint();
            let mut truth = reference::forward::Session::new(&checkpoint.config, &checkpoint.weights);
            let (ids, mut session, mut seen) = (prompt(21), session(&model), All::default());
            let mut want = truth.forward(&ids, reference::product_key_router::Routing::PerToken);
            session.feed_observed(&ids, &mut seen).unwrap();
            for id in [7, 8, 9] {
                want.extend(truth.forward(&[id], reference::product_key_router::Routing::PerToken));
                seen.0.push(session.feed(&[id]).unwrap().to_vec());
            }
            for (place, (ours, want)) in seen.0.iter().zip(&want).enumerate() {
                let top = want.iter().fold(0f64, |top, x| top.max(x.abs()));
                for (ours, want) in ours.iter().zip(want) {
                    // As the golden data allows it: a few millionths of the largest logit, never less than 2e-5.
                    let error = (f64::from(*ours) - want).abs();
                    assert!(error <= 2e-5f64.max(1e-5 * top), "{dtype}, v1 {v1}, place {place}: {ours}, expected {want}");
                }
            }
        }
    }
}

/// Greedy runs of any length give the tokens that the host chooses step by step, and leave the same state behind.
#[test]
fn runs_of_any_length_give_the_same_tokens() {
    let _alone = alone();
    emulator::schedule(2);
    for (moe, v1, dtype, sliding_window) in [
        (false, false, Dtype::F32, None),
        (true, true, Dtype::Bf16, None),
        (true, false, Dtype::Int4, None),
        (false, true, Dtype::F32, Some(15)),
    ] {
        let model = on_the_gpu(
            config(|c| {
                (c.keep_window_size, c.sliding_window) = (11, sliding_window);
                if moe {
                    (c.is_moe, c.num_experts, c.num_experts_per_tok) = (true, 16, 4);
                }
            }),
            v1,
            dtype,
        );
        let (ids, cpu) = (prompt(9), cpu());
        let first = |session: &mut Session| cpu.argmax(session.feed(&ids).unwrap()).unwrap() as u32;
        let mut by_hand = session(&model);
        let mut want = vec![first(&mut by_hand)];
        for _ in 0..20 {
            let logits = by_hand.feed(&[*want.last().unwrap()]).unwrap();
            want.push(cpu.argmax(logits).unwrap() as u32);
        }
        let after = bits(by_hand.feed(&[5]).unwrap());
        for cut in [&[20][..], &[1; 20], &[7, 13], &[3, 1, 16]] {
            let mut session = session(&model);
            let mut got = vec![first(&mut session)];
            for &steps in cut {
                got.extend(session.decode(*got.last().unwrap(), steps, &[]).unwrap());
            }
            assert_eq!(got, want, "runs of {cut:?}");
            assert_eq!(session.tokens(), 29);
            assert_eq!(bits(session.feed(&[5]).unwrap()), after, "the state after runs of {cut:?}");
        }
        // An end-of-text token stops a run in its middle; it was chosen, not fed.
        let mut session = session(&model);
        let got = first(&mut session);
        let eos = want[4];
        let stop = want.iter().skip(1).position(|&id| id == eos).unwrap() + 1;
        assert_eq!(session.decode(got, 20, &[eos]).unwrap(), want[1..=stop]);
        assert_eq!(session.tokens(), 9 + stop);
        assert_eq!(session.decode(eos, 20 - stop, &[]).unwrap(), want[stop + 1..]);
        assert_eq!(bits(session.feed(&[5]).unwrap()), after, "the state after a run that was stopped");
    }
}

/// So far that the ring of a sliding window, which is longer than the longest block, comes around: near the CPU's logits, and the
/// same bits for every cut. The longest block's last keys overwrite none that its first queries see.
#[test]
fn sliding_windows_that_come_around() {
    let _alone = alone();
    emulator::schedule(2);
    let config = config(|c| {
        (c.vocab_size, c.hidden_size, c.head_dim, c.intermediate_size, c.num_hidden_layers) = (86, 16, 4, 8, 1);
        (c.num_attention_heads, c.num_key_value_heads) = (2, 1);
        (c.keep_window_size, c.sliding_window) = (7, Some(40));
    });
    let variant = Variant::v1(&config);
    let on_the_cpu = Model::new(Checkpoint::random(config, variant, Dtype::F32, 11).unwrap());
    let model = on_the_cpu.on(&emulator::device(), |_, _| {}).unwrap();
    let ids = prompt(1100);
    let feed = |model: &Model, block, cut: usize| {
        let mut session = Session::new(model, &cpu(), SessionOptions::default().block(block)).unwrap();
        session.feed(&ids[..cut]).unwrap();
        let (mut seen, last) = (All::default(), &ids[cut..]);
        match last.len() {
            1 => seen.0.push(session.feed(last).unwrap().to_vec()), // a decode step, which nobody may watch
            _ => _ = session.feed_observed(last, &mut seen).unwrap(),
        }
        seen.0
    };
    let (want, whole) = (feed(&on_the_cpu, 1024, 60), feed(&model, 1024, 60));
    let (want, ours) = (want.last().unwrap(), whole.last().unwrap());
    let top = want.iter().fold(0f32, |top, x| top.max(x.abs()));
    for (ours, want) in ours.iter().zip(want) {
        assert!((ours - want).abs() <= 2e-5f32.max(1e-5 * top), "{ours}, on the CPU {want}");
    }
    for (block, cut) in [(31, 5), (1024, 1099)] {
        for (ours, want) in feed(&model, block, cut).iter().rev().zip(whole.iter().rev()) {
            assert_eq!(bits(ours), bits(want), "blocks of {block}, cut at {cut}");
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let _alone = alone();
    let model = on_the_gpu(
        config(|c| {
            (c.is_moe, c.num_experts, c.num_experts_per_tok, c.keep_window_size) = (true, 16, 4, 6);
        }),
        true,
        Dtype::Bf16,
    );
    let run = |seed| {
        emulator::schedule(seed);
        let mut session = session(&model);
        session.feed(&prompt(19)).unwrap();
        session.decode(4, 6, &[]).unwrap();
        bits(session.feed(&[5]).unwrap())
    };
    let want = run(0);
    for seed in [1, 2, 30, 400, 5000] {
        assert_eq!(run(seed), want, "schedule {seed}");
    }
}

/// On tensor cores a prompt's rows are rounded to bf16, in attention beside weights of every format: near the exact result, and the
/// same however the prompt is cut, unless sets drop keys.
#[test]
fn prompts_on_tensor_cores() {
    let _alone = alone();
    emulator::schedule(2);
    for (v1, dtype, keep_window_size, sliding_window) in [
        (false, Dtype::Bf16, 1000, None),
        (true, Dtype::F32, 80, None),
        (true, Dtype::Int8, 30, None),
        (false, Dtype::F16, 20, Some(50)),
    ] {
        let model =
            on_the_gpu(config(|c| (c.keep_window_size, c.sliding_window) = (keep_window_size, sliding_window)), v1, dtype);
        let (ids, rounding) = (prompt(80), cpu().with_activations(Activations::Bf16));
        let exact = session(&model).feed(&ids).unwrap().to_vec();
        let feed = |block| {
            let options = SessionOptions::default().block(block);
            Session::new(&model, &rounding, options).unwrap().feed(&ids).unwrap().to_vec()
        };
        let whole = feed(256);
        let top = exact.iter().fold(0f32, |top, x| top.max(x.abs()));
        for block in [256, 1, 7, 64, 79] {
            let rounded = feed(block);
            let worst = rounded.iter().zip(&exact).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst > 0.0, "{dtype}: nothing was rounded");
            // 2^-9 each of a few dozen roundings in a row.
            assert!(worst < 0.05 * top, "{dtype}, blocks of {block}: {worst} of {top}");
            if sliding_window.is_some() || keep_window_size >= ids.len() {
                assert_eq!(bits(&rounded), bits(&whole), "{dtype}, blocks of {block}");
            }
        }
    }
}

/// Prompts of many tiles: whether their rows see all of a tile, some of it or nothing depends on the cut, the bits do not. Blocks
/// of one token look at every slot. Two layers: what an early token saw too much of shows in the keys of the second.
#[test]
fn prompts_of_many_tiles_have_the_same_bits_at_every_cut() {
    let _alone = alone();
    emulator::schedule(2);
    let ids = prompt(171);
    // Nothing is ever dropped; keys are dropped all the time; a ring of more tiles than the window of some rows.
    for (v1, keep_window_size, sliding_window) in [
        (false, 1000, None),
        (true, 1000, None),
        (true, 70, None),
        (false, 70, None),
        (true, 130, Some(90)),
        (false, 20, Some(70)),
    ] {
        let model = on_the_gpu(
            config(|c| {
                (c.hidden_size, c.head_dim, c.intermediate_size, c.num_hidden_layers) = (24, 6, 8, 2);
                (c.keep_window_size, c.sliding_window) = (keep_window_size, sliding_window);
            }),
            v1,
            Dtype::F32,
        );
        let feed = |block| {
            let mut session = Session::new(&model, &cpu(), SessionOptions::default().block(block)).unwrap();
            bits(session.feed(&ids).unwrap())
        };
        let want = feed(1);
        for block in [256, 100, 40] {
            assert_eq!(feed(block), want, "v1 {v1}, {keep_window_size} keys of {sliding_window:?}, blocks of {block}");
        }
    }
}
