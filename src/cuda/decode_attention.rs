//! Everything between the projections of a single token: mask score, rotation, attention, and the key's way into the state.

use super::{
    attention::{attention_args, AttentionShape},
    attention_input::{mask_score_args, rope_args, Heads, MaskScore, Rotation},
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    kept::{Kept, KeptShape},
    key_lists::KeyLists,
    made::made,
};
use crate::{ffi, Error, Result};

/// What shapes a [`DecodeRoom`].
#[derive(Clone, Copy, Debug)]
pub struct DecodeSizes {
    pub q_heads: usize,
    pub kept: KeptShape,
}

made! {
    /// Where the blocks of a launch meet.
    #[derive(Debug)]
    pub struct DecodeRoom(z: DecodeSizes) {
        /// [nq][tiles][2 + d]
        partial: Buffer<f32> = z.q_heads * z.kept.tiles() * (2 + z.kept.head_dim),
        /// [nq + nkv]
        arrived: Buffer<u32> = z.q_heads + z.kept.kv_heads,
    }
}

/// A token's key's mask values.
pub(super) enum MaskValues<'a> {
    /// To be made.
    Score(MaskScore<'a>),
    /// There already.
    Given,
}

/// A token's q, k and v as the projections left them, its mask values, and where attention puts what it makes.
pub(super) struct Token<'a> {
    pub out: &'a mut Rows,
    pub mask: &'a mut Buffer<f32>,
    pub values: MaskValues<'a>,
    pub q: Heads<'a>,
    pub k: Heads<'a>,
    pub v: &'a Rows,
}

impl Device {
    /// Attention of one token over the keys it keeps, its own among them (spec 4.2 to 4.4): `q`, `k` and `v` as the projections
    /// left them, `[1, heads · d]`. Afterwards `mask` is its `[M]` mask values, and the key is in the sets and the arena, unless
    /// the run has stopped. In a ring `q` was rotated and the key added before ([`Device::attention_input`]).
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub(super) fn decode_attention(
        &self,
        token: Token<'_>,
        rotation: &Rotation<'_>,
        kept: &mut Kept,
        lists: &mut KeyLists,
        room: &mut DecodeRoom,
        scale: f32,
    ) -> Result<()> {
        let (KeptShape { head_dim, mask_heads, .. }, q_heads) = (kept.shape(), token.q.heads);
        let args = decode_args(token, rotation, kept, lists, room, scale)?;
        let kernel = &self.table().attention_decode[usize::from(head_dim > 128)];
        let groups = (q_heads / mask_heads).div_ceil(ffi::DOGE_CUDA_DECODE_HEADS as usize);
        // SAFETY: shapes are as compared here and in the functions that made the parts; a slot's row is one of the arena, for the
        // kernels of kept.rs and this one write no others.
        unsafe { self.launch(kernel, [args.tiles as usize, mask_heads, groups], &args) }
    }
}

/// Checked.
pub(super) fn decode_args(
    token: Token<'_>,
    rotation: &Rotation<'_>,
    kept: &mut Kept,
    lists: &mut KeyLists,
    room: &mut DecodeRoom,
    scale: f32,
) -> Result<ffi::DogeCudaDecodeArgs> {
    let Token { out, mask, values, mut q, mut k, v } = token;
    let KeptShape { head_dim, mask_heads, kv_heads, .. } = kept.shape();
    let (q_heads, tiles) = (q.heads, kept.shape().tiles());
    let score = match values {
        MaskValues::Score(score) if score.dt_weight.rows() != mask_heads => {
            let why = format!("{} heads have weights, {mask_heads} have sets", score.dt_weight.rows());
            return Err(Error::BadArgument { what: "mask_score", why });
        }
        MaskValues::Score(score) => mask_score_args(mask, &score, v, 1)?,
        MaskValues::Given => {
            expect_len("attention: mask", mask, mask_heads)?;
            // Nothing is read but `out`.
            let none = std::ptr::null();
            ffi::DogeCudaMaskScoreArgs {
                out: mask.ptr_mut(),
                dt_weight: none,
                bias: none,
                A: none,
                v: none,
                n_rows: 1,
                n_heads: 0,
                v_stride: 0,
            }
        }
    };
    let rope = rope_args(&mut q, &mut k, rotation, 1)?;
    if k.heads != kv_heads || rotation.head_dim != head_dim {
        let why = format!("{} heads of {} channels, {kv_heads} of {head_dim} are kept", k.heads, rotation.head_dim);
        return Err(Error::BadArgument { what: "attention: k", why });
    }
    let shape = AttentionShape { n_rows: 1, q_heads, scale, rounds: false };
    let attention = attention_args(out, q.rows, (k.rows, v), kept, lists, rotation.at, shape)?;
    if (room.sizes.q_heads, room.sizes.kept) != (q_heads, kept.shape()) {
        let why = format!("is for {:?}, not {q_heads} heads over {:?}", room.sizes, kept.shape());
        return Err(Error::BadArgument { what: "attention: room", why });
    }
    Ok(ffi::DogeCudaDecodeArgs {
        attention,
        score,
        rope,
        partial: room.partial.ptr_mut(),
        arrived: room.arrived.ptr_mut(),
        mark: lists.mark.ptr_mut(),
        tiles: tiles as u32,
    })
}
