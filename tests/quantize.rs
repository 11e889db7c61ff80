//! int8 and int4 checkpoints: how much they lose, and the files they are kept in.
#![cfg(feature = "text")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use doge_engine::{
    model::{Checkpoint, LoadOptions, Model, Observer, Session, SessionOptions},
    ops::Cpu,
    pool::Pool,
    quantize, Dtype, Error, Float, Kernels, Layout, Matrix, Tensor,
};
use serde_json::{json, Value};

fn bard() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/doge-bard")
}

fn cpu() -> Cpu {
    Cpu::new(Kernels::detect().unwrap(), Arc::new(Pool::new(2).unwrap()))
}

fn load(path: &Path, dtype: Option<Dtype>) -> Checkpoint {
    Checkpoint::load(path, &LoadOptions::default().dtype(dtype)).unwrap()
}

/// Sums the loss of each token of a window but the first.
struct Loss<'a> {
    window: &'a [u32],
    sum: f64,
}

impl Observer for Loss<'_> {
    fn logits(&mut self, place: usize, logits: &[f32]) {
        let Some(&next) = self.window.get(place + 1) else { return };
        let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
        self.sum += sum.ln() + top - f64::from(logits[next as usize]);
    }
}

/// Mean loss of each window of the model's whole held-out text.
fn losses(checkpoint: Checkpoint) -> Vec<f64> {
    let tokenizer = doge_engine::Tokenizer::from_folder(&bard()).unwrap();
    let text = fs::read_to_string(bard().join("heldout.txt")).unwrap();
    let ids = tokenizer.encode(&text, false, true).unwrap();
    let ids: Vec<u32> = checkpoint.config.bos_token_id.into_iter().chain(ids).collect();
    let (model, cpu) = (Model::new(checkpoint), cpu());
    let loss = |window: &[u32]| {
        let mut loss = Loss { window, sum: 0.0 };
        Session::new(&model, &cpu, SessionOptions::default()).unwrap().feed_observed(window, &mut loss).unwrap();
        loss.sum / (window.len() - 1) as f64
    };
    ids.chunks_exact(256).map(loss).collect()
}

static BASE: LazyLock<Vec<f64>> = LazyLock::new(|| losses(load(&bard(), None)));

/// On this text, whose windows are as long as those that the model was trained on. Its error says how far another text may be off.
fn perplexity_rises_by_less_than(limit: f64, dtype: Dtype) {
    let n = BASE.len() as f64;
    let more: Vec<f64> = losses(load(&bard(), Some(dtype))).iter().zip(&*BASE).map(|(a, b)| a - b).collect();
    let mean = more.iter().sum::<f64>() / n;
    let error = (more.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    let figures = format!("{dtype}: perplexity {:+.3} % ± {:.3} over {n} windows", 100.0 * mean.exp_m1(), 100.0 * error);
    println!("{figures}");
    assert!(mean.exp_m1() < limit, "{figures}, the limit is {:+.1} %", 100.0 * limit);
    assert!(error < limit / 3.0, "{figures}: the text is too short to tell");
}

#[test]
fn perplexity_on_held_out_text_in_int8() {
    perplexity_rises_by_less_than(0.001, Dtype::Int8);
}

#[test]
fn perplexity_on_held_out_text_in_int4() {
    perplexity_rises_by_less_than(0.015, Dtype::Int4);
}

/// All matrices that a checkpoint may hold packed, by name.
fn matrices(checkpoint: &Checkpoint) -> Vec<(String, Tensor)> {
    let weights = &checkpoint.weights;
    let mut all = vec![("embed_tokens".to_string(), weights.embed_tokens.clone())];
    all.extend(weights.lm_head.iter().map(|head| ("lm_head".to_string(), head.clone())));
    for (i, layer) in weights.layers.iter().enumerate() {
        let linears =
            [&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.gate_proj, &layer.up_proj, &layer.down_proj];
        all.extend(
            linears.into_iter().enumerate().map(|(j, linear)| (format!("layer {i} projection {j}"), linear.weight.clone())),
        );
        if let Some(experts) = &layer.experts {
            all.push((format!("layer {i} down_embed"), experts.down_embed.clone()));
            all.push((format!("layer {i} up_embed"), experts.up_embed.clone()));
        }
    }
    all
}

#[test]
fn a_written_checkpoint_is_the_one_converted_at_load_in_place() {
    for (source, dtype) in [("models/doge-bard", Dtype::Int4), ("tests/fixtures/doge-bard-moe", Dtype::Int8)] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let folder = tempfile::tempdir().unwrap();
        let bytes = quantize::write(&source, dtype, folder.path()).unwrap();
        assert_eq!(bytes as u64, fs::metadata(folder.path().join("model.safetensors")).unwrap().len());
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            assert_eq!(fs::read(source.join(name)).unwrap(), fs::read(folder.path().join(name)).unwrap());
        }
        let (made, found) = (load(&source, Some(dtype)), load(folder.path(), None));
        for ((name, made), (_, found)) in matrices(&made).iter().zip(&matrices(&found)) {
            assert_eq!(
                (made.dtype(), made.layout(), made.rows(), made.cols()),
                (found.dtype(), found.layout(), found.rows(), found.cols()),
                "{name}"
            );
            assert_eq!(made.matrix().bytes(), found.matrix().bytes(), "{name}");
            assert!(found.is_mapped() && found.dtype() == dtype, "{name}");
            if found.layout() == Layout::Tiles {
                assert_eq!(found.matrix().bytes().as_ptr() as usize % 64, 0, "{name} does not stand at a line");
            }
        }
        assert_eq!(made.weights.norm, found.weights.norm);
        assert_eq!(made.weights.layers[0].dt_proj.weight, found.weights.layers[0].dt_proj.weight);
        assert_eq!((made.bytes_per_token(), made.variant), (found.bytes_per_token(), found.variant));
        // The same format may be asked for; another may not.
        assert!(matrices(&load(folder.path(), Some(dtype))).iter().all(|(_, tensor)| tensor.is_mapped()));
        for other in [Dtype::F32, if dtype == Dtype::Int8 { Dtype::Int4 } else { Dtype::Int8 }] {
            let options = LoadOptions::default().dtype(other);
            let error = Checkpoint::load(folder.path(), &options).unwrap_err();
            assert!(matches!(&error, Error::BadTensor { why, .. } if why.contains("the checkpoint it was made from")), "{error}");
        }
        let again = quantize::write(folder.path(), dtype, &folder.path().join("again")).unwrap_err();
        assert!(again.to_string().contains("quantised already"), "{again}");
        let over = quantize::write(&source, dtype, folder.path()).unwrap_err();
        assert!(over.to_string().contains("there already"), "{over}");
        assert!(quantize::write(&source, Dtype::Bf16, &folder.path().join("float")).is_err());
    }
}

