use super::{
    buffer::Rows,
    device::Device,
    kept::{Kept, KeptShape},
    key_lists::KeyLists,
    ops::Place,
};
use crate::{ffi, Error, Result};

/// Channels of a head that the kernels have room for.
pub(super) const HEAD_DIM_MAX: usize = 256;
const PREFILL_ROWS: usize = 8;
const TENSOR_ROWS: usize = 64;

/// The sizes of a call of attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Queries of the block, one a token.
    pub n_rows: usize,
    /// Attention heads; a multiple of the mask heads.
    pub q_heads: usize,
    pub scale: f32,
    /// May q, k, v and the weights of the softmax be rounded to bf16, for the tensor cores?
    pub rounds: bool,
}

impl Device {
    /// Attention of a block's queries over the keys they keep (spec 4.4): `q` and `out` are `[n_rows, q_heads · d]`, `k` and `v`
    /// the block's own `[n_rows, kv_heads · d]`, offered to `kept` before; those that stay are in its arena afterwards. One query
    /// and many give the same bits, those of [`Device::decode_attention`]; rounded, while no key was dropped
    /// (kernels/doge_cuda.h).
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    #[allow(clippy::too_many_arguments, reason = "a kernel's operands")]
    pub(super) fn dynamic_mask_attention(
        &self,
        out: &mut Rows,
        q: &Rows,
        (k, v): (&Rows, &Rows),
        kept: &mut Kept,
        lists: &mut KeyLists,
        at: &Place,
        shape: AttentionShape,
    ) -> Result<()> {
        let args = attention_args(out, q, (k, v), kept, lists, at, shape)?;
        let KeptShape { head_dim, mask_heads, .. } = kept.shape();
        let (wide, rows, table) = (usize::from(head_dim > 128), shape.n_rows * shape.q_heads / mask_heads, self.table());
        let (kernel, rows_at_once) = match shape.rounds {
            true => (&table.attention_prefill_tensor[wide], TENSOR_ROWS),
            false => (&table.attention_prefill[wide], PREFILL_ROWS),
        };
        // SAFETY: shapes are as compared there; every row number in the lists is one of the arena or of the block, for the
        // kernels of kept.rs write no others.
        unsafe { self.launch(kernel, [rows.div_ceil(rows_at_once), mask_heads, 1], &args)? };
        self.kept_commit(kept, lists, (k, v), at, shape.n_rows)
    }
}

/// Of a block's queries, checked.
pub(super) fn attention_args(
    out: &mut Rows,
    q: &Rows,
    (k, v): (&Rows, &Rows),
    kept: &mut Kept,
    lists: &mut KeyLists,
    at: &Place,
    shape: AttentionShape,
) -> Result<ffi::DogeCudaAttentionArgs> {
    let AttentionShape { n_rows, q_heads, scale, .. } = shape;
    let KeptShape { head_dim: d, mask_heads, kv_heads, sliding_window, .. } = kept.shape();
    lists.expect(kept)?;
    out.expect("attention: out", n_rows, q_heads * d)?;
    q.expect("attention: q", n_rows, q_heads * d)?;
    k.expect("attention: k", n_rows, kv_heads * d)?;
    v.expect("attention: v", n_rows, kv_heads * d)?;
    if d > HEAD_DIM_MAX || mask_heads == 0 || q_heads % mask_heads != 0 {
        let why = format!("heads of {d} channels (256 are the most), {q_heads} of them over {mask_heads} masks");
        return Err(Error::BadArgument { what: "attention", why });
    }
    Ok(ffi::DogeCudaAttentionArgs {
        kept: kept.args(),
        list: lists.args(),
        seen: lists.seen_bits(),
        window: sliding_window.unwrap_or(0) as u32,
        out: out.buffer.ptr_mut(),
        q: q.buffer.ptr(),
        k: k.buffer.ptr(),
        v: v.buffer.ptr(),
        at: at.ptr().cast(),
        n_rows: n_rows as u32,
        q_heads: q_heads as u32,
        head_dim: d as u32,
        q_stride: q.stride() as u32,
        kv_stride: k.stride() as u32,
        scale,
    })
}
