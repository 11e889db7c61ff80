//! The corpus of the fuzz targets, and what fuzzing found, on every `cargo test`; each seed also cut and changed in a few hundred
//! ways.
#![cfg(all(feature = "text", feature = "embedded-model"))]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{fs, path::Path};

use doge_engine::{quantize, Dtype};

/// Changes of each seed: as many as a debug build does in a second or two for all seeds of a target.
const CHANGES: usize = 40;

/// With DOGE_BLESS=1: the seeds that only the library can write.
#[test]
fn seeds_of_our_own_formats() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let (saved, folder) = (&targets::GOOD[targets::BEFORE..targets::GOOD.len() - 8], tempfile::tempdir().unwrap());
    let packed = |dtype: Dtype| {
        let source = folder.path().join("v2");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("config.json"), targets::CONFIG).unwrap();
        fs::copy(corpus.join("safetensors/v2"), source.join("model.safetensors")).unwrap();
        let target = folder.path().join(dtype.name());
        quantize::write(&source, dtype, &target).unwrap();
        fs::read(target.join("model.safetensors")).unwrap()
    };
    let seeds = [
        ("saved_session/five_tokens", saved.to_vec()),
        ("safetensors/int8", packed(Dtype::Int8)),
        ("safetensors/int4", packed(Dtype::Int4)),
    ];
    for (name, bytes) in seeds {
        if std::env::var_os("DOGE_BLESS").is_some() {
            fs::create_dir_all(corpus.join(name).parent().unwrap()).unwrap();
            fs::write(corpus.join(name), &bytes).unwrap();
        }
        // A seed of an old format finds nothing but the version check.
        assert_eq!(fs::read(corpus.join(name)).ok().map(|seed| seed.len()), Some(bytes.len()), "{name}: run with DOGE_BLESS=1");
    }
}

#[test]
fn no_seed_breaks_anything() {
    for &(name, target) in targets::TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut seeds = 0;
        for entry in fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display())) {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            target(&seed);
            seeds += 1;
            for i in 0..CHANGES.min(seed.len()) {
                let at = i * seed.len() / CHANGES.min(seed.len());
                target(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] = changed[at].wrapping_add(1 + (i as u8).wrapping_mul(37));
                target(&changed);
            }
        }
        assert!(seeds > 0, "{name} has no corpus");
    }
}
