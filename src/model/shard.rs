//! One safetensors file: its header read and checked, its tensors left where they are.

use std::{collections::BTreeMap, path::Path, path::PathBuf, sync::Arc};

use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

use crate::{mapped::Mapped, quantize::Packed, text_file::parse_json, Dtype, Error, Float, Result};

/// A Doge of 32 layers has a header of 100 kB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// A tensor in a file: checked to lie inside it and to be as long as its shape and type say.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub file: Arc<Mapped>,
    /// Index into the checkpoint's list of files.
    pub file_index: usize,
    pub dtype: safetensors::Dtype,
    /// Of the matrix, also where the file holds packed bytes.
    pub shape: Vec<usize>,
    /// The integer format of packed bytes.
    pub packed: Option<Dtype>,
    /// From the start of the file.
    pub offset: usize,
    pub len: usize,
}

impl Stored {
    #[expect(clippy::indexing_slicing, reason = "the header was checked against the file, which is as long as it was")]
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.offset..self.offset + self.len]
    }

    /// The format of the weights, if kernels read it.
    pub fn format(&self) -> Option<Dtype> {
        self.packed.or(self.float().map(Dtype::from))
    }

    /// The format, if it is a float format that kernels read.
    pub fn float(&self) -> Option<Float> {
        match self.dtype {
            safetensors::Dtype::F32 => Some(Float::F32),
            safetensors::Dtype::BF16 => Some(Float::Bf16),
            safetensors::Dtype::F16 => Some(Float::F16),
            _ => None,
        }
    }
}

/// The tensors of one file by name. `path` is only for error messages.
///
/// # Errors
/// [`Error::BadFile`] naming the tensor, if the header is malformed or does not describe the bytes that follow it: each
/// byte must belong to exactly one tensor.
pub(crate) fn read(file: Arc<Mapped>, path: &Path, file_index: usize) -> Result<BTreeMap<String, Stored>> {
    let bad = |why: String| Error::BadFile { path: path.to_path_buf(), why };
    let bytes = file.bytes();
    let (header, data_start) = header(bytes).map_err(&bad)?;
    let packed = Packed::read(header.get("__metadata__")).map_err(&bad)?;

    let mut infos = Vec::with_capacity(header.len());
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let info: TensorInfo = serde_json::from_value(value).map_err(|error| bad(format!("tensor '{name}': {error}")))?;
        infos.push((name, info));
    }
    infos.sort_by_key(|(_, info)| info.data_offsets);

    let mut end = 0;
    let mut tensors = BTreeMap::new();
    let data_len = bytes.len() - data_start;
    for (name, info) in infos {
        let (from, to) = info.data_offsets;
        if from != end || to < from {
            let what = if from < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(bad(format!("tensor '{name}': data_offsets [{from}, {to}] {what} (which ends at {end})")));
        }
        if to > data_len {
            let why = format!("tensor '{name}': its data ends at byte {to}, the file's at {data_len}: the file is truncated");
            return Err(bad(why));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &side| bits.checked_mul(side));
        if bits != (to - from).checked_mul(8) {
            let (dtype, shape) = (info.dtype, &info.shape);
            return Err(bad(format!("tensor '{name}': {dtype} of shape {shape:?} does not fill its {} bytes", to - from)));
        }
        end = to;
        let offset = data_start + from;
        let (dtype, len) = (info.dtype, to - from);
        let (shape, packed) = match &packed {
            Some(packed) if dtype == safetensors::Dtype::U8 => {
                let shape =
                    packed.shape(&name).ok_or_else(|| bad(format!("tensor '{name}': the metadata has no shape for it")))?;
                (shape.clone(), Some(packed.dtype))
            }
            _ => (info.shape, None),
        };
        let stored = Stored { file: file.clone(), file_index, dtype, shape, packed, offset, len };
        tensors.insert(name, stored);
    }
    if end != data_len {
        return Err(bad(format!("{} bytes after the last tensor belong to none", data_len - end)));
    }
    Ok(tensors)
}

/// The header's entries, and where the data begins.
fn header(bytes: &[u8]) -> Result<(Map<String, Value>, usize), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("{} bytes are too short for a safetensors file", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!("its header claims {length} bytes; {MAX_HEADER_BYTES} is the limit (is it a safetensors file?)"));
    }
    let length = length as usize;
    let Some(header) = rest.get(..length) else {
        return Err(format!("its header claims {length} bytes, {} follow: the file is truncated", rest.len()));
    };
    match parse_json(header) {
        Ok(Value::Object(map)) => Ok((map, 8 + length)),
        Ok(_) => Err("its header is not a JSON object".into()),
        Err(error) => Err(format!("its header is not JSON: {error}")),
    }
}

/// Maps or reads a file.
///
/// # Errors
/// [`Error::BadFile`] if it is not a regular file, [`Error::Io`].
pub(crate) fn open(path: &Path, mmap: bool) -> Result<Arc<Mapped>> {
    let file = if mmap { Mapped::open(path) } else { Mapped::read(path) };
    file.map(Arc::new)
}

/// A file of a checkpoint, for `inspect`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// As opened.
    pub path: PathBuf,
    /// The whole file.
    pub bytes: usize,
}
