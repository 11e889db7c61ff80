//! Compiles the kernels: one archive per ISA level, each with exactly one symbol, its table; and those for GPUs (build/cuda.rs).
//!
//! Nothing here looks at the build host's CPU. The flags of a level come from src/isa_list.rs, the list the crate detects
//! by. With `DOGE_EMULATE=1`, which is for the tests, those that need more than AVX2 are compiled for a CPU that has no more
//! (tests/emulator/x86). A compiler too old for a level leaves the level out, with a warning; `DOGE_REQUIRE_ISA=avx512bf16` (or a list, or
//! `all`) makes that an error. `DOGE_BUILD_ISA=avx2` (or a list) compiles these alone, and scalar, without which nothing runs.

#[path = "build/cuda.rs"]
mod cuda;

use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// One ISA level: its word and the CPU features it is compiled with.
struct Level {
    name: &'static str,
    features: &'static [&'static str],
}

macro_rules! isa_list { ($($id:ident $name:literal $table:ident [$($feature:tt),*];)*) => {
    const LEVELS: &[Level] = &[$(Level { name: $name, features: &[$($feature),*] }),*];
} }
include!("src/isa_list.rs");

/// In the place of the compiler's immintrin.h, with `DOGE_EMULATE`.
const EMULATOR: &str = "tests/emulator/x86";
/// What the emulator needs of a CPU. src/isa.rs detects these alone.
const NOT_EMULATED: &[&str] = &["avx2", "fma", "f16c"];

fn emulates() -> bool {
    env::var("DOGE_EMULATE").is_ok_and(|wanted| !["", "0"].contains(&wanted.as_str()))
}

fn main() {
    for path in ["kernels", "src/isa_list.rs", "build.rs", "build", EMULATOR] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=DOGE_REQUIRE_ISA");
    println!("cargo::rerun-if-env-changed=DOGE_BUILD_ISA");
    println!("cargo::rerun-if-env-changed=DOGE_SANITIZE");
    println!("cargo::rerun-if-env-changed=DOGE_EMULATE");
    println!("cargo::rustc-check-cfg=cfg(doge_emulate)");
    if emulates() {
        println!("cargo::rustc-cfg=doge_emulate");
        println!("cargo::warning=DOGE_EMULATE: kernels above avx2 are emulated, which is for the tests, and slow");
    }
    // tests/archive_symbols.rs looks at the archives.
    println!("cargo::rustc-env=DOGE_KERNELS_DIR={}", env::var("OUT_DIR").unwrap_or_default());
    for level in LEVELS {
        println!("cargo::rustc-check-cfg=cfg(doge_isa, values(\"{}\"))", level.name);
    }
    regenerate_bindings();
    tell_origin();
    cuda::build().unwrap_or_else(|why| fail(&why));

    let required = named_levels("DOGE_REQUIRE_ISA");
    let wanted = wanted_levels();
    if let Some(name) = required.iter().find(|name| wanted.iter().all(|level| level.name != **name)) {
        fail(&format!("ISA level {name} is required (DOGE_REQUIRE_ISA) and left out (DOGE_BUILD_ISA)"));
    }
    for (level, outcome) in wanted.iter().zip(compile_all(&wanted)) {
        match outcome {
            Ok(()) => println!("cargo::rustc-cfg=doge_isa=\"{}\"", level.name),
            Err(why) if level.name == "scalar" => fail(&format!("the kernels cannot be compiled: {why}")),
            Err(why) if required.contains(&level.name) => {
                fail(&format!("ISA level {} is required (DOGE_REQUIRE_ISA) and cannot be compiled: {why}", level.name))
            }
            Err(why) => println!("cargo::warning=ISA level {} is left out: {why}", level.name),
        }
    }
}

/// Ends the build with a message for the person, not a stack trace.
fn fail(why: &str) -> ! {
    eprintln!("error: {why}");
    std::process::exit(1)
}

/// The levels of `DOGE_BUILD_ISA` and scalar; all of them if it names none.
fn wanted_levels() -> Vec<&'static Level> {
    let named = named_levels("DOGE_BUILD_ISA");
    LEVELS.iter().filter(|level| named.is_empty() || level.name == "scalar" || named.contains(&level.name)).collect()
}

/// The levels that a variable names: a list, or `all`. An unknown word is an error.
fn named_levels(variable: &str) -> Vec<&'static str> {
    let words = env::var(variable).unwrap_or_default();
    let mut out = Vec::new();
    for word in words.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match LEVELS.iter().find(|l| l.name == word) {
            Some(level) => out.push(level.name),
            None if word == "all" => out.extend(LEVELS.iter().map(|l| l.name)),
            None => fail(&format!("{variable}: unknown ISA level '{word}'")),
        }
    }
    out
}

/// Compiles the levels; what became of each, in their order.
fn compile_all(levels: &[&Level]) -> Vec<Result<(), String>> {
    let common = common();
    let builds: Vec<_> = levels.iter().map(|level| prepare(&common, level)).collect();
    side_by_side(levels.len(), |i| {
        let build: &cc::Build = builds[i].as_ref().map_err(String::clone)?;
        build.try_compile(&format!("doge_{}", levels[i].name)).map_err(|e| e.to_string())
    })
}

/// What `work` makes of 0, 1, ... n - 1, as many at a time as cargo would.
fn side_by_side<T: Send>(n: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize).max(1);
    let next = AtomicUsize::new(0);
    let some = || {
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < n);
        std::iter::from_fn(take).map(|i| (i, work(i))).collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(n)).map(|_| scope.spawn(some)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| fail("compiling the kernels"))).collect()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What compiles one level into libdoge_<level>.a, or why that cannot be. Levels are prepared one after another: the compiler
