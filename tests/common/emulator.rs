//! The stand-in driver of tests/emulator: built with the C++ compiler that builds the kernels, loaded before the runtime looks
//! for a driver.

use std::{
    ffi::{c_char, CStr, CString},
    fmt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        OnceLock,
    },
};

use doge_engine::cuda::Device;
use libloading::Library;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let folder = |path: &str| std::fs::read_dir(root().join(path)).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = folder("kernels/cuda").chain(folder("tests/emulator")).collect();
    all.push(root().join("kernels/doge_cuda.h"));
    all.push(root().join("kernels/doge_kernels.h"));
    all.push(root().join(file!())); // the compiler's flags
    all.sort();
    all
}

/// The folder that holds libcuda.so, which is the emulator. Built anew when a source is newer.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let sanitizers = std::env::var("DOGE_SANITIZE").unwrap_or_default();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulator-{}", sanitizers.replace(',', "-")));
        std::fs::create_dir_all(&folder).unwrap();
        let library = folder.join("libcuda.so");
        let changed = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        let newest = sources().iter().map(changed).max().unwrap();
        if !library.exists() || changed(&library) < newest {
            build(&library, &sanitizers);
        }
        folder
    })
}

fn build(library: &Path, sanitizers: &str) {
    // Into a folder of its own, then renamed: another test may be building too.
    let folder = library.with_extension(std::process::id().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let mut sanitize = Vec::new();
    if !sanitizers.is_empty() {
        // vptr has a runtime of its own, in C++, which no Rust program carries.
        let others =
            ["-fno-sanitize-recover=all", "-fno-sanitize=null,object-size,vptr", "-fno-omit-frame-pointer"].map(String::from);
        sanitize = [format!("-fsanitize={sanitizers}")].into_iter().chain(others).collect();
    }
    let compile = |unit: &PathBuf| {
        let object = folder.join(unit.file_name().unwrap()).with_extension("o");
        let mut command = compiler(&sanitize);
        command.args(["-x", "c++", "-std=c++17", "-O2", "-g1", "-fPIC", "-ftls-model=initial-exec", "-fvisibility=hidden"]);
        // As for the GPU: an fma is where the source says so.
        command.args(["-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
        run(command.arg("-I").arg(root().join("tests/emulator")).arg("-c").arg(unit).arg("-o").arg(&object));
        object
    };
    let units: Vec<_> = sources().into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cpp")).collect();
    let (next, jobs) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(1, |n| n.get()));
    let work = || std::iter::from_fn(|| units.get(next.fetch_add(1, Relaxed))).map(compile).collect::<Vec<_>>();
    let objects: Vec<PathBuf> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let mine = folder.join("libcuda.so");
    // Loaded under this name, it is found where the runtime asks for the driver's library.
    let mut link = compiler(&sanitize);
    link.args(["-shared", "-Wl,-soname,libcuda.so"]);
    if !sanitizers.is_empty() {
        link.arg("-nodefaultlibs"); // the sanitizers' runtime is in this program
    }
    run(link.args(objects).args(["-lstdc++", "-lm", "-lc"]).arg("-o").arg(&mine));
    std::fs::rename(&mine, library).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

fn compiler(flags: &[String]) -> Command {
    let mut command = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
    command.args(flags);
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("a C++ compiler");
    assert!(output.status.success(), "the emulator does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with an image for the runtime to load; the stand-in takes any.
pub fn images() -> PathBuf {
    let folder = folder().join("images");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("emulated.cubin"), "the kernels are in the stand-in driver").unwrap();
    folder
}

/// The library in this process. Never unloaded.
pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: our own library, whose initialisers register kernels.
        unsafe { Library::new(folder().join("libcuda.so")) }.expect("the emulator")
    })
}

/// With DOGE_TEST_GPU=1 the tests run on the machine's own GPU, by the kernels in the binary (.ci/gpu.sh).
pub fn is_real() -> bool {
    std::env::var("DOGE_TEST_GPU").is_ok_and(|word| word == "1")
}

/// The emulated GPU, or the real one.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        if !is_real() {
            library();
            std::env::set_var("DOGE_CUDA_KERNELS", images());
        }
        Device::open(0).expect("a GPU")
    };
    DEVICE.get_or_init(open).clone()
}

