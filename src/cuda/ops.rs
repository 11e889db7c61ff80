//! The safe doors to the kernels that have no room of their own: shapes checked, one launch each.

use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    linear::DeviceMatrix,
};
use crate::{ffi, ops::Routing, Activation, Error, Layout, Result};

/// Where a sequence stands, in device memory.
pub(super) type Place = Buffer<u32>;
/// Words of [`ffi::DogeCudaPlace`].
pub(super) const PLACE_WORDS: usize = size_of::<ffi::DogeCudaPlace>() / 4;

const WARPS: usize = ffi::DOGE_CUDA_THREADS as usize / 32;

fn null<T: super::buffer::Element>(buffer: Option<&Buffer<T>>) -> *const T {
    buffer.map_or(std::ptr::null(), Buffer::ptr)
}

/// The gated residual before a norm: `x = gate · x + branch`.
pub struct Residual<'a> {
    pub gate: &'a Buffer<f32>,
    pub branch: &'a Rows,
}

/// Rows of q or k, and the weight of their norm.
pub struct Heads<'a> {
    pub rows: &'a mut Rows,
    pub heads: usize,
    pub norm: Option<&'a Buffer<f32>>,
}

/// What [`Device::experts`] reads and writes beside the stream.
pub struct Experts<'a> {
    pub router: &'a Rows,
    pub down_embed: &'a DeviceMatrix,
    pub up_embed: &'a DeviceMatrix,
    pub num_keys: usize,
    pub top: usize,
    pub routing: Routing,
    pub act: Activation,
    /// `[rows, top]`: the experts chosen, ascending, and their weights.
    pub expert: &'a mut Buffer<u32>,
    pub weight: &'a mut Buffer<f32>,
}

