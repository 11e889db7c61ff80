//! ISA levels: which exist, which are compiled in, which this CPU and OS offer.

use crate::{Error, Result};

macro_rules! isa_list { ($($id:ident $name:literal $table:ident [$($feature:tt),*];)*) => {
    /// An ISA level. A later one is a higher one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    #[allow(missing_docs, reason = "a level is its CPU features: `Isa::features`")]
    pub enum Isa { $($id),* }

    impl Isa {
        /// All levels, lowest first.
        pub const ALL: &'static [Isa] = &[$(Isa::$id),*];

        /// The word for the command line, `DOGE_ISA` and reports.
        pub const fn name(self) -> &'static str {
            match self { $(Isa::$id => $name),* }
        }

        /// The same, as C has strings.
        #[cfg(feature = "capi")]
        pub(crate) const fn c_name(self) -> &'static std::ffi::CStr {
            let bytes = match self { $(Isa::$id => concat!($name, "\0").as_bytes()),* };
            match std::ffi::CStr::from_bytes_with_nul(bytes) {
                Ok(name) => name,
                Err(_) => c"",
            }
        }

        /// The CPU features the level's kernels are compiled with.
        pub const fn features(self) -> &'static [&'static str] {
            match self { $(Isa::$id => &[$($feature),*]),* }
        }

        /// Do this CPU and this OS offer every feature of the level?
        pub fn is_supported(self) -> bool {
            self.missing_features().is_empty()
        }

        /// The features of the level that this CPU or this OS does not offer.
        pub fn missing_features(self) -> Vec<&'static str> {
            let features = match self { $(Isa::$id => vec![$(($feature, detected!($feature))),*]),* };
            features.into_iter().filter(|(_, offered)| !offered).map(|(feature, _)| feature).collect()
        }
    }
} }

/// Are the kernels of this build compiled for a CPU that has AVX2 and no more (build.rs, `DOGE_EMULATE`)?
#[cfg(target_arch = "x86_64")]
const EMULATED: bool = cfg!(doge_emulate);

/// `is_x86_feature_detected!` asks the CPU and, for the wide registers, whether the OS saves them.
#[cfg(target_arch = "x86_64")]
macro_rules! detected {
    ("avx2") => {
        std::arch::is_x86_feature_detected!("avx2")
    };
    ("fma") => {
        std::arch::is_x86_feature_detected!("fma")
    };
    ("f16c") => {
        std::arch::is_x86_feature_detected!("f16c")
    };
    ("amx-tile") => {
        EMULATED || crate::cpu::has_amx_tile()
    };
    ("amx-int8") => {
        EMULATED || crate::cpu::has_amx_int8()
    };
    ("amx-bf16") => {
        EMULATED || crate::cpu::has_amx_bf16()
    };
    ($feature:tt) => {
        EMULATED || std::arch::is_x86_feature_detected!($feature)
    };
}
#[cfg(not(target_arch = "x86_64"))]
macro_rules! detected {
    ($feature:tt) => {
        false
    };
}

include!("isa_list.rs");

impl Isa {
    /// The level that `DOGE_ISA` asks for, if it is set.
    ///
    /// # Errors
    /// [`Error::UnknownWord`] if it is set to something that is no level.
    pub fn from_env() -> Result<Option<Isa>> {
        match std::env::var_os("DOGE_ISA") {
            // What is no UTF-8 is no level either.
            Some(word) if !word.is_empty() => word.to_string_lossy().parse().map(Some),
            _ => Ok(None),
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Isa {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Isa::ALL.iter().copied().find(|isa| isa.name() == s).ok_or_else(|| Error::UnknownWord {
            what: "ISA level",
            word: s.to_string(),
            expected: Isa::ALL.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }
}
