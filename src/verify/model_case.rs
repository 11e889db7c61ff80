//! A model case: a small checkpoint and everything the reference computes with it.

use std::path::Path;

use super::{expected::Expected, recorded::Recorded, worst, CaseReport, Outcome, VerifyOptions};
use crate::{
    model::{Checkpoint, LoadOptions, Model, RopeParameters, Session, SessionOptions},
    ops::Routing,
    reference,
    text_file::read_text,
    Dtype, Error, Result,
};

/// One model case, loaded.
struct Case<'a> {
    options: &'a VerifyOptions,
    model: Model,
    expected: Expected,
    /// Budget of logits and hidden states.
    atol: f64,
    /// B, T
    batch: usize,
    length: usize,
}

/// What one row of the batch is held to.
struct Row<'a> {
    index: usize,
    /// Places of padding before its first token.
    pad: usize,
    ids: &'a [u32],
}

pub fn run(folder: &Path, options: &VerifyOptions, report: &mut CaseReport) -> Result<()> {
    let path = folder.join("expected.safetensors");
    let bad = |why: &str| Error::BadFile { path: path.clone(), why: why.to_string() };
    let expected = Expected::read(&path)?;
    let checkpoint = Checkpoint::load(folder, &LoadOptions { dtype: options.dtype, ..LoadOptions::default() })?;
    let rounded_to = options.dtype.filter(|&to| to != Dtype::F32 && checkpoint.tensors.iter().any(|t| t.dtype != to));
    let input = expected.ints("input_ids").ok_or_else(|| bad("has no input_ids"))?;
    let &[batch, length] = &input.shape[..] else { return Err(bad("input_ids is not [batch, tokens]")) };
    let ids: Vec<u32> =
        input.data.iter().map(|&id| u32::try_from(id)).collect::<Result<_, _>>().map_err(|_| bad("a negative id"))?;
    expected.floats("exact_logits_full").ok_or_else(|| bad("has no exact_logits_full"))?;
    let atol = budget(folder, &expected)?;
    let case = Case { options, model: options.place(checkpoint)?, expected, atol, batch, length };

    for index in 0..batch {
        let pad = match case.expected.ints("attention_mask").and_then(|mask| mask.row(&[index])) {
            Some(mask) => mask.iter().take_while(|&&visible| visible == 0).count(),
            None => 0,
        };
        let ids =
            ids.get(index * length + pad..(index + 1) * length).ok_or_else(|| bad("attention_mask is not like input_ids"))?;
        let row = Row { index, pad, ids };
        match rounded_to {
            None => {
                case.check_full(&row, report)?;
                case.check_decode(&row, report)?;
            }
            Some(dtype) if dtype.is_int() => case.check_quantized(&row, report)?,
            Some(_) => case.check_rounded(&row, report)?,
        }
    }
    if let Some(dtype) = rounded_to {
        report.unchecked.push(format!("the case's own results: they are not those of weights rounded to {dtype}"));
    }
    let unknown = |name: &&str| !CHECKED.contains(name) && !INFORMATION.contains(name);
    report.unchecked.extend(case.expected.names().filter(unknown).map(|name| format!("{name} (unknown)")));
    Ok(())
}

/// Tensors of expected.safetensors that are compared, or are the input.
const CHECKED: [&str; 20] = [
    "input_ids",
    "attention_mask",
    "position_ids",
    "exact_logits_full",
    "exact_logits_decode",
    "exact_logits_greedy",
    "greedy",
    "greedy_stepwise",
    "hidden_full",
    "hidden_decode",
    "attn_out_full",
    "mlp_out_full",
    "mask_full",
    "kept_full",
    "evicted_at_full",
    "router_full",
    "experts_full",
    "expert_weights_full",
    "experts_decode",
    "expert_weights_decode",
];
/// transformers' own results in lower precision: they say how far it is off, not what is right. Compared nowhere.
pub const INFORMATION: [&str; 6] =
    ["logits_full", "logits_decode", "logits_full_bf16", "logits_decode_bf16", "logits_full_f16", "logits_decode_f16"];

/// The budget for logits and hidden states: the case's `atol_f32`, or by its rule (tests/golden/README.md). By that rule a case
/// says itself how far it may be off, so it is believed up to ten times the least: the golden cases stay below four times.
fn budget(folder: &Path, expected: &Expected) -> Result<f64> {
    let pair = |ours: &str, truth: &str| Some((expected.floats(ours)?, expected.floats(truth)?));
    if let Some(atol) = stated_budget(folder)? {
        return Ok(atol);
    }
    let mut worst = 0f64;
    for (ours, truth) in
        [pair("logits_full", "exact_logits_full"), pair("logits_decode", "exact_logits_decode")].into_iter().flatten()
    {
        worst = ours.data.iter().zip(&truth.data).fold(worst, |worst, (a, b)| worst.max((f64::from(*a) - f64::from(*b)).abs()));
    }
    let top = expected.floats("exact_logits_full").map_or(0.0, |a| largest(&a.data));
    let least = 2e-5f64.max(4e-6 * top);
    Ok((10.0 * worst).clamp(least, 10.0 * least))
}

