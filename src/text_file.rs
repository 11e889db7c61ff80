//! Reading the small text files of a checkpoint folder.

use std::{
    io::{self, ErrorKind, Read},
    path::Path,
};

use serde::de::DeserializeOwned;

use crate::{
    mapped::{is_there, open_file},
    Error, Result,
};

/// Of `config.json` and `generation_config.json`, which have some 2 kB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text of `path`, or `None` if there is no such file. A file of more than `max_bytes` is refused before it is
/// read, as is what is no regular file: these come from strangers and their sizes are known.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>> {
    let Some(bytes) = read_bytes(path, max_bytes)? else { return Ok(None) };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::Io { path: path.to_owned(), source: io::Error::new(ErrorKind::InvalidData, "it is not UTF-8") })?;
    Ok(Some(text))
}

/// The same for what need not be text.
pub(crate) fn read_bytes(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>> {
    if !is_there(path)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file that grows while it is read is seen too.
    let read = open_file(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::BadFile {
            path: path.to_owned(),
            why: format!("larger than {max_bytes} bytes, which is beyond reason for this file"),
        });
    }
    Ok(Some(bytes))
}

/// Parses JSON; the error is why not. A byte order mark is none, as for Python, but no editor shows it: it is named.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err("it begins with a byte order mark; save it as UTF-8 without one".into());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}
