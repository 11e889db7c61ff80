//! The K and V rows of one layer.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{dtype::Float, mapped::HugePages, Matrix, Result};

#[derive(Clone, Copy, Debug)]
pub enum Side {
    K,
    V,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::K, Side::V];
}

/// Arenas of rows, `[arenas][K, V][rows][head_dim]`, in one piece of memory with huge pages: a token reads all of it.
#[derive(Debug)]
pub struct KvRows {
    head_dim: usize,
    dtype: Float,
    arenas: usize,
    rows: usize,
    /// None: no room yet.
    memory: Option<HugePages>,
}

impl KvRows {
    pub fn new(head_dim: usize, dtype: Float) -> Self {
        KvRows { head_dim, dtype, arenas: 0, rows: 0, memory: None }
    }

    /// How many arenas there is room for.
    pub fn arenas(&self) -> usize {
        self.arenas
    }

    /// Makes room for `arenas` arenas of `rows` rows, and for no fewer than there are; more arenas are a multiple of those.
    /// What was arena i is then arena i · (arenas now) / (arenas before).
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; nothing has changed then.
    pub fn grow(&mut self, arenas: usize, rows: usize) -> Result<()> {
        let (arenas, rows) = (arenas.max(self.arenas), rows.max(self.rows));
        if (arenas, rows) == (self.arenas, self.rows) {
            return Ok(());
        }
        let mut grown = KvRows { arenas, rows, ..KvRows::new(self.head_dim, self.dtype) };
        let bytes = grown.side_bytes().saturating_mul(2).saturating_mul(arenas);
        if bytes > 0 {
            grown.memory = Some(HugePages::new(bytes, "the K and V rows of a session")?);
        }
        for arena in 0..self.arenas {
            for side in Side::BOTH {
                let rows = self.side(arena, side);
                grown.side_mut(arena * (arenas / self.arenas), side)[..rows.len()].copy_from_slice(rows);
            }
        }
        *self = grown;
        Ok(())
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        self.head_dim.saturating_mul(self.dtype.size())
    }

    /// Bytes of the K rows of an arena, and of its V rows.
    fn side_bytes(&self) -> usize {
        self.rows.saturating_mul(self.row_bytes())
    }

    fn side(&self, arena: usize, side: Side) -> &[u8] {
        let (memory, bytes) = (self.memory.as_deref().unwrap_or(&[]), self.side_bytes());
        &memory[(2 * arena + side as usize) * bytes..][..bytes]
    }

    fn side_mut(&mut self, arena: usize, side: Side) -> &mut [u8] {
        let bytes = self.side_bytes();
        &mut self.memory.as_deref_mut().unwrap_or(&mut [])[(2 * arena + side as usize) * bytes..][..bytes]
    }

