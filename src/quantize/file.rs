//! A quantised checkpoint as a file: safetensors, the matrices as U8 tensors in exactly the kernels' bytes, everything else
//! f32. `__metadata__` says what it is; a reader that does not know the format sees tensors of a type and shape it refuses.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use serde_json::{json, Map, Value};

use crate::{
    mapped::{is_there, open_file},
    matrix_bytes,
    model::{
        archive::{INDEX, SINGLE},
        checkpoint::Opened,
        schema::{self, Hold, Row},
        LoadOptions,
    },
    text_file::read_bytes,
    Dtype, Error, Layout, Result,
};

/// Name of the weight file in its folder as long as [`write()`] has not written all of it.
pub const UNFINISHED: &str = "model.safetensors.unfinished";
/// Keys of `__metadata__`.
const FORMAT_KEY: &str = "format";
const FORMAT: &str = "doge-engine-int";
const VERSION: &str = "1";
/// Tensors begin at multiples of this in the file, as far as kernels want it.
const ALIGN: usize = 64;
/// What is copied beside the weights, where there is such a file.
const COMPANIONS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The tokenizer is the largest, and has this limit.
const MAX_COMPANION_BYTES: u64 = 256 << 20;

/// What the metadata of a quantised file says of its U8 tensors.
#[derive(Debug)]
pub(crate) struct Packed {
    pub dtype: Dtype,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Packed {
    /// Reads `__metadata__`; `None` if it is not of this format.
    ///
    /// # Errors
    /// What is wrong, if the file says that it is of this format and cannot be understood.
    pub fn read(metadata: Option<&Value>) -> Result<Option<Self>, String> {
        let text = |key: &str| metadata.and_then(|m| m.get(key)).and_then(Value::as_str);
        if text(FORMAT_KEY) != Some(FORMAT) {
            return Ok(None);
        }
        let missing = |key: &str| format!("is a quantised checkpoint without '{key}' in its metadata");
        let version = text("version").ok_or_else(|| missing("version"))?;
        if version != VERSION {
            return Err(format!(
                "is a quantised checkpoint of version '{version}'; this engine reads version {VERSION}. Make it anew with `doge quantize`"
            ));
        }
        let word = text("dtype").ok_or_else(|| missing("dtype"))?;
        let dtype = word.parse().ok().filter(|dtype: &Dtype| dtype.is_int());
        let dtype = dtype.ok_or_else(|| format!("is a quantised checkpoint of unknown dtype '{word}'; expected int8 or int4"))?;
        let shapes = serde_json::from_str(text("shapes").ok_or_else(|| missing("shapes"))?)
            .map_err(|error| format!("its metadata's 'shapes' is malformed: {error}"))?;
        Ok(Some(Packed { dtype, shapes }))
    }

    /// The shape of the matrix in a U8 tensor.
    pub fn shape(&self, name: &str) -> Option<&Vec<usize>> {
        self.shapes.get(name)
    }
}

/// One tensor of the file to be.
struct Entry {
    row: &'static Row,
    name: String,
    shape: Vec<usize>,
    /// `None`: f32.
    packed: Option<Layout>,
    bytes: usize,
}

/// Quantises the checkpoint `source` (a folder or one `.safetensors` file) to int8 or int4, and writes `model.safetensors` into
/// `folder`, with the config and the tokenizer's files beside it. Returns the bytes of the new weight file.
///
/// # Errors
/// As [`crate::model::Checkpoint::load`]; [`Error::BadArgument`] if `dtype` is no integer format, if the checkpoint is quantised
/// already or if there are weights in `folder`, or other files of the names that it gives its own; [`Error::Io`].
pub fn write(source: &Path, dtype: Dtype, folder: &Path) -> Result<usize> {
    let bad = |why: String| Error::BadArgument { what: "quantize", why };
    if !dtype.is_int() {
        return Err(bad(format!("cannot quantise to {dtype}; expected int8 or int4")));
    }
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    let opened = Opened::open(source, &options)?;
    if opened.is_packed() {
        return Err(bad(format!("'{}' is quantised already; use the checkpoint it was made from", source.display())));
    }
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let from = if source.is_dir() { source } else { source.parent().unwrap_or(Path::new("")) };
    let companions = companions(from, folder)?;
    let entries = entries(&opened, dtype)?;
    let header = header(&entries, dtype, source);

    // Under its name only when all is there.
    let (target, unfinished) = (folder.join(SINGLE), folder.join(UNFINISHED));
    let written = || -> Result<usize> {
        // What an earlier run left, or somebody put there: written into, a pipe would wait for a reader, a link lead elsewhere.
        if is_there(&unfinished)? {
            std::fs::remove_file(&unfinished).map_err(io(&unfinished))?;
        }
        let mut out = BufWriter::new(File::create_new(&unfinished).map_err(io(&unfinished))?);
        out.write_all(&header).map_err(io(&unfinished))?;
        for entry in &entries {
            let bytes = opened.bytes(entry.row, &entry.name, &entry.shape, &options)?;
            out.write_all(&bytes).map_err(io(&unfinished))?;
        }
        out.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all()).map_err(io(&unfinished))?;
        for (path, bytes) in &companions {
            std::fs::write(path, bytes).map_err(io(path))?;
        }
        std::fs::rename(&unfinished, &target).map_err(io(&target))?;
        Ok(header.len() + entries.iter().map(|entry| entry.bytes).sum::<usize>())
    };
    written().inspect_err(|_| {
        let made = companions.iter().map(|(path, _)| path).chain([&unfinished]);
        made.for_each(|path| _ = std::fs::remove_file(path));
    })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}

