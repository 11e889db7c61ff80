//! From the options to a model that is ready to run.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use doge_engine::{
    hub::{self, Environment, Resolved},
    model::{Checkpoint, Config, LoadOptions, Model},
    ops::Cpu,
    ChatTemplate, Device, DeviceWord, Error, Float, GenerationConfig, Isa, Kernels, Result, Tokenizer,
};

use crate::{
    failure::Failure,
    options::{CpuOptions, ModelOptions},
    report,
};

/// Where the checkpoint comes from.
#[derive(Debug)]
pub enum Source {
    /// A folder or a .safetensors file.
    Path(PathBuf),
    #[cfg(feature = "embedded-model")]
    Embedded,
}

impl Source {
    pub fn find(options: &ModelOptions, quiet: bool) -> Result<Self, Failure> {
        let Some(model) = &options.model else { return embedded() };
        resolve(model, options.revision.as_deref(), options.download, quiet).map(Source::Path)
    }

    pub fn name(&self) -> String {
        match self {
            Source::Path(path) => path.display().to_string(),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => format!("{} (embedded)", doge_engine::embedded::NAME),
        }
    }

    pub fn checkpoint(&self, options: &LoadOptions) -> Result<Checkpoint, Failure> {
        let checkpoint = match self {
            Source::Path(path) => Checkpoint::load(path, options),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => doge_engine::embedded::checkpoint(options),
        };
        checkpoint.map_err(Failure::of_checkpoint)
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match self {
            Source::Path(path) => Tokenizer::from_folder(folder(path)),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => doge_engine::embedded::tokenizer(),
        }
    }

    /// The checkpoint's chat template, or `template` with the checkpoint's special tokens.
    pub fn chat_template(&self, template: Option<&str>) -> Result<ChatTemplate> {
        match self {
            Source::Path(path) => ChatTemplate::from_folder(folder(path), template),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => doge_engine::embedded::chat_template(template),
        }
    }

    /// What the checkpoint says about generating. The ids that V1's config class has by default come in here.
    pub fn generation_config(&self, checkpoint: &Checkpoint) -> Result<GenerationConfig> {
        let config = match self {
            Source::Path(path) => GenerationConfig::from_folder(folder(path)),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => doge_engine::embedded::generation_config(),
        };
        Ok(config?.with_ids_of(&checkpoint.config))
    }

    /// [`GenerationConfig::with_bos`], with a token that the model has.
    pub fn with_bos(&self, generation: &GenerationConfig, config: &Config, ids: Vec<u32>) -> Result<Vec<u32>> {
        let (ids, vocab_size) = (generation.with_bos(ids), config.vocab_size);
        match generation.bos_token_id.filter(|&bos| bos as usize >= vocab_size && ids.first() == Some(&bos)) {
            None => Ok(ids),
            Some(bos) => {
                let file = if config.bos_token_id == Some(bos) { "config.json" } else { "generation_config.json" };
                let path = match self {
                    Source::Path(path) => folder(path).join(file),
                    #[cfg(feature = "embedded-model")]
                    Source::Embedded => file.into(),
                };
                Err(Error::BadConfig { path, why: format!("bos_token_id {bos} is outside the vocabulary of {vocab_size}") })
            }
        }
    }
}

/// The path of a checkpoint that a path or `owner/name` means.
pub fn resolve(model: &Path, revision: Option<&str>, downloads: bool, quiet: bool) -> Result<PathBuf, Failure> {
    let Some(name) = model.to_str() else { return Ok(model.to_path_buf()) }; // no repository's name
    let environment = Environment::from_process();
    let resolved = match hub::resolve(name, revision, &environment) {
        Err(Error::ModelNotFound { .. }) if downloads => download(name, revision, &environment, quiet)?,
        other => other?,
    };
    if let Some(note) = resolved.note.filter(|_| !quiet) {
        report::note(note);
    }
    Ok(resolved.path)
}

#[cfg(feature = "embedded-model")]
fn embedded() -> Result<Source, Failure> {
    Ok(Source::Embedded)
}

#[cfg(not(feature = "embedded-model"))]
fn embedded() -> Result<Source, Failure> {
    Err(Failure::Usage("this build has no embedded model; name one with -m".into()))
}

#[cfg(feature = "download")]
fn download(name: &str, revision: Option<&str>, environment: &Environment, quiet: bool) -> Result<Resolved, Failure> {
    let fetched = hub::download::download(name, revision, environment, &mut |progress| {
        if !quiet {
            report::progress(progress.file, progress.done, progress.total);
        }
    });
    report::end_progress();
    Ok(fetched?)
}

#[cfg(not(feature = "download"))]
fn download(name: &str, _: Option<&str>, _: &Environment, _: bool) -> Result<Resolved, Failure> {
    let why = format!("this build has no network code; build with --features download, or: hf download {name}");
    Err(Error::Download { why }.into())
}

/// The folder of a checkpoint given as folder or file.
fn folder(path: &Path) -> &Path {
    if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(Path::new(""))
    }
}

