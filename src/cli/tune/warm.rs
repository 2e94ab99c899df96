//! Load beside measurements: a GPU that waits for the host lowers its clock, which makes the next measurement wrong.

use super::super::Failure;
use super::super::harness::subject::Subject;
use super::super::harness::{Prepared, Sampling, calls};
use crate::runtime::{DeviceInfo, Options, VkContext};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one piece of load is, in nanoseconds.
const PIECE_NS: u64 = 4_000_000;

/// A thread that keeps the device busy while nobody measures.
pub(super) struct Warm {
    turn: Arc<Mutex<()>>,
    is_wanted: Arc<AtomicBool>,
    is_done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Warm {
    /// # Errors
    /// The device fails.
    pub(super) fn new(info: &DeviceInfo) -> Result<Warm, Failure> {
        let subject = Subject::new("matmul", "f32", vec![1024, 1024, 1024], false).map_err(Failure::usage)?;
        let target = info.target.clone();
        let built = subject.build(&target)?;
        let lists = vec![calls(&built, &target, None)?];
        let sampling = Sampling { rotated_bytes: 1, ns: PIECE_NS, most: 64 };
        let prepared = Prepared::new(&subject, built, &lists, &target, sampling, None)?;
        // A queue of its own.
        let context = VkContext::open(info.index, &target.features, &Options::from_env())?;
        let mut executor = prepared.load(&context)?;
        let (turn, is_wanted, is_done) = (Arc::new(Mutex::new(())), Arc::default(), Arc::default());
        let (own_turn, wanted, done): (_, Arc<AtomicBool>, Arc<AtomicBool>) =
            (Arc::clone(&turn), Arc::clone(&is_wanted), Arc::clone(&is_done));
        let work = move || {
            while !done.load(Ordering::Acquire) {
                if wanted.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                }
                let _turn = own_turn.lock().unwrap_or_else(PoisonError::into_inner);
                if prepared.sample(&mut executor, 0).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().spawn(work).map_err(|e| Failure::host(format!("threads: {e}")))?;
        Ok(Warm { turn, is_wanted, is_done, thread: Some(thread) })
    }

    /// The device for oneself, until what this gives is dropped.
    pub(super) fn alone(&self) -> Alone<'_> {
        self.is_wanted.store(true, Ordering::Release);
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Alone { is_wanted: &self.is_wanted, _turn: turn }
    }
}

/// Nobody else uses the device.
pub(super) struct Alone<'a> {
    is_wanted: &'a AtomicBool,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Release);
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends by itself, whatever became of it.
            let _ = thread.join();
        }
    }
}
