//! The command beside the stand-in driver, and without any.
#![cfg(feature = "cuda")]

mod common;

use std::{
    io::Write,
    process::{Command, Output},
};

use common::emulator;
use doge_engine::cuda::Device;

/// The command with the stand-in driver, and settings of it.
fn doge(args: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doge"));
    command.args(args).env("LD_LIBRARY_PATH", emulator::folder()).env("DOGE_CUDA_KERNELS", emulator::images());
    command.envs(settings.iter().copied()).output().unwrap()
}

#[test]
fn the_command_runs_on_the_gpu() {
    let text = |device: &str, settings: &[(&str, &str)]| {
        let output = doge(&["generate", "-p", "ROMEO.", "-n", "20", "-q", "--temp", "0", "--device", device], settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let want = text("cpu", &[]);
    assert_eq!(text("cuda", &[]), want);
    assert_eq!(text("cuda:0", &[("DOGE_EMULATOR_SEED", "1")]), want);
    // What is on the CPU alone leads `auto` there, and `cuda` to an error.
    let in_16_bits = |device: &str| {
        let output = doge(&["generate", "-p", "x", "-n", "1", "--kv-dtype", "f16", "--device", device], &[]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = in_16_bits("auto");
    assert_eq!(code, Some(0), "{stderr}");
    // Without kernels in the program `auto` does not look for a GPU.
    assert_eq!(stderr.contains("on the CPU: a GPU has no K and V in f16"), Device::is_built(), "{stderr}");
    assert_eq!(in_16_bits("cuda").0, Some(1));
}

#[test]
fn failures_of_the_gpu_have_names() {
    let fails = |device: &str, settings: &[(&str, &str)], words: &str| {
        let output = doge(&["generate", "-p", "x", "-n", "1", "--device", device], settings);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{words}: {stderr}");
    };
    fails("cuda:3", &[], "cuda:3 cannot be used: there is no such GPU; the driver shows 1");
    fails("cuda", &[("DOGE_EMULATOR_DEVICES", "0")], "cuda:0 cannot be used: there is no such GPU; the driver shows 0");
    fails("cuda", &[("DOGE_EMULATOR_ARCH", "75")], "its architecture is 7.5; the kernels need 8.0");
    fails("cuda", &[("DOGE_EMULATOR_MEMORY", "1000000")], "bytes for the weights on the GPU");
    fails("cuda", &[("DOGE_CUDA_KERNELS", "/nowhere")], "/nowhere");
}

/// Every operation that a GPU runs by itself, checked and timed, hot and cold; what it does not is named.
#[test]
fn kernels_are_measured_on_the_gpu() {
    let args = ["kernels", "--device", "cuda", "--preset", "20m-moe", "-o", "json", "--mode"];
    let rows = |mode: &str, more: &[&str]| {
        // Copies of 64 MiB, not of 256.
        let output = doge(&[&args[..], &[mode], more].concat(), &[("DOGE_EMULATOR_MEMORY", "268435456")]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        (serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout).unwrap(), stderr)
    };
    let (hot, stderr) =
        rows("hot", &["-r", "1", "--dtype", "f32,bf16,int8", "--shape", "1x256,256x512,32x256x512,1x512,16x256,1x128x2,32768"]);
    let ops: std::collections::BTreeSet<&str> = hot.iter().map(|row| row["op"].as_str().unwrap()).collect();
    let all = [
        "argmax",
        "dynamic_mask_attention",
        "embed_row",
        "expert_mix",
        "gated_activation",
        "gemm",
        "gemm_bf16",
        "gemm_int",
        "gemv",
        "gemv_int",
        "mask_score",
        "residual_rms_norm",
        "rms_norm",
        "round_row",
    ];
    assert_eq!(ops.into_iter().collect::<Vec<_>>(), all);
    for op in ["qk_norm", "rope", "quantize_row", "product_key_router"] {
        assert!(stderr.contains(op), "{op}: {stderr}");
    }
    for row in &hot {
        assert_eq!((&row["isa"], &row["mode"]), (&"cuda".into(), &"hot".into()), "{row}");
        assert!(row["percent_of_roof"].as_f64().unwrap() > 0.0 && row["groups"].as_array().unwrap().len() == 1, "{row}");
    }
    let gemm_bf16 = hot.iter().find(|row| row["op"] == "gemm_bf16").unwrap();
    assert!(["bytes", "operations"].contains(&gemm_bf16["roof"]["of"].as_str().unwrap()), "{gemm_bf16}");

    let (cold, _) = rows("cold", &["-r", "2", "--op", "embed_row", "--dtype", "f32", "--shape", "512x256"]);
    assert!(cold[0]["working_set_bytes"].as_f64() >= Some(2.0 * cold[0]["bytes"].as_f64().unwrap()), "{}", cold[0]);
    assert_eq!((cold.len(), cold[0]["groups"].as_array().unwrap().len()), (1, 2));
    assert_eq!(cold[0]["roof"]["name"], "memory, copied");
}

/// As on a machine without a GPU: `auto` is the CPU, `cuda` says what is missing, of a build and of a machine.
#[test]
fn without_a_driver_the_command_says_so() {
    let run = |device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doge"));
        command.args(["generate", "-p", "x", "-n", "1", "-q", "--device", device]);
        command.env_remove("DOGE_CUDA_KERNELS").env_remove("LD_LIBRARY_PATH").output().unwrap()
    };
    assert!(run("auto").status.success());
    let output = run("cuda");
    if !Device::is_built() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("this build has no CUDA kernels: nvcc was not found"), "{stderr}");
        let left_out =
            "skipped: the CUDA kernels by nvcc, their machine code, a real GPU; .ci/cuda.sh and .ci/gpu.sh are for those";
        // Past the test harness, which would swallow it.
        writeln!(std::io::stderr(), "{left_out}").unwrap();
    } else if Device::count() == 0 {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("cuda:0 cannot be used"), "{stderr}");
    }
}
