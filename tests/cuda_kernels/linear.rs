//! Linear layers: one row and many, every format, with and without tensor cores.

use super::*;

#[test]
fn linear_layers_of_every_format() {
    let gpu = emulator::device();
    // (rows of x, columns, outputs of three projections): ragged everywhere, one output, more than a block's.
    let shapes = [
        (1, 48, [24, 12, 12]),
        (1, 1, [1, 0, 0]),
        (2, 7, [5, 3, 1]),
        (8, 100, [33, 16, 2]),
        (9, 264, [17, 9, 40]),
        (19, 56, [7, 0, 0]),
    ];
    for dtype in Dtype::ALL {
        for (i, &(rows, cols, outputs)) in shapes.iter().enumerate() {
            for fill in [Fill::Uniform, Fill::WideRange, Fill::OneHuge, Fill::Tiny] {
                let random = &mut Random::new(i as u64);
                let x = random.fill(fill, rows * cols, 4.0);
                let weights = outputs.map(|n| Weight::linear(&gpu, dtype, n, cols, random, fill));
                let bias = outputs.map(|n| random.fill(Fill::Uniform, n, 1.0));
                let device_bias = bias.each_ref().map(|bias| Buffer::from_slice(&gpu, bias).unwrap());
                let run = |x: &[f32]| {
                    let n_rows = x.len() / cols;
                    let mut out = outputs.map(|n| Rows::zeros(&gpu, n_rows, n).unwrap());
                    let [a, b, c] = &mut out;
                    let [p, q, r] = &weights;
                    let mut projections = [
                        Projection { out: a, weight: &p.matrix, bias: Some(&device_bias[0]) },
                        Projection { out: b, weight: &q.matrix, bias: Some(&device_bias[1]) },
                        Projection { out: c, weight: &r.matrix, bias: None },
                    ];
                    gpu.linear(&mut projections, &Rows::from_slice(&gpu, cols, x).unwrap(), n_rows).unwrap();
                    out.map(|out| out.read(n_rows).unwrap())
                };
                let got = run(&x);
                for (p, &n) in outputs.iter().enumerate() {
                    let bias = (p < 2).then_some(&bias[p][..]);
                    let (want, terms): (Vec<_>, Vec<_>) = x.chunks_exact(cols).map(|x| weights[p].of(x, bias, n)).unzip();
                    let (want, terms) = (want.concat(), terms.concat());
                    let what = format!("{dtype} {rows}x{cols} to {n}, {fill:?}");
                    assert_passed(&what, within("out", &got[p], &want, |i| chain(dtype, cols) * EPS * terms[i]));
                    // A row alone has the same bits.
                    let last = run(&x[(rows - 1) * cols..]);
                    assert_passed(&what, exactly("the last row alone", &last[p], &got[p][(rows - 1) * n..]));
                }
            }
        }
    }
}

#[test]
fn gate_and_up_with_every_activation() {
    let gpu = emulator::device();
    for (i, act) in Activation::ALL.into_iter().enumerate() {
        for dtype in Dtype::ALL {
            let (rows, cols, n) = ([1, 3, 9][i % 3], [40, 64, 13][i % 3], [21, 6, 34][i % 3]);
            let random = &mut Random::new(i as u64);
            let x = random.fill(Fill::Uniform, rows * cols, 1.0);
            let (gate, up) = (
                Weight::linear(&gpu, dtype, n, cols, random, Fill::Uniform),
                Weight::linear(&gpu, dtype, n, cols, random, Fill::Uniform),
            );
            let (mut out, mut unused) = (Rows::zeros(&gpu, rows, n).unwrap(), Rows::zeros(&gpu, rows, n).unwrap());
            let mut both = [
                Projection { out: &mut out, weight: &gate.matrix, bias: None },
                Projection { out: &mut unused, weight: &up.matrix, bias: None },
            ];
            gpu.linear_gated(&mut both, &Rows::from_slice(&gpu, cols, &x).unwrap(), rows, act).unwrap();
            let (mut want, mut budget) = (Vec::new(), Vec::new());
            for x in x.chunks_exact(cols) {
                let ((gate, gate_terms), (up, up_terms)) = (gate.of(x, None, n), up.of(x, None, n));
                for o in 0..n {
                    // The parts' errors through the product's derivative; no activation is steeper than 2 |x| + 1.2.
                    let [g, u] = [gate_terms[o], up_terms[o]].map(|terms| chain(dtype, cols) * EPS * terms);
                    let y = activate(act, gate[o]);
                    let own = (3.0 * FUNCTION + 6.0 + 2.0 * gate[o].abs()) * EPS * (y.abs() + gate[o].abs());
                    let steep = 2.0 * gate[o].abs() + 1.2;
                    budget.push((own + steep * g) * (up[o].abs() + u) + (y.abs() + steep * g) * u + EPS * (y * up[o]).abs());
                    want.push(y * up[o]);
                }
            }
            let got = out.read(rows).unwrap();
            assert_passed(&format!("{act:?} {dtype} {rows}x{cols} to {n}"), within("out", &got, &want, |i| budget[i]));
            // The same in two steps, as after the tensor cores: bit for bit.
            let (mut a, mut b) = (Rows::zeros(&gpu, rows, n).unwrap(), Rows::zeros(&gpu, rows, n).unwrap());
            let mut both = [
                Projection { out: &mut a, weight: &gate.matrix, bias: None },
                Projection { out: &mut b, weight: &up.matrix, bias: None },
            ];
            gpu.linear(&mut both, &Rows::from_slice(&gpu, cols, &x).unwrap(), rows).unwrap();
            gpu.gated_activation(&mut a, &b, act, rows).unwrap();
            assert_passed("in two steps", exactly("out", &a.read(rows).unwrap(), &got));
        }
    }
}

