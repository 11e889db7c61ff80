//! The published family (spec §9): shapes to bench and test with, without a download.

use super::{Config, Names, RopeParameters, Variant};
use crate::{Error, Result};

/// Which generation of the code made it (spec §2.1).
#[derive(Clone, Copy, PartialEq)]
enum Generation {
    V1,
    V2,
    Doge2Early,
}
use Generation::{Doge2Early, V1, V2};

/// `vocab, hidden, intermediate, layers, nq, nkv, experts, experts per token, keep_window_size, Lmax, theta, generation`
type Shape = (usize, usize, usize, usize, usize, usize, usize, usize, usize, usize, f64, Generation);

#[rustfmt::skip]
const FAMILY: &[(&str, Shape)] = &[
    ("20m",          (32768,   256,  512,  8, 2, 1,     0,  0, 2048, 2048, 1e4, V2)),
    ("20m-instruct", (32768,   256,  512,  8, 2, 1,     0,  0, 2048, 2048, 1e4, V1)),
    ("60m",          (32768,   512, 1024, 16, 4, 2,     0,  0, 2048, 2048, 1e4, V1)),
    ("160m",         (32768,   768, 1536, 24, 6, 3,     0,  0, 2048, 2048, 1e4, V1)),
    ("320m",         (32768,  1024, 2048, 32, 8, 4,     0,  0, 2048, 2048, 1e4, V1)),
    ("20m-moe",      (32768,   256,  512,  8, 2, 1,  1024, 16, 2048, 2048, 1e4, V1)),
    ("120m-moe",     (32768,   512, 1024, 16, 4, 2,  4096, 32, 2048, 2048, 1e4, V1)),
    ("480m-moe",     (32768,   768, 1536, 24, 6, 3,  9216, 48, 2048, 2048, 1e4, V1)),
    ("1.4b-moe",     (32768,  1024, 2048, 32, 8, 4, 16384, 64, 2048, 2048, 1e4, V1)),
    ("doge2-175m",   (32768,   576, 1536, 30, 9, 3,   900, 30, 2048, 2048, 1e4, Doge2Early)),
    ("doge2-160m",   (49152,   576, 1536, 30, 9, 3,   900, 15, 2048, 8192, 1e5, V2)),
    ("40m",          (128256,  256, 1024,  8, 2, 1,     0,  0, 4096, 4096, 4e4, V2)),
    ("100m",         (128256,  512, 1536, 16, 4, 2,     0,  0, 2048, 2048, 1e4, V2)),
    ("260m",         (128256,  768, 2304, 24, 6, 3,     0,  0, 1024, 2048, 1e4, V2)),
    ("40m-moe",      (128256,  256,  768,  8, 2, 1,  1024,  8, 2048, 2048, 1e4, V2)),
    ("180m-moe",     (128256,  512, 1536, 16, 4, 2,  4096, 16, 2048, 2048, 1e4, V2)),
    ("600m-moe",     (128256,  768, 2304, 24, 6, 3,  9216, 24, 2048, 2048, 1e4, V2)),
    ("1.6b-moe",     (128256, 1024, 4096, 32, 8, 4, 16384, 32, 4096, 4096, 4e4, V2)),
];

/// Every word that [`preset`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILY.iter().map(|(name, _)| *name)
}

/// Config and variant of a member of the family: `preset("320m")`.
///
/// # Errors
/// [`Error::UnknownWord`].
pub fn preset(name: &str) -> Result<(Config, Variant)> {
    let word = name.to_ascii_lowercase();
    let found = FAMILY.iter().find(|(name, _)| *name == word);
    let Some(&(_, (vocab, hidden, intermediate, layers, nq, nkv, experts, per_tok, window, lmax, theta, generation))) = found
    else {
        let expected = names().collect::<Vec<_>>().join(", ");
        return Err(Error::UnknownWord { what: "model of the family", word: name.to_string(), expected });
    };
    let mut config = Config {
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: layers,
        num_attention_heads: nq,
        num_key_value_heads: nkv,
        head_dim: hidden / nq,
        max_position_embeddings: lmax,
        rope_theta: theta,
        // The 20M base's own RoPE is not known; up to Lmax the two types are one.
        rope: if generation == V1 { RopeParameters::Dynamic { factor: 4.0 } } else { RopeParameters::Default },
        keep_window_size: window,
        tie_word_embeddings: generation != Doge2Early,
        ..Config::default()
    };
    if experts > 0 {
        (config.is_moe, config.num_experts, config.num_experts_per_tok) = (true, experts, per_tok);
    }
    let variant = match generation {
        V2 => Variant::v2(&config),
        // Their uploads predate the new names.
        V1 => Variant { names: Names::Old, ..Variant::v1(&config) },
        Doge2Early => Variant { mask_heads: nq, ..Variant::v2(&config) },
    };
    Ok((config, variant))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec §9: millions of parameters, and of them read per token.
    #[test]
    fn parameters_are_those_of_the_spec() {
        let spec = [
            ("20m", 13.1, 13.1),
            ("60m", 54.6, 54.5),
            ("160m", 152.7, 152.6),
            ("320m", 335.8, 335.7),
            ("20m-moe", 17.4, 13.3),
            ("120m-moe", 122.7, 56.1),
            ("480m-moe", 496.0, 157.9),
            ("1.4b-moe", 1417.9, 348.3),
            ("doge2-175m", 176.2, 127.2),
            ("doge2-160m", 166.7, 136.1),
            ("40m", 40.7, 40.7),
            ("100m", 116.0, 116.0),
            ("260m", 268.5, 268.4),
            ("40m-moe", 43.5, 39.3),
            ("180m-moe", 184.2, 117.3),
            ("600m-moe", 611.8, 272.8),
            ("1.6b-moe", 1717.0, 645.2),
        ];
        for (name, total, per_token) in spec {
            let (config, variant) = preset(name).unwrap();
            let millions = |n: usize| n as f64 / 1e6;
            // The spec's second column counts matrices only.
            let heads = variant.mask_heads + if variant.qk_norm { 2 * config.head_dim } else { 0 };
            let vectors = config.num_hidden_layers * (4 * config.hidden_size + heads) + config.hidden_size;
            let t = millions(variant.parameters(&config));
            let p = millions(variant.parameters_per_token(&config) - vectors);
            assert!((t - total).abs() < 0.051, "{name}: {t} M parameters, the spec says {total}");
            assert!((p - per_token).abs() < 0.051, "{name}: {p} M per token, the spec says {per_token}");
        }
        // The exact count of a 160M upload (spec §2.1).
        let (config, variant) = preset("160m").unwrap();
        assert_eq!(variant.parameters(&config), 152_697_744);
    }
}
