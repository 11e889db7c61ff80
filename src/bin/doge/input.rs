//! Texts that the user names.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::failure::Failure;

/// Of a text. It may come from a pipe or a device, which may have no end.
const MAX_BYTES: u64 = 256 << 20;

/// The text of a file.
pub fn file(path: &Path) -> Result<String, Failure> {
    let file = File::open(path).map_err(|source| Failure::Input { from: path.to_path_buf(), source })?;
    read(file, path)
}

/// All of the text that comes `from` there.
pub fn read(reader: impl Read, from: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match reader.take(MAX_BYTES + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > MAX_BYTES => {
            Err(io::Error::other(format!("more than {MAX_BYTES} bytes; take a part of it")))
        }
        other => other,
    };
    read.map_err(|source| Failure::Input { from: from.to_path_buf(), source })?;
    Ok(text)
}
