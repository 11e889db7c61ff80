//! Each compiled archive exports exactly its one table and nothing weak: what is compiled for one ISA level cannot be what
//! another level calls. A weak symbol (an inline function, a template) of two levels would be merged by the linker, and a CPU
//! without AVX-512 would meet an AVX-512 instruction in its scalar path.

use std::path::PathBuf;

use doge_engine::{Isa, Kernels};
#[cfg(target_arch = "x86_64")]
use iced_x86::{Decoder, DecoderOptions, EncodingKind};
use object::{read::archive::ArchiveFile, Object, ObjectSection, ObjectSymbol, SectionKind};

/// libdoge_<level>.a of this build.
fn archive(isa: Isa) -> PathBuf {
    PathBuf::from(env!("DOGE_KERNELS_DIR")).join(format!("libdoge_{isa}.a"))
}

/// The levels of this build and their archives' object files.
fn levels() -> Vec<(Isa, Vec<Vec<u8>>)> {
    let compiled = Isa::ALL.iter().copied().filter(|&isa| Kernels::is_compiled(isa));
    compiled.map(|isa| (isa, members(&std::fs::read(archive(isa)).expect("build.rs made the archive")))).collect()
}

fn members(archive: &[u8]) -> Vec<Vec<u8>> {
    let parsed = ArchiveFile::parse(archive).expect("an archive");
    parsed.members().map(|member| member.expect("a member").data(archive).expect("its bytes").to_vec()).collect()
}

#[test]
fn each_archive_exports_one_table_and_nothing_weak() {
    let levels = levels();
    assert!(!levels.is_empty());
    for (isa, members) in levels {
        let mut exported = Vec::new();
        for member in &members {
            let object = object::File::parse(&member[..]).expect("an object file");
            for symbol in object.symbols().filter(|symbol| symbol.is_global() && symbol.is_definition()) {
                let name = symbol.name().expect("a symbol's name").to_string();
                assert!(!symbol.is_weak(), "{isa}: {name} is weak");
                exported.push(name);
            }
        }
        assert_eq!(exported, [format!("doge_kernels_{isa}")], "what the {isa} archive exports");
    }
}

/// No allocation, no exceptions, no C++ runtime (rules of kernels/doge_kernels.h): all a kernel may call is the C library's
/// memory functions, which a compiler makes of loops.
#[test]
fn kernels_call_nothing_but_memory_functions() {
    const MAY_CALL: &[&str] = &["memcpy", "memset", "memmove", "memcmp", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"];
    for (isa, members) in levels() {
        for member in &members {
            let object = object::File::parse(&member[..]).expect("an object file");
            for symbol in object.symbols().filter(|symbol| symbol.is_undefined()) {
                let name = symbol.name().expect("a symbol's name");
                let sanitizer = name.starts_with("__asan") || name.starts_with("__ubsan");
                assert!(name.is_empty() || sanitizer || MAY_CALL.contains(&name), "{isa} calls {name}");
            }
        }
    }
}

/// The scalar archive holds baseline x86-64 only, and no level without AVX-512 holds an EVEX instruction.
#[test]
#[cfg(target_arch = "x86_64")]
fn no_level_holds_instructions_of_a_higher_one() {
    for (isa, members) in levels() {
        let allowed = |encoding| match encoding {
            EncodingKind::Legacy => true,
            EncodingKind::VEX => isa != Isa::Scalar,
            EncodingKind::EVEX => isa >= Isa::Avx512,
            _ => false,
        };
        let mut instructions = 0;
        for member in &members {
            let object = object::File::parse(&member[..]).expect("an object file");
            for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
                for instruction in &mut Decoder::new(64, section.data().expect("code"), DecoderOptions::NONE) {
                    let at = instruction.ip();
                    assert!(
                        allowed(instruction.encoding()),
                        "{isa}: {:?} at {at:#x} of {:?}",
                        instruction.mnemonic(),
                        section.name()
                    );
                    instructions += 1;
                }
            }
        }
        assert!(instructions > 1000, "{isa}: only {instructions} instructions were found");
    }
}
