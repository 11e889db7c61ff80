//! Every golden case, on every ISA level that this machine has, with one thread and with several; and that each can fail.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use doge_engine::{ops::Cpu, pool::Pool, verify, Dtype, Kernels};
use safetensors::{tensor::TensorView, Dtype as Stored, SafeTensors};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn options(kernels: Kernels, threads: usize) -> verify::VerifyOptions {
    verify::VerifyOptions::new(Cpu::new(kernels, Arc::new(Pool::new(threads).unwrap())))
}

/// Runs every case under `name`; `cases` of them are there, and with the weights as they are stored each has all there is to check.
fn verify(name: &str, cases: usize, kernels: Kernels, threads: usize, dtype: Option<Dtype>, block: usize) {
    let options = options(kernels, threads).dtype(dtype).block(block);
    let mut failed = Vec::new();
    let reports = verify::run(&folder(name), &options, |report| {
        if !report.passed() || dtype.is_none() && !report.unchecked.is_empty() {
            failed.push(report.to_string());
        }
    });
    assert_eq!(reports.unwrap().len(), cases, "cases under {name}");
    assert!(failed.is_empty(), "{}, {threads} threads, blocks of {block}:\n{}", kernels.isa(), failed.join("\n"));
}

/// 49 model cases, tokenizer, chat model, sampling.
const GOLDEN: usize = 52;

#[test]
fn golden_cases_on_every_isa_level() {
    for kernels in Kernels::available() {
        verify("tests/golden", GOLDEN, kernels, 1, None, 256);
    }
}

#[test]
fn golden_cases_with_threads_and_small_blocks() {
    let kernels = Kernels::detect().unwrap();
    for (threads, block) in [(2, 7), (3, 1), (8, 16)] {
        verify("tests/golden", GOLDEN, kernels, threads, None, block);
    }
}

/// Weights rounded at load: what can be held to the f32 reference is.
#[test]
fn golden_cases_with_converted_weights() {
    let kernels = Kernels::detect().unwrap();
    verify("tests/golden", GOLDEN, kernels, 2, Some(Dtype::F32), 64);
    verify("tests/golden", GOLDEN, kernels, 2, Some(Dtype::F16), 64);
    verify("tests/golden", GOLDEN, kernels, 2, Some(Dtype::Bf16), 64);
    verify("tests/golden", GOLDEN, kernels, 2, Some(Dtype::Int8), 64);
    verify("tests/golden", GOLDEN, kernels, 2, Some(Dtype::Int4), 7);
}

#[test]
fn trained_checkpoints_write_what_the_reference_writes() {
    for kernels in Kernels::available().rev().take(2) {
        verify("models/doge-bard", 1, kernels, 2, None, 256);
        verify("tests/fixtures/doge-bard-moe", 1, kernels, 2, None, 256);
    }
}

/// The tensors of an expected.safetensors: format, shape and bytes.
type Tensors = BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)>;

