//! What the CPU and the OS say of themselves that the standard library does not ask them.

/// One leaf of CPUID.
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every x86-64 CPU has the instruction; of a leaf that it does not know it says something of no meaning.
    #[allow(unused_unsafe, reason = "safe in later compilers than the oldest that we take")]
    unsafe {
        std::arch::x86_64::__cpuid_count(leaf, 0)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn is_made_by_intel() -> bool {
    let leaf = cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn is_made_by_intel() -> bool {
    false
}

/// Does the CPU have AMX's tile registers, and may this process use them?
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_amx_tile() -> bool {
    has_amx(24) && may_use_tiles()
}

/// Does the CPU multiply bytes with them?
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_amx_int8() -> bool {
    has_amx(25)
}

/// And bf16?
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_amx_bf16() -> bool {
    has_amx(22)
}

/// A bit of leaf 7.
#[cfg(target_arch = "x86_64")]
fn has_amx(bit: u32) -> bool {
    cpuid(0).eax >= 7 && cpuid(7).edx >> bit & 1 == 1
}

/// Linux gives the 8 KiB of these registers to processes that ask for them, once for all threads, from 5.16 on.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    static GIVEN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // SAFETY: the call takes two numbers, and changes nothing but what the process may do; an older kernel refuses it.
    *GIVEN.get_or_init(|| unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0)
}
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}
