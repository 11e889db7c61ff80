//! The filter `tojson` as transformers defines it: Python's `json.dumps(x, ensure_ascii=False)`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::bounds::BYTES;

/// Deeper values are refused; `serde_json` reads no deeper ones either.
const MAX_DEPTH: usize = 128;

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`; what follows `x` comes by name.
pub(super) fn to_json(state: &State, value: &Value, named: Kwargs) -> Result<String, Error> {
    let option = |name| named.get::<Option<Value>>(name).map(|option| option.filter(|value| !value.is_none()));
    let indent = match option("indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(i64::try_from(indent)?.clamp(0, 64) as usize),
        }),
    };
    let (item, key) = match option("separators")? {
        // With one item a line, the space would trail.
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => {
            let part = |i: usize| pair.get_item(&Value::from(i)).map(|part| part.to_string());
            (part(0)?, part(1)?)
        }
    };
    let flag = |name| option(name).map(|value| value.is_some_and(|value| value.is_true()));
    let (ensure_ascii, sort_keys) = (flag("ensure_ascii")?, flag("sort_keys")?);
    named.assert_all_used()?;
    let mut writer = Writer { state, out: String::new(), unpaid: 0, depth: 0, ensure_ascii, sort_keys, indent, item, key };
    writer.value(value)?;
    Ok(writer.out)
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    /// Bytes of `out`, less than a unit of fuel pays for.
    unpaid: u64,
    depth: usize,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    item: String,
    key: String,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.push(&scalar(value)?),
            ValueKind::Seq | ValueKind::Iterable => {
                self.container('[', ']', value.try_iter()?.map(Ok), |writer, item| writer.value(&item))
            }
            ValueKind::Map => {
                let state = self.state;
                let pairs = value.try_iter()?.map(|key| {
                    state.consume_fuel(1)?;
                    Ok((key_text(&key)?, value.get_item(&key)?))
                });
                let write = |writer: &mut Self, (key, value): (String, Value)| {
                    writer.string(&key)?;
                    writer.push(&writer.key.clone())?;
                    writer.value(&value)
                };
                if !self.sort_keys {
                    return self.container('{', '}', pairs, write);
                }
                let mut pairs = pairs.collect::<Result<Vec<_>, Error>>()?;
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                self.container('{', '}', pairs.into_iter().map(Ok), write)
            }
            other => Err(Error::new(ErrorKind::BadSerialization, format!("tojson cannot write a value of type {other}"))),
        }
    }

    fn container<T>(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = Result<T, Error>>,
        write: impl Fn(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, format!("tojson: nested deeper than {MAX_DEPTH}")));
        }
        self.out.push(open);
        self.depth += 1;
        let mut empty = true;
        for item in items {
            self.state.consume_fuel(1)?;
            if !empty {
                self.push(&self.item.clone())?;
            }
            empty = false;
            self.line()?;
            write(self, item?)?;
        }
        self.depth -= 1;
        if !empty {
            self.line()?;
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self) -> Result<(), Error> {
        if let Some(indent) = self.indent.clone() {
            self.push("\n")?;
            (0..self.depth).try_for_each(|_| self.push(&indent))?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.pay(text.len())?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.push("\\\"")?,
                '\\' => self.push("\\\\")?,
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                '\u{8}' => self.push("\\b")?,
                '\u{c}' => self.push("\\f")?,
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.push(&format!("\\u{unit:04x}"))?;
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn push(&mut self, text: &str) -> Result<(), Error> {
        self.pay(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn pay(&mut self, bytes: usize) -> Result<(), Error> {
        self.unpaid += bytes as u64;
        self.state.consume_fuel(self.unpaid / BYTES)?;
        self.unpaid %= BYTES;
        Ok(())
    }
}

/// None, a bool or a number.
fn scalar(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.into(),
        _ if value.is_integer() => value.to_string(),
        _ => float(f64::try_from(value.clone())?),
    })
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => scalar(key),
        other => Err(Error::new(ErrorKind::BadSerialization, format!("tojson cannot write a key of type {other}"))),
    }
}

/// Python's repr: Rust's debug form, but for the exponent, which has a sign and two digits.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let text = format!("{x:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |positive| ('-', positive));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}
