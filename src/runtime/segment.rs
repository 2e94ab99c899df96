//! Dispatches that run without the host in between, and the commands recorded of them.

use super::RuntimeError;
use super::convert::Source;
use super::params::{Changing, Params, lost};
use super::vk::{Bound, Commands, Queries, Tally, VkContext};
use crate::program::{Dispatch, Port, Region, Sizes};
use std::sync::Arc;

/// Dispatches in one command buffer at most.
const MAX_RECORDED: usize = 2000;
/// Recordings that are kept: dispatches without workgroups are left out, and which those are depends on sizes.
const MAX_RECORDINGS: usize = 8;

/// A dispatch as commands have it.
pub(super) struct Recorded {
    pub(super) node: String,
    pub(super) kernel: String,
    bound: Bound,
    /// Whether a barrier precedes it.
    barrier: bool,
    /// Whether it shares the binding of its result with others, each of which writes elements of its own.
    shares: bool,
}

/// Dispatches between two host steps.
pub(super) struct Segment {
    dispatches: Vec<Recorded>,
    /// The one that was used last comes last.
    recordings: Vec<Recording>,
    /// Parameters and workgroups that depend on sizes.
    changing: Option<Changing>,
    /// The sizes for which those are written; `None` before the first run.
    at: Option<Sizes>,
    /// The dispatches that have no workgroups at these sizes.
    empty: Vec<bool>,
    /// What the host reads once the dispatches are done: operands of the host steps behind them, and outputs that those
    /// do not make.
    pub(super) wanted: Vec<Port>,
}

/// Commands of a segment.
pub(super) struct Recording {
    pub(super) commands: Commands,
    pub(super) queries: Option<Queries>,
    /// Whether each dispatch has a barrier before it and a timestamp after it.
    profiled: bool,
    /// The dispatches that are left out.
    empty: Vec<bool>,
}

impl Segment {
    /// Dispatches of a checked plan, each with what it binds and the name of its kernel.
    pub(super) fn new(dispatches: &[Dispatch], bound: Vec<(Bound, String)>, wanted: Vec<Port>) -> Segment {
        let changing = Changing::of(dispatches);
        let recorded = dispatches.iter().zip(bound).map(|(d, (bound, kernel))| Recorded {
            node: d.node.clone(),
            kernel,
            bound,
            barrier: d.barrier,
            shares: d.result_slice.is_some(),
        });
        let (recordings, empty) = (Vec::new(), vec![false; dispatches.len()]);
        Segment { dispatches: recorded.collect(), recordings, changing, at: None, empty, wanted }
    }

    /// Whether which dispatches are recorded depends on sizes.
    pub(super) fn changes(&self) -> bool {
        self.changing.is_some()
    }

    /// What has to be written so that parameters and workgroups are those of these sizes: nothing if they are. Nothing
    /// is recorded anew for it.
    ///
    /// # Errors
    /// A number is out of range.
    pub(super) fn resize<'a>(
        &mut self,
        params: &'a mut Params,
        sizes: &Sizes,
    ) -> Result<Vec<(Region, Source<'a>)>, RuntimeError> {
        match &self.changing {
            Some(changing) if self.at.as_ref() != Some(sizes) => {
                self.at = None;
                changing.follow(sizes, params, &mut self.empty).ok_or_else(|| lost(sizes))?;
                Ok(changing.uploads(params))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// What [`Segment::resize`] gave is on its way to the device.
    pub(super) fn resized(&mut self, sizes: &Sizes) {
        if self.changing.is_some() && self.at.is_none() {
            self.at = Some(sizes.clone());
        }
    }

    /// The dispatches that have workgroups.
    pub(super) fn present(&self) -> impl Iterator<Item = &Recorded> {
        self.dispatches.iter().zip(&self.empty).filter(|(_, empty)| !**empty).map(|(dispatch, _)| dispatch)
    }

    /// Commands of the dispatches that have workgroups, recorded where they are not yet.
    pub(super) fn recording(
        &mut self,
        context: &VkContext,
        tally: &Arc<Tally>,
        profiled: bool,
    ) -> Result<&mut Recording, RuntimeError> {
        let fits = |r: &Recording| r.profiled == profiled && r.empty == self.empty;
        match self.recordings.iter().position(fits) {
            Some(at) => self.recordings[at..].rotate_left(1),
            None => {
                let made = self.record(context, tally, profiled)?;
                if self.recordings.len() == MAX_RECORDINGS {
                    self.recordings.remove(0);
                }
                self.recordings.push(made);
            }
        }
        self.recordings.last_mut().ok_or_else(|| RuntimeError::Unsupported { what: "a segment of nothing".to_owned() })
    }

    fn record(&self, context: &VkContext, tally: &Arc<Tally>, profiled: bool) -> Result<Recording, RuntimeError> {
        let n = if profiled { self.present().count() + 1 } else { 2 };
        let queries = Queries::new(context, u32::try_from(n).unwrap_or(0))?;
        let mut commands = Commands::new(context, tally)?;
        commands.record(|recorder| {
            if let Some(queries) = &queries {
                recorder.reset(queries);
            }
            recorder.acquire();
            if let Some(queries) = &queries {
                recorder.timestamp(queries, 0);
            }
            let (mut n_recorded, mut barrier) = (0, false);
            for (dispatch, empty) in self.dispatches.iter().zip(&self.empty) {
                // What comes after a dispatch that is left out waits for what that would have waited for.
                barrier |= dispatch.barrier || profiled || (dispatch.shares && context.sees_bindings());
                if *empty {
                    continue;
                }
                if n_recorded > 0 && usize::is_multiple_of(n_recorded, MAX_RECORDED) {
                    recorder.split()?;
                }
                if std::mem::take(&mut barrier) {
                    recorder.barrier();
                }
                recorder.dispatch(&dispatch.bound);
                n_recorded += 1;
                if let Some(queries) = queries.as_ref().filter(|_| profiled) {
                    recorder.timestamp(queries, n_recorded as u32);
                }
            }
            if let Some(queries) = queries.as_ref().filter(|_| !profiled) {
                recorder.timestamp(queries, 1);
            }
            recorder.release();
            Ok(())
        })?;
        Ok(Recording { commands, queries, profiled, empty: self.empty.clone() })
    }
}
