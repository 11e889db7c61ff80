//! Text from a checkpoint, with the library alone: `cargo run --release --example generate -- FOLDER "ROMEO."`

use std::{env, io::Write, path::PathBuf, sync::Arc};

use doge_engine::{
    model::{Checkpoint, LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
    pool::Pool,
    Generation, GenerationConfig, Kernels, Sampler, SamplingSettings, StopStrings, TextGeneration, Tokenizer, Until,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or("models/doge-bard".into()));
    let text = args.next().unwrap_or("ROMEO.\n".into());

    let model = Model::new(Checkpoint::load(&folder, &LoadOptions::default())?);
    let tokenizer = Tokenizer::from_folder(&folder)?;
    let config = GenerationConfig::from_folder(&folder)?;
    let cpu = Cpu::new(Kernels::detect()?, Arc::new(Pool::new(Pool::default_threads())?));
    let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    let settings = SamplingSettings { do_sample: true, temperature: 0.8, seed: 7, ..config.sampling };
    let mut sampler = Sampler::new(settings)?;

    let prompt = tokenizer.encode(&text, true, true)?;
    let until = Until { max_new_tokens: 100, eos_token_ids: &config.eos_token_ids, ..Until::default() };
    let generation = Generation::new(&mut session, &mut sampler, &prompt, until)?;
    for piece in TextGeneration::new(generation, &tokenizer, StopStrings::default()) {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
