//! Weights as the rest of the house sees them: a [`Tensor`] owns (a share of) its bytes, a [`Matrix`] borrows them.

use std::sync::Arc;

use crate::{ffi, mapped::Mapped, Dtype, Result};

/// How the weights of a matrix are ordered (doge_kernels.h, "Integer formats").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Row after row. Of an integer format: for tables that are read row by row.
    Rows,
    /// 16 rows interleaved, integer formats only: for linear layers.
    Tiles,
}

/// Weights of a row that share a scale.
pub(crate) const GROUP: usize = ffi::DOGE_GROUP as usize;
/// Rows of a tile.
pub(crate) const TILE: usize = ffi::DOGE_TILE as usize;

/// Bytes of the quants of a group of 32 weights.
pub(crate) const fn group_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Int8 => GROUP,
        _ => GROUP / 2,
    }
}

/// Bytes of a row of `cols` weights in [`Layout::Rows`], of a tile of 16 rows in [`Layout::Tiles`]. `None` if there is no such
/// format, or beyond what memory can hold.
pub fn stride_bytes(dtype: Dtype, layout: Layout, cols: usize) -> Option<usize> {
    match (dtype.float(), layout) {
        (Some(float), Layout::Rows) => cols.checked_mul(float.size()),
        (None, Layout::Rows) => cols.div_ceil(GROUP).checked_mul(group_bytes(dtype) + 2),
        (None, Layout::Tiles) => cols.div_ceil(2 * GROUP).checked_mul(TILE * 2 * (group_bytes(dtype) + 2)),
        (Some(_), Layout::Tiles) => None,
    }
}

/// Bytes of a `[rows, cols]` matrix. `None` if there is no such format, or beyond what memory can hold.
pub fn matrix_bytes(dtype: Dtype, layout: Layout, rows: usize, cols: usize) -> Option<usize> {
    let strides = match layout {
        Layout::Rows => rows,
        Layout::Tiles => rows.div_ceil(TILE),
    };
    strides.checked_mul(stride_bytes(dtype, layout, cols)?)
}

/// A borrowed `[rows, cols]` weight matrix in its stored format. `bytes.len()` is what [`matrix_bytes`] says, at any address:
/// kernels assume no alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    dtype: Dtype,
    layout: Layout,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix in [`Layout::Rows`]. `None` if `bytes` has not exactly the right length.
    pub fn new(dtype: Dtype, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        Self::with_layout(dtype, Layout::Rows, rows, cols, bytes)
    }

    /// `None` if `bytes` has not exactly the right length.
    pub fn with_layout(dtype: Dtype, layout: Layout, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let want = matrix_bytes(dtype, layout, rows, cols)?;
        (bytes.len() == want).then_some(Matrix { dtype, layout, rows, cols, bytes })
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// In which order.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Outputs of a linear layer, entries of a table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a linear layer, width of a table.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// As stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Where a tensor's bytes live.
#[derive(Clone, Debug)]
enum Storage {
    /// In place in a file.
    Mapped { file: Arc<Mapped>, offset: usize },
    /// Converted at load, or made in memory. (Not `Arc<[u8]>`: that would copy a matrix once more to share it.)
    Owned(Arc<Vec<u8>>),
    /// The same, gathered with others ([`Tensor::gather`]).
    Gathered { memory: Arc<Mapped>, offset: usize },
}

/// A `[rows, cols]` weight matrix that owns (a share of) its bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: Dtype,
    layout: Layout,
    rows: usize,
    cols: usize,
    size: usize,
    storage: Storage,
}

impl Tensor {
    /// A tensor in place in `file`, from byte `offset` on. `None` if it does not lie inside the file.
    pub fn mapped(file: Arc<Mapped>, offset: usize, dtype: Dtype, layout: Layout, rows: usize, cols: usize) -> Option<Self> {
        let size = matrix_bytes(dtype, layout, rows, cols)?;
        (offset.checked_add(size)? <= file.bytes().len()).then_some(Tensor {
            dtype,
            layout,
            rows,
            cols,
            size,
            storage: Storage::Mapped { file, offset },
        })
    }

    /// A tensor in memory of its own. `None` if `bytes` has not the right length.
    pub fn owned(dtype: Dtype, layout: Layout, rows: usize, cols: usize, bytes: Vec<u8>) -> Option<Self> {
        Matrix::with_layout(dtype, layout, rows, cols, &bytes)?;
        Some(Tensor { dtype, layout, rows, cols, size: bytes.len(), storage: Storage::Owned(Arc::new(bytes)) })
    }

    /// Moves those of the tensors that have memory of their own into one piece of memory with huge pages.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn gather(tensors: &mut [&mut Tensor]) -> Result<()> {
        // An empty vector stays behind, so that nothing but the list holds a part.
        let take = |tensor: &mut Tensor| match &mut tensor.storage {
            Storage::Owned(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        };
        let (mut owners, parts): (Vec<_>, Vec<_>) = tensors.iter_mut().filter_map(|t| take(t).map(|part| (t, part))).unzip();
        if parts.is_empty() {
            return Ok(());
        }
        let (memory, offsets) = Mapped::gather(parts)?;
        let memory = Arc::new(memory);
        for (tensor, offset) in owners.iter_mut().zip(offsets) {
            tensor.storage = Storage::Gathered { memory: memory.clone(), offset };
        }
        Ok(())
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// In which order.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Outputs of a linear layer, entries of a table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a linear layer, width of a table.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the whole tensor.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that only this tensor (and its clones) holds in memory.
    pub(crate) fn owned_bytes(&self) -> usize {
        if let Storage::Owned(bytes) = &self.storage {
            bytes.len()
        } else {
            0
        }
    }

    /// Is it used in place, without a copy?
    pub fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped { .. })
    }

    /// To read it.
    #[expect(clippy::indexing_slicing, reason = "checked when it was made; the memory does not change")]
    pub fn matrix(&self) -> Matrix<'_> {
        let bytes = match &self.storage {
            Storage::Mapped { file: memory, offset } | Storage::Gathered { memory, offset } => {
                &memory.bytes()[*offset..*offset + self.size]
            }
            Storage::Owned(bytes) => bytes.as_slice(),
        };
        Matrix { dtype: self.dtype, layout: self.layout, rows: self.rows, cols: self.cols, bytes }
    }
}
