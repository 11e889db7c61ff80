//! How many threads: a number, what the process may use, or `auto`: the number with which this model runs fastest.

use std::{
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use doge_engine::{
    model::{Model, Session, SessionOptions},
    ops::{Activations, Cpu},
    pool::{Pool, MAX_THREADS},
    Kernels, Result,
};

/// A number of threads, as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    Count(usize),
    Auto,
}

impl FromStr for Threads {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word.parse() {
            Ok(count) if (1..=MAX_THREADS).contains(&count) => Ok(Threads::Count(count)),
            _ if word == "auto" => Ok(Threads::Auto),
            _ => Err(format!("expected auto, or a number from 1 to {MAX_THREADS}")),
        }
    }
}

/// What the threads are to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A token at a time.
    Token,
    /// Blocks of a prompt.
    Block,
}

/// Tokens of a block that is measured: enough to be bound by what binds a prompt.
const BLOCK: usize = 32;
/// Turns of each candidate, of which the fastest counts: what else happens on the machine only ever slows one down.
const TURNS: usize = 3;
/// A turn goes on for this long.
const TURN: Duration = Duration::from_millis(5);
/// A candidate this much slower than the fastest after its first turn has no second.
const HOPELESS: f64 = 1.5;
/// Whatever is within this of the fastest is as good, and the fewest threads of these are taken: so that the choice is
/// the same each time, and leaves the machine what would hardly help.
const AS_GOOD: f64 = 1.05;

/// What was asked for: `-t` and `-tb`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub threads: Option<Threads>,
    pub threads_batch: Option<Threads>,
}

impl Asked {
    fn of(self, work: Work) -> Option<Threads> {
        match work {
            Work::Token => self.threads,
            Work::Block => self.threads_batch.or(self.threads),
        }
    }

    /// The number of threads for this work on this model.
    ///
    /// # Errors
    /// Those of a session, which `auto` needs.
    pub fn count(self, work: Work, model: &Model, kernels: Kernels, form: Activations) -> Result<usize> {
        match self.of(work) {
            None => Ok(Pool::default_threads()),
            Some(Threads::Count(count)) => Ok(count),
            Some(Threads::Auto) if model.is_on_device() => Ok(1), // it has nothing to do but choose tokens
            Some(Threads::Auto) => Ok(fewest_as_good(&measured(work, model, kernels, form)?)),
        }
    }

    /// The kernels with these threads, to run this model.
    ///
    /// # Errors
    /// As [`Asked::count`], and those of a pool.
    pub fn cpu(self, model: &Model, kernels: Kernels, form: Activations) -> Result<Cpu> {
        let [token, block] = [Work::Token, Work::Block].map(|work| self.count(work, model, kernels, form));
        of_counts(token?, block?, kernels, form)
    }

    /// The same where there is no one model to measure: `None` for `auto`.
    ///
    /// # Errors
    /// Those of a pool.
    pub fn cpu_of_any_model(self, kernels: Kernels, form: Activations) -> Option<Result<Cpu>> {
        let count = |work| match self.of(work) {
            None => Some(Pool::default_threads()),
            Some(Threads::Count(count)) => Some(count),
            Some(Threads::Auto) => None,
        };
        Some(of_counts(count(Work::Token)?, count(Work::Block)?, kernels, form))
    }
}

fn of_counts(token: usize, block: usize, kernels: Kernels, form: Activations) -> Result<Cpu> {
    let cpu = Cpu::new(kernels, Arc::new(Pool::new(token)?)).with_activations(form);
    Ok(if block == token { cpu } else { cpu.with_block_pool(Arc::new(Pool::new(block)?)) })
}

/// Seconds that each candidate needs, in turns, so that a machine whose speed drifts drifts for all of them.
fn measured(work: Work, model: &Model, kernels: Kernels, form: Activations) -> Result<Vec<(usize, f64)>> {
    let n = match work {
        Work::Token => 1,
        Work::Block => BLOCK,
    };
    let tokens: Vec<u32> = (0..n).map(|i| (i * 7919 % model.config().vocab_size) as u32).collect();
    let mut running = Vec::new();
    for threads in candidates(Pool::default_threads()) {
        let cpu = Cpu::new(kernels, Arc::new(Pool::new(threads)?)).with_activations(form);
        running.push((threads, Session::new(model, &cpu, SessionOptions::default())?, f64::INFINITY));
    }
    for turn in 0..TURNS {
        for (_, session, least) in &mut running {
            session.feed(&tokens)?; // wakes the threads, and fills caches that the one before has emptied
            let (start, mut runs) = (Instant::now(), 0);
            while runs == 0 || start.elapsed() < TURN {
                session.feed(&tokens)?;
                runs += 1;
            }
            *least = least.min(start.elapsed().as_secs_f64() / f64::from(runs));
        }
        if turn == 0 {
            let best = least_of(running.iter().map(|candidate| candidate.2));
            running.retain(|candidate| candidate.2 <= HOPELESS * best);
        }
    }
    Ok(running.into_iter().map(|(threads, _, least)| (threads, least)).collect())
}

/// What is tried where `most` threads are allowed: all of them, and down by quarters and halves to one.
fn candidates(most: usize) -> Vec<usize> {
    let halves = std::iter::successors(Some(most.max(1)), |&n| (n > 1).then_some(n / 2));
    let mut all: Vec<usize> = halves.flat_map(|n| [n, (3 * n / 4).max(1)]).collect();
    all.dedup();
    all
}

fn least_of(times: impl Iterator<Item = f64>) -> f64 {
    times.fold(f64::INFINITY, f64::min)
}

/// The fewest threads that are as good as the fastest.
fn fewest_as_good(measured: &[(usize, f64)]) -> usize {
    let best = least_of(measured.iter().map(|&(_, time)| time));
    measured.iter().filter(|&&(_, time)| time <= AS_GOOD * best).map(|&(threads, _)| threads).min().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!("auto".parse(), Ok(Threads::Auto));
        assert_eq!("16".parse(), Ok(Threads::Count(16)));
        for wrong in ["", "0", "-1", "Auto", "1.5", "1025", "99999999999999999999"] {
            assert!(wrong.parse::<Threads>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn near_equals_give_the_fewest() {
        assert_eq!(fewest_as_good(&[(8, 1.0), (4, 1.04), (2, 1.06), (1, 2.0)]), 4);
        assert_eq!(fewest_as_good(&[(8, 1.04), (4, 1.0), (2, 1.06), (1, 2.0)]), 4);
        assert_eq!(fewest_as_good(&[(2, 1.0), (1, 1.9)]), 2);
        assert_eq!(fewest_as_good(&[(2, 3.0), (1, 1.9)]), 1);
    }

    #[test]
    fn candidates_go_down_to_one() {
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(2), [2, 1]);
        assert_eq!(candidates(6), [6, 4, 3, 2, 1]);
        assert_eq!(candidates(20), [20, 15, 10, 7, 5, 3, 2, 1]);
    }
}
