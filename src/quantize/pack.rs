//! Groups into bytes, in the order the kernels read (doge_kernels.h, "Integer formats").

use super::group::{self, Group};
use crate::{
    tensor::{group_bytes, GROUP, TILE},
    Dtype, Layout,
};

/// Bytes of the scales at the begin of a block of a tile.
const BLOCK_SCALES: usize = 2 * TILE * 2;
/// Bytes of a line of a tile: a quad of columns of each row.
const LINE: usize = 64;

/// The rows of one stride (16 of a tile, the last one may have fewer; or one row), `[n, cols]`, as bytes. `out` holds zeros.
///
/// # Errors
/// The first weight that is not finite.
pub(crate) fn stride(dtype: Dtype, layout: Layout, rows: &[f32], cols: usize, out: &mut [u8]) -> Result<(), f32> {
    for (r, row) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (g, x) in row.chunks(GROUP).enumerate() {
            let mut padded = [0.0; GROUP];
            padded[..x.len()].copy_from_slice(x);
            let group = group::quantize(dtype, &padded)?;
            match layout {
                Layout::Rows => put_in_row(dtype, &group, g, cols, out),
                Layout::Tiles => put_in_tile(dtype, &group, g, r, out),
            }
        }
    }
    Ok(())
}

fn nibble(q: i8) -> u8 {
    (q + 8) as u8
}

fn put_in_row(dtype: Dtype, group: &Group, g: usize, cols: usize, out: &mut [u8]) {
    let bytes = group_bytes(dtype);
    for (i, out) in out[g * bytes..][..bytes].iter_mut().enumerate() {
        *out = match dtype {
            Dtype::Int4 => nibble(group.q[i]) | nibble(group.q[16 + i]) << 4,
            _ => group.q[i] as u8,
        };
    }
    out[cols.div_ceil(GROUP) * bytes + 2 * g..][..2].copy_from_slice(&group.scale.to_le_bytes());
}

fn put_in_tile(dtype: Dtype, group: &Group, g: usize, r: usize, out: &mut [u8]) {
    let (bytes, half) = (TILE * group_bytes(dtype), g % 2);
    let block = &mut out[g / 2 * (BLOCK_SCALES + 2 * bytes)..][..BLOCK_SCALES + 2 * bytes];
    block[(half * TILE + r) * 2..][..2].copy_from_slice(&group.scale.to_le_bytes());
    let lines = &mut block[BLOCK_SCALES + half * bytes..][..bytes];
    for (l, line) in lines.chunks_exact_mut(LINE).enumerate() {
        for (k, out) in line[4 * r..][..4].iter_mut().enumerate() {
            let column = 4 * l + k;
            *out = match dtype {
                Dtype::Int4 => nibble(group.q[column]) | nibble(group.q[16 + column]) << 4,
                _ => group.q[column] as u8,
            };
        }
    }
}

/// Are all scales of a stride finite?
pub(crate) fn stride_is_finite(dtype: Dtype, layout: Layout, cols: usize, bytes: &[u8]) -> bool {
    let finite = |scales: &[u8]| !scales.chunks_exact(2).fold(false, |bad, b| bad | (b[1] & 0x7f == 0x7f && b[0] & 0x80 != 0));
    match layout {
        Layout::Rows => finite(&bytes[cols.div_ceil(GROUP) * group_bytes(dtype)..]),
        Layout::Tiles => {
            let block = BLOCK_SCALES + 2 * TILE * group_bytes(dtype);
            bytes.chunks_exact(block).all(|block| finite(&block[..BLOCK_SCALES]))
        }
    }
}
