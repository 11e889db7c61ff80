//! What sessions of one model have each to itself, and what a stream does not order by itself. The emulator runs what a stream is
//! given late here, when somebody waits for it, as a GPU may.

use super::*;
use emulator::Request;

/// Until it is dropped: the next test may run on this thread.
struct Late;

impl Late {
    fn begin() -> Late {
        emulator::late(true);
        Late
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        emulator::late(false);
    }
}

/// Sessions on two threads, each of which records its graphs while the other one works.
#[test]
fn sessions_on_two_threads_do_not_meet() {
    let _alone = alone();
    let model = on_the_gpu(config(|c| c.keep_window_size = 11), true, Dtype::Bf16);
    let run = |first: u32| {
        emulator::schedule(0);
        let mut session = session(&model);
        let mut all = bits(session.feed(&prompt(9)).unwrap());
        all.extend(session.decode(first, 4, &[]).unwrap());
        let mut fork = session.fork().unwrap();
        all.extend(bits(session.feed(&[7]).unwrap()));
        all.extend(fork.decode(8, 2, &[]).unwrap());
        all.extend(bits(fork.feed(&[first]).unwrap()));
        all
    };
    let want = [5, 6].map(run);
    std::thread::scope(|scope| {
        for (i, want) in want.iter().enumerate() {
            let run = &run;
            scope.spawn(move || (0..15).for_each(|round| assert_eq!(&run(5 + i as u32), want, "thread {i}, round {round}")));
        }
    });
}

/// The places of the keys that queries see.
#[derive(Default)]
struct Places(Vec<Vec<u32>>);

impl Observer for Places {
    fn kept(&mut self, _: usize, _: usize, _: usize, mut keys: Vec<u32>) {
        keys.sort_unstable();
        self.0.push(keys);
    }
    fn wants_kept(&self) -> bool {
        true
    }
}

/// A session's logits after `next`, a run after it, and which keys a token after that sees.
fn says(session: &mut Session, next: &[u32]) -> (Vec<u32>, Vec<u32>, Vec<Vec<u32>>) {
    let (logits, mut places) = (bits(session.feed(next).unwrap()), Places::default());
    let run = session.decode(5, 3, &[]).unwrap();
    session.feed_observed(&[2], &mut places).unwrap();
    (logits, run, places.0)
}

/// A fork has the keys, and from then on its own.
#[test]
fn a_forked_session_goes_its_own_way() {
    let _alone = alone();
    let _late = Late::begin();
    for (v1, sliding_window) in [(true, None), (false, None), (true, Some(10))] {
        // More tokens than there are slots: what either is fed overwrites keys.
        let model = on_the_gpu(config(|c| (c.keep_window_size, c.sliding_window) = (7, sliding_window)), v1, Dtype::F32);
        let after_the_prompt = |mut session: Session, next: &[u32]| {
            session.feed(&prompt(12)).unwrap();
            says(&mut session, next)
        };
        let fed = |next: &[u32]| after_the_prompt(session(&model), next);
        let of_nothing = session(&model).fork().unwrap();
        assert_eq!(after_the_prompt(of_nothing, &[9]), fed(&[9]), "v1 {v1}, {sliding_window:?}: a fork of nothing");
        let mut one = session(&model);
        one.feed(&prompt(12)).unwrap();
        let (mut other, mut stays) = (one.fork().unwrap(), one.fork().unwrap());
        assert_eq!(says(&mut one, &[4, 5, 6]), fed(&[4, 5, 6]), "v1 {v1}, {sliding_window:?}");
        assert_eq!(says(&mut other, &[9]), fed(&[9]), "v1 {v1}, {sliding_window:?}: the fork");
        drop(one);
        assert_eq!(says(&mut stays, &[3, 3]), fed(&[3, 3]), "v1 {v1}, {sliding_window:?}: a fork that stays");
        assert_eq!((other.tokens(), stays.tokens()), (17, 18));
    }
}

/// Beyond the 256 tokens for which a session has room from the start; the fork while the keys are on their way.
#[test]
fn a_session_that_grows_has_all_its_keys_and_so_has_its_fork() {
    let _alone = alone();
    let _late = Late::begin();
    let ids = prompt(310);
    for v1 in [true, false] {
        let model = on_the_gpu(
            config(|c| {
                (c.hidden_size, c.head_dim, c.intermediate_size, c.num_hidden_layers) = (24, 6, 8, 2);
                c.keep_window_size = 400;
            }),
            v1,
            Dtype::F32,
        );
        let want = bits(session(&model).feed(&ids).unwrap());
        let mut one = Session::new(&model, &cpu(), SessionOptions::default().block(100)).unwrap();
        one.feed(&ids[..250]).unwrap();
        one.reserve(60).unwrap();
        let mut fork = one.fork().unwrap();
        assert_eq!(bits(one.feed(&ids[250..]).unwrap()), want, "v1 {v1}");
        assert_eq!(bits(fork.feed(&ids[250..]).unwrap()), want, "v1 {v1}: the fork");
    }
}

/// A capture that does not end at the first request is ended all the same: the session goes on.
#[test]
fn a_graph_that_fails_leaves_its_stream_usable() {
    let _alone = alone();
    let model = on_the_gpu(config(|_| ()), false, Dtype::F32);
    let mut session = session(&model);
    session.feed(&prompt(5)).unwrap();
    if emulator::refuse(Request::EndCapture) {
        let error = session.decode(3, 4, &[]).unwrap_err().to_string();
        assert!(error.contains("ending a graph"), "{error}");
        assert_eq!(session.decode(3, 4, &[]).unwrap().len(), 4);
    }
}

/// What a driver says while kernels are loaded is not taken for a kernel that is missing; no number is cut to that of another GPU.
#[test]
fn devices_that_do_not_open_say_why() {
    let _alone = alone();
    let _opened = emulator::device();
    if emulator::refuse(Request::GetFunction) {
        let error = doge_engine::cuda::Device::open(0).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("CUDA_ERROR_OUT_OF_MEMORY") && !error.contains("missing"), "{error}");
    }
    let error = doge_engine::cuda::Device::open(1 << 32).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("cuda:4294967296 cannot be used: there is no such GPU"), "{error}");
}
