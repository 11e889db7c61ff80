//! The machine code of the kernels: one image for each file of `kernels/cuda`.

use std::path::Path;

use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/cuda_images.rs")); // IMAGES: &[(name, bytes)], written by build.rs

/// Was nvcc there when this was built?
pub(super) const ARE_THERE: bool = !IMAGES.is_empty();

/// The images to load: those of `DOGE_CUDA_KERNELS`, a folder of `<name>.fatbin` (or `.cubin`) files, or those in the binary.
pub(super) fn all(missing: impl Fn() -> Error) -> Result<Vec<Vec<u8>>> {
    match std::env::var_os("DOGE_CUDA_KERNELS").filter(|folder| !folder.is_empty()) {
        Some(folder) => folder_images(Path::new(&folder)),
        None if ARE_THERE => Ok(IMAGES.iter().map(|(_, bytes)| bytes.to_vec()).collect()),
        None => Err(missing()),
    }
}

fn folder_images(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let io = |source| Error::Io { path: folder.to_path_buf(), source };
    let mut images = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "fatbin" || extension == "cubin") {
            images.push(std::fs::read(&path).map_err(|source| Error::Io { path, source })?);
        }
    }
    if images.is_empty() {
        return Err(Error::BadFile {
            path: folder.to_path_buf(),
            why: "holds no .fatbin and no .cubin (DOGE_CUDA_KERNELS)".into(),
        });
    }
    Ok(images)
}