/// Bytes of weights a token reads: 8.5 and 4.5 bits each, but for the tensors that stay f32.
#[test]
fn formats_take_the_bytes_they_should() {
    let (config, variant) = doge_engine::model::family::preset("20m").unwrap();
    for (dtype, mb) in [(Dtype::Int8, 14.0), (Dtype::Int4, 7.4)] {
        let found = Checkpoint::random(config.clone(), variant, dtype, 1).unwrap().bytes_per_token() as f64 / 1e6;
        assert!((found - mb).abs() < 0.1, "{dtype}: {found} MB");
    }
}

/// A quantised file whose header and data were tampered with, and what loading says.
fn tampered(change: impl Fn(&mut Value, &mut Vec<u8>)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    quantize::write(&bard(), Dtype::Int8, folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    change(&mut header, &mut data);
    let header = header.to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
    Checkpoint::load(folder.path(), &LoadOptions::default()).map(drop).unwrap_err()
}

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

/// The metadata's shapes, changed.
fn reshape(header: &mut Value, change: impl Fn(&mut Value)) {
    let mut shapes: Value = serde_json::from_str(header["__metadata__"]["shapes"].as_str().unwrap()).unwrap();
    change(&mut shapes);
    header["__metadata__"]["shapes"] = json!(shapes.to_string());
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let version = tampered(|header, _| header["__metadata__"]["version"] = json!("2"));
    assert!(
        matches!(&version, Error::BadFile { why, .. } if why.contains("version '2'") && why.contains("doge quantize")),
        "{version}"
    );
    let dtype = tampered(|header, _| header["__metadata__"]["dtype"] = json!("int3"));
    assert!(matches!(&dtype, Error::BadFile { why, .. } if why.contains("'int3'")), "{dtype}");
    for key in ["version", "dtype", "shapes"] {
        let missing = tampered(|header, _| drop(header["__metadata__"].as_object_mut().unwrap().remove(key)));
        assert!(matches!(&missing, Error::BadFile { why, .. } if why.contains(key)), "{missing}");
    }
    // Without the metadata they are U8 tensors of no use.
    let bare = tampered(|header, _| drop(header.as_object_mut().unwrap().remove("__metadata__")));
    assert!(matches!(bare, Error::BadTensor { .. } | Error::MissingTensor { .. }), "{bare}");
    let unknown = tampered(|header, _| reshape(header, |shapes| drop(shapes.as_object_mut().unwrap().remove(Q_PROJ))));
    assert!(matches!(&unknown, Error::BadFile { why, .. } if why.contains(Q_PROJ)), "{unknown}");
    let malformed = tampered(|header, _| header["__metadata__"]["shapes"] = json!("[1]"));
    assert!(matches!(&malformed, Error::BadFile { why, .. } if why.contains("shapes")), "{malformed}");
    // int4 needs half the bytes.
    let size = tampered(|header, _| header["__metadata__"]["dtype"] = json!("int4"));
    assert!(matches!(&size, Error::BadTensor { why, .. } if why.contains("do not fill int4")), "{size}");
    let shape = tampered(|header, _| reshape(header, |shapes| shapes[Q_PROJ] = json!([192, 191])));
    assert!(matches!(&shape, Error::BadTensor { name, why } if name == Q_PROJ && why.contains("191")), "{shape}");
    let norm = tampered(|header, _| {
        header["model.norm.weight"]["dtype"] = json!("U8");
        header["model.norm.weight"]["shape"] = json!([4 * 192]);
        reshape(header, |shapes| shapes["model.norm.weight"] = json!([192]));
    });
    assert!(
        matches!(&norm, Error::BadTensor { name, why } if name == "model.norm.weight" && why.contains("must be f32")),
        "{norm}"
    );
    // The first line of data are scales.
    let scale = tampered(|_, data| data[..2].copy_from_slice(&0x7f80u16.to_le_bytes()));
    assert!(matches!(&scale, Error::NonFiniteValue { place } if place.contains("scale")), "{scale}");
}

#[test]
fn every_companion_goes_with_the_weights() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let source = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join("v2_gqa").join(file), source.path().join(file)).unwrap();
    }
    let companions = [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    companions.iter().for_each(|name| fs::write(source.path().join(name), name).unwrap());
    // Of a folder, and of a file in it.
    for from in [source.path().to_path_buf(), source.path().join("model.safetensors")] {
        let target = tempfile::tempdir().unwrap();
        quantize::write(&from, Dtype::Int8, target.path()).unwrap();
        for name in companions {
            assert_eq!(fs::read_to_string(target.path().join(name)).unwrap(), name);
        }
        load(target.path(), None);
    }
}

