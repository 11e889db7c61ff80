//! Text to token ids and back, as the checkpoint's `tokenizer.json` says.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::DecoderWrapper;

use crate::text_file::{parse_json, read_text};
use crate::{Error, Result};

/// A tokenizer of 128k tokens takes some 10 MB.
const MAX_BYTES: u64 = 256 << 20;

/// How many times longer the normalizer may make a text, and the pre-tokenizer once more.
const MAX_GROWTH: usize = 64;

/// Tokens that a post-processor adds, and parts of one: of each list.
const MAX_LIST: usize = 64;

/// GPT-2's alphabet, in which byte-level vocabularies spell bytes: printable Latin-1 characters stand for themselves, the
/// other bytes for U+0100 and up.
static BYTE_OF: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255u8).filter(|b| !printable(b));
    let spelled = ('\u{100}'..).zip(others);
    (0..=255u8).filter(printable).map(|b| (char::from(b), b)).chain(spelled).collect()
});

/// A checkpoint's tokenizer: a byte-level one, as every published Doge has.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, taking special tokens in a text for plain text. Made when first asked for: it is as large as `inner`.
    literal: OnceLock<tokenizers::Tokenizer>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint folder.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it is missing, malformed or not byte-level; [`Error::Io`], [`Error::BadFile`] if it cannot
    /// be read.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        match read_text(&path, MAX_BYTES)? {
            Some(text) => {
                Tokenizer::from_bytes(text.as_bytes()).map_err(|e| tokenizer_error(format!("{}: {}", path.display(), reason(e))))
            }
            None => Err(tokenizer_error(format!(
                "{} does not exist; without it this checkpoint takes and gives token ids only",
                path.display()
            ))),
        }
    }

    /// The same from the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it is malformed or not byte-level.
    pub fn from_bytes(json: &[u8]) -> Result<Tokenizer> {
        check_rules(json)?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        if !inner.get_decoder().is_some_and(is_byte_level) {
            let why =
                "its decoder is not ByteLevel; every Doge checkpoint has a byte-level tokenizer, and text is streamed by bytes";
            return Err(tokenizer_error(why.into()));
        }
        // A prompt is neither cut nor filled up, whatever the file asks for in training.
        inner.with_truncation(None).map_err(|e| tokenizer_error(e.to_string()))?;
        inner.with_padding(None);
        // Shows a post-processor that names tokens it does not define.
        guarded(|| inner.encode_fast("a", true))?;
        Ok(Tokenizer { inner, literal: OnceLock::new() })
    }

    /// The token ids of `text`.
    ///
    /// `add_special`: let the tokenizer add what it adds to a plain text (the begin-of-text token, usually). True for a
    /// prompt, false for a rendered chat, whose template writes it.
    ///
    /// `parse_special`: a special token spelled out in `text` becomes that token, as in transformers. False takes it for
    /// the characters it is made of; use that for text that must not be able to end a turn.
    ///
    /// The ids may lie outside the model's vocabulary if tokenizer and model do not belong together.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::Tokenizer;
    ///
    /// let tokenizer = Tokenizer::from_folder("models/doge-bard".as_ref())?;
    /// let ids = tokenizer.encode("To be, or not to be", false, false)?;
    /// assert_eq!(tokenizer.decode(&ids, false)?, "To be, or not to be");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer's own rules fail on this text.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let tokenizer = if parse_special { &self.inner } else { self.literal.get_or_init(|| self.make_literal()) };
        Ok(guarded(|| tokenizer.encode_fast(text, add_special))?.get_ids().to_vec())
    }

    fn make_literal(&self) -> tokenizers::Tokenizer {
        let mut literal = self.inner.clone();
        literal.set_encode_special_tokens(true);
        literal
    }

    /// The text of `ids`. What is not UTF-8 becomes U+FFFD, an id without a token becomes nothing, and spaces stay as they
    /// are. `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special))
    }

    /// The bytes that token `id` adds to a text, not UTF-8 by themselves; none for an id without a token. A special token
    /// gives its name.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        let bytes: Option<Vec<u8>> = token.chars().map(|c| BYTE_OF.get(&c).copied()).collect();
        // A token spelled outside the alphabet stands for itself.
        bytes.unwrap_or_else(|| token.into_bytes())
    }

    /// How many tokens there are, special and added ones included. The model's vocabulary may be larger (rounded up).
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of the token with exactly this name, such as `<|end_of_text|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Is this a special token, which [`Tokenizer::decode`] can leave out?
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// Does a panic of this thread now become an [`Error::Tokenizer`]? The `tokenizers` crate answers some malformed files with
    /// one. For the panic hook of a process that need not tell of it twice.
    pub fn catches_panics() -> bool {
        IS_GUARDED.get()
    }

    /// Every special token by ascending id.
    pub fn special_tokens(&self) -> Vec<(String, u32)> {
        let added = self.inner.get_added_tokens_decoder();
        let mut special: Vec<_> = added.into_iter().filter(|(_, t)| t.special).map(|(id, t)| (t.content, id)).collect();
        special.sort_unstable_by_key(|&(_, id)| id);
        special
    }
}

/// The rules of a `tokenizer.json` that make text or tokens.
#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

/// Rules run one after another, so a small file can ask for any length: 20 that make 4 letters of one, a terabyte of a word.
/// Before anything runs: added tokens are normalized while the file is read.
fn check_rules(json: &[u8]) -> Result<()> {
    let rules: Rules = parse_json(json).map_err(tokenizer_error)?;
    for (name, rule) in [("normalizer", &rules.normalizer), ("pre_tokenizer", &rules.pre_tokenizer)] {
        let times = growth(rule);
        if times > MAX_GROWTH {
            let why = format!("its {name} can lengthen a text {times} times; the limit is {MAX_GROWTH}");
            return Err(tokenizer_error(why));
        }
    }
    let list = longest_list(&rules.post_processor);
    if list > MAX_LIST {
        return Err(tokenizer_error(format!("its post_processor has a list of {list}; the limit is {MAX_LIST}")));
    }
    Ok(())
}

/// How many times as many bytes a rule can make of a text, or a list of rules one after another.
fn growth(rule: &Value) -> usize {
    let product = |rules: &mut dyn Iterator<Item = &Value>| rules.map(growth).fold(1, usize::saturating_mul);
    match rule {
        Value::Array(rules) => product(&mut rules.iter()),
        Value::Object(rule) => {
            let text = |key: &str| rule.get(key).and_then(Value::as_str);
            let replaced = match (text("content"), rule.get("pattern").and_then(|pattern| pattern.get("String")?.as_str())) {
                (None, _) => 1,
                (Some(content), Some(pattern)) if !pattern.is_empty() => content.len().div_ceil(pattern.len()).max(1),
                // What may match nothing at all puts it between all letters.
                (Some(content), _) => 1 + content.len(),
            };
            let prepended = 1 + text("prepend").map_or(0, str::len);
            let spelled = match text("type") {
                // A byte becomes a letter of two; a letter of three gets spaces around it.
                Some("ByteLevel" | "Bert") => 2,
                // A space becomes a letter, and one may come in front.
                Some("Metaspace") => 8,
                // The table says; those in use have 18 letters for one.
                _ if rule.contains_key("precompiled_charsmap") => 32,
                _ => 1,
            };
            [replaced, prepended, spelled].into_iter().fold(product(&mut rule.values()), usize::saturating_mul)
        }
        _ => 1,
    }
}

fn longest_list(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(longest_list).fold(list.len(), usize::max),
        Value::Object(object) => object.values().map(longest_list).fold(0, usize::max),
        _ => 0,
    }
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => matches!(sequence.get_decoders(), [DecoderWrapper::ByteLevel(_)]),
        _ => false,
    }
}

fn tokenizer_error(why: String) -> Error {
    Error::Tokenizer { why }
}

thread_local! {
    /// Is this thread in [`guarded`]?
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a part of the `tokenizers` crate, which answers some malformed files with a panic.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    IS_GUARDED.set(true);
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    IS_GUARDED.set(false);
    match made {
        Ok(made) => made.map_err(|e| tokenizer_error(e.to_string())),
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref().map(String::as_str));
            Err(tokenizer_error(format!("tokenizer.json contradicts itself: {}", message.unwrap_or("no reason given"))))
        }
    }
}

fn reason(error: Error) -> String {
    match error {
        Error::Tokenizer { why } => why,
        other => other.to_string(),
    }
}

/// Text from tokens as they come. Gives out whole characters only: the bytes of an unfinished one wait for the next token.
/// All pieces together are what [`Tokenizer::decode`] makes of all tokens.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    skip_special: bool,
    /// The beginning of a character: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl TextStream {
    /// `skip_special`: special tokens add no text.
    pub fn new(skip_special: bool) -> TextStream {
        TextStream { skip_special, pending: Vec::new() }
    }

    /// The text that token `id` completes, often empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !(self.skip_special && tokenizer.is_special(id)) {
            self.pending.extend(tokenizer.token_bytes(id));
        }
        let mut text = String::new();
        let mut unfinished = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let is_last = chunks.peek().is_none();
            match std::str::from_utf8(chunk.invalid()) {
                // Whole so far: what it lacks may come with the next token.
                Err(e) if is_last && e.error_len().is_none() => unfinished = chunk.invalid().len(),
                Err(_) => text.push(char::REPLACEMENT_CHARACTER),
                // Empty: the last bytes were whole characters.
                Ok(_) => {}
            }
        }
        self.pending.drain(..self.pending.len() - unfinished);
        text
    }

    /// Ends the text: U+FFFD if a character was left unfinished, else nothing. The stream is then as new.
    pub fn finish(&mut self) -> String {
        let lost = !self.pending.is_empty();
        self.pending.clear();
        if lost {
            char::REPLACEMENT_CHARACTER.to_string()
        } else {
            String::new()
        }
    }
}
