//! What a tokenizer learns from the files of a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

/// The tokens that begin and end a text.
fn ends(folder: &Path) -> Result<(Vec<u32>, Vec<u32>), DogeStatus> {
    let (folder, mut tokenizer) = (std::ffi::CString::new(folder.to_str().unwrap()).unwrap(), null_mut());
    match call!(doge_tokenizer_load(folder.as_ptr(), &mut tokenizer)) {
        DogeStatus::Ok => {}
        status => return Err(status),
    }
    let (mut bos, mut eos, mut n_bos, mut n_eos) = ([0; 4], [0; 4], 0, 0);
    assert_eq!(call!(doge_tokenizer_encode(tokenizer, null(), 0, 1, 1, bos.as_mut_ptr(), 4, &mut n_bos)), DogeStatus::Ok);
    assert_eq!(call!(doge_tokenizer_eos(tokenizer, eos.as_mut_ptr(), 4, &mut n_eos)), DogeStatus::Ok);
    call!(doge_tokenizer_free(tokenizer));
    Ok((bos[..n_bos].to_vec(), eos[..n_eos].to_vec()))
}

/// A tokenizer that writes no begin-of-text token by itself.
fn bard_tokenizer(folder: &Path) {
    fs::copy(here("models/doge-bard/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
}

/// The config of a golden case, without token ids.
fn config_without_ids(case: &str, folder: &Path) {
    let text = fs::read(here("tests/golden").join(case).join("config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    ["bos_token_id", "eos_token_id"].into_iter().for_each(|key| _ = config.remove(key).unwrap());
    fs::write(folder.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// V1's config class has ids by default, and only the weights say that it is one.
#[test]
fn the_weights_tell_of_v1s_token_ids() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, golden) = (folder.path(), here("tests/golden"));
    let (weights, generation) = (folder.join("model.safetensors"), folder.join("generation_config.json"));
    bard_tokenizer(folder);
    let none = Ok((vec![], vec![]));

    assert_eq!(ends(folder), none, "nothing but a tokenizer");
    config_without_ids("v1_gqa", folder);
    assert_eq!(ends(folder), none, "no weights");
    fs::copy(golden.join("v1_gqa/model.safetensors"), &weights).unwrap();
    assert_eq!(ends(folder), Ok((vec![0], vec![1])), "V1");
    fs::write(&generation, r#"{"eos_token_id": [7, 8]}"#).unwrap();
    assert_eq!(ends(folder), Ok((vec![0], vec![7, 8])), "a file comes first");

    config_without_ids("v2_gqa", folder);
    fs::copy(golden.join("v2_gqa/model.safetensors"), &weights).unwrap();
    assert_eq!(ends(folder), Ok((vec![], vec![7, 8])), "V2");
    fs::write(&weights, "no safetensors").unwrap();
    assert_eq!(ends(folder), Err(DogeStatus::BadModel));
    assert!(last_error().contains("model.safetensors"), "{}", last_error());
    fs::write(&generation, r#"{"bos_token_id": 3, "eos_token_id": 4}"#).unwrap();
    assert_eq!(ends(folder), Ok((vec![3], vec![4])), "the weights have no say");
}

/// What doge_model_load takes, so does doge_tokenizer_load: a file of any name, and the folder it lies in.
#[test]
fn weights_of_another_name_tell_too() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, golden) = (folder.path(), here("tests/golden"));
    let (mine, other) = (folder.join("mine.safetensors"), folder.join("other.safetensors"));
    bard_tokenizer(folder);
    config_without_ids("v1_gqa", folder);
    fs::copy(golden.join("v1_gqa/model.safetensors"), &mine).unwrap();
    let v1 = Ok((vec![0], vec![1]));
    assert_eq!(ends(folder), v1, "the only one");
    assert_eq!(ends(&mine), v1, "by its name");
    fs::copy(golden.join("v2_gqa/model.safetensors"), &other).unwrap();
    assert_eq!(ends(folder), Ok((vec![], vec![])), "one of two");
    assert_eq!(ends(&mine), v1, "by its name, beside another");
    // No file: it is not the tokenizer beside it that is wanted.
    assert_eq!(ends(&folder.join("none.safetensors")), Err(DogeStatus::BadModel));
    assert!(last_error().contains("none.safetensors"), "{}", last_error());
}