/// Not the first line alone, in a matrix or among the rows of the experts.
#[test]
fn every_scale_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let moe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/moe_k20");
    quantize::write(&moe, Dtype::Int8, folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let data = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&good[8..data]).unwrap();
    let offset = |name: &str, i: usize| data + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
    // The last scale of the experts, and one in the second half of a tile.
    let experts = "model.layers.0.mlp.down_embed.weight";
    for (name, at) in [(experts, offset(experts, 1) - 2), (Q_PROJ, offset(Q_PROJ, 0) + 32)] {
        let mut bad = good.clone();
        bad[at..at + 2].copy_from_slice(&0x7f80u16.to_le_bytes());
        fs::write(&path, bad).unwrap();
        let error = Checkpoint::load(folder.path(), &LoadOptions::default()).map(drop).unwrap_err();
        assert!(matches!(&error, Error::NonFiniteValue { place } if place.contains(name)), "{error}");
    }
}

/// Whatever stands in the folder stays: weights of any name, shards, the source itself, another model's config.
#[test]
fn nothing_is_written_over() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let copy = |case: &str, names: [&str; 2]| {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(golden.join(case)).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            fs::copy(&file, folder.path().join(if name == names[0] { names[1] } else { name })).unwrap();
        }
        folder
    };
    let state = |folder: &Path| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let source = golden.join("v2_gqa");
    let (sharded, renamed) = (copy("sharded", [""; 2]), copy("v2_gqa", ["model.safetensors", "weights.safetensors"]));
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("config.json"), "{}").unwrap();
    for (source, folder) in [
        (sharded.path(), sharded.path()),
        (&renamed.path().join("weights.safetensors"), renamed.path()),
        (&source, sharded.path()),
        (&source, renamed.path()),
        (&source, other.path()),
    ] {
        let before = state(folder);
        let refused = quantize::write(source, Dtype::Int8, folder).unwrap_err();
        assert!(matches!(&refused, Error::BadArgument { why, .. } if why.contains("there already")), "{refused}");
        assert_eq!(before, state(folder));
    }
    // Nor is anything left out that cannot be copied.
    let odd = copy("v2_gqa", [""; 2]);
    fs::create_dir(odd.path().join("tokenizer_config.json")).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let refused = quantize::write(odd.path(), Dtype::Int8, empty.path()).unwrap_err();
    assert!(matches!(&refused, Error::BadFile { path, .. } if path.ends_with("tokenizer_config.json")), "{refused}");
    assert!(state(empty.path()).is_empty());
    // What is to stand there, and does, is no hindrance.
    fs::copy(source.join("config.json"), other.path().join("config.json")).unwrap();
    quantize::write(&source, Dtype::Int8, other.path()).unwrap();
    load(other.path(), None);
}

