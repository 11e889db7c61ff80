//! The loop that makes tokens.

use std::ffi::{c_char, c_void};

use super::{
    options::{apart, borrow, optional_str, read, slice, slice_mut, write, Versioned},
    session::DogeSession,
    status::{guard, DogeStatus, Failure},
    tokenizer::DogeTokenizer,
};
use crate::{Finish, Generation, Sampler, SamplingSettings, StopStrings, Stopped, TextStream, Until};

/// How to generate. All zeros but struct_size are the defaults: greedy, until the buffer is full.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DogeGenerateOptions {
    /// sizeof(DogeGenerateOptions)
    pub struct_size: usize,
    /// Tokens to generate at most. 0: as many as the buffer holds, or no limit without one.
    pub max_new_tokens: usize,
    /// Tokens that end the text; the one that does is among the generated ids.
    pub eos_token_ids: *const u32,
    /// Their number.
    pub n_eos_token_ids: usize,
    /// Divides the logits before a token is drawn. 0: the likeliest token is taken.
    pub temperature: f32,
    /// Draw from as many likeliest tokens. 0: from all.
    pub top_k: u32,
    /// Draw from the likeliest tokens that together are this likely. 0: from all.
    pub top_p: f32,
    /// Draw from tokens at least this fraction as likely as the likeliest. 0: from all.
    pub min_p: f32,
    /// Above 1 makes tokens that were there less likely. 0: 1.
    pub repetition_penalty: f32,
    /// 0
    pub reserved: u32,
    /// Seed of the draws.
    pub seed: u64,
    /// Passed to the callbacks, which are called on the thread that called the library and must not throw, nor call anything
    /// with this session but doge_session_cancel. Each may be NULL.
    pub user: *mut c_void,
    /// Called with each token and the logarithm of its probability; not 0 ends the generation.
    pub on_token: Option<unsafe extern "C" fn(user: *mut c_void, id: u32, logprob: f32) -> i32>,
    /// Called with pieces of text: whole characters in UTF-8, `n` bytes without a NUL, valid for the time of the call. Not 0
    /// ends the generation, and nothing more is given. Needs `tokenizer`.
    pub on_text: Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char, n: usize) -> i32>,
    /// For `on_text` and `stop_strings`; may be NULL without them.
    pub tokenizer: *const DogeTokenizer,
    /// May change the `n` logits of the next token, given the `n_generated` tokens so far.
    pub on_logits:
        Option<unsafe extern "C" fn(user: *mut c_void, logits: *mut f32, n: usize, generated: *const u32, n_generated: usize)>,
    /// `n_stop_strings` texts, none of them NULL or empty. The first that comes ends the generation: the last ids hold it,
    /// `on_text` gets nothing of it. Text that may be the beginning of one is held back. A special token adds no text; one
    /// whose name is exactly one of these ends the generation too. Needs `tokenizer`.
    pub stop_strings: *const *const c_char,
    /// Their number.
    pub n_stop_strings: usize,
}

// SAFETY: #[repr(C)], struct_size first, zeros are values of all its fields.
unsafe impl Versioned for DogeGenerateOptions {}

/// Why a generation ended. Numbers keep their meaning; later versions may add some.
#[repr(i32)]
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DogeFinish {
    /// As many tokens as were wanted.
    Length = 0,
    /// One of eos_token_ids.
    Eos = 1,
    /// The session has no room for another token.
    ContextFull = 2,
    /// doge_session_cancel, or a callback.
    Cancelled = 3,
    /// One of stop_strings, or the special token that it names.
    StopString = 4,
}

/// What a generation did.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DogeGenerated {
    /// sizeof(DogeGenerated), set by the caller
    pub struct_size: usize,
    /// Tokens generated.
    pub n_tokens: usize,
    /// A DogeFinish.
    pub finish: i32,
    /// 0
    pub reserved: i32,
    /// Tokens of the prompt that were fed.
    pub prefill_tokens: usize,
    /// The seconds that took.
    pub prefill_seconds: f64,
    /// Generated tokens that were fed back.
    pub decode_tokens: usize,
    /// The seconds that took.
    pub decode_seconds: f64,
}

// SAFETY: #[repr(C)], struct_size first, zeros are values of all its fields.
unsafe impl Versioned for DogeGenerated {}