impl Device {
    /// `out[r] = table[ids[r]]` (spec 3). Ids beyond the table are the caller's to refuse.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn embed(&self, out: &mut Rows, table: &DeviceMatrix, ids: &Buffer<u32>, n_rows: usize) -> Result<()> {
        out.expect("embed: out", n_rows, table.cols())?;
        expect_len("embed: ids", ids, n_rows)?;
        let args = ffi::DogeCudaEmbedArgs {
            out_stride: out.stride() as u32,
            out: out.buffer.ptr_mut(),
            table: table.bytes.ptr().cast(),
            ids: ids.ptr(),
            stride_bytes: table.stride_bytes,
            n_rows: n_rows as u32,
            cols: table.cols() as u32,
        };
        // SAFETY: shapes as compared above; ids are checked before they get to the device, or chosen by argmax over the vocabulary.
        unsafe { self.launch(&self.table().embed[table.dtype as usize], [n_rows, 1, 1], &args) }
    }

    /// `out = rms_norm(x)`, after `x = gate · x + branch` where there is a residual (spec 3, 4.1).
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn rms_norm(
        &self,
        out: &mut Rows,
        x: &mut Rows,
        residual: Option<Residual<'_>>,
        weight: &Buffer<f32>,
        eps: f32,
        n_rows: usize,
    ) -> Result<()> {
        let cols = x.cols();
        x.expect("rms_norm: x", n_rows, cols)?;
        out.expect("rms_norm: out", n_rows, cols)?;
        expect_len("rms_norm: weight", weight, cols)?;
        let (mut gate, mut branch) = (std::ptr::null(), std::ptr::null());
        if let Some(residual) = &residual {
            expect_len("rms_norm: gate", residual.gate, cols)?;
            residual.branch.expect("rms_norm: branch", n_rows, cols)?;
            (gate, branch) = (residual.gate.ptr(), residual.branch.buffer.ptr());
        }
        let args = ffi::DogeCudaNormArgs {
            out: out.buffer.ptr_mut(),
            stride: x.stride() as u32,
            x: x.buffer.ptr_mut(),
            gate,
            branch,
            weight: weight.ptr(),
            n_rows: n_rows as u32,
            cols: cols as u32,
            eps,
        };
        // SAFETY: all rows have `cols` columns and one stride, vectors `cols` elements.
        unsafe { self.launch(&self.table().rms_norm, [n_rows, 1, 1], &args) }
    }

    /// The norm of q and k where there is one, and their rotation (spec 4.2, 4.3). Row 0 of `cos` and `sin`, `[.., d / 2]`, is
    /// for the place that `at` names; the rows of the block follow it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    #[allow(clippy::too_many_arguments, reason = "two sides, two tables")]
    pub(super) fn rope(
        &self,
        q: Heads<'_>,
        k: Heads<'_>,
        cos: &Buffer<f32>,
        sin: &Buffer<f32>,
        at: &Place,
        head_dim: usize,
        eps: f32,
        n_rows: usize,
    ) -> Result<()> {
        for side in [&q, &k] {
            side.rows.expect("rope: rows", n_rows, side.heads * head_dim)?;
            if let Some(norm) = side.norm {
                expect_len("rope: norm", norm, head_dim)?;
            }
        }
        expect_len("rope: cos", cos, n_rows * head_dim / 2)?;
        expect_len("rope: sin", sin, cos.len())?;
        let args = ffi::DogeCudaRopeArgs {
            q_stride: q.rows.stride() as u32,
            k_stride: k.rows.stride() as u32,
            q: q.rows.buffer.ptr_mut(),
            k: k.rows.buffer.ptr_mut(),
            q_weight: null(q.norm),
            k_weight: null(k.norm),
            cos: cos.ptr(),
            sin: sin.ptr(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
            q_heads: q.heads as u32,
            k_heads: k.heads as u32,
            head_dim: head_dim as u32,
            eps,
        };
        // SAFETY: shapes as compared above; the sequence keeps `at` inside the tables it uploaded.
        unsafe { self.launch(&self.table().rope, [(n_rows * (q.heads + k.heads)).div_ceil(WARPS), 1, 1], &args) }
    }

    /// `out[r][m] = exp(A[m] · softplus(dt_weight[m] · v[r] (+ bias[m])))` (spec 4.4). `out` is `[rows, M]` without padding.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn mask_score(
        &self,
        out: &mut Buffer<f32>,
        dt_weight: &Rows,
        bias: Option<&Buffer<f32>>,
        a: &Buffer<f32>,
        v: &Rows,
        n_rows: usize,
    ) -> Result<()> {
        let heads = dt_weight.rows();
        v.expect("mask_score: v", n_rows, dt_weight.cols())?;
        expect_len("mask_score: out", out, n_rows * heads)?;
        expect_len("mask_score: A", a, heads)?;
        if let Some(bias) = bias {
            expect_len("mask_score: bias", bias, heads)?;
        }
        let args = ffi::DogeCudaMaskScoreArgs {
            out: out.ptr_mut(),
            dt_weight: dt_weight.buffer.ptr(),
            bias: null(bias),
            A: a.ptr(),
            v: v.buffer.ptr(),
            n_rows: n_rows as u32,
            n_heads: heads as u32,
            v_stride: v.stride() as u32,
        };
        // SAFETY: shapes as compared above; v and dt_weight have one stride.
        unsafe { self.launch(&self.table().mask_score, [(n_rows * heads).div_ceil(WARPS), 1, 1], &args) }
    }

    /// `gate = act(gate) · up` (spec 4.5).
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn gated_activation(&self, gate: &mut Rows, up: &Rows, act: Activation, n_rows: usize) -> Result<()> {
        gate.expect("gated_activation: gate", n_rows, up.cols())?;
        up.expect("gated_activation: up", n_rows, up.cols())?;
        let n = n_rows * up.stride();
        let args = ffi::DogeCudaGatedArgs { gate: gate.buffer.ptr_mut(), up: up.buffer.ptr(), n, act: act as u32 };
        // SAFETY: both hold n floats.
        unsafe { self.launch(&self.table().gated_activation, [n.div_ceil(ffi::DOGE_CUDA_THREADS as usize), 1, 1], &args) }
    }

    /// Chooses each row's experts and adds what they say of `x` to `y` (spec 4.6, 6).
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn experts(&self, y: &mut Rows, x: &Rows, e: Experts<'_>, n_rows: usize) -> Result<()> {
        let (keys, top, cols) = (e.num_keys, e.top, x.cols());
        y.expect("experts: y", n_rows, cols)?;
        x.expect("experts: x", n_rows, cols)?;
        e.router.expect("experts: router", n_rows, 2 * keys)?;
        expect_len("experts: expert", e.expert, n_rows * top)?;
        expect_len("experts: weight", e.weight, n_rows * top)?;
        check_router(keys, top)?;
        for table in [e.down_embed, e.up_embed] {
            let fits = table.cols() == cols && table.rows() >= keys * keys && table.layout == Layout::Rows;
            if !fits || table.dtype != e.down_embed.dtype {
                let why = "the tables are not both [experts, cols], in rows, of one format".into();
                return Err(Error::BadArgument { what: "experts: embed", why });
            }
        }
        let args = ffi::DogeCudaExpertsArgs {
            y: y.buffer.ptr_mut(),
            x: x.buffer.ptr(),
            router: e.router.buffer.ptr(),
            down_embed: e.down_embed.bytes.ptr().cast(),
            up_embed: e.up_embed.bytes.ptr().cast(),
            expert: e.expert.ptr_mut(),
            weight: e.weight.ptr_mut(),
            stride_bytes: e.down_embed.stride_bytes,
            n_rows: n_rows as u32,
            cols: cols as u32,
            x_stride: x.stride() as u32,
            router_stride: e.router.stride() as u32,
            n_keys: keys as u32,
            n_top: top as u32,
            act: e.act as u32,
            reference_routing: u32::from(e.routing == Routing::Reference),
        };
        // SAFETY: shapes as compared above; an expert's id is below keys², the tables have as many rows.
        unsafe { self.launch(&self.table().experts[e.down_embed.dtype as usize], [n_rows, 1, 1], &args) }
    }

    /// The likeliest token becomes `ids[0]` and `chosen[step]`, and the sequence moves on; see kernels/doge_cuda.h.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub(super) fn argmax(
        &self,
        logits: &Rows,
        ids: &mut Buffer<u32>,
        chosen: &mut Buffer<u32>,
        eos: &Buffer<u32>,
        n_eos: usize,
        at: &mut Place,
    ) -> Result<()> {
        logits.expect("argmax: logits", 1, logits.cols())?;
        expect_len("argmax: ids", ids, 1)?;
        expect_len("argmax: eos", eos, n_eos)?;
        let args = ffi::DogeCudaArgmaxArgs {
            logits: logits.buffer.ptr(),
            ids: ids.ptr_mut(),
            chosen: chosen.ptr_mut(),
            eos: eos.ptr(),
            at: at.ptr_mut().cast(),
            n: logits.cols() as u32,
            n_eos: n_eos as u32,
        };
        // SAFETY: shapes as compared above; a run has no more steps than `chosen` has room (Sequence::decode).
        unsafe { self.launch(&self.table().argmax, [1, 1, 1], &args) }
    }
}

/// An error if the router is larger than the kernel's tables.
pub(super) fn check_router(keys: usize, top: usize) -> Result<()> {
    let pairs: usize = (1..=top.min(keys)).map(|a| (top / a).min(keys)).sum();
    let fits = keys <= ffi::DOGE_CUDA_KEYS_MAX as usize && top <= ffi::DOGE_CUDA_TOP_MAX as usize;
    if fits && top >= 1 && top <= keys * keys && pairs <= ffi::DOGE_CUDA_PAIRS_MAX as usize {
        return Ok(());
    }
    Err(Error::UnsupportedOnDevice {
        what: format!("a router with {keys} keys that chooses {top} experts"),
        why: "the kernel has room for 256 of each; use --device cpu".into(),
    })
}
