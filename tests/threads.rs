//! How many threads there are, and that several engines in one process get along.
#![cfg(all(target_os = "linux", feature = "cli"))]

use std::{
    hint::black_box,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use doge_engine::{
    model::{family, Checkpoint, Model, Session, SessionOptions},
    ops::Cpu,
    pool::Pool,
    Dtype, Kernels,
};
use rustix::{
    thread::{sched_getaffinity, sched_setaffinity, CpuSet},
    time::{clock_gettime, ClockId},
};

/// What is timed here has the process for itself.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn affinity_is_respected() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let body = || {
        let all = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).unwrap();
        assert_eq!(Pool::default_threads(), 1);
        // Threads that were asked for all the same stay where their maker may be.
        let allowed = Mutex::new(Vec::new());
        Pool::new(3).unwrap().run(50, |_, thread| {
            std::thread::sleep(Duration::from_micros(200));
            allowed.lock().unwrap().push((thread, sched_getaffinity(None).unwrap().count()));
        });
        let allowed = allowed.into_inner().unwrap();
        assert!(allowed.iter().any(|&(thread, _)| thread > 0), "no worker ever ran");
        assert!(allowed.iter().all(|&(_, cpus)| cpus == 1), "{allowed:?}");
    };
    std::thread::spawn(body).join().unwrap(); // affinity is a thread's own
}

/// In namespaces of its own, where it may lay files over /sys/fs/cgroup. The quota is a parent's, and 1.5 CPUs.
#[test]
#[ignore = "needs unprivileged user namespaces"]
fn a_cgroup_quota_is_respected() {
    const V1: &str = "mkdir -p /sys/fs/cgroup/cpu/a/b; cd /sys/fs/cgroup/cpu/a
        echo 150000 >cpu.cfs_quota_us; echo 100000 >cpu.cfs_period_us
        echo -1 >b/cpu.cfs_quota_us; echo 100000 >b/cpu.cfs_period_us
        printf '2:cpu,cpuacct:/a/b\\n0::/\\n' >/sys/fs/cgroup/mine";
    const V2: &str = "mkdir -p /sys/fs/cgroup/a/b; cd /sys/fs/cgroup/a; touch b/cgroup.controllers
        echo 150000 100000 >cpu.max; echo max 100000 >b/cpu.max
        echo 0::/a/b >/sys/fs/cgroup/mine";
    for (version, files) in [("v1", V1), ("v2", V2)] {
        let script = format!(
            "set -e; mount -t tmpfs none /sys/fs/cgroup\n{files}\nmount --bind /sys/fs/cgroup/mine /proc/$$/cgroup; exec {} doctor --json",
            env!("CARGO_BIN_EXE_doge")
        );
        let output = Command::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["threads"]["default"], 1, "{version}: {report}");
    }
}

#[test]
fn a_prompt_on_threads_of_its_own_has_the_same_bits() {
    let (mut config, variant) = family::preset("20m-moe").unwrap();
    (config.vocab_size, config.num_hidden_layers) = (512, 3);
    let model = Model::new(Checkpoint::random(config, variant, Dtype::F32, 7).unwrap());
    let ids: Vec<u32> = (0..90).map(|i| i * 37 % 512).collect();
    let logits = |cpu: Cpu| -> Vec<u32> {
        let options = SessionOptions::default().block(16);
        let mut session = Session::new(&model, &cpu, options).unwrap();
        // A prompt whose last block is one token, single tokens, a prompt again.
        let calls = [&ids[..65], &ids[65..66], &ids[66..67], &ids[67..]];
        calls.into_iter().flat_map(|ids| session.feed(ids).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect()
    };
    let pool = |threads| Arc::new(Pool::new(threads).unwrap());
    let cpu = |threads| Cpu::new(Kernels::detect().unwrap(), pool(threads));
    let one = logits(cpu(1));
    for (token, block) in [(1, 3), (8, 1), (2, 8)] {
        let cpu = cpu(token).with_block_pool(pool(block));
        assert_eq!((cpu.for_rows(1).threads(), cpu.for_rows(2).threads()), (token, block));
        assert!(logits(cpu) == one, "{token} threads for a token, {block} for a block");
    }
}

/// Jobs as short as the phases of a small model's token: a thread that had to wait for another engine's in each of them
/// would wait for the scheduler, some thousand times as long.
#[test]
fn two_engines_at_once_take_no_longer_than_one_after_another() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = |pool: &Pool| {
        for _ in 0..3000 {
            pool.run(8, |chunk, _| _ = black_box((0..800u64).fold(chunk as u64, |x, i| black_box(x.rotate_left(5) ^ i))));
        }
    };
    let threads = Pool::default_threads();
    let (mut alone, mut at_once) = (f64::INFINITY, f64::INFINITY);
    // The fastest of some: what else happens on the machine only ever slows one down.
    for _ in 0..8 {
        let start = Instant::now();
        (0..2).for_each(|_| engine(&Pool::new(threads).unwrap()));
        alone = alone.min(start.elapsed().as_secs_f64());

        let pools = [Pool::new(threads).unwrap(), Pool::new(threads).unwrap()];
        let start = Instant::now();
        std::thread::scope(|scope| pools.iter().for_each(|pool| _ = scope.spawn(|| engine(pool))));
        at_once = at_once.min(start.elapsed().as_secs_f64());
    }
    assert!(at_once < 2.0 * alone, "at once {at_once} s, one after another {alone} s");
}

#[test]
fn an_idle_engine_uses_no_cpu() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let pools: Vec<Pool> = (0..4).map(|_| Pool::new(3).unwrap()).collect();
    pools.iter().for_each(|pool| pool.run(9, |chunk, _| _ = black_box(chunk)));
    std::thread::sleep(Duration::from_millis(50)); // until all sleep
    let seconds = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    // The quietest of some: other tests of this file may run, and the workers may have got no CPU to fall asleep on.
    let quietest = (0..20).fold(f64::INFINITY, |least: f64, _| {
        let start = seconds();
        std::thread::sleep(Duration::from_millis(50));
        least.min(seconds() - start)
    });
    assert!(quietest < 0.005, "{quietest} s of CPU in 0.05 s of sleep");
}
