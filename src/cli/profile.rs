//! Profiles: the trace of a run, and the time of each kernel.
//!
//! The trace is in the Trace Event Format of Chromium (JSON object form), which ui.perfetto.dev opens: complete events
//! (`ph: "X"`) with times in microseconds, one process with a thread for each track, metadata events (`ph: "M"`) that
//! name them.

use crate::program::profile::{KernelTime, Span, Track};
use serde_json::{Value, json};
use std::time::Instant;

/// What the command itself does around a run, on the host's track.
pub(super) struct Host {
    since: Instant,
    spans: Vec<Span>,
}

impl Host {
    pub(super) fn new(start: Instant) -> Host {
        Host { since: start, spans: Vec::new() }
    }

    /// This was done since the last thing that was.
    pub(super) fn did(&mut self, what: &str) {
        let now = Instant::now();
        let (name, kernel) = (what.to_owned(), String::new());
        self.spans.push(Span { track: Track::Host, name, kernel, start: self.since, time: now - self.since });
        self.since = now;
    }

    /// What was done until now is reported elsewhere.
    pub(super) fn skip(&mut self) {
        self.since = Instant::now();
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }
}

/// The trace of a run that began at `start`.
pub(super) fn trace(model: &str, device: &str, start: Instant, around: &[Span], run: &[Span]) -> Value {
    let thread = |track| match track {
        Track::Host => 1,
        Track::Node => 2,
        Track::Device => 3,
    };
    let mut events = vec![
        json!({"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": format!("nyxc run {model}")}}),
    ];
    for (track, name) in [(Track::Host, "host"), (Track::Node, "CPU reference"), (Track::Device, device)] {
        if track == Track::Host || run.iter().any(|span| span.track == track) {
            let tid = thread(track);
            events.push(json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}}));
            events.push(
                json!({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": tid, "args": {"sort_index": tid}}),
            );
        }
    }
    let mut spans: Vec<&Span> = around.iter().chain(run).collect();
    spans.sort_by_key(|span| span.start);
    for span in spans {
        let category = match span.track {
            Track::Host => "host",
            Track::Node => "node",
            Track::Device => "dispatch",
        };
        let mut event = json!({
            "ph": "X",
            "name": span.name,
            "cat": category,
            "pid": 1,
            "tid": thread(span.track),
            "ts": span.start.saturating_duration_since(start).as_nanos() as f64 / 1e3,
            "dur": span.time.as_nanos() as f64 / 1e3,
        });
        match span.track {
            Track::Host => {}
            Track::Node => event["args"] = json!({"operator": span.kernel}),
            Track::Device => event["args"] = json!({"kernel": span.kernel}),
        }
        events.push(event);
    }
    json!({"displayTimeUnit": "ms", "otherData": {"model": model, "device": device}, "traceEvents": events})
}

/// The time of each kernel, for programs.
pub(super) fn kernels_json(kernels: &[KernelTime]) -> Value {
    let one = |k: &KernelTime| {
        let place = if k.track == Track::Device { "device" } else { "host" };
        let ms = k.time.as_secs_f64() * 1e3;
        json!({"kernel": k.kernel, "where": place, "calls": k.calls, "total_ms": ms, "share": k.share})
    };
    kernels.iter().map(one).collect()
}

/// Kernels that are listed one by one.
const MAX_ROWS: usize = 20;

/// The time of each kernel, for people; nothing where there is none.
pub(super) fn table(kernels: &[KernelTime]) -> String {
    if kernels.is_empty() {
        return String::new();
    }
    let row = |ms: f64, share: f64, calls: usize, name: &str| {
        format!("  {ms:10.3} {:5.1} % {calls:6}  {name}\n", share * 100.0)
    };
    let mut text = String::from("    total ms   share  calls  kernel\n");
    for k in kernels.iter().take(MAX_ROWS) {
        let on_host = if k.track == Track::Node { " (host)" } else { "" };
        text += &row(k.time.as_secs_f64() * 1e3, k.share, k.calls, &format!("{}{on_host}", k.kernel));
    }
    let rest = kernels.get(MAX_ROWS..).unwrap_or_default();
    if !rest.is_empty() {
        let ms = rest.iter().map(|k| k.time.as_secs_f64() * 1e3).sum();
        let (share, calls) = (rest.iter().map(|k| k.share).sum(), rest.iter().map(|k| k.calls).sum());
        text += &row(ms, share, calls, &format!("{} others; --json has all", rest.len()));
    }
    text
}
