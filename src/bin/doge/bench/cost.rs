//! What a token costs at least: bytes to read, operations to do.

use doge_engine::model::Checkpoint;

use super::measure::Test;

/// Bytes read for a token. To generate one: the weights once, and `state` bytes of the sequence's state. Of a prompt: its
/// share of the weights, which are read once for each `block` tokens, the head once for the prompt.
pub fn bytes_per_token(checkpoint: &Checkpoint, test: Test, state: usize, block: usize) -> f64 {
    match test {
        Test::Generate(_) => (checkpoint.bytes_per_token() + state) as f64,
        Test::Prompt(n) => {
            let head = checkpoint.weights.lm_head.as_ref().unwrap_or(&checkpoint.weights.embed_tokens).size();
            let layers = |tokens: usize| checkpoint.bytes_per_block(tokens) - head;
            let whole = n / block * layers(block);
            let rest = if n % block > 0 { layers(n % block) } else { 0 };
            (whole + rest + head) as f64 / n as f64
        }
    }
}

/// Operations of the matrices for a token, a product and its sum being two; a prompt needs the head once. Attention is left
/// out: beside the matrices it is small, and done in f32 whatever the weights are.
pub fn operations_per_token(checkpoint: &Checkpoint, test: Test) -> f64 {
    let config = &checkpoint.config;
    let (all, head) = (checkpoint.variant.parameters_per_token(config), config.vocab_size * config.hidden_size);
    let heads = match test {
        Test::Generate(_) => 1.0,
        Test::Prompt(n) => 1.0 / n as f64,
    };
    2.0 * ((all - head) as f64 + heads * head as f64)
}
