//! Fixtures without a forward pass of their own (tokenizer, chat template, sampling), and the model that talks.

use std::path::Path;

use serde_json::Value;

use super::{worst, CaseReport, Outcome, VerifyOptions};
use crate::{
    model::{Checkpoint, LoadOptions, Model, Session, SessionOptions},
    ChatInput, ChatTemplate, Dtype, Error, Result, Sampler, SamplingSettings, TextStream, Tokenizer,
};

/// Entries of a list in the fixture.
pub fn list<'a>(json: &'a Value, key: &str) -> Result<&'a [Value]> {
    json.get(key).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| missing(key))
}

pub fn text<'a>(json: &'a Value, key: &str) -> Result<&'a str> {
    json.get(key).and_then(Value::as_str).ok_or_else(|| missing(key))
}

/// Token ids of a list in the fixture.
pub fn ids(json: &Value, key: &str) -> Result<Vec<u32>> {
    list(json, key)?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| missing(key))).collect()
}

fn numbers(json: &Value, key: &str) -> Result<Vec<f32>> {
    list(json, key)?.iter().map(|x| x.as_f64().map(|x| x as f32).ok_or_else(|| missing(key))).collect()
}

fn missing(key: &str) -> Error {
    Error::BadFile { path: "expected.json".into(), why: format!("'{key}' is missing or of another type") }
}

/// Equal, or a message with both.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, ours: T, truth: T) -> Outcome {
    Outcome::Exact(if ours == truth { Ok(()) } else { Err(format!("{what}: {ours:?}, expected {truth:?}")) })
}

pub fn tokenizer(folder: &Path, json: &Value, report: &mut CaseReport) -> Result<()> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    for case in list(json, "encode")? {
        let input = text(case, "text")?;
        report.check("encode", same(input, tokenizer.encode(input, false, true)?, ids(case, "ids")?));
        report.check("encode", same(input, tokenizer.encode(input, true, true)?, ids(case, "ids_with_bos")?));
    }
    for case in list(json, "decode")? {
        let input = ids(case, "ids")?;
        report.check("decode", same("with special tokens", tokenizer.decode(&input, false)?.as_str(), text(case, "text")?));
        report.check(
            "decode",
            same("without special tokens", tokenizer.decode(&input, true)?.as_str(), text(case, "text_skip_special")?),
        );
    }
    for case in list(json, "stream")? {
        let mut stream = TextStream::new(false);
        let mut pieces: Vec<String> = ids(case, "ids")?.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        let truth: Vec<&str> = list(case, "pieces")?.iter().filter_map(Value::as_str).collect();
        let tail = stream.finish();
        if truth.len() > pieces.len() {
            pieces.push(tail);
        }
        report.check("stream", same("pieces", pieces, truth.into_iter().map(String::from).collect()));
    }
    for (id, bytes) in list(json, "token_bytes_hex")?.iter().enumerate() {
        let ours: String = tokenizer.token_bytes(id as u32).iter().map(|byte| format!("{byte:02x}")).collect();
        report.check("bytes", same("token bytes", Some(ours.as_str()), bytes.as_str()));
    }
    let template = ChatTemplate::from_folder(folder, None)?;
    for case in list(json, "chat")? {
        let mut variables = case.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default();
        let (tools, documents) = (variables.remove("tools"), variables.remove("documents"));
        let input = ChatInput {
            messages: list(case, "messages")?,
            tools: tools.as_ref().and_then(Value::as_array).map(Vec::as_slice),
            documents: documents.as_ref().and_then(Value::as_array).map(Vec::as_slice),
            add_generation_prompt: case.get("add_generation_prompt").and_then(Value::as_bool).unwrap_or(false),
            variables,
        };
        let rendered = template.render(&input)?;
        report.check("chat", same("rendered", rendered.as_str(), text(case, "rendered")?));
        report.check("chat", same("ids", tokenizer.encode(&rendered, false, true)?, ids(case, "ids")?));
    }
    Ok(())
}

