//! How to load, and how a session runs.

use crate::{dtype::Float, ops::Routing, Dtype};

/// How to load. Made by `LoadOptions::default()` and the methods of the fields' names.
///
/// ```
/// use doge_engine::{model::LoadOptions, Dtype};
///
/// let options = LoadOptions::default().dtype(Dtype::Bf16).mmap(false);
/// assert!(options.check_finite);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Convert the big matrices to this format, rounding to nearest even; `None` (default) leaves them as stored and in
    /// place. Small tensors (norms, gates, biases, A, dt_proj, the router) are f32 in any case.
    pub dtype: Option<Dtype>,
    /// Map the files (default) rather than read them. See [`crate::mapped::Mapped::open`] for what that asks of them.
    pub mmap: bool,
    /// Refuse NaN and infinities in any weight (default). Reads every byte once, on all cores.
    pub check_finite: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { dtype: None, mmap: true, check_finite: true }
    }
}

impl LoadOptions {
    /// Sets [`LoadOptions::dtype`].
    pub fn dtype(self, dtype: impl Into<Option<Dtype>>) -> Self {
        LoadOptions { dtype: dtype.into(), ..self }
    }

    /// Sets [`LoadOptions::mmap`].
    pub fn mmap(self, mmap: bool) -> Self {
        LoadOptions { mmap, ..self }
    }

    /// Sets [`LoadOptions::check_finite`].
    pub fn check_finite(self, check_finite: bool) -> Self {
        LoadOptions { check_finite, ..self }
    }
}

/// How a session runs. Made by `SessionOptions::default()`, which is what most people want, and the methods of the fields'
/// names.
///
/// ```
/// use doge_engine::model::SessionOptions;
///
/// let options = SessionOptions::default().ctx_size(4096);
/// assert_eq!((options.ctx_size, options.block), (4096, None));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Tokens the sequence may have. The state is bounded by `keep_window_size` however long it gets; this is a limit for
    /// those who want one. Default: none but the 2³² places of a sequence.
    pub ctx_size: usize,
    /// Tokens of a prompt that go through the layers together. The results do not depend on it, but in their last digits past
    /// the window, on a device with bf16 activations (docs/cuda.md, "Numbers"). `None` (default): 256 on the CPU, 1024 on a
    /// device, where that is also the most.
    pub block: Option<usize>,
    /// Default: [`Routing::PerToken`].
    pub routing: Routing,
    /// How K and V of the kept keys are stored; they are rounded to nearest even, and all arithmetic stays f32. Far into a
    /// text they are most of what a token reads, so 16 bits are up to twice as fast. Default: [`Float::F32`], exact.
    pub kv_dtype: Float,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { ctx_size: MAX_TOKENS, block: None, routing: Routing::PerToken, kv_dtype: Float::F32 }
    }
}

/// Places are 32 bits wide, and the last one means "never".
pub(super) const MAX_TOKENS: usize = u32::MAX as usize - 1;

impl SessionOptions {
    /// Sets [`SessionOptions::ctx_size`].
    pub fn ctx_size(self, ctx_size: usize) -> Self {
        SessionOptions { ctx_size, ..self }
    }

    /// Sets [`SessionOptions::block`].
    pub fn block(self, block: usize) -> Self {
        SessionOptions { block: Some(block), ..self }
    }

    /// [`SessionOptions::block`] where nothing runs on a device.
    pub(crate) fn block_on_cpu(&self) -> usize {
        self.block.unwrap_or(256)
    }

    /// Sets [`SessionOptions::routing`].
    pub fn routing(self, routing: Routing) -> Self {
        SessionOptions { routing, ..self }
    }

    /// Sets [`SessionOptions::kv_dtype`].
    pub fn kv_dtype(self, kv_dtype: Float) -> Self {
        SessionOptions { kv_dtype, ..self }
    }
}
