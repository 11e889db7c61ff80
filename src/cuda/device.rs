//! One GPU: its context, its stream, the kernels loaded on it.

use std::sync::Arc;

use cudarc::driver::{sys, CudaContext, CudaFunction, CudaModule, CudaStream, DriverError};

use super::{images, table::Table};
use crate::{Error, Result};

/// What to say where this build has no kernels for GPUs.
pub const MISSING_KERNELS: &str = "this build has no CUDA kernels: nvcc was not found when it was built. Install CUDA 12.8 or later (or, into a virtual environment, pip install nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85), and build with NVCC=<path of nvcc> DOGE_CUDA=require";

/// The oldest architecture that the kernels are made for.
const OLDEST: (i32, i32) = (8, 0);

/// The oldest architecture whose launches may begin before the one before is done, and that has a copy engine, as
/// `CU_FUNC_ATTRIBUTE_PTX_VERSION` has it.
const HOPPER: i32 = 90;

/// A GPU with the kernels on it, and a stream. Cheap to clone. What is given to it and its clones runs in the order given.
#[derive(Clone)]
pub struct Device {
    gpu: Arc<Gpu>,
    stream: Arc<CudaStream>,
}

struct Gpu {
    ordinal: usize,
    name: String,
    context: Arc<CudaContext>,
    table: Table,
}