/// `user`, on its way into the hook. The hook is called by the thread that called us, and by no other.
#[derive(Clone, Copy)]
struct User(*mut c_void);
// SAFETY: only passed on to the caller's function, on the caller's thread.
unsafe impl Send for User {}

impl User {
    /// A method, so that a closure captures the whole `User`, not the bare pointer in it.
    fn ptr(self) -> *mut c_void {
        self.0
    }
}

/// Continues `prompt`, the sequence from its first token on: only what the session does not hold yet is fed. The ids go to
/// `ids[capacity]`, which may be NULL with a capacity of 0, and to the callbacks; DOGE_STATUS_BAD_ARGUMENT if they
/// overlap `prompt` or `options->eos_token_ids`. `options` may be NULL, and so may `out`. Being cancelled is no failure: it is told
/// in `out->finish`.
///
/// # Safety
/// Pointers as the header's preface says.
#[no_mangle]
pub unsafe extern "C" fn doge_generate(
    session: *mut DogeSession,
    prompt: *const u32,
    n_prompt: usize,
    options: *const DogeGenerateOptions,
    ids: *mut u32,
    capacity: usize,
    out: *mut DogeGenerated,
) -> DogeStatus {
    guard(|| {
        // SAFETY: NULL or valid (header).
        let handle = unsafe { borrow("session", session) }?;
        handle.run(|session| {
            // SAFETY: NULL or valid (header).
            let options = unsafe { read("DogeGenerateOptions", options) }?;
            apart(("ids", ids, capacity), ("prompt", prompt, n_prompt))?;
            apart(("ids", ids, capacity), ("eos_token_ids", options.eos_token_ids, options.n_eos_token_ids))?;
            // SAFETY: n_stop_strings strings (header); they are copied before anything is written.
            let stops = unsafe { stop_strings(&options) }?;
            // SAFETY: n_prompt ids, and capacity places for ids (header), apart (checked).
            let (prompt, ids) = unsafe { (slice("prompt", prompt, n_prompt)?, slice_mut("ids", ids, capacity)?) };
            // SAFETY: the struct's promises are the header's; `ids` are apart from its tokens (checked).
            let result = unsafe { generate(session, &handle.cancel, prompt, &options, stops, ids) }?;
            if out.is_null() {
                return Ok(());
            }
            // SAFETY: valid (header).
            unsafe { write("DogeGenerated", out, result) }
        })
    })
}

