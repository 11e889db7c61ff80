//! Memory for the inputs and outputs of a call, in as many copies as a rotation needs.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytemuck::Pod;
use doge_engine::{matrix_bytes, quantize, Dtype, Error, Float, Layout, Matrix, Result};
use memmap2::MmapMut;
use rand_pcg::{
    rand_core::{Rng, SeedableRng},
    Pcg64Mcg,
};

const LINE: usize = 64;
/// Smaller arrays gain nothing from huge pages.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Makes the arrays of a job: each in `copies` copies, with the same numbers in every run.
pub struct Store {
    copies: usize,
    random: Pcg64Mcg,
    arrays: usize,
    bytes: usize,
    spare: Option<Spare>,
}

/// Maps of jobs that are done, for the next ones: to clear a gigabyte of new pages takes longer than to time most kernels.
#[derive(Clone, Default)]
pub struct Spare(Arc<Mutex<Vec<MmapMut>>>);

impl Spare {
    fn maps(&self) -> MutexGuard<'_, Vec<MmapMut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The least of those that hold `len` bytes, if it is not half empty then. If there is none, the others go, so that there is
    /// room for a new one.
    fn take(&self, len: usize) -> Option<MmapMut> {
        let mut maps = self.maps();
        let fits = |map: &MmapMut| (len..=2 * len).contains(&map.len());
        let least = (0..maps.len()).filter(|&i| fits(&maps[i])).min_by_key(|&i| maps[i].len());
        if least.is_none() {
            maps.clear();
        }
        least.map(|i| maps.swap_remove(i))
    }
}

/// A map, there until it is dropped, and who gets it then.
struct Memory {
    map: Option<MmapMut>,
    spare: Option<Spare>,
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let (Some(spare), Some(map)) = (&self.spare, self.map.take()) {
            spare.maps().push(map);
        }
    }
}

/// An array in several copies, one behind the other.
pub struct Copies<T> {
    memory: Memory,
    /// Bytes before the first copy, and from copy to copy.
    lead: usize,
    stride: usize,
    len: usize,
    element: PhantomData<T>,
}

/// A weight matrix in several copies.
pub struct Weights {
    bytes: Copies<u8>,
    dtype: Dtype,
    layout: Layout,
    rows: usize,
    cols: usize,
}

impl Store {
    pub fn new(copies: usize) -> Self {
        Store { copies, random: Pcg64Mcg::seed_from_u64(7), arrays: 0, bytes: 0, spare: None }
    }

    /// In maps that others no longer need, where there are such.
    pub fn reusing(spare: &Spare, copies: usize) -> Self {
        Store { spare: Some(spare.clone()), ..Store::new(copies) }
    }

    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Bytes of one copy of everything made so far.
    pub fn bytes_of_a_copy(&self) -> usize {
        self.bytes
    }

    /// Below `n`, `n > 0`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.random.next_u64()) * n as u128) >> 64) as usize
    }

    fn numbers(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        (0..n).map(|_| low + (high - low) * ((self.random.next_u32() >> 8) as f32 / (1u32 << 24) as f32)).collect()
    }

    /// `n` floats between `low` and `high`, others in each copy.
    pub fn floats(&mut self, n: usize, low: f32, high: f32) -> Result<Copies<f32>> {
        let mut copies = self.zeros(n)?;
        for copy in 0..self.copies {
            copies.get_mut(copy).copy_from_slice(&self.numbers(n, low, high));
        }
        Ok(copies)
    }

    /// Zeros, in memory that has been touched: untouched pages all share one page of zeros.
    pub fn zeros<T: Pod>(&mut self, n: usize) -> Result<Copies<T>> {
        let mut copies = self.untouched(n)?;
        copies.memory.fill(0);
        Ok(copies)
    }

    /// The same values in each copy.
    pub fn of<T: Pod>(&mut self, values: &[T]) -> Result<Copies<T>> {
        let mut copies = self.untouched(values.len())?;
        for copy in 0..self.copies {
            copies.get_mut(copy).copy_from_slice(values);
        }
        Ok(copies)
    }

    fn untouched<T: Pod>(&mut self, n: usize) -> Result<Copies<T>> {
        // Maps begin at a page. Were all arrays to begin there, the same elements of several of them would compete for
        // the same lines of a cache, which no allocator's addresses do.
        self.arrays += 1;
        let (lead, stride) = (self.arrays * 19 % 64 * LINE, (n * size_of::<T>()).next_multiple_of(LINE));
        self.bytes += stride;
        let len = lead + (stride * self.copies).max(LINE);
        let map = match self.spare.as_ref().and_then(|spare| spare.take(len)) {
            Some(map) => map,
            None => new_map(len)?,
        };
        let memory = Memory { map: Some(map), spare: self.spare.clone() };
        Ok(Copies { memory, lead, stride, len: n, element: PhantomData })
    }

    /// Random weights of the size that projections have.
    pub fn weights(&mut self, dtype: Dtype, layout: Layout, rows: usize, cols: usize) -> Result<Weights> {
        let width = (3.0 / cols.max(1) as f32).sqrt(); // a standard deviation of cols^-1/2
        let numbers = self.numbers(rows * cols, -width, width);
        let bytes = match dtype {
            Dtype::F32 => self.of(bytemuck::cast_slice(&numbers))?,
            Dtype::Bf16 => {
                self.of(bytemuck::cast_slice(&numbers.iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>()))?
            }
            Dtype::F16 => self.of(bytemuck::cast_slice(&numbers.iter().map(|&x| half::f16::from_f32(x)).collect::<Vec<_>>()))?,
            _ => {
                let from = bytemuck::cast_slice(&numbers);
                self.of(&quantize::matrix("random", Float::F32, from, [rows, cols], dtype, layout)?)?
            }
        };
        Ok(Weights { bytes, dtype, layout, rows, cols })
    }
}

fn new_map(len: usize) -> Result<MmapMut> {
    let no_room = |_| Error::OutOfMemory { bytes: len as u128, what: "the inputs of a kernel" };
    let map = MmapMut::map_anon(len).map_err(no_room)?;
    #[cfg(target_os = "linux")]
    if len >= HUGE_PAGE {
        let _ = map.advise(memmap2::Advice::HugePage); // as weights have them; where it is refused, small pages do
    }
    Ok(map)
}

impl<T: Pod> Copies<T> {
    pub fn get(&self, copy: usize) -> &[T] {
        bytemuck::cast_slice(&self.memory[self.lead + copy * self.stride..][..self.len * size_of::<T>()])
    }

    pub fn get_mut(&mut self, copy: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.memory[self.lead + copy * self.stride..][..self.len * size_of::<T>()])
    }
}

impl Weights {
    pub fn get(&self, copy: usize) -> Matrix<'_> {
        let matrix = Matrix::with_layout(self.dtype, self.layout, self.rows, self.cols, self.bytes.get(copy));
        matrix.expect("made with the bytes of such a matrix")
    }
}

/// Rows `begin..begin + rows` of a matrix as one of its own; of tiles, both are multiples of 16.
pub fn strip<'a>(matrix: &Matrix<'a>, begin: usize, rows: usize) -> Matrix<'a> {
    let (dtype, layout, cols) = (matrix.dtype(), matrix.layout(), matrix.cols());
    let bytes = |rows| matrix_bytes(dtype, layout, rows, cols).unwrap_or(usize::MAX);
    let strip = Matrix::with_layout(dtype, layout, rows, cols, &matrix.bytes()[bytes(begin)..][..bytes(rows)]);
    strip.expect("whole rows, whole tiles")
}
