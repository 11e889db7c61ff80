//! Memory that weights stand in: the one file map of the house, and memory in huge pages.
//!
//! A token reads every weight, far more pages than a TLB holds. With pages of 4 KiB each of them costs a walk of the page
//! tables, under a hypervisor a walk in two dimensions: reading then runs at two thirds of the speed it has with 2 MiB.

use std::{fs::File, io::Read, ops::Deref, path::Path, sync::Arc};

use memmap2::MmapMut;

use crate::{Error, Result};

/// `len` > 0 zeroed bytes, in huge pages where the system grants them. Pages that are never touched cost nothing.
///
/// # Errors
/// [`Error::OutOfMemory`]; `what` is its purpose.
pub(crate) fn huge_pages(len: usize, what: &'static str) -> Result<MmapMut> {
    let map = MmapMut::map_anon(len).map_err(|_| Error::OutOfMemory { bytes: len as u128, what })?;
    // Advice: where it is refused, everything works with small pages.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// The system grants whole ones alone: weights begin at one, and their last one has room to its end.
const HUGE_PAGE: usize = 2 << 20;
/// A cache line, so that no line belongs to two matrices.
const PART_ALIGNMENT: usize = 64;

/// The bytes of a file: mapped, or held in memory.
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
        // Where the file system can (ext4 since Linux 6.16), what is not in the page cache yet is read in huge pages.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Mapped(Bytes::Map(map)))
    }

    /// Reads a file into memory of its own, in huge pages: what is done to the file afterwards changes nothing, and where
    /// the map of the file has small pages, decoding is faster. It costs the time and the memory of a copy.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::OutOfMemory`].
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let len = usize::try_from(len).map_err(|_| Error::OutOfMemory { bytes: len.into(), what: "weights" })?;
        if len == 0 {
            return Ok(Mapped(Bytes::Memory(Vec::new())));
        }
        let mut map = huge_pages(len, "weights")?;
        file.read_exact(&mut map).map_err(io)?;
        Ok(Mapped(Bytes::Map(map.make_read_only().map_err(io)?)))
    }

    /// Copies the parts, one after another, to memory in huge pages (if they fill one), each to a multiple of
    /// [`PART_ALIGNMENT`]; a part is dropped as soon as it is copied. Gives the place of each.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    #[expect(clippy::indexing_slicing, reason = "each part lies inside the sum of all")]
    pub(crate) fn gather(parts: Vec<Arc<Vec<u8>>>) -> Result<(Self, Vec<usize>)> {
        let room = |len: usize| len.next_multiple_of(PART_ALIGNMENT);
        let total = parts.iter().map(|part| room(part.len())).sum::<usize>().max(1);
        let page = if total < HUGE_PAGE { 1 } else { HUGE_PAGE };
        let mut map = huge_pages(total.next_multiple_of(page) + page - 1, "weights")?;
        let mut end = map.as_ptr().align_offset(page);
        let place = |part: Arc<Vec<u8>>| {
            let begin = end;
            map[begin..begin + part.len()].copy_from_slice(&part);
            end += room(part.len());
            begin
        };
        let places = parts.into_iter().map(place).collect();
        let map = map.make_read_only().map_err(|_| Error::OutOfMemory { bytes: total as u128, what: "weights" })?;
        Ok((Mapped(Bytes::Map(map)), places))
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
