//! The C interface, called as C calls it: what it gives is what the Rust interface gives, and what is wrong is refused.

use std::{
    ffi::{c_char, c_void, CStr},
    mem::zeroed,
    ptr::{null, null_mut},
    sync::Arc,
};

use doge_engine::{
    capi::*,
    embedded,
    model::{LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
    pool::Pool,
    Float, Kernels,
};

const PROMPT: [u32; 7] = [0, 597, 49, 41, 51, 18, 203];
const ANSWER: [u32; 8] = [203, 63, 529, 225, 2319, 16, 225, 2319];

fn text(text: *const c_char) -> String {
    assert!(!text.is_null());
    // SAFETY: the interface gives strings.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_string()
}

fn last_error() -> String {
    text(doge_last_error())
}

/// Calls a function of the interface.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the pointers are NULL or valid, and a callback has the type that is asked for.
        unsafe { $function($($argument),*) }
    };
}

// Below the macro, by which they call.
mod folders;
mod refused;
mod sessions;
mod versions;

fn made<T>(make: impl FnOnce(*mut *mut T) -> DogeStatus) -> *mut T {
    let mut made = null_mut();
    assert_eq!(make(&mut made), DogeStatus::Ok, "{}", last_error());
    assert!(!made.is_null());
    made
}

/// A model, a CPU of two threads, and an empty session.
struct Doge {
    cpu: *mut DogeCpu,
    model: *mut DogeModel,
    session: *mut DogeSession,
}

impl Doge {
    fn new() -> Self {
        let options = DogeCpuOptions { struct_size: size_of::<DogeCpuOptions>(), threads: 2, ..zeros() };
        let cpu = made(|out| call!(doge_cpu_new(&options, out)));
        let model = made(|out| call!(doge_model_embedded(null(), out)));
        let session = made(|out| call!(doge_session_new(model, cpu, null(), out)));
        Doge { cpu, model, session }
    }

    fn feed(&self, ids: &[u32]) -> DogeStatus {
        call!(doge_session_feed(self.session, ids.as_ptr(), ids.len()))
    }
}

impl Drop for Doge {
    fn drop(&mut self) {
        // The model first: the session keeps what it needs.
        call!(doge_model_free(self.model));
        call!(doge_cpu_free(self.cpu));
        call!(doge_session_free(self.session));
    }
}

/// As C makes a struct that it has not filled in.
fn zeros<T: Copy>() -> T {
    // SAFETY: only for the interface's option structs, for which zeros are values.
    unsafe { zeroed() }
}

fn logits(session: *const DogeSession) -> Vec<f32> {
    let (mut logits, mut n) = (null(), 0);
    assert_eq!(call!(doge_session_logits(session, &mut logits, &mut n)), DogeStatus::Ok, "{}", last_error());
    // SAFETY: what the interface says is there.
    unsafe { std::slice::from_raw_parts(logits, n) }.to_vec()
}