fn of<'a>(out: &'a mut Rows, weight: &'a Weight, bias: Option<&'a Buffer<f32>>) -> Projection<'a> {
    Projection { out, weight: &weight.matrix, bias }
}

/// What a decode step does around its projections: to the bit what the steps give one by one.
#[test]
fn rows_that_are_normed_and_added_to_the_stream() {
    let gpu = emulator::device();
    const RMS_EPS: f32 = 1e-5;
    for (i, (cols, n)) in [(8_usize, 5_usize), (40, 33), (129, 16), (520, 70), (2048, 20)].into_iter().enumerate() {
        for dtype in Dtype::ALL {
            let random = &mut Random::new(i as u64);
            let [weight, gate, bias] =
                [cols.next_multiple_of(8), n, n].map(|n| Buffer::from_slice(&gpu, &random.fill(Fill::Uniform, n, 1.0)).unwrap());
            let mut x = Rows::from_slice(&gpu, cols, &random.fill(Fill::Uniform, cols, 2.0)).unwrap();
            let before = random.fill(Fill::Uniform, n, 2.0);
            let w = [(); 2].map(|()| Weight::linear(&gpu, dtype, n, cols, random, Fill::Uniform));
            let [mut a, mut b, mut c, mut d] = [(); 4].map(|()| Rows::zeros(&gpu, 1, n).unwrap());
            let what = format!("{dtype} {cols} to {n}");

            let mut h = Input::new(Rows::zeros(&gpu, 1, cols).unwrap(), false).unwrap();
            gpu.rms_norm(&mut h, &mut x, None, &weight, RMS_EPS, 1).unwrap();
            let norm = Norm { weight: &weight, eps: RMS_EPS };
            let bias = Some(&bias);
            gpu.linear(&mut [of(&mut a, &w[0], bias), of(&mut b, &w[1], None)], &h.exact, 1).unwrap();
            gpu.linear_of_normed(&mut [of(&mut c, &w[0], bias), of(&mut d, &w[1], None)], &x, norm).unwrap();
            assert_passed(&what, exactly("normed", &c.read(1).unwrap(), &a.read(1).unwrap()));
            assert_passed(&what, exactly("normed", &d.read(1).unwrap(), &b.read(1).unwrap()));

            gpu.linear_gated_of_normed(&mut [of(&mut c, &w[0], bias), of(&mut d, &w[1], None)], &x, norm, Activation::Silu)
                .unwrap();
            gpu.gated_activation(&mut a, &b, Activation::Silu, 1).unwrap();
            assert_passed(&what, exactly("gated", &c.read(1).unwrap(), &a.read(1).unwrap()));

            let mut streams = [(); 2].map(|()| Rows::from_slice(&gpu, n, &before).unwrap());
            gpu.linear(&mut [of(&mut a, &w[0], bias)], &x, 1).unwrap();
            let mut unused = Input::new(Rows::zeros(&gpu, 1, n).unwrap(), false).unwrap();
            let residual = Residual { gate: &gate, branch: &a };
            gpu.rms_norm(&mut unused, &mut streams[0], Some(residual), &gate, RMS_EPS, 1).unwrap();
            gpu.linear_to_stream(of(&mut d, &w[0], bias), &x, &mut streams[1], &gate).unwrap();
            assert_passed(&what, exactly("stream", &streams[1].read(1).unwrap(), &streams[0].read(1).unwrap()));
        }
    }
    let long = Rows::zeros(&gpu, 1, 2056).unwrap();
    let weight = Weight::linear(&gpu, Dtype::F32, 4, 2056, &mut Random::new(1), Fill::Uniform);
    let (mut out, ones) = (Rows::zeros(&gpu, 1, 4).unwrap(), Buffer::from_slice(&gpu, &[1.0; 2056]).unwrap());
    let projection = Projection { out: &mut out, weight: &weight.matrix, bias: None };
    let error = gpu.linear_of_normed(&mut [projection], &long, Norm { weight: &ones, eps: RMS_EPS }).unwrap_err();
    assert!(error.to_string().contains("can norm 2048"), "{error}");
}

