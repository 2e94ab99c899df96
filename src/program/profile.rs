//! When everything of a run happened.

use std::time::{Duration, Instant};

/// What did a span's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Track {
    /// The device: a dispatch, by its own timestamps.
    Device,
    /// The host: a node, on the CPU reference.
    Node,
    /// The host: copies, and waiting for the device.
    Host,
}

/// A stretch of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What did it.
    pub track: Track,
    /// The node; on [`Track::Host`] what was done.
    pub name: String,
    /// The kernel, or the operator of a node on the host; empty on [`Track::Host`].
    pub kernel: String,
    /// When it began, by the host's clock.
    pub start: Instant,
    /// How long it took. That of a dispatch is the device's own.
    pub time: Duration,
}

/// What a run asked of the queue. One without host steps, whose inputs and outputs fit in slots of the staging ring (4
/// MiB at most), is one submission and one wait, and records nothing where sizes are those of a run before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Calls of `vkQueueSubmit`.
    pub submits: u64,
    /// Times that the host waited for a submission.
    pub waits: u64,
    /// Lists of commands that were recorded.
    pub recorded: u64,
}

/// What one kernel, or one operator on the host, takes of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Its name, as in [`Span::kernel`].
    pub kernel: String,
    /// Where it runs.
    pub track: Track,
    /// How often.
    pub calls: usize,
    /// How long, all calls together.
    pub time: Duration,
    /// Its part of the time of all kernels, from 0 to 1.
    pub share: f64,
}

/// The time of each kernel, the longest first.
pub fn by_kernel(spans: &[Span]) -> Vec<KernelTime> {
    let mut kernels: std::collections::BTreeMap<(Track, &str), (usize, Duration)> = Default::default();
    for span in spans.iter().filter(|span| span.track != Track::Host) {
        let (calls, time) = kernels.entry((span.track, span.kernel.as_str())).or_default();
        *calls += 1;
        *time += span.time;
    }
    let all: Duration = kernels.values().map(|(_, time)| *time).sum();
    let share = |time: Duration| if all.is_zero() { 0.0 } else { time.as_secs_f64() / all.as_secs_f64() };
    let mut list: Vec<KernelTime> = kernels
        .into_iter()
        .map(|((track, kernel), (calls, time))| {
            let kernel = kernel.to_owned();
            KernelTime { kernel, track, calls, time, share: share(time) }
        })
        .collect();
    list.sort_by_key(|kernel| std::cmp::Reverse(kernel.time));
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_add_up_their_calls_and_waiting_is_none() {
        let span = |track, kernel: &str, ms| Span {
            track,
            name: String::new(),
            kernel: kernel.to_owned(),
            start: Instant::now(),
            time: Duration::from_millis(ms),
        };
        let spans = [
            span(Track::Device, "matvec", 1),
            span(Track::Host, "", 100),
            span(Track::Node, "nonzero", 6),
            span(Track::Device, "matvec", 2),
            span(Track::Device, "softmax", 1),
        ];
        let lines: Vec<_> =
            by_kernel(&spans).into_iter().map(|k| (k.kernel, k.track, k.calls, k.time.as_millis(), k.share)).collect();
        assert_eq!(
            lines,
            [
                ("nonzero".to_owned(), Track::Node, 1, 6, 0.6),
                ("matvec".to_owned(), Track::Device, 2, 3, 0.3),
                ("softmax".to_owned(), Track::Device, 1, 1, 0.1)
            ]
        );
        assert_eq!(by_kernel(&[]), []);
    }
}
