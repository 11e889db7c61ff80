//! The RoPE part of config.json (spec §1, §5), validated. The tables are made of it elsewhere.

use serde_json::Value;

use super::json::Object;
use crate::{Error, Result};

/// How the rotation frequencies are scaled. Numbers are as parsed; every one that is divided by or whose logarithm is
/// taken has been checked.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeParameters {
    /// Not at all.
    #[default]
    Default,
    /// Places are divided by a factor.
    Linear {
        /// Above 0.
        factor: f64,
    },
    /// Depends on the longest call so far, past `max_position_embeddings`. `head_dim` is above 2.
    Dynamic {
        /// How fast theta grows with the length past the limit.
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones stay.
    Llama3 {
        /// Of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings` divided by this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings` divided by this are high ones. Above `low_freq_factor`.
        high_freq_factor: f64,
        /// The context length that the model was first trained for.
        original_max_position_embeddings: usize,
    },
    /// Frequencies that turn slowly are divided by `factor`, fast ones stay, with a ramp between. `rope_theta` is not 1.
    Yarn {
        /// `null` in the file: `max_position_embeddings / original_max_position_embeddings`.
        factor: f64,
        /// The context length that the model was first trained for.
        original_max_position_embeddings: usize,
        /// What cos and sin are multiplied by; `None`: it follows from `factor`, `mscale` and `mscale_all_dim`.
        attention_factor: Option<f64>,
        /// `None` also where the file has 0, as in the reference.
        mscale: Option<f64>,
        /// As `mscale`.
        mscale_all_dim: Option<f64>,
        /// Turns within the original context above which a frequency stays.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// Are the ends of the ramp whole numbers?
        truncate: bool,
    },
    /// A factor for each frequency, one list for short calls and one for longer than `original_max_position_embeddings`.
    Longrope {
        /// `[head_dim / 2]`
        short_factor: Vec<f64>,
        /// `[head_dim / 2]`
        long_factor: Vec<f64>,
        /// Absent in the file: `max_position_embeddings / original_max_position_embeddings`.
        factor: f64,
        /// At least 2.
        original_max_position_embeddings: usize,
        /// What cos and sin are multiplied by; `None`: it follows from `factor`.
        attention_factor: Option<f64>,
    },
}

/// `rope_type` of config.json, by which an unknown one is refused.
const TYPES: &str = "default, linear, dynamic, llama3, yarn, longrope";

