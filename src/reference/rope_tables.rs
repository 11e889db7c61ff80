//! Spec 5: RoPE tables. The model defines them in f32, so this is the one place where the order of f32 operations is the
//! formula: one rounding for each line's operation, as the published code does them.

use crate::model::{Config, RopeParameters};

/// The tables of one session; `dynamic` remembers its calls.
pub struct RopeTables {
    rope: RopeParameters,
    theta: f64,
    head_dim: usize,
    /// max_position_embeddings
    limit: usize,
    /// `dynamic`: the n its frequencies are for.
    grown_to: usize,
    inv_freq: Vec<f32>,
    attention_scaling: f32,
}

impl RopeTables {
    /// Before the first call.
    pub fn new(config: &Config) -> Self {
        let limit = config.max_position_embeddings;
        let mut tables = RopeTables {
            rope: config.rope.clone(),
            theta: config.rope_theta,
            head_dim: config.head_dim,
            limit,
            grown_to: limit,
            inv_freq: Vec::new(),
            attention_scaling: attention_scaling(&config.rope) as f32,
        };
        tables.inv_freq = tables.frequencies(0);
        tables
    }

    /// `(cos, sin)` of each position of one call, `[head_dim / 2]` each.
    pub fn of_call(&mut self, positions: &[usize]) -> Vec<(Vec<f32>, Vec<f32>)> {
        let n = positions.iter().max().map_or(0, |&last| last + 1);
        match self.rope {
            RopeParameters::Dynamic { .. } if n > self.grown_to => (self.inv_freq, self.grown_to) = (self.frequencies(n), n),
            RopeParameters::Dynamic { .. } if n < self.limit && self.grown_to > self.limit => {
                (self.inv_freq, self.grown_to) = (self.frequencies(self.limit), self.limit)
            }
            RopeParameters::Longrope { .. } => self.inv_freq = self.frequencies(n),
            _ => {}
        }
        let scaled = |f: fn(f64) -> f64, angle: f32| f(f64::from(angle)) as f32 * self.attention_scaling;
        let of = |position: usize, f| self.inv_freq.iter().map(|inv| scaled(f, position as f32 * inv)).collect();
        positions.iter().map(|&p| (of(p, f64::cos), of(p, f64::sin))).collect()
    }

    /// inv_freq of a call whose largest position is n − 1.
    fn frequencies(&self, n: usize) -> Vec<f32> {
        let (d, theta) = (self.head_dim, self.theta as f32);
        let exponents: Vec<f32> = (0..d / 2).map(|i| (2 * i) as f32 / d as f32).collect(); // e_i
        let freq: Vec<f32> = exponents.iter().map(|&e| power(theta, e)).collect(); // base_i = theta^e_i
        match &self.rope {
            RopeParameters::Default => freq.iter().map(|base| 1.0 / base).collect(),
            RopeParameters::Linear { factor } => freq.iter().map(|base| 1.0 / base / *factor as f32).collect(),
            RopeParameters::Dynamic { factor } => {
                let stretch = *factor as f32 * n.max(self.limit) as f32 / self.limit as f32 - (factor - 1.0) as f32;
                let grown = theta * power(stretch, (d as f64 / (d as f64 - 2.0)) as f32); // θ'
                exponents.iter().map(|&e| 1.0 / power(grown, e)).collect()
            }
            RopeParameters::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let (factor, original) = (*factor as f32, *original_max_position_embeddings as f64);
                let low = *low_freq_factor as f32;
                let blend = |base: &f32| {
                    let plain = 1.0 / base;
                    let wave = 1.0 / plain * std::f32::consts::TAU; // λ
                    if wave < (original / high_freq_factor) as f32 {
                        plain
                    } else if wave > (original / low_freq_factor) as f32 {
                        plain / factor
                    } else {
                        let t = (1.0 / wave * original as f32 - low) / ((high_freq_factor - low_freq_factor) as f32);
                        (1.0 - t) * plain / factor + t * plain
                    }
                };
                freq.iter().map(blend).collect()
            }
            RopeParameters::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
                let dim = |turns: f64| {
                    let original = *original_max_position_embeddings as f64;
                    d as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = (dim(*beta_fast), dim(*beta_slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(d as f64 - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                let blend = |(i, base): (usize, &f32)| {
                    let keep = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0); // 1 − r_i
                    1.0 / (*factor as f32 * base) * (1.0 - keep) + 1.0 / base * keep
                };
                freq.iter().enumerate().map(blend).collect()
            }
            RopeParameters::Longrope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                let factors = if n > *original_max_position_embeddings { long_factor } else { short_factor };
                freq.iter().zip(factors).map(|(base, &f)| 1.0 / (f as f32 * base)).collect()
            }
        }
    }
}

/// The factor of both cos and sin.
fn attention_scaling(rope: &RopeParameters) -> f64 {
    match rope {
        RopeParameters::Yarn { attention_factor: Some(given), .. }
        | RopeParameters::Longrope { attention_factor: Some(given), .. } => *given,
        RopeParameters::Yarn { factor, mscale, mscale_all_dim, .. } => {
            let ms = |x: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * x * factor.ln() + 1.0 };
            match (mscale, mscale_all_dim) {
                (Some(mscale), Some(all)) => ms(*mscale) / ms(*all),
                _ => ms(1.0),
            }
        }
        RopeParameters::Longrope { factor, original_max_position_embeddings, .. } if *factor > 1.0 => {
            (1.0 + factor.ln() / (*original_max_position_embeddings as f64).ln()).sqrt()
        }
        _ => 1.0,
    }
}

/// base^e, rounded once to f32.
fn power(base: f32, e: f32) -> f32 {
    f64::from(base).powf(f64::from(e)) as f32
}
