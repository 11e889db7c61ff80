//! A window into a forward pass: what the golden data records, layer by layer.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sees intermediate results as a forward pass makes them. Every method does nothing unless overridden.
///
/// A call of n tokens is run in blocks of rows; `place` is the place in the sequence of a block's first row.
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// # use doge_engine::{embedded, model::{LoadOptions, Model, Observer, Session, SessionOptions}, ops::Cpu};
/// # let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
/// /// The hidden states of the last layer.
/// struct Last {
///     layers: usize,
///     hidden: Vec<f32>,
/// }
/// impl Observer for Last {
///     fn hidden(&mut self, layer: usize, _place: usize, rows: &[f32]) {
///         if layer == self.layers {
///             self.hidden.extend(rows);
///         }
///     }
/// }
/// let mut last = Last { layers: model.config().num_hidden_layers, hidden: Vec::new() };
/// Session::new(&model, &cpu, SessionOptions::default())?.feed_observed(&[0, 597, 49], &mut last)?;
/// assert_eq!(last.hidden.len(), 3 * model.config().hidden_size);
/// # Ok(())
/// # }
/// ```
#[allow(unused_variables, reason = "defaults that do nothing")]
pub trait Observer {
    /// The residual stream, `[rows, hidden_size]`: the embeddings for `layer` 0, the output of layer `layer - 1` above.
    fn hidden(&mut self, layer: usize, place: usize, rows: &[f32]) {}
    /// What attention adds to the stream, `[rows, hidden_size]`.
    fn attn_out(&mut self, layer: usize, place: usize, rows: &[f32]) {}
    /// What the MLP and the routed experts add to the stream, `[rows, hidden_size]`.
    fn mlp_out(&mut self, layer: usize, place: usize, rows: &[f32]) {}
    /// The mask value of each key, `[rows, mask_heads]`.
    fn mask(&mut self, layer: usize, place: usize, rows: &[f32]) {}
    /// The places that the query at `place` sees, in no particular order.
    fn kept(&mut self, layer: usize, mask_head: usize, place: usize, keys: Vec<u32>) {}
    /// Output of the router, `[rows, 2 · num_keys]`.
    fn router(&mut self, layer: usize, place: usize, rows: &[f32]) {}
    /// Chosen experts, ascending, and their weights, `[rows, num_experts_per_tok]` each.
    fn experts(&mut self, layer: usize, place: usize, experts: &[u32], weights: &[f32]) {}
    /// The logits of the token at `place`, `[vocab_size]`.
    fn logits(&mut self, place: usize, logits: &[f32]) {}
    /// Looked at before each layer: true ends the call with [`crate::Error::Cancelled`].
    fn cancels(&self) -> bool {
        false
    }
    /// Does [`Observer::kept`] want to be called? Gathering costs time and memory.
    fn wants_kept(&self) -> bool {
        false
    }
}

/// Sees nothing.
pub struct Unobserved;

impl Observer for Unobserved {}

/// Sees nothing, and cancels when the flag is set.
pub struct Cancel<'a>(pub &'a AtomicBool);

impl Observer for Cancel<'_> {
    fn cancels(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
