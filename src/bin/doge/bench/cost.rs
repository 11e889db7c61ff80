//! What a token costs at least: bytes to read, operations to do. Where that depends on its place in the sequence, it is the mean
//! over the places of the test.

use doge_engine::model::Session;

use super::measure::Test;

/// Of one token.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Of the weights and the state. To generate a token both are read once; of a prompt for each block, the head once.
    pub bytes: f64,
    /// Of these, the state that is read each time.
    pub state: f64,
    /// Operations of the matrices, a product and its sum being two; a prompt needs the head once.
    pub matrices: f64,
    /// Operations of attention: beside a small model with 2048 keys as many as those of its matrices, and another instruction's.
    pub attention: f64,
}

impl Cost {
    /// A token of `test` on top of what `filled` holds.
    pub fn of(filled: &Session, test: Test) -> Self {
        let (checkpoint, config) = (filled.model().checkpoint(), filled.model().config());
        let (first, count) = (filled.tokens(), test.tokens());
        let mean = |of: &dyn Fn(usize) -> usize| (first..first + count).map(|place| of(place) as f64).sum::<f64>() / count as f64;
        let state = mean(&|place| filled.bytes_per_token(place));
        let (all, head) = (checkpoint.variant.parameters_per_token(config), config.vocab_size * config.hidden_size);
        let (bytes, heads) = match test {
            Test::Generate(_) => (checkpoint.bytes_per_token() as f64 + state, 1.0),
            Test::Prompt(n) => {
                let head = checkpoint.weights.lm_head.as_ref().unwrap_or(&checkpoint.weights.embed_tokens).size();
                let layers = |tokens: usize| checkpoint.bytes_per_block(tokens) - head;
                let block = filled.block();
                let whole = n / block * layers(block);
                let rest = if n % block > 0 { layers(n % block) } else { 0 };
                (((whole + rest + head) as f64 + n.div_ceil(block) as f64 * state) / n as f64, 1.0 / n as f64)
            }
        };
        // A query sees itself, too. For each key seen: q·k, the mask, exp, and its part of the sum.
        let window = config.keep_window_size.min(config.sliding_window.unwrap_or(usize::MAX));
        let seen = mean(&|place| window.min(place + 1));
        let a_key = config.num_hidden_layers * config.num_attention_heads * (4 * config.head_dim + 3);
        let matrices = 2.0 * ((all - head) as f64 + heads * head as f64);
        Cost { bytes, state, matrices, attention: seen * a_key as f64 }
    }

    pub fn operations(&self) -> f64 {
        self.matrices + self.attention
    }
}

#[cfg(test)]
mod tests {
    use doge_engine::{
        model::{family, Checkpoint, Model, SessionOptions, Variant},
        ops::Cpu,
        Dtype, Float,
    };

    use super::*;

    #[test]
    fn the_state_is_the_mean_over_all_places() {
        let (mut config, _) = family::preset("20m").unwrap();
        (config.num_hidden_layers, config.vocab_size, config.intermediate_size, config.keep_window_size) = (2, 64, 64, 5);
        for (sliding_window, of) in
            [(None, Variant::v1 as fn(&_) -> _), (None, Variant::v2), (Some(8), Variant::v2), (Some(3), Variant::v1)]
        {
            config.sliding_window = sliding_window;
            let model = Model::new(Checkpoint::random(config.clone(), of(&config), Dtype::F32, 0).unwrap());
            let (cpu, kv_dtype) = (Cpu::detect().unwrap(), Float::F16);
            for (depth, count) in [(0, 20), (2, 3), (6, 7)] {
                let mut session = Session::new(&model, &cpu, SessionOptions::default().kv_dtype(kv_dtype)).unwrap();
                for id in 0..depth {
                    session.feed(&[id]).unwrap();
                }
                let got = Cost::of(&session, Test::Generate(count)).state;
                let mut sum = 0;
                for id in 0..count as u32 {
                    sum += session.bytes_per_token(session.tokens());
                    session.feed(&[id]).unwrap();
                }
                let want = sum as f64 / count as f64;
                assert!((got - want).abs() < 1e-9 * want, "{sliding_window:?}, {depth} + {count}: {got}, not {want}");
            }
        }
    }
}
