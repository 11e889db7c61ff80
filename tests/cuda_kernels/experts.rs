//! The router and its experts: few rows, whose groups of experts have a block of threads each, and many rows, which have one.

use doge_engine::{
    cuda::{ExpertRoom, ExpertSizes, Experts},
    ops::Routing,
};

use super::*;

/// One layer's tables, and room for calls of up to `rows` rows.
struct Layer {
    gpu: Device,
    down: Weight,
    up: Weight,
    sizes: ExpertSizes,
    act: Activation,
    room: ExpertRoom,
}

/// What a call leaves: experts, their weights, y and the stream.
struct Said {
    expert: Vec<u32>,
    weight: Vec<f32>,
    y: Vec<f32>,
    stream: Vec<f32>,
}

impl Layer {
    fn new(gpu: &Device, dtype: Dtype, sizes: ExpertSizes, act: Activation, random: &mut Random) -> Layer {
        let [down, up] = [(); 2].map(|()| {
            let values = random.fill(Fill::Uniform, sizes.num_keys.pow(2) * sizes.cols, 1.0);
            Weight::new(gpu, dtype, Layout::Rows, sizes.num_keys.pow(2), sizes.cols, &values)
        });
        Layer { gpu: gpu.clone(), down, up, sizes, act, room: ExpertRoom::new(gpu, sizes).unwrap() }
    }

    fn say(&mut self, router: &[f32], x: &[f32], before: &[f32], stream: Option<(&[f32], &[f32])>, routing: Routing) -> Said {
        let (gpu, ExpertSizes { cols, num_keys, top, .. }) = (&self.gpu, self.sizes);
        let rows = x.len() / cols;
        let (mut expert, mut weight) = (Buffer::zeros(gpu, rows * top).unwrap(), Buffer::zeros(gpu, rows * top).unwrap());
        let mut y = Rows::from_slice(gpu, cols, before).unwrap();
        let (x, router) = (Rows::from_slice(gpu, cols, x).unwrap(), Rows::from_slice(gpu, 2 * num_keys, router).unwrap());
        let mut stream =
            stream.map(|(rows, gate)| (Rows::from_slice(gpu, cols, rows).unwrap(), Buffer::from_slice(gpu, gate).unwrap()));
        let call = Experts {
            router: &router,
            down_embed: &self.down.matrix,
            up_embed: &self.up.matrix,
            routing,
            act: self.act,
            expert: &mut expert,
            weight: &mut weight,
            stream: stream.as_mut().map(|(rows, gate)| (rows, &*gate)),
            room: &mut self.room,
        };
        gpu.experts(&mut y, &x, call, rows).unwrap();
        Said {
            expert: expert.to_vec().unwrap(),
            weight: weight.to_vec().unwrap(),
            y: y.read(rows).unwrap(),
            stream: stream.map_or(Vec::new(), |(stream, _)| stream.read(rows).unwrap()),
        }
    }
}

/// More rows than get a block of threads for each group.
const MANY: usize = 17;

#[test]
fn experts_are_those_of_the_reference() {
    let gpu = emulator::device();
    // The last ones: as many experts as there is room for, with few keys and more; more keys than a block has room for.
    let shapes = [
        (1, 1, 16),
        (2, 3, 48),
        (4, 2, 40),
        (5, 7, 12),
        (6, 20, 64),
        (9, 81, 8),
        (16, 30, 100),
        (32, 16, 256),
        (128, 64, 24),
        (16, 256, 6),
        (17, 256, 9),
        (520, 70, 3),
    ];
    for (i, (num_keys, top, cols)) in shapes.into_iter().enumerate() {
        for (j, fill) in [Fill::Uniform, Fill::Ties, Fill::Zeros].into_iter().enumerate() {
            let dtype = Dtype::ALL[(i + j) % 5];
            let random = &mut Random::new((8 * i + j) as u64);
            let (rows, act) = ([1, 2, 3, MANY][(i + j) % 4], Activation::ALL[(i + j) % 10]);
            let rows = if num_keys > 300 { 1 + j } else { rows };
            let (router, x) = (random.fill(fill, rows * 2 * num_keys, 1.0), random.fill(Fill::Uniform, rows * cols, 1.0));
            let before = random.fill(Fill::Uniform, rows * cols, 1.0);
            let mut layer = Layer::new(&gpu, dtype, ExpertSizes { rows, cols, num_keys, top }, act, random);
            let (routing, of_reference) = match j % 2 {
                0 => (Routing::PerToken, reference::product_key_router::Routing::PerToken),
                _ => (Routing::Reference, reference::product_key_router::Routing::Reference),
            };
            let Said { expert, weight, y, .. } = layer.say(&router, &x, &before, None, routing);

            let what = format!("{rows} rows, {num_keys} keys, {top} experts, {cols} columns, {dtype}, {act:?}, {fill:?}");
            let gate: Vec<Vec<f64>> = router.chunks_exact(2 * num_keys).map(f64s).collect();
            let (down, up) = (&layer.down, &layer.up);
            for row in 0..rows {
                let (lx, ly) = of_reference.logits(&gate, row);
                let scores: Vec<f64> = lx.iter().flat_map(|x| ly.iter().map(move |y| f64::from(*x as f32 + *y as f32))).collect();
                let (chosen, p) = reference::product_key_router::top_experts(&scores, top);
                assert_passed(&what, exactly("expert", &expert[row * top..][..top], &chosen));
                // Scores lie within ±2: exp's argument is off by at most 4 EPS, and the sum by its chain.
                let c = 4.0 + 2.0 * FUNCTION + top as f64 + 2.0;
                assert_passed(&what, within("weight", &weight[row * top..][..top], &p, |i| c * EPS * p[i]));

                let x = &x[row * cols..][..cols];
                let (mut want, mut budget) = (f64s(&before[row * cols..][..cols]), vec![0.0; cols]);
                for (&e, p) in chosen.iter().zip(&p) {
                    let line = e as usize * cols..(e as usize + 1) * cols;
                    let dot = linear(&down.wide[line.clone()], &f64s(x), None, 1)[0];
                    let terms: f64 = down.wide[line.clone()].iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum();
                    let steep = 2.0 * dot.abs() + 1.2;
                    let error = steep * (chain(Dtype::F32, cols) + 2.0) * EPS * terms
                        + (3.0 * FUNCTION + 8.0 + 2.0 * dot.abs() + c) * EPS * (activate(act, dot).abs() + dot.abs());
                    for (i, &w) in up.wide[line].iter().enumerate() {
                        let hit = p * activate(act, dot);
                        want[i] += hit * f64::from(w);
                        budget[i] += (p * error + (top as f64 + 12.0) * EPS * hit.abs()) * f64::from(w.abs());
                    }
                }
                let y = &y[row * cols..][..cols];
                let start = |i: usize| (top as f64 + 2.0) * EPS * f64::from(before[row * cols + i].abs());
                assert_passed(&what, within("y", y, &want, |i| budget[i] + start(i)));
            }
        }
    }
}

