//! How likely each line of a file is, and its least likely token: `cargo run --release --example score -- FILE`

use doge_engine::{
    embedded,
    model::{LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or("models/doge-bard/heldout.txt".into());
    let model = Model::new(embedded::checkpoint(&LoadOptions::default())?);
    let (tokenizer, config) = (embedded::tokenizer()?, embedded::generation_config()?);
    let begin = Session::new(&model, &Cpu::detect()?, SessionOptions::default())?;

    println!("logprob\ttokens\tleast likely\ttext");
    for line in std::fs::read_to_string(path)?.lines().filter(|line| !line.trim().is_empty()).take(20) {
        let ids = config.with_bos(tokenizer.encode(line, true, false)?);
        // The first token is the beginning of the text, which nothing predicts.
        let scores: Vec<_> = begin.fork()?.score(&ids, 0)?.into_iter().flatten().collect();
        let sum: f32 = scores.iter().map(|score| score.logprob).sum();
        let least = scores.iter().min_by(|a, b| a.logprob.total_cmp(&b.logprob));
        let least = least.map_or(Ok(String::new()), |score| tokenizer.decode(&[score.id], false))?;
        println!("{sum:.2}\t{}\t{least:?}\t{line}", scores.len());
    }
    Ok(())
}
