//! The safe doors to the kernels: slices in, lengths checked, one unsafe call each.
//!
//! A [`Cpu`] is the kernels of one ISA level and the threads to run them on. Each method takes any number of rows and
//! shares the work among the threads; the bits of a result depend on neither. A wrong length is a
//! [`Error::BadArgument`] that names the argument.
//!
//! No model is needed to run one:
//!
//! ```
//! # fn main() -> doge_engine::Result<()> {
//! use doge_engine::ops::Cpu;
//!
//! let (x, weight) = ([3.0, -3.0, 3.0, -3.0], [1.0, 1.0, 2.0, 2.0]);
//! let mut out = [0.0; 4];
//! Cpu::detect()?.rms_norm(&mut out, &x, &weight, 0.0)?;
//! assert_eq!(out, [1.0, -1.0, 2.0, -2.0]);
//! # Ok(())
//! # }
//! ```

mod argmax;
mod dynamic_mask_attention;
mod embed;
mod expert_mix;
mod gated_activation;
mod input;
mod linear;
mod mask_score;
mod product_key_router;
mod rms_norm;
mod roof;
mod rope;

use std::{ops::Range, sync::Arc};

pub use dynamic_mask_attention::{AttentionHead, AttentionShape};
pub use input::{bf16_row, Input, SPLIT_PARTS};
pub use linear::Projection;
pub use product_key_router::Routing;
pub use roof::{PeakKind, PeakRun, Streams};

use crate::{pool::Pool, Error, Kernels, Layout, Matrix, Result};

/// Where the kernels run: an ISA level and a thread pool. Cheap to clone; clones share the threads.
#[derive(Clone, Debug)]
pub struct Cpu {
    kernels: Kernels,
    pool: Arc<Pool>,
    /// Where blocks of several rows run, if not on `pool`.
    block_pool: Option<Arc<Pool>>,
    activations: Activations,
}

/// The form in which bf16 weights meet their input, and K and V in bf16 the queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activations {
    /// f32: closest to the truth, and what golden data is held to. On AMX bf16 weights meet it in three bf16 parts, which add up to
    /// it: no bit is lost.
    #[default]
    F32,
    /// Rounded to bf16, as transformers and others do in bf16: twice as fast in a prompt where the CPU has a bf16 dot
    /// product, and a tenth or two slower with AVX2 alone. Attention too where K and V are kept in bf16, beside weights of every
    /// format; on a GPU that of a prompt.
    Bf16,
}

impl Cpu {
    /// The fastest ISA level there is, on as many threads as this process may use; `DOGE_ISA` chooses another.
    ///
    /// # Errors
    /// As [`Kernels::detect`] and [`Pool::new`]. Never panics.
    pub fn detect() -> Result<Self> {
        Ok(Cpu::new(Kernels::detect()?, Arc::new(Pool::new(Pool::default_threads())?)))
    }

    /// These kernels on these threads, which may be shared with others.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ops::Cpu, pool::Pool, Kernels};
    /// use std::sync::Arc;
    ///
    /// let pool = Arc::new(Pool::new(2)?);
    /// let (one, other) = (Cpu::new(Kernels::detect()?, pool.clone()), Cpu::new(Kernels::detect()?, pool));
    /// assert_eq!((one.threads(), other.threads()), (2, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(kernels: Kernels, pool: Arc<Pool>) -> Self {
        Cpu { kernels, pool, block_pool: None, activations: Activations::F32 }
    }

    /// The same kernels with other threads for blocks of several tokens. A prompt is bound by arithmetic and gains from
    /// every thread; a single token is bound by memory, which fewer threads may read as fast.
    pub fn with_block_pool(self, pool: Arc<Pool>) -> Self {
        Cpu { block_pool: Some(pool), ..self }
    }

    /// This, with the threads that `rows` tokens at once are to run on as its only ones.
    pub fn for_rows(&self, rows: usize) -> Cpu {
        let pool = self.block_pool.as_ref().filter(|_| rows > 1).unwrap_or(&self.pool);
        Cpu { pool: pool.clone(), block_pool: None, ..*self }
    }

    /// The same kernels and threads with another form of activations.
    pub fn with_activations(self, activations: Activations) -> Self {
        Cpu { activations, ..self }
    }

    /// The form in which bf16 weights meet their input, and K and V in bf16 the queries.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// The level that runs.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// How many threads a single token runs on, the calling one included; a block of several: see [`Cpu::for_rows`].
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `f(i)` for each `i` below [`Cpu::threads`]. On threads of their own only if no call returns before all began.
    pub(crate) fn on_every_thread(&self, f: impl Fn(usize) + Sync) {
        self.pool.run(self.threads(), |i, _| f(i));
    }

    /// Into how many parts a block of `rows` tokens is cut, so that each is the home of a thread, or of several. They are
    /// the same parts in every operation: a core finds in its own cache what it wrote.
    fn homes(&self, rows: usize) -> usize {
        self.homes_of(HOME_ROWS, rows)
    }

    /// The same with at least `least` rows in each, where there is more than one.
    fn homes_of(&self, least: usize, rows: usize) -> usize {
        (rows / least).clamp(1, self.threads())
    }

    /// Runs `f(token, piece, thread)` for each piece of each token.
    fn over_tokens(&self, tokens: usize, pieces: usize, f: impl Fn(usize, usize, usize) + Sync) {
        let homes = self.homes(tokens);
        self.pool.run_at_home(homes, tokens.div_ceil(homes) * pieces, move |home, i, thread| {
            let mine = share(0..tokens, home, homes);
            let (t, piece) = (mine.start + i / pieces, i % pieces);
            if t < mine.end {
                f(t, piece, thread);
            }
        });
    }

    /// Runs `f(first, end)` over `0..rows` in pieces of whole rows, on all threads if there is work enough to wake them, each
    /// with rows of its own first.
    fn over_rows(&self, rows: usize, floats_per_row: usize, f: impl Fn(usize, usize) + Sync) {
        const PIECES: usize = 4; // of a home: so that a slow core holds nobody up
        if rows.saturating_mul(floats_per_row) < MIN_FLOATS {
            return f(0, rows);
        }
        self.pool.run_at_home(self.threads(), PIECES, |home, i, _| {
            let piece = share(share(0..rows, home, self.threads()), i, PIECES);
            if !piece.is_empty() {
                f(piece.start, piece.end);
            }
        });
    }
}

