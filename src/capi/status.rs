//! How a call ended, and the words for it.

use std::{
    cell::RefCell,
    ffi::{c_char, CStr, CString},
    panic::{catch_unwind, AssertUnwindSafe},
};

use crate::Error;

/// How a call ended. Numbers keep their meaning; later versions may add some.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DogeStatus {
    /// It did what was asked.
    Ok = 0,
    /// An argument is NULL, out of range, or contradicts another.
    BadArgument = 1,
    /// The checkpoint or tokenizer is missing, malformed or unsupported.
    BadModel = 2,
    /// A file could not be read.
    Io = 3,
    /// Memory could not be had.
    OutOfMemory = 4,
    /// A token id outside the vocabulary.
    TokenOutOfRange = 5,
    /// The session has no room for more tokens.
    ContextFull = 6,
    /// doge_session_cancel was called.
    Cancelled = 7,
    /// NaN or infinity came out of the model.
    NonFinite = 8,
    /// This machine or this build does not have what was asked for.
    Unavailable = 9,
    /// A saved session is damaged, of another version, or of another model.
    BadSession = 10,
    /// The buffer is too small; the length that is needed was stored.
    BufferTooSmall = 11,
    /// Another thread is using the session.
    Busy = 12,
    /// A bug in this library. The handles in use must not be used again, but for freeing them.
    Internal = 13,
}

impl DogeStatus {
    fn name(self) -> &'static CStr {
        match self {
            DogeStatus::Ok => c"ok",
            DogeStatus::BadArgument => c"bad argument",
            DogeStatus::BadModel => c"bad model",
            DogeStatus::Io => c"i/o error",
            DogeStatus::OutOfMemory => c"out of memory",
            DogeStatus::TokenOutOfRange => c"token out of range",
            DogeStatus::ContextFull => c"context full",
            DogeStatus::Cancelled => c"cancelled",
            DogeStatus::NonFinite => c"non-finite value",
            DogeStatus::Unavailable => c"unavailable",
            DogeStatus::BadSession => c"bad saved session",
            DogeStatus::BufferTooSmall => c"buffer too small",
            DogeStatus::Busy => c"session busy",
            DogeStatus::Internal => c"internal error",
        }
    }

    const ALL: [DogeStatus; 14] = [
        DogeStatus::Ok,
        DogeStatus::BadArgument,
        DogeStatus::BadModel,
        DogeStatus::Io,
        DogeStatus::OutOfMemory,
        DogeStatus::TokenOutOfRange,
        DogeStatus::ContextFull,
        DogeStatus::Cancelled,
        DogeStatus::NonFinite,
        DogeStatus::Unavailable,
        DogeStatus::BadSession,
        DogeStatus::BufferTooSmall,
        DogeStatus::Busy,
        DogeStatus::Internal,
    ];
}

/// Why a call did not do what was asked.
pub(super) struct Failure {
    pub status: DogeStatus,
    pub message: String,
}

impl Failure {
    pub fn new(status: DogeStatus, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    pub fn null(what: &str) -> Self {
        Failure::new(DogeStatus::BadArgument, format!("{what} is NULL"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } | Error::Download { .. } => DogeStatus::Io,
            Error::IsaUnavailable { .. } => DogeStatus::Unavailable,
            Error::NonFinite { .. } => DogeStatus::NonFinite,
            Error::NonFiniteValue { .. } => DogeStatus::NonFinite,
            Error::TokenOutOfRange { .. } => DogeStatus::TokenOutOfRange,
            Error::ContextFull { .. } => DogeStatus::ContextFull,
            Error::OutOfMemory { .. } => DogeStatus::OutOfMemory,
            Error::Cancelled { .. } => DogeStatus::Cancelled,
            Error::BadSession { .. } => DogeStatus::BadSession,
            error if error.is_model_error() => DogeStatus::BadModel,
            _ => DogeStatus::BadArgument,
        };
        Failure::new(status, error.to_string())
    }
}

pub(super) type Outcome = Result<(), Failure>;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// A message as C has strings: up to the first NUL, of which messages have none.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// Runs the body of a function: nothing unwinds out of it, and a failure leaves its message with this thread.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> DogeStatus {
    let panicked = || Failure::new(DogeStatus::Internal, "a bug in doge-engine: please report it");
    match catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(panicked())) {
        Ok(()) => DogeStatus::Ok,
        Err(Failure { status, message }) => {
            // A thread that is ending has no place for it any more.
            let _ = LAST.try_with(|last| last.replace(c_string(&message)));
            status
        }
    }
}

/// The same for functions that give something else than a status; `otherwise` after a panic.
pub(super) fn guard_value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// The message of the last call on this thread that failed, in English and UTF-8; empty if none has. Never NULL. Valid until
/// the next call on this thread that fails. From any thread.
#[no_mangle]
pub extern "C" fn doge_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a status, such as "context full"; "unknown" for numbers that are none. Never NULL, always valid. From any thread.
#[no_mangle]
pub extern "C" fn doge_status_name(status: i32) -> *const c_char {
    let known = DogeStatus::ALL.into_iter().find(|known| *known as i32 == status);
    known.map_or(c"unknown", DogeStatus::name).as_ptr()
}
