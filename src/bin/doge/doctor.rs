//! `doge doctor`

use std::{
    io::{stdout, Write},
    process::ExitCode,
};

use clap::Args;
use doge_engine::{pool::Pool, Error, Isa, Kernels};
use serde_json::{json, Value};

use crate::{failure::Failure, host, report::mebibytes, version};

/// Tells what this machine offers and what of it is used
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// One ISA level, and what keeps it from running.
struct Level {
    isa: Isa,
    compiled: bool,
    missing: Vec<&'static str>,
}

struct Report {
    levels: Vec<Level>,
    chosen: Result<Isa, Error>,
    /// What `DOGE_ISA` is set to.
    asked: Option<String>,
    threads: Threads,
}

struct Threads {
    default: usize,
    online: Option<String>,
    allowed: Option<String>,
    quota: Option<f64>,
}

pub fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let report = Report::take();
    let text = if args.json { format!("{}\n", report.to_json()) } else { report.to_text() };
    stdout().write_all(text.as_bytes()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn take() -> Self {
        let level = |&isa: &Isa| Level { isa, compiled: Kernels::is_compiled(isa), missing: isa.missing_features() };
        Report {
            levels: Isa::ALL.iter().map(level).collect(),
            chosen: Kernels::detect().map(|kernels| kernels.isa()),
            asked: std::env::var_os("DOGE_ISA").filter(|word| !word.is_empty()).map(|word| word.to_string_lossy().into_owned()),
            threads: Threads {
                default: Pool::default_threads(),
                online: host::online_cpus(),
                allowed: host::allowed_cpus(),
                quota: host::cgroup_cpus(),
            },
        }
    }

    fn to_text(&self) -> String {
        let unknown = || "unknown".to_string();
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, mebibytes);
        let mut out = String::new();
        let mut row = |name: &str, value: String| out.push_str(&format!("{name:<12}{value}\n"));

        row("doge", version::short().to_string());
        row("compilers", [version::RUSTC, version::CXX].map(|c| c.unwrap_or("unknown")).join(", "));
        row("CPU", host::cpu_model().unwrap_or_else(unknown));
        for level in &self.levels {
            row(if level.isa == Isa::ALL[0] { "ISA levels" } else { "" }, level.to_string());
        }
        row("chosen", self.why());
        row("threads", self.threads.to_string());
        let memory = host::memory();
        row("memory", format!("{} available of {}", size(memory.available), size(memory.total)));
        row("", format!("cgroup limit {}", host::cgroup_memory().map_or("none".into(), mebibytes)));
        let set_aside = host::huge_pages().map_or_else(unknown, |(total, free)| format!("{total} set aside, {free} free"));
        row("huge pages", format!("transparent: {}; {set_aside}", host::transparent_huge_pages().unwrap_or_else(unknown)));
        row("GPU", gpu());
        row("", format!("NVIDIA driver: {}", host::nvidia_driver().unwrap_or("none loaded".into())));
        row("", format!("libcuda.so.1: {}", host::cuda_library().unwrap_or("not found".into())));
        let features = version::features();
        row("features", if features.is_empty() { "none".to_string() } else { features.join(" ") });
        out
    }

    /// The level chosen, and the reason.
    fn why(&self) -> String {
        match (&self.chosen, &self.asked) {
            (Ok(isa), Some(_)) => format!("{isa}, as DOGE_ISA asks"),
            (Ok(isa), None) => format!("{isa}, the fastest that is compiled and that CPU and OS offer"),
            (Err(error), Some(word)) => format!("none: DOGE_ISA is '{word}': {error}"),
            (Err(error), None) => format!("none: {error}"),
        }
    }

    fn to_json(&self) -> Value {
        let level = |level: &Level| {
            json!({
                "name": level.isa.name(),
                "compiled": level.compiled,
                "offered": level.missing.is_empty(),
                "missing": level.missing,
            })
        };
        let (memory, threads) = (host::memory(), &self.threads);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": version::COMMIT,
            "rustc": version::RUSTC,
            "cxx": version::CXX,
            "features": version::features(),
            "cpu": host::cpu_model(),
            "isa": {
                "levels": self.levels.iter().map(level).collect::<Vec<_>>(),
                "chosen": self.chosen.as_ref().ok().map(|isa| isa.name()),
                "why": self.why(),
            },
            "threads": {
                "default": threads.default,
                "online_cpus": threads.online,
                "allowed_cpus": threads.allowed,
                "cgroup_cpus": threads.quota,
                "limited_by": threads.limited_by(),
            },
            "memory": {
                "total_bytes": memory.total,
                "available_bytes": memory.available,
                "cgroup_limit_bytes": host::cgroup_memory(),
            },
            "huge_pages": {
                "transparent": host::transparent_huge_pages(),
                "set_aside": host::huge_pages().map(|(total, _)| total),
                "free": host::huge_pages().map(|(_, free)| free),
            },
            "gpu": {
                "cuda_in_this_build": cuda::IS_BUILT,
                "gpus": cuda::count(),
                "nvidia_driver": host::nvidia_driver(),
                "libcuda": host::cuda_library(),
            },
        })
    }
}

/// What of CUDA this build has, and what the driver shows.
fn gpu() -> String {
    match (cuda::IS_BUILT, cuda::count()) {
        (false, _) => "not used: this build has no CUDA kernels".into(),
        (true, 0) => "CUDA kernels in this build; the driver shows no GPU".into(),
        (true, 1) => "CUDA kernels in this build; the driver shows one GPU".into(),
        (true, n) => format!("CUDA kernels in this build; the driver shows {n} GPUs"),
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use doge_engine::cuda::Device;

    pub const IS_BUILT: bool = Device::is_built();

    pub fn count() -> usize {
        Device::count()
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    pub const IS_BUILT: bool = false;

    pub fn count() -> usize {
        0
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let compiled = if self.compiled { "compiled" } else { "not compiled" };
        write!(f, "{:<12}{compiled}, ", self.isa.name())?;
        match self.missing.as_slice() {
            [] => write!(f, "offered"),
            missing => write!(f, "lacks {}", missing.join(", ")),
        }
    }
}

impl Threads {
    /// What makes the default smaller than the number of CPUs online.
    fn limited_by(&self) -> Vec<&'static str> {
        let online = self.online.as_deref().and_then(host::count_cpus);
        let fewer = |count: Option<usize>| online.zip(count).is_some_and(|(online, count)| count < online);
        let quota = self.quota.map(|cpus| cpus.floor().max(1.0) as usize);
        let limits = [("affinity", fewer(self.allowed.as_deref().and_then(host::count_cpus))), ("cgroup quota", fewer(quota))];
        limits.into_iter().filter(|(_, limits)| *limits).map(|(name, _)| name).collect()
    }
}

impl std::fmt::Display for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unknown = |fact: &Option<String>| fact.clone().unwrap_or("unknown".into());
        let quota = self.quota.map_or("none".to_string(), |cpus| format!("{cpus:.2} CPUs"));
        let limited = match self.limited_by().as_slice() {
            [] => "all CPUs online".to_string(),
            limits => format!("limited by {}", limits.join(" and ")),
        };
        let (online, allowed) = (unknown(&self.online), unknown(&self.allowed));
        write!(f, "{} by default: {limited} (online {online}; affinity {allowed}; cgroup quota {quota})", self.default)
    }
}
