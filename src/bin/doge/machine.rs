//! What the rows were measured on.

use doge_engine::Device;
use serde_json::{json, Map, Value};

use crate::host;

/// The facts without which a speed means nothing, of a run on `device`.
pub fn machine(device: &Device) -> Value {
    let gpu = match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => Some(gpu.name()),
        _ => None::<&str>,
    };
    let caches: Map<String, Value> = host::caches().into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    json!({
        "cpu": host::cpu_model(),
        "gpu": gpu,
        "cpus": host::online_cpus().as_deref().and_then(host::count_cpus),
        "caches_bytes": caches,
        "memory_bytes": host::memory().total,
        "kernel": host::kernel(),
        "governor": host::governor(),
        "transparent_huge_pages": host::transparent_huge_pages(),
    })
}

/// What ran the kernels, of what [`machine`] tells.
pub fn processor(machine: &Value) -> Option<&str> {
    machine["gpu"].as_str().or(machine["cpu"].as_str())
}
