//! One run of an entry: its sizes, what goes in, and its steps one after the other.

use super::RuntimeError;
use super::convert::{Source, device_bytes};
use super::executor::{HostFn, LoadedStep};
use super::fetch::{collect, outputs_of};
use super::memory::Memory;
use super::params::{Params, lost};
use super::pool::Pool;
use super::segment::Segment;
use super::tensor::{DeviceTensor, Given};
use super::timeline::Timeline;
use super::vk::{Buffer, Queries, Tally, VkContext};
use crate::ir::Tensor;
use crate::program::{Entry, HostStep, IndexCheck, Port, Region, SizeError, Sizes};
use crate::runtime::HostError;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the host knows of values on the device: their bytes there, by allocation and offset.
pub(super) type Known = BTreeMap<(u32, u64), Vec<u8>>;

/// Regions and what the host writes there.
pub(super) type Uploads<'r> = Vec<(Region, Source<'r>)>;

/// Regions and tensors of the device that are copied there.
pub(super) type Copies<'r> = Vec<(Region, &'r Buffer)>;

/// A run while it goes on.
pub(super) struct Run<'r> {
    pub entry: &'r Entry,
    /// Where dispatches note indices out of range.
    pub checks: &'r [(Region, IndexCheck)],
    pub memory: &'r mut Memory,
    pub params: &'r mut Params,
    pub pool: &'r Pool,
    pub tally: &'r Arc<Tally>,
    pub context: &'r VkContext,
    /// The sizes that are known so far.
    pub sizes: Sizes,
    pub known: Known,
    /// What happened when, where profiling is on.
    pub timeline: Option<Timeline>,
    /// Time of the dispatches so far; `None` where the queue has no timestamps.
    pub device_ms: Option<f64>,
}

impl<'r> Run<'r> {
    /// What the host writes of the inputs, and what is copied on the device. All are looked at, and none is written.
    pub fn inputs<'i>(&self, inputs: &'i [Given<'i>]) -> Result<(Uploads<'i>, Copies<'i>), RuntimeError> {
        let ports = at(&self.entry.inputs, &self.sizes)?;
        let mut uploads = Vec::with_capacity(ports.len() + self.checks.len());
        let mut inward = Vec::new();
        for (port, given) in ports.iter().zip(inputs) {
            match given {
                Given::Host(tensor) => uploads.push((region_of(port), Source::of(port, tensor)?)),
                Given::Device(tensor) => {
                    tensor.check_input(port, self.context)?;
                    inward.push((exact(port), &tensor.buffer));
                }
            }
        }
        Ok((uploads, inward))
    }

    /// Runs the steps; gives the tensors of `fetched`.
    pub fn steps(
        &mut self,
        steps: &mut [LoadedStep],
        fetched: &[Port],
        host: HostFn<'_>,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let mut outputs = None;
        let n_steps = steps.len();
        for (i, step) in steps.iter_mut().enumerate() {
            match step {
                LoadedStep::Device(segment) => {
                    let fetched = (i + 1 == n_steps).then_some(fetched);
                    outputs = self.device(segment, fetched)?;
                }
                LoadedStep::Host(step) => {
                    if let Err(error) = self.host(step, host) {
                        // What a kernel noted before is why.
                        let noted = outputs_of(self.memory, &self.known, &[], self.checks, &self.sizes);
                        return Err(noted.err().unwrap_or(error));
                    }
                    if let Some(timeline) = &mut self.timeline {
                        timeline.node(&step.node);
                    }
                }
            }
        }
        match outputs {
            Some(outputs) => Ok(outputs),
            None => outputs_of(self.memory, &self.known, &at(fetched, &self.sizes)?, self.checks, &self.sizes),
        }
    }

    /// Runs dispatches, and reads back what follows needs: the tensors of `fetched`, where these are the last, or else
    /// operands of host steps.
    fn device(&mut self, segment: &mut Segment, fetched: Option<&[Port]>) -> Result<Option<Vec<Tensor>>, RuntimeError> {
        self.memory.write(&segment.resize(self.params, &self.sizes)?)?;
        self.known.clear();
        let results = fetched.map(|ports| at(ports, &self.sizes)).transpose()?;
        let reads: Vec<Region> = match &results {
            Some(ports) => ports.iter().map(exact).chain(self.checks.iter().map(|(r, _)| *r)).collect(),
            None if self.memory.is_mapped() => Vec::new(),
            // Those of sizes that a host step defines are not the device's.
            None => segment.wanted.iter().filter_map(|port| port.at(&self.sizes)).map(|p| exact(&p)).collect(),
        };
        let recording = segment.recording(self.context, self.tally, self.timeline.is_some())?;
        self.memory.submit(Some(&mut recording.commands), &reads)?;
        self.memory.wait()?;
        let ticks = recording.queries.as_ref().map(Queries::ticks).transpose()?;
        segment.resized(&self.sizes);
        let ends = ticks.as_ref().and_then(|ticks| ticks.first().zip(ticks.last()));
        let ms = ends.map(|(first, last)| self.context.ms(*first, *last));
        self.device_ms = self.device_ms.zip(ms).map(|(sum, ms)| sum + ms);
        if let (Some(timeline), Some(ticks)) = (&mut self.timeline, ticks) {
            timeline.segment(segment.present(), self.context, &ticks);
        }
        if let Some(ports) = results {
            return collect(self.memory, self.pool, &ports, &reads, self.checks, &self.sizes).map(Some);
        }
        let known = &mut self.known;
        self.memory.collect(&reads, &mut |pieces| {
            for (region, bytes) in pieces {
                let Region { allocation, offset, .. } = reads[region];
                known.entry((allocation, offset)).or_default().extend_from_slice(bytes);
            }
        })?;
        Ok(None)
    }

