//! Compiles the CUDA kernels: one fatbin for each file of kernels/cuda, as bytes for the binary to carry.
//!
//! `DOGE_CUDA=auto` (the default) does so where nvcc is found, and says in one line where it is not; `require` makes that an
//! error, `off` does not look. `DOGE_CUDA_ARCHS=90` (or a list) compiles for fewer architectures. Nothing asks what GPU this
//! machine has.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Machine code for these, and PTX of the first for those that come later.
const ARCHS: [u32; 5] = [80, 86, 89, 90, 120];
/// PTX is made once for each of these, as most of the time goes into it: code for 86 and 89 is to the bit what PTX of their own
/// gives, but for a loop of roof.cu on 86. (That for 120 out of PTX for 90 is not.)
const VIRTUAL_ARCHS: [u32; 3] = [80, 90, 120];
/// The first nvcc that knows all of them.
const OLDEST_NVCC: (u32, u32) = (12, 8);

/// Writes cuda_images.rs: the images, or none.
pub fn build() -> Result<(), String> {
    for name in ["DOGE_CUDA", "DOGE_CUDA_ARCHS", "NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let mode = env::var("DOGE_CUDA").unwrap_or_default();
    let images = match mode.as_str() {
        _ if env::var_os("CARGO_FEATURE_CUDA").is_none() => Vec::new(),
        "off" => Vec::new(),
        "require" => compile()?,
        "" | "auto" => compile().unwrap_or_else(|why| {
            println!("cargo::warning=no CUDA kernels in this build: {why}");
            Vec::new()
        }),
        word => return Err(format!("DOGE_CUDA: unknown word '{word}'; expected one of: auto, require, off")),
    };
    let entry = |(name, path): &(String, PathBuf)| format!("    ({name:?}, include_bytes!({path:?})),\n");
    let entries: String = images.iter().map(entry).collect();
    let text = format!("pub(super) const IMAGES: &[(&str, &[u8])] = &[\n{entries}];\n");
    let out = out_dir().join("cuda_images.rs");
    fs::write(&out, text).map_err(|e| format!("{}: {e}", out.display()))
}

/// Every file's fatbin, by name.
fn compile() -> Result<Vec<(String, PathBuf)>, String> {
    let nvcc = find_nvcc().ok_or("nvcc was not found (looked at NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda)")?;
    let version = version(&nvcc)?;
    if version < OLDEST_NVCC {
        return Err(format!("{} is {}.{}; 12.8 or later is needed", nvcc.display(), version.0, version.1));
    }
    let archs = archs()?;
    let mut sources: Vec<PathBuf> = fs::read_dir("kernels/cuda")
        .map_err(|e| format!("kernels/cuda: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    super::side_by_side(sources.len(), |i| compile_one(&nvcc, &sources[i], &archs)).into_iter().collect()
}

fn compile_one(nvcc: &Path, source: &Path, archs: &[u32]) -> Result<(String, PathBuf), String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let path = out_dir().join(format!("{name}.fatbin"));
    let mut command = Command::new(nvcc);
    // No contraction: an fma is where the source says so, as in the CPU's kernels.
    command.args(["-std=c++17", "-O3", "--fmad=false", "-Werror=all-warnings", "--fatbin"]);
    for arch in archs {
        command.args(["-gencode".into(), format!("arch=compute_{},code=sm_{arch}", virtual_arch(*arch))]);
    }
    let first = virtual_arch(*archs.iter().min().ok_or("DOGE_CUDA_ARCHS names no architecture")?);
    command.args(["-gencode".into(), format!("arch=compute_{first},code=compute_{first}")]);
    let output = command.arg("-o").arg(&path).arg(source).output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if !output.status.success() {
        return Err(format!("nvcc failed on {name}.cu:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok((name, path))
}

fn virtual_arch(arch: u32) -> u32 {
    VIRTUAL_ARCHS.into_iter().filter(|ptx| *ptx <= arch).max().unwrap_or(arch)
}

/// `DOGE_CUDA_ARCHS`, such as `80,90`.
fn archs() -> Result<Vec<u32>, String> {
    let list = env::var("DOGE_CUDA_ARCHS").unwrap_or_default();
    if list.trim().is_empty() {
        return Ok(ARCHS.to_vec());
    }
    let arch = |word: &str| match word.trim().parse::<u32>() {
        Ok(arch) if arch >= 80 => Ok(arch),
        _ => Err(format!("DOGE_CUDA_ARCHS: '{word}' is no architecture from 80 on, such as 90")),
    };
    list.split(',').map(arch).collect()
}

fn find_nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").filter(|path| !path.is_empty()).map(PathBuf::from);
    let of = |name: &str| env::var_os(name).map(|folder| PathBuf::from(folder).join("bin/nvcc"));
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut candidates = named
        .into_iter()
        .chain(of("CUDA_HOME"))
        .chain(of("CUDA_PATH"))
        .chain(on_path.map(|folder| folder.join("nvcc")))
        .chain(["/usr/local/cuda/bin/nvcc".into()]);
    candidates.find(|path| path.is_file())
}

/// `release 13.0` in what `nvcc --version` prints.
fn version(nvcc: &Path) -> Result<(u32, u32), String> {
    let output = Command::new(nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_once("release ").and_then(|(_, rest)| rest.split_once(','));
    let numbers = words.and_then(|(version, _)| version.split_once('.'));
    let parsed = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| format!("{} --version says no version", nvcc.display()))
}

fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default())
}
