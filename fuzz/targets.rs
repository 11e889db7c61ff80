//! What is fuzzed: plain functions on bytes. fuzz/ drives them with libFuzzer; tests/replay.rs runs the corpus through them on every
//! `cargo test`. None may panic, hang, or ask for memory beyond all proportion.

#[path = "doors.rs"]
mod doors;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Once},
};

use doge_engine::{
    mapped::Mapped,
    model::{Checkpoint, Config, LoadOptions, Model, Session, SessionOptions, Variant},
    ops::Cpu,
    pool::Pool,
    ChatFiles, ChatInput, ChatTemplate, Dtype, GenerationConfig, Isa, Kernels, Tokenizer,
};
use serde_json::json;

pub use doors::doors;

/// A target, and the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("config", config),
    ("generation_config", generation_config),
    ("safetensors", safetensors),
    ("index", index),
    ("tokenizer", tokenizer),
    ("chat_template", chat_template),
    ("saved_session", saved_session),
    ("doors", doors),
    #[cfg(feature = "capi")]
    ("capi", capi),
];

/// A Doge of a few hundred bytes.
pub const CONFIG: &str = r#"{"model_type": "doge", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true, "keep_window_size": 3}"#;

static CPU: LazyLock<Cpu> = LazyLock::new(|| {
    let kernels = Kernels::for_isa(Isa::Scalar).expect("the scalar level is always there");
    Cpu::new(kernels, Arc::new(Pool::new(1).expect("one thread")))
});

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let config = Config::from_json(CONFIG.as_bytes(), Path::new("config.json")).expect("a good config");
    let variant = Variant::v2(&config);
    Model::new(Checkpoint::random(config, variant, Dtype::F32, 1).expect("a small model"))
});

pub fn config(data: &[u8]) {
    let _ = Config::from_json(data, Path::new("config.json"));
}

pub fn generation_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, generation) = text.split_once('\n').unwrap_or((text, "{}"));
    let _ = GenerationConfig::from_json(Some(config), Some(generation));
}

/// One file: header, data, packed matrices; what loads must run.
pub fn safetensors(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(CONFIG, Mapped::from_vec(data.to_vec()), &LoadOptions::default()) else { return };
    if let Ok(mut session) = Session::new(&Model::new(checkpoint), &CPU, SessionOptions::default().block(2)) {
        let _ = session.feed(&[1, 7, 3]);
    }
}

/// A folder of this process with a shard and an index to be fuzzed.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = parent.join(format!("doge-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), CONFIG).expect("a config");
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let shard = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    std::fs::write(folder.join("model-1.safetensors"), shard).expect("a shard");
    folder
});

pub fn index(data: &[u8]) {
    let index = FOLDER.join("model.safetensors.index.json");
    if std::fs::write(&index, data).is_ok() {
        let _ = Checkpoint::load(&FOLDER, &LoadOptions::default());
    }
}

pub fn tokenizer(data: &[u8]) {
    // The `tokenizers` crate answers some files with a panic, which is caught: no find, and nothing to be printed.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    let Ok(tokenizer) = Tokenizer::from_bytes(data) else { return };
    for text in ["", "To be, or not to be", "\u{1f415} \n\t<|end_of_text|>"] {
        if let Ok(ids) = tokenizer.encode(text, true, true) {
            let _ = tokenizer.decode(&ids, false);
        }
    }
}

pub fn chat_template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::from_files(ChatFiles::default().chat_template(text)) else { return };
    let messages = [json!({"role": "user", "content": "Who's there?"})];
    let _ = template.render(&ChatInput::new(&messages).add_generation_prompt(true));
}

/// A session of five tokens, saved.
pub static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut session = Session::new(&MODEL, &CPU, SessionOptions::default()).expect("a session");
    session.feed(&[1, 2, 3, 4, 5]).expect("five tokens");
    session.save().expect("saved")
});
/// Bytes of it before what is fuzzed: magic, version and fingerprint.
pub const BEFORE: usize = 20;

