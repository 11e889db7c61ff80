//! Rotation tables (spec 5): f32 in the reference's order of operations, and `dynamic`'s memory.
//!
//! Powers, cosines and sines come from the `libm` crate in f64 and are rounded once: the same bits on every machine.

use super::{config::Config, rope_parameters::RopeParameters};

/// The rotation state of one session.
#[derive(Clone, Debug)]
pub struct Rope {
    parameters: RopeParameters,
    theta: f32,
    head_dim: usize,
    max_position_embeddings: usize,
    /// [head_dim / 2], for the call at hand.
    inv_freq: Vec<f32>,
    /// Factor of cos and sin.
    attention_scaling: f32,
    /// `dynamic`: the longest call its table was made for; max_position_embeddings at first.
    longest: usize,
}

fn pow(base: f32, exponent: f32) -> f32 {
    libm::pow(base.into(), exponent.into()) as f32
}

impl Rope {
    pub fn new(config: &Config) -> Self {
        let mut rope = Rope {
            parameters: config.rope.clone(),
            theta: config.rope_theta as f32,
            head_dim: config.head_dim,
            max_position_embeddings: config.max_position_embeddings,
            inv_freq: vec![0.0; config.head_dim / 2],
            attention_scaling: attention_scaling(&config.rope) as f32,
            longest: config.max_position_embeddings,
        };
        rope.set_frequencies(0);
        rope
    }

    /// Begins a call whose last token stands at place `tokens - 1`: one prompt in one piece, or one decoded token. The
    /// types that depend on the length of a call (`dynamic`, `longrope`) choose their table here.
    pub fn begin_call(&mut self, tokens: usize) {
        match self.parameters {
            RopeParameters::Dynamic { .. } => {
                let limit = self.max_position_embeddings;
                if tokens > self.longest {
                    self.longest = tokens;
                    self.set_frequencies(tokens);
                } else if tokens < limit && self.longest > limit {
                    self.longest = limit;
                    self.set_frequencies(limit);
                }
            }
            RopeParameters::Longrope { .. } => self.set_frequencies(tokens),
            _ => {}
        }
    }

    /// What it remembers of the calls so far; with it, [`Rope::recall`] brings a fresh one to the same state.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn recall(&mut self, longest: usize) {
        if longest != self.longest {
            self.longest = longest;
            self.set_frequencies(longest);
        }
    }

    /// cos and sin of the places `place0..`, `[rows, head_dim / 2]` each.
    pub fn tables(&self, place0: usize, cos: &mut [f32], sin: &mut [f32]) {
        let half = self.inv_freq.len().max(1);
        for (r, (cos, sin)) in cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half)).enumerate() {
            for ((cos, sin), inv_freq) in cos.iter_mut().zip(sin).zip(&self.inv_freq) {
                // One f32 product: at large positions its rounding is part of the model.
                let angle = f64::from((place0 + r) as f32 * inv_freq);
                *cos = libm::cos(angle) as f32 * self.attention_scaling;
                *sin = libm::sin(angle) as f32 * self.attention_scaling;
            }
        }
    }

    /// Fills `inv_freq` for a call of `tokens` tokens.
    fn set_frequencies(&mut self, tokens: usize) {
        let d = self.head_dim as f32;
        let limit = self.max_position_embeddings;
        let theta = match self.parameters {
            RopeParameters::Dynamic { factor } => {
                let stretch = factor as f32 * tokens.max(limit) as f32 / limit as f32 - (factor - 1.0) as f32;
                self.theta * pow(stretch, (self.head_dim as f64 / (self.head_dim as f64 - 2.0)) as f32)
            }
            _ => self.theta,
        };
        let yarn = yarn_range(&self.parameters, self.theta.into(), self.head_dim);
        for (i, out) in self.inv_freq.iter_mut().enumerate() {
            let base = pow(theta, (2 * i) as f32 / d);
            let plain = 1.0 / base;
            *out = match &self.parameters {
                RopeParameters::Default | RopeParameters::Dynamic { .. } => plain,
                RopeParameters::Linear { factor } => plain / *factor as f32,
                RopeParameters::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                    let original = *original_max_position_embeddings as f64;
                    let wavelength = std::f32::consts::TAU / plain;
                    if wavelength < (original / high_freq_factor) as f32 {
                        plain
                    } else if wavelength > (original / low_freq_factor) as f32 {
                        plain / *factor as f32
                    } else {
                        let smooth = (original as f32 / wavelength - *low_freq_factor as f32)
                            / (high_freq_factor - low_freq_factor) as f32;
                        (1.0 - smooth) * plain / *factor as f32 + smooth * plain
                    }
                }
                RopeParameters::Yarn { factor, .. } => {
                    let (low, high) = yarn;
                    let keep = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    1.0 / (*factor as f32 * base) * (1.0 - keep) + plain * keep
                }
                RopeParameters::Longrope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                    let factors = if tokens > *original_max_position_embeddings { long_factor } else { short_factor };
                    1.0 / (factors.get(i).map_or(1.0, |&factor| factor as f32) * base)
                }
            };
        }
    }
}

/// The factor of cos and sin.
fn attention_scaling(parameters: &RopeParameters) -> f64 {
    match *parameters {
        RopeParameters::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } => {
            let ms = |x: f64| if factor <= 1.0 { 1.0 } else { 0.1 * x * libm::log(factor) + 1.0 };
            attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
                (Some(mscale), Some(all)) => ms(mscale) / ms(all),
                _ => ms(1.0),
            })
        }
        RopeParameters::Longrope { factor, original_max_position_embeddings, attention_factor, .. } => attention_factor
            .unwrap_or_else(|| match factor <= 1.0 {
                true => 1.0,
                false => libm::sqrt(1.0 + libm::log(factor) / libm::log(original_max_position_embeddings as f64)),
            }),
        _ => 1.0,
    }
}

/// yarn: the pairs between which the interpolation ramps.
fn yarn_range(parameters: &RopeParameters, theta: f64, head_dim: usize) -> (f64, f64) {
    let RopeParameters::Yarn { original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } = *parameters else {
        return (0.0, 1.0);
    };
    let pair_of = |rotations: f64| {
        let turns = original_max_position_embeddings as f64 / (rotations * std::f64::consts::TAU);
        head_dim as f64 * libm::log(turns) / (2.0 * libm::log(theta))
    };
    let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    (low, high)
}