#[test]
fn it_gives_the_bits_of_the_rust_interface() {
    let doge = Doge::new();
    assert_eq!((doge_abi_version(), text(doge_version())), (DOGE_ENGINE_ABI_VERSION, env!("CARGO_PKG_VERSION").to_string()));
    let mut info = DogeModelInfo { struct_size: size_of::<DogeModelInfo>(), ..zeros() };
    assert_eq!(call!(doge_model_info(doge.model, &mut info)), DogeStatus::Ok);
    assert_eq!((info.vocab_size, call!(doge_cpu_threads(doge.cpu))), (4096, 2));
    assert_eq!(text(call!(doge_cpu_isa(doge.cpu))), Kernels::detect().unwrap().isa().name());

    let model = Model::new(embedded::checkpoint(&LoadOptions::default()).unwrap());
    let cpu = Cpu::new(Kernels::detect().unwrap(), Arc::new(Pool::new(1).unwrap()));
    let mut session = Session::new(&model, &cpu, SessionOptions::default()).unwrap();
    assert_eq!(doge.feed(&PROMPT), DogeStatus::Ok, "{}", last_error());
    assert_eq!(logits(doge.session), session.feed(&PROMPT).unwrap());
    assert_eq!(call!(doge_session_tokens(doge.session)), PROMPT.len());

    // A fork, and a session saved and loaded, go on alike; so do sessions in a batch.
    let fork = made(|out| call!(doge_session_fork(doge.session, out)));
    let mut n = 0;
    assert_eq!(call!(doge_session_save(doge.session, null_mut(), 0, &mut n)), DogeStatus::BufferTooSmall);
    let mut saved = vec![0; n];
    assert_eq!(call!(doge_session_save(doge.session, saved.as_mut_ptr(), n, &mut n)), DogeStatus::Ok);
    assert_eq!(saved, session.save().unwrap());
    let loaded = made(|out| call!(doge_session_load(doge.model, doge.cpu, null(), saved.as_ptr(), n, out)));
    let sessions = [fork, loaded];
    assert_eq!(call!(doge_batch_feed(doge.cpu, sessions.as_ptr(), [203, 203].as_ptr(), 2)), DogeStatus::Ok, "{}", last_error());
    let expected = session.feed(&[203]).unwrap();
    for session in sessions {
        assert_eq!(logits(session), expected);
    }
    assert_eq!(call!(doge_batch_feed(doge.cpu, [fork, fork].as_ptr(), [1, 1].as_ptr(), 2)), DogeStatus::Busy);
    sessions.into_iter().for_each(|session| call!(doge_session_free(session)));

    let mut logprobs = [0.0; 3];
    assert_eq!(call!(doge_session_score(doge.session, ANSWER.as_ptr(), 3, logprobs.as_mut_ptr())), DogeStatus::Ok);
    assert!(logprobs.iter().all(|x| *x < 0.0));
}

#[test]
fn k_and_v_may_be_kept_in_16_bits() {
    let (doge, size) = (Doge::new(), size_of::<DogeSessionOptions>());
    let model = Model::new(embedded::checkpoint(&LoadOptions::default()).unwrap());
    let cpu = Cpu::new(Kernels::detect().unwrap(), Arc::new(Pool::new(1).unwrap()));
    let mut session = Session::new(&model, &cpu, SessionOptions::default().kv_dtype(Float::F16)).unwrap();
    let options = DogeSessionOptions { struct_size: size, kv_dtype: c"f16".as_ptr(), ..zeros() };
    let rounded = made(|out| call!(doge_session_new(doge.model, doge.cpu, &options, out)));
    assert_eq!(call!(doge_session_feed(rounded, PROMPT.as_ptr(), PROMPT.len())), DogeStatus::Ok, "{}", last_error());
    assert_eq!(logits(rounded), session.feed(&PROMPT).unwrap());
    assert_eq!(doge.feed(&PROMPT), DogeStatus::Ok);
    assert_ne!(logits(rounded), logits(doge.session));
    call!(doge_session_free(rounded));

    let mut none = null_mut();
    let unknown = DogeSessionOptions { kv_dtype: c"int8".as_ptr(), ..options };
    assert_ne!(call!(doge_session_new(doge.model, doge.cpu, &unknown, &mut none)), DogeStatus::Ok);
    assert!(last_error().contains("int8") && last_error().contains("f32, bf16, f16"), "{}", last_error());
}

#[derive(Default)]
struct Seen {
    ids: Vec<u32>,
    text: String,
    forbidden: Option<u32>,
    /// After so many tokens only this one can be chosen; beyond the vocabulary: none.
    instead: Option<(usize, u32)>,
}

unsafe extern "C" fn on_token(user: *mut c_void, id: u32, logprob: f32) -> i32 {
    assert!(logprob < 0.0);
    // SAFETY: the test passes a `Seen`.
    unsafe { &mut *user.cast::<Seen>() }.ids.push(id);
    0
}

unsafe extern "C" fn on_text(user: *mut c_void, piece: *const c_char, n: usize) -> i32 {
    // SAFETY: the test passes a `Seen`; the piece is n bytes.
    let (seen, piece) = unsafe { (&mut *user.cast::<Seen>(), std::slice::from_raw_parts(piece.cast::<u8>(), n)) };
    seen.text += std::str::from_utf8(piece).unwrap();
    i32::from(seen.text.contains("ANTONIO"))
}