/// The bytes with a good checksum and fingerprint, which no fuzzer would guess; what loads must go on.
pub fn saved_session(data: &[u8]) {
    let mut bytes = [&GOOD[..BEFORE], data].concat();
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend(sum.to_le_bytes());
    if let Ok(mut session) = Session::load(&MODEL, &CPU, SessionOptions::default().block(2), &bytes) {
        let _ = session.feed(&[1, 7, 3]);
        let _ = session.save();
    }
    assert!(Session::load(&MODEL, &CPU, SessionOptions::default(), &GOOD).is_ok());
}

/// The path of a folder with the checkpoint of CONFIG.
#[cfg(feature = "capi")]
static TINY: LazyLock<std::ffi::CString> = LazyLock::new(|| {
    let folder = FOLDER.join("tiny");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), CONFIG).expect("a config");
    std::fs::write(folder.join("model.safetensors"), include_bytes!("corpus/safetensors/v2")).expect("weights");
    std::fs::write(folder.join("tokenizer.json"), include_bytes!("corpus/tokenizer/small")).expect("a tokenizer");
    assert!(Tokenizer::from_folder(&folder).is_ok());
    let path = folder.into_os_string().into_string().expect("a name in ASCII");
    std::ffi::CString::new(path).expect("no NUL in it")
});

