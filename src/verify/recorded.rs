//! What a forward pass showed, put where golden data has it.

use std::collections::BTreeMap;

use crate::model::Observer;

/// Everything an observed session showed, by layer, its rows in the order of the sequence.
#[derive(Debug, Default)]
pub struct Recorded {
    /// [L + 1][T, H]
    pub hidden: Vec<Vec<f32>>,
    /// [L][T, H]
    pub attn_out: Vec<Vec<f32>>,
    /// [L][T, H]
    pub mlp_out: Vec<Vec<f32>>,
    /// [L][T, M]
    pub mask: Vec<Vec<f32>>,
    /// (layer, mask head, query) to the keys it sees, ascending.
    pub kept: BTreeMap<(usize, usize, usize), Vec<u32>>,
    /// [L][T, 2K]
    pub router: Vec<Vec<f32>>,
    /// [L][T, k]
    pub experts: Vec<Vec<u32>>,
    /// [L][T, k]
    pub expert_weights: Vec<Vec<f32>>,
    /// [T, V]
    pub logits: Vec<f32>,
}

fn append<T: Copy>(to: &mut Vec<Vec<T>>, layer: usize, rows: &[T]) {
    if to.len() <= layer {
        to.resize_with(layer + 1, Vec::new);
    }
    if let Some(of_layer) = to.get_mut(layer) {
        of_layer.extend_from_slice(rows);
    }
}

impl Observer for Recorded {
    fn hidden(&mut self, layer: usize, _: usize, rows: &[f32]) {
        append(&mut self.hidden, layer, rows);
    }

    fn attn_out(&mut self, layer: usize, _: usize, rows: &[f32]) {
        append(&mut self.attn_out, layer, rows);
    }

    fn mlp_out(&mut self, layer: usize, _: usize, rows: &[f32]) {
        append(&mut self.mlp_out, layer, rows);
    }

    fn mask(&mut self, layer: usize, _: usize, rows: &[f32]) {
        append(&mut self.mask, layer, rows);
    }

    fn kept(&mut self, layer: usize, mask_head: usize, place: usize, mut keys: Vec<u32>) {
        keys.sort_unstable();
        self.kept.insert((layer, mask_head, place), keys);
    }

    fn router(&mut self, layer: usize, _: usize, rows: &[f32]) {
        append(&mut self.router, layer, rows);
    }

    fn experts(&mut self, layer: usize, _: usize, experts: &[u32], weights: &[f32]) {
        append(&mut self.experts, layer, experts);
        append(&mut self.expert_weights, layer, weights);
    }

    fn logits(&mut self, _: usize, logits: &[f32]) {
        self.logits.extend_from_slice(logits);
    }

    fn wants_kept(&self) -> bool {
        true
    }
}
