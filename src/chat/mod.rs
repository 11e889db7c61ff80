//! From messages to the prompt that a checkpoint was trained on: its own chat template, run as transformers runs it.

mod bounds;
mod environment;
mod to_json;
mod translate;

use std::path::Path;

use minijinja::value::{Serde, Value as TemplateValue};
use minijinja::Environment;
use serde_json::{Map, Value};

use crate::text_file::read_text;
use crate::{Error, Result};

const CHAT_TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const MAX_BYTES: u64 = 16 << 20;
/// Bytes of a template at most; those of published checkpoints have less than 20,000.
const MAX_TEMPLATE: usize = 64 << 10;
/// The stack that a template is compiled and rendered on. minijinja limits how deep brackets and blocks are nested, not how many
/// operators follow each other (`not not …`, `1+1+…`, `a.b.c…`), and calls itself for each. That takes at most 440 bytes of stack
/// for a byte of the template, and 1070 where nothing is optimised; this has 2048. Only what is touched takes memory.
const STACK: usize = MAX_TEMPLATE << 11;

/// The special tokens that transformers shows to a template by these names.
const SPECIAL_TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// End-of-turn tokens of the template families that Doge checkpoints descend from, which are often missing in their
/// `eos_token_id`.
const END_OF_TURN: [&str; 2] = ["<|eot_id|>", "<|im_end|>"];
/// What every rendering sets itself.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// A checkpoint's chat template, compiled, with the special tokens it writes.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(&'static str, String)>,
    end_of_turn: Vec<&'static str>,
}

/// The texts of the files that a chat template may come from; those that do not exist are `None`. Made by
/// `ChatFiles::default()` and the methods of the fields' names.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ChatFiles<'a> {
    /// `chat_template.jinja`, or a template of the caller's. It wins over the one in `tokenizer_config`.
    pub chat_template: Option<&'a str>,
    /// `tokenizer_config.json`: a template, or several by name, and special tokens.
    pub tokenizer_config: Option<&'a str>,
    /// `special_tokens_map.json`: the special tokens that `tokenizer_config` does not name.
    pub special_tokens_map: Option<&'a str>,
}

impl<'a> ChatFiles<'a> {
    /// Sets [`ChatFiles::chat_template`].
    pub fn chat_template(self, text: impl Into<Option<&'a str>>) -> Self {
        ChatFiles { chat_template: text.into(), ..self }
    }

    /// Sets [`ChatFiles::tokenizer_config`].
    pub fn tokenizer_config(self, text: impl Into<Option<&'a str>>) -> Self {
        ChatFiles { tokenizer_config: text.into(), ..self }
    }

    /// Sets [`ChatFiles::special_tokens_map`].
    pub fn special_tokens_map(self, text: impl Into<Option<&'a str>>) -> Self {
        ChatFiles { special_tokens_map: text.into(), ..self }
    }
}

/// What to render. Made by [`ChatInput::new`] and the methods of the fields' names.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ChatInput<'a> {
    /// Objects with `role`, `content` and whatever else the template reads (`tool_calls` …).
    pub messages: &'a [Value],
    /// JSON schemas of the tools the model may call.
    pub tools: Option<&'a [Value]>,
    /// Objects with `title` and `text`.
    pub documents: Option<&'a [Value]>,
    /// Ends the prompt with the opening of the assistant's turn, so that the model answers.
    pub add_generation_prompt: bool,
    /// Further variables, such as `date_string`; they win over the special tokens.
    pub variables: Map<String, Value>,
}

impl<'a> ChatInput<'a> {
    /// These messages, and nothing else.
    pub fn new(messages: &'a [Value]) -> Self {
        ChatInput { messages, ..ChatInput::default() }
    }

    /// Sets [`ChatInput::tools`].
    pub fn tools(self, tools: impl Into<Option<&'a [Value]>>) -> Self {
        ChatInput { tools: tools.into(), ..self }
    }

