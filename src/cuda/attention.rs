use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    kept::Kept,
    key_lists::KeyLists,
    ops::Place,
};
use crate::{ffi, Error, Result};

/// Channels of a head that the kernels have room for.
pub(super) const HEAD_DIM_MAX: usize = 256;
/// Heads that a block of threads of the decode kernel serves together.
const DECODE_HEADS: usize = 2;
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

/// Floats that a decode step's partial results take.
pub(super) fn partial_floats(q_heads: usize, head_dim: usize, slots: usize) -> usize {
    q_heads * slots.div_ceil(ffi::DOGE_CUDA_TILE as usize) * (2 + head_dim)
}

impl Device {
    /// Attention of a block's queries over the keys they keep (spec 4.4): `q` and `out` are `[n_rows, q_heads · d]`, `k` and `v`
    /// the block's own `[n_rows, kv_heads · d]`, offered to `kept` before; those that stay are in its arena afterwards. One query
    /// and many give the same bits; rounded, while no key was dropped (kernels/doge_cuda.h).
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
        partial: &mut Buffer<f32>,
        at: &Place,
        shape: AttentionShape,
    ) -> Result<()> {
        let AttentionShape { n_rows, q_heads, scale, rounds } = shape;
        let (d, mask_heads, kv_heads, slots) =
            (kept.shape().head_dim, kept.shape().mask_heads, kept.shape().kv_heads, kept.shape().slots);
        lists.expect(kept)?;
        out.expect("attention: out", n_rows, q_heads * d)?;
        q.expect("attention: q", n_rows, q_heads * d)?;
        k.expect("attention: k", n_rows, kv_heads * d)?;
        v.expect("attention: v", n_rows, kv_heads * d)?;
        expect_len("attention: partial", partial, partial_floats(q_heads, d, slots))?;
        if d > HEAD_DIM_MAX || mask_heads == 0 || q_heads % mask_heads != 0 {
            let why = format!("heads of {d} channels (256 are the most), {q_heads} of them over {mask_heads} masks");
            return Err(Error::BadArgument { what: "attention", why });
        }
        let tiles = kept.shape().tiles();
        let args = ffi::DogeCudaAttentionArgs {
            kept: kept.args(),
            list: lists.args(),
            seen: lists.seen_bits(),
            window: kept.shape().sliding_window.unwrap_or(0) as u32,
            out: out.buffer.ptr_mut(),
            q: q.buffer.ptr(),
            k: k.buffer.ptr(),
            v: v.buffer.ptr(),
            partial: partial.ptr_mut(),
            at: at.ptr().cast(),
            n_rows: n_rows as u32,
            q_heads: q_heads as u32,
            head_dim: d as u32,
            q_stride: q.stride() as u32,
            kv_stride: k.stride() as u32,
            partial_tiles: tiles as u32,
            scale,
        };
        let (wide, heads, table) = (usize::from(d > 128), q_heads / mask_heads, self.table());
        // SAFETY: of all, shapes are as compared above; every row number in the lists is one of the arena or of the block,
        // for the kernels of kept.rs write no others.
        unsafe {
            if rounds {
                let blocks = (n_rows * heads).div_ceil(TENSOR_ROWS);
                self.launch(&table.attention_prefill_tensor[wide], [blocks, mask_heads, 1], &args)?;
                self.kept_commit(kept, lists, (k, v), at, n_rows)
            } else if n_rows == 1 {
                self.launch(&table.attention_decode[wide], [tiles, mask_heads, heads.div_ceil(DECODE_HEADS)], &args)?;
                let commit = kept.commit_args(lists, (k, v), at, 1)?;
                // The keys of a sliding window are in their ring.
                let commits = if kept.shape().sliding_window.is_some() { 0 } else { kv_heads };
                let merge = ffi::DogeCudaDecodeMergeArgs { attention: args, commit };
                self.launch(&table.decode_merge, [q_heads + commits, 1, 1], &merge)
            } else {
                let blocks = (n_rows * heads).div_ceil(PREFILL_ROWS);
                self.launch(&table.attention_prefill[wide], [blocks, mask_heads, 1], &args)?;
                self.kept_commit(kept, lists, (k, v), at, n_rows)
            }
        }
    }
}
