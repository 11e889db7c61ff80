//! Every golden case, on every ISA level that this machine has, with one thread and with several.

use std::{path::Path, sync::Arc};

use doge_engine::{ops::Cpu, pool::Pool, verify, Dtype, Kernels};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs every case under `name`; `cases` of them are there.
fn verify(name: &str, cases: usize, kernels: Kernels, threads: usize, dtype: Option<Dtype>, block: usize) {
    let cpu = Cpu::new(kernels, Arc::new(Pool::new(threads).unwrap()));
    let options = verify::VerifyOptions::new(cpu).dtype(dtype).block(block);
    let mut failed = Vec::new();
    let reports = verify::run(&folder(name), &options, |report| {
        if !report.passed() {
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
