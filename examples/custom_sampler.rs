//! A sampler of one's own, in two ways: a hook before the library's, and a loop without it.
//! `cargo run --release --example custom_sampler`

use doge_engine::{
    embedded,
    model::{LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
    Error, Generation, Sampler, SamplingSettings, Until,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
    let tokenizer = embedded::tokenizer()?;
    let prompt = embedded::generation_config()?.with_bos(tokenizer.encode("JULIET.\n", true, true)?);

    // A hook changes the logits before the library chooses: here, no token of the last eight may come again.
    let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    let mut greedy = Sampler::new(SamplingSettings::default())?;
    let generation = Generation::new(&mut session, &mut greedy, &prompt, Until::default().max_new_tokens(40))?;
    let ids = generation.with_logits_hook(|logits, _prompt, generated| {
        let recent = &generated[generated.len().saturating_sub(8)..];
        recent.iter().for_each(|&id| logits[id as usize] = f32::NEG_INFINITY);
    });
    println!("{}\n--", tokenizer.decode(&ids.collect::<Result<Vec<u32>, Error>>()?, true)?);

    // A loop of one's own: the runner-up every third time.
    let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    let mut ids = Vec::new();
    session.feed(&prompt)?;
    while ids.len() < 40 {
        let Some(logits) = session.logits() else { break };
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        ids.push(order[usize::from(ids.len() % 3 == 2)]);
        session.feed(&ids[ids.len() - 1..])?;
    }
    println!("{}", tokenizer.decode(&ids, true)?);
    Ok(())
}
