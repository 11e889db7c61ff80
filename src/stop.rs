//! Stop strings over streamed text.

use crate::{Error, Result, TextStream, Tokenizer};

/// Looks for stop strings in text that comes in pieces. Text that could be the beginning of a stop string is held back,
/// so a stop string is found across pieces and no part of it is given out. One that is exactly the name of a special token
/// also stops at that token ([`StopStrings::push_token`]), which adds no text to be found in.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// The end of the text so far, as long as it could begin a stop string.
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// Go on; here is the text that no stop string can claim any more.
    No(String),
    /// A stop string is complete: the text before it, and which one it was (index in the list given).
    At(String, usize),
}

impl StopStrings {
    /// Looks for these.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::{StopStrings, Stopped};
    ///
    /// let mut stops = StopStrings::new(vec!["world".into()])?;
    /// assert_eq!(stops.push("Hello wo"), Stopped::No("Hello ".into())); // "wo" may begin it
    /// assert_eq!(stops.push("rld!"), Stopped::At("".into(), 0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] if a stop string is empty.
    pub fn new(stops: Vec<String>) -> Result<StopStrings> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::BadArgument { what: "stop", why: "a stop string must not be empty".into() });
        }
        Ok(StopStrings { stops, held: String::new() })
    }

    /// Takes the next piece of text. What comes out does not depend on how the text was cut: the stop string that is
    /// complete first wins, of several that end together the longest. After a stop the held text is gone and the search
    /// starts anew.
    pub fn push(&mut self, text: &str) -> Stopped {
        self.held.push_str(text);
        let found = self.stops.iter().enumerate().filter_map(|(i, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, i))
        });
        if let Some((_, start, i)) = found.min() {
            self.held.truncate(start);
            return Stopped::At(std::mem::take(&mut self.held), i);
        }
        let keep = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Stopped::No(std::mem::replace(&mut self.held, rest))
    }

    /// Takes the next token, whose text `stream` makes. As [`StopStrings::push`]; and where a stop string is the name of a special
    /// token, that token ends the text.
    pub fn push_token(&mut self, stream: &mut TextStream, tokenizer: &Tokenizer, id: u32) -> Stopped {
        let named = self.stops.iter().position(|stop| tokenizer.token_id(stop) == Some(id));
        let Some(i) = named.filter(|_| tokenizer.is_special(id)) else { return self.push(&stream.push(tokenizer, id)) };
        match self.push(&stream.finish()) {
            Stopped::No(text) => Stopped::At(text + &self.finish(), i),
            stopped => stopped,
        }
    }

    /// The text is over: gives out what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn begun(text: &str, stop: &str) -> usize {
    let mut beginnings = stop.char_indices().rev().map(|(at, _)| stop.split_at(at).0);
    beginnings.find(|beginning| text.ends_with(beginning)).map_or(0, str::len)
}