/// Neither a pipe, whose reader waits for a writer, nor a link in the folder is opened.
#[cfg(unix)]
#[test]
fn what_stands_in_the_folder_is_not_followed() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2_gqa");
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("config.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = quantize::write(&source, Dtype::Int8, folder.path()).unwrap_err();
    assert!(matches!(&refused, Error::BadArgument { why, .. } if why.contains("there already")), "{refused}");
    fs::remove_file(&pipe).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &pipe).unwrap();
    let refused = quantize::write(&source, Dtype::Int8, folder.path()).unwrap_err();
    assert!(matches!(&refused, Error::BadArgument { why, .. } if why.contains("there already")), "{refused}");
    fs::remove_file(&pipe).unwrap();

    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.path().join(quantize::UNFINISHED)).unwrap();
    quantize::write(&source, Dtype::Int8, folder.path()).unwrap();
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "mine");
    load(folder.path(), None);
}

/// A companion that cannot be read is an error: without it the new checkpoint would be another.
#[cfg(unix)]
#[test]
fn a_companion_that_leads_nowhere_is_not_left_out() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2_gqa");
    let (source, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(name), source.path().join(name)).unwrap();
    }
    for target in ["gone", "tokenizer.json"] {
        std::os::unix::fs::symlink(target, source.path().join("tokenizer.json")).unwrap();
        let refused = quantize::write(source.path(), Dtype::Int8, folder.path()).unwrap_err();
        assert!(matches!(&refused, Error::Io { path, .. } if path.ends_with("tokenizer.json")), "{refused}");
        fs::remove_file(source.path().join("tokenizer.json")).unwrap();
    }
    fs::File::create(source.path().join("tokenizer.json")).unwrap().set_len(1 << 40).unwrap();
    let refused = quantize::write(source.path(), Dtype::Int8, folder.path()).unwrap_err();
    assert!(matches!(&refused, Error::BadFile { path, .. } if path.ends_with("tokenizer.json")), "{refused}");
}

/// Sum of the squared errors of a quantised matrix.
fn squared_error(dtype: Dtype, x: &[f32], cols: usize) -> f64 {
    let shape = [x.len() / cols, cols];
    let bytes = quantize::matrix("x", Float::F32, bytemuck::cast_slice(x), shape, dtype, Layout::Rows).unwrap();
    let wide = doge_engine::reference::embed::widen(Matrix::new(dtype, shape[0], shape[1], &bytes).unwrap());
    wide.iter().zip(x).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn scales_are_better_than_those_of_the_maximum() {
    let weights = load(&bard(), Some(Dtype::F32)).weights;
    let bytes = weights.layers[3].down_proj.weight.matrix().bytes().to_vec();
    let x: &[f32] = &bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
    for (dtype, most, at_least) in [(Dtype::Int8, 127.0, 0.15), (Dtype::Int4, 7.0, 0.3)] {
        let plain: f64 = x
            .chunks(32)
            .map(|group| {
                let scale = group.iter().fold(0.0f32, |max, x| max.max(x.abs())) / most;
                group.iter().map(|x| f64::from(x - (x / scale).round() * scale).powi(2)).sum::<f64>()
            })
            .sum();
        let saved = 1.0 - squared_error(dtype, x, 512) / plain;
        assert!(saved > at_least, "{dtype}: {saved} of the squared error saved");
    }
}

#[test]
fn any_finite_numbers_can_be_quantised_and_others_are_refused() {
    // Each largest number may be off by a step and a half, wherever it lies between the smallest and the largest f32.
    for exponent in -140..128 {
        let top = 2f32.powi(exponent) * if exponent == 127 { 1.999_999_9 } else { 1.3 };
        let x: Vec<f32> = (0..32).map(|i| top * ((i as f32 - 16.0) / 16.0)).collect();
        for (dtype, most) in [(Dtype::Int8, 127.0), (Dtype::Int4, 7.0)] {
            let bytes = quantize::matrix("x", Float::F32, bytemuck::cast_slice(&x), [1, 32], dtype, Layout::Rows).unwrap();
            let wide = doge_engine::reference::embed::widen(Matrix::new(dtype, 1, 32, &bytes).unwrap());
            // Below the normal numbers bf16 has few scales.
            let step = f64::from(top) / most + if exponent < -110 { 1e-36 } else { 0.0 };
            for (got, want) in wide.iter().zip(&x) {
                assert!(f64::from(got - want).abs() <= 1.5 * step, "{dtype} 2^{exponent}: {got:e} for {want:e}");
            }
        }
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5f32; 64];
        x[40] = bad;
        let refused = quantize::matrix("some.weight", Float::F32, bytemuck::cast_slice(&x), [2, 32], Dtype::Int8, Layout::Tiles);
        assert!(matches!(refused, Err(Error::NonFiniteValue { place }) if place.contains("some.weight")));
    }
}