impl RopeParameters {
    /// `rope_type` in config.json.
    pub fn name(&self) -> &'static str {
        match self {
            RopeParameters::Default => "default",
            RopeParameters::Linear { .. } => "linear",
            RopeParameters::Dynamic { .. } => "dynamic",
            RopeParameters::Llama3 { .. } => "llama3",
            RopeParameters::Yarn { .. } => "yarn",
            RopeParameters::Longrope { .. } => "longrope",
        }
    }

    /// Does the table of a call depend on its length, as far as it reaches past the limit of `dynamic` and `longrope`? `tokens`:
    /// the longest call.
    pub(crate) fn looks_at_length(&self, tokens: usize, max_position_embeddings: usize) -> bool {
        match self {
            RopeParameters::Dynamic { .. } => tokens > max_position_embeddings,
            RopeParameters::Longrope { original_max_position_embeddings, .. } => tokens > *original_max_position_embeddings,
            _ => false,
        }
    }

    /// Both spellings: a non-empty `rope_scaling` replaces `rope_parameters`; a theta inside beats the top-level one.
    /// Returns the parameters and `rope_theta`.
    pub(super) fn parse(config: &Object, head_dim: usize, max_position_embeddings: usize) -> Result<(Self, f64)> {
        let scaling = config.object("rope_scaling")?.filter(|dict| !dict.is_empty());
        let dict = match scaling {
            Some(dict) => Some(dict),
            None => config.object("rope_parameters")?,
        };
        refuse_partial_rotation(config)?;
        let top_theta = config.positive("rope_theta")?.unwrap_or(10_000.0);
        let Some(dict) = dict else { return Ok((RopeParameters::Default, top_theta)) };
        refuse_partial_rotation(&dict)?;
        if let Some((key, _)) = dict.values().find(|(_, value)| matches!(value, Value::Object(_))) {
            return Err(Error::UnsupportedModel {
                what: format!("RoPE parameters per layer type ('{key}')"),
                why: "No Doge model has layers of different types".into(),
            });
        }
        let theta = dict.positive("rope_theta")?.unwrap_or(top_theta);

        let required = |key: &str| dict.positive(key)?.ok_or_else(|| dict.bad(key, "is missing"));
        // A top-level key wins over the dict's; 2 keeps its logarithm away from 0.
        let original = || -> Result<usize> {
            const KEY: &str = "original_max_position_embeddings";
            let range = 2..=u32::MAX as usize;
            Ok(config.size(KEY, range.clone())?.or(dict.size(KEY, range)?).unwrap_or(max_position_embeddings))
        };
        let stretch = |original: usize| max_position_embeddings as f64 / original as f64;

        let word = match dict.word("rope_type")? {
            Some(word) => word,
            None => dict.word("type")?.unwrap_or("default"),
        };
        let parameters = match word {
            "default" => RopeParameters::Default,
            "linear" => RopeParameters::Linear { factor: required("factor")? },
            "dynamic" if head_dim <= 2 => return Err(dict.bad("rope_type", "dynamic needs a head_dim above 2")),
            "dynamic" => RopeParameters::Dynamic { factor: required("factor")? },
            "llama3" => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if high <= low {
                    return Err(
                        dict.bad("high_freq_factor", format_args!("expected more than low_freq_factor ({low}), found {high}"))
                    );
                }
                RopeParameters::Llama3 {
                    factor: required("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original()?,
                }
            }
            "yarn" => {
                if theta == 1.0 {
                    return Err(dict.bad("rope_theta", "yarn divides by its logarithm: it cannot be 1"));
                }
                let original_max_position_embeddings = original()?;
                let factor = match dict.positive("factor")? {
                    Some(factor) => factor,
                    None if dict.has("factor") => stretch(original_max_position_embeddings),
                    None => return Err(dict.bad("factor", "is missing")),
                };
                // The reference reads these with `or`: 0 counts as absent.
                let or_absent = |key: &str| -> Result<Option<f64>> {
                    match dict.number(key)? {
                        Some(x) if x < 0.0 => Err(dict.bad(key, format_args!("expected 0 or more, found {x}"))),
                        other => Ok(other.filter(|x| *x != 0.0)),
                    }
                };
                RopeParameters::Yarn {
                    factor,
                    original_max_position_embeddings,
                    attention_factor: dict.positive("attention_factor")?,
                    mscale: or_absent("mscale")?,
                    mscale_all_dim: or_absent("mscale_all_dim")?,
                    beta_fast: or_absent("beta_fast")?.unwrap_or(32.0),
                    beta_slow: or_absent("beta_slow")?.unwrap_or(1.0),
                    truncate: dict.flag("truncate")?.unwrap_or(true),
                }
            }
            "longrope" => {
                let original_max_position_embeddings = original()?;
                if original_max_position_embeddings < 2 {
                    return Err(
                        dict.bad("original_max_position_embeddings", "longrope divides by its logarithm: it must be above 1")
                    );
                }
                let factors = |key: &str| -> Result<Vec<f64>> {
                    let list = dict.positives(key)?.ok_or_else(|| dict.bad(key, "is missing"))?;
                    if list.len() != head_dim / 2 {
                        let why = format!("expected {} numbers (head_dim / 2), found {}", head_dim / 2, list.len());
                        return Err(dict.bad(key, why));
                    }
                    Ok(list)
                };
                RopeParameters::Longrope {
                    short_factor: factors("short_factor")?,
                    long_factor: factors("long_factor")?,
                    factor: dict.positive("factor")?.unwrap_or_else(|| stretch(original_max_position_embeddings)),
                    original_max_position_embeddings,
                    attention_factor: dict.positive("attention_factor")?,
                }
            }
            unknown => return Err(dict.bad("rope_type", format_args!("unknown RoPE type '{unknown}'; expected one of: {TYPES}"))),
        };
        Ok((parameters, theta))
    }
}

/// Doge rotates the whole head; the reference fails on anything else.
fn refuse_partial_rotation(dict: &Object) -> Result<()> {
    match dict.number("partial_rotary_factor")? {
        Some(factor) if factor != 1.0 => Err(Error::UnsupportedModel {
            what: format!("partial_rotary_factor {factor}"),
            why: "Doge rotates the whole head".into(),
        }),
        _ => Ok(()),
    }
}
