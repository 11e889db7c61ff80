//! The jinja environment of transformers' `apply_chat_template`.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::to_json::to_json;
use crate::{Error, Result};

/// What one rendering may spend; about one unit an instruction or 64 bytes of text. A conversation of a million characters
/// takes a few hundred thousand, and a template that loops forever is stopped after about a second.
const FUEL: u64 = 5_000_000;

pub(super) fn new() -> Result<Environment<'static>> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(error)?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    // In jinja whatever has a length and items is a sequence.
    environment.add_test("sequence", |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    Ok(environment)
}

/// The source in minijinja's dialect. jinja reads every line end as `\n`. `{% generation %}` marks the assistant's words for
/// training and changes nothing in the text; a `with` block without variables is the same: a scope of its own, and the
/// whitespace control of a tag.
pub(super) fn translate(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let name = tag.trim_start_matches(['-', '+']).trim_start();
        rest = tag;
        for (theirs, ours) in [("generation", "with"), ("endgeneration", "endwith")] {
            let Some(after) = name.strip_prefix(theirs) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                out.push_str(tag.strip_suffix(name).unwrap_or_default());
                out.push_str(ours);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
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
