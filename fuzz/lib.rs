//! The fuzz targets, under an allocator that takes a request beyond all proportion for a find.

pub mod targets;

use std::alloc::{GlobalAlloc, Layout, System};

/// More than this at once no target of a few kilobytes has any use for (tables of the tokenizer and the model are far smaller).
const MOST: usize = 64 << 20;

struct Bounded;

// SAFETY: passes everything on to the system's allocator, or ends the process.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST {
            eprintln!("an allocation of {} bytes", layout.size());
            std::process::abort();
        }
        // SAFETY: as asked by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as asked by our caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static BOUNDED: Bounded = Bounded;
