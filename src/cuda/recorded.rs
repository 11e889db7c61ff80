//! Launches recorded once as a graph, replayed, and timed by the device's own clock.

use cudarc::driver::{sys, CudaGraph};

use super::device::{failed, Device};
use crate::{Error, Result};

/// Several calls of a job in one graph, and the job, whose buffers the graph names.
pub struct Recorded<J> {
    // Dropped before the job.
    graph: Replayed,
    job: J,
}

/// A graph, and the device that runs it.
struct Replayed {
    graph: CudaGraph,
    device: Device,
}

impl<J> Recorded<J> {
    /// Records what `call(job, i)` launches for each `i` below `calls`. It must have been called before: a recorded launch has
    /// not run.
    ///
    /// # Errors
    /// Those of `call`; [`Error::Device`].
    pub fn new(device: &Device, mut job: J, calls: usize, call: fn(&mut J, usize) -> Result<()>) -> Result<Self> {
        let graph = device.record(|| (0..calls).try_for_each(|i| call(&mut job, i)))?;
        Ok(Recorded { graph: Replayed { graph, device: device.clone() }, job })
    }

    /// Seconds of `replays` replays, between two events around them.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn seconds(&mut self, replays: usize) -> Result<f64> {
        let Replayed { graph, device } = &self.graph;
        device.seconds(|| {
            let replay = |_| graph.launch().map_err(failed("replaying a graph"));
            (0..replays).try_for_each(replay)
        })
    }

    /// The job, when nothing runs it any more.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn into_job(self) -> Result<J> {
        self.graph.device.synchronize()?;
        Ok(self.job)
    }
}

impl Drop for Replayed {
    /// Buffers are freed in the stream's order; a graph must not be running when it goes.
    fn drop(&mut self) {
        let _ = self.device.synchronize();
    }
}

impl Device {
    /// What `work` launches, as a graph; nothing of it has run. Whoever drops the graph sees to it that it is not running.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Device`].
    pub(super) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream().begin_capture(mode).map_err(failed("beginning a graph"))?;
        let recorded = work();
        // Also after an error: the stream must leave the capture.
        let graph = self.stream().end_capture(sys::CUgraphInstantiate_flags(0)).map_err(failed("ending a graph"));
        if graph.is_err() {
            self.leave_capture();
        }
        recorded?;
        let empty = || Error::Device { what: "ending a graph", why: "the driver gave none".into() };
        graph?.ok_or_else(empty)
    }

    /// Ends a capture that is still under way: the bindings may fail before they ask the driver to, and nothing would ever run in
    /// the stream again.
    fn leave_capture(&self) {
        let (stream, mut status, mut graph) =
            (self.stream().cu_stream(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE, std::ptr::null_mut());
        // SAFETY: the stream lives as long as `self`, and its context is this thread's since the capture began; a graph that the
        // driver gives is nobody else's.
        unsafe {
            let asked = sys::cuStreamIsCapturing(stream, &mut status);
            if asked != sys::CUresult::CUDA_SUCCESS || status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
                return;
            }
            if sys::cuStreamEndCapture(stream, &mut graph) == sys::CUresult::CUDA_SUCCESS && !graph.is_null() {
                let _ = sys::cuGraphDestroy(graph); // the caller has the error that matters
            }
        }
    }

    /// Seconds that the device takes for what `work` gives it.
    pub(super) fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let record = || self.stream().record_event(timed).map_err(failed("recording an event"));
        let begin = record()?;
        work()?;
        let end = record()?;
        begin.elapsed_ms(&end).map(|ms| f64::from(ms) / 1e3).map_err(failed("timing"))
    }
}
