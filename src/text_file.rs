//! Reading the small text files of a checkpoint folder.

use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::{mapped::open_file, Error, Result};

/// The text of `path`, or `None` if there is no such file. A file of more than `max_bytes` is refused before it is
/// read, as is what is no regular file: these come from strangers and their sizes are known.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>> {
    let io_error = |source| Error::Io { path: path.to_owned(), source };
    let file = match open_file(path) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
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
