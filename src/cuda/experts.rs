//! The router and the routed experts of a layer (spec 4.6, 6), one launch.

use super::{
    buffer::{expect_len, padded, Buffer, Rows},
    device::Device,
    made::{made, Made},
    matrix::DeviceMatrix,
};
use crate::{ffi, ops::Routing, Activation, Error, Layout, Result};

const GROUPS: usize = ffi::DOGE_CUDA_EXPERT_GROUPS as usize;
/// Rows of a call that get a block of threads for each group of their experts: as many as a large GPU has multiprocessors for. Of
/// more rows each gets one block, with the same bits.
const SPREAD_ROWS: usize = 16;

/// What shapes an [`ExpertRoom`].
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Of the longest call.
    pub rows: usize,
    /// hidden_size
    pub cols: usize,
    /// Of a side: the experts are their pairs.
    pub num_keys: usize,
    /// Experts chosen for a token.
    pub top: usize,
}

impl ExpertSizes {
    fn spread_rows(&self) -> usize {
        self.rows.min(SPREAD_ROWS)
    }
}

made! {
    /// Where the blocks of a launch meet, and which ranks of the two sides they look at.
    #[derive(Debug)]
    pub struct ExpertRoom(z: ExpertSizes) {
        /// [rows, groups, cols], of rows that are spread
        partial: Buffer<f32> = z.spread_rows() * GROUPS * padded(z.cols),
        /// [rows], of rows that are spread
        arrived: Buffer<u32> = z.spread_rows(),
        pairs: RankPairs = (z.num_keys, z.top),
    }
}

impl ExpertRoom {
    /// # Errors
    /// As [`Buffer::zeros`].
    pub fn new(device: &Device, sizes: ExpertSizes) -> Result<Self> {
        Self::make(device, sizes)
    }
}

/// Ranks that can be among the best, of both sides: see `kernels/cuda/router.h`.
#[derive(Debug)]
struct RankPairs(Buffer<u32>);

/// `a << 16 | b`, from 0, with `(a + 1)(b + 1) <= top`, ascending by that product.
fn rank_pairs((keys, top): (usize, usize)) -> Vec<u32> {
    let of_product = |product: usize| {
        let divides = move |a: &usize| product % a == 0 && product / a <= keys;
        (1..=product.min(keys)).filter(divides).map(move |a| ((a - 1) << 16 | (product / a - 1)) as u32)
    };
    (1..=top).flat_map(of_product).collect()
}

impl Made for RankPairs {
    /// Keys of a side, and how many experts are chosen.
    type Size = (usize, usize);
    fn make(device: &Device, size: Self::Size) -> Result<Self> {
        Ok(RankPairs(Buffer::from_slice(device, &rank_pairs(size))?))
    }
    fn bytes_of(size: Self::Size) -> u128 {
        4 * rank_pairs(size).len() as u128
    }
}

/// What [`Device::experts`] reads and writes beside the stream.
pub struct Experts<'a> {
    /// `[rows, 2 · num_keys]`: the logits of both sides.
    pub router: &'a Rows,
    /// `[num_experts, cols]`
    pub down_embed: &'a DeviceMatrix,
    /// `[num_experts, cols]`
    pub up_embed: &'a DeviceMatrix,
    /// Whose logits a token's experts are chosen by.
    pub routing: Routing,
    /// Of the dot products with `down_embed`.
    pub act: Activation,
    /// `[rows, top]`: the experts chosen, ascending.
    pub expert: &'a mut Buffer<u32>,
    /// `[rows, top]`: their weights.
    pub weight: &'a mut Buffer<f32>,
    /// The stream that the result is added to as the branch of the gated residual, and its gate; or none.
    pub stream: Option<(&'a mut Rows, &'a Buffer<f32>)>,
    /// Says how many keys a side has, and how many experts are chosen.
    pub room: &'a mut ExpertRoom,
}

impl Device {
    /// Chooses each row's experts and adds what they say of `x` to `y` (spec 4.6, 6).
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn experts(&self, y: &mut Rows, x: &Rows, e: Experts<'_>, n_rows: usize) -> Result<()> {
        let ExpertSizes { rows, cols, num_keys: keys, top } = e.room.sizes;
        if n_rows > rows {
            let why = format!("is for {rows} rows, not {n_rows}");
            return Err(Error::BadArgument { what: "experts: room", why });
        }
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
        let (mut stream, mut residual) = (std::ptr::null_mut(), std::ptr::null());
        if let Some((rows, gate)) = e.stream {
            rows.expect("experts: stream", n_rows, cols)?;
            expect_len("experts: residual", gate, cols)?;
            (stream, residual) = (rows.buffer.ptr_mut(), gate.ptr());
        }
        let args = ffi::DogeCudaExpertsArgs {
            y: y.buffer.ptr_mut(),
            stream,
            residual,
            x: x.buffer.ptr(),
            router: e.router.buffer.ptr(),
            down_embed: e.down_embed.bytes.ptr().cast(),
            up_embed: e.up_embed.bytes.ptr().cast(),
            expert: e.expert.ptr_mut(),
            weight: e.weight.ptr_mut(),
            pairs: e.room.pairs.0.ptr(),
            partial: e.room.partial.ptr_mut(),
            arrived: e.room.arrived.ptr_mut(),
            stride_bytes: e.down_embed.stride_bytes,
            n_rows: n_rows as u32,
            cols: cols as u32,
            x_stride: x.stride() as u32,
            router_stride: e.router.stride() as u32,
            n_keys: keys as u32,
            n_top: top as u32,
            n_pairs: e.room.pairs.0.len() as u32,
            act: e.act as u32,
            reference_routing: u32::from(e.routing == Routing::Reference),
        };
        let (spreads, dtype) = (n_rows <= SPREAD_ROWS, e.down_embed.dtype as usize);
        let table = self.table();
        let (kernel, groups) = if spreads { (&table.experts_groups[dtype], GROUPS.min(top)) } else { (&table.experts[dtype], 1) };
        // SAFETY: shapes as compared above; an expert's id is below keys², the tables have as many rows; the pairs are those of
        // keys and top, which the kernel has room for; there is room for the partial sums of as many rows as are spread.
        unsafe { self.launch(kernel, [n_rows, groups, 1], &args) }
    }
}

/// An error if the router chooses more than the kernel has room for.
pub(super) fn check_router(keys: usize, top: usize) -> Result<()> {
    let fits = keys <= ffi::DOGE_CUDA_KEYS_MAX as usize && top <= ffi::DOGE_CUDA_TOP_MAX as usize;
    if fits && top >= 1 && top <= keys * keys {
        return Ok(());
    }
    Err(Error::UnsupportedOnDevice {
        what: format!("a router with {keys} keys that chooses {top} experts"),
        why: "the kernel has room for 256 experts a token, of up to 65535 keys a side; use --device cpu".into(),
    })
}
