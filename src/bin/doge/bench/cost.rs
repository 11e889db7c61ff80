//! What a token costs at least: bytes to read, operations to do. Where that depends on its place in the sequence, it is the mean
//! over the places of the test.

use doge_engine::{model::Session, Float};

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
    pub fn of(filled: &Session, kv_dtype: Float, test: Test) -> Self {
        let (model, count) = (filled.model(), test.tokens());
        let (checkpoint, config) = (model.checkpoint(), model.config());
        let state = state(filled, kv_dtype, Places { first: filled.tokens(), count });
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
        let seen = Places { first: filled.tokens() + 1, count }.mean(window(config.keep_window_size, config.sliding_window));
        let a_key = config.num_hidden_layers * config.num_attention_heads * (4 * config.head_dim + 3);
        let matrices = 2.0 * ((all - head) as f64 + heads * head as f64);
        Cost { bytes, state, matrices, attention: seen * a_key as f64 }
    }

    pub fn operations(&self) -> f64 {
        self.matrices + self.attention
    }
}

fn window(keep_window: usize, sliding_window: Option<usize>) -> usize {
    keep_window.min(sliding_window.unwrap_or(usize::MAX))
}

/// Where the tokens of a test stand.
#[derive(Clone, Copy)]
struct Places {
    first: usize,
    count: usize,
}

impl Places {
    /// The mean of the places, each counted as `most` at most: of the tokens before, as far as a window of `most` holds them.
    fn mean(self, most: usize) -> f64 {
        let below = |end: usize| {
            let (ramp, end, most) = (end.min(most.saturating_add(1)) as f64, end as f64, most as f64);
            ramp * (ramp - 1.0) / 2.0 + (end - ramp) * most
        };
        (below(self.first + self.count) - below(self.first)) / self.count as f64
    }

    /// The share of them that is larger than `place`.
    fn beyond(self, place: usize) -> f64 {
        let end = self.first + self.count;
        end.saturating_sub(self.first.max(place.saturating_add(1))) as f64 / self.count as f64
    }
}

/// The mean of [`Session::bytes_per_token`], which tells of the place where the session stands.
fn state(session: &Session, kv_dtype: Float, places: Places) -> f64 {
    let (config, mask_heads) = (session.model().config(), session.model().variant().mask_heads);
    let (keep_window, kv_heads) = (config.keep_window_size, config.num_key_value_heads);
    let kept = places.mean(window(keep_window, config.sliding_window));
    if session.model().is_on_device() {
        return session.state_bytes(kept.round() as usize) as f64;
    }
    let row = (2 * config.head_dim * kv_dtype.size()) as f64;
    let layer = match config.sliding_window {
        Some(sliding) => mask_heads as f64 * places.mean(sliding) * 4.0 + kv_heads as f64 * kept * row,
        // A mask value and a row number for each mask head; rows of its own as soon as keys are dropped.
        None => {
            let dropping = places.beyond(keep_window) * keep_window as f64;
            mask_heads as f64 * kept * 8.0 + (kv_heads as f64 * kept + (mask_heads - kv_heads) as f64 * dropping) * row
        }
    };
    layer * config.num_hidden_layers as f64
}

#[cfg(test)]
mod tests {
    use doge_engine::{
        model::{family, Checkpoint, Model, SessionOptions, Variant},
        ops::Cpu,
        Dtype,
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
                let got = state(&session, kv_dtype, Places { first: depth as usize, count });
                let mut sum = 0;
                for id in 0..count as u32 {
                    sum += session.bytes_per_token();
                    session.feed(&[id]).unwrap();
                }
                let want = sum as f64 / count as f64;
                assert!((got - want).abs() < 1e-9 * want, "{sliding_window:?}, {depth} + {count}: {got}, not {want}");
            }
        }
    }
}
