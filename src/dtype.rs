//! How a weight is stored.

use crate::ffi;

/// The stored format of a weight matrix. The discriminants are the contract's `DogeDtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754, 32 bits.
    F32 = ffi::DOGE_F32,
    /// The upper half of an f32.
    Bf16 = ffi::DOGE_BF16,
    /// IEEE 754, 16 bits.
    F16 = ffi::DOGE_F16,
    /// 8 bits a weight and one bf16 scale for 32 weights of a row.
    Int8 = ffi::DOGE_INT8,
    /// 4 bits a weight and one bf16 scale for 32 weights of a row.
    Int4 = ffi::DOGE_INT4,
}

/// A [`Dtype`] whose elements stand alone: one number after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Float {
    /// [`Dtype::F32`]
    F32,
    /// [`Dtype::Bf16`]
    Bf16,
    /// [`Dtype::F16`]
    F16,
}

impl Dtype {
    /// Every format, in the contract's order.
    pub const ALL: [Dtype; ffi::DOGE_DTYPE_COUNT as usize] = [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Int8, Dtype::Int4];
    /// Those whose elements stand alone.
    pub const FLOATS: [Dtype; ffi::DOGE_FLOAT_COUNT as usize] = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    /// Those in groups with a scale.
    pub const INTS: [Dtype; ffi::DOGE_INT_COUNT as usize] = [Dtype::Int8, Dtype::Int4];

    /// The format of the elements, if they are floats.
    pub const fn float(self) -> Option<Float> {
        match self {
            Dtype::F32 => Some(Float::F32),
            Dtype::Bf16 => Some(Float::Bf16),
            Dtype::F16 => Some(Float::F16),
            Dtype::Int8 | Dtype::Int4 => None,
        }
    }

    /// Is it one of [`Dtype::INTS`]?
    pub const fn is_int(self) -> bool {
        self.float().is_none()
    }

    /// The word used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::Int8 => "int8",
            Dtype::Int4 => "int4",
        }
    }
}

impl Float {
    /// Every one of them, in the contract's order.
    pub const ALL: [Float; 3] = [Float::F32, Float::Bf16, Float::F16];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::Bf16 | Float::F16 => 2,
        }
    }
}

impl From<Float> for Dtype {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Dtype::F32,
            Float::Bf16 => Dtype::Bf16,
            Float::F16 => Dtype::F16,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Dtype::from(*self).name())
    }
}

impl std::str::FromStr for Dtype {
    type Err = crate::Error;

    /// Accepts our words and transformers' (`float32`, `bfloat16`, `float16`).
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "f32" | "float32" => Ok(Dtype::F32),
            "bf16" | "bfloat16" => Ok(Dtype::Bf16),
            "f16" | "float16" => Ok(Dtype::F16),
            "int8" => Ok(Dtype::Int8),
            "int4" => Ok(Dtype::Int4),
            _ => Err(crate::Error::UnknownWord {
                what: "dtype",
                word: s.to_string(),
                expected: Dtype::ALL.map(Dtype::name).join(", "),
            }),
        }
    }
}

impl std::str::FromStr for Float {
    type Err = crate::Error;

    /// Accepts the words of [`Dtype`].
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse::<Dtype>().ok().and_then(Dtype::float).ok_or_else(|| crate::Error::UnknownWord {
            what: "float format",
            word: s.to_string(),
            expected: Dtype::FLOATS.map(Dtype::name).join(", "),
        })
    }
}