/// A model case whose expectations may be changed, and the index with its budget beside it.
struct Case {
    folder: tempfile::TempDir,
    name: &'static str,
    tensors: Tensors,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let (golden, folder) = (self::folder("tests/golden"), tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join(name)).unwrap();
        for file in ["index.json", &format!("{name}/config.json"), &format!("{name}/model.safetensors")] {
            std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
        }
        let bytes = std::fs::read(golden.join(name).join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors =
            file.iter().map(|(name, t)| (name.to_string(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect();
        Case { folder, name, tensors }
    }

    /// The report of the case with its expectations changed.
    fn with(&self, change: impl FnOnce(&mut Tensors)) -> verify::CaseReport {
        let mut tensors = self.tensors.clone();
        change(&mut tensors);
        let views =
            tensors.iter().map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        let folder = self.folder.path().join(self.name);
        std::fs::write(folder.join("expected.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        verify::run(&folder, &options(Kernels::detect().unwrap(), 1), |_| {}).unwrap().remove(0)
    }
}

/// What the last number of a tensor is changed to.
fn wrong(dtype: Stored, bytes: &[u8]) -> Vec<Vec<u8>> {
    match dtype {
        Stored::F32 => {
            let x = f32::from_le_bytes(*bytes.last_chunk().unwrap());
            [x + 0.01 * x.abs().max(1.0), f32::NAN].map(|x| x.to_le_bytes().to_vec()).to_vec()
        }
        Stored::I32 => vec![(i32::from_le_bytes(*bytes.last_chunk().unwrap()) + 1).to_le_bytes().to_vec()],
        Stored::I64 => vec![(i64::from_le_bytes(*bytes.last_chunk().unwrap()) + 1).to_le_bytes().to_vec()],
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_expectation_can_fail() {
    for name in ["window_7", "moe_window", "batch_left_pad"] {
        let case = Case::new(name);
        let good = case.with(|_| {});
        assert!(good.passed(), "{good}");
        let input = ["input_ids", "attention_mask", "position_ids"];
        let not_compared = |tensor: &str| input.contains(&tensor) || verify::INFORMATION.contains(&tensor);
        let compared: Vec<_> = case.tensors.iter().filter(|(tensor, _)| !not_compared(tensor)).collect();
        assert!(compared.len() >= 6, "{name}");
        for (tensor, (dtype, shape, bytes)) in compared {
            for wrong in wrong(*dtype, bytes) {
                let report = case.with(|tensors| {
                    let bytes = &mut tensors.get_mut(tensor).unwrap().2;
                    let last = bytes.len() - wrong.len();
                    bytes[last..].copy_from_slice(&wrong);
                });
                assert!(!report.passed(), "{name}: {tensor} may be anything");
            }
            let shorter = case.with(|tensors| {
                let (_, shorter, bytes) = tensors.get_mut(tensor).unwrap();
                shorter[0] -= 1;
                bytes.truncate(bytes.len() / shape[0] * shorter[0]);
            });
            assert!(!shorter.passed(), "{name}: {tensor} may end early");
            let absent = case.with(|tensors| drop(tensors.remove(tensor)));
            let told = absent.unchecked.iter().any(|why| why.contains(tensor.as_str()));
            assert!(told || !absent.passed(), "{name}: {tensor} may be absent");
        }
    }
}

/// By the rule that a case without an index.json is held to, it says itself how far an honest engine may be off.
#[test]
fn no_case_allows_itself_anything() {
    let case = Case::new("v2_gqa");
    std::fs::remove_file(case.folder.path().join("index.json")).unwrap();
    assert!(case.with(|_| {}).passed());
    let moved = case.with(|tensors| {
        let bytes = &mut tensors.get_mut("exact_logits_full").unwrap().2;
        let number: &mut [u8; 4] = bytes.last_chunk_mut().unwrap();
        *number = (f32::from_le_bytes(*number) + 0.01).to_le_bytes(); // a thousandth of the largest
    });
    assert!(!moved.passed(), "{moved}");
}

/// The same for what stands in expected.json.
#[cfg(feature = "text")]
#[test]
fn every_text_fixture_can_fail() {
    use serde_json::{json, Value};
    for (source, pointer, value) in [
        ("tests/golden/tokenizer", "/encode/3/ids/0", json!(700)),
        ("tests/golden/tokenizer", "/decode/3/text", json!("other")),
        ("tests/golden/tokenizer", "/stream/1/pieces/0", json!("other")),
        ("tests/golden/tokenizer", "/token_bytes_hex/300", json!("00")),
        ("tests/golden/tokenizer", "/chat/3/rendered", json!("other")),
        ("tests/golden/sampling", "/rows/5/probabilities/2", json!(0.5)),
        ("tests/golden/chat_model", "/runs/1/text", json!("other")),
        ("models/doge-bard", "/heldout/perplexity", json!(69.88)),
    ] {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder(source)).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
            std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        let path = copy.path().join("expected.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        std::fs::write(&path, json.to_string()).unwrap();
        let reports = verify::run(copy.path(), &options(Kernels::detect().unwrap(), 2), |_| {}).unwrap();
        assert!(reports.len() == 1 && !reports[0].passed(), "{pointer}: {}", reports[0]);
    }
}
