//! The safe doors to the kernels that have no room of their own: shapes checked, one launch each.

use super::{
    buffer::{expect_len, Buffer, Rows},
    device::Device,
    input::Input,
    matrix::DeviceMatrix,
};
use crate::{ffi, ops::Routing, Activation, Error, Layout, Result};

/// Where a sequence stands, in device memory.
pub type Place = Buffer<u32>;
/// Words of [`ffi::DogeCudaPlace`].
pub(super) const PLACE_WORDS: usize = size_of::<ffi::DogeCudaPlace>() / 4;

/// The pointer of a buffer, or none.
pub(super) fn null<T: super::buffer::Element>(buffer: Option<&Buffer<T>>) -> *const T {
    buffer.map_or(std::ptr::null(), Buffer::ptr)
}

/// The gated residual before a norm: `x = gate · x + branch`.
pub struct Residual<'a> {
    pub gate: &'a Buffer<f32>,
    pub branch: &'a Rows,
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
    /// The stream that the result is added to as the branch of the gated residual, and its gate; or none.
    pub stream: Option<(&'a mut Rows, &'a Buffer<f32>)>,
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

    /// `out = rms_norm(x)`, after `x = gate · x + branch` where there is a residual (spec 3, 4.1); also rounded, where `out`
    /// has room for that.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for shapes that do not fit, [`Error::Device`].
    pub fn rms_norm(
        &self,
        out: &mut Input,
        x: &mut Rows,
        residual: Option<Residual<'_>>,
        weight: &Buffer<f32>,
        eps: f32,
        n_rows: usize,
    ) -> Result<()> {
        let cols = x.cols();
        x.expect("rms_norm: x", n_rows, cols)?;
        out.exact.expect("rms_norm: out", n_rows, cols)?;
        expect_len("rms_norm: weight", weight, cols)?;
        let (mut gate, mut branch) = (std::ptr::null(), std::ptr::null());
        if let Some(residual) = &residual {
            expect_len("rms_norm: gate", residual.gate, cols)?;
            residual.branch.expect("rms_norm: branch", n_rows, cols)?;
            (gate, branch) = (residual.gate.ptr(), residual.branch.buffer.ptr());
        }
        let mut rounded = std::ptr::null_mut();
        if !out.rounded.is_empty() {
            expect_len("rms_norm: rounded", &out.rounded, n_rows * x.stride())?;
            rounded = out.rounded.ptr_mut();
        }
        let args = ffi::DogeCudaNormArgs {
            out: out.exact.buffer.ptr_mut(),
            rounded,
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