/// A kernel's threads run in this order from now on, where this thread launches it: 0 ascending, 1 descending, above that random,
/// anew at each launch. A real GPU has its own.
pub fn schedule(seed: u32) {
    if is_real() {
        return;
    }
    // SAFETY: the function's own signature.
    unsafe { library().get::<unsafe extern "C" fn(u32)>(b"doge_emulator_seed").unwrap()(seed) }
}

/// Does what this thread gives a stream from now on run only when somebody waits for the stream? A real GPU is late by itself.
pub fn late(value: bool) {
    if is_real() {
        return;
    }
    // SAFETY: the function's own signature.
    unsafe { library().get::<unsafe extern "C" fn(bool)>(b"doge_emulator_late").unwrap()(value) }
}

/// What the stand-in can refuse, once.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Request {
    EndCapture = 1,
    GetFunction = 2,
}

/// This thread's next request of this kind fails. Not on a real GPU: false.
pub fn refuse(request: Request) -> bool {
    if is_real() {
        return false;
    }
    // SAFETY: the function's own signature.
    unsafe { library().get::<unsafe extern "C" fn(u32)>(b"doge_emulator_refuse").unwrap()(request as u32) }
    true
}

/// Launches that this thread ran so far; a real GPU does not count them.
pub fn launches() -> Option<u64> {
    // SAFETY: the function's own signature.
    (!is_real()).then(|| unsafe { library().get::<unsafe extern "C" fn() -> u64>(b"doge_emulator_launches").unwrap()() })
}

/// What can be planted (emulator::Fault).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    Barrier = 1,
    Wait = 2,
    Shuffle = 3,
    Load = 4,
    Copy = 5,
    Matrices = 6,
    Mma = 7,
    Ballot = 8,
    Add = 9,
    /// No fault: a thread's first look at a word, after others had many turns. Nothing must show it.
    Late = 10,
}

impl Fault {
    /// Those that must be seen.
    pub const ALL: [Fault; 9] = [
        Fault::Barrier,
        Fault::Wait,
        Fault::Shuffle,
        Fault::Load,
        Fault::Copy,
        Fault::Matrices,
        Fault::Mma,
        Fault::Ballot,
        Fault::Add,
    ];
    const COUNTS: u32 = 11;
}

/// Where in the kernels something can break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub fault: Fault,
    pub file: CString,
    pub line: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.to_string_lossy();
        write!(f, "{:?} at {}:{}", self.fault, file.rsplit('/').next().unwrap_or_default(), self.line)
    }
}

fn plant_raw(kind: u32, file: &CStr, line: u32) {
    // SAFETY: the function's own signature.
    unsafe {
        library().get::<unsafe extern "C" fn(u32, *const c_char, u32)>(b"doge_emulator_plant").unwrap()(kind, file.as_ptr(), line)
    }
}

/// Breaks a site for what this thread launches, until [`heal`].
pub fn plant(site: &Site) {
    plant_raw(site.fault as u32, &site.file, site.line);
}

pub fn heal() {
    plant_raw(0, c"", 0);
}

/// Begins to count the sites that run, from none on.
pub fn count_sites() {
    plant_raw(Fault::COUNTS, c"", 0);
}

/// The sites of these kinds that ran since, those of a kind in the order of their first run.
pub fn sites(kinds: &[Fault]) -> Vec<Site> {
    let library = library();
    // SAFETY: the functions' own signatures; a site is one of those counted.
    unsafe {
        let count = library.get::<unsafe extern "C" fn(u32) -> u32>(b"doge_emulator_sites").unwrap();
        let line = library.get::<unsafe extern "C" fn(u32, u32) -> u32>(b"doge_emulator_site_line").unwrap();
        let file = library.get::<unsafe extern "C" fn(u32, u32) -> *const c_char>(b"doge_emulator_site_file").unwrap();
        let of_kind = |fault: Fault| {
            let kind = fault as u32;
            (0..count(kind)).map(|i| (CStr::from_ptr(file(kind, i)).to_owned(), line(kind, i))).collect::<Vec<_>>()
        };
        let site = |fault, (file, line)| Site { fault, file, line };
        kinds.iter().flat_map(|&fault| of_kind(fault).into_iter().map(move |at| site(fault, at))).collect()
    }
}
