//! What a user may ask of the sampler.

use crate::{Error, Result};

/// How to choose the next token. The default is greedy; every other field has the value at which transformers would
/// leave it, so `SamplingSettings::default().do_sample(true)` samples as `generate(do_sample=True)` does. Made by
/// `SamplingSettings::default()` and the methods of the fields' names.
///
/// ```
/// let settings = doge_engine::SamplingSettings::default().do_sample(true).temperature(0.8).seed(7);
/// assert_eq!(settings.top_k, 50);
/// ```
///
/// The steps are applied in the order of the fields. Those from `temperature` on shape a distribution to draw from and
/// have no effect without `do_sample`; bias and penalties act in greedy decoding too.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SamplingSettings {
    /// Draw from the distribution (true), or take the likeliest token (false, the default).
    pub do_sample: bool,
    /// Seed of the draws, 0 by default. The same seed, settings and logits give the same tokens on every machine.
    pub seed: u64,
    /// Added to the logits of single tokens; negative infinity forbids a token. Empty by default. Entries for the same
    /// token add up.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes tokens of the prompt and of the output less likely if above 1: a positive logit is divided by it, a
    /// negative one multiplied. 1 (default) does nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens `repetition_penalty` looks at; `None` (default): all of them.
    pub repetition_window: Option<usize>,
    /// Subtracted from the logit of each token that was generated already (not of the prompt's). 0 by default.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was generated (not for the prompt's). 0 by default.
    pub frequency_penalty: f32,
    /// Divides the logits, 1 by default. 0 means greedy, whatever `do_sample` says.
    pub temperature: f32,
    /// Keeps the k likeliest tokens and those as likely as the last of them. 50 by default; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of likeliest tokens whose probabilities reach this sum, at least one. 1 (default) keeps all.
    pub top_p: f32,
    /// Drops tokens with less than this fraction of the likeliest token's probability. 0 (default) drops none.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the expected one until their probabilities reach this sum. 1
    /// (default) keeps all.
    pub typical_p: f32,
}

impl Default for SamplingSettings {
    fn default() -> SamplingSettings {
        SamplingSettings {
            do_sample: false,
            seed: 0,
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            repetition_window: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
        }
    }
}

/// A method for each field that sets it.
macro_rules! setters { ($($field:ident: $type:ty),* $(,)?) => {
    impl SamplingSettings {
        $(
            #[doc = concat!("Sets [`SamplingSettings::", stringify!($field), "`].")]
            pub fn $field(self, $field: $type) -> Self {
                SamplingSettings { $field, ..self }
            }
        )*
    }
} }

setters! {
    do_sample: bool,
    seed: u64,
    logit_bias: Vec<(u32, f32)>,
    repetition_penalty: f32,
    repetition_window: Option<usize>,
    presence_penalty: f32,
    frequency_penalty: f32,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    typical_p: f32,
}

impl SamplingSettings {
    /// Is the likeliest token always taken?
    pub fn is_greedy(&self) -> bool {
        !self.do_sample || self.temperature == 0.0
    }

    /// Are the logits what is chosen by, without bias and penalties?
    pub(crate) fn leaves_logits(&self) -> bool {
        let penalties = self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        self.logit_bias.is_empty() && !penalties
    }

    /// Is every field in its range?
    ///
    /// # Errors
    /// [`Error::BadArgument`] naming the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let require = |ok: bool, what: &'static str, value: f32, range: &str| {
            if ok {
                return Ok(());
            }
            Err(Error::BadArgument { what, why: format!("must be {range}, is {value}") })
        };
        for &(id, bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                let why = format!("the bias of token {id} must be a number or negative infinity, is {bias}");
                return Err(Error::BadArgument { what: "logit_bias", why });
            }
        }
        let (repetition, temperature) = (self.repetition_penalty, self.temperature);
        let (presence, frequency) = (self.presence_penalty, self.frequency_penalty);
        let (top_p, min_p, typical_p) = (self.top_p, self.min_p, self.typical_p);
        require(repetition.is_finite() && repetition > 0.0, "repetition_penalty", repetition, "finite and above 0")?;
        require(presence.is_finite(), "presence_penalty", presence, "finite")?;
        require(frequency.is_finite(), "frequency_penalty", frequency, "finite")?;
        require(temperature.is_finite() && temperature >= 0.0, "temperature", temperature, "finite and not negative")?;
        require((0.0..=1.0).contains(&top_p), "top_p", top_p, "from 0 to 1")?;
        require((0.0..=1.0).contains(&min_p), "min_p", min_p, "from 0 to 1")?;
        require(typical_p > 0.0 && typical_p <= 1.0, "typical_p", typical_p, "above 0 and at most 1")
    }
}
