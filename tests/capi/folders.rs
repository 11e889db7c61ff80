//! What a tokenizer learns from the files of a folder.

use std::{fs, path::Path};

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

/// V1's config class has ids by default, and only the weights say that it is one.
#[test]
fn the_weights_tell_of_v1s_token_ids() {
    let (here, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    let (folder, golden) = (folder.path(), here.join("tests/golden"));
    let (weights, generation) = (folder.join("model.safetensors"), folder.join("generation_config.json"));
    // It writes no begin-of-text token by itself.
    fs::copy(here.join("models/doge-bard/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let config = |case: &str| {
        let text = fs::read(golden.join(case).join("config.json")).unwrap();
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
        ["bos_token_id", "eos_token_id"].into_iter().for_each(|key| _ = config.remove(key).unwrap());
        fs::write(folder.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    };
    let none = Ok((vec![], vec![]));

    assert_eq!(ends(folder), none, "nothing but a tokenizer");
    config("v1_gqa");
    assert_eq!(ends(folder), none, "no weights");
    fs::copy(golden.join("v1_gqa/model.safetensors"), &weights).unwrap();
    assert_eq!(ends(folder), Ok((vec![0], vec![1])), "V1");
    fs::write(&generation, r#"{"eos_token_id": [7, 8]}"#).unwrap();
    assert_eq!(ends(folder), Ok((vec![0], vec![7, 8])), "a file comes first");

    config("v2_gqa");
    fs::copy(golden.join("v2_gqa/model.safetensors"), &weights).unwrap();
    assert_eq!(ends(folder), Ok((vec![], vec![7, 8])), "V2");
    fs::write(&weights, "no safetensors").unwrap();
    assert_eq!(ends(folder), Err(DogeStatus::BadModel));
    assert!(last_error().contains("model.safetensors"), "{}", last_error());
    fs::write(&generation, r#"{"bos_token_id": 3, "eos_token_id": 4}"#).unwrap();
    assert_eq!(ends(folder), Ok((vec![3], vec![4])), "the weights have no say");
}