/// Part `i` of `parts` parts as equal as can be.
fn share(of: Range<usize>, i: usize, parts: usize) -> Range<usize> {
    let (len, more) = (of.len() / parts, of.len() % parts); // the first `more` parts have one more
    let begin = of.start + i * len + i.min(more);
    begin..begin + len + usize::from(i < more)
}

/// Rows of a block that are worth a home: each home reads all weights, and with these many that still is a matter of arithmetic.
const HOME_ROWS: usize = 64;

/// Elementwise work below this many floats stays on the calling thread: its core's cache holds it, and to share it would cost as
/// much as it saves. With as many, 64 rows of 1024, rms_norm takes 4.8 µs by one thread and 3.0 by two.
pub const MIN_FLOATS: usize = 1 << 16;

/// A pointer that may cross to other threads. Whoever uses it promises that they write to different places.
#[derive(Clone, Copy)]
struct SharedMut<T>(*mut T);
// SAFETY: only a pointer; each use states why the places are different.
unsafe impl<T> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    fn new(slice: &mut [T]) -> Self {
        SharedMut(slice.as_mut_ptr())
    }

    /// A method, so that a closure captures the whole `SharedMut`, not the bare pointer in it.
    fn ptr(self) -> *mut T {
        self.0
    }
}

/// The table's entry for an operation. Every table is complete: the compiler refuses a forgotten entry, the kernel matrix
/// an explicit hole.
macro_rules! kernel {
    ($self:ident . $op:ident) => {
        $self.kernels.table().$op.expect("a kernel of the table")
    };
    ($self:ident . $op:ident [$dtype:expr]) => {
        $self.kernels.table().$op[$dtype as usize].expect("a kernel of the table")
    };
}
use kernel;

/// An error unless `got == want`.
fn expect_len(what: &'static str, got: usize, want: usize) -> Result<()> {
    if got == want {
        Ok(())
    } else {
        Err(Error::BadArgument { what, why: format!("has {got} elements where {want} are needed") })
    }
}

/// An error if a matrix of an integer format is in another layout.
fn expect_layout(what: &'static str, matrix: &Matrix<'_>, layout: Layout) -> Result<()> {
    if matrix.dtype().is_int() && matrix.layout() != layout {
        return Err(Error::BadArgument { what, why: format!("is in {:?} where {layout:?} are needed", matrix.layout()) });
    }
    Ok(())
}

/// The product of sizes that a caller gave; an error if it is beyond what a slice can hold.
fn product(what: &'static str, sizes: &[usize]) -> Result<usize> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    product.ok_or_else(|| Error::BadArgument { what, why: format!("sizes {sizes:?} multiply to more than memory holds") })
}

/// How many rows of `row` elements `len` elements are; an error if they are no whole number of rows.
fn rows_of(what: &'static str, len: usize, row: usize) -> Result<usize> {
    match (len, row) {
        (0, _) => Ok(0),
        (_, 0) => Err(Error::BadArgument { what, why: format!("has {len} elements where rows are empty") }),
        _ if len % row == 0 => Ok(len / row),
        _ => Err(Error::BadArgument { what, why: format!("has {len} elements, which is no whole number of rows of {row}") }),
    }
}
