//! Reads `expected.safetensors`, the golden side of a model case.

use std::{collections::BTreeMap, path::Path};

use safetensors::{Dtype as Stored, SafeTensors};

use crate::{Error, Result};

/// A tensor of expectations: `shape`, and its numbers in row-major order.
#[derive(Debug)]
pub struct Array<T> {
    pub shape: Vec<usize>,
    pub data: Vec<T>,
}

/// The tensors of an expected.safetensors.
#[derive(Debug)]
pub struct Expected {
    floats: BTreeMap<String, Array<f32>>,
    /// i32 and i64 alike.
    ints: BTreeMap<String, Array<i64>>,
}

impl Expected {
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] if it is no safetensors file of f32, i32 and i64 tensors.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| Error::BadFile { path: path.to_path_buf(), why };
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut expected = Expected { floats: BTreeMap::new(), ints: BTreeMap::new() };
        for (name, tensor) in file.iter() {
            let (name, shape, data) = (name.to_string(), tensor.shape().to_vec(), tensor.data());
            match tensor.dtype() {
                Stored::F32 => {
                    let data = numbers(data, f32::from_le_bytes);
                    expected.floats.insert(name, Array { shape, data });
                }
                Stored::I32 => {
                    let data = numbers(data, |b| i32::from_le_bytes(b).into());
                    expected.ints.insert(name, Array { shape, data });
                }
                Stored::I64 => {
                    let data = numbers(data, i64::from_le_bytes);
                    expected.ints.insert(name, Array { shape, data });
                }
                other => return Err(bad(format!("tensor '{name}' has type {other:?}; f32, i32 and i64 are known"))),
            }
        }
        Ok(expected)
    }

    pub fn floats(&self, name: &str) -> Option<&Array<f32>> {
        self.floats.get(name)
    }

    pub fn ints(&self, name: &str) -> Option<&Array<i64>> {
        self.ints.get(name)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.floats.keys().chain(self.ints.keys()).map(String::as_str)
    }
}

impl<T> Array<T> {
    /// The elements of the leading index `at`, and the shape that is left. For `[L, B, T, H]`, `row(&[l, b])` is `[T, H]`.
    pub fn row(&self, at: &[usize]) -> Option<&[T]> {
        let (lead, rest) = self.shape.split_at_checked(at.len())?;
        let inside = at.iter().zip(lead).all(|(i, n)| i < n);
        let row: usize = rest.iter().product();
        let index = at.iter().zip(lead).fold(0, |sum, (i, n)| sum * n + i);
        inside.then(|| self.data.get(index * row..(index + 1) * row)).flatten()
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).filter_map(|bytes| bytes.first_chunk()).map(|&bytes| number(bytes)).collect()
}
