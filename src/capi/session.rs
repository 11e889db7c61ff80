//! Sessions: ids in, logits out.

use std::{
    ffi::{c_char, CString},
    str::FromStr,
    sync::{
        atomic::{AtomicBool, Ordering},
        Mutex, MutexGuard, TryLockError,
    },
};

use super::{
    model::{DogeCpu, DogeModel},
    options::{apart, borrow, fill, free, give, optional_str, read, slice, slice_mut, Versioned},
    status::{c_string, guard, guard_value, DogeStatus, Failure, Outcome},
};
use crate::{
    model::{Batch, Session, SessionOptions},
    ops::Routing,
    Float,
};

/// One sequence. One thread at a time: a second one gets DOGE_STATUS_BUSY, and waits for nothing. Only doge_session_cancel may be
/// called at any time. Sessions are independent of each other.
pub struct DogeSession {
    held: Mutex<Held>,
    pub(super) cancel: AtomicBool,
}

pub(super) struct Held {
    pub session: Session,
    error: CString,
}

/// How a session runs. All zeros but struct_size are the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DogeSessionOptions {
    /// sizeof(DogeSessionOptions)
    pub struct_size: usize,
    /// Tokens that the sequence may have. 0: no limit; the state is bounded in any case.
    pub ctx_size: usize,
    /// Tokens of a prompt that go through the layers together. 0: 256. The results do not depend on it.
    pub block: usize,
    /// Not 0: choose a prompt's experts as transformers does.
    pub reference_routing: i32,
    /// 0
    pub reserved: i32,
    /// Format of K and V in memory: "f32", "bf16" or "f16". NULL: f32, exact. With 16 bits, tokens far into a text come faster.
    pub kv_dtype: *const c_char,
}

// SAFETY: #[repr(C)], struct_size first, zeros are values of all its fields.
unsafe impl Versioned for DogeSessionOptions {}

impl DogeSession {
    fn new(session: Session) -> Self {
        DogeSession { held: Mutex::new(Held { session, error: CString::default() }), cancel: AtomicBool::new(false) }
    }

    /// The session, unless another thread has it, or a bug struck while one had.
    pub(super) fn hold(&self) -> Result<MutexGuard<'_, Held>, Failure> {
        self.held.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::new(DogeStatus::Busy, "another thread is using the session"),
            TryLockError::Poisoned(_) => Failure::new(DogeStatus::Internal, "the session met a bug before; free it"),
        })
    }

    /// Runs `body`, and keeps the message of its failure: what a caller can get wrong is looked at in there.
    pub(super) fn run<T>(&self, body: impl FnOnce(&mut Session) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut held = self.hold()?;
        body(&mut held.session).inspect_err(|failure| held.keep(failure))
    }
}

impl Held {
    /// Keeps the message for doge_session_error.
    fn keep(&mut self, failure: &Failure) {
        self.error = c_string(&failure.message);
    }
}

/// # Safety
/// `options` is NULL or valid.
unsafe fn session_options(options: *const DogeSessionOptions) -> Result<SessionOptions, Failure> {
    // SAFETY: the caller's promise.
    let given = unsafe { read("DogeSessionOptions", options) }?;
    let default = SessionOptions::default();
    let unless_0 = |number: usize| Some(number).filter(|&number| number != 0);
    let routing = if given.reference_routing == 0 { Routing::PerToken } else { Routing::Reference };
    // SAFETY: NULL or a string (header).
    let kv_dtype = unsafe { optional_str("kv_dtype", given.kv_dtype) }?.map(Float::from_str).transpose()?;
    Ok(SessionOptions {
        ctx_size: unless_0(given.ctx_size).unwrap_or(default.ctx_size),
        block: unless_0(given.block),
        routing,
        kv_dtype: kv_dtype.unwrap_or(default.kv_dtype),
    })
}

/// An empty sequence. `options` may be NULL. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_new(
    model: *const DogeModel,
    cpu: *const DogeCpu,
    options: *const DogeSessionOptions,
    out: *mut *mut DogeSession,
) -> DogeStatus {
    let make = || {
        // SAFETY: NULL or valid, all three (header).
        let (model, cpu, options) = unsafe { (borrow("model", model)?, borrow("cpu", cpu)?, session_options(options)?) };
        Ok(DogeSession::new(Session::new(&model.0, &cpu.0, options)?))
    };
    // SAFETY: NULL or valid (header).
    guard(|| unsafe { give(out, make) })
}

