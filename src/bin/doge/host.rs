//! What the machine says about itself, on Linux. Elsewhere, and in containers that hide it, a fact is `None`.

use std::{fs, path::Path};

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The value of a `key: value` line, as /proc writes them.
fn field(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_string())
    })
}

/// A size in such a line, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The most memory this process has had in use.
pub fn peak_rss() -> Option<u64> {
    kilobytes(&read("/proc/self/status")?, "VmHWM")
}

/// Makes [`peak_rss`] begin anew. Where the system refuses, it stays that of the whole process.
pub fn reset_peak_rss() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The operating system's kernel.
pub fn kernel() -> Option<String> {
    // What follows the version names a build, which tells a reader nothing.
    Some(read("/proc/sys/kernel/osrelease")?.split('-').next()?.trim().to_string())
}

/// What governs the clock of the first CPU.
pub fn governor() -> Option<String> {
    Some(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?.trim().to_string())
}

/// Caches of the first CPU: a name such as `L1d`, and the bytes.
pub fn caches() -> Vec<(String, u64)> {
    let cache = |i: usize| {
        let fact = |name: &str| Some(read(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{name}"))?.trim().to_string());
        let side = match fact("type")?.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        let bytes = fact("size")?.strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)?;
        Some((format!("L{}{side}", fact("level")?), bytes))
    };
    (0..).map_while(cache).collect()
}

pub fn cpu_model() -> Option<String> {
    field(&read("/proc/cpuinfo")?, "model name")
}

/// CPUs of the machine that are online, and those this process may run on, as a list of ranges.
pub fn online_cpus() -> Option<String> {
    Some(read("/sys/devices/system/cpu/online")?.trim().to_string())
}

pub fn allowed_cpus() -> Option<String> {
    field(&read("/proc/self/status")?, "Cpus_allowed_list")
}

/// How many CPUs a list of ranges names, such as `0-3,8`.
pub fn count_cpus(list: &str) -> Option<usize> {
    list.split(',').try_fold(0usize, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

pub struct Memory {
    pub total: Option<u64>,
    pub available: Option<u64>,
}

pub fn memory() -> Memory {
    let text = read("/proc/meminfo").unwrap_or_default();
    Memory { total: kilobytes(&text, "MemTotal"), available: kilobytes(&text, "MemAvailable") }
}

/// The word in brackets: `always`, `madvise` or `never`.
pub fn transparent_huge_pages() -> Option<String> {
    let text = read("/sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_string())
}

/// Huge pages set aside, and how many of them are free.
pub fn huge_pages() -> Option<(u64, u64)> {
    let text = read("/proc/meminfo")?;
    Some((field(&text, "HugePages_Total")?.parse().ok()?, field(&text, "HugePages_Free")?.parse().ok()?))
}

/// CPUs' worth of time that the cgroups allow: the least of this one's and its parents'.
pub fn cgroup_cpus() -> Option<f64> {
    let quotient = |quota: &str, period: &str| {
        let (quota, period) = (quota.trim().parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?);
        (quota > 0.0 && period > 0.0).then_some(quota / period) // no quota is "max", or -1
    };
    let v2 = cgroup_limits("", "cpu.max", |text| text.split_once(' ').and_then(|(quota, period)| quotient(quota, period)));
    let v1 = cgroup_folders("cpu").into_iter().filter_map(|folder| {
        quotient(&read(format!("{folder}/cpu.cfs_quota_us"))?, &read(format!("{folder}/cpu.cfs_period_us"))?)
    });
    v1.chain(v2).reduce(f64::min)
}

/// Bytes of memory that the cgroups allow.
pub fn cgroup_memory() -> Option<u64> {
    /// What v1 says where there is no limit is some page below this.
    const NONE: u64 = 1 << 62;
    let bytes = |text: &str| text.trim().parse::<u64>().ok().filter(|&bytes| bytes < NONE);
    cgroup_limits("", "memory.max", bytes).into_iter().chain(cgroup_limits("memory", "memory.limit_in_bytes", bytes)).min()
}

fn cgroup_limits<T>(controller: &str, file: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let folders = cgroup_folders(controller).into_iter();
    folders.filter_map(|folder| parse(&read(format!("{folder}/{file}"))?)).collect()
}

/// The folders of this process's cgroup and its parents: of a v1 controller, or with no name of v2. Inside a container
/// the path may name a cgroup that is mounted as the root; a folder that is not there tells nothing, its parents do.
fn cgroup_folders(controller: &str) -> Vec<String> {
    let text = read("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    });
    let root = if controller.is_empty() { "/sys/fs/cgroup".to_string() } else { format!("/sys/fs/cgroup/{controller}") };
    let parents = path.into_iter().flat_map(|path| Path::new(path).ancestors());
    parents.map(|path| format!("{root}{}", path.display())).collect()
}

/// The NVIDIA driver's kernel module, by its own words.
pub fn nvidia_driver() -> Option<String> {
    Some(read("/proc/driver/nvidia/version")?.lines().next()?.trim().to_string())
}

/// Where the CUDA driver's library lies. Looked for where loaders look, not loaded.
pub fn cuda_library() -> Option<String> {
    const FOLDERS: [&str; 6] = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/usr/local/nvidia/lib64",
    ];
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut files =
        path.split(':').filter(|folder| !folder.is_empty()).chain(FOLDERS).map(|folder| format!("{folder}/libcuda.so.1"));
    files.find(|file| Path::new(file).exists())
}
