//! Reading the small text files of a checkpoint folder.

use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// The text of `path`, or `None` if there is no such file. A file of more than `max_bytes` is refused before it is
/// read, as is what is no regular file: these come from strangers and their sizes are known.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>> {
    let io_error = |source| Error::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        // Opening a pipe would wait for a writer.
        Ok(_) => return Err(Error::BadFile { path: path.to_owned(), why: "is not a file".into() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(e)),
    }
    let file = std::fs::File::open(path).map_err(io_error)?;
    let mut text = String::new();
    // One byte more than allowed, so that a file that grows while it is read is seen too.
    file.take(max_bytes.saturating_add(1)).read_to_string(&mut text).map_err(io_error)?;
    if text.len() as u64 > max_bytes {
        return Err(Error::BadFile {
            path: path.to_owned(),
            why: format!("larger than {max_bytes} bytes, which is beyond reason for this file"),
        });
    }
    Ok(Some(text))
}
