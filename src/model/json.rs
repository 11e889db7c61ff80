//! JSON files of a checkpoint, read with named errors: the key, what was expected, what stood there.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{text_file::parse_json, Error, Result};

/// A JSON object and where it stands. A key whose value is `null` counts as absent.
pub(crate) struct Object {
    path: PathBuf,
    /// `rope_scaling.` for an object inside the object, else empty.
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let bad = |why: String| Error::BadConfig { path: path.to_path_buf(), why };
        match parse_json(text) {
            Ok(Value::Object(map)) => Ok(Object { path: path.to_path_buf(), prefix: String::new(), map }),
            Ok(other) => Err(bad(format!("expected a JSON object, found {}", describe(&other)))),
            Err(error) => Err(bad(format!("is not JSON: {error}"))),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Is the key there at all, be it with `null`?
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// `key`: why, as [`Error::BadConfig`].
    pub fn bad(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::BadConfig { path: self.path.clone(), why: format!("{}{key}: {why}", self.prefix) }
    }

    fn wrong(&self, key: &str, want: &str, got: &Value) -> Error {
        self.bad(key, format_args!("expected {want}, found {}", describe(got)))
    }

    /// A whole number inside `range`.
    pub fn size(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        let want = || format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(key, &want(), value))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().filter(|x| x.is_finite()).map(Some).ok_or_else(|| self.wrong(key, "a finite number", value))
    }

    /// A number above zero that is one in f32 too.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(x) if !is_positive(x) => {
                Err(self.bad(key, format_args!("expected a number above 0, within the range of f32, found {x:?}")))
            }
            other => Ok(other),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    pub fn word(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", value))
    }

    /// An object inside the object.
    pub fn object(&self, key: &str) -> Result<Option<Object>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let prefix = format!("{}{key}.", self.prefix);
                Ok(Some(Object { path: self.path.clone(), prefix, map: map.clone() }))
            }
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// One token id, or a list of them.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, "a token id or a list of token ids", value))
    }

    /// One token id.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| self.wrong(key, "a token id", value))
    }

    /// The token that fills up a batch. Old configs have -1 for none.
    pub fn pad_token_id(&self) -> Result<Option<u32>> {
        let key = "pad_token_id";
        match self.get(key).and_then(Value::as_i64) {
            Some(-1) => Ok(None),
            _ => self.token_id(key),
        }
    }

    /// A list of numbers as [`Object::positive`] has them.
    pub fn positives(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = |v: &Value| v.as_f64().filter(|x| is_positive(*x));
        let list = value.as_array().and_then(|list| list.iter().map(one).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, "a list of numbers above 0, within the range of f32", value))
    }
}

/// What is computed with it is f32: it must not be 0 or infinity there, nor so small that dividing by it gives infinity.
fn is_positive(x: f64) -> bool {
    x > 0.0 && (x as f32).is_normal()
}

/// A value in an error message: never longer than a line.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_string(),
        Value::String(s) if s.chars().count() > 60 => "a long string".to_string(),
        other => other.to_string(),
    }
}
