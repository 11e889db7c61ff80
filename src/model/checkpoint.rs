//! A checkpoint on disk or in the binary, loaded: config, variant, weights, and what `inspect` shows of the files.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    archive::Archive,
    convert,
    json::Object,
    schema::{self, Hold, Row},
    shard::{FileInfo, Stored},
    weights::Source,
    Config, LoadOptions, Names, Variant, Weights,
};
use crate::{
    mapped::{is_there, Mapped},
    matrix_bytes, quantize,
    text_file::{read_bytes, MAX_CONFIG_BYTES},
    Dtype, Error, Result, Tensor,
};

/// A tensor as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// As stored.
    pub name: String,
    /// Of the matrix or vector, in a quantised file too.
    pub shape: Vec<usize>,
    /// In the file.
    pub dtype: Dtype,
    /// In memory.
    pub held: Dtype,
    /// In the file.
    pub bytes: usize,
    /// Index into [`Checkpoint::files`]; `None` in a synthetic checkpoint.
    pub file: Option<usize>,
}

/// A loaded checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// What config.json says.
    pub config: Config,
    /// What the tensors say.
    pub variant: Variant,
    /// The tensors.
    pub weights: Weights,
    /// The weight files, empty for a synthetic checkpoint.
    pub files: Vec<FileInfo>,
    /// Every tensor that is used, in the order of the model.
    pub tensors: Vec<TensorInfo>,
    /// Tensors of the files that are not used: `rotary_emb` buffers, `router_gate.bias` (dropped by the community's
    /// converter too), a stored copy of a tied head, layers beyond `num_hidden_layers`, strangers.
    pub ignored: Vec<String>,
    /// What a user should know and nothing needs to fail for.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Loads a checkpoint folder (`config.json` with `model.safetensors` or shards by `model.safetensors.index.json`),
    /// or one `.safetensors` file with `config.json` beside it.
    ///
    /// # Errors
    /// A named error for whatever is wrong; see [`Error::is_model_error`].
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        Opened::open(path, options)?.load(options)
    }

    /// Loads a checkpoint from the text of its config.json and the bytes of its one safetensors file.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn from_bytes(config: &str, weights: Mapped, options: &LoadOptions) -> Result<Self> {
        let json = Object::parse(config.as_bytes(), Path::new("config.json"))?;
        let config = Config::from_object(&json)?;
        let archive = Archive::of_memory(Arc::new(weights), Path::new("model.safetensors"))?;
        Opened::of_archive(&json, config, archive, options)?.load(options)
    }

    /// Bytes of weights that one decoded token reads, in the formats they are held in (spec §9): everything once, but of
    /// the experts only the rows it is routed to, and of an embedding table that is not the head too, nothing.
    pub fn bytes_per_token(&self) -> usize {
        self.bytes_per_block(1)
    }

    /// The same for `tokens` tokens that go through the layers together. Of the experts: the rows they are routed to if no
    /// two share one, as far as there are so many.
    pub fn bytes_per_block(&self, tokens: usize) -> usize {
        let rows = schema::tensors(&self.config, self.variant).map(|(row, _)| row);
        // `tensors` was filled by the same walk.
        rows.zip(&self.tensors)
            .map(|(row, t)| row.bytes_per_block(tokens, &self.config, &self.variant, t.held))
            .fold(0, usize::saturating_add)
    }

    /// # Errors
    /// [`Error::BadArgument`] if the fields were changed until they contradict each other. A tensor of another shape is refused
    /// by the operation that reads it.
    pub(super) fn check(&self) -> Result<()> {
        self.variant.check(&self.config)?;
        let (layers, told) = (self.weights.layers.len(), self.config.num_hidden_layers);
        if layers != told {
            return Err(Error::BadArgument { what: "num_hidden_layers", why: format!("is {told}; there are {layers} layers") });
        }
        let is_moe = self.config.is_moe;
        if let Some(i) = self.weights.layers.iter().position(|layer| layer.experts.is_some() != is_moe) {
            let why = format!("is {is_moe}; layer {i} has {}", if is_moe { "no experts" } else { "experts" });
            return Err(Error::BadArgument { what: "is_moe", why });
        }
        Ok(())
    }
}

/// A checkpoint whose files are open and whose variant is known, before its weights are taken in.
pub(crate) struct Opened {
    pub config: Config,
    pub variant: Variant,
    archive: Archive,
    notes: Vec<String>,
}

