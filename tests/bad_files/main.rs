//! Bad checkpoints: each gives the error of its kind, the message names the culprit, and nothing costs memory.

mod configs;
mod maker;
mod shards;
mod tensors;

use std::{fs, path::Path};

use doge_engine::{
    model::{Checkpoint, LoadOptions},
    Error,
};
use maker::Maker;

/// The kinds of error a checkpoint can give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    BadConfig,
    BadFile,
    BadTensor,
    MissingTensor,
    NonFinite,
    NotFound,
    Unsupported,
    Io,
    Other,
}

impl Kind {
    fn of(error: &Error) -> Self {
        match error {
            Error::BadConfig { .. } => Kind::BadConfig,
            Error::BadFile { .. } => Kind::BadFile,
            Error::BadTensor { .. } => Kind::BadTensor,
            Error::MissingTensor { .. } => Kind::MissingTensor,
            Error::NonFiniteValue { .. } => Kind::NonFinite,
            Error::ModelNotFound { .. } => Kind::NotFound,
            Error::UnsupportedModel { .. } => Kind::Unsupported,
            Error::Io { .. } => Kind::Io,
            _ => Kind::Other,
        }
    }
}

/// A folder made by `make` must fail to load with an error of this kind whose message has every word of `culprit`.
pub fn refuse(case: &str, kind: Kind, culprit: &[&str], make: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    refuse_path(case, kind, culprit, folder.path());
}

pub fn refuse_path(case: &str, kind: Kind, culprit: &[&str], path: &Path) {
    for mmap in [true, false] {
        let before = virtual_peak();
        let result = Checkpoint::load(path, &LoadOptions::default().mmap(mmap));
        let error = result.err().unwrap_or_else(|| panic!("{case}: loads"));
        let message = error.to_string();
        assert_eq!(Kind::of(&error), kind, "{case}: {message}");
        for word in culprit {
            assert!(message.contains(word), "{case}: '{word}' is not in: {message}");
        }
        assert!(message.len() < 2000, "{case}: a message of {} bytes", message.len());
        // Tests beside this one have stacks of their own; a gigabyte they have not.
        let grown = virtual_peak() - before;
        assert!(grown < 500 << 20, "{case}: took {grown} bytes of address space");
    }
}

/// Most address space this process ever had, in bytes (0 where the system does not tell): unlike resident memory it
/// shows a buffer that was taken and never touched.
fn virtual_peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).map_or(0, |kib: u64| kib << 10)
}

/// Without this every test here could pass for the wrong reason.
#[test]
fn what_is_spoilt_was_sound() {
    for maker in [Maker::dense(), Maker::moe()] {
        let folder = tempfile::tempdir().unwrap();
        maker.write(folder.path());
        let checkpoint = Checkpoint::load(folder.path(), &LoadOptions::default()).unwrap();
        assert!(checkpoint.ignored.is_empty() && checkpoint.notes.is_empty());
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let map = maker.write_shards(folder.path());
        maker::write_index(folder.path(), map);
        let sharded = Checkpoint::load(folder.path(), &LoadOptions::default()).unwrap();
        assert_eq!(sharded.files.len(), 2);
        assert_eq!(sharded.bytes_per_token(), checkpoint.bytes_per_token());
    }
}

/// Nothing fails for a tensor too many, but whoever trained it should know that it does nothing.
#[test]
fn tensors_of_no_use_are_noted() {
    let notes = |maker: Maker| {
        let folder = tempfile::tempdir().unwrap();
        maker.write(folder.path());
        Checkpoint::load(folder.path(), &LoadOptions::default()).unwrap().notes
    };
    let adapter = "model.layers.0.self_attn.q_proj.lora_A.weight";
    let known =
        Maker::moe().with("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]).with("model.layers.0.mlp.router_gate.bias", &[6]);
    assert!(notes(known.clone()).is_empty());
    let found = notes(known.with(adapter, &[2, 8]));
    assert!(found.len() == 1 && found[0].starts_with("1 tensor is not used") && found[0].contains(adapter), "{found:?}");
    let found = notes(Maker::dense().set("num_hidden_layers", 1));
    assert!(found.len() == 1 && found[0].starts_with("15 tensors are not used") && found[0].contains("layers.1."), "{found:?}");
}