unsafe extern "C" fn on_logits(user: *mut c_void, logits: *mut f32, n: usize, _: *const u32, n_generated: usize) {
    // SAFETY: the test passes a `Seen`; there are n logits.
    let (seen, logits) = unsafe { (&mut *user.cast::<Seen>(), std::slice::from_raw_parts_mut(logits, n)) };
    seen.forbidden.into_iter().for_each(|id| logits[id as usize] = f32::NEG_INFINITY);
    if let Some((_, id)) = seen.instead.filter(|(after, _)| *after == n_generated) {
        let others = logits.iter_mut().enumerate().filter(|(other, _)| *other != id as usize);
        others.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
    }
}

#[test]
fn it_generates() {
    let tokenizer = made(|out| call!(doge_tokenizer_embedded(out)));
    let generate = |options: &DogeGenerateOptions, capacity: usize| {
        let doge = Doge::new();
        let (mut ids, mut result) = (vec![0; capacity], DogeGenerated { struct_size: size_of::<DogeGenerated>(), ..zeros() });
        let (prompt, n) = (PROMPT.as_ptr(), PROMPT.len());
        let status = call!(doge_generate(doge.session, prompt, n, options, ids.as_mut_ptr(), capacity, &mut result));
        assert_eq!(status, DogeStatus::Ok, "{}", last_error());
        ids.truncate(result.n_tokens);
        (ids, result.finish)
    };
    let default = DogeGenerateOptions { struct_size: size_of::<DogeGenerateOptions>(), ..zeros() };
    assert_eq!(generate(&default, 8), (ANSWER.to_vec(), DogeFinish::Length as i32));
    let eos = [225];
    let ends = DogeGenerateOptions { eos_token_ids: eos.as_ptr(), n_eos_token_ids: 1, ..default };
    assert_eq!(generate(&ends, 8), (ANSWER[..4].to_vec(), DogeFinish::Eos as i32));

    let mut seen = Seen::default();
    let streams = DogeGenerateOptions {
        user: (&raw mut seen).cast(),
        on_token: Some(on_token),
        on_text: Some(on_text),
        tokenizer,
        ..default
    };
    let (ids, finish) = generate(&streams, 100);
    assert_eq!((seen.text.as_str(), finish), ("\n[Enter ANTONIO", DogeFinish::Cancelled as i32));
    assert_eq!(seen.ids, ids);

    // "ANTONIO" begins in one token and ends in another; nothing of it is given out.
    let stops = [c"Enter  ".as_ptr(), c"ANTONIO".as_ptr()];
    let mut seen = Seen::default();
    let stopped = DogeGenerateOptions {
        user: (&raw mut seen).cast(),
        on_text: Some(on_text),
        tokenizer,
        stop_strings: stops.as_ptr(),
        n_stop_strings: stops.len(),
        ..default
    };
    let (until_stopped, finish) = generate(&stopped, 100);
    assert_eq!((seen.text.as_str(), finish), ("\n[Enter ", DogeFinish::StopString as i32));
    assert_eq!(until_stopped, ids, "the ids hold what stopped them");
    // Without anybody to give text to it stops at the same place; with nothing to stop it, what was held back comes in the end.
    assert_eq!(generate(&DogeGenerateOptions { on_text: None, ..stopped }, 100), (ids, DogeFinish::StopString as i32));
    let mut seen = Seen::default();
    let held = DogeGenerateOptions { user: (&raw mut seen).cast(), max_new_tokens: 4, ..stopped };
    let (few, finish) = generate(&held, 100);
    assert_eq!((few, finish, seen.text.as_str()), (ANSWER[..4].to_vec(), DogeFinish::Length as i32, "\n[Enter "));

    // A special token adds no text to look in; its name stops at it, and what was held back comes out.
    let stops = [c"[Exit".as_ptr(), c"<|start_header_id|>".as_ptr()];
    let mut seen = Seen { instead: Some((2, 2)), ..Seen::default() };
    let named =
        DogeGenerateOptions { user: (&raw mut seen).cast(), on_logits: Some(on_logits), stop_strings: stops.as_ptr(), ..stopped };
    let (ids, finish) = generate(&named, 100);
    assert_eq!((ids, finish), ([&ANSWER[..2], &[2]].concat(), DogeFinish::StopString as i32));
    assert_eq!(seen.text, "\n[");

    let mut seen = Seen { forbidden: Some(ANSWER[0]), ..Seen::default() };
    let hooked = DogeGenerateOptions { user: (&raw mut seen).cast(), on_logits: Some(on_logits), ..default };
    assert_ne!(generate(&hooked, 1).0[0], ANSWER[0]);
    call!(doge_tokenizer_free(tokenizer));
}