    /// Sets [`ChatInput::documents`].
    pub fn documents(self, documents: impl Into<Option<&'a [Value]>>) -> Self {
        ChatInput { documents: documents.into(), ..self }
    }

    /// Sets [`ChatInput::add_generation_prompt`].
    pub fn add_generation_prompt(self, add_generation_prompt: bool) -> Self {
        ChatInput { add_generation_prompt, ..self }
    }

    /// Sets [`ChatInput::variables`].
    pub fn variables(self, variables: Map<String, Value>) -> Self {
        ChatInput { variables, ..self }
    }
}

impl ChatTemplate {
    /// Reads the files of a checkpoint folder. `template`: the source of a template to use instead of the checkpoint's.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if there is no template, or it is too long or does not compile, [`Error::BadConfig`] if a JSON
    /// file is malformed, [`Error::BadFile`] and [`Error::Io`] if a file cannot be read; [`Error::OutOfMemory`].
    pub fn from_folder(folder: &Path, template: Option<&str>) -> Result<ChatTemplate> {
        let file = |name| read_text(&folder.join(name), MAX_BYTES);
        let (chat_template, tokenizer_config) = (file(CHAT_TEMPLATE)?, file(TOKENIZER_CONFIG)?);
        let special_tokens_map = file(SPECIAL_TOKENS_MAP)?;
        let files = ChatFiles {
            chat_template: template.or(chat_template.as_deref()),
            tokenizer_config: tokenizer_config.as_deref(),
            special_tokens_map: special_tokens_map.as_deref(),
        };
        ChatTemplate::from_files(files).map_err(|e| match e {
            Error::BadConfig { path, why } => Error::BadConfig { path: folder.join(path), why },
            other => other,
        })
    }

    /// The same from the files' texts.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{ChatFiles, ChatInput, ChatTemplate};
    /// use serde_json::json;
    ///
    /// let text = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    /// let template = ChatTemplate::from_files(ChatFiles::default().chat_template(text))?;
    /// let messages = [json!({"role": "user", "content": "Who's there?"})];
    /// assert_eq!(template.render(&ChatInput::new(&messages))?, "user: Who's there?\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if there is no template, or it is too long or does not compile, [`Error::BadConfig`] if a JSON
    /// text is malformed; [`Error::OutOfMemory`].
    pub fn from_files(files: ChatFiles) -> Result<ChatTemplate> {
        let object = |name: &str, text: Option<&str>| match text.map(serde_json::from_str::<Map<String, Value>>) {
            None => Ok(Map::new()),
            Some(Ok(object)) => Ok(object),
            Some(Err(e)) => Err(Error::BadConfig { path: name.into(), why: format!("not a JSON object: {e}") }),
        };
        let config = object(TOKENIZER_CONFIG, files.tokenizer_config)?;
        let map = object(SPECIAL_TOKENS_MAP, files.special_tokens_map)?;
        let special_token = |name| {
            let token = |object: &Map<String, Value>| {
                let entry = object.get(name)?;
                entry.as_str().or_else(|| entry.get("content")?.as_str()).map(str::to_owned)
            };
            token(&config).or_else(|| token(&map))
        };
        let special_tokens = SPECIAL_TOKENS.iter().filter_map(|&name| Some((name, special_token(name)?))).collect();

        let mut environment = environment::new()?;
        let mut end_of_turn = Vec::new();
        let mut recursion_limit = environment.recursion_limit();
        for (name, source) in templates(files.chat_template, &config)? {
            end_of_turn.extend(END_OF_TURN.iter().filter(|token| source.contains(**token)));
            if source.len() > MAX_TEMPLATE {
                let why = format!("it has {} bytes; more than {MAX_TEMPLATE} are beyond reason for one", source.len());
                return Err(Error::ChatTemplate { why });
            }
            recursion_limit = recursion_limit.min(bounds::recursion_limit(source));
            let source = translate::translate(source);
            on_large_stack(|| environment.add_template_owned(name, source))?.map_err(environment::error)?;
        }
        environment.set_recursion_limit(recursion_limit);
        end_of_turn.dedup();
        Ok(ChatTemplate { environment, special_tokens, end_of_turn })
    }

