//! Buffers that notice a kernel outside its bounds: inputs whose last byte stands before an unreadable page, outputs
//! between painted canaries.

use std::marker::PhantomData;

use bytemuck::Pod;
use region::{Allocation, Protection};

/// Read-only `[T]` that ends where an unreadable page begins: reading one element too far ends the process.
pub struct Guarded<T> {
    pages: Allocation,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: nobody writes to the pages after `new`; the allocation itself is only a pointer and a length.
unsafe impl<T: Sync> Sync for Guarded<T> {}

impl<T: Pod> Guarded<T> {
    pub fn new(values: &[T]) -> Self {
        let pages = behind(bytemuck::cast_slice(values), 0);
        Guarded { start: guard_begin(&pages) - size_of_val(values), pages, len: values.len(), element: PhantomData }
    }

    pub fn get(&self) -> &[T] {
        // SAFETY: `new` wrote `len` elements there; their end is page aligned, hence their start aligned for T, whose size is
        // a multiple of its alignment. The pages live as long as self and nobody writes to them.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr::<u8>().add(self.start).cast(), self.len) }
    }
}

/// Bytes at an address that is `offset` bytes short of the unreadable page: with 1, 2 or 3 the elements in it stand at odd
/// addresses, with 0 the first byte too many is noticed.
pub struct GuardedBytes {
    pages: Allocation,
    start: usize,
    len: usize,
}

// SAFETY: as for `Guarded`.
unsafe impl Sync for GuardedBytes {}

impl GuardedBytes {
    pub fn new(bytes: &[u8], offset: usize) -> Self {
        let pages = behind(bytes, offset);
        GuardedBytes { start: guard_begin(&pages) - offset - bytes.len(), pages, len: bytes.len() }
    }

    pub fn get(&self) -> &[u8] {
        // SAFETY: `new` wrote `len` bytes there; the pages live as long as self and nobody writes to them.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr::<u8>().add(self.start), self.len) }
    }
}

/// Where the unreadable page begins, from the start of `pages`.
fn guard_begin(pages: &Allocation) -> usize {
    pages.len() - region::page::size()
}

/// Fresh pages with `bytes` ending `offset` bytes before the last page, which is made unreadable.
fn behind(bytes: &[u8], offset: usize) -> Allocation {
    let page = region::page::size();
    let mut pages = region::alloc(bytes.len() + offset + page, Protection::READ_WRITE).expect("pages for a test buffer");
    let guard = guard_begin(&pages);
    // SAFETY: the allocation is readable and writable, ours alone, and `guard - offset - bytes.len()` is not negative because
    // it holds bytes.len() + offset bytes before its last page. The last page is protected before anyone else sees it.
    unsafe {
        let start = pages.as_mut_ptr::<u8>().add(guard - offset - bytes.len());
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
        region::protect(pages.as_ptr::<u8>().add(guard), page, Protection::NONE).expect("a page can be made unreadable");
    }
    pages
}

/// An output between two painted canaries of 64 elements. What a kernel has not written keeps the paint.
pub struct Painted<T> {
    all: Vec<T>,
}

const MARGIN: usize = 64;
/// A quiet NaN with a payload no computation makes, seen as f32.
pub const PAINT: u32 = 0x7fd0_6e5a;

impl<T: Pod> Painted<T> {
    /// `T` is f32 or u32.
    pub fn new(len: usize) -> Self {
        Painted { all: vec![bytemuck::cast(PAINT); len + 2 * MARGIN] }
    }

    /// The paint, then `values` over it: for what is updated in place.
    pub fn holding(values: &[T]) -> Self {
        let mut out = Painted::new(values.len());
        out.get_mut().copy_from_slice(values);
        out
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        let end = self.all.len() - MARGIN;
        &mut self.all[MARGIN..end]
    }

    pub fn get(&self) -> &[T] {
        &self.all[MARGIN..self.all.len() - MARGIN]
    }

    /// The first element outside the output that was written, as an index relative to the output.
    pub fn trespass(&self) -> Option<isize> {
        let margin = |range: std::ops::Range<usize>| range.into_iter().find(|&i| bytemuck::cast::<T, u32>(self.all[i]) != PAINT);
        let end = self.all.len() - MARGIN;
        margin(0..MARGIN).or_else(|| margin(end..self.all.len())).map(|i| i as isize - MARGIN as isize)
    }
}

/// Does the element still carry the paint?
pub fn is_painted(x: f32) -> bool {
    x.to_bits() == PAINT
}