#[test]
fn text_goes_there_and_back() {
    let tokenizer = made(|out| call!(doge_tokenizer_embedded(out)));
    let (said, mut n) = ("Thou art a villain.\n", 0);
    let (bytes, len) = (said.as_ptr(), said.len());
    assert_eq!(call!(doge_tokenizer_encode(tokenizer, bytes, len, 0, 1, null_mut(), 0, &mut n)), DogeStatus::BufferTooSmall);
    let mut ids = vec![0; n];
    assert_eq!(call!(doge_tokenizer_encode(tokenizer, bytes, len, 0, 1, ids.as_mut_ptr(), n, &mut n)), DogeStatus::Ok);
    let mut back = vec![0; 100];
    let status = call!(doge_tokenizer_decode(tokenizer, ids.as_ptr(), ids.len(), 1, back.as_mut_ptr(), back.len(), &mut n));
    assert_eq!((status, &back[..n]), (DogeStatus::Ok, said.as_bytes()));
    let mut eos = [0; 4];
    assert_eq!(call!(doge_tokenizer_eos(tokenizer, eos.as_mut_ptr(), 4, &mut n)), DogeStatus::Ok);
    assert_eq!(eos[..n], [1]);
    assert_eq!(
        call!(doge_tokenizer_encode(tokenizer, bytes, len, 1, 1, ids.as_mut_ptr(), 0, &mut n)),
        DogeStatus::BufferTooSmall
    );
    assert_eq!(n, ids.len() + 1, "the begin-of-text token");
    let status = call!(doge_tokenizer_encode(tokenizer, [0xff].as_ptr(), 1, 0, 1, null_mut(), 0, &mut n));
    assert_eq!((status, last_error().as_str()), (DogeStatus::BadArgument, "text is not UTF-8"));
    call!(doge_tokenizer_free(tokenizer));
}

#[test]
fn text_that_was_held_back_comes_before_an_error() {
    let (doge, tokenizer) = (Doge::new(), made(|out| call!(doge_tokenizer_embedded(out))));
    let (stops, mut seen) = ([c"[Exit".as_ptr()], Seen { instead: Some((2, u32::MAX)), ..Seen::default() });
    let options = DogeGenerateOptions {
        struct_size: size_of::<DogeGenerateOptions>(),
        user: (&raw mut seen).cast(),
        on_text: Some(on_text),
        on_logits: Some(on_logits),
        tokenizer,
        stop_strings: stops.as_ptr(),
        n_stop_strings: 1,
        ..zeros()
    };
    let (prompt, n) = (PROMPT.as_ptr(), PROMPT.len());
    assert_ne!(call!(doge_generate(doge.session, prompt, n, &options, null_mut(), 0, null_mut())), DogeStatus::Ok);
    assert!(last_error().contains("negative infinity"), "{}", last_error());
    assert_eq!(seen.text, "\n[");
    call!(doge_tokenizer_free(tokenizer));
}

/// A kernel by its plain pointer, without a model.
#[test]
fn kernels_can_be_had_alone() {
    for isa in [null(), c"scalar".as_ptr()] {
        let mut table = null();
        assert_eq!(call!(doge_kernels(isa, &mut table)), DogeStatus::Ok, "{}", last_error());
        // SAFETY: a table.
        let rms_norm = unsafe { &*table }.rms_norm.unwrap();
        let (mut out, x, weight) = ([0.0; 4], [3.0, -3.0, 3.0, -3.0], [1.0, 1.0, 2.0, 2.0]);
        // SAFETY: all have 4 floats.
        unsafe { rms_norm(out.as_mut_ptr(), x.as_ptr(), weight.as_ptr(), 1, 4, 0.0) };
        assert_eq!(out, [1.0, -1.0, 2.0, -2.0]);
    }
    let mut table = null();
    assert_eq!(call!(doge_kernels(c"sse9".as_ptr(), &mut table)), DogeStatus::BadArgument);
    assert!(table.is_null());
}