/// Ends a session. NULL is nothing. Once, when no other thread uses it.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_free(session: *mut DogeSession) {
    // SAFETY: NULL or valid, and not used again (header).
    unsafe { free(session) }
}

/// Takes in `n` tokens as one call, at least one. The logits after the last one are then in doge_session_logits. After
/// DOGE_STATUS_CANCELLED the session holds the first tokens of them (doge_session_tokens tells) and can go on from there.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_feed(session: *mut DogeSession, ids: *const u32, n: usize) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let handle = unsafe { borrow("session", session) }?;
        handle.run(|session| {
            // SAFETY: n ids (header).
            let ids = unsafe { slice("ids", ids, n) }?;
            Ok(session.feed_until(ids, &handle.cancel).map(drop)?)
        })
    })
}

/// As doge_session_feed, and stores the natural logarithm of each token's probability in `logprobs[n]`: NaN for the first
/// token of a sequence, which nothing predicts. Cannot be cancelled. DOGE_STATUS_BAD_ARGUMENT if `ids` and `logprobs` overlap.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_score(
    session: *mut DogeSession,
    ids: *const u32,
    n: usize,
    logprobs: *mut f32,
) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let handle = unsafe { borrow("session", session) }?;
        handle.run(|session| {
            apart(("logprobs", logprobs, n), ("ids", ids, n))?;
            // SAFETY: n ids, and n places for floats (header), apart (checked).
            let (ids, logprobs) = unsafe { (slice("ids", ids, n)?, slice_mut("logprobs", logprobs, n)?) };
            for (out, score) in logprobs.iter_mut().zip(session.score(ids, 0)?) {
                *out = score.map_or(f32::NAN, |score| score.logprob);
            }
            Ok(())
        })
    })
}

/// Feeds `ids[i]` to `sessions[i]`, `n` different sessions of one model, in one step that reads the weights once; it runs on
/// `cpu`. Each gets the bits that doge_session_feed would give it. On failure no session has taken anything in. If one of them is
/// cancelled (doge_session_cancel) before the step begins, that is DOGE_STATUS_CANCELLED.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_batch_feed(
    cpu: *const DogeCpu,
    sessions: *const *mut DogeSession,
    ids: *const u32,
    n: usize,
) -> DogeStatus {
    guard(|| {
        // SAFETY: n pointers (header).
        let sessions = unsafe { slice("sessions", sessions, n) }?;
        let (mut held, mut outcome) = (Vec::new(), Ok(()));
        for session in sessions {
            // SAFETY: NULL or valid (header).
            let session = unsafe { borrow("a session", session.cast_const()) };
            match session.and_then(|session| Ok((session.hold()?, &session.cancel))) {
                Ok(session) => held.push(session),
                // A session that is named twice is busy the second time. The others are held, to keep the message.
                Err(failure) => outcome = outcome.and(Err(failure)),
            }
        }
        // SAFETY: as the header says.
        let outcome = outcome.and_then(|()| unsafe { step(cpu, &mut held, ids) });
        outcome.inspect_err(|failure| held.iter_mut().for_each(|(held, _)| held.keep(failure)))
    })
}

/// A token of `ids` for each of the sessions, none of which is cancelled.
///
/// # Safety
/// `cpu` is NULL or valid, `ids` is NULL or has as many tokens as there are sessions.
unsafe fn step(cpu: *const DogeCpu, held: &mut [(MutexGuard<'_, Held>, &AtomicBool)], ids: *const u32) -> Outcome {
    // SAFETY: the caller's promise.
    let (cpu, ids) = unsafe { (borrow("cpu", cpu)?, slice("ids", ids, held.len())?) };
    let Some(model) = held.first().map(|(held, _)| held.session.model().clone()) else {
        return Err(Failure::new(DogeStatus::BadArgument, "there is no session"));
    };
    if let Some(i) = held.iter().position(|(_, cancel)| cancel.load(Ordering::Relaxed)) {
        let why = format!("session {i} is cancelled; no session has taken anything in");
        return Err(Failure::new(DogeStatus::Cancelled, why));
    }
    let mut sessions: Vec<&mut Session> = held.iter_mut().map(|(held, _)| &mut held.session).collect();
    Ok(Batch::new(&model, &cpu.0).feed(&mut sessions, ids)?)
}

/// Stores where the logits after the last token are, and their number, the vocabulary. They are there until the next call that
/// uses the session. DOGE_STATUS_BAD_ARGUMENT if there are none: the session is empty, or the last call failed on the way.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_logits(session: *const DogeSession, logits: *mut *const f32, n: *mut usize) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let handle = unsafe { borrow("session", session) }?;
        handle.run(|session| {
            if logits.is_null() || n.is_null() {
                return Err(Failure::null("logits or n"));
            }
            let none = || Failure::new(DogeStatus::BadArgument, "the session has no logits; feed it first");
            let found = session.logits().ok_or_else(none)?;
            // SAFETY: not NULL; valid (header).
            unsafe {
                logits.write(found.as_ptr());
                n.write(found.len());
            }
            Ok(())
        })
    })
}