impl Device {
    /// The GPU number `ordinal`, as the driver counts them (`CUDA_VISIBLE_DEVICES` counts).
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`]: no kernels in this build, no driver, a driver that is too old, no such GPU, or one of
    /// an architecture before 8.0.
    pub fn open(ordinal: usize) -> Result<Device> {
        let unavailable = |why: String| Error::DeviceUnavailable { device: format!("cuda:{ordinal}"), why };
        // Kernels first: without them no driver would help.
        let images = images::all(|| unavailable(MISSING_KERNELS.into()))?;
        // SAFETY: loads the driver's library, whose initialisers are as trustworthy as the driver itself.
        if !unsafe { sys::is_culib_present() } {
            let why = "the driver's library libcuda.so.1 was not found. Install the NVIDIA driver, version 580 or later, or put the folder of its libcuda.so.1 on LD_LIBRARY_PATH";
            return Err(unavailable(why.into()));
        }
        let of_driver = |error: DriverError| unavailable(why(error));
        let no_such = || {
            let count = CudaContext::device_count().unwrap_or(0);
            unavailable(format!("there is no such GPU; the driver shows {count}"))
        };
        // The bindings would cut a longer number off, and open another GPU.
        i32::try_from(ordinal).map_err(|_| no_such())?;
        let context = CudaContext::new(ordinal).map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_INVALID_DEVICE | sys::CUresult::CUDA_ERROR_NO_DEVICE => no_such(),
            _ => of_driver(error),
        })?;
        // SAFETY: a stream's work needs no events that would order several streams: what it reads of another's (weights; at a fork
        // the keys) the host waited for, and waits until it is read before that may be written to or freed.
        unsafe { context.disable_event_tracking() };
        let architecture = context.compute_capability().map_err(of_driver)?;
        if architecture < OLDEST {
            let (major, minor) = architecture;
            return Err(unavailable(format!("its architecture is {major}.{minor}; the kernels need 8.0 (Ampere) or later")));
        }
        let name = context.name().map_err(of_driver)?;
        let stream = context.new_stream().map_err(of_driver)?;
        let load = |image| context.load_module(cudarc::nvrtc::Ptx::from_binary(image)).map_err(of_driver);
        let modules: Vec<Arc<CudaModule>> = images.into_iter().map(load).collect::<Result<_>>()?;
        let table = Table::load(|name| {
            let of_module = |module: &Arc<CudaModule>| match module.load_function(name) {
                Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND => None,
                found => Some(found.map_err(|error| unavailable(format!("kernel {name}: {}", why(error))))),
            };
            let missing = || Err(unavailable(format!("kernel {name} is missing from the images loaded")));
            let function = modules.iter().find_map(of_module).unwrap_or_else(missing)?;
            // Code made for an older architecture has no instruction to wait with, and no copy engine.
            let is_hopper = function.ptx_version().map_err(of_driver)? >= HOPPER;
            Ok((function, is_hopper))
        })?;
        Ok(Device { gpu: Arc::new(Gpu { ordinal, name, context, table }), stream })
    }

    /// The same GPU with another stream. Nothing but the host, which waits, orders what the two are given.
    pub(super) fn with_own_stream(&self) -> Result<Device> {
        let stream = self.gpu.context.new_stream().map_err(failed("making a stream"))?;
        Ok(Device { gpu: self.gpu.clone(), stream })
    }

    /// GPUs that the driver shows; 0 without a driver.
    pub fn count() -> usize {
        // SAFETY: as in `open`.
        if !unsafe { sys::is_culib_present() } || cudarc::driver::result::init().is_err() {
            return 0;
        }
        CudaContext::device_count().map_or(0, |n| n.max(0) as usize)
    }

    /// Are kernels for GPUs part of this build?
    pub const fn is_built() -> bool {
        images::ARE_THERE
    }

    /// The N of `cuda:N`.
    pub fn ordinal(&self) -> usize {
        self.gpu.ordinal
    }

    /// The driver's name for it.
    pub fn name(&self) -> &str {
        &self.gpu.name
    }

    /// Bytes of its L2 cache.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn l2_bytes(&self) -> Result<usize> {
        self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
    }

    /// How many multiprocessors it has.
    pub(super) fn multiprocessors(&self) -> Result<usize> {
        self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
    }

    /// Bytes of shared memory that a block of the kernel can have beside its own.
    pub(super) fn shared_beside(&self, kernel: &Kernel) -> Result<usize> {
        let most = self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let own = kernel.function.shared_size_bytes().map_err(failed(kernel.name))?;
        Ok(most.saturating_sub(usize::try_from(own).unwrap_or(0)))
    }

    /// Lets launches of the kernel have `bytes` of shared memory beside its own.
    pub(super) fn allow_shared(&self, kernel: &Kernel, bytes: usize) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        kernel.function.set_attribute(attribute, bytes as i32).map_err(failed(kernel.name))
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<usize> {
        let value = self.gpu.context.attribute(attribute).map_err(failed("asking what the GPU has"))?;
        Ok(usize::try_from(value).unwrap_or(0).max(1))
    }

    /// Bytes of its memory: free, and all.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.gpu.context.mem_get_info().map_err(failed("asking for the free memory"))
    }

    /// An error if `bytes` are not free now.
    pub(super) fn expect_room(&self, bytes: u128, what: &'static str) -> Result<()> {
        self.synchronize()?; // what was given back is free only then
        let (free, _) = self.memory()?;
        if bytes > free as u128 {
            return Err(Error::OutOfMemory { bytes, what });
        }
        Ok(())
    }

    /// Waits until everything given to it and its clones is done.
    ///
    /// # Errors
    /// [`Error::Device`] if something of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("waiting for the GPU"))
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(super) fn table(&self) -> &Table {
        &self.gpu.table
    }

    /// Gives a kernel to the stream. Nothing to do for an empty grid.
    ///
    /// # Safety
    /// `args` is the kernel's own struct; each pointer in it covers what kernels/doge_cuda.h states for its sizes, in this
    /// device's memory, for as long as the stream may run it.
    pub(super) unsafe fn launch<A: Args>(&self, kernel: &Kernel, grid: [usize; 3], args: &A) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let early = sys::CUlaunchAttribute { id, pad: [0; 4], value };
        // SAFETY: the caller's promise; a kernel that may begin early waits before it reads or writes what others write.
        unsafe { self.launch_with(kernel, grid, 0, kernel.waits.then_some(early), args) }
    }

    /// As [`Device::launch`], all `blocks` at once or not at all, each with `shared` bytes of shared memory beside its own.
    ///
    /// # Safety
    /// As of [`Device::launch`].
    pub(super) unsafe fn launch_together<A: Args>(&self, kernel: &Kernel, blocks: usize, shared: usize, args: &A) -> Result<()> {
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.cooperative = 1;
        let together =
            sys::CUlaunchAttribute { id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, pad: [0; 4], value };
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(kernel, [blocks, 1, 1], shared, Some(together), args) }
    }

    /// # Safety
    /// As of [`Device::launch`]; and what the attribute allows, the kernel allows.
    unsafe fn launch_with<A: Args>(
        &self,
        kernel: &Kernel,
        grid: [usize; 3],
        shared: usize,
        mut attribute: Option<sys::CUlaunchAttribute>,
        args: &A,
    ) -> Result<()> {
        let side = |n: usize| u32::try_from(n).map_err(|_| Error::BadArgument { what: "grid", why: format!("{n} blocks") });
        let config = sys::CUlaunchConfig {
            gridDimX: side(grid[0])?,
            gridDimY: side(grid[1])?,
            gridDimZ: side(grid[2])?,
            blockDimX: kernel.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: side(shared)?,
            hStream: self.stream.cu_stream(),
            attrs: attribute.as_mut().map_or(std::ptr::null_mut(), |attribute| &raw mut *attribute),
            numAttrs: u32::from(attribute.is_some()),
        };
        let mut args = *args;
        let mut params = [(&raw mut args).cast::<std::ffi::c_void>()];
        self.gpu.context.bind_to_thread().map_err(failed(kernel.name))?;
        // SAFETY: the caller's promise; the grid is not empty, and the driver copies the structs before it returns.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&config, kernel.function.cu_function(), params.as_mut_ptr(), std::ptr::null_mut()) };
        launched.result().map_err(failed(kernel.name))
    }
}

/// A kernel and the threads of its blocks.
pub(super) struct Kernel {
    pub name: &'static str,
    pub function: CudaFunction,
    pub threads: u32,
    /// It waits for the launch before (kernels/cuda/device.h), so it may begin early.
    pub waits: bool,
    /// It was compiled for an architecture that has one (sm_90 or later).
    pub has_copy_engine: bool,
}

/// The structs of kernels/doge_cuda.h.
pub(super) trait Args: Copy {}

/// The driver's words for an error, with what to do about the frequent ones.
fn why(error: DriverError) -> String {
    let advice = match error.0 {
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | sys::CUresult::CUDA_ERROR_INVALID_IMAGE
        | sys::CUresult::CUDA_ERROR_STUB_LIBRARY => "; the driver is too old or none: install version 580 or later",
        sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            "; the kernels are not made for this GPU: build with its architecture in DOGE_CUDA_ARCHS"
        }
        sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS | sys::CUresult::CUDA_ERROR_LAUNCH_FAILED => {
            "; a kernel failed, the device is lost to this process: please report it, with the model and the command"
        }
        _ => "",
    };
    format!("{error}{advice}")
}

/// Names a failure of the driver by what was being done.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes: 0, what },
        _ => Error::Device { what, why: why(error) },
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.gpu.ordinal, self.gpu.name)
    }
}
