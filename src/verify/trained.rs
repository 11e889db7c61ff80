//! A trained checkpoint: greedy continuations, and the loss on held-out text.

use std::path::Path;

use serde_json::Value;

use super::{
    fixtures::{greedy, ids, list, same, text},
    CaseReport, Outcome, VerifyOptions,
};
use crate::{
    model::{Checkpoint, LoadOptions, SessionOptions},
    perplexity::{self, Windows},
    Dtype, Error, Result, Tokenizer,
};

/// The held-out perplexity must agree to this fraction: four digits.
const PERPLEXITY_TOLERANCE: f64 = 5e-5;

pub fn run(folder: &Path, json: &Value, options: &VerifyOptions, report: &mut CaseReport) -> Result<()> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    let checkpoint = Checkpoint::load(folder, &LoadOptions { dtype: options.dtype, ..LoadOptions::default() })?;
    let rounded = options.dtype.is_some_and(|to| to != Dtype::F32 && checkpoint.tensors.iter().any(|t| t.dtype != to));
    let bos = checkpoint.config.bos_token_id;
    let model = options.place(checkpoint)?;

    for run in list(json, "runs")? {
        let prompt = text(run, "prompt")?;
        let ours: Vec<u32> = bos.into_iter().chain(tokenizer.encode(prompt, false, true)?).collect();
        report.check("prompt", same(prompt, &ours, &ids(run, "prompt_ids")?));
        if rounded {
            continue;
        }
        let truth = ids(run, "greedy_ids")?;
        report.check("greedy", same(prompt, &greedy(&model, options, &ours, truth.len())?, &truth));
        report.check("text", same(prompt, tokenizer.decode(&truth, false)?.as_str(), text(run, "text")?));
    }
    if rounded {
        report.unchecked.push("greedy ids and held-out loss: weights were rounded".into());
        return Ok(());
    }

    let missing = |key: &str| Error::BadFile { path: folder.join("expected.json"), why: format!("heldout.{key} is missing") };
    let held_out = json.get("heldout").ok_or_else(|| missing(""))?;
    let number = |key: &str| held_out.get(key).and_then(Value::as_f64).ok_or_else(|| missing(key));
    let (window, windows, truth) = (number("window")? as usize, number("windows")? as usize, number("perplexity")?);
    let path = folder.join(text(held_out, "file")?);
    let words = std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
    let all: Vec<u32> = bos.into_iter().chain(tokenizer.encode(&words, false, true)?).collect();
    let windows = Windows { count: windows, ..Windows::of(window) };
    let session = SessionOptions { block: options.block, ..Default::default() };
    let nll = perplexity::score(&model, &options.cpu, &all, windows, session)?;
    report.check("tokens scored", same("count", nll.count, number("tokens_scored")? as usize));
    report.check("perplexity", Outcome::Error((nll.exp().0 / truth - 1.0).abs() / PERPLEXITY_TOLERANCE));
    Ok(())
}
