//! Memory that weights stand in: the one file map of the house, and memory in huge pages.
//!
//! A token reads every weight, far more pages than a TLB holds. With pages of 4 KiB each of them costs a walk of the page
//! tables, under a hypervisor a walk in two dimensions: reading then runs at two thirds of the speed it has with 2 MiB.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
};

use memmap2::MmapMut;

use crate::{Error, Result};

/// That of x86-64; where they are larger or smaller, beginning at such a place is no loss.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes, in huge pages where the system grants them. It grants whole ones alone: bytes that fill one begin at one, and
/// their last one has room to its end.
#[derive(Debug)]
pub(crate) struct HugePages {
    map: MmapMut,
    begin: usize,
    len: usize,
}

impl HugePages {
    /// `len` > 0 of them. Pages that are never touched cost nothing.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; `what` is its purpose.
    pub(crate) fn new(len: usize, what: &'static str) -> Result<Self> {
        let page = if len < HUGE_PAGE { 1 } else { HUGE_PAGE };
        let room = len.checked_next_multiple_of(page).and_then(|room| room.checked_add(page - 1));
        let map = room.and_then(|room| MmapMut::map_anon(room).ok()).ok_or(Error::OutOfMemory { bytes: len as u128, what })?;
        // Advice: where it is refused, everything works with small pages.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(HugePages { begin: map.as_ptr().align_offset(page), map, len })
    }

    /// For good: who writes to them is stopped by the system.
    fn make_read_only(self) -> std::io::Result<Mapped> {
        let HugePages { map, begin, len } = self;
        Ok(Mapped(Bytes::Map { map: map.make_read_only()?, begin, len }))
    }
}

#[expect(clippy::indexing_slicing, reason = "the bytes lie inside the map")]
impl Deref for HugePages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.begin..self.begin + self.len]
    }
}

#[expect(clippy::indexing_slicing, reason = "the bytes lie inside the map")]
impl DerefMut for HugePages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.begin..self.begin + self.len]
    }
}

/// A cache line, so that no line belongs to two matrices.
const PART_ALIGNMENT: usize = 64;

/// The bytes of a file: mapped, or held in memory.
#[derive(Debug)]
pub struct Mapped(Bytes);

#[derive(Debug)]
enum Bytes {
    /// `len` bytes of a map, from `begin` on.
    Map {
        map: memmap2::Mmap,
        begin: usize,
        len: usize,
    },
    Memory(Vec<u8>),
    Static(&'static [u8]),
}

/// Is there anything at `path`? A link that leads nowhere is something: who opens it then hears what is wrong with it, where
/// "no such file" would send him to another.
///
/// # Errors
/// [`Error::Io`] if that cannot be told.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        // The last: a name that no file can have, with a zero byte in it.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput) => Ok(false),
        Err(source) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}

/// A regular file, for reading.
///
/// # Errors
/// [`Error::BadFile`] if it is none; [`Error::Io`], also if there is nothing.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    // Opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::BadFile { path: path.to_path_buf(), why: "is not a file".into() });
    }
    File::open(path).map_err(io)
}

impl Mapped {
    /// Maps a file. Its contents must not change while the map lives: a changed byte changes an answer, and a file
    /// truncated under the map ends the process with SIGBUS when a page beyond the new end is touched. Where that
    /// cannot be excluded, use [`Mapped::read`].
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is not a regular file; [`Error::Io`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let file = open_file(path)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Mapped(Bytes::Memory(Vec::new())));
        }
        // SAFETY: the map is read-only and private to this value; that nobody changes the file is the documented
        // duty of the caller, as for every user of a memory map.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        // Where the file system can (ext4 since Linux 6.16), what is not in the page cache yet is read in huge pages.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Mapped(Bytes::Map { begin: 0, len: map.len(), map }))
    }

    /// Reads a file into memory of its own, in huge pages: what is done to the file afterwards changes nothing, and where
    /// the map of the file has small pages, decoding is faster. It costs the time and the memory of a copy.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is not a regular file, [`Error::Io`] if it cannot be read, [`Error::OutOfMemory`].
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let mut file = open_file(path)?;
        let len = file.metadata().map_err(io)?.len();
        let len = usize::try_from(len).map_err(|_| Error::OutOfMemory { bytes: len.into(), what: "weights" })?;
        if len == 0 {
            return Ok(Mapped(Bytes::Memory(Vec::new())));
        }
        let mut map = HugePages::new(len, "weights")?;
        file.read_exact(&mut map).map_err(io)?;
        map.make_read_only().map_err(io)
    }

    /// Copies the parts, one after another, to memory in huge pages, each to a multiple of [`PART_ALIGNMENT`]; a part is
    /// dropped as soon as it is copied. Gives the place of each.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    #[expect(clippy::indexing_slicing, reason = "each part lies inside the sum of all")]
    pub(crate) fn gather(parts: Vec<Arc<Vec<u8>>>) -> Result<(Self, Vec<usize>)> {
        let room = |len: usize| len.next_multiple_of(PART_ALIGNMENT);
        let total = parts.iter().map(|part| room(part.len())).sum::<usize>().max(1);
        let mut map = HugePages::new(total, "weights")?;
        let mut end = 0;
        let place = |part: Arc<Vec<u8>>| {
            let begin = end;
            map[begin..begin + part.len()].copy_from_slice(&part);
            end += room(part.len());
            begin
        };
        let places = parts.into_iter().map(place).collect();
        let gathered = map.make_read_only().map_err(|_| Error::OutOfMemory { bytes: total as u128, what: "weights" })?;
        Ok((gathered, places))
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
    #[expect(clippy::indexing_slicing, reason = "the bytes lie inside the map")]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Map { map, begin, len } => &map[*begin..begin + len],
            Bytes::Memory(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_a_huge_page_begins_at_one() {
        for len in [1, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 5, 3 * HUGE_PAGE] {
            let mut pages = HugePages::new(len, "a test").unwrap();
            assert!(pages.len() == len && pages.iter().all(|&byte| byte == 0));
            assert!(len < HUGE_PAGE || pages.as_ptr().addr() % HUGE_PAGE == 0, "{len} bytes at {:?}", pages.as_ptr());
            pages[len - 1] = 7;
            let read_only = pages.make_read_only().unwrap();
            assert!(read_only.bytes().len() == len && read_only.bytes()[len - 1] == 7);
        }
        assert!(matches!(HugePages::new(usize::MAX, "a test"), Err(Error::OutOfMemory { .. })));
    }
}