    /// All K rows of an arena, or all V rows, `[rows, head_dim]`, as stored.
    #[expect(clippy::expect_used, reason = "a side has the length of its rows")]
    pub fn matrix(&self, arena: usize, side: Side) -> Matrix<'_> {
        Matrix::new(self.dtype.into(), self.rows, self.head_dim, self.side(arena, side)).expect("rows of head_dim")
    }

    /// Writes a row, `[head_dim]`, rounded to the nearest, ties to even.
    pub fn put(&mut self, arena: usize, side: Side, row: usize, from: &[f32]) {
        let (dtype, bytes) = (self.dtype, self.row_bytes());
        let to = &mut self.side_mut(arena, side)[row * bytes..][..bytes];
        match dtype {
            Float::F32 => to.copy_from_slice(bytemuck::cast_slice(from)),
            Float::Bf16 => bytemuck::cast_slice_mut::<_, bf16>(to).convert_from_f32_slice(from),
            Float::F16 => bytemuck::cast_slice_mut::<_, f16>(to).convert_from_f32_slice(from),
        }
    }

    /// Reads a row into `to`, `[head_dim]`: exact.
    pub fn get(&self, arena: usize, side: Side, row: usize, to: &mut [f32]) {
        let bytes = self.row_bytes();
        let from = &self.side(arena, side)[row * bytes..][..bytes];
        match self.dtype {
            Float::F32 => bytemuck::cast_slice_mut(to).copy_from_slice(from),
            Float::Bf16 => bytemuck::cast_slice::<_, bf16>(from).convert_to_f32_slice(to),
            Float::F16 => bytemuck::cast_slice::<_, f16>(from).convert_to_f32_slice(to),
        }
    }

    /// Copies row `from` over row `to`, K and V.
    pub fn move_row(&mut self, arena: usize, from: usize, to: usize) {
        let bytes = self.row_bytes();
        for side in Side::BOTH {
            self.side_mut(arena, side).copy_within(from * bytes..(from + 1) * bytes, to * bytes);
        }
    }

    /// Copies a row of another layer's state, K and V, of the same format.
    pub fn copy_row(&mut self, arena: usize, row: usize, other: &KvRows, other_arena: usize, other_row: usize) {
        let bytes = self.row_bytes();
        for side in Side::BOTH {
            let from = &other.side(other_arena, side)[other_row * bytes..][..bytes];
            self.side_mut(arena, side)[row * bytes..][..bytes].copy_from_slice(from);
        }
    }

    /// Copies the first `rows` rows of arena `from` over those of arena `to`.
    pub fn copy_arena(&mut self, from: usize, to: usize, rows: usize) {
        let (side, bytes) = (self.side_bytes(), rows * self.row_bytes());
        let Some(memory) = self.memory.as_deref_mut() else { return };
        for i in Side::BOTH {
            let (from, to) = ((2 * from + i as usize) * side, (2 * to + i as usize) * side);
            memory.copy_within(from..from + bytes, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row's floats, others for each arena, side and row.
    fn row(arena: usize, side: Side, row: usize) -> [f32; 3] {
        [arena as f32, 0.1 * row as f32 + 0.01, -(side as usize as f32)]
    }

    fn rounded(dtype: Float, x: f32) -> f32 {
        match dtype {
            Float::F32 => x,
            Float::Bf16 => bf16::from_f32(x).to_f32(),
            Float::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// Rows are rounded when they are put, and stay as they are wherever they go.
    #[test]
    fn rows_keep_their_numbers() {
        for dtype in Float::ALL {
            let mut kv = KvRows::new(3, dtype);
            kv.grow(2, 5).unwrap();
            for (arena, side) in [0, 1].into_iter().flat_map(|arena| Side::BOTH.map(|side| (arena, side))) {
                (0..5).for_each(|i| kv.put(arena, side, i, &row(arena, side, i)));
            }
            kv.grow(6, 9).unwrap(); // arenas 0 and 1 are 0 and 3 now
            kv.move_row(3, 4, 8);
            kv.copy_arena(3, 5, 4);
            let mut other = KvRows::new(3, dtype);
            other.grow(1, 2).unwrap();
            other.copy_row(0, 1, &kv, 5, 2);
            for side in Side::BOTH {
                let is = |kv: &KvRows, arena, at, want: [f32; 3]| {
                    let mut got = [0.0; 3];
                    kv.get(arena, side, at, &mut got);
                    assert_eq!(got, want.map(|x| rounded(dtype, x)), "{dtype}: {side:?} of row {at} of arena {arena}");
                };
                (0..5).for_each(|i| is(&kv, 0, i, row(0, side, i)));
                (0..5).for_each(|i| is(&kv, 3, i, row(1, side, i)));
                (0..4).for_each(|i| is(&kv, 5, i, row(1, side, i)));
                is(&kv, 3, 8, row(1, side, 4));
                is(&other, 0, 1, row(1, side, 2));
                let matrix = kv.matrix(3, side);
                assert_eq!((matrix.dtype(), matrix.rows(), matrix.cols()), (dtype.into(), 9, 3));
            }
        }
    }
}
