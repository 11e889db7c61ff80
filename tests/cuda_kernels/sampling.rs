//! Draws beside the host's sampler, whose rules and random numbers they follow: the same ids, whatever the logits.

use doge_engine::{
    cuda::{Next, NextSizes},
    Sampler, SamplingSettings,
};

use super::*;

#[test]
fn draws_are_those_of_the_host() {
    let gpu = emulator::device();
    const STEPS: usize = 6;
    // A vocabulary smaller than the block, ragged, and one where the largest of each thread bound the list.
    for (i, vocab) in [1, 7, 90, 511, 1300, 5003].into_iter().enumerate() {
        for (j, fill) in Fill::ALL.into_iter().enumerate() {
            let random = &mut Random::new((8 * i + j) as u64);
            let mut logits = random.fill(fill, vocab, 1e30);
            if fill == Fill::Uniform {
                // As a model's: a few far above the rest, some of them equal.
                logits.iter_mut().for_each(|x| *x = (*x * 8.0).powi(3) / 20.0);
                (0..vocab / 8).for_each(|_| logits[random.below(vocab)] = logits[random.below(vocab)]);
            }
            let logits_there = Rows::from_slice(&gpu, vocab, &logits).unwrap();
            let mut next = Next::new(&gpu, NextSizes { rows: 1, vocab }).unwrap();
            for k in 0..8 {
                let settings = SamplingSettings::default()
                    .do_sample(true)
                    .seed(random.below(1 << 20) as u64)
                    .temperature([1.0, 0.7, 1e-3, 40.0, 1e30][(i + j + k) % 5])
                    .top_k([50, 1, 7, 512][(j + k) % 4])
                    .top_p([1.0, 0.9, 0.3, 0.0, 0.999][(i + k) % 5])
                    .min_p([0.0, 0.05, 1.0][(i + j + k / 2) % 3]);
                let mut host = Sampler::new(settings.clone()).unwrap();
                next.begin_run(0, 17, &[], Some(&host.draws(STEPS).unwrap())).unwrap();
                (0..STEPS).for_each(|_| gpu.sample(&logits_there, &mut next).unwrap());
                let got = next.end_run().unwrap();
                let want: Vec<u32> = (0..STEPS).map(|_| host.sample(&logits, &[], &[]).unwrap()).collect();
                assert_eq!((got.ids, got.non_finite), (want, None), "{vocab} tokens, {fill:?}, {settings:?}");
            }
        }
    }
}

/// A run that is stopped draws no more; logits that are not finite are told of, at the place of the first.
#[test]
fn runs_of_draws_end_and_tell() {
    let gpu = emulator::device();
    let logits = Rows::from_slice(&gpu, 3, &[0.0, 1.0, -1.0]).unwrap();
    let bad = Rows::from_slice(&gpu, 3, &[0.0, f32::NAN, f32::NEG_INFINITY]).unwrap();
    let mut next = Next::new(&gpu, NextSizes { rows: 1, vocab: 3 }).unwrap();
    let mut host = Sampler::new(SamplingSettings::default().do_sample(true).top_k(3).seed(4)).unwrap();
    let draws = host.draws(20).unwrap();
    let all: Vec<u32> = (0..20).map(|_| host.sample(&[0.0, 1.0, -1.0], &[], &[]).unwrap()).collect();
    let stop = all.iter().position(|&id| id == 2).expect("the seed draws each");
    assert!(stop > 0 && stop < 19);
    next.begin_run(1, 5, &[2], Some(&draws)).unwrap();
    (0..20).for_each(|_| gpu.sample(&logits, &mut next).unwrap());
    assert_eq!(next.end_run().unwrap().ids, all[..=stop]);
    next.begin_run(1, 5, &[], Some(&draws)).unwrap();
    gpu.sample(&logits, &mut next).unwrap();
    gpu.sample(&bad, &mut next).unwrap();
    gpu.sample(&bad, &mut next).unwrap();
    let run = next.end_run().unwrap();
    assert_eq!((run.ids.len(), run.non_finite), (3, Some(6)));
    assert!(gpu.sample(&Rows::zeros(&gpu, 1, 4).unwrap(), &mut next).is_err(), "no room for four");
}

/// Draws hardly ever show one wrong bit of an exponential; the exponentials do.
#[test]
fn exponentials_have_the_bits_of_the_host() {
    let gpu = emulator::device();
    const VOCAB: usize = 512;
    let mut next = Next::new(&gpu, NextSizes { rows: 1, vocab: VOCAB }).unwrap();
    // Down to 2^-16 and to -110: every branch, subnormal results and zeros.
    for (i, size) in [1e-4, 0.02, 0.4, 1.2, 20.0, 86.0, 110.0].into_iter().enumerate() {
        let random = &mut Random::new(i as u64);
        let mut logits: Vec<f32> = (0..VOCAB).map(|_| random.uniform().abs() * -size).collect();
        logits[77] = 0.0;
        let settings = SamplingSettings::default().do_sample(true).top_k(VOCAB);
        next.begin_run(0, 0, &[], Some(&Sampler::new(settings).unwrap().draws(1).unwrap())).unwrap();
        gpu.sample(&Rows::from_slice(&gpu, VOCAB, &logits).unwrap(), &mut next).unwrap();
        for (&x, weight) in logits.iter().zip(next.weights(VOCAB).unwrap()) {
            assert_eq!(weight.to_bits(), f64::from(libm::expf(x)).to_bits(), "exp({x:?})");
        }
    }
}
