//! What a template may build. minijinja counts instructions and bytes, but walks a value to print, compare or drop it by calling
//! itself for each level, and looks into no value before it does.
//!
//! - Only a namespace keeps a value from one turn of a loop to the next, so only there could a loop nest values without end:
//!   what it is given is checked after each `set` (see [`super::translate`]).
//! - Beyond that a value becomes deeper by what the template writes, once for each macro or recursive loop that has not ended:
//!   [`recursion_limit`].
//! - What makes text of values pays before it is made.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, StringInput, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{filters, AutoEscape, Environment, Error, ErrorKind, Output, State};

/// The test and the filter that [`super::translate`] writes after a `set` of a namespace's attribute.
pub(super) const LOOSE: &str = "_loose";
pub(super) const FIRM: &str = "_firm";

/// How deep a value in a namespace may be nested.
const MAX_DEPTH: usize = 64;
/// Levels that what a template writes may add to a value. To print or compare one takes at most 640 bytes of stack for a level
/// (and twice as many where nothing is optimised), and some filters add two levels.
const MAX_LEVELS: usize = super::STACK >> 11;
/// Widths and precisions of `format` at most.
const MAX_WIDTH: u64 = 9999;
/// Bytes of text that one unit of fuel pays for.
pub(super) const BYTES: u64 = 64;
/// Looking at a value costs a 16th of a unit of fuel, and for a list or dict eight of them.
const SIXTEENTHS: u64 = 16;
const CONTAINER: u64 = 8;

pub(super) fn add_to(environment: &mut Environment) {
    environment.add_test(LOOSE, |value: &Value| value.as_object().is_some());
    environment.add_filter(FIRM, |state: &State, value: &Value| {
        Ok::<_, Error>(Walk::new(state).firm(value, 0)?.unwrap_or_else(|| value.clone()))
    });
    environment.add_filter("string", string);
    environment.add_filter("join", join);
    environment.add_filter("sum", sum);
    environment.add_filter("format", format);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    // jinja has neither; the one hides what it is made of, the other prints everything there is.
    environment.remove_filter("chain");
    environment.remove_global("debug");
}

/// How deep macros and loops may recurse, by what `source` can nest in one of them. A level takes one of these characters.
pub(super) fn recursion_limit(source: &str) -> usize {
    MAX_LEVELS / source.matches(['[', '(', '{', '|', '*', '+']).count().max(1)
}

struct Walk<'a> {
    state: &'a State<'a, 'a>,
    /// Sixteenths of a unit of fuel.
    unpaid: u64,
}

impl<'a> Walk<'a> {
    fn new(state: &'a State) -> Self {
        Walk { state, unpaid: 0 }
    }

    fn visit(&mut self, value: &Value) -> Result<(), Error> {
        self.unpaid += if value.as_object().is_some() { CONTAINER } else { 1 };
        self.state.consume_fuel(self.unpaid / SIXTEENTHS)?;
        self.unpaid %= SIXTEENTHS;
        Ok(())
    }

    /// `value` with lists instead of iterators, which hide how deep they are; none if it has no iterators.
    fn firm(&mut self, value: &Value, depth: usize) -> Result<Option<Value>, Error> {
        self.visit(value)?;
        let Some(object) = value.as_object() else { return Ok(None) };
        let refuse = |why| Err(Error::new(ErrorKind::InvalidOperation, why));
        if depth == MAX_DEPTH {
            return refuse(format!("a namespace cannot keep a value that is nested deeper than {MAX_DEPTH}"));
        }
        // What is in these changes later.
        if let Some(name @ ("Namespace" | "Loop")) = object.type_name().rsplit("::").next() {
            return refuse(format!("a namespace cannot keep a {}; keep what is in it", name.to_lowercase()));
        }
        let mut firm = |item: Value| match self.firm(&item, depth + 1)? {
            None => Ok((item, false)),
            Some(firm) => Ok::<_, Error>((firm, true)),
        };
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let mut changed = value.kind() == ValueKind::Iterable;
                let mut items = Vec::new();
                for item in value.try_iter()? {
                    let (item, new) = firm(item)?;
                    changed |= new;
                    items.push(item);
                }
                let list = |items: Vec<Value>| if value.is_tuple() { Tuple::from(items).into() } else { items.into() };
                Ok(changed.then(|| list(items)))
            }
            ValueKind::Map => {
                let mut changed = false;
                let mut pairs = Vec::new();
                for (key, item) in object.try_iter_pairs().into_iter().flatten() {
                    let (item, new) = firm(item)?;
                    changed |= new;
                    pairs.push((key, item));
                }
                Ok(changed.then(|| Value::from_pairs(pairs)))
            }
            _ => Ok(None),
        }
    }

    /// Pays for the text of `values`, and gives about how many bytes it has.
    fn pay(&mut self, values: &[Value]) -> Result<u64, Error> {
        let mut bytes = 0;
        let mut pending = values.to_vec();
        while let Some(value) = pending.pop() {
            let length = value.as_str().map_or(16, str::len) as u64;
            self.state.consume_fuel(length / BYTES)?;
            bytes += length;
            if value.as_object().is_none() {
                continue;
            }
            let map = value.kind() == ValueKind::Map;
            for item in value.try_iter().into_iter().flatten() {
                self.visit(&item)?;
                if map {
                    pending.push(value.get_item(&item)?);
                }
                pending.push(item);
            }
        }
        Ok(bytes)
    }
}

