//! Checkpoints of any shape with random weights: for benches of published shapes and for tests.

use rand_pcg::{
    rand_core::{Rng, SeedableRng},
    Pcg64Mcg,
};

use super::{
    convert,
    schema::{self, Hold, Row, Side},
    weights::Source,
    Checkpoint, Config, TensorInfo, Variant, Weights,
};
use crate::{matrix_bytes, quantize, Dtype, Error, Float, Result, Tensor};

impl Checkpoint {
    /// A checkpoint of this shape, its big matrices in `dtype`. The same arguments give the same bits everywhere.
    /// Projections have the standard deviation `in^-1/2`, norms lie about 1, residual gates about 0.9, A in ±0.3: what
    /// flows through stays finite at any depth.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if no model can be like this, [`Error::OutOfMemory`].
    pub fn random(config: Config, variant: Variant, dtype: Dtype, seed: u64) -> Result<Self> {
        variant.check(&config)?;
        let weights = Weights::build(&config, &variant, &RandomSource { dtype, seed })?;
        let tensors = schema::tensors(&config, variant)
            .map(|(row, layer)| {
                let (held, shape) = (held(row, dtype), row.shape(&config, &variant));
                let bytes = bytes_of(row, held, &shape);
                TensorInfo { name: row.full_name(variant.names, layer), shape, dtype: held, held, bytes, file: None }
            })
            .collect();
        Ok(Checkpoint { config, variant, weights, files: Vec::new(), tensors, ignored: Vec::new(), notes: Vec::new() })
    }

    /// Bytes of memory that [`Checkpoint::random`] takes.
    pub fn random_bytes(config: &Config, variant: &Variant, dtype: Dtype) -> usize {
        let bytes = |row: &Row| bytes_of(row, held(row, dtype), &row.shape(config, variant));
        schema::tensors(config, *variant).map(|(row, _)| bytes(row)).fold(0, usize::saturating_add)
    }
}

/// The format of a tensor where the big matrices are `dtype`.
fn held(row: &Row, dtype: Dtype) -> Dtype {
    match row.hold {
        Hold::Stored => dtype,
        Hold::F32 => Dtype::F32,
    }
}

/// Bytes of a tensor in memory.
fn bytes_of(row: &Row, held: Dtype, shape: &[usize]) -> usize {
    match (row.hold, shape) {
        (Hold::Stored, &[rows, cols]) => matrix_bytes(held, row.layout(held), rows, cols).unwrap_or(usize::MAX),
        _ => shape.iter().copied().fold(Float::F32.size(), usize::saturating_mul),
    }
}

struct RandomSource {
    dtype: Dtype,
    seed: u64,
}

impl RandomSource {
    /// Uniform numbers in `middle ± width`. Each block of a tensor has a generator of its own, so the bits depend on
    /// neither the threads nor the order of the tensors.
    fn bytes(&self, row: &Row, name: &str, dtype: Float, shape: &[usize]) -> Result<Vec<u8>> {
        let (middle, width) = spread(row, shape);
        let seed = self.seed ^ fnv1a(name.as_bytes());
        let len = shape.iter().product();
        convert::generate(name, dtype, len, |block, x| {
            let mut rng = Pcg64Mcg::seed_from_u64(seed.wrapping_add((block as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            for four in x.chunks_mut(4) {
                let bits = rng.next_u64();
                for (i, x) in four.iter_mut().enumerate() {
                    let unit = (bits >> (16 * i)) as i16 as f32 + 0.5; // odd halves: never 0
                    *x = middle + width * (unit / 32768.0);
                }
            }
        })
    }
}

impl Source for RandomSource {
    fn matrix(&self, row: &Row, name: &str, shape: [usize; 2]) -> Result<Tensor> {
        let dtype = held(row, self.dtype);
        let layout = row.layout(dtype);
        let bytes = match dtype.float() {
            Some(float) => self.bytes(row, name, float, &shape)?,
            None => quantize::matrix(name, Float::F32, &self.bytes(row, name, Float::F32, &shape)?, shape, dtype, layout)?,
        };
        let wrong = || Error::BadTensor { name: name.to_string(), why: "generated with another length".into() };
        Tensor::owned(dtype, layout, shape[0], shape[1], bytes).ok_or_else(wrong)
    }

    fn vector(&self, row: &Row, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        convert::to_f32(Float::F32, &self.bytes(row, name, Float::F32, shape)?)
    }
}

/// Middle and half width of a tensor's numbers.
fn spread(row: &Row, shape: &[usize]) -> (f32, f32) {
    match (row.name, shape) {
        // A uniform distribution of half width sqrt(3/n) has the standard deviation n^-1/2.
        (_, [_, cols]) => (0.0, (3.0 / *cols as f32).sqrt()),
        (name, _) if name.ends_with("norm.weight") => (1.0, 0.1),
        (name, _) if name.ends_with("residual") => (0.9, 0.05),
        _ if row.sides == [Side::MaskHeads] && !row.name.ends_with("bias") => (0.0, 0.3),
        _ => (0.0, 0.1),
    }
}

/// A hash that is the same with every compiler.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
