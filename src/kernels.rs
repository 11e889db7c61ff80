//! The kernels of one ISA level. Owning a [`Kernels`] is the proof that this CPU can run them.

use crate::{cpu, ffi, Error, Isa, Result};

/// The kernel table of one ISA level that this CPU offers. Copy it around freely.
///
/// ```
/// use doge_engine::{Isa, Kernels};
///
/// assert!(Kernels::available().count() >= 1);
/// assert_eq!(Kernels::for_isa(Isa::Scalar)?.lanes(), 1);
/// # Ok::<(), doge_engine::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    table: &'static ffi::DogeKernelTable,
}

macro_rules! isa_list { ($($id:ident $name:literal $table:ident [$($feature:tt),*];)*) => {
    /// The level's table, if this build has it.
    fn compiled_table(isa: Isa) -> Option<&'static ffi::DogeKernelTable> {
        match isa {
            $(
                #[cfg(doge_isa = $name)]
                // SAFETY: a constant of the archive that build.rs linked when it set this cfg; nobody writes to it.
                Isa::$id => Some(unsafe { &ffi::$table }),
            )*
            #[allow(unreachable_patterns, reason = "unreachable only where every level is compiled in")]
            _ => None,
        }
    }
} }
include!("isa_list.rs");

impl Kernels {
    /// Kernels in a level's table: one for each operation, and for each stored format where the operation reads weights.
    pub const COUNT: usize =
        (size_of::<ffi::DogeKernelTable>() - std::mem::offset_of!(ffi::DogeKernelTable, embed_row)) / size_of::<usize>();

    /// The fastest level that is compiled in and that the CPU and the OS offer, or the one `DOGE_ISA` names. The fastest is the
    /// highest, but never `avx512bf16` on Intel's servers: there a bf16 dot instruction takes four times as long as a multiply-add,
    /// and `avx512` does its work in two of these and what splits the pairs (Emerald Rapids: prompts in bf16 1.3 to 1.5 times as
    /// fast).
    ///
    /// # Errors
    /// [`Error::UnknownWord`] or [`Error::IsaUnavailable`] if `DOGE_ISA` names something that cannot be had.
    pub fn detect() -> Result<Kernels> {
        match Isa::from_env()? {
            Some(isa) => Kernels::for_isa(isa),
            // The scalar level is compiled on every target.
            None => Kernels::available()
                .rev()
                .find(|kernels| kernels.isa != Isa::Avx512Bf16 || !cpu::is_made_by_intel())
                .ok_or(Error::IsaUnavailable { isa: Isa::Scalar.name(), why: "is not compiled in".into() }),
        }
    }

    /// Has it kernels for an f32 input in bf16 parts? Where registers multiply tiles of bf16, they are the fastest.
    pub fn splits(self) -> bool {
        self.table.split_row.is_some()
    }

    /// The kernels of one level.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if the level is not compiled in or not offered by the CPU and the OS.
    pub fn for_isa(isa: Isa) -> Result<Kernels> {
        let unavailable = |why: &str| Error::IsaUnavailable { isa: isa.name(), why: why.to_string() };
        let table = compiled_table(isa).ok_or_else(|| {
            unavailable("this build does not contain it (the C++ compiler was too old, or the target is not x86-64)")
        })?;
        if !isa.is_supported() {
            return Err(unavailable(&format!("the CPU or the OS does not offer all of: {}", isa.features().join(", "))));
        }
        if table.abi_version != ffi::DOGE_ABI_VERSION {
            return Err(unavailable("its kernels were compiled from another version of the contract"));
        }
        Ok(Kernels { isa, table })
    }

    /// Every level that can run here, lowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Kernels> {
        Isa::ALL.iter().filter_map(|&isa| Kernels::for_isa(isa).ok())
    }

    /// Is the level part of this build?
    pub fn is_compiled(isa: Isa) -> bool {
        compiled_table(isa).is_some()
    }

    /// Whose kernels they are.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Floats in a vector register of this level.
    pub fn lanes(&self) -> usize {
        self.table.lanes as usize
    }

    pub(crate) fn table(&self) -> &'static ffi::DogeKernelTable {
        self.table
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa)
    }
}
