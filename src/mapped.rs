//! The one memory map of the house.

use std::{fs::File, ops::Deref, path::Path};

use crate::{Error, Result};

/// The bytes of a file: mapped, or (with `--no-mmap`, and for the embedded model) held in memory.
#[derive(Debug)]
pub struct Mapped(Bytes);

#[derive(Debug)]
enum Bytes {
    Map(memmap2::Mmap),
    Memory(Vec<u8>),
    Static(&'static [u8]),
}

impl Mapped {
    /// Maps a file. Its contents must not change while the map lives: a changed byte changes an answer, and a file
    /// truncated under the map ends the process with SIGBUS when a page beyond the new end is touched. Where that
    /// cannot be excluded, use [`Mapped::read`].
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Mapped(Bytes::Memory(Vec::new())));
        }
        // SAFETY: the map is read-only and private to this value; that nobody changes the file is the documented
        // duty of the caller, as for every user of a memory map.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Mapped(Bytes::Map(map)))
    }

    /// Reads a file into memory.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        Ok(Mapped(Bytes::Memory(bytes)))
    }

    /// Bytes that are in memory already.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Mapped(Bytes::Memory(bytes))
    }

    /// Bytes that are part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Mapped(Bytes::Static(bytes))
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Map(map) => map.deref(),
            Bytes::Memory(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
        }
    }
}