/// is asked for flags by one file in one place, and the answers are remembered by all copies of a build.
fn prepare(common: &cc::Build, level: &Level) -> Result<cc::Build, String> {
    let mut build = common.clone();
    build.file(format!("kernels/cpu/isa_{}.cpp", level.name));
    if level.name != "scalar" {
        if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
            return Err("the target is not x86-64".into());
        }
        let msvc = env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("msvc");
        let emulated = |feature: &&&str| emulates() && !NOT_EMULATED.contains(feature);
        if level.features.iter().any(|feature| emulated(&feature)) {
            build.include(EMULATOR).flag("-Wno-psabi");
        }
        for feature in level.features.iter().filter(emulated) {
            build.define(&format!("EMULATE_{}", feature.replace('-', "_")), None);
        }
        for feature in level.features.iter().filter(|feature| !emulated(feature)) {
            let flag = format!("-m{feature}");
            if msvc || !build.is_flag_supported(&flag).unwrap_or(false) {
                return Err(format!("the C++ compiler does not know {flag} (gcc 11, clang 12 and later do)"));
            }
            build.flag(flag);
        }
    }
    if level.features.contains(&"avx512f") {
        // GCC 12's own AVX-512 headers trip these two.
        build.flag_if_supported("-Wno-uninitialized").flag_if_supported("-Wno-maybe-uninitialized");
    }
    build.try_get_compiler().map_err(|e| e.to_string())?; // asks for the flags of `flag_if_supported`
    Ok(build)
}

/// Flags that all levels share.
fn common() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .cpp_link_stdlib(None)
        .std("c++17")
        // Also under `cargo test`: a kernel at -O0 would be another kernel. Emulated ones take a third longer to compile at -O2, and
        // their tests are hardly faster.
        .opt_level(if emulates() { 1 } else { 3 })
        .debug(false)
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-fno-exceptions")
        .flag_if_supported("-fno-rtti")
        .flag_if_supported("-ffp-contract=off") // fma where the source says fma, nowhere else
        .flag_if_supported("-fno-math-errno") // sqrtf without its errno branch
        .flag_if_supported("-fvisibility=hidden");
    if !build.get_compiler().is_like_msvc() {
        build.flag("-Werror=missing-field-initializers"); // a table with a forgotten entry must not compile
        if env::var("DEBUG").is_ok_and(|wanted| wanted != "false") {
            build.flag("-g1"); // files and lines: for all that was inlined -g takes as long as the compiler does without it
        }
    }
    if let Some(sanitizers) = env::var("DOGE_SANITIZE").ok().filter(|list| !list.is_empty()) {
        // For .ci/sanitize.sh: a finding ends the process, so that a test run cannot look past it.
        // -O1, checks that are called, and none of how pointers are computed: the same accesses, compiled in a tenth of the
        // time. AddressSanitizer sees null and what lies outside of an object.
        let flags = ["-fno-sanitize-recover=all", "-fno-sanitize=null,object-size,pointer-overflow", "-fno-omit-frame-pointer"];
        build.opt_level(1).flag(format!("-fsanitize={sanitizers}")).flags(flags);
        build.flags(["--param", "asan-instrumentation-with-call-threshold=0"]);
    }
    build
}

/// With feature `regen-bindings`: writes src/ffi/bindings.rs anew from the headers.
#[cfg(feature = "regen-bindings")]
fn regenerate_bindings() {
    let out = manifest().join("src/ffi/bindings.rs");
    let bindings = bindgen::Builder::default()
        .header("kernels/doge_kernels.h")
        .header("kernels/doge_cuda.h")
        .allowlist_item("(Doge|DOGE_|doge_).*")
        .use_core()
        .prepend_enum_name(false)
        .layout_tests(true)
        .derive_debug(false)
        .raw_line("// Made by bindgen from kernels/doge_kernels.h and doge_cuda.h (feature `regen-bindings`). Do not edit.")
        .generate()
        .unwrap_or_else(|e| fail(&format!("bindgen: {e}")));
    bindings.write_to_file(&out).unwrap_or_else(|e| fail(&format!("{}: {e}", out.display())));
}

#[cfg(not(feature = "regen-bindings"))]
fn regenerate_bindings() {
    let committed = manifest().join("src/ffi/bindings.rs");
    if !committed.exists() {
        fail("src/ffi/bindings.rs is missing; it is part of the repository (or build with --features regen-bindings)");
    }
}

/// For `doge --version` and `doge doctor`: the compilers and, in release builds, the commit. What is unknown is left out.
fn tell_origin() {
    let first_line = |program: &mut Command| {
        let output = program.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_string())
    };
    let tell = |name: &str, value: Option<String>| {
        value.into_iter().for_each(|value| println!("cargo::rustc-env={name}={value}"));
    };
    tell("DOGE_RUSTC", env::var_os("RUSTC").and_then(|rustc| first_line(Command::new(rustc).arg("--version"))));
    if let Ok(compiler) = cc::Build::new().cpp(true).try_get_compiler() {
        tell("DOGE_CXX", first_line(compiler.to_command().arg("--version")));
    }
    // A new commit then runs this script again, which compiles the kernels: too long a wait for a debug build. Without
    // .git of its own the package may lie in somebody else's repository.
    if env::var("PROFILE").as_deref() == Ok("release") && manifest().join(".git").exists() {
        let git = |args: &[&str]| first_line(Command::new("git").current_dir(manifest()).args(args));
        tell("DOGE_COMMIT", git(&["rev-parse", "--short=12", "HEAD"]));
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| manifest().join(log).exists()) {
            println!("cargo::rerun-if-changed={log}"); // gets a line with each commit and checkout
        }
    }
}

fn manifest() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}
