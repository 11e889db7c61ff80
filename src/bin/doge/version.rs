//! What this program is: version, commit, ISA levels and features compiled in.

use std::sync::LazyLock;

use doge_engine::{Isa, Kernels};

/// The commit it was built from, if it was built for release in a git checkout.
pub const COMMIT: Option<&str> = option_env!("DOGE_COMMIT");
pub const RUSTC: Option<&str> = option_env!("DOGE_RUSTC");
pub const CXX: Option<&str> = option_env!("DOGE_CXX");

/// The optional features of this build.
pub fn features() -> Vec<&'static str> {
    let all = [("embedded-model", cfg!(feature = "embedded-model")), ("download", cfg!(feature = "download"))];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

/// The ISA levels compiled in, lowest first.
pub fn isa_levels() -> Vec<&'static str> {
    Isa::ALL.iter().filter(|isa| Kernels::is_compiled(**isa)).map(|isa| isa.name()).collect()
}

pub fn short() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| match COMMIT {
        Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_string(),
    });
    &TEXT
}

pub fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let features = features();
        let features = if features.is_empty() { "none".to_string() } else { features.join(" ") };
        format!("{}\nISA levels: {}\nfeatures: {features}", short(), isa_levels().join(" "))
    });
    &TEXT
}
