//! All tensors of a checkpoint by name, wherever they lie: one file, shards listed by an index, or memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::shard::{self, FileInfo, Stored};
use crate::{
    mapped::{is_there, Mapped},
    text_file::{parse_json, read_bytes},
    Error, Result,
};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The index of a Doge of 32 layers has some 50 kB.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// The tensors, and the files they are in.
#[derive(Debug)]
pub(crate) struct Archive {
    pub tensors: BTreeMap<String, Stored>,
    pub files: Vec<FileInfo>,
    /// In a shard but not in the index, which decides.
    pub unlisted: Vec<String>,
}

impl Archive {
    /// `path` is a checkpoint folder or one `.safetensors` file.
    pub fn open(path: &Path, mmap: bool) -> Result<Self> {
        if !path.is_dir() {
            return Self::single(path, mmap);
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        match (is_there(&single)?, is_there(&index)?) {
            // As transformers does: the single file wins.
            (true, _) => Self::single(&single, mmap),
            (false, true) => Self::sharded(path, &index, mmap),
            (false, false) => Err(Error::ModelNotFound {
                name: path.display().to_string(),
                why: format!("the folder has neither {SINGLE} nor {INDEX}{}", other_weights(path)),
            }),
        }
    }

    fn single(path: &Path, mmap: bool) -> Result<Self> {
        Self::of_memory(shard::open(path, mmap)?, path)
    }

    /// A file that is open already; `path` is for error messages.
    pub fn of_memory(file: Arc<Mapped>, path: &Path) -> Result<Self> {
        let files = vec![FileInfo { path: path.to_path_buf(), bytes: file.bytes().len() }];
        Ok(Archive { tensors: shard::read(file, path, 0)?, files, unlisted: Vec::new() })
    }

    fn sharded(folder: &Path, index: &Path, mmap: bool) -> Result<Self> {
        let bad = |why: String| Error::BadFile { path: index.to_path_buf(), why };
        let weight_map = weight_map(index)?;
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();

        let mut archive = Archive { tensors: BTreeMap::new(), files: Vec::new(), unlisted: Vec::new() };
        for name in names {
            check_shard_name(name).map_err(&bad)?;
            let path = folder.join(name);
            let file = shard::open(&path, mmap).map_err(|error| match error {
                Error::Io { source, .. } => bad(format!("shard '{name}' cannot be opened: {source}")),
                other => other,
            })?;
            let file_index = archive.files.len();
            archive.files.push(FileInfo { path: path.clone(), bytes: file.bytes().len() });
            for (tensor, stored) in shard::read(file, &path, file_index)? {
                if !weight_map.contains_key(&tensor) {
                    archive.unlisted.push(tensor);
                } else if let Some(first) = archive.tensors.insert(tensor.clone(), stored) {
                    let first = archive.files.get(first.file_index).map_or(Path::new("?"), |file| &file.path).display();
                    return Err(bad(format!("tensor '{tensor}' is in two shards: {first} and '{name}'")));
                }
            }
        }
        for (tensor, name) in &weight_map {
            let found = archive.tensors.get(tensor).and_then(|stored| Some(&archive.files.get(stored.file_index)?.path));
            if found != Some(&folder.join(name)) {
                return Err(bad(format!("tensor '{tensor}' is not in shard '{name}', where the index has it")));
            }
        }
        Ok(archive)
    }
}

/// The shards that an index lists, their names checked.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = weight_map(index)?.into_values().collect();
    let checked = names.iter().try_for_each(|name| check_shard_name(name));
    checked.map_err(|why| Error::BadFile { path: index.to_path_buf(), why })?;
    Ok(names)
}

/// Tensor name to shard name.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let bad = |why: String| Error::BadFile { path: index.to_path_buf(), why };
    let text = read_bytes(index, MAX_INDEX_BYTES)?.ok_or_else(|| bad("is not there".into()))?;
    let json: Value = parse_json(&text).map_err(|why| bad(format!("is not JSON: {why}")))?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(bad("has no object 'weight_map'".into()));
    };
    map.iter()
        .map(|(tensor, name)| match name {
            Value::String(name) => Ok((tensor.clone(), name.clone())),
            other => Err(bad(format!("weight_map: tensor '{tensor}': expected a file name, found {other}"))),
        })
        .collect()
}

/// A shard is a plain name in the index's own folder. (It may be a link: the Hugging Face cache is made of them.)
fn check_shard_name(name: &str) -> Result<(), String> {
    let plain = !name.contains(['/', '\\', ':', '\0']) && !name.starts_with('.');
    if plain && name.ends_with(".safetensors") {
        return Ok(());
    }
    Err(format!("shard name '{name}' is refused: a shard must be a .safetensors file in the folder of its index"))
}

/// What else lies in a folder without weights we know: the usual reason for not finding them.
fn other_weights(folder: &Path) -> String {
    let known = |name: &PathBuf| {
        let extension = name.extension().and_then(|e| e.to_str()).unwrap_or_default();
        matches!(extension, "safetensors" | "bin" | "gguf" | "pt" | "pth" | "h5" | "msgpack")
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<String> =
        entries.map(|e| PathBuf::from(e.file_name())).filter(known).take(8).map(|n| n.display().to_string()).collect();
    found.sort();
    if found.is_empty() {
        return String::new();
    }
    format!("; it has {} (name a .safetensors file itself to load it)", found.join(", "))
}
