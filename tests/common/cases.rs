//! The inputs: which lengths, and what the numbers are.

use doge_engine::{quantize, Dtype, Float, Layout};
use rand_pcg::{
    rand_core::{Rng, SeedableRng},
    Pcg64Mcg,
};

/// One call of one operation. What `n`, `rows` and `out` mean is said at each check.
#[derive(Clone, Debug)]
pub struct Case {
    pub n: usize,
    pub rows: usize,
    pub out: usize,
    pub fill: Fill,
    /// Bytes by which the weights stand off their natural address.
    pub offset: usize,
    pub seed: u64,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case { n, rows, out, fill, offset, seed } = self;
        write!(f, "n={n} rows={rows} out={out} fill={fill:?} offset={offset} seed={seed}")
    }
}

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Between −1 and 1.
    Uniform,
    Zeros,
    /// A few distinct values: ties wherever something is compared.
    Ties,
    /// One of a thousand, the others around a thousandth.
    OneHuge,
    /// Large and small magnitudes of both signs, from 2^-12 to 2^12.
    WideRange,
    /// As large as the formula can take without leaving f32, of both signs.
    Extreme,
    /// So small that products of two are subnormal or zero.
    Tiny,
}

impl Fill {
    pub const ALL: [Fill; 7] =
        [Fill::Uniform, Fill::Zeros, Fill::Ties, Fill::OneHuge, Fill::WideRange, Fill::Extreme, Fill::Tiny];
}

/// The lengths around a register of `lanes` floats and around an unrolled loop of four of them, then those of real models.
pub fn lengths(lanes: usize) -> Vec<usize> {
    let l = lanes;
    let mut out = vec![0, 1, l - 1, l, l + 1, 2 * l - 1, 2 * l, 2 * l + 1, 4 * l - 1, 4 * l, 4 * l + 1, 4 * l + 3, 8 * l + 5];
    out.extend([48, 64, 128, 251, 256, 576, 1024]);
    out.sort_unstable();
    out.dedup();
    out
}

/// Random numbers from a seed, the same on every machine.
pub struct Random(Pcg64Mcg);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(Pcg64Mcg::seed_from_u64(seed))
    }

    /// Below `n`, `n > 0`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Between −1 and 1.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// `n` numbers. `largest` is what [`Fill::Extreme`] means here.
    pub fn fill(&mut self, fill: Fill, n: usize, largest: f32) -> Vec<f32> {
        let huge = if n > 0 { self.below(n) } else { 0 };
        (0..n)
            .map(|i| {
                let x = self.uniform();
                match fill {
                    Fill::Uniform => x,
                    Fill::Zeros => 0.0,
                    Fill::Ties => (x * 2.0).trunc(),
                    Fill::OneHuge if i == huge => 1000.0,
                    Fill::OneHuge => x * 1e-3,
                    Fill::WideRange => x * ((self.below(25) as f32) - 12.0).exp2(),
                    Fill::Extreme => largest.copysign(x),
                    Fill::Tiny => x * 1e-30,
                }
            })
            .collect()
    }
}

/// The `[rows, cols]` numbers rounded to `dtype`, as stored bytes. Overflow is clamped to the largest finite number.
pub fn stored(dtype: Dtype, layout: Layout, shape: [usize; 2], values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::Bf16 => values
            .iter()
            .map(|&x| half::bf16::from_f32(x.clamp(half::bf16::MIN.to_f32(), half::bf16::MAX.to_f32())))
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .iter()
            .map(|&x| half::f16::from_f32(x.clamp(half::f16::MIN.to_f32(), half::f16::MAX.to_f32())))
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        _ => {
            let clamped: Vec<f32> = values.iter().map(|x| x.clamp(f32::MIN, f32::MAX)).collect();
            quantize::matrix("of a test", Float::F32, bytemuck::cast_slice(&clamped), shape, dtype, layout)
                .expect("finite numbers")
        }
    }
}

/// A number in a float format, where `stored` would clamp it to a finite one.
pub fn not_clamped(dtype: Dtype, x: f32) -> Option<Vec<u8>> {
    match dtype {
        Dtype::F32 => Some(x.to_le_bytes().to_vec()),
        Dtype::Bf16 => Some(half::bf16::from_f32(x).to_le_bytes().to_vec()),
        Dtype::F16 => Some(half::f16::from_f32(x).to_le_bytes().to_vec()),
        _ => None,
    }
}

/// The layout in which linear layers and embedding tables are read.
pub fn linear_layout(dtype: Dtype) -> Layout {
    if dtype.is_int() {
        Layout::Tiles
    } else {
        Layout::Rows
    }
}

/// The largest finite number of a stored format.
pub fn largest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Bf16 => half::bf16::MAX.to_f32(),
        Dtype::F16 => half::f16::MAX.to_f32(),
        _ => f32::MAX,
    }
}
