//! The same loop, giving text.

use std::{ops::ControlFlow, time::Instant};

use super::{Finish, Generation, Timings};
use crate::{Error, Result, StopStrings, Stopped, TextStream, TokenLogprob, Tokenizer};

/// A [`Generation`] that gives text: an iterator over pieces of it, none of them empty. A piece holds whole characters
/// only, and nothing that may turn out to be part of a stop string. Special tokens add no text; one that a stop string names
/// ends it. An error comes last, after the text that was held back.
#[derive(Debug)]
pub struct TextGeneration<'a> {
    generation: Generation<'a>,
    tokenizer: &'a Tokenizer,
    stream: TextStream,
    stops: StopStrings,
    over: bool,
    /// What ended it, until it is given out.
    error: Option<Error>,
    /// Set when a stop string ends the text; the tokens went on as if there were none.
    stopped: bool,
    detokenising: std::time::Duration,
}

impl<'a> TextGeneration<'a> {
    /// Text of `generation`, until it ends or one of `stops` comes.
    pub fn new(generation: Generation<'a>, tokenizer: &'a Tokenizer, stops: StopStrings) -> Self {
        let stream = TextStream::new(true);
        let detokenising = std::time::Duration::ZERO;
        let (over, error, stopped) = Default::default();
        TextGeneration { generation, tokenizer, stream, stops, over, error, stopped, detokenising }
    }

    /// The ids generated so far, those of an end token or a stop string included.
    pub fn ids(&self) -> &[u32] {
        self.generation.ids()
    }

    /// Why it ended; `None` while it goes on, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        if self.stopped {
            return Some(Finish::StopString);
        }
        self.generation.finish().filter(|_| self.over)
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        Timings { detokenising: self.detokenising, ..self.generation.timings() }
    }

    /// The ids generated, why it ended, and where the time went.
    pub fn into_parts(self) -> (Vec<u32>, Option<Finish>, Timings) {
        let (finish, timings) = (self.finish(), self.timings());
        let (ids, ..) = self.generation.into_parts();
        (ids, finish, timings)
    }

    /// As [`Generation::logprobs`]: one entry for each of the ids.
    pub fn logprobs(&self) -> &[TokenLogprob] {
        self.generation.logprobs()
    }

    /// Runs to the end, giving each piece of text to `on_text`, which may end it ([`Finish::Cancelled`]) by
    /// [`ControlFlow::Break`].
    ///
    /// # Errors
    /// As [`Generation::stream`]. Never panics, unless `on_text` does.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// # use doge_engine::{embedded, model::{LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
    /// # use doge_engine::{Generation, Sampler, SamplingSettings, StopStrings, TextGeneration, Until};
    /// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    /// # let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    /// # let mut sampler = Sampler::new(SamplingSettings::default())?;
    /// # let tokenizer = embedded::tokenizer()?;
    /// use std::ops::ControlFlow;
    ///
    /// let prompt = tokenizer.encode("ROMEO.\n", true, true)?;
    /// let generation = Generation::new(&mut session, &mut sampler, &prompt, Until::default().max_new_tokens(20))?;
    /// let mut text = String::new();
    /// TextGeneration::new(generation, &tokenizer, StopStrings::default()).stream(|piece| {
    ///     text += piece;
    ///     if text.len() < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    /// })?;
    /// assert!(text.len() >= 10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&mut self, mut on_text: impl FnMut(&str) -> ControlFlow<()>) -> Result<()> {
        while let Some(piece) = self.next() {
            if on_text(&piece?).is_break() {
                self.generation.cancel();
                self.over = true;
            }
        }
        Ok(())
    }

    /// What a token adds to the text, or its end what was held back.
    fn text_of(&mut self, id: Option<u32>) -> String {
        let start = Instant::now();
        let ended_by = self.generation.finish() == Some(Finish::Eos);
        let made = match id {
            // A token that ends the text is no part of it, special or not.
            Some(_) if ended_by => Stopped::No(String::new()),
            Some(id) => self.stops.push_token(&mut self.stream, self.tokenizer, id),
            None => self.stops.push(&self.stream.finish()),
        };
        let text = match made {
            Stopped::At(text, _) => {
                (self.stopped, self.over) = (true, true);
                text
            }
            Stopped::No(text) if self.over => text + &self.stops.finish(),
            Stopped::No(text) => text,
        };
        self.detokenising += start.elapsed();
        text
    }
}

impl Iterator for TextGeneration<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            let id = match self.generation.next() {
                Some(Ok(id)) => Some(id),
                end => {
                    self.over = true;
                    self.error = end.and_then(Result::err);
                    None
                }
            };
            let text = self.text_of(id);
            if !text.is_empty() {
                return Some(Ok(text));
            }
        }
        self.error.take().map(Err)
    }
}
