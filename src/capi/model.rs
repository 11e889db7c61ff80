//! Where a model runs, and the model.

use std::{
    ffi::{c_char, c_void},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use super::{
    options::{borrow, free, give, optional_str, read, write, Versioned},
    status::{c_string, guard, guard_value, DogeStatus, Failure},
};
use crate::{
    embedded,
    model::{Checkpoint, LoadOptions, Model},
    ops::{Activations, Cpu},
    pool::Pool,
    Dtype, Isa, Kernels,
};

/// An ISA level and threads. Immutable: may be used by any number of threads at once.
pub struct DogeCpu(pub(super) Cpu);

/// A loaded checkpoint. Immutable: may be used by any number of threads at once. Its sessions keep what they need of it:
/// it may be freed before them.
pub struct DogeModel(pub(super) Model);

/// Where models run. All zeros but struct_size are the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DogeCpuOptions {
    /// sizeof(DogeCpuOptions)
    pub struct_size: usize,
    /// Threads, the calling one included. 0: as many as this process may use.
    pub threads: usize,
    /// Name of an ISA level. NULL: DOGE_ISA of the environment, or the best there is.
    pub isa: *const c_char,
    /// Not 0: beside bf16 weights activations are rounded to bf16, which is less exact, and faster in a prompt where the CPU has a
    /// bf16 dot product (avx512bf16, amx); with avx2 alone it is slower. With kv_dtype "bf16" attention is rounded too, beside
    /// weights of every format.
    pub bf16_activations: i32,
    /// 0
    pub reserved: i32,
}

// SAFETY: #[repr(C)], struct_size first, zeros are values of all its fields.
unsafe impl Versioned for DogeCpuOptions {}

/// Takes one line of what a user should know, NUL-terminated UTF-8, valid for the time of the call. `level` is 0 for a note.
/// Called on the thread that called the library. Must not throw.
pub type DogeLog = Option<unsafe extern "C" fn(user: *mut c_void, level: i32, message: *const c_char)>;

/// How to load. All zeros but struct_size are the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DogeLoadOptions {
    /// sizeof(DogeLoadOptions)
    pub struct_size: usize,
    /// "f32", "bf16", "f16", "int8" or "int4": convert the big matrices to it. NULL: as stored, used in place.
    pub dtype: *const c_char,
    /// Not 0: read the files rather than map them. A mapped file must not change: truncated, it ends the process.
    pub no_mmap: i32,
    /// Not 0: do not look for NaN and infinities in the weights.
    pub no_check_finite: i32,
    /// Called with notes about the checkpoint; may be NULL.
    pub log: DogeLog,
    /// Passed to `log`.
    pub user: *mut c_void,
}

// SAFETY: #[repr(C)], struct_size first, zeros are values of all its fields.
unsafe impl Versioned for DogeLoadOptions {}

/// Sizes of a model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DogeModelInfo {
    /// sizeof(DogeModelInfo), set by the caller
    pub struct_size: usize,
    /// Token ids are below this; as many logits there are.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Keys that a mask head keeps at most.
    pub keep_window_size: usize,
    /// Bytes of weights that one decoded token reads.
    pub bytes_per_token: usize,
}

// SAFETY: #[repr(C)], struct_size first, zeros are values of all its fields.
unsafe impl Versioned for DogeModelInfo {}

/// Chooses kernels and starts threads. `options` may be NULL. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_cpu_new(options: *const DogeCpuOptions, out: *mut *mut DogeCpu) -> DogeStatus {
    let make = || {
        // SAFETY: NULL or valid (header).
        let options = unsafe { read("DogeCpuOptions", options) }?;
        // SAFETY: a string (header).
        let isa = unsafe { optional_str("isa", options.isa) }?;
        let kernels = match isa {
            Some(word) => Kernels::for_isa(Isa::from_str(word)?)?,
            None => Kernels::detect()?,
        };
        let threads = if options.threads == 0 { Pool::default_threads() } else { options.threads };
        let activations = if options.bf16_activations == 0 { Activations::F32 } else { Activations::Bf16 };
        Ok(DogeCpu(Cpu::new(kernels, Arc::new(Pool::new(threads)?)).with_activations(activations)))
    };
    // SAFETY: NULL or valid (header).
    guard(|| unsafe { give(out, make) })
}

