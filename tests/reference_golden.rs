//! The reference against the golden data: `reference::forward` must give what an independent float64 implementation gave.
//!
//! Both compute in f64 from the same stored weights; the golden numbers were rounded to f32 (6e-8), and the two sets of f32
//! RoPE tables may differ by an ulp in pow, cos and sin (1.2e-7 each). So numbers must agree to [`TOLERANCE`] of the
//! largest one in their tensor, ten times less than what an f32 engine is allowed; sets, ids and tokens must be equal.

use std::{collections::BTreeSet, path::Path};

use doge_engine::{
    model::{Checkpoint, LoadOptions, RopeParameters},
    reference::{
        forward::{Record, Session},
        product_key_router::Routing,
        selection::evicted_at,
    },
};
use safetensors::{Dtype, SafeTensors};

const TOLERANCE: f64 = 1e-6;
const CASES: usize = 49;

/// Tensors that are inputs, or what transformers gives in f32 and 16 bits: for information.
const NOT_COMPARED: &[&str] = &["input_ids", "attention_mask", "position_ids", "logits_full", "logits_decode"];

#[test]
fn reference_equals_golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let names: Vec<&str> = index["cases"].as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), CASES);
    let mut failures = Vec::new();
    for name in names {
        let checkpoint = Checkpoint::load(&folder.join(name), &LoadOptions::default()).unwrap();
        let bytes = std::fs::read(folder.join(name).join("expected.safetensors")).unwrap();
        let mut golden = Golden::new(SafeTensors::deserialize(&bytes).unwrap());
        golden.run(&checkpoint);
        println!("{name:22} {:.1e} of the largest, {}", golden.worst.0, golden.worst.1);
        failures.extend(golden.failures.iter().map(|why| format!("{name}: {why}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The expectations of one case, and what became of them.
struct Golden<'a> {
    tensors: SafeTensors<'a>,
    batch: usize,
    length: usize,
    compared: BTreeSet<String>,
    failures: Vec<String>,
    worst: (f64, String),
}

impl<'a> Golden<'a> {
    fn new(tensors: SafeTensors<'a>) -> Self {
        let shape = tensors.tensor("input_ids").unwrap().shape().to_vec();
        let [batch, length] = shape[..] else { panic!("input_ids is [B, T]") };
        Golden { tensors, batch, length, compared: BTreeSet::new(), failures: Vec::new(), worst: (0.0, String::new()) }
    }

    fn run(&mut self, checkpoint: &Checkpoint) {
        for row in 0..self.batch {
            let of_row = |numbers: Vec<f64>| numbers[row * self.length..][..self.length].to_vec();
            let mask = self.numbers("attention_mask").map_or(vec![1.0; self.length], of_row);
            // A padded row equals its tokens alone (spec 7): feed those, compare what stands behind the padding.
            let pad = mask.iter().filter(|&&m| m == 0.0).count();
            let ids: Vec<u32> = of_row(self.numbers("input_ids").unwrap())[pad..].iter().map(|&id| id as u32).collect();

            let new = self.shape("greedy")[1];
            let full = Outcome::of(checkpoint, &ids, ids.len(), new);
            self.compare("exact_logits_full", row, pad, &[full.logits]);
            self.compare("hidden_full", row, pad, &full.record.hidden);
            self.compare("attn_out_full", row, pad, &full.record.attn_out);
            self.compare("mlp_out_full", row, pad, &full.record.mlp_out);
            self.compare("router_full", row, pad, &full.record.router);
            self.compare("expert_weights_full", row, pad, &full.record.expert_weights);
            self.compare("experts_full", row, pad, &wide(&full.record.experts));
            self.compare("mask_full", row, pad, &by_head(&full.record.mask, |mask| mask.clone()));
            self.compare("evicted_at_full", row, pad, &by_head(&full.record.kept, |kept| places(evicted_at(kept), pad)));
            self.compare("kept_full", row, pad, &self.kept(&full.record, pad));
            self.compare("greedy", row, 0, &[full.greedy]);
            self.compare("exact_logits_greedy", row, 0, &[full.greedy_logits]);
            if self.batch == 1 {
                let decode = Outcome::of(checkpoint, &ids, 1, new);
                self.compare("exact_logits_decode", row, 0, &[decode.logits]);
                self.compare("hidden_decode", row, 0, &decode.record.hidden);
                self.compare("expert_weights_decode", row, 0, &decode.record.expert_weights);
                self.compare("experts_decode", row, 0, &wide(&decode.record.experts));
                self.compare("greedy_stepwise", row, 0, &[decode.greedy]);
            }
        }
        let information = |name: &str| NOT_COMPARED.contains(&name) || name.ends_with("_bf16") || name.ends_with("_f16");
        for name in self.tensors.names() {
            if !self.compared.contains(name) && !information(name) {
                self.failures.push(format!("{name} was not compared"));
            }
        }
        for name in self.required(checkpoint) {
            if !self.compared.contains(name) {
                self.failures.push(format!("{name} is not there"));
            }
        }
    }

    /// What a case of its kind must have (tests/golden/README.md).
    fn required(&self, checkpoint: &Checkpoint) -> Vec<&'static str> {
        let config = &checkpoint.config;
        let rotates_by_call = match &config.rope {
            RopeParameters::Dynamic { .. } => self.length > config.max_position_embeddings,
            RopeParameters::Longrope { original_max_position_embeddings, .. } => self.length > *original_max_position_embeddings,
            _ => false,
        };
        let (drops_keys, alone) = (config.keep_window_size < self.length, self.batch == 1);
        let kinds: [(bool, &[&str]); 8] = [
            (true, &["exact_logits_full", "hidden_full", "attn_out_full", "mlp_out_full", "mask_full"]),
            (true, &["greedy", "exact_logits_greedy"]),
            (drops_keys, &["kept_full"]),
            (drops_keys && config.sliding_window.is_none(), &["evicted_at_full"]),
            (config.is_moe, &["router_full", "experts_full", "expert_weights_full"]),
            (alone, &["exact_logits_decode", "greedy_stepwise"]),
            (alone && config.is_moe, &["experts_decode", "expert_weights_decode"]),
            (alone && (config.is_moe || rotates_by_call), &["hidden_decode"]),
        ];
        kinds.into_iter().filter(|(has, _)| *has).flat_map(|(_, names)| names).copied().collect()
    }

    /// Holds `got`, one vector for each index before the batch axis, against batch row `row` of a tensor, from `pad` on along
    /// the axis of length T (the last one of that length; none if `pad` is 0). A tensor that is absent is not compared.
    fn compare(&mut self, name: &str, row: usize, pad: usize, got: &[Vec<f64>]) {
        let Some(want) = self.numbers(name) else { return };
        self.compared.insert(name.to_string());
        let shape = self.shape(name);
        let whole = want.len() / got.len() / self.batch;
        // [outer][batch][.., T, inner]: the inner elements belong to one place, the first pad · inner of each T · inner go.
        let inner = match shape.iter().rposition(|&n| n == self.length) {
            Some(axis) if pad > 0 => shape[axis + 1..].iter().product(),
            _ => 1,
        };
        let exact = !name.starts_with("exact") && self.tensors.tensor(name).unwrap().dtype() != Dtype::F32;
        let largest = want.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        for (i, got) in got.iter().enumerate() {
            let all = &want[(i * self.batch + row) * whole..][..whole];
            let want: Vec<f64> = match pad {
                0 => all.to_vec(),
                _ => all.chunks(self.length * inner).flat_map(|rows| &rows[pad * inner..]).copied().collect(),
            };
            if got.len() != want.len() {
                self.failures.push(format!("{name}[{i}] has {} numbers, ours {}", want.len(), got.len()));
                continue;
            }
            let error =
                got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE);
            if error > self.worst.0 {
                self.worst = (error, format!("{name}[{i}]"));
            }
            let allowed = if exact { 0.0 } else { TOLERANCE };
            // NaN is no agreement.
            let agree = |(got, want): (&f64, &f64)| (got - want).abs() <= allowed * largest;
            let first = got.iter().zip(&want).position(|pair| !agree(pair));
            if let Some(at) = first {
                self.failures.push(format!("{name}[{i}], row {row}, number {at}: {} must be {}", got[at], want[at]));
            }
        }
    }

    /// `kept_full`: ascending lists, filled up with −1.
    fn kept(&self, record: &Record, pad: usize) -> Vec<Vec<f64>> {
        let width = self.numbers("kept_full").map_or(0, |_| *self.shape("kept_full").last().unwrap());
        by_head(&record.kept, |queries| {
            let padded = |keys: &Vec<u32>| {
                let mut list = places(keys.clone(), pad);
                list.resize(width.max(list.len()), -1.0);
                list
            };
            queries.iter().flat_map(padded).collect()
        })
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors.tensor(name).unwrap().shape().to_vec()
    }

    /// A tensor of any format as f64, which holds all of them.
    fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        let tensor = self.tensors.tensor(name).ok()?;
        let bytes = tensor.data();
        Some(match tensor.dtype() {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::I32 => bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::I64 => bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            other => panic!("{name} is {other:?}"),
        })
    }
}