/// # Safety
/// `options` is as the header says, and its tokens do not lie in `ids`.
unsafe fn generate(
    session: &mut crate::model::Session,
    cancel: &std::sync::atomic::AtomicBool,
    prompt: &[u32],
    options: &DogeGenerateOptions,
    stops: StopStrings,
    ids: &mut [u32],
) -> Result<DogeGenerated, Failure> {
    // SAFETY: n_eos_token_ids ids (header).
    let eos = unsafe { slice("eos_token_ids", options.eos_token_ids, options.n_eos_token_ids) }?;
    // SAFETY: NULL or valid (header).
    let tokenizer = unsafe { options.tokenizer.as_ref() };
    let wants_text = options.on_text.is_some() || options.n_stop_strings > 0;
    if wants_text && tokenizer.is_none() {
        return Err(Failure::null("tokenizer, which on_text and stop_strings need,"));
    }
    let room = if ids.is_empty() { usize::MAX } else { ids.len() };
    let wanted = if options.max_new_tokens == 0 { room } else { options.max_new_tokens };
    if wanted > room {
        return Err(Failure::new(DogeStatus::BadArgument, format!("{wanted} tokens do not fit {room} ids")));
    }
    let mut sampler = Sampler::new(settings(options))?;
    let until = Until::default().max_new_tokens(wanted).eos_token_ids(eos).cancel(cancel);
    let mut generation = Generation::new(session, &mut sampler, prompt, until)?;
    if options.on_token.is_some() {
        generation = generation.with_logprobs(0);
    }
    let user = User(options.user);
    if let Some(hook) = options.on_logits {
        generation = generation.with_logits_hook(move |logits, _, generated| {
            // SAFETY: a function of this type (header); both stretches live until it returns.
            unsafe { hook(user.ptr(), logits.as_mut_ptr(), logits.len(), generated.as_ptr(), generated.len()) }
        });
    }
    let mut text = Text { on_text: options.on_text, user: options.user, stream: TextStream::new(true), stops, over: false };
    let (mut cancelled, mut stopped, mut failed) = (false, false, None);
    while !cancelled && !stopped {
        let Some(id) = generation.next() else { break };
        let Ok(id) = id.map_err(|error| failed = Some(error)) else { break };
        if let Some(place) = generation.ids().len().checked_sub(1).and_then(|at| ids.get_mut(at)) {
            *place = id;
        }
        if let Some(on_token) = options.on_token {
            let logprob = generation.logprobs().last().map_or(f32::NAN, |token| token.logprob);
            // SAFETY: a function of this type (header).
            cancelled = unsafe { on_token(options.user, id, logprob) } != 0;
        }
        // A token that ends the text is no part of it.
        if let Some(tokenizer) = tokenizer.filter(|_| wants_text && generation.finish() != Some(Finish::Eos)) {
            let made = text.stops.push_token(&mut text.stream, &tokenizer.tokenizer, id);
            // SAFETY: the function is what the header says.
            stopped = unsafe { text.take(made) };
            cancelled |= text.over;
        }
    }
    if !stopped {
        let made = text.stops.push(&text.stream.finish());
        // SAFETY: as above.
        stopped = unsafe { text.take(made) };
        let rest = text.stops.finish();
        // SAFETY: as above.
        unsafe { text.give(&rest) };
    }
    // Only now: the text that was held back is the caller's, whatever came after it.
    if let Some(error) = failed {
        return Err(error.into());
    }
    if cancelled {
        generation.cancel();
    }
    let (generated, finish, timings) = generation.into_parts();
    Ok(DogeGenerated {
        struct_size: size_of::<DogeGenerated>(),
        n_tokens: generated.len(),
        finish: match finish {
            _ if stopped => DogeFinish::StopString,
            Some(Finish::Eos) => DogeFinish::Eos,
            Some(Finish::ContextFull) => DogeFinish::ContextFull,
            Some(Finish::Cancelled) => DogeFinish::Cancelled,
            _ => DogeFinish::Length,
        } as i32,
        reserved: 0,
        prefill_tokens: timings.prefill_tokens,
        prefill_seconds: timings.prefill.as_secs_f64(),
        decode_tokens: timings.decode_tokens,
        decode_seconds: timings.decode.as_secs_f64(),
    })
}

/// # Safety
/// `options` is as the header says.
unsafe fn stop_strings(options: &DogeGenerateOptions) -> Result<StopStrings, Failure> {
    // SAFETY: n_stop_strings pointers (header).
    let stops = unsafe { slice("stop_strings", options.stop_strings, options.n_stop_strings) }?;
    // SAFETY: a string (header).
    let stop = |&stop: &*const c_char| unsafe { optional_str("a stop string", stop) };
    let stops = stops.iter().map(|text| stop(text)?.map(str::to_owned).ok_or_else(|| Failure::null("a stop string")));
    Ok(StopStrings::new(stops.collect::<Result<_, Failure>>()?)?)
}

/// The text on its way to `on_text`.
struct Text {
    on_text: Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char, n: usize) -> i32>,
    user: *mut c_void,
    stream: TextStream,
    stops: StopStrings,
    /// `on_text` wants no more.
    over: bool,
}

impl Text {
    /// Gives what no stop string can claim; is one complete?
    ///
    /// # Safety
    /// `on_text` is what the header says.
    unsafe fn take(&mut self, made: Stopped) -> bool {
        let (text, stopped) = match made {
            Stopped::No(text) => (text, false),
            Stopped::At(text, _) => (text, true),
        };
        // SAFETY: the caller's promise.
        unsafe { self.give(&text) };
        stopped
    }

    /// # Safety
    /// `on_text` is what the header says.
    unsafe fn give(&mut self, text: &str) {
        if let Some(on_text) = self.on_text.filter(|_| !text.is_empty() && !self.over) {
            // SAFETY: the caller's promise; the text lives until it returns.
            self.over = unsafe { on_text(self.user, text.as_ptr().cast(), text.len()) } != 0;
        }
    }
}

fn settings(options: &DogeGenerateOptions) -> SamplingSettings {
    let or_one = |x: f32| if x == 0.0 { 1.0 } else { x };
    SamplingSettings::default()
        .do_sample(options.temperature != 0.0)
        .temperature(options.temperature)
        .seed(options.seed)
        .top_k(options.top_k as usize)
        .top_p(or_one(options.top_p))
        .min_p(options.min_p)
        .repetition_penalty(or_one(options.repetition_penalty))
}
