//! Where a model runs.

use std::str::FromStr;

use crate::{model::Model, Error, Result};

/// What somebody asks for: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceWord {
    /// A GPU if this build has kernels for it and the driver shows one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceWord {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let unknown = || Error::UnknownWord { what: "device", word: word.into(), expected: "auto, cpu, cuda, cuda:N".into() };
        match word {
            "auto" => Ok(DeviceWord::Auto),
            "cpu" => Ok(DeviceWord::Cpu),
            "cuda" => Ok(DeviceWord::Cuda(0)),
            _ => {
                let number = word.strip_prefix("cuda:").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
                number.and_then(|n| n.parse().ok()).map(DeviceWord::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl std::fmt::Display for DeviceWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceWord::Auto => f.write_str("auto"),
            DeviceWord::Cpu => f.write_str("cpu"),
            DeviceWord::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Where a model runs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Device),
}

impl Device {
    /// # Errors
    /// [`Error::DeviceUnavailable`]; never for `auto` and `cpu`.
    pub fn open(word: DeviceWord) -> Result<Device> {
        match word {
            DeviceWord::Cpu => Ok(Device::Cpu),
            DeviceWord::Auto => Ok(Device::best().0),
            DeviceWord::Cuda(ordinal) => cuda(ordinal),
        }
    }

    /// What `auto` means here; and, where there is a GPU and it is not that, the reason.
    pub fn best() -> (Device, Option<Error>) {
        best()
    }

    /// The model, there.
    ///
    /// # Errors
    /// [`Error::UnsupportedOnDevice`], [`Error::OutOfMemory`], [`Error::Device`].
    pub fn place(&self, model: Model) -> Result<Model> {
        match self {
            Device::Cpu => Ok(model),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => model.on(device, |_, _| {}),
        }
    }
}

#[cfg(feature = "cuda")]
fn best() -> (Device, Option<Error>) {
    if !crate::cuda::Device::is_built() || crate::cuda::Device::count() == 0 {
        return (Device::Cpu, None);
    }
    match crate::cuda::Device::open(0) {
        Ok(device) => (Device::Cuda(device), None),
        Err(error) => (Device::Cpu, Some(error)),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    crate::cuda::Device::open(ordinal).map(Device::Cuda)
}

#[cfg(not(feature = "cuda"))]
fn best() -> (Device, Option<Error>) {
    (Device::Cpu, None)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    let why = "this build has no CUDA runtime; build with --features cuda".into();
    Err(Error::DeviceUnavailable { device: format!("cuda:{ordinal}"), why })
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => write!(f, "{device:?}"),
        }
    }
}