/// A row says the same alone, among a few and among many, into the stream too, under every schedule.
#[test]
fn a_row_has_the_same_bits_in_every_company() {
    let gpu = emulator::device();
    // Groups of one expert and fewer, of more than are asked for at once; columns of more than a turn, of every kind of block.
    for (i, (num_keys, top, cols)) in [(3, 5, 8), (10, 75, 44), (12, 24, 300), (4, 9, 2060)].into_iter().enumerate() {
        for dtype in Dtype::ALL {
            let random = &mut Random::new(i as u64);
            let act = Activation::Silu;
            let mut layer = Layer::new(&gpu, dtype, ExpertSizes { rows: MANY, cols, num_keys, top }, act, random);
            let router = random.fill([Fill::Uniform, Fill::Ties][i % 2], MANY * 2 * num_keys, 1.0);
            let [x, before, stream] = [(); 3].map(|()| random.fill(Fill::Uniform, MANY * cols, 1.0));
            let gate = random.fill(Fill::Uniform, cols, 1.0);
            let mut say = |rows: std::ops::Range<usize>| {
                let of = |all: &[f32], cols: usize| all[rows.start * cols..rows.end * cols].to_vec();
                let stream = of(&stream, cols);
                let (router, x, before) = (of(&router, 2 * num_keys), of(&x, cols), of(&before, cols));
                layer.say(&router, &x, &before, Some((&stream, &gate)), Routing::PerToken)
            };
            let all = say(0..MANY);
            for rows in [0..1, 5..6, 16..17, 3..8] {
                let (few, what) = (say(rows.clone()), format!("rows {rows:?}, {top} experts, {cols} columns, {dtype}"));
                let (of_top, of_cols) = (rows.start * top..rows.end * top, rows.start * cols..rows.end * cols);
                assert_passed(&what, exactly("expert", &few.expert, &all.expert[of_top.clone()]));
                assert_passed(&what, exactly("weight", &few.weight, &all.weight[of_top]));
                assert_passed(&what, exactly("y", &few.y, &all.y[of_cols.clone()]));
                assert_passed(&what, exactly("stream", &few.stream, &all.stream[of_cols.clone()]));
                let branch = |i: usize| f64::from(gate[i % cols]) * f64::from(stream[i]) + f64::from(all.y[i]);
                let want: Vec<f64> = of_cols.clone().map(branch).collect();
                let size = |i: usize| f64::from((gate[i % cols] * stream[of_cols.start + i]).abs()) + f64::from(few.y[i].abs());
                assert_passed(&what, within("stream", &few.stream, &want, |i| 2.0 * EPS * size(i)));
            }
        }
    }
}

/// Sums of unlike keys that round to one score: the lowest ids win, also over those that rank higher on one side. The
/// first key that is left out tells of it, on either side.
#[test]
fn sums_that_round_to_ties() {
    let gpu = emulator::device();
    let (keys, top, cols) = (300, 3, 8);
    let one = (0..keys).map(|i| if i == 7 { 1e8 } else { -1e8 }).collect::<Vec<f32>>();
    let many = (0..keys).map(|i| i as f32 / 1000.0).collect::<Vec<f32>>();
    let table = Weight::new(&gpu, Dtype::F32, Layout::Rows, keys * keys, cols, &vec![0.0; keys * keys * cols]);
    let router = Rows::from_slice(&gpu, 2 * keys, &[&one[..], &many, &many, &one].concat()).unwrap();
    let (mut expert, mut weight) = (Buffer::zeros(&gpu, 2 * top).unwrap(), Buffer::zeros(&gpu, 2 * top).unwrap());
    let [mut y, x] = [(); 2].map(|()| Rows::zeros(&gpu, 2, cols).unwrap());
    let mut room = ExpertRoom::new(&gpu, ExpertSizes { rows: 2, cols, num_keys: keys, top }).unwrap();
    let call = Experts {
        router: &router,
        down_embed: &table.matrix,
        up_embed: &table.matrix,
        routing: Routing::PerToken,
        act: Activation::Silu,
        expert: &mut expert,
        weight: &mut weight,
        stream: None,
        room: &mut room,
    };
    gpu.experts(&mut y, &x, call, 2).unwrap();
    assert_eq!(expert.to_vec().unwrap(), [2100, 2101, 2102, 7, 307, 607]);
    assert_eq!(weight.to_vec().unwrap(), [1.0 / 3.0; 6]);
}
