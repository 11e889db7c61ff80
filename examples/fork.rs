//! One prompt, several continuations: the prompt is fed once, forked, and the forks take their steps together, so that the weights
//! are read once for all of them. `cargo run --release --example fork`

use doge_engine::{
    embedded,
    model::{Batch, LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
    Result, Sampler, SamplingSettings,
};

fn main() -> Result<()> {
    let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    let tokenizer = embedded::tokenizer()?;
    let prompt = embedded::generation_config()?.with_bos(tokenizer.encode("HAMLET.\nTo be, or", true, true)?);
    let mut root = Session::new(&model, &cpu, SessionOptions::default())?;
    root.feed(&prompt)?;

    let mut forks = (0..4).map(|_| root.fork()).collect::<Result<Vec<_>>>()?;
    let sampler = |seed| Sampler::new(SamplingSettings::default().do_sample(true).temperature(0.8).seed(seed));
    let mut samplers = (0..4).map(sampler).collect::<Result<Vec<_>>>()?;
    let mut texts = vec![Vec::new(); 4];
    let mut batch = Batch::new(&model, &cpu);
    for _ in 0..30 {
        let mut next = Vec::new();
        for ((fork, sampler), text) in forks.iter().zip(&mut samplers).zip(&mut texts) {
            let id = sampler.sample(fork.logits().unwrap_or_default(), &prompt, text)?;
            text.push(id);
            next.push(id);
        }
        batch.feed(&mut forks.iter_mut().collect::<Vec<_>>(), &next)?;
    }
    for text in texts {
        println!("{}\n--", tokenizer.decode(&text, true)?);
    }
    Ok(())
}