impl Opened {
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        let not_found = |why: &str| Error::ModelNotFound { name: path.display().to_string(), why: why.into() };
        if !is_there(path)? {
            return Err(not_found("no such file or folder"));
        }
        let is_folder = path.metadata().map_err(|source| Error::Io { path: path.to_owned(), source })?.is_dir();
        let folder = if is_folder { path } else { path.parent().unwrap_or(Path::new("")) };
        let config_path = folder.join("config.json");
        let Some(config) = read_bytes(&config_path, MAX_CONFIG_BYTES)? else {
            return Err(not_found("no config.json there (a .safetensors file needs it beside it)"));
        };
        let json = Object::parse(&config, &config_path)?;
        // The config first: a bad one must not cost the reading of a gigabyte.
        let config = Config::from_object(&json)?;
        Self::of_archive(&json, config, Archive::open(path, options.mmap)?, options)
    }

    fn of_archive(json: &Object, mut config: Config, archive: Archive, options: &LoadOptions) -> Result<Self> {
        let mut notes = Vec::new();
        let shape_of = |name: &str| archive.tensors.get(name).map(|t| t.shape.as_slice());
        let mut variant = Variant::detect(&config, archive.tensors.keys().map(String::as_str), shape_of)?;
        if variant.is_moe && !config.is_moe {
            notes.push("config.json does not say is_moe; the tensors hold experts, which are used".to_string());
            config.is_moe = true;
            config.check_experts().map_err(|(key, why)| json.bad(key, why))?;
        }
        if variant.is_v1(&config) {
            config.use_v1_token_ids(json);
        }
        if config.tie_word_embeddings && !variant.tied {
            ArchiveSource { archive: &archive, options, variant: &variant }.check_tied_head(&config)?;
            notes.push("lm_head.weight is stored although the head is tied; it equals the embedding, which is used".to_string());
            variant.tied = true;
        } else if variant.tied && json.flag("tie_word_embeddings")? == Some(false) {
            let note =
                "config.json has tie_word_embeddings false and there is no lm_head.weight: the embedding is used as the head";
            notes.push(note.to_string());
        }
        Ok(Opened { config, variant, archive, notes })
    }

    /// Takes the weights in.
    fn load(self, options: &LoadOptions) -> Result<Checkpoint> {
        let Opened { config, variant, archive, mut notes } = self;
        let source = ArchiveSource { archive: &archive, options, variant: &variant };
        let weights = Weights::build(&config, &variant, &source)?;
        let (tensors, ignored) = inventory(&config, &variant, &archive, options);
        notes.extend(note_on_ignored(&ignored, &variant));
        Ok(Checkpoint { config, variant, weights, files: archive.files, tensors, ignored, notes })
    }

    /// Does it hold packed matrices?
    pub fn is_packed(&self) -> bool {
        self.archive.tensors.values().any(|stored| stored.packed.is_some())
    }

    /// The bytes of one tensor as it would be held.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn bytes(&self, row: &Row, name: &str, shape: &[usize], options: &LoadOptions) -> Result<Vec<u8>> {
        let source = ArchiveSource { archive: &self.archive, options, variant: &self.variant };
        match (row.hold, shape) {
            (Hold::Stored, &[rows, cols]) => Ok(source.matrix(row, name, [rows, cols])?.matrix().bytes().to_vec()),
            _ => Ok(bytemuck::cast_slice(&source.vector(row, name, shape)?).to_vec()),
        }
    }
}

/// The tensors that were used, in the order of the table, and the names of the others.
fn inventory(config: &Config, variant: &Variant, archive: &Archive, options: &LoadOptions) -> (Vec<TensorInfo>, Vec<String>) {
    let mut unused: BTreeMap<&str, &Stored> = archive.tensors.iter().map(|(name, stored)| (name.as_str(), stored)).collect();
    let mut tensors = Vec::new();
    for (row, layer) in schema::tensors(config, *variant) {
        let name = row.full_name(variant.names, layer);
        let Some(stored) = unused.remove(name.as_str()) else { continue };
        let Some(dtype) = stored.format() else { continue };
        let (shape, file) = (stored.shape.clone(), Some(stored.file_index));
        tensors.push(TensorInfo { name, shape, dtype, held: held(row, dtype, options.dtype), bytes: stored.len, file });
    }
    let mut ignored: Vec<String> = unused.into_keys().map(str::to_string).collect();
    ignored.extend(archive.unlisted.iter().cloned());
    (tensors, ignored)
}

/// What to say of the tensors left out, if some of them may have been meant to act.
fn note_on_ignored(ignored: &[String], variant: &Variant) -> Option<String> {
    let is_harmless = |name: &str| {
        name.contains("rotary_emb") || name.ends_with("router_gate.bias") || (variant.tied && name == schema::LM_HEAD.name)
    };
    let strangers: Vec<&String> = ignored.iter().filter(|name| !is_harmless(name)).collect();
    let count = strangers.len();
    let (tensors, are) = if count == 1 { ("tensor", "is") } else { ("tensors", "are") };
    let first = strangers.first()?;
    let why = "config.json asks for no such tensor; `doge inspect` lists them";
    Some(format!("{count} {tensors} {are} not used, such as '{first}': {why}"))
}

/// The format in memory of a tensor that is stored as `stored`.
fn held(row: &Row, stored: Dtype, asked: Option<Dtype>) -> Dtype {
    match row.hold {
        Hold::Stored => asked.unwrap_or(stored),
        Hold::F32 => Dtype::F32,
    }
}

