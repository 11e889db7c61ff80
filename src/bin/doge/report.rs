//! What goes to stderr. Colour on a terminal only, and never with `NO_COLOR`. A closed stderr is nobody's failure.

use std::{
    fmt::Display,
    io::{stderr, IsTerminal, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use doge_engine::Timings;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const NOTE: Style = AnsiColor::Yellow.on_default().bold();
const FAINT: Style = Style::new().dimmed();

fn colour() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` in a style, where colour is wanted.
fn styled(style: Style, text: &str) -> String {
    if colour() {
        format!("{style}{text}{style:#}")
    } else {
        text.to_string()
    }
}

pub fn line(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

pub fn error(why: &str) {
    line(&format!("{} {why}", styled(ERROR, "error:")));
}

pub fn note(what: impl Display) {
    line(&format!("{} {what}", styled(NOTE, "note:")));
}

/// Something of little weight: timings, settings.
pub fn faint(text: impl Display) {
    line(&styled(FAINT, &text.to_string()));
}

/// Asks for a line of input.
pub fn prompt(text: &str) {
    let _ = write!(stderr(), "{text}");
    let _ = stderr().flush();
}

/// How far a file is, on a terminal's current line.
#[cfg(any(feature = "download", feature = "cuda"))]
pub fn progress(file: &str, done: u64, total: Option<u64>) {
    if stderr().is_terminal() {
        let total = total.map_or(String::new(), |total| format!(" of {}", mebibytes(total)));
        let _ = write!(stderr(), "\r\x1b[K{file}: {}{total}", mebibytes(done));
        let _ = stderr().flush();
    }
}

/// Clears the line for what comes next.
#[cfg(any(feature = "download", feature = "cuda"))]
pub fn end_progress() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[K");
    }
}

/// The timings, as they end a run.
pub fn timings(load: Duration, timings: &Timings) {
    let rate = |tokens: usize, time: Duration| match per_second(tokens, time) {
        Some(rate) => format!("{tokens:>6} tokens in {:>9}  {rate:>9.1} tok/s", milliseconds(time)),
        None => format!("{tokens:>6} tokens"),
    };
    faint(format_args!("load      {:>26}", milliseconds(load)));
    faint(format_args!("prefill   {}", rate(timings.prefill_tokens, timings.prefill)));
    faint(format_args!("decode    {}", rate(timings.decode_tokens, timings.decode)));
    faint(format_args!("sampling  {:>26}", milliseconds(timings.sampling)));
    faint(format_args!("text      {:>26}", milliseconds(timings.detokenising)));
    if let Some(bytes) = crate::host::peak_rss() {
        faint(format_args!("peak RSS  {:>26}", mebibytes(bytes)));
    }
}

/// Tokens per second, if there is anything to divide.
pub fn per_second(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// The shortest decimal that means this f32, as JSON's f64.
pub fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
