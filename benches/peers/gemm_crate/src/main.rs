//! gemm-crate THREADS ROWSxCOLSxOUTPUTS... prints {"version": …, "seconds": {name: of a call}}.

use std::{process::ExitCode, time::Instant};

use gemm::Parallelism;

/// Of the crate, as in Cargo.toml.
const VERSION: &str = "0.19.0";
const SAMPLES: usize = 15;
const SAMPLE: f64 = 0.004;

/// The median of some samples of as many calls as make a sample worth timing.
fn timed(mut call: impl FnMut()) -> f64 {
    let (mut calls, start) = (0, Instant::now());
    while start.elapsed().as_secs_f64() < 0.05 {
        call();
        calls += 1;
    }
    let calls = ((f64::from(calls) * SAMPLE / 0.05) as usize).max(1);
    let mut sample = || {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_secs_f64() / calls as f64
    };
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    samples[SAMPLES / 2]
}

/// `out[r][o] = sum of x[r][c] * weight[o][c]`, all row by row.
fn linear(rows: usize, cols: usize, outputs: usize, threads: usize) -> f64 {
    // Small whole numbers: sums are exact.
    let x: Vec<f32> = (0..rows * cols).map(|i| ((i * 7 + i / cols) % 13) as f32).collect();
    let weight: Vec<f32> = (0..outputs * cols).map(|i| ((i * 5 + i / cols) % 11) as f32 - 5.0).collect();
    let mut out = vec![0.0f32; rows * outputs];
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let mut call = || {
        // SAFETY: sizes and strides are those of the three vectors.
        unsafe {
            gemm::gemm(
                rows,
                outputs,
                cols,
                out.as_mut_ptr(),
                1,
                outputs as isize,
                false,
                x.as_ptr(),
                1,
                cols as isize,
                weight.as_ptr(),
                cols as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    };
    call();
    let seconds = timed(call);
    let (row, output) = (rows - 1, outputs / 2 + 1);
    let want: f32 = x[row * cols..].iter().zip(&weight[output * cols..][..cols]).map(|(x, w)| x * w).sum();
    assert_eq!(out[row * outputs + output], want, "gemm is wrong");
    seconds
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((Ok(threads), shapes)) = args.split_first().map(|(first, rest)| (first.parse(), rest)) else {
        eprintln!("usage: gemm-crate THREADS ROWSxCOLSxOUTPUTS...");
        return ExitCode::from(2);
    };
    let seconds = shapes.iter().map(|shape| {
        let sizes: Vec<usize> = shape.split('x').filter_map(|size| size.parse().ok()).collect();
        let [rows, cols, outputs] = sizes[..] else { panic!("{shape}: no ROWSxCOLSxOUTPUTS") };
        format!("\"gemm/f32/{shape}\": {:e}", linear(rows, cols, outputs, threads))
    });
    let seconds: Vec<String> = seconds.collect();
    println!("{{\"version\": \"{VERSION}\", \"seconds\": {{{}}}}}", seconds.join(", "));
    ExitCode::SUCCESS
}
