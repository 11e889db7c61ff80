//! The router and its experts, in one launch.

use doge_engine::{
    cuda::{Buffer, Device, DeviceMatrix, ExpertRoom, ExpertSizes, Experts, Rows},
    ops::Routing,
    reference::{
        close::{activation_budget, activation_slope, chain, exactly, within, Worst, EPS, FUNCTION},
        embed::widen,
        gated_activation::activate,
        linear::linear,
        product_key_router,
    },
    Activation, Dtype, Layout, Result,
};

use super::{
    super::{
        f64s, magnitudes,
        store::{strip, Weights},
        Store,
    },
    copies, numbers, DeviceJob, LANES,
};

/// Copies are other tokens: the tables are larger than the caches.
pub struct Mix {
    down: Weights,
    up: Weights,
    down_there: DeviceMatrix,
    up_there: DeviceMatrix,
    logits: Vec<f32>,
    router: Vec<Rows>,
    x: Vec<f32>,
    x_there: Rows,
    y: Rows,
    keys: usize,
    top: usize,
    expert: Buffer<u32>,
    weight: Buffer<f32>,
    room: ExpertRoom,
}

impl Mix {
    pub fn make(gpu: &Device, n: usize, dtype: Dtype, keys: usize, top: usize, cols: usize) -> Result<Box<dyn DeviceJob>> {
        let mut store = Store::new(1);
        let logits = numbers(&mut store, n * 2 * keys, -2.0, 2.0)?;
        let x = numbers(&mut store, cols, -1.0, 1.0)?;
        let mut table = || store.weights(dtype, Layout::Rows, keys * keys, cols);
        let (down, up) = (table()?, table()?);
        Ok(Box::new(Mix {
            down_there: DeviceMatrix::upload(gpu, down.get(0))?,
            up_there: DeviceMatrix::upload(gpu, up.get(0))?,
            down,
            up,
            router: copies(n, |i| Rows::from_slice(gpu, 2 * keys, &logits[i * 2 * keys..][..2 * keys]))?,
            logits,
            x_there: Rows::from_slice(gpu, cols, &x)?,
            x,
            y: Rows::zeros(gpu, 1, cols)?,
            keys,
            top,
            expert: Buffer::zeros(gpu, top)?,
            weight: Buffer::zeros(gpu, top)?,
            room: ExpertRoom::new(gpu, ExpertSizes { rows: 1, cols, num_keys: keys, top })?,
        }))
    }

    /// What the chosen experts say, by the weights that the router gave them, and what it may be off.
    fn said(&self, expert: &[u32], weight: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (x, n) = (f64s(&self.x), self.x.len());
        let (mut y, mut budget) = (vec![0.0; n], vec![0.0; n]);
        for (&id, &p) in expert.iter().zip(weight) {
            let row = |table: &Weights| widen(strip(&table.get(0), id as usize, 1));
            let (down, up, p) = (row(&self.down), row(&self.up), f64::from(p));
            let dot = linear(&down, &x, None, 1)[0];
            let terms = linear(&magnitudes(&down), &f64s(&magnitudes(&self.x)), None, 1)[0];
            // A reduction, through the activation's slope; the activation's own error; the product with the weight.
            let error = chain(n, LANES) * EPS * terms;
            let after = activation_slope(Activation::Silu, dot.abs() + error) * error + activation_budget(Activation::Silu, dot);
            let hit = p * activate(Activation::Silu, dot);
            for (i, &up) in up.iter().enumerate() {
                let up = f64::from(up);
                y[i] += hit * up;
                budget[i] += (p * after + (2.0 * self.top as f64 + 2.0) * EPS * hit.abs()) * up.abs();
            }
        }
        (y, budget)
    }
}

impl DeviceJob for Mix {
    fn run(&mut self, gpu: &Device, copy: usize) -> Result<()> {
        let experts = Experts {
            router: &self.router[copy],
            down_embed: &self.down_there,
            up_embed: &self.up_there,
            routing: Routing::PerToken,
            act: Activation::Silu,
            expert: &mut self.expert,
            weight: &mut self.weight,
            stream: None,
            room: &mut self.room,
        };
        gpu.experts(&mut self.y, &self.x_there, experts, 1)
    }

    /// The choice, its weights, and the sum.
    fn check(&mut self, gpu: &Device) -> Result<Worst> {
        self.run(gpu, 0)?; // y was zero
        let (x, y) = self.logits[..2 * self.keys].split_at(self.keys);
        let scores: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| f64::from(x + y))).collect();
        let (want, p) = product_key_router::top_experts(&scores, self.top);
        let (expert, weight) = (self.expert.to_vec()?, self.weight.to_vec()?);
        let choice = exactly("expert", &expert, &want);
        if !choice.passed() {
            return Ok(choice);
        }
        // Scores lie within 4 of zero, so exp's argument is off by 8 EPS at most; the sum by its chain.
        let c = 8.0 + 2.0 * FUNCTION + self.top as f64 + 2.0;
        let weights = within("weight", &weight, &p, |i| c * EPS * p[i]);
        let (said, budget) = self.said(&expert, &weight);
        Ok(choice.max(weights).max(within("y", &self.y.read(1)?, &said, |i| budget[i])))
    }
}