fn rounded(gpu: &Device, cols: usize, x: &[f32]) -> Input {
    let (rows, mut to) = (x.len() / cols, Input::new(Rows::from_slice(gpu, cols, x).unwrap(), true).unwrap());
    gpu.round(&mut to, rows).unwrap();
    assert_rounded("round", &to);
    to
}

/// Gate and up on tensor cores: to the bit what the steps give one by one, for every activation.
#[test]
fn gate_and_up_on_tensor_cores() {
    let gpu = emulator::device();
    for (i, act) in Activation::ALL.into_iter().enumerate() {
        let (rows, cols, n) = ([2, 70, 64, 9][i % 4], [40, 72, 200, 13][i % 4], [21, 33, 64, 100][i % 4]);
        let random = &mut Random::new(i as u64);
        let x = rounded(&gpu, cols, &random.fill(Fill::Uniform, rows * cols, 1.0));
        let weights = [(); 2].map(|()| Weight::linear(&gpu, Dtype::Bf16, n, cols, random, Fill::Uniform));
        let bias = [(); 2].map(|()| Buffer::from_slice(&gpu, &random.fill(Fill::Uniform, n, 1.0)).unwrap());
        let [has_gate_bias, has_up_bias] = [i % 2 == 0, i % 3 == 0];
        let mut gate = Input::new(Rows::zeros(&gpu, rows, n).unwrap(), true).unwrap();
        let mut up = Rows::zeros(&gpu, rows, n).unwrap();
        let mut gated = Buffer::zeros(&gpu, gate.rounded.len()).unwrap();
        let mut both = [
            Projection { out: &mut gate.exact, weight: &weights[0].matrix, bias: has_gate_bias.then_some(&bias[0]) },
            Projection { out: &mut up, weight: &weights[1].matrix, bias: has_up_bias.then_some(&bias[1]) },
        ];
        gpu.gemm_gated_bf16(&mut gated, &mut both, &x, rows, act).unwrap();
        gpu.gemm_bf16(&mut both, &x, rows).unwrap();
        gpu.gated_activation(&mut gate.exact, &up, act, rows).unwrap();
        gpu.round(&mut gate, rows).unwrap();
        let (got, want) = (gated.to_vec().unwrap(), gate.rounded.to_vec().unwrap());
        assert_passed(&format!("{act:?} {rows}x{cols} to {n}"), exactly("gated", &got, &want));
        assert!(want.iter().any(|&x| x != 0), "{act:?}: nothing to compare");
    }
}

#[test]
fn tensor_cores_multiply_rounded_rows() {
    let gpu = emulator::device();
    // Fewer steps of 32 columns than tiles are under way at once, as many, and more.
    let shapes = [(2, 8, [3, 0, 0]), (64, 32, [64, 8, 0]), (70, 72, [65, 13, 1]), (3, 200, [130, 0, 0]), (5, 300, [9, 0, 70])];
    for (i, (rows, cols, outputs)) in shapes.into_iter().enumerate() {
        let random = &mut Random::new(i as u64);
        let x = random.fill(Fill::Uniform, rows * cols, 1.0);
        let weights = outputs.map(|n| Weight::linear(&gpu, Dtype::Bf16, n, cols, random, Fill::Uniform));
        let bias = random.fill(Fill::Uniform, outputs[0], 1.0);
        let device_bias = Buffer::from_slice(&gpu, &bias).unwrap();
        let run = |x: &Input| {
            let rows = x.exact.rows();
            let mut out = outputs.map(|n| Rows::zeros(&gpu, rows, n).unwrap());
            let [a, b, c] = &mut out;
            let mut projections = [
                Projection { out: a, weight: &weights[0].matrix, bias: Some(&device_bias) },
                Projection { out: b, weight: &weights[1].matrix, bias: None },
                Projection { out: c, weight: &weights[2].matrix, bias: None },
            ];
            gpu.gemm_bf16(&mut projections, x, rows).unwrap();
            out.map(|out| out.read(rows).unwrap())
        };
        let input = rounded(&gpu, cols, &x);
        let got = run(&input);
        assert_eq!(run(&input), got, "{rows}x{cols}: copies that come late, and at once");
        let x: Vec<f32> = x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        for (p, &n) in outputs.iter().enumerate() {
            let bias = (p == 0).then_some(&bias[..]);
            let (want, terms): (Vec<_>, Vec<_>) = x.chunks_exact(cols).map(|x| weights[p].of(x, bias, n)).unzip();
            let (want, terms) = (want.concat(), terms.concat());
            // Products of two bf16 are exact in f32; the hardware may truncate where we round, in any order of the sum.
            let c = 2.0 * (cols + 2) as f64;
            assert_passed(&format!("{rows}x{cols} to {n}"), within("out", &got[p], &want, |i| c * EPS * terms[i]));
        }
        let alone = run(&rounded(&gpu, cols, &x[(rows - 1) * cols..])); // rounded twice is rounded once
        assert_passed("the last row alone", exactly("out", &alone[0], &got[0][(rows - 1) * outputs[0]..]));
    }
}
