//! What a profiled run notes of itself: spans of the host by the host's clock, dispatches by the device's, on one time
//! axis.
//!
//! The two clocks have nothing in common but that no dispatch starts before the host submitted it. The device's times
//! are moved by one amount, the least for which that holds of every submission of the run; so lengths and distances on
//! the device are its own.

use super::segment::Recorded;
use super::vk::VkContext;
use crate::program::profile::{Span, Track};
use std::time::{Duration, Instant};

pub(super) struct Timeline {
    start: Instant,
    /// When what is going on began.
    since: Instant,
    spans: Vec<Span>,
    /// Dispatches, and when they began in milliseconds of the device's clock.
    dispatches: Vec<(Span, f64)>,
    /// The first timestamp of the run.
    origin: Option<u64>,
    /// Milliseconds from the device's origin to the host's, the most that a submission asks.
    shift_ms: f64,
}

impl Timeline {
    pub(super) fn new() -> Timeline {
        let start = Instant::now();
        let (spans, dispatches) = (Vec::new(), Vec::new());
        Timeline { start, since: start, spans, dispatches, origin: None, shift_ms: 0.0 }
    }

    /// The host has done this since what it did before.
    pub(super) fn host(&mut self, what: &str) {
        self.add(Track::Host, what, "");
    }

    /// The host has computed a node.
    pub(super) fn node(&mut self, node: &str) {
        self.add(Track::Node, node, "host");
    }

    fn add(&mut self, track: Track, name: &str, kernel: &str) {
        let now = Instant::now();
        self.spans.push(Span {
            track,
            name: name.to_owned(),
            kernel: kernel.to_owned(),
            start: self.since,
            time: now - self.since,
        });
        self.since = now;
    }

    /// The device has run these dispatches, with a timestamp before the first and after each.
    pub(super) fn segment<'a>(
        &mut self,
        dispatches: impl Iterator<Item = &'a Recorded>,
        context: &VkContext,
        ticks: &[u64],
    ) {
        let Some(&first) = ticks.first() else { return };
        let origin = *self.origin.get_or_insert(first);
        let at = |tick| context.ms(origin, tick);
        let submitted_ms = (self.since - self.start).as_secs_f64() * 1e3;
        self.shift_ms = if self.dispatches.is_empty() {
            submitted_ms - at(first)
        } else {
            self.shift_ms.max(submitted_ms - at(first))
        };
        for (dispatch, pair) in dispatches.zip(ticks.windows(2)) {
            let (name, kernel) = (dispatch.node.clone(), dispatch.kernel.clone());
            let time = Duration::from_secs_f64(context.ms(pair[0], pair[1]) / 1e3);
            self.dispatches.push((Span { track: Track::Device, name, kernel, start: self.start, time }, at(pair[0])));
        }
        self.host(&format!("wait for {} dispatches", ticks.len() - 1));
    }

    /// Everything in order of its beginning.
    pub(super) fn finish(self) -> Vec<Span> {
        let mut spans = self.spans;
        let (start, shift_ms) = (self.start, self.shift_ms);
        spans.extend(self.dispatches.into_iter().map(|(span, ms)| {
            let after = Duration::try_from_secs_f64((ms + shift_ms) / 1e3).unwrap_or_default();
            Span { start: start + after, ..span }
        }));
        spans.sort_by_key(|span| span.start);
        spans
    }
}
