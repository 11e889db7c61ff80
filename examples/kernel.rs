//! One kernel, without a model, on every instruction set of this machine: `cargo run --release --example kernel`

use std::{sync::Arc, time::Instant};

use doge_engine::{ops::Cpu, pool::Pool, Dtype, Kernels, Matrix};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (rows, cols) = (4096, 1024);
    let weight: Vec<f32> = (0..rows * cols).map(|i| (i % 7) as f32 - 3.0).collect();
    let bytes: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
    let weight = Matrix::new(Dtype::F32, rows, cols, &bytes).ok_or("the bytes do not fill the matrix")?;
    let (x, mut y) = (vec![1.0; cols], vec![0.0; rows]);

    let pool = Arc::new(Pool::new(1)?);
    for kernels in Kernels::available() {
        let cpu = Cpu::new(kernels, pool.clone());
        cpu.linear(&mut y, weight, &x, None)?; // y = W x
        let start = Instant::now();
        for _ in 0..100 {
            cpu.linear(&mut y, weight, &x, None)?;
        }
        let rate = 100.0 * bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("{:<12} y[0] = {}, {rate:.1} GB/s of weights", kernels.isa().name(), y[0]);
    }
    Ok(())
}
