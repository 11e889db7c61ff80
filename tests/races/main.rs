//! Sessions that share a pool and their models, each result that of a session alone. ThreadSanitizer watches
//! (.ci/sanitize.sh): so this is a program without the test harness, which hands memory from thread to thread inside the
//! standard library, where nothing is instrumented. For the same reason the threads are joined one by one.

#[path = "../common/doge.rs"]
mod doge;

use std::sync::Arc;

use doge::{cpu, logits, models, prompt, session};
use doge_engine::{
    model::{Batch, Model, Session, SessionOptions},
    ops::Cpu,
};

/// A prompt in blocks, tokens, a fork, a session saved and loaded, and two sessions at once.
fn live(model: &Model, cpu: &Cpu) -> Vec<u32> {
    let ids = prompt(60);
    let mut one = session(model, cpu, 16);
    let mut bits = logits(&mut one, &ids, &[41, 1, 1, 9, 1]);
    let mut other = one.fork().unwrap();
    bits.extend(logits(&mut other, &[7; 9], &[4, 1]));
    other = Session::load(model, cpu, SessionOptions::default().block(8), &other.save().unwrap()).unwrap();
    let mut batch = Batch::new(model, cpu);
    for id in 0..4 {
        batch.feed(&mut [&mut one, &mut other], &[id, 80 - id]).unwrap();
        let both = [one.logits(), other.logits()].into_iter().flatten().flatten();
        bits.extend(both.map(|x| x.to_bits()));
    }
    bits
}

fn main() {
    let models = Arc::new(models());
    let alone: Arc<Vec<_>> = Arc::new(models.iter().map(|(_, model)| live(model, &cpu(1))).collect());
    for threads in [2, 3] {
        let cpu = cpu(threads);
        let sessions = (0..3).map(|first| {
            let (models, alone, cpu) = (models.clone(), alone.clone(), cpu.clone());
            std::thread::spawn(move || {
                // Each begins with another model.
                for i in (0..models.len()).map(|i| (i + 3 * first) % models.len()) {
                    let (name, model) = &models[i];
                    assert!(live(model, &cpu) == alone[i], "{name}: other bits on {threads} threads");
                }
            })
        });
        sessions.collect::<Vec<_>>().into_iter().for_each(|session| session.join().unwrap());
    }
    println!("{} models, three sessions at a time on a pool of two threads and on one of three: no race", models.len());
}
