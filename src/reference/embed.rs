//! Spec 3: `x = embed[token]`.

use crate::{Dtype, Layout, Matrix};

/// A stored matrix as f32, row-major. Exact for every stored format.
pub fn widen(matrix: Matrix<'_>) -> Vec<f32> {
    let bytes = matrix.bytes();
    match matrix.dtype() {
        Dtype::Int8 | Dtype::Int4 => {
            let (rows, cols) = (matrix.rows(), matrix.cols());
            let weight = |i: usize| f32::from(quant(matrix, i / cols, i % cols)) * scale(matrix, i / cols, i % cols);
            (0..rows * cols).map(weight).collect()
        }
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::Bf16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

/// Row `row` of `table` `[rows, n]`.
pub fn embed(table: &[f32], row: usize, n: usize) -> Vec<f64> {
    table[row * n..(row + 1) * n].iter().map(|&w| f64::from(w)).collect()
}

/// Where the scale of a weight of an integer format stands, in bytes, and its quant, in quants (a byte, or a nibble, each
/// pair of nibbles low first): "Integer formats" of kernels/doge_kernels.h as two formulas.
fn places(matrix: Matrix<'_>, row: usize, col: usize) -> (usize, usize) {
    let (groups, group, within) = (matrix.cols().div_ceil(32), col / 32, col % 32);
    let per_byte = if matrix.dtype() == Dtype::Int4 { 2 } else { 1 };
    // int4 pairs a column of the first half of a group with one of the second.
    let spread = |byte_of_16: usize| if per_byte == 2 { 2 * byte_of_16 + within / 16 } else { byte_of_16 };
    match matrix.layout() {
        Layout::Rows => {
            let begin = row * groups * (32 / per_byte + 2);
            let byte = if per_byte == 2 { within % 16 } else { within };
            let quant = (begin + group * 32 / per_byte) * per_byte + spread(byte);
            (begin + groups * 32 / per_byte + 2 * group, quant)
        }
        Layout::Tiles => {
            let block_bytes = 64 + 2 * 512 / per_byte;
            let begin = row / 16 * groups.div_ceil(2) * block_bytes + group / 2 * block_bytes;
            let quad = if per_byte == 2 { within % 16 / 4 } else { within / 4 };
            let byte = begin + 64 + group % 2 * 512 / per_byte + quad * 64 + row % 16 * 4 + within % 4;
            (begin + group % 2 * 32 + row % 16 * 2, if per_byte == 2 { 2 * byte + within / 16 } else { byte })
        }
    }
}

/// The whole number of a weight of an integer format.
pub fn quant(matrix: Matrix<'_>, row: usize, col: usize) -> i8 {
    let (_, quant) = places(matrix, row, col);
    match matrix.dtype() {
        Dtype::Int4 => (matrix.bytes()[quant / 2] >> (4 * (quant % 2)) & 15) as i8 - 8,
        _ => matrix.bytes()[quant] as i8,
    }
}

/// The scale of a weight of an integer format.
pub fn scale(matrix: Matrix<'_>, row: usize, col: usize) -> f32 {
    let (scale, _) = places(matrix, row, col);
    half::bf16::from_le_bytes([matrix.bytes()[scale], matrix.bytes()[scale + 1]]).to_f32()
}