    /// Computes a host step, and records the sizes that its results determine.
    fn host(&mut self, step: &HostStep, host: HostFn<'_>) -> Result<(), RuntimeError> {
        let fail = |fault: String| RuntimeError::Host { node: step.node.clone(), fault };
        let present: Vec<Port> = step.inputs.iter().flatten().cloned().collect();
        let given = outputs_of(self.memory, &self.known, &at(&present, &self.sizes)?, &[], &self.sizes)?;
        let mut given = given.into_iter();
        let operands: Vec<Option<Tensor>> =
            step.inputs.iter().map(|port| port.as_ref().and_then(|_| given.next())).collect();
        let results = host(&step.node, &operands, &self.sizes).map_err(|error| match error {
            HostError::Index { node, fault } => RuntimeError::Index { node, fault },
            HostError::Other(fault) => fail(fault),
        })?;
        if results.len() != step.outputs.len() {
            return Err(fail(format!("{} results given, {} wanted", results.len(), step.outputs.len())));
        }
        let shapes: Vec<Vec<usize>> = results.iter().map(Tensor::dims).collect();
        self.entry.sizes_after(step, &shapes, &mut self.sizes).map_err(|e| fail(format!("result {e}")))?;
        for (port, tensor) in at(&step.outputs, &self.sizes)?.iter().zip(&results) {
            let source = Source::of(port, tensor).map_err(|e| match e {
                RuntimeError::Input { name, fault } => fail(format!("result {name:?}: {fault}")),
                other => other,
            })?;
            let upload = [(region_of(port), source)];
            self.memory.write(&upload)?;
            if !self.memory.is_mapped() {
                let [(region, source)] = upload;
                self.known.insert((region.allocation, region.offset), source.into_bytes());
            }
        }
        Ok(())
    }
}

/// The sizes that inputs of these shapes choose.
pub(super) fn sizes_of(entry: &Entry, inputs: &[Given<'_>]) -> Result<Sizes, RuntimeError> {
    if inputs.len() != entry.inputs.len() {
        let missing = entry.inputs.get(inputs.len()).map_or("none", |p| &p.name);
        let fault = format!("{} inputs given, {} wanted", inputs.len(), entry.inputs.len());
        return Err(RuntimeError::Input { name: missing.to_owned(), fault });
    }
    if entry.sizes.is_empty() {
        return Ok(Sizes::new());
    }
    let shapes: Vec<Vec<usize>> = inputs.iter().map(Given::dims).collect();
    entry.sizes_of(&shapes).map_err(|SizeError { port, fault }| RuntimeError::Input { name: port, fault })
}

/// The outputs that do not stay on the device.
pub(super) fn fetched<'e>(entry: &'e Entry, kept: &[(usize, &mut DeviceTensor)]) -> Cow<'e, [Port]> {
    if kept.is_empty() {
        return Cow::Borrowed(&entry.outputs);
    }
    let is_kept = |i: usize| kept.iter().any(|(output, _)| *output == i);
    entry.outputs.iter().enumerate().filter(|(i, _)| !is_kept(*i)).map(|(_, port)| port.clone()).collect()
}

/// The bytes that a port's tensor takes.
pub(super) fn exact(port: &Port) -> Region {
    Region { bytes: device_bytes(port) as u64, ..port.region }
}

/// The same in whole words, as kernels read them.
fn region_of(port: &Port) -> Region {
    let bytes = (device_bytes(port) as u64).next_multiple_of(4);
    Region { bytes: bytes.min(port.region.bytes), ..port.region }
}

/// Ports for these sizes.
pub(super) fn at<'a>(ports: &'a [Port], sizes: &Sizes) -> Result<Cow<'a, [Port]>, RuntimeError> {
    if ports.iter().flat_map(|port| &port.shape).all(|dim| dim.known().is_some()) {
        return Ok(Cow::Borrowed(ports));
    }
    ports.iter().map(|port| port.at(sizes)).collect::<Option<_>>().map(Cow::Owned).ok_or_else(|| lost(sizes))
}