/// The kernels and threads that the options ask for, to run `model`.
pub fn cpu(options: &CpuOptions, kernels: Kernels, model: &Model) -> Result<Cpu, Failure> {
    Ok(options.asked_threads().cpu(model, kernels, options.activations.into())?)
}

/// The device that the options ask for. Where `auto` passes over a GPU, as for K and V in 16 bits, it says why.
pub fn device(word: DeviceWord, kv_dtype: Float, quiet: bool) -> Result<Device, Failure> {
    if word != DeviceWord::Auto {
        return Ok(Device::open(word)?);
    }
    let (device, why) = match Device::best() {
        (Device::Cpu, why) => (Device::Cpu, why.map(|why| why.to_string())),
        (gpu, _) if kv_dtype == Float::F32 => (gpu, None),
        _ => (Device::Cpu, Some(format!("a GPU has no K and V in {kv_dtype}"))),
    };
    if let Some(why) = why.filter(|_| !quiet) {
        report::note(format_args!("on the CPU: {why}"));
    }
    Ok(device)
}

/// A model on the device. Where `auto` chose one that cannot hold or run it, it stays on the CPU, and says why.
pub fn place(checkpoint: Checkpoint, device: &Device, word: DeviceWord, quiet: bool) -> Result<Model, Failure> {
    let model = Model::new(checkpoint);
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let placed = model.on(device, |done, all| {
                if !quiet {
                    report::progress("weights to the GPU", done as u64, Some(all as u64));
                }
            });
            if !quiet {
                report::end_progress();
            }
            match placed {
                Err(why @ (Error::UnsupportedOnDevice { .. } | Error::OutOfMemory { .. })) if word == DeviceWord::Auto => {
                    if !quiet {
                        report::note(format_args!("on the CPU: {why}"));
                    }
                    Ok(model)
                }
                placed => Ok(placed?),
            }
        }
        other => Ok(other.place(model)?),
    }
}

/// The kernels of a level, or of the one that `DOGE_ISA` asks for, or of the fastest that runs.
pub fn kernels(isa: Option<Isa>) -> Result<Kernels, Failure> {
    let kernels = match isa {
        Some(isa) => Kernels::for_isa(isa),
        None => Kernels::detect(),
    };
    kernels.map_err(|error| match error {
        Error::UnknownWord { .. } => Failure::Usage(format!("DOGE_ISA: {error}")),
        other => other.into(),
    })
}

/// Everything that generating text needs.
pub struct Engine {
    pub source: Source,
    pub model: Model,
    pub cpu: Cpu,
    pub tokenizer: Tokenizer,
    pub generation_config: GenerationConfig,
    /// From the options to here.
    pub load: Duration,
}

impl Engine {
    pub fn load(model: &ModelOptions, cpu: &CpuOptions, kv_dtype: Float, quiet: bool) -> Result<Self, Failure> {
        let start = Instant::now();
        // If not, better said before a large file is read.
        let (word, device, kernels) = (cpu.device, self::device(cpu.device, kv_dtype, quiet)?, kernels(cpu.isa)?);
        let source = Source::find(model, quiet)?;
        let checkpoint = source.checkpoint(&model.load_options())?;
        let generation_config = source.generation_config(&checkpoint)?;
        let tokenizer = source.tokenizer()?;
        if !quiet {
            checkpoint.notes.iter().for_each(report::note);
            if !generation_config.unsupported.is_empty() {
                let names = generation_config.unsupported.join(", ");
                report::note(format_args!("generation_config.json sets what this engine does not have: {names}"));
            }
        }
        let model = place(checkpoint, &device, word, quiet)?;
        let cpu = self::cpu(cpu, kernels, &model)?;
        Ok(Engine { source, model, cpu, tokenizer, generation_config, load: start.elapsed() })
    }

    /// The ids of a text to be continued: it begins with the checkpoint's begin-of-text token, written by the tokenizer
    /// or, where the tokenizer does not know of it, put there. A token that also ends texts is none to begin with.
    pub fn encode_prompt(&self, text: &str, add_bos: bool, parse_special: bool) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(text, add_bos, parse_special)?;
        if !add_bos {
            return Ok(ids);
        }
        self.source.with_bos(&self.generation_config, self.model.config(), ids)
    }

    /// Where the model runs.
    pub fn device(&self) -> String {
        #[cfg(feature = "cuda")]
        if let Some(device) = self.model.device() {
            return format!("{device:?}");
        }
        "cpu".into()
    }

    /// One line: what runs, and on what.
    pub fn describe(&self) -> String {
        let (checkpoint, cpu) = (self.model.checkpoint(), &self.cpu);
        let on = match self.device().as_str() {
            "cpu" => {
                let (isa, threads, batch) = (cpu.kernels().isa(), cpu.threads(), cpu.for_rows(2).threads());
                format!("{isa} with {threads} threads, {batch} for a prompt")
            }
            device => device.to_string(),
        };
        format!(
            "{}: {} ({}), {} parameters, {}; {on}",
            self.source.name(),
            checkpoint.variant.generation(&checkpoint.config),
            checkpoint.variant,
            checkpoint.variant.parameters(&checkpoint.config),
            checkpoint.weights.embed_tokens.dtype(),
        )
    }
}
