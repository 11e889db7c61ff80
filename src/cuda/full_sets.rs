//! Attention by itself: one layer's sets, as full as they get, and the last block's queries over them.

use super::{
    attention::AttentionShape,
    attention_input::{Heads, Rotation},
    buffer::{Buffer, Rows},
    decode_attention::{DecodeRoom, DecodeSizes, MaskValues, Token},
    device::Device,
    kept::{Kept, KeptShape},
    key_lists::{KeyLists, ListSizes},
    made::Made,
    ops::{Place, PLACE_WORDS},
    window::ring_rows,
};
use crate::{ffi, Error, Result};

const BLOCK: usize = ffi::DOGE_CUDA_BLOCK as usize;

/// The sizes of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// nq: a multiple of M.
    pub q_heads: usize,
    /// M: a multiple of nkv.
    pub mask_heads: usize,
    /// nkv
    pub kv_heads: usize,
    /// d
    pub head_dim: usize,
    /// Keys that a query attends to at most.
    pub keep_window_size: usize,
    /// Keys that it may choose them from: the last so many, or all.
    pub sliding_window: Option<usize>,
}

/// One layer's state after a prompt, and what its last queries ask.
#[derive(Debug)]
pub struct FullSets {
    kept: Kept,
    lists: KeyLists,
    q: Rows,
    k: Rows,
    v: Rows,
    /// Of the last block: [rows, M]
    mask: Buffer<f32>,
    out: Rows,
    at: Place,
    shape: AttentionShape,
    /// For the kernel that takes a single token: the rotation that does nothing, and where its blocks meet.
    token: Option<(Buffer<f32>, Buffer<f32>, DecodeRoom)>,
}

impl FullSets {
    /// `k` and `v` are `[keys, nkv · d]`, `mask` is `[keys, M]`; `q` is `[rows, nq · d]`, the queries of the last `rows` places. They
    /// go to tensor cores if everything that is multiplied may be rounded to bf16 (`rounds`); else a single one is a decode step's.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit; [`Error::OutOfMemory`], [`Error::Device`].
    pub fn new(
        device: &Device,
        shape: LayerShape,
        rounds: bool,
        q: &[f32],
        (k, v): (&[f32], &[f32]),
        mask: &[f32],
    ) -> Result<Self> {
        let LayerShape { q_heads, mask_heads, kv_heads, head_dim, keep_window_size, sliding_window } = shape;
        let (q_cols, kv_cols) = (q_heads * head_dim, kv_heads * head_dim);
        let (keys, q) = (mask.len().checked_div(mask_heads).unwrap_or(0), Rows::from_slice(device, q_cols, q)?);
        let rows = q.rows();
        if rows == 0
            || rows > BLOCK.min(keys)
            || k.len() != keys * kv_cols
            || v.len() != k.len()
            || mask.len() != keys * mask_heads
        {
            let why = format!("{rows} queries over {keys} keys of {} and {} numbers; {shape:?}", k.len(), v.len());
            return Err(Error::BadArgument { what: "full sets", why });
        }
        let slots = sliding_window.map_or(keys.min(keep_window_size), |window| ring_rows(window, keys));
        let kept = KeptShape { mask_heads, kv_heads, head_dim, slots, keep_window_size, sliding_window };
        let block = |x: &[f32], begin: usize, end: usize| Rows::from_slice(device, kv_cols, &x[begin * kv_cols..end * kv_cols]);
        let token = || {
            let (cos, sin) = (vec![1.0; head_dim / 2], vec![0.0; head_dim / 2]);
            let room = DecodeRoom::make(device, DecodeSizes { q_heads, kept })?;
            Ok::<_, Error>((Buffer::from_slice(device, &cos)?, Buffer::from_slice(device, &sin)?, room))
        };
        let mut sets = FullSets {
            kept: Kept::new(device, kept)?,
            lists: KeyLists::make(device, ListSizes { kept, rows: BLOCK })?,
            out: Rows::zeros(device, rows, q_cols)?,
            q,
            k: block(k, 0, 0)?,
            v: block(v, 0, 0)?,
            mask: Buffer::zeros(device, 0)?,
            at: Buffer::zeros(device, PLACE_WORDS)?,
            shape: AttentionShape { n_rows: rows, q_heads, scale: (head_dim as f32).powf(-0.5), rounds },
            token: (rows == 1 && !rounds).then(token).transpose()?,
        };
        let mut begin = 0;
        while begin < keys {
            // The queries' own block is the last one, and is not in the arena yet.
            let before = keys - rows;
            let end = if begin < before { before.min(begin + BLOCK) } else { keys };
            (sets.k, sets.v) = (block(k, begin, end)?, block(v, begin, end)?);
            sets.mask = Buffer::from_slice(device, &mask[begin * mask_heads..end * mask_heads])?;
            // A decode step offers its key itself; the run has stopped, so that it leaves the state as it is.
            let is_token = end == keys && sets.token.is_some() && sliding_window.is_none();
            let words = [begin as u32, begin as u32, 0, 0, u32::from(is_token)];
            sets.at.write(0, &words)?;
            device.synchronize()?; // the words live until the next turn
            let FullSets { kept, lists, k, v, mask, at, .. } = &mut sets;
            if !is_token {
                device.kept_offer(kept, lists, (k, v), mask, at, end - begin)?;
            }
            if end < keys {
                device.kept_commit(kept, lists, (k, v), at, end - begin)?;
            }
            begin = end;
        }
        Ok(sets)
    }

    /// The queries' attention; see [`FullSets::out`]. Of more than one query, again and again only while all keys are kept: the
    /// block's own keys then stand where dropped ones stood.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn run(&mut self, device: &Device) -> Result<()> {
        let FullSets { kept, lists, q, k, v, mask, out, at, shape, token } = self;
        let Some((cos, sin, room)) = token else {
            return device.dynamic_mask_attention(out, q, (k, v), kept, lists, at, *shape);
        };
        let KeptShape { kv_heads, head_dim, .. } = kept.shape();
        let rotation = Rotation { cos, sin, at, head_dim, eps: 0.0 };
        let (q, k) = (Heads { rows: q, heads: shape.q_heads, norm: None }, Heads { rows: k, heads: kv_heads, norm: None });
        let token = Token { out, mask, values: MaskValues::Given, q, k, v };
        device.decode_attention(token, &rotation, kept, lists, room, shape.scale)
    }

    /// `[rows, nq · d]`
    pub fn out(&self) -> &Rows {
        &self.out
    }
}