/// Tokens taken in so far; 0 for NULL and while another thread uses the session.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_tokens(session: *const DogeSession) -> usize {
    guard_value(0, || {
        // SAFETY: NULL or valid (header).
        let held = unsafe { session.as_ref() }.and_then(|session| session.hold().ok());
        held.map_or(0, |held| held.session.tokens())
    })
}

/// The message of the last call with this session that failed; "" if none has, for NULL, while another thread uses it, and after
/// DOGE_STATUS_INTERNAL. A call that got DOGE_STATUS_BUSY leaves none here. Valid until the next call that uses the session.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_error(session: *const DogeSession) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        // SAFETY: NULL or valid (header).
        let held = unsafe { session.as_ref() }.and_then(|session| session.hold().ok());
        held.map_or(c"".as_ptr(), |held| held.error.as_ptr())
    })
}

/// Not 0: the call at hand ends soon, and so does each later one, until it is set to 0: doge_session_feed and doge_batch_feed with
/// DOGE_STATUS_CANCELLED, doge_generate with DOGE_FINISH_CANCELLED. A step of a batch that has begun is finished, and all other
/// calls take no notice. From any thread and from signal handlers, at any time while the session lives. NULL is nothing.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_cancel(session: *const DogeSession, cancel: i32) {
    // SAFETY: NULL or valid (header); the flag may be set while another thread uses the session.
    if let Some(session) = unsafe { session.as_ref() } {
        session.cancel.store(cancel != 0, Ordering::Relaxed);
    }
}

/// A sequence of its own that goes on where `session` stands.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_fork(session: *const DogeSession, out: *mut *mut DogeSession) -> DogeStatus {
    let make = || {
        // SAFETY: NULL or valid (header).
        let handle = unsafe { borrow("session", session) }?;
        Ok(DogeSession::new(handle.run(|session| Ok(session.fork()?))?))
    };
    guard(|| {
        if out.is_null() {
            // SAFETY: NULL or valid (header).
            return unsafe { borrow("session", session) }?.run(|_| Err(Failure::null("out")));
        }
        // SAFETY: not NULL; valid (header).
        unsafe { give(out, make) }
    })
}

/// Writes the session to `buffer` of `capacity` bytes and stores the number of bytes in `*n`; DOGE_STATUS_BUFFER_TOO_SMALL if they
/// are more (ask with a capacity of 0).
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_save(
    session: *const DogeSession,
    buffer: *mut u8,
    capacity: usize,
    n: *mut usize,
) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let handle = unsafe { borrow("session", session) }?;
        // SAFETY: `capacity` bytes and a number (header).
        handle.run(|session| unsafe { fill(&session.save()?, buffer, capacity, n) })
    })
}

/// The session that was saved. `options` may be NULL. Takes no more memory than a multiple of `n`. From any thread.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_session_load(
    model: *const DogeModel,
    cpu: *const DogeCpu,
    options: *const DogeSessionOptions,
    bytes: *const u8,
    n: usize,
    out: *mut *mut DogeSession,
) -> DogeStatus {
    let make = || {
        // SAFETY: NULL or valid, all three (header).
        let (model, cpu, options) = unsafe { (borrow("model", model)?, borrow("cpu", cpu)?, session_options(options)?) };
        // SAFETY: n bytes (header).
        let saved = unsafe { slice("bytes", bytes, n) }?;
        Ok(DogeSession::new(Session::load(&model.0, &cpu.0, options, saved)?))
    };
    // SAFETY: NULL or valid (header).
    guard(|| unsafe { give(out, make) })
}
