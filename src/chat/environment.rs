//! The jinja environment of transformers' `apply_chat_template`.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::bounds;
use super::to_json::to_json;
use crate::{Error, Result};

/// What one rendering may spend; about one unit an instruction or 64 bytes of text. A conversation of a million characters
/// takes a few hundred thousand, and a template that loops forever is stopped after a second or a few. minijinja charges nothing
/// for `==`, `<`, `in` and `~` of lists in lists; a template that doubles such a list sixty times and compares it is not stopped.
const FUEL: u64 = 5_000_000;

pub(super) fn new() -> Result<Environment<'static>> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(error)?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    bounds::add_to(&mut environment);
    environment.add_filter("tojson", to_json);
    // In jinja whatever has a length and items is a sequence.
    environment.add_test("sequence", |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    Ok(environment)
}

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Characters of it that are told.
const MAX_MESSAGE: usize = 1000;

fn raise_exception(mut message: String) -> Result<String, minijinja::Error> {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let now = jiff::ZonedDateTime::try_from(std::time::SystemTime::now());
    now.and_then(|now| jiff::fmt::strtime::format(format, &now))
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

pub(super) fn error(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if let Some(Raised(message)) = e.downcast_ref() {
            return Error::ChatTemplate { why: format!("it refuses these messages: {message}") };
        }
        if e.downcast_ref::<minijinja::Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return Error::ChatTemplate { why: format!("it does too much work, so it may loop forever ({error})") };
        }
        cause = e.source();
    }
    Error::ChatTemplate { why: error.to_string() }
}
