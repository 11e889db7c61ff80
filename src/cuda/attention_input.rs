//! From the projections of a block to its attention: mask scores, rotation, and the keys offered to the sets.

use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    kept::Kept,
    key_lists::KeyLists,
    ops::{null, Place},
};
use crate::{ffi, Result};

const WARPS: usize = ffi::DOGE_CUDA_THREADS as usize / 32;

/// Rows of q or k, and the weight of their norm.
pub(super) struct Heads<'a> {
    pub rows: &'a mut Rows,
    pub heads: usize,
    pub norm: Option<&'a Buffer<f32>>,
}

impl Heads<'_> {
    pub fn reborrow(&mut self) -> Heads<'_> {
        Heads { rows: self.rows, heads: self.heads, norm: self.norm }
    }
}

/// What the mask score of a key is made with (spec 4.4).
pub struct MaskScore<'a> {
    /// `[M, nkv · d]`
    pub dt_weight: &'a Rows,
    /// `[M]`
    pub bias: Option<&'a Buffer<f32>>,
    /// `[M]`
    pub a: &'a Buffer<f32>,
}

/// The rotation of a block: row 0 of `cos` and `sin`, `[.., d / 2]`, is for the place that `at` names as the tables' own.
pub(super) struct Rotation<'a> {
    pub cos: &'a Buffer<f32>,
    pub sin: &'a Buffer<f32>,
    pub at: &'a Place,
    pub head_dim: usize,
    /// Of the norm of q and k.
    pub eps: f32,
}

impl Device {
    /// `mask = s(v)`, `q` and `k` normed where there is a weight and rotated (spec 4.2 to 4.4), and the block's keys offered to
    /// the sets; afterwards `lists` is what the block's queries see.
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for shapes that do not fit, [`crate::Error::Device`].
    #[allow(clippy::too_many_arguments, reason = "three kernels' operands")]
    pub(super) fn attention_input(
        &self,
        mask: &mut Buffer<f32>,
        score: &MaskScore<'_>,
        mut q: Heads<'_>,
        mut k: Heads<'_>,
        v: &Rows,
        rotation: &Rotation<'_>,
        kept: &mut Kept,
        lists: &mut KeyLists,
        n_rows: usize,
    ) -> Result<()> {
        let rope = rope_args(&mut q, &mut k, rotation, n_rows)?;
        let rope_blocks = (n_rows * (q.heads + k.heads)).div_ceil(WARPS);
        self.mask_score(mask, score, v, n_rows)?;
        // SAFETY: shapes as compared above; the sequence keeps `at` inside the tables it uploaded.
        unsafe { self.launch(&self.table().rope, [rope_blocks, 1, 1], &rope)? };
        self.kept_offer(kept, lists, (k.rows, v), mask, rotation.at, n_rows)
    }

    /// `out[r][m] = exp(A[m] · softplus(dt_weight[m] · v[r] (+ bias[m])))` (spec 4.4). `out` is `[rows, M]` without padding.
    ///
    /// # Errors
    /// [`crate::Error::BadArgument`] for shapes that do not fit, [`crate::Error::Device`].
    pub fn mask_score(&self, out: &mut Buffer<f32>, score: &MaskScore<'_>, v: &Rows, n_rows: usize) -> Result<()> {
        let args = mask_score_args(out, score, v, n_rows)?;
        let blocks = (n_rows * score.dt_weight.rows()).div_ceil(WARPS);
        // SAFETY: shapes as compared there; v and dt_weight have one stride.
        unsafe { self.launch(&self.table().mask_score, [blocks, 1, 1], &args) }
    }
}

pub(super) fn mask_score_args(
    out: &mut Buffer<f32>,
    s: &MaskScore<'_>,
    v: &Rows,
    n_rows: usize,
) -> Result<ffi::DogeCudaMaskScoreArgs> {
    let heads = s.dt_weight.rows();
    v.expect("mask_score: v", n_rows, s.dt_weight.cols())?;
    expect_len("mask_score: out", out, n_rows * heads)?;
    expect_len("mask_score: A", s.a, heads)?;
    if let Some(bias) = s.bias {
        expect_len("mask_score: bias", bias, heads)?;
    }
    Ok(ffi::DogeCudaMaskScoreArgs {
        out: out.ptr_mut(),
        dt_weight: s.dt_weight.buffer.ptr(),
        bias: null(s.bias),
        A: s.a.ptr(),
        v: v.buffer.ptr(),
        n_rows: n_rows as u32,
        n_heads: heads as u32,
        v_stride: v.stride() as u32,
    })
}

pub(super) fn rope_args(
    q: &mut Heads<'_>,
    k: &mut Heads<'_>,
    rotation: &Rotation<'_>,
    n_rows: usize,
) -> Result<ffi::DogeCudaRopeArgs> {
    let Rotation { cos, sin, at, head_dim, eps } = *rotation;
    for side in [&*q, &*k] {
        side.rows.expect("rope: rows", n_rows, side.heads * head_dim)?;
        if let Some(norm) = side.norm {
            expect_len("rope: norm", norm, head_dim)?;
        }
    }
    expect_len("rope: cos", cos, n_rows * head_dim / 2)?;
    expect_len("rope: sin", sin, cos.len())?;
    Ok(ffi::DogeCudaRopeArgs {
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
        q_stride: q.rows.stride() as u32,
        k_stride: k.rows.stride() as u32,
        eps,
    })
}
