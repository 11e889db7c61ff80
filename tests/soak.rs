//! Eight sessions on four threads that share a pool, with random lengths, cancellations, forks, saves, steps taken together and bad
//! requests. Every result is that of a session fed straight through by one thread, and nothing is left behind.
//!
//! `DOGE_SOAK` is the number of rounds (default 2): each is eight sessions of 40 actions.

#[path = "common/doge.rs"]
mod doge;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use doge::{config, cpu, model, moe};
use doge_engine::{
    model::{Batch, Model, Session, SessionOptions},
    ops::Cpu,
    Dtype, Error,
};

/// Counts the bytes that are in use.
struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: as asked by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: as asked by our caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const THREADS: usize = 4;
const ACTIONS: usize = 40;
const VOCAB: u32 = 96;
/// No round takes a tenth of this, unless threads wait for each other.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was done, to be told at the end.
#[derive(Default)]
struct Counts {
    tokens: AtomicUsize,
    cancelled: AtomicUsize,
    forked: AtomicUsize,
    saved: AtomicUsize,
    refused: AtomicUsize,
    batched: AtomicUsize,
}

/// The same numbers from the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn ids(&mut self, most: usize) -> Vec<u32> {
        (0..=self.below(most)).map(|_| self.below(VOCAB as usize) as u32).collect()
    }
}

/// A session, and one that is fed the same by one thread alone.
struct Pair {
    session: Session,
    truth: Session,
}

impl Pair {
    fn check(&mut self, ids: &[u32]) {
        let expected = self.truth.feed(ids).unwrap();
        let found = self.session.logits().expect("it was fed");
        assert!(found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "at token {}", self.truth.tokens());
        assert_eq!(self.session.tokens(), self.truth.tokens());
    }

