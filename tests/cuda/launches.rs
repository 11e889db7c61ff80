//! How many launches a layer takes, as docs/cuda.md counts them.

use super::*;

#[test]
fn launches_of_a_layer() {
    let _alone = alone();
    // Of a call that feeds `tokens` tokens; what two more layers add is twice one layer.
    let of_a_layer = |moe, dtype, activations, tokens| {
        let call = |layers| {
            let model = on_the_gpu(
                config(|c| {
                    c.num_hidden_layers = layers;
                    if moe {
                        (c.is_moe, c.num_experts, c.num_experts_per_tok) = (true, 16, 4);
                    }
                }),
                false,
                dtype,
            );
            let mut session = Session::new(&model, &cpu().with_activations(activations), SessionOptions::default()).unwrap();
            let before = emulator::launches()?;
            session.feed(&prompt(tokens)).unwrap();
            Some(emulator::launches()? - before)
        };
        Some((call(3)? - call(1)?) / 2)
    };
    for (moe, dtype, activations, tokens, launches) in [
        (false, Dtype::Bf16, Activations::F32, 1, 0), // a token is one launch, of any number of layers
        (true, Dtype::Int8, Activations::F32, 1, 8),
        (false, Dtype::Bf16, Activations::F32, 9, 11),
        (false, Dtype::Bf16, Activations::Bf16, 9, 12),
        (true, Dtype::Bf16, Activations::Bf16, 9, 14),
    ] {
        if let Some(counted) = of_a_layer(moe, dtype, activations, tokens) {
            assert_eq!(counted, launches, "experts {moe}, {dtype}, {activations:?}, {tokens} tokens");
        }
    }
}