pub fn sampling(json: &Value, report: &mut CaseReport) -> Result<()> {
    let atol = json.get("atol").and_then(Value::as_f64).ok_or_else(|| missing("atol"))?;
    for row in list(json, "rows")? {
        // The fixture applies a filter only where it names it.
        let mut settings = SamplingSettings { do_sample: true, top_k: 0, ..SamplingSettings::default() };
        for (key, value) in row.get("settings").and_then(Value::as_object).ok_or_else(|| missing("settings"))? {
            let number = value.as_f64().ok_or_else(|| missing(key))?;
            match key.as_str() {
                "temperature" => settings.temperature = number as f32,
                "top_k" => settings.top_k = number as usize,
                "top_p" => settings.top_p = number as f32,
                "min_p" => settings.min_p = number as f32,
                "typical_p" => settings.typical_p = number as f32,
                "repetition_penalty" => settings.repetition_penalty = number as f32,
                _ => return Err(missing(key)),
            }
        }
        let mut sampler = Sampler::new(settings)?;
        let (logits, truth) = (numbers(row, "logits")?, numbers(row, "probabilities")?);
        let ours = sampler.probabilities(&logits, &ids(row, "history")?, &[])?;
        let error = worst(ours.iter().zip(&truth).map(|(a, b)| f64::from((a - b).abs())));
        report.check("probabilities", Outcome::Error(if ours.len() == truth.len() { error / atol } else { f64::NAN }));
    }
    Ok(())
}

/// A checkpoint with tokenizer and template: prompt ids, greedy ids and text.
pub fn chat_model(folder: &Path, json: &Value, options: &VerifyOptions, report: &mut CaseReport) -> Result<()> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    let template = ChatTemplate::from_folder(folder, None)?;
    let load = LoadOptions { dtype: options.dtype, ..LoadOptions::default() };
    let model = options.place(Checkpoint::load(folder, &load)?)?;
    let stops = ids(json, "stop_tokens")?;
    for run in list(json, "runs")? {
        let input = ChatInput::new(list(run, "messages")?).add_generation_prompt(true);
        let prompt = tokenizer.encode(&template.render(&input)?, false, true)?;
        report.check("prompt", same("ids", &prompt, &ids(run, "prompt_ids")?));

        if options.dtype.is_some_and(Dtype::is_int) {
            continue;
        }
        let endless = greedy(&model, options, &prompt, ids(run, "greedy_ids_without_stop")?.len())?;
        report.check("greedy", same("ids", &endless, &ids(run, "greedy_ids_without_stop")?));
        let stop = endless.iter().position(|id| stops.contains(id));
        let ours = stop.and_then(|at| endless.get(..=at)).unwrap_or(&endless);
        report.check("greedy", same("ids up to the stop", ours, &ids(run, "greedy_ids")?));
        report.check("greedy", same("finish", if stop.is_some() { "stop" } else { "length" }, text(run, "finish")?));
        let shown = stop.and_then(|at| ours.get(..at)).unwrap_or(ours);
        report.check("text", same("text", tokenizer.decode(shown, true)?.as_str(), text(run, "text")?));
    }
    if options.dtype.is_some_and(Dtype::is_int) {
        report.unchecked.push("greedy ids: integer weights round too much for a model without training".into());
    }
    Ok(())
}

/// `count` greedy tokens after `prompt`.
pub fn greedy(model: &Model, options: &VerifyOptions, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
    let mut session = Session::new(model, &options.cpu, SessionOptions { block: options.block, ..Default::default() })?;
    let (mut out, mut next) = (Vec::with_capacity(count), prompt.to_vec());
    while out.len() < count {
        next = vec![options.cpu.argmax(session.feed(&next)?)? as u32];
        out.extend_from_slice(&next);
    }
    Ok(out)
}
