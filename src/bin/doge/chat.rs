//! `doge chat`

use std::{
    io::{stdin, stdout, BufRead, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use doge_engine::{model::Session, ChatInput, ChatTemplate, Error, Finish, Generation, Sampler, TextGeneration, Timings, Until};
use serde_json::{json, Value};

use crate::{
    engine::Engine,
    failure::{Failure, INTERRUPTED},
    generate::Output,
    input,
    interrupt::Interrupt,
    options::{CpuOptions, ModelOptions, OutputOptions, SequenceOptions},
    report,
    sampling::{self, SamplingOptions},
};

/// Tokens of an answer where neither the user nor the checkpoint says.
const MAX_NEW_TOKENS: usize = 512;

/// Talks with the model, one line a message. /reset forgets the conversation, /exit ends it
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// System message
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,
    /// A chat template (jinja) to use instead of the checkpoint's
    #[arg(long, value_name = "FILE")]
    pub chat_template_file: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingOptions,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub sequence: SequenceOptions,
    #[command(flatten)]
    pub cpu: CpuOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

pub fn run(args: &ChatArgs) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::install()?;
    let engine = Engine::load(&args.model, &args.cpu, args.sequence.kv_dtype, args.output.quiet)?;
    let mut chat = Chat::new(args, &engine)?;
    if args.output.verbose {
        report::faint(engine.describe());
        report::faint(format_args!("{:#}", sampling::to_json(chat.sampler.settings())));
    }
    let mut code = ExitCode::SUCCESS;
    let asks = stdin().is_terminal() && !args.output.quiet;
    loop {
        if asks {
            report::prompt("> ");
        }
        let mut line = String::new();
        let read = stdin().lock().read_line(&mut line);
        if read.map_err(|source| Failure::Input { from: "stdin".into(), source })? == 0 {
            break;
        }
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => chat.reset()?,
            message => {
                let answered = chat.answer(message, &interrupt);
                interrupt.end();
                match answered {
                    // Whoever is at the terminal has the next word; a script that was interrupted is over.
                    Ok(Some(Finish::Cancelled)) if !stdin().is_terminal() => {
                        code = ExitCode::from(INTERRUPTED);
                        break;
                    }
                    Err(Failure::Engine(Error::ContextFull { limit })) if asks => {
                        report::note(format_args!("the context of {limit} tokens is full; /reset begins anew"));
                    }
                    other => _ = other?,
                }
            }
        }
    }
    if !args.output.quiet {
        report::timings(engine.load, &chat.timings);
    }
    Ok(code)
}

struct Chat<'a> {
    args: &'a ChatArgs,
    engine: &'a Engine,
    template: ChatTemplate,
    sampler: Sampler,
    /// Tokens that end an answer.
    eos_token_ids: Vec<u32>,
    messages: Vec<Value>,
    session: Session,
    /// The sequence so far, as text and as ids. The session holds all of it but the last id.
    text: String,
    ids: Vec<u32>,
    timings: Timings,
}

impl<'a> Chat<'a> {
    fn new(args: &'a ChatArgs, engine: &'a Engine) -> Result<Self, Failure> {
        let source = match &args.chat_template_file {
            None => None,
            Some(path) => Some(input::file(path)?),
        };
        args.sampling.stop_strings()?;
        let template = engine.source.chat_template(source.as_deref())?;
        let config = &engine.generation_config;
        let end_of_turn = template.end_of_turn_tokens().iter().filter_map(|token| engine.tokenizer.token_id(token));
        let eos_token_ids: Vec<u32> = config.eos_token_ids.iter().copied().chain(end_of_turn).collect();
        let sampler = args.sampling.sampler(config, &eos_token_ids, engine.model.config().vocab_size)?;
        let session = Session::new(&engine.model, &engine.cpu, args.sequence.session_options())?;
        let (messages, text, ids, timings) = Default::default();
        let mut chat = Chat { args, engine, template, sampler, eos_token_ids, messages, session, text, ids, timings };
        chat.reset()?;
        Ok(chat)
    }

    /// Forgets everything but the system message.
    fn reset(&mut self) -> Result<(), Failure> {
        self.messages = self.args.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
        self.forget()
    }

    /// An empty sequence.
    fn forget(&mut self) -> Result<(), Failure> {
        self.session = Session::new(&self.engine.model, &self.engine.cpu, self.args.sequence.session_options())?;
        self.text.clear();
        self.ids.clear();
        Ok(())
    }

    /// Answers a message, on stdout, and tells why the answer ended. After an error the message is forgotten.
    fn answer(&mut self, message: &str, interrupt: &Interrupt) -> Result<Option<Finish>, Failure> {
        self.messages.push(json!({"role": "user", "content": message}));
        let answered = self.take_in().and_then(|()| self.generate(interrupt));
        match answered {
            Ok((answer, finish)) => {
                self.messages.push(json!({"role": "assistant", "content": answer}));
                Ok(finish)
            }
            Err(failure) => {
                self.messages.pop();
                self.forget()?;
                Err(failure)
            }
        }
    }

    /// Makes `text` and `ids` the prompt for the next answer. Where the rendered conversation begins with what the
    /// sequence holds, it is only extended; a template that rewrites the past gets a new sequence.
    fn take_in(&mut self) -> Result<(), Failure> {
        let input = ChatInput::new(&self.messages).add_generation_prompt(true);
        let rendered = self.template.render(&input)?;
        if !rendered.starts_with(&self.text) {
            self.forget()?;
        }
        let new = rendered.get(self.text.len()..).unwrap_or_default();
        self.ids.extend(self.engine.tokenizer.encode(new, false, true)?);
        self.text = rendered;
        Ok(())
    }

    fn generate(&mut self, interrupt: &Interrupt) -> Result<(String, Option<Finish>), Failure> {
        let (sampling, config) = (&self.args.sampling, &self.engine.generation_config);
        let until = Until::default()
            .max_new_tokens(sampling.max_new_tokens(config, self.ids.len(), MAX_NEW_TOKENS))
            .eos_token_ids(&self.eos_token_ids)
            .cancel(interrupt.begin()); // not ahead: the session goes on after an answer that was cut off
        let tokenizer = &self.engine.tokenizer;
        let generation = Generation::new(&mut self.session, &mut self.sampler, &self.ids, until)?;
        let mut generation = TextGeneration::new(generation, tokenizer, sampling.stop_strings()?);
        let mut output = Output { streams: true, text: String::new() };
        let told = generation.try_for_each(|piece| output.push(&piece?));
        writeln!(stdout()).map_err(Failure::Output)?; // after half an answer too: an error has a line of its own
        told?;

        let (mut generated, finish, timings) = generation.into_parts();
        add(&mut self.timings, &timings);
        if self.args.output.verbose {
            report::faint(format_args!("ended by: {}", finish.map_or("error", Finish::name)));
        }
        if !self.args.output.quiet {
            sampling.note_early_end(finish, config, self.args.sequence.session_options().ctx_size);
        }
        if finish == Some(Finish::Eos) {
            generated.pop(); // the template writes it
        }
        // With special tokens: text that the answer does not have shows that the sequence cannot be extended.
        self.text.push_str(&tokenizer.decode(&generated, false)?);
        self.ids.extend(generated);
        Ok((output.text, finish))
    }
}

fn add(sum: &mut Timings, more: &Timings) {
    sum.prefill_tokens += more.prefill_tokens;
    sum.prefill += more.prefill;
    sum.decode_tokens += more.decode_tokens;
    sum.decode += more.decode;
    sum.sampling += more.sampling;
    sum.detokenising += more.detokenising;
}