/// A value's text, as long as the fuel that is left can pay for.
fn text(state: &State, value: &Value) -> Result<String, Error> {
    struct Meter {
        out: String,
        most: u64,
    }

    impl Write for Meter {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.most = self.most.checked_sub(text.len() as u64).ok_or(std::fmt::Error)?;
            self.out.push_str(text);
            Ok(())
        }
    }

    // minijinja asks for a unit for 4 bytes of a container's text.
    let most = state.fuel_levels().map_or(u64::MAX, |(_, left)| left.saturating_mul(4));
    let mut meter = Meter { out: String::new(), most };
    write!(meter, "{value}").map_err(|_| Error::from(ErrorKind::OutOfFuel))?;
    Ok(meter.out)
}

fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return minijinja::escape_formatter(out, state, value);
    }
    let text = text(state, value)?;
    match state.auto_escape() {
        AutoEscape::None => Ok(out.write_str(&text)?),
        _ => minijinja::escape_formatter(out, state, &Value::from(text)),
    }
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_object().is_none() {
        return filters::string(state, value);
    }
    let text = text(state, value)?;
    state.consume_fuel(text.len() as u64 / 4)?;
    Ok(text.into())
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput>,
    attribute: Option<&str>,
    named: Kwargs,
) -> Result<Value, Error> {
    Walk::new(state).pay(std::slice::from_ref(value))?;
    filters::join(state, value, joiner, attribute, named)
}

fn sum(state: &State, values: Value, attribute: Option<&str>, start: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let start = start.or(named.get("start")?);
    if start.as_ref().is_some_and(|start| start.as_str().is_some()) {
        // As in Python; each sum would copy all texts before it.
        return Err(Error::new(ErrorKind::InvalidOperation, "sum cannot add strings; use join"));
    }
    filters::sum(state, values, attribute, start, named)
}

fn format(state: &mut State, text: &Value, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given: Vec<Value> = values.iter().map(|value| Value::clone(value)).collect();
    let fields = text.as_str().unwrap_or_default().matches('%').count() as u64;
    let bytes = Walk::new(state).pay(&given)?;
    state.consume_fuel(bytes.saturating_mul(fields) / BYTES)?;
    filters::format(state, text, values)
}

/// Python's methods of strings, lists and dicts.
fn method(state: &mut State, value: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(text), "format") => {
            let (mut widths, mut fields) = (0_u64, 0_u64);
            for field in text.rsplit_once('}').map_or("", |(fields, _)| fields).split('}') {
                // A width or precision, what is between them, and the type are all that can be before the bracket.
                let numbers = field.rsplit(|c: char| !c.is_ascii_alphanumeric() && !",_.".contains(c)).next().unwrap_or_default();
                for number in numbers.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty()) {
                    let number = number.parse().ok().filter(|number| *number <= MAX_WIDTH).ok_or_else(|| {
                        let why = format!("format: no width or precision may be more than {MAX_WIDTH}, one is {number}");
                        Error::new(ErrorKind::InvalidOperation, why)
                    })?;
                    widths = widths.saturating_add(number);
                }
                fields += 1;
            }
            let bytes = Walk::new(state).pay(given)?;
            state.consume_fuel(bytes.saturating_mul(fields).saturating_add(widths) / BYTES)?;
        }
        (Some(_), "join") => drop(Walk::new(state).pay(given)?),
        (None, "count") => state.consume_fuel(value.len().unwrap_or_default() as u64 / 2)?,
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, given)
}
