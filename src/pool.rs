//! The thread pool: persistent workers that spin briefly, then sleep; chunks handed out from a shared counter, or from one
//! counter for each home of them.
//!
//! A pool belongs to whoever made it; there is no global one. [`Pool::run`] calls a closure once for each chunk number,
//! on the calling thread and on every worker that is awake in time. A worker that is late (a slow core, a busy
//! neighbour) holds nobody up: it takes fewer chunks, or none.
//!
//! The whole protocol is one word, `state` = (job number, chunks left to claim). A thread reads the word, reads the job's
//! fields, and claims a chunk by a compare-exchange that lowers the word by one. If that succeeds, the job is still the
//! one whose fields were read: fields are overwritten only after every chunk of the job has been claimed *and* finished,
//! while the word says that nothing is left; the new word, with the next job number, is written after them.

use std::{
    panic::{catch_unwind, resume_unwind, AssertUnwindSafe},
    sync::PoisonError,
};

// Under `--cfg loom` the same code runs on loom's types, which try every order in which threads can meet.
#[cfg(loom)]
use loom::{
    hint::spin_loop,
    sync::{
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*},
        Arc, Condvar, Mutex,
    },
    thread::{yield_now, Builder, JoinHandle},
};
#[cfg(not(loom))]
use std::{
    hint::spin_loop,
    sync::{
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*},
        Arc, Condvar, Mutex,
    },
    thread::{yield_now, Builder, JoinHandle},
};

use crate::{Error, Result};

/// Low bits of the state word that hold the chunks left to claim; the rest is the job number.
const CHUNK_BITS: u32 = 24;
const CHUNK_MASK: u64 = (1 << CHUNK_BITS) - 1;
/// Looks at the state word before a worker goes to sleep: some 30 µs, more than the gap between two phases of a token.
const SPINS_BEFORE_SLEEP: u32 = if cfg!(loom) { 0 } else { 1 << 12 };
/// Looks before the caller lets somebody else run, who may be the one it waits for.
const SPINS_BEFORE_YIELD: u32 = if cfg!(loom) { 0 } else { 1 << 14 };
/// More threads than this is a typing error.
pub const MAX_THREADS: usize = 1024;

/// Calls a job's closure: `(closure, chunk, thread)`.
type Call = unsafe fn(*const (), usize, usize);

struct Shared {
    /// (job number << CHUNK_BITS) | chunks left to claim.
    state: AtomicU64,
    /// All chunks of the job. This and the next two are written only between two jobs.
    chunks: AtomicUsize,
    closure: AtomicPtr<()>,
    call: AtomicPtr<()>,
    /// Chunks finished.
    done: AtomicUsize,
    panicked: AtomicBool,
    /// Workers asleep, or about to be.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

impl Shared {
    /// Claims and runs chunks of the current job until none is left to claim; returns that job's number.
    fn work(&self, thread: usize) -> u64 {
        loop {
            let state = self.state.load(Acquire);
            let left = (state & CHUNK_MASK) as usize;
            if left == 0 {
                return state >> CHUNK_BITS;
            }
            let (chunks, closure, call) = (self.chunks.load(Relaxed), self.closure.load(Relaxed), self.call.load(Relaxed));
            if self.state.compare_exchange_weak(state, state - 1, AcqRel, Relaxed).is_err() {
                spin_loop();
                continue;
            }
            let chunk = chunks - left;
            // SAFETY: the chunk was claimed, so the job is not finished: `Pool::run` still waits for it, and keeps the
            // closure alive. `call` was stored from a `Call` together with that closure.
            let run = || unsafe { std::mem::transmute::<*mut (), Call>(call)(closure, chunk, thread) };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                // To drop what was thrown could throw once more, and the chunk would never be counted.
                std::mem::forget(payload);
                self.panicked.store(true, Relaxed);
            }
            self.done.fetch_add(1, Release);
        }
    }

    fn worker(&self, thread: usize) {
        let mut seen = 0; // number of the last job this worker looked at
        while !self.stop.load(Acquire) {
            let mut spins = 0;
            while self.state.load(Acquire) >> CHUNK_BITS == seen && spins < SPINS_BEFORE_SLEEP {
                spin_loop();
                spins += 1;
            }
            if self.state.load(Acquire) >> CHUNK_BITS == seen {
                let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
                // Announced before the last look, while `run` publishes before it looks for sleepers (both SeqCst): one
                // of the two sees the other.
                self.sleepers.fetch_add(1, SeqCst);
                while self.state.load(SeqCst) >> CHUNK_BITS == seen && !self.stop.load(SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, SeqCst);
            }
            seen = self.work(thread);
        }
    }
}

/// A pool of `threads` threads, the calling one included. Dropping it ends and joins its workers.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
///
/// let (pool, sum) = (doge_engine::pool::Pool::new(2)?, AtomicUsize::new(0));
/// pool.run(10, |chunk, _thread| _ = sum.fetch_add(chunk, Relaxed));
/// assert_eq!(sum.into_inner(), 45);
/// # Ok::<(), doge_engine::Error>(())
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time; sessions that share a pool queue here.
    turn: Mutex<()>,
    /// One for each thread.
    homes: Vec<Home>,
}