    /// Feeds with somebody at the brake, again and again until all is in.
    fn feed_with_interruptions(&mut self, ids: &[u32], cancel: &AtomicBool, counts: &Counts) {
        let before = self.session.tokens();
        loop {
            let left = &ids[self.session.tokens() - before..];
            match self.session.feed_until(left, cancel).map(drop) {
                Ok(()) => break,
                Err(Error::Cancelled { tokens }) => {
                    assert_eq!(tokens, self.session.tokens());
                    counts.cancelled.fetch_add(1, Relaxed);
                    cancel.store(false, Relaxed);
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.check(ids);
    }

    fn act(&mut self, dice: &mut Dice, model: &Model, cpu: &Cpu, cancel: &AtomicBool, counts: &Counts) {
        match dice.below(8) {
            0 => {
                let full = self.session.tokens();
                let bad: [&[u32]; 3] = [&[], &[1, VOCAB, 2], &[u32::MAX]];
                self.session.feed(bad[dice.below(3)]).map(drop).unwrap_err();
                assert_eq!(self.session.tokens(), full);
                counts.refused.fetch_add(1, Relaxed);
            }
            1 => {
                let fork = self.session.fork().unwrap();
                let left_behind = std::mem::replace(&mut self.session, fork);
                drop(left_behind);
                counts.forked.fetch_add(1, Relaxed);
            }
            2 => {
                let mut saved = self.session.save().unwrap();
                self.session = Session::load(model, cpu, SessionOptions::default().block(8), &saved).unwrap();
                let at = dice.below(saved.len());
                saved[at] ^= 0x10;
                Session::load(model, cpu, SessionOptions::default(), &saved).map(drop).unwrap_err();
                counts.saved.fetch_add(1, Relaxed);
            }
            3 | 4 => {
                let ids = dice.ids(60);
                counts.tokens.fetch_add(ids.len(), Relaxed);
                self.feed_with_interruptions(&ids, cancel, counts);
            }
            _ => {
                let ids = dice.ids(12);
                counts.tokens.fetch_add(ids.len(), Relaxed);
                self.session.feed(&ids).unwrap();
                self.check(&ids);
            }
        }
    }
}

/// Two sessions in turns, and now and then together.
fn worker(seed: u64, model: &Model, cpu: &Cpu, cancel: &AtomicBool, counts: &Counts) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let one = doge::cpu(1);
    let fresh = || Session::new(model, cpu, SessionOptions::default().block(16)).unwrap();
    let truth = || Session::new(model, &one, SessionOptions::default()).unwrap();
    let mut pairs = [0, 1].map(|_| Pair { session: fresh(), truth: truth() });
    let mut batch = Batch::new(model, cpu);
    for _ in 0..ACTIONS {
        for pair in &mut pairs {
            pair.act(&mut dice, model, cpu, cancel, counts);
        }
        if dice.below(3) == 0 {
            let ids = [0, 1].map(|_| dice.below(VOCAB as usize) as u32);
            let [a, b] = &mut pairs;
            batch.feed(&mut [&mut a.session, &mut b.session], &ids).unwrap();
            pairs.iter_mut().zip(&ids).for_each(|(pair, id)| pair.check(std::slice::from_ref(id)));
            counts.batched.fetch_add(2, Relaxed);
        }
    }
}

fn round(number: u64, models: &[Model], counts: &Counts) {
    let cpu = cpu(3);
    let (done, wait) = mpsc::channel();
    let (cancels, over): ([AtomicBool; THREADS], _) = (Default::default(), AtomicBool::new(false));
    let (cancels, over) = (&cancels, &over);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|i| {
                let (cpu, done) = (cpu.clone(), done.clone());
                scope.spawn(move || {
                    worker(number * 100 + i as u64, &models[i % models.len()], &cpu, &cancels[i], counts);
                    let _ = done.send(());
                })
            })
            .collect();
        drop(done);
        scope.spawn(move || {
            let mut dice = Dice(number + 77);
            while !over.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(50 + dice.below(400) as u64));
                cancels[dice.below(THREADS)].store(true, Relaxed);
            }
        });
        for _ in 0..THREADS {
            // A worker that panics is heard of too: its sender is gone.
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("round {number} hangs");
                std::process::abort();
            }
        }
        over.store(true, Relaxed);
        let failed = workers.into_iter().filter_map(|worker| worker.join().err()).count();
        assert_eq!(failed, 0, "round {number}");
    });
}

#[test]
fn eight_sessions_on_four_threads() {
    let rounds = std::env::var("DOGE_SOAK").map_or(2, |n| n.parse().expect("DOGE_SOAK is a number"));
    let models = [
        model(config(|c| c.keep_window_size = 30), false, Dtype::F32),
        model(config(|c| c.keep_window_size = 9), true, Dtype::Bf16),
        model(config(|c| (moe(c), c.keep_window_size = 40).0), false, Dtype::F32),
        model(config(|c| (c.sliding_window, c.keep_window_size) = (Some(20), 7)), false, Dtype::Int8),
    ];
    let counts = Counts::default();
    let mut in_use = Vec::with_capacity(rounds as usize);
    for number in 0..rounds {
        round(number, &models, &counts);
        in_use.push(IN_USE.load(Relaxed));
    }
    let Counts { tokens, cancelled, forked, saved, refused, batched } = &counts;
    println!(
        "{rounds} rounds, {} sessions: {tokens:?} tokens, {cancelled:?} cancellations, {forked:?} forks, {saved:?} saved and loaded, \
         {refused:?} bad requests, {batched:?} steps taken together; bytes in use after each round: {in_use:?}",
        2 * THREADS as u64 * rounds
    );
    assert!([tokens, cancelled, forked, saved, refused, batched].iter().all(|count| count.load(Relaxed) > 0));
    // The first round fills what stays for good.
    let grown = in_use[in_use.len() - 1] - in_use[0];
    assert!(grown <= 1024, "{grown} bytes more in use after {rounds} rounds: {in_use:?}");
}
