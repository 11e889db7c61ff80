//! Bad shard indexes.

use std::{fs, path::Path};

use serde_json::{json, Map, Value};

use super::{
    maker::{write_index, Maker},
    refuse,
    Kind::*,
};

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const EMBED: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

/// Shards as they should be, and an index that `spoil` has changed.
fn with_index(folder: &Path, spoil: impl FnOnce(&mut Map<String, Value>)) {
    let mut map = Maker::dense().write_shards(folder);
    spoil(&mut map);
    write_index(folder, map);
}

#[test]
fn indexes_that_are_none() {
    let text = |text: &'static str| {
        move |folder: &Path| {
            Maker::dense().write_shards(folder);
            fs::write(folder.join(INDEX), text).unwrap();
        }
    };
    refuse("empty", BadFile, &[INDEX, "JSON"], text(""));
    refuse("not JSON", BadFile, &[INDEX, "JSON"], text("{\"weight_map\": {"));
    refuse("a list", BadFile, &[INDEX, "weight_map"], text("[]"));
    refuse("no weight_map", BadFile, &[INDEX, "weight_map"], text("{\"metadata\": {}}"));
    refuse("weight_map a list", BadFile, &[INDEX, "weight_map"], text("{\"weight_map\": [\"a.safetensors\"]}"));
    refuse("weight_map empty", MissingTensor, &["self_attn.A"], text("{\"weight_map\": {}}"));
    refuse("file name a number", BadFile, &[INDEX, "culprit", "7"], text("{\"weight_map\": {\"culprit\": 7}}"));
    refuse("a byte order mark", BadFile, &[INDEX, "byte order mark"], text("\u{feff}{}"));
    refuse("a folder", BadFile, &[INDEX, "not a file"], |folder| {
        Maker::dense().write_shards(folder);
        fs::create_dir(folder.join(INDEX)).unwrap();
    });
    refuse("a large one", BadFile, &[INDEX, "larger than"], |folder| {
        Maker::dense().write_shards(folder);
        fs::File::create(folder.join(INDEX)).unwrap().set_len((16 << 20) + 1).unwrap();
    });
}

#[test]
fn shards_outside_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let stolen = outside.path().join("stolen.safetensors");
    fs::write(&stolen, Maker::dense().file()).unwrap();
    for name in [
        "../stolen.safetensors",
        "..",
        ".",
        "",
        "sub/model.safetensors",
        "./model.safetensors",
        "sub\\model.safetensors",
        "C:model.safetensors",
        "/dev/zero",
        "model.safetensors\0.safetensors",
        ".hidden.safetensors",
        stolen.to_str().unwrap(),
    ] {
        let spoil = |folder: &Path| with_index(folder, |map| map[EMBED] = json!(name));
        refuse(&format!("'{name}'"), BadFile, &[INDEX, name, "refused"], spoil);
    }
}

#[test]
fn shards_that_are_not_there() {
    refuse("missing", BadFile, &[INDEX, "gone.safetensors"], |f| with_index(f, |map| map[EMBED] = json!("gone.safetensors")));
    refuse("the index itself", BadFile, &[INDEX], |f| with_index(f, |map| map[EMBED] = json!(INDEX)));
    refuse("a folder", BadFile, &["sub.safetensors", "not a file"], |folder| {
        fs::create_dir(folder.join("sub.safetensors")).unwrap();
        with_index(folder, |map| map[EMBED] = json!("sub.safetensors"));
    });
    #[cfg(unix)]
    refuse("a link to itself", BadFile, &["loop.safetensors"], |folder| {
        std::os::unix::fs::symlink("loop.safetensors", folder.join("loop.safetensors")).unwrap();
        with_index(folder, |map| map[EMBED] = json!("loop.safetensors"));
    });
    #[cfg(unix)]
    refuse("a dangling link", BadFile, &["dangling.safetensors"], |folder| {
        std::os::unix::fs::symlink("../blobs/0123", folder.join("dangling.safetensors")).unwrap();
        with_index(folder, |map| map[EMBED] = json!("dangling.safetensors"));
    });
}

#[test]
fn indexes_that_lie() {
    let second = "model-00002-of-00002.safetensors";
    refuse("in the other shard", BadFile, &[INDEX, EMBED, second], |f| with_index(f, |map| map[EMBED] = json!(second)));
    refuse("in no shard", BadFile, &[INDEX, "ghost", FIRST], |f| {
        with_index(f, |map| drop(map.insert("ghost".into(), json!(FIRST))))
    });
    refuse("not listed", MissingTensor, &[NORM], |f| with_index(f, |map| drop(map.remove(NORM))));
    refuse("in two shards", BadFile, &[INDEX, EMBED, "two shards"], |folder| {
        with_index(folder, |map| {
            let twice = Maker { tensors: vec![Maker::dense().tensor(EMBED).clone()], config: Value::Null };
            fs::write(folder.join("twice.safetensors"), twice.with("extra", &[1]).file()).unwrap();
            map.insert("extra".into(), json!("twice.safetensors"));
        });
    });
    refuse("truncated shard", BadFile, &[FIRST, "truncated"], |folder| {
        with_index(folder, |_| {});
        let path = folder.join(FIRST);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    });
}

/// A link to nothing is told of, not passed over for the next that could be meant.
#[cfg(unix)]
#[test]
fn links_to_nothing_are_named() {
    use std::os::unix::fs::symlink;
    for name in ["config.json", "model.safetensors", INDEX] {
        refuse(name, Io, &[name], |folder| {
            Maker::dense().write_shards(folder);
            let _ = fs::remove_file(folder.join(name));
            symlink("nothing", folder.join(name)).unwrap();
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link.safetensors");
    Maker::dense().write_config(folder.path());
    symlink("nothing", &link).unwrap();
    super::refuse_path("the model itself", Io, &["link.safetensors"], &link);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    super::refuse_path("the model itself, alone", Io, &["link.safetensors"], &link);
}

/// The Hugging Face cache is made of links out of the snapshot's folder.
#[cfg(unix)]
#[test]
fn links_to_blobs_are_fine() {
    let root = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots").join("abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("0"), Maker::dense().config.to_string()).unwrap();
    fs::write(blobs.join("1"), Maker::dense().file()).unwrap();
    std::os::unix::fs::symlink("../../blobs/0", snapshot.join("config.json")).unwrap();
    std::os::unix::fs::symlink("../../blobs/1", snapshot.join("model.safetensors")).unwrap();
    let options = doge_engine::model::LoadOptions::default();
    doge_engine::model::Checkpoint::load(&snapshot, &options).unwrap();
    doge_engine::model::Checkpoint::load(&snapshot.join("model.safetensors"), &options).unwrap();
}