/// Ends what doge_cpu_new made; its threads end with the last session that runs on them. NULL is nothing. From any thread, once.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_cpu_free(cpu: *mut DogeCpu) {
    // SAFETY: NULL or valid, and not used again (header).
    unsafe { free(cpu) }
}

/// Threads of `cpu`; 0 for NULL. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_cpu_threads(cpu: *const DogeCpu) -> usize {
    // SAFETY: NULL or valid (header).
    guard_value(0, || unsafe { cpu.as_ref() }.map_or(0, |cpu| cpu.0.threads()))
}

/// Name of the ISA level of `cpu`, always valid; "" for NULL. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_cpu_isa(cpu: *const DogeCpu) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        // SAFETY: NULL or valid (header).
        unsafe { cpu.as_ref() }.map_or(c"", |cpu| cpu.0.kernels().isa().c_name()).as_ptr()
    })
}

/// Loads a checkpoint: a folder with config.json and model.safetensors or its shards, or one .safetensors file with
/// config.json beside it. `options` may be NULL. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_model_load(
    path: *const c_char,
    options: *const DogeLoadOptions,
    out: *mut *mut DogeModel,
) -> DogeStatus {
    let make = || {
        // SAFETY: a string (header).
        let path = unsafe { optional_str("path", path) }?.ok_or_else(|| Failure::null("path"))?;
        // SAFETY: NULL or valid (header).
        unsafe { load(options, |options| Checkpoint::load(Path::new(path), options)) }
    };
    // SAFETY: NULL or valid (header).
    guard(|| unsafe { give(out, make) })
}

/// The small model inside the library, which writes like Shakespeare. `options` may be NULL. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_model_embedded(options: *const DogeLoadOptions, out: *mut *mut DogeModel) -> DogeStatus {
    // SAFETY: NULL or valid, both (header).
    guard(|| unsafe { give(out, || load(options, embedded::checkpoint)) })
}

/// # Safety
/// `options` is NULL or valid.
unsafe fn load(
    options: *const DogeLoadOptions,
    load: impl FnOnce(&LoadOptions) -> crate::Result<Checkpoint>,
) -> Result<DogeModel, Failure> {
    // SAFETY: the caller's promise.
    let given = unsafe { read("DogeLoadOptions", options) }?;
    // SAFETY: a string (header).
    let dtype = unsafe { optional_str("dtype", given.dtype) }?.map(Dtype::from_str).transpose()?;
    let options = LoadOptions::default().dtype(dtype).mmap(given.no_mmap == 0).check_finite(given.no_check_finite == 0);
    let checkpoint = load(&options)?;
    if let Some(log) = given.log {
        for note in &checkpoint.notes {
            // SAFETY: a function of this type (header); the string lives until it returns.
            unsafe { log(given.user, 0, c_string(note).as_ptr()) }
        }
    }
    Ok(DogeModel(Model::new(checkpoint)))
}

/// Ends what doge_model_load or doge_model_embedded made. NULL is nothing. From any thread, once.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_model_free(model: *mut DogeModel) {
    // SAFETY: NULL or valid, and not used again (header).
    unsafe { free(model) }
}

/// Stores the sizes of `model`. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_model_info(model: *const DogeModel, out: *mut DogeModelInfo) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let DogeModel(model) = unsafe { borrow("model", model) }?;
        let config = model.config();
        let info = DogeModelInfo {
            struct_size: size_of::<DogeModelInfo>(),
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            keep_window_size: config.keep_window_size,
            bytes_per_token: model.checkpoint().bytes_per_token(),
        };
        // SAFETY: NULL or valid (header).
        unsafe { write("DogeModelInfo", out, info) }
    })
}