/// Random calls in random order, by programs that keep the header's promises about pointers and nothing else.
#[cfg(feature = "capi")]
pub fn capi(data: &[u8]) {
    use doge_engine::capi::*;
    use std::{
        ffi::c_char,
        ptr::{null, null_mut},
    };

    /// `stops`: not NULL where "ab" is a stop string.
    unsafe extern "C" fn on_text(stops: *mut std::ffi::c_void, text: *const c_char, n: usize) -> i32 {
        // SAFETY: the header's promise.
        let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), n) };
        let text = std::str::from_utf8(text).expect("whole characters");
        assert!(stops.is_null() || !text.contains("ab"), "a stop string was given out");
        i32::from(n > 3)
    }
    struct Handles {
        cpu: *mut DogeCpu,
        model: *mut DogeModel,
        sessions: [*mut DogeSession; 3],
        tokenizer: *mut DogeTokenizer,
        saved: Vec<u8>,
    }
    impl Drop for Handles {
        fn drop(&mut self) {
            // SAFETY: NULL or made by the interface, and not used again.
            unsafe {
                doge_model_free(self.model);
                self.sessions.into_iter().for_each(|session| doge_session_free(session));
                doge_cpu_free(self.cpu);
                doge_tokenizer_free(self.tokenizer);
            }
        }
    }
    let mut h =
        Handles { cpu: null_mut(), model: null_mut(), sessions: [null_mut(); 3], tokenizer: null_mut(), saved: Vec::new() };
    for call in data.chunks_exact(4).take(64) {
        let [what, a, b, c] = [call[0], call[1], call[2], call[3]];
        let at = usize::from(a % 3);
        let session = h.sessions[at];
        // Up to 15 ids, at times one outside of the vocabulary of 8.
        let ids: Vec<u32> = (0..u32::from(b % 16)).map(|i| (u32::from(c) + i * 3) % if c < 224 { 8 } else { 9 }).collect();
        let n = ids.len();
        // SAFETY: handles are NULL or valid, and each count is that of what stands beside it.
        unsafe {
            match what % 18 {
                0 if h.cpu.is_null() => {
                    let threads = usize::from(b) * usize::from(c) * 1000 + usize::from(b % 2);
                    let options =
                        DogeCpuOptions { struct_size: usize::from(a), threads, isa: null(), bf16_activations: 1, reserved: 0 };
                    if threads <= 1 || threads > 1024 {
                        doge_cpu_new(if c % 3 == 0 { null() } else { &options }, &mut h.cpu);
                    }
                }
                1 if h.model.is_null() => {
                    doge_model_load(TINY.as_ptr(), null(), &mut h.model);
                }
                2 if session.is_null() => {
                    let options = DogeSessionOptions {
                        struct_size: size_of::<DogeSessionOptions>(),
                        ctx_size: usize::from(b),
                        block: usize::from(c),
                        reference_routing: i32::from(a),
                        reserved: 0,
                        kv_dtype: [null(), c"f16".as_ptr(), c"bf16".as_ptr(), c"int8".as_ptr()][usize::from(c % 4)],
                    };
                    doge_session_new(h.model, h.cpu, &options, &mut h.sessions[at]);
                }
                3 => {
                    doge_session_free(session);
                    h.sessions[at] = null_mut();
                }
                4 | 5 => _ = doge_session_feed(session, ids.as_ptr(), n),
                6 => _ = doge_session_score(session, ids.as_ptr(), n, vec![0.0; n].as_mut_ptr()),
                7 => {
                    let to = usize::from(c % 3);
                    if h.sessions[to].is_null() {
                        doge_session_fork(session, &mut h.sessions[to]);
                    }
                }
                8 => {
                    let mut need = 0;
                    doge_session_save(session, null_mut(), 0, &mut need);
                    h.saved = vec![0; need];
                    doge_session_save(session, h.saved.as_mut_ptr(), need, &mut need);
                }
                9 => {
                    if let Some(byte) = h.saved.get_mut(usize::from(b) * 97) {
                        *byte ^= c;
                    }
                    if session.is_null() {
                        doge_session_load(h.model, h.cpu, null(), h.saved.as_ptr(), h.saved.len(), &mut h.sessions[at]);
                    }
                }
                10 => _ = doge_batch_feed(h.cpu, h.sessions.as_ptr(), ids.as_ptr(), n.min(3)),
                11 => {
                    let mut out = vec![0; usize::from(c % 4)];
                    let (ids_out, room) = (out.as_mut_ptr(), out.len());
                    let stops = [c"ab".as_ptr(), c"b".as_ptr(), if b > 250 { c"".as_ptr() } else { c"ba".as_ptr() }];
                    let options = DogeGenerateOptions {
                        struct_size: size_of::<DogeGenerateOptions>() - 8 * usize::from(c == 99),
                        tokenizer: h.tokenizer,
                        on_text: if c % 2 == 0 { Some(on_text) } else { None },
                        stop_strings: stops.as_ptr(),
                        n_stop_strings: usize::from(b % 4),
                        user: if b % 4 > 0 && c != 99 { std::ptr::dangling_mut() } else { null_mut() },
                        max_new_tokens: usize::from(b % 4),
                        temperature: f32::from_bits(u32::from(c) << 24),
                        top_p: f32::from(c) / 200.0,
                        top_k: u32::from(b),
                        ..std::mem::zeroed()
                    };
                    if room > 0 || options.max_new_tokens > 0 {
                        doge_generate(session, ids.as_ptr(), n, &options, ids_out, room, null_mut());
                    }
                }
                12 => doge_session_cancel(session, i32::from(b % 2)),
                13 => {
                    let (mut logits, mut n) = (null(), 0);
                    if doge_session_logits(session, &mut logits, &mut n) == DogeStatus::Ok {
                        assert!(std::slice::from_raw_parts(logits, n).iter().all(|x| x.is_finite()));
                    }
                }
                14 => {
                    let word: [c_char; 3] = [b as c_char, c as c_char, 0];
                    doge_kernels(word.as_ptr(), &mut null());
                }
                15 if h.tokenizer.is_null() => {
                    doge_tokenizer_load(TINY.as_ptr(), &mut h.tokenizer);
                }
                16 => {
                    let (mut ids, mut text, mut n) = ([0; 8], [0u8; 16], 0);
                    let from = [a, b, c, b'a'];
                    if doge_tokenizer_encode(h.tokenizer, from.as_ptr(), 4, 1, 1, ids.as_mut_ptr(), 8, &mut n) == DogeStatus::Ok {
                        doge_tokenizer_decode(h.tokenizer, ids.as_ptr(), n, 0, text.as_mut_ptr(), usize::from(c % 16), &mut n);
                    }
                }
                _ => _ = (doge_session_tokens(session), doge_session_error(session), doge_last_error()),
            }
        }
    }
}
