//! What the rows were measured on.

use serde_json::{json, Map, Value};

use crate::host;

/// The facts without which a speed means nothing.
pub fn machine() -> Value {
    let caches: Map<String, Value> = host::caches().into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    json!({
        "cpu": host::cpu_model(),
        "cpus": host::online_cpus().as_deref().and_then(host::count_cpus),
        "caches_bytes": caches,
        "memory_bytes": host::memory().total,
        "kernel": host::kernel(),
        "governor": host::governor(),
        "transparent_huge_pages": host::transparent_huge_pages(),
    })
}
