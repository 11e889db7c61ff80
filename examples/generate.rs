//! Text from a checkpoint, with the library alone: `cargo run --release --example generate -- FOLDER "ROMEO."`

use std::{env, io::Write, path::PathBuf};

use doge_engine::{
    model::{LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
    Generation, GenerationConfig, Sampler, StopStrings, TextGeneration, Tokenizer, Until,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or("models/doge-bard".into()));
    let text = args.next().unwrap_or("ROMEO.\n".into());

    let model = Model::load(&folder, &LoadOptions::default())?;
    let tokenizer = Tokenizer::from_folder(&folder)?;
    let config = GenerationConfig::from_folder(&folder)?;
    let cpu = Cpu::detect()?;
    let mut session = Session::new(&model, &cpu, SessionOptions::default())?;
    let settings = config.sampling.clone().do_sample(true).temperature(0.8).seed(7);
    let mut sampler = Sampler::new(settings)?;

    let prompt = config.with_bos(tokenizer.encode(&text, true, true)?);
    let until = Until::default().max_new_tokens(100).eos_token_ids(&config.eos_token_ids);
    let generation = Generation::new(&mut session, &mut sampler, &prompt, until)?;
    for piece in TextGeneration::new(generation, &tokenizer, StopStrings::default()) {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