    /// The prompt. Encode it without adding special tokens: the template has written them.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages (`raise_exception`), fails, recurses or runs too long;
    /// [`Error::BadArgument`] if a message or document is not an object, or a variable has a name that is taken;
    /// [`Error::OutOfMemory`].
    pub fn render(&self, input: &ChatInput) -> Result<String> {
        let bad = |what, why: String| Err(Error::BadArgument { what, why });
        for (what, list) in [("messages", Some(input.messages)), ("documents", input.documents)] {
            if let Some(other) = list.unwrap_or_default().iter().find(|value| !value.is_object()) {
                return bad(what, format!("each must be an object, one is {other}"));
            }
        }
        if let Some(name) = RESERVED.iter().find(|name| input.variables.contains_key(**name)) {
            return bad("variables", format!("'{name}' is not a free variable of a chat template"));
        }
        let text = |(name, token): &(&str, String)| (name.to_string(), TemplateValue::from(token.as_str()));
        let variables = input.variables.iter().map(|(name, value)| (name.clone(), TemplateValue::from(Serde(value))));
        let list = |values: Option<&[Value]>| TemplateValue::from(Serde(&values));
        let reserved = [
            list(Some(input.messages)),
            list(input.tools),
            list(input.documents),
            TemplateValue::from(input.add_generation_prompt),
        ];
        let context: TemplateValue = (self.special_tokens.iter().map(text))
            .chain(variables)
            .chain(RESERVED.iter().map(|name| name.to_string()).zip(reserved))
            .collect::<std::collections::BTreeMap<String, TemplateValue>>()
            .into();
        let tool_use = input.tools.is_some().then(|| self.environment.get_template("tool_use").ok()).flatten();
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template("default").map_err(|_| Error::ChatTemplate {
                why: "the checkpoint has a template for tools only; pass tools, or a template of your own".into(),
            })?,
        };
        on_large_stack(|| template.render(context))?.map_err(environment::error)
    }

    /// Tokens that end a turn by what the template writes, and that the checkpoint's `eos_token_id` may not name. Stop at
    /// those that the tokenizer has.
    pub fn end_of_turn_tokens(&self) -> &[&'static str] {
        &self.end_of_turn
    }
}

/// Runs `run` in a thread with a stack of [`STACK`] bytes.
///
/// # Errors
/// [`Error::OutOfMemory`] if there is no such thread.
fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run);
        let thread = thread.map_err(|_| Error::OutOfMemory { bytes: STACK as u128, what: "the stack of a chat template" })?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The templates that a rendering can use: `default`, and `tool_use` where tools are given.
fn templates<'a>(file: Option<&'a str>, config: &'a Map<String, Value>) -> Result<Vec<(&'static str, &'a str)>> {
    if let Some(source) = file {
        return Ok(vec![("default", source)]);
    }
    let malformed = || Error::BadConfig {
        path: TOKENIZER_CONFIG.into(),
        why: "chat_template must be a template or a list of {name, template}".into(),
    };
    let named = match config.get("chat_template") {
        None | Some(Value::Null) => {
            return Err(Error::ChatTemplate {
                why: "the checkpoint has none; continue a plain text with `generate`, or pass a template of your own".into(),
            })
        }
        Some(Value::String(source)) => return Ok(vec![("default", source)]),
        Some(Value::Array(named)) => named,
        Some(_) => return Err(malformed()),
    };
    let mut found = Vec::new();
    for entry in named {
        let text = |key| entry.get(key).and_then(Value::as_str).ok_or_else(malformed);
        let (name, source) = (text("name")?, text("template")?);
        found.extend(["default", "tool_use"].into_iter().filter(|known| *known == name).map(|known| (known, source)));
    }
    if found.is_empty() {
        let why = "the checkpoint names several templates and none is 'default'; pass the one you want as your own";
        return Err(Error::ChatTemplate { why: why.into() });
    }
    Ok(found)
}