/// The failed check of a tensor that is not of the shape it should be.
fn misshapen(name: &str, shape: &[usize]) -> Outcome {
    Outcome::Exact(Err(format!("{name} is of shape {shape:?}")))
}

fn largest(x: &[f32]) -> f64 {
    x.iter().fold(0.0, |top: f64, &x| top.max(f64::from(x).abs()))
}

/// A kilobyte a case is usual.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// `atol_f32` of the index.json beside the case's folder, if it is listed there.
fn stated_budget(folder: &Path) -> Result<Option<f64>> {
    let (Some(name), Some(index)) = (folder.file_name(), folder.parent().map(|parent| parent.join("index.json"))) else {
        return Ok(None);
    };
    let Some(text) = read_text(&index, MAX_INDEX_BYTES)? else { return Ok(None) };
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::BadFile { path: index, why: e.to_string() })?;
    let cases = json.get("cases").and_then(|cases| cases.as_array());
    let case = cases.into_iter().flatten().find(|case| case.get("name").and_then(|n| n.as_str()) == name.to_str());
    Ok(case.and_then(|case| case.get("atol_f32")?.as_f64()))
}

impl Case<'_> {
    fn session(&self, routing: Routing) -> Result<Session> {
        Session::new(&self.model, &self.options.cpu, SessionOptions { block: self.options.block, routing, ..Default::default() })
    }

    /// Largest |ours - truth| over `budget`, which grows with the number where that is above one.
    fn compare(&self, ours: &[f32], truth: &[f32], growing: bool) -> Outcome {
        if ours.len() != truth.len() {
            return Outcome::Exact(Err(format!("{} numbers where {} are expected", ours.len(), truth.len())));
        }
        let fraction = |(a, b): (&f32, &f32)| {
            let (a, b) = (f64::from(*a), f64::from(*b));
            (a - b).abs() / (self.atol * if growing { b.abs().max(1.0) } else { 1.0 })
        };
        Outcome::Error(worst(ours.iter().zip(truth).map(fraction)))
    }

    /// Compares `ours` with rows `pad..` of the tensor `name` at `at`.
    fn compare_rows(&self, report: &mut CaseReport, check: &'static str, name: &str, at: &[usize], pad: usize, ours: &[f32]) {
        let Some(tensor) = self.expected.floats(name) else { return report.absent(name) };
        let Some(truth) = tensor.row(at) else { return report.check(check, misshapen(name, &tensor.shape)) };
        let skip = pad * truth.len() / self.length.max(1);
        report.check(check, self.compare(ours, truth.get(skip..).unwrap_or_default(), name != "exact_logits_full"));
    }

    /// The prompt in one call, then greedy decoding.
    #[expect(clippy::indexing_slicing, reason = "an observer is shown every layer")]
    fn check_full(&self, row: &Row, report: &mut CaseReport) -> Result<()> {
        let config = self.model.config();
        if config.is_moe && self.batch > 1 {
            report.unchecked.push("full: in a batch the reference routes by other rows' tokens".into());
            return Ok(());
        }
        let mut session = self.session(Routing::Reference)?;
        let mut seen = Recorded::default();
        let mut logits = session.feed_observed(row.ids, &mut seen)?.to_vec();
        let b = row.index;
        self.compare_rows(report, "full", "exact_logits_full", &[b], row.pad, &seen.logits);
        for (i, hidden) in seen.hidden.iter().enumerate() {
            self.compare_rows(report, "hidden", "hidden_full", &[i, b], row.pad, hidden);
        }
        for i in 0..config.num_hidden_layers {
            self.compare_rows(report, "hidden", "attn_out_full", &[i, b], row.pad, &seen.attn_out[i]);
            self.compare_rows(report, "hidden", "mlp_out_full", &[i, b], row.pad, &seen.mlp_out[i]);
            for m in 0..self.model.variant().mask_heads {
                let ours: Vec<f32> = seen.mask[i].iter().copied().skip(m).step_by(self.model.variant().mask_heads).collect();
                self.compare_rows(report, "mask", "mask_full", &[i, b, m], row.pad, &ours);
                self.check_kept(report, row, i, m, &seen);
            }
            if config.is_moe {
                self.compare_rows(report, "router", "router_full", &[i], 0, &seen.router[i]);
                self.check_experts(report, "full", i, &seen);
            }
        }
        self.check_greedy(report, "greedy", row, &mut session, &mut logits)
    }

    /// Kept sets and eviction points of one layer and mask head, in the batch's own places.
    fn check_kept(&self, report: &mut CaseReport, row: &Row, i: usize, m: usize, seen: &Recorded) {
        let at = |q: usize| seen.kept.get(&(i, m, q)).map_or(&[][..], Vec::as_slice);
        let some_go = self.model.config().keep_window_size < self.length;
        if let Some(kept) = self.expected.ints("kept_full") {
            for q in 0..row.ids.len() {
                let truth = kept.row(&[i, row.index, m, q + row.pad]).unwrap_or_default();
                let ours = at(q).iter().map(|&j| i64::from(j) + row.pad as i64);
                let same = ours.eq(truth.iter().copied().filter(|&j| j >= 0));
                let place = || format!("layer {i} head {m} query {}: {:?}, expected {truth:?}", q + row.pad, at(q));
                report.check("kept", Outcome::Exact(same.then_some(()).ok_or_else(place)));
            }
        } else if some_go {
            report.absent("kept_full");
        }
        if let Some(evicted) = self.expected.ints("evicted_at_full") {
            let evicted = evicted.row(&[i, row.index, m]).unwrap_or_default();
            for j in 0..row.ids.len() {
                let last = (j..row.ids.len()).rev().find(|&q| at(q).contains(&(j as u32)));
                let ours = (row.pad + last.map_or(j, |q| q + 1)) as i64;
                let truth = evicted.get(row.pad + j).copied();
                let place = || format!("layer {i} head {m} key {}: {ours}, expected {truth:?}", row.pad + j);
                report.check("evicted", Outcome::Exact((Some(ours) == truth).then_some(()).ok_or_else(place)));
            }
        } else if some_go && self.model.config().sliding_window.is_none() {
            report.absent("evicted_at_full");
        }
    }

    /// Chosen experts and their weights of one layer.
    #[expect(clippy::indexing_slicing, reason = "an observer is shown every layer")]
    fn check_experts(&self, report: &mut CaseReport, run: &str, i: usize, seen: &Recorded) {
        let (ids, weights) = (format!("experts_{run}"), format!("expert_weights_{run}"));
        match self.expected.ints(&ids) {
            None => report.absent(&ids),
            Some(truth) => {
                let truth = truth.row(&[i]).unwrap_or_default();
                let same = seen.experts[i].iter().map(|&e| i64::from(e)).eq(truth.iter().copied());
                report.check("experts", Outcome::Exact(same.then_some(()).ok_or_else(|| format!("layer {i} of the {run} run"))));
            }
        }
        self.compare_rows(report, "router", &weights, &[i], 0, &seen.expert_weights[i]);
    }

    /// Continues greedily; `logits` are those after the prompt.
    fn check_greedy(
        &self,
        report: &mut CaseReport,
        name: &'static str,
        row: &Row,
        session: &mut Session,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let Some(tensor) = self.expected.ints(name) else {
            report.absent(name);
            return Ok(());
        };
        let Some(truth) = tensor.row(&[row.index]) else {
            report.check("greedy", misshapen(name, &tensor.shape));
            return Ok(());
        };
        let (mut ours, mut seen) = (Vec::new(), Vec::new());
        for step in 1..=truth.len() {
            let best = self.options.cpu.argmax(logits)?;
            ours.push(best as i64);
            seen.extend_from_slice(logits);
            if step < truth.len() {
                logits.clear();
                logits.extend_from_slice(session.feed(&[best as u32])?);
            }
        }
        let differs = || format!("{name}: {ours:?}, expected {truth:?}");
        report.check("greedy", Outcome::Exact((ours == truth).then_some(()).ok_or_else(differs)));
        if name == "greedy" && ours == truth {
            self.compare_rows(report, "decode", "exact_logits_greedy", &[row.index], 0, &seen);
        }
        Ok(())
    }

    /// Token by token, and in blocks with per-token routing.
    fn check_decode(&self, row: &Row, report: &mut CaseReport) -> Result<()> {
        let config = self.model.config();
        let mut session = self.session(Routing::PerToken)?;
        let (mut seen, mut logits) = (Recorded::default(), Vec::new());
        for &id in row.ids {
            logits = session.feed_observed(&[id], &mut seen)?.to_vec();
        }
        if row.pad == 0 && self.batch == 1 {
            self.compare_rows(report, "decode", "exact_logits_decode", &[row.index], 0, &seen.logits);
            // Elsewhere decode gives what a full forward gives, which was compared.
            if config.is_moe || self.rotates_by_call(row) {
                for (i, hidden) in seen.hidden.iter().enumerate() {
                    self.compare_rows(report, "hidden", "hidden_decode", &[i, row.index], 0, hidden);
                }
            }
            if config.is_moe {
                (0..config.num_hidden_layers).for_each(|i| self.check_experts(report, "decode", i, &seen));
            }
            self.check_greedy(report, "greedy_stepwise", row, &mut session, &mut logits)?;
        }
        self.check_blocks(row, &seen, report)
    }

    /// Does the rotation depend on the length of a call?
    fn rotates_by_call(&self, row: &Row) -> bool {
        match &self.model.config().rope {
            RopeParameters::Dynamic { .. } => row.ids.len() > self.model.config().max_position_embeddings,
            RopeParameters::Longrope { original_max_position_embeddings, .. } => {
                row.ids.len() > *original_max_position_embeddings
            }
            _ => false,
        }
    }

    /// However a prompt is cut, the bits are the same: cut into calls, of which `seen` has what came token by token, or, where
    /// the rotation depends on the length of a call, one call cut into blocks of a token.
    fn check_blocks(&self, row: &Row, seen: &Recorded, report: &mut CaseReport) -> Result<()> {
        let in_one_call = |block: Option<usize>| -> Result<Vec<u32>> {
            let options = SessionOptions { block, routing: Routing::PerToken, ..Default::default() };
            let mut seen = Recorded::default();
            Session::new(&self.model, &self.options.cpu, options)?.feed_observed(row.ids, &mut seen)?;
            Ok(seen.logits.iter().map(|x| x.to_bits()).collect())
        };
        let (same, differs) = if self.rotates_by_call(row) {
            // Blocks of a token beside themselves would say nothing.
            let block = self.options.block.filter(|&tokens| tokens > 1);
            (in_one_call(block)? == in_one_call(Some(1))?, "a call in large blocks and in blocks of a token give different bits")
        } else {
            let by_token = seen.logits.iter().map(|x| x.to_bits());
            (by_token.eq(in_one_call(self.options.block)?), "one call and token by token give different bits")
        };
        report.check("blocks", Outcome::Exact(same.then_some(()).ok_or_else(|| differs.to_string())));
        Ok(())
    }

    /// With integer weights, whose kernels round what they read too: no reference to be held to. How far the logits move, and
    /// that they do not depend on how a prompt is cut.
    fn check_quantized(&self, row: &Row, report: &mut CaseReport) -> Result<()> {
        let mut ours = Recorded::default();
        self.session(Routing::Reference)?.feed_observed(row.ids, &mut ours)?;
        self.check_moved(row, &ours.logits, report);
        let mut session = self.session(Routing::PerToken)?;
        let mut seen = Recorded::default();
        for &id in row.ids {
            session.feed_observed(&[id], &mut seen)?;
        }
        self.check_blocks(row, &seen, report)
    }

    /// How far rounded weights move the largest logit.
    fn check_moved(&self, row: &Row, logits: &[f32], report: &mut CaseReport) {
        if let Some(unrounded) = self.expected.floats("exact_logits_full").and_then(|logits| logits.row(&[row.index])) {
            let skip = row.pad * self.model.config().vocab_size;
            let pairs = logits.iter().zip(unrounded.get(skip..).unwrap_or_default());
            let moved = worst(pairs.map(|(a, b)| f64::from((a - b).abs())));
            report.check("rounding", Outcome::Distance(moved / largest(unrounded)));
        }
    }

    /// With rounded weights: held to the crate's own f64 reference on the same weights, in one call and token by token.
    fn check_rounded(&self, row: &Row, report: &mut CaseReport) -> Result<()> {
        let checkpoint = self.model.checkpoint();
        let reference = || reference::forward::Session::new(&checkpoint.config, &checkpoint.weights);
        let narrow = |rows: Vec<Vec<f64>>| rows.into_iter().flatten().map(|x| x as f32).collect::<Vec<f32>>();

        let mut ours = Recorded::default();
        self.session(Routing::Reference)?.feed_observed(row.ids, &mut ours)?;
        let truth = narrow(reference().forward(row.ids, reference::product_key_router::Routing::Reference));
        report.check("full", self.compare(&ours.logits, &truth, false));
        self.check_moved(row, &ours.logits, report);

        let (mut session, mut steps) = (self.session(Routing::PerToken)?, reference());
        for &id in row.ids {
            let truth = narrow(steps.forward(&[id], reference::product_key_router::Routing::PerToken));
            report.check("decode", self.compare(session.feed(&[id])?, &truth, false));
        }
        Ok(())
    }
}