/// Pieces of a home that have been claimed in this job, and some claims in vain. A cache line of its own (or the two that come
/// together): its thread writes it for each piece.
#[repr(align(128))]
struct Home(AtomicUsize);

impl Pool {
    /// A pool of `threads` threads; 1 starts none.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if `threads` is 0 or beyond reason, or if the system refuses to start one.
    pub fn new(threads: usize) -> Result<Pool> {
        let bad = |why: String| Error::BadArgument { what: "threads", why };
        if threads == 0 || threads > MAX_THREADS {
            return Err(bad(format!("{threads} is not between 1 and {MAX_THREADS}")));
        }
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            chunks: AtomicUsize::new(0),
            closure: AtomicPtr::new(std::ptr::null_mut()),
            call: AtomicPtr::new(std::ptr::null_mut()),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let homes = (0..threads).map(|_| Home(AtomicUsize::new(0))).collect();
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads - 1), turn: Mutex::new(()), homes };
        for thread in 1..threads {
            let shared = pool.shared.clone();
            let worker = Builder::new()
                .name(format!("doge-{thread}"))
                .spawn(move || shared.worker(thread))
                .map_err(|e| bad(format!("cannot start thread {thread}: {e}")))?; // the drop of `pool` ends those started
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads of the pool, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// How many threads this process may use: the smaller of the calling thread's CPU affinity and the cgroup quota, v1 or
    /// v2, its own or a parent's, in whole CPUs, rounded down but never to none.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
    }

    /// Calls `f(chunk, thread)` once for each chunk in `0..chunks`, and returns when all are finished. `thread` is below
    /// [`Pool::threads`] and no two calls that run at once share it. Must not be called from inside `f`.
    ///
    /// A panic in `f` is passed on, after the other chunks have finished.
    ///
    /// In a job of microseconds it counts that `f` owns what it captures: that lies in one piece then, while a worker reads
    /// through references one cache line of the caller after another, each some 100 ns away.
    pub fn run<F: Fn(usize, usize) + Sync>(&self, chunks: usize, f: F) {
        let inline = self.workers.is_empty() || chunks <= 1 || chunks as u64 > CHUNK_MASK;
        if inline {
            return (0..chunks).for_each(|chunk| f(chunk, 0));
        }
        self.run_after(|| (), chunks, f);
    }

    /// Calls `f(home, piece, thread)` once for each of the `pieces` of each home in `0..homes`; otherwise as [`Pool::run`].
    /// Each thread takes the pieces of its own home in order, the same home in every job, and then those that others have
    /// left. So what a thread wrote in one job it reads in the next, from its own core's cache.
    ///
    /// A panic in `f` is passed on; pieces that nobody had begun may be left out then.
    pub(crate) fn run_at_home<F: Fn(usize, usize, usize) + Sync>(&self, homes: usize, pieces: usize, f: F) {
        // `state` is counter enough for one home.
        let Some(claims) = self.homes.get(..homes).filter(|_| homes > 1) else {
            return self.run(homes * pieces, move |i, thread| f(i / pieces, i % pieces, thread));
        };
        let (begin, threads) = (|| claims.iter().for_each(|home| home.0.store(0, Relaxed)), self.threads());
        // A chunk is a round through all homes, until nothing is left to claim.
        self.run_after(begin, threads, |_, thread| {
            for (home, claimed) in claims.iter().enumerate().cycle().skip(thread * homes / threads).take(homes) {
                while claimed.0.load(Relaxed) < pieces {
                    let piece = claimed.0.fetch_add(1, Relaxed);
                    if piece < pieces {
                        f(home, piece, thread);
                    }
                }
            }
        });
    }

    /// A job for several threads, and what to do before it, once no other runs.
    fn run_after<F: Fn(usize, usize) + Sync>(&self, begin: impl FnOnce(), chunks: usize, f: F) {
        /// # Safety
        /// `closure` points to a live `F`.
        unsafe fn call<F: Fn(usize, usize) + Sync>(closure: *const (), chunk: usize, thread: usize) {
            // SAFETY: see `Shared::work`.
            unsafe { (*closure.cast::<F>())(chunk, thread) }
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        begin();
        let shared = &*self.shared;
        let job = (shared.state.load(Relaxed) >> CHUNK_BITS) + 1;
        shared.done.store(0, Relaxed);
        shared.chunks.store(chunks, Relaxed);
        shared.closure.store((&raw const f).cast_mut().cast(), Relaxed);
        shared.call.store(call::<F> as Call as *mut (), Relaxed);
        shared.state.store(job << CHUNK_BITS | chunks as u64, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            let _guard = shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        shared.work(0);
        let mut spins = 0u32;
        while shared.done.load(Acquire) < chunks {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                spin_loop();
            } else {
                yield_now();
            }
        }
        // Not a swap each time: that takes a line from the workers which they want for the next job (50 to 80 ns a job).
        let panicked = shared.panicked.load(Relaxed) && shared.panicked.swap(false, Relaxed);
        drop(turn);
        if panicked {
            resume_unwind(Box::new("a chunk of a parallel loop panicked"));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _guard = self.shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.stop.store(true, SeqCst);
        }
        // A new job number with nothing to claim ends the spinning.
        self.shared.state.fetch_add(1 << CHUNK_BITS, SeqCst);
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its chunks throw, so this cannot fail.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// Every order of steps that two or three threads can take, up to a bound on how often one is preempted (tests/loom).
#[cfg(all(test, loom))]
mod every_order {
    use super::*;

    fn check(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.check(body);
    }

    /// Every chunk of every job once, and what the chunks wrote is seen after the job; then the pool ends.
    fn jobs_run(threads: usize, jobs: &[usize]) {
        let pool = Pool::new(threads).unwrap();
        for &chunks in jobs {
            let hits: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(chunks, |chunk, _| _ = hits[chunk].fetch_add(1, Relaxed));
            assert!(hits.iter().all(|hit| hit.load(Relaxed) == 1));
        }
    }

    #[test]
    fn two_threads() {
        check(3, || jobs_run(2, &[3]));
        check(2, || jobs_run(2, &[2, 3]));
    }

    #[test]
    fn three_threads() {
        check(1, || jobs_run(3, &[2]));
    }

    /// Every piece of every home once, in two jobs: the counters of the first do not leak into the second.
    #[test]
    fn pieces_at_home() {
        check(2, || {
            let pool = Pool::new(2).unwrap();
            for pieces in [1, 2] {
                let hits: Vec<AtomicUsize> = (0..2 * pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run_at_home(2, pieces, |home, piece, _| _ = hits[home * pieces + piece].fetch_add(1, Relaxed));
                assert!(hits.iter().all(|hit| hit.load(Relaxed) == 1));
            }
        });
    }

    #[test]
    fn two_callers_share_a_pool() {
        check(2, || {
            let pool = Arc::new(Pool::new(2).unwrap());
            let other = pool.clone();
            let caller = loom::thread::spawn(move || other.run(2, |_, _| ()));
            pool.run(2, |_, _| ());
            caller.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Every chunk exactly once, for job after job, also where threads outnumber cores and workers fall asleep between.
    #[test]
    fn each_chunk_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..2000usize {
                let chunks = round % 37;
                let hits: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |chunk, thread| {
                    assert!(thread < threads);
                    hits[chunk].fetch_add(1, Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 1), "threads {threads}, round {round}");
                if round % 500 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
    }

    /// Every piece exactly once, whatever the number of homes.
    #[test]
    fn each_piece_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..2000usize {
                let (homes, pieces) = (round % threads + 1, round % 7);
                let hits: Vec<AtomicUsize> = (0..homes * pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run_at_home(homes, pieces, |home, piece, thread| {
                    assert!(home < homes && piece < pieces && thread < threads);
                    hits[home * pieces + piece].fetch_add(1, Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 1), "threads {threads}, round {round}");
            }
        }
    }

    /// A thread begins at home: two that wait for each other in their first piece are in different homes.
    #[test]
    fn threads_begin_at_home() {
        let pool = Pool::new(2).unwrap();
        let (met, barrier) = ([const { AtomicUsize::new(0) }; 2], std::sync::Barrier::new(2));
        for _ in 0..100 {
            let first = [const { AtomicBool::new(true) }; 2]; // of each thread
            pool.run_at_home(2, 4, |home, piece, thread| {
                if first[thread].swap(false, Relaxed) {
                    assert_eq!((home, piece), (thread, 0));
                    met[thread].fetch_add(1, Relaxed);
                    barrier.wait();
                }
            });
        }
        assert_eq!(met.map(AtomicUsize::into_inner), [100, 100]);
    }

    #[test]
    fn sessions_may_share_a_pool() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..300).for_each(|_| pool.run(11, |chunk, _| _ = sum.fetch_add(chunk, Relaxed))));
            }
        });
        assert_eq!(sum.load(Relaxed), 4 * 300 * 55);
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        let thrown = catch_unwind(AssertUnwindSafe(|| pool.run(8, |chunk, _| assert_ne!(chunk, 5))));
        assert!(thrown.is_err());
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("thrown by what was thrown");
            }
        }
        let thrown = catch_unwind(AssertUnwindSafe(|| pool.run(8, |_, _| std::panic::panic_any(Bomb))));
        assert!(thrown.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(8, |_, _| _ = ran.fetch_add(1, Relaxed));
        assert_eq!(ran.load(Relaxed), 8);
    }

    #[test]
    fn absurd_thread_counts_are_refused() {
        assert!(Pool::new(0).is_err());
        assert!(Pool::new(usize::MAX).is_err());
    }
}