/// What the reference makes of a prompt.
struct Outcome {
    logits: Vec<f64>,
    record: Record,
    greedy: Vec<f64>,
    greedy_logits: Vec<f64>,
}

impl Outcome {
    /// The prompt in calls of `step` tokens, then `new` greedy ones.
    fn of(checkpoint: &Checkpoint, ids: &[u32], step: usize, new: usize) -> Self {
        let mut session = Session::new(&checkpoint.config, &checkpoint.weights);
        session.start_recording();
        let logits: Vec<Vec<f64>> = ids.chunks(step).flat_map(|call| session.forward(call, Routing::Reference)).collect();
        let record = session.record.take().unwrap();
        let (mut last, mut greedy, mut greedy_logits) = (logits[logits.len() - 1].clone(), Vec::new(), Vec::new());
        for _ in 0..new {
            greedy_logits.extend_from_slice(&last);
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]).then(b.cmp(&a))).unwrap();
            greedy.push(best as f64);
            last = session.forward(&[best as u32], Routing::Reference).remove(0);
        }
        Outcome { logits: logits.concat(), record, greedy, greedy_logits }
    }
}

fn wide(layers: &[Vec<u32>]) -> Vec<Vec<f64>> {
    layers.iter().map(|ids| ids.iter().copied().map(f64::from).collect()).collect()
}

/// Places counted without padding as places counted with it.
fn places(places: Vec<u32>, pad: usize) -> Vec<f64> {
    places.iter().map(|&place| f64::from(place) + pad as f64).collect()
}

/// `[layer][mask head]` put one after another in each layer.
fn by_head<T>(layers: &[Vec<T>], f: impl Fn(&T) -> Vec<f64>) -> Vec<Vec<f64>> {
    layers.iter().map(|heads| heads.iter().flat_map(&f).collect()).collect()
}
