//! Text to token ids and back.

use std::{
    ffi::c_char,
    path::{Path, PathBuf},
};

use super::{
    options::{borrow, fill, free, give, optional_str, slice},
    status::{guard, DogeStatus, Failure},
};
use crate::{
    embedded,
    model::{checkpoint::Opened, LoadOptions},
    Error, GenerationConfig, Tokenizer,
};

/// A checkpoint's tokenizer, and the tokens that begin and end its texts. Immutable: may be used by any number of threads at once.
pub struct DogeTokenizer {
    pub(super) tokenizer: Tokenizer,
    config: GenerationConfig,
}

/// Reads tokenizer.json, generation_config.json and config.json of a checkpoint, by the path that doge_model_load takes: a folder,
/// or one .safetensors file with these beside it. Where they do not name the tokens that begin and end texts, the weights, if they
/// are there, tell whether the model is a V1, whose texts begin with token 0 and end with token 1. Those of a folder are
/// model.safetensors, its shards, or else the only .safetensors file there; of several with names of their own none is
/// looked at, and the tokens stay unknown. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_tokenizer_load(path: *const c_char, out: *mut *mut DogeTokenizer) -> DogeStatus {
    let make = || {
        // SAFETY: a string (header).
        let path = unsafe { optional_str("path", path) }?.ok_or_else(|| Failure::null("path"))?;
        let path = Path::new(path);
        let folder = path.parent().filter(|_| path.is_file()).unwrap_or(path);
        Ok(DogeTokenizer { tokenizer: Tokenizer::from_folder(folder)?, config: generation_config(folder, path)? })
    };
    // SAFETY: NULL or valid (header).
    guard(|| unsafe { give(out, make) })
}

/// What the folder says of generating. Where a token id depends on it, the weights of `path` are looked at: names and shapes.
fn generation_config(folder: &Path, path: &Path) -> crate::Result<GenerationConfig> {
    let config = GenerationConfig::from_folder(folder)?;
    if config.bos_token_id.is_some() && !config.eos_token_ids.is_empty() {
        return Ok(config);
    }
    let open = |path: &Path| Opened::open(path, &LoadOptions::default().check_finite(false));
    let opened = match (open(path), only_weights(path)) {
        (Err(Error::ModelNotFound { .. }), Some(file)) => open(&file),
        (opened, _) => opened,
    };
    match opened {
        Ok(opened) => Ok(config.with_ids_of(&opened.config)),
        // A tokenizer may stand alone.
        Err(Error::ModelNotFound { .. }) => Ok(config),
        Err(error) => Err(error),
    }
}

/// The only .safetensors file of a folder. Of several, nobody has said which is the model.
fn only_weights(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut found = entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    found.next().filter(|_| found.next().is_none())
}

/// The tokenizer of the model inside the library. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_tokenizer_embedded(out: *mut *mut DogeTokenizer) -> DogeStatus {
    let make = || Ok(DogeTokenizer { tokenizer: embedded::tokenizer()?, config: embedded::generation_config()? });
    // SAFETY: NULL or valid (header).
    guard(|| unsafe { give(out, make) })
}

/// Ends a tokenizer. NULL is nothing. From any thread, once.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_tokenizer_free(tokenizer: *mut DogeTokenizer) {
    // SAFETY: NULL or valid, and not used again (header).
    unsafe { free(tokenizer) }
}

/// The ids of `n_bytes` bytes of UTF-8: at most `capacity` to `ids`, their number to `*n`; DOGE_STATUS_BUFFER_TOO_SMALL if they are
/// more. `add_special` not 0: for a text to be continued, with the begin-of-text token in front. `parse_special` not 0: a special
/// token spelled out in the text is that token. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_tokenizer_encode(
    tokenizer: *const DogeTokenizer,
    text: *const u8,
    n_bytes: usize,
    add_special: i32,
    parse_special: i32,
    ids: *mut u32,
    capacity: usize,
    n: *mut usize,
) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid; n_bytes bytes (header).
        let (DogeTokenizer { tokenizer, config }, text) =
            unsafe { (borrow("tokenizer", tokenizer)?, slice("text", text, n_bytes)?) };
        let not_utf8 = |_| Failure::new(DogeStatus::BadArgument, "text is not UTF-8");
        let found = tokenizer.encode(std::str::from_utf8(text).map_err(not_utf8)?, add_special != 0, parse_special != 0)?;
        let found = if add_special == 0 { found } else { config.with_bos(found) };
        // SAFETY: `capacity` ids and a number (header).
        unsafe { fill(&found, ids, capacity, n) }
    })
}

/// The tokens that end a text, for DogeGenerateOptions: at most `capacity` to `ids`, their number to `*n`;
/// DOGE_STATUS_BUFFER_TOO_SMALL if they are more. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_tokenizer_eos(
    tokenizer: *const DogeTokenizer,
    ids: *mut u32,
    capacity: usize,
    n: *mut usize,
) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let DogeTokenizer { config, .. } = unsafe { borrow("tokenizer", tokenizer) }?;
        // SAFETY: `capacity` ids and a number (header).
        unsafe { fill(&config.eos_token_ids, ids, capacity, n) }
    })
}

/// The text of `n_ids` ids in UTF-8, without a NUL: at most `capacity` bytes to `text`, their number to `*n`;
/// DOGE_STATUS_BUFFER_TOO_SMALL if they are more. `skip_special` not 0: without special tokens. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_tokenizer_decode(
    tokenizer: *const DogeTokenizer,
    ids: *const u32,
    n_ids: usize,
    skip_special: i32,
    text: *mut u8,
    capacity: usize,
    n: *mut usize,
) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid; n_ids ids (header).
        let (DogeTokenizer { tokenizer, .. }, ids) = unsafe { (borrow("tokenizer", tokenizer)?, slice("ids", ids, n_ids)?) };
        let found = tokenizer.decode(ids, skip_special != 0)?;
        // SAFETY: `capacity` bytes and a number (header).
        unsafe { fill(found.as_bytes(), text, capacity, n) }
    })
}