/// Weights from files: in place where they can be.
struct ArchiveSource<'a> {
    archive: &'a Archive,
    options: &'a LoadOptions,
    variant: &'a Variant,
}

impl ArchiveSource<'_> {
    /// The tensor, if it is there in a known format and with the right shape, and finite.
    fn stored(&self, row: &Row, name: &str, shape: &[usize]) -> Result<(&Stored, Dtype)> {
        let bad = |why: String| Error::BadTensor { name: name.to_string(), why };
        let Some(stored) = self.archive.tensors.get(name) else {
            let (variant, count) = (self.variant, self.archive.tensors.len());
            let why = format!("read as: {variant}; {count} tensors found");
            return Err(Error::MissingTensor { name: name.to_string(), why });
        };
        if stored.shape != shape {
            let sides = row.sides.iter().map(|side| side.name()).collect::<Vec<_>>().join(", ");
            return Err(bad(format!("shape {:?}; the config asks for {shape:?} ({sides})", stored.shape)));
        }
        let Some(dtype) = stored.format() else {
            return Err(bad(format!("type {} is not supported; expected F32, BF16 or F16", stored.dtype)));
        };
        if stored.packed.is_some() {
            self.check_packed(row, name, shape, stored, dtype)?;
        } else if let (Some(float), true) = (stored.float(), self.options.check_finite) {
            if let Some(index) = convert::first_non_finite(float, stored.bytes()) {
                return Err(Error::NonFiniteValue { place: format!("tensor '{name}', element {index}") });
            }
        }
        Ok((stored, dtype))
    }

    /// Packed bytes must be as many as their shape takes, of a tensor that may be packed, and with finite scales.
    fn check_packed(&self, row: &Row, name: &str, shape: &[usize], stored: &Stored, dtype: Dtype) -> Result<()> {
        let bad = |why: String| Error::BadTensor { name: name.to_string(), why };
        let (Hold::Stored, &[rows, cols]) = (row.hold, shape) else {
            return Err(bad(format!("is packed as {dtype}; it must be f32")));
        };
        let layout = row.layout(dtype);
        if matrix_bytes(dtype, layout, rows, cols) != Some(stored.len) {
            return Err(bad(format!("{} bytes do not fill {dtype} of shape {shape:?}", stored.len)));
        }
        if self.options.check_finite && !quantize::is_finite(dtype, layout, cols, stored.bytes()) {
            return Err(Error::NonFiniteValue { place: format!("a scale of tensor '{name}'") });
        }
        Ok(())
    }

    /// Both a tied config and a head of its own: fine only if it is the same matrix.
    fn check_tied_head(&self, config: &Config) -> Result<()> {
        let names = match self.variant.names {
            Names::New => schema::EMBED_TOKENS.name,
            Names::Old => schema::EMBED_TOKENS.old_name,
        };
        let shape = [config.vocab_size, config.hidden_size];
        let (embed, embed_dtype) = self.stored(&schema::EMBED_TOKENS, names, &shape)?;
        let (head, head_dtype) = self.stored(&schema::LM_HEAD, schema::LM_HEAD.name, &shape)?;
        if embed_dtype == head_dtype && embed.bytes() == head.bytes() {
            return Ok(());
        }
        Err(Error::BadTensor {
            name: schema::LM_HEAD.name.to_string(),
            why: format!(
                "differs from '{names}' although config.json has tie_word_embeddings true; set it to false to use this head"
            ),
        })
    }
}

impl Source for ArchiveSource<'_> {
    fn matrix(&self, row: &Row, name: &str, shape: [usize; 2]) -> Result<Tensor> {
        let (stored, dtype) = self.stored(row, name, &shape)?;
        let want = held(row, dtype, self.options.dtype);
        let layout = row.layout(want);
        let tensor = match stored.float() {
            _ if want == dtype => Tensor::mapped(stored.file.clone(), stored.offset, dtype, layout, shape[0], shape[1]),
            None => {
                let why = format!("is {dtype} in the file, which cannot become {want}; use the checkpoint it was made from");
                return Err(Error::BadTensor { name: name.to_string(), why });
            }
            Some(from) => {
                let bytes = match want.float() {
                    Some(to) => convert::convert(name, from, stored.bytes(), to)?,
                    None => quantize::matrix(name, from, stored.bytes(), shape, want, layout)?,
                };
                Tensor::owned(want, layout, shape[0], shape[1], bytes)
            }
        };
        // The checks above make this unreachable; the error keeps it one.
        tensor.ok_or_else(|| Error::BadTensor { name: name.to_string(), why: "does not lie inside its file".into() })
    }

    fn vector(&self, row: &Row, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (stored, dtype) = self.stored(row, name, shape)?;
        let bad = || Error::BadTensor { name: name.to_string(), why: format!("is packed as {dtype}; it must be f32") };
        convert::to_f32(stored.float().ok_or_else(bad)?, stored.bytes())
    }
}