/// What is to stand beside the weights in `folder`, and is not there yet. Nothing in `folder` is ever written over: an error if it
/// holds weights of any name (it may be `from` itself), or another file in the place of one of these.
fn companions(from: &Path, folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let taken = |path: &Path| {
        let why = format!("'{}' is there already; choose another folder", path.display());
        Error::BadArgument { what: "quantize", why }
    };
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") || path.ends_with(INDEX) {
            return Err(taken(&path));
        }
    }
    let mut companions = Vec::new();
    for name in COMPANIONS {
        let (source, path) = (from.join(name), folder.join(name));
        let Some(bytes) = read_bytes(&source, MAX_COMPANION_BYTES)? else { continue };
        if !is_there(&path)? {
            companions.push((path, bytes));
        } else if !holds(&path, &bytes) {
            return Err(taken(&path));
        }
    }
    Ok(companions)
}

/// Is `path` a file of exactly these bytes?
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let mut there = Vec::new();
    let read = open_file(path).map(|file| file.take(bytes.len() as u64 + 1).read_to_end(&mut there));
    matches!(read, Ok(Ok(_))) && there == bytes
}

/// Tiles first, whose size is a multiple of [`ALIGN`], so that all of them stand at one.
fn entries(opened: &Opened, dtype: Dtype) -> Result<Vec<Entry>> {
    let (config, variant) = (&opened.config, &opened.variant);
    let mut entries = Vec::new();
    for (row, layer) in schema::tensors(config, *variant) {
        let (name, shape) = (row.full_name(variant.names, layer), row.shape(config, variant));
        let packed = (row.hold == Hold::Stored).then(|| row.layout(dtype));
        let bytes = match (packed, &shape[..]) {
            (Some(layout), [rows, cols]) => matrix_bytes(dtype, layout, *rows, *cols),
            _ => shape.iter().try_fold(4usize, |bytes, side| bytes.checked_mul(*side)),
        };
        let bytes = bytes.ok_or_else(|| Error::BadTensor { name: name.clone(), why: "is too large".into() })?;
        entries.push(Entry { row, name, shape, packed, bytes });
    }
    entries.sort_by_key(|entry| match entry.packed {
        Some(Layout::Tiles) => 0,
        Some(Layout::Rows) => 1,
        None => 2,
    });
    Ok(entries)
}

/// Length and JSON, padded so that the data begins at a multiple of [`ALIGN`].
fn header(entries: &[Entry], dtype: Dtype, source: &Path) -> Vec<u8> {
    let shapes: BTreeMap<&str, &[usize]> = entries
        .iter()
        .filter(|entry| entry.packed.is_some())
        .map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
        .collect();
    let source = source.file_name().unwrap_or(source.as_os_str()).to_string_lossy();
    let mut header = Map::new();
    header.insert(
        "__metadata__".into(),
        json!({
            FORMAT_KEY: FORMAT,
            "version": VERSION,
            "dtype": dtype.name(),
            "source": source,
            "writer": concat!("doge-engine ", env!("CARGO_PKG_VERSION")),
            "shapes": json!(shapes).to_string(),
        }),
    );
    let mut begin = 0;
    for entry in entries {
        let end = begin + entry.bytes;
        let info = match entry.packed {
            Some(_) => json!({ "dtype": "U8", "shape": [entry.bytes], "data_offsets": [begin, end] }),
            None => json!({ "dtype": "F32", "shape": entry.shape, "data_offsets": [begin, end] }),
        };
        header.insert(entry.name.clone(), info);
        begin = end;
    }
    let mut json = Value::Object(header).to_string();
    json.extend(std::iter::repeat_n(' ', (json.len() + 8).next_multiple_of(ALIGN) - 8 - json.len()));
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}
