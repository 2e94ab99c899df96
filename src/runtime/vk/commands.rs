//! Recorded commands, their submission, and timestamps.

use super::pipelines::Groups;
use super::{Bound, Buffer, VkContext};
use crate::runtime::RuntimeError;
use ash::vk;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts what was recorded, submitted and waited for.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Tally {
    submits: AtomicU64,
    waits: AtomicU64,
    recorded: AtomicU64,
}

impl Tally {
    /// Submissions, waits for their end, and lists of commands that were recorded, each since the beginning.
    pub(in crate::runtime) fn so_far(&self) -> [u64; 3] {
        [&self.submits, &self.waits, &self.recorded].map(|count| count.load(Ordering::Relaxed))
    }
}

/// The end of a submission.
pub(in crate::runtime) struct Fence {
    raw: vk::Fence,
    pending: AtomicBool,
    tally: Arc<Tally>,
    context: VkContext,
}

impl Fence {
    pub(in crate::runtime) fn new(context: &VkContext, tally: &Arc<Tally>) -> Result<Arc<Fence>, RuntimeError> {
        let device = context.device();
        // SAFETY: the device is live and the structure complete.
        let raw = context
            .attempt("vkCreateFence", || unsafe { device.create_fence(&vk::FenceCreateInfo::default(), None) })?;
        let (pending, tally, context) = (AtomicBool::new(false), tally.clone(), context.clone());
        Ok(Arc::new(Fence { raw, pending, tally, context }))
    }

    /// Submits what was recorded, in order. Whatever of it is still under way, and this fence's last submission, is
    /// waited for before.
    pub(in crate::runtime) fn submit(self: &Arc<Fence>, all: &mut [&mut Commands]) -> Result<(), RuntimeError> {
        self.wait()?;
        all.iter().try_for_each(|commands| commands.wait())?;
        let buffers: Vec<vk::CommandBuffer> =
            all.iter().flat_map(|c| c.buffers.get(..c.n_recorded).unwrap_or_default()).copied().collect();
        self.context.submit(&buffers, self.raw)?;
        self.tally.submits.fetch_add(1, Ordering::Relaxed);
        self.pending.store(true, Ordering::Relaxed);
        all.iter_mut().for_each(|commands| commands.last = Some(self.clone()));
        Ok(())
    }

    /// Waits for what was submitted.
    pub(in crate::runtime) fn wait(&self) -> Result<(), RuntimeError> {
        if self.is_pending() {
            self.tally.waits.fetch_add(1, Ordering::Relaxed);
            self.context.wait(self.raw)?;
            self.pending.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if self.is_pending() {
            self.context.idle();
        }
        // SAFETY: it was made from this device, and nothing submitted signals it any more: it was waited for, or the
        // device is idle or lost.
        unsafe { self.context.device().destroy_fence(self.raw, None) };
    }
}

/// Command buffers that are recorded together and submitted together, alone or with others. What they use must outlive
/// this.
pub(in crate::runtime) struct Commands {
    pool: vk::CommandPool,
    buffers: Vec<vk::CommandBuffer>,
    /// How many of `buffers` are recorded.
    n_recorded: usize,
    /// The end of the last submission they were part of.
    last: Option<Arc<Fence>>,
    tally: Arc<Tally>,
    context: VkContext,
}

impl Commands {
    pub(in crate::runtime) fn new(context: &VkContext, tally: &Arc<Tally>) -> Result<Commands, RuntimeError> {
        let device = context.device();
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(context.inner().probe.family);
        // SAFETY: the device is live and the structure complete.
        let pool = context.attempt("vkCreateCommandPool", || unsafe { device.create_command_pool(&info, None) })?;
        let (tally, context) = (tally.clone(), context.clone());
        Ok(Commands { pool, buffers: Vec::new(), n_recorded: 0, last: None, tally, context })
    }

    /// Records anew.
    pub(in crate::runtime) fn record(
        &mut self,
        f: impl FnOnce(&mut Recorder<'_>) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        self.wait()?;
        self.n_recorded = 0;
        // SAFETY: nothing recorded from the pool is pending, as was just waited for.
        self.context.attempt("vkResetCommandPool", || unsafe {
            self.context.device().reset_command_pool(self.pool, vk::CommandPoolResetFlags::empty())
        })?;
        let raw = self.begin()?;
        let mut recorder = Recorder { commands: self, raw };
        f(&mut recorder)?;
        let raw = recorder.raw;
        self.end(raw)?;
        self.tally.recorded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until nothing of it is under way.
    pub(in crate::runtime) fn wait(&self) -> Result<(), RuntimeError> {
        self.last.as_ref().map_or(Ok(()), |fence| fence.wait())
    }

    fn begin(&mut self) -> Result<vk::CommandBuffer, RuntimeError> {
        let device = self.context.device();
        if self.n_recorded == self.buffers.len() {
            let info = vk::CommandBufferAllocateInfo::default().command_pool(self.pool).command_buffer_count(1);
            // SAFETY: the pool is live, and `&mut self` keeps other threads off it, here and below.
            self.buffers.extend(
                self.context
                    .attempt("vkAllocateCommandBuffers", || unsafe { device.allocate_command_buffers(&info) })?,
            );
        }
        let raw = self.buffers.get(self.n_recorded).copied().unwrap_or_default();
        // SAFETY: the buffer is in its initial state: new, or its pool was reset.
        self.context.attempt("vkBeginCommandBuffer", || unsafe {
            device.begin_command_buffer(raw, &vk::CommandBufferBeginInfo::default())
        })?;
        Ok(raw)
    }

    fn end(&mut self, raw: vk::CommandBuffer) -> Result<(), RuntimeError> {
        // SAFETY: `begin` began it, and it was not ended since.
        self.context.attempt("vkEndCommandBuffer", || unsafe { self.context.device().end_command_buffer(raw) })?;
        self.n_recorded += 1;
        Ok(())
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if self.last.as_ref().is_some_and(|fence| fence.is_pending()) {
            self.context.idle();
        }
        // SAFETY: it was made from this device, and nothing submitted uses it any more: it was waited for, or the
        // device is idle or lost. Its command buffers go with it.
        unsafe { self.context.device().destroy_command_pool(self.pool, None) };
    }
}

/// Records into a command buffer. Every object that it is given must be of the same context and outlive the recorded
/// commands.
pub(in crate::runtime) struct Recorder<'a> {
    commands: &'a mut Commands,
    raw: vk::CommandBuffer,
}

impl Recorder<'_> {
    /// Goes on in another command buffer of the same submission: drivers do not like very long ones.
    pub(in crate::runtime) fn split(&mut self) -> Result<(), RuntimeError> {
        let raw = self.raw;
        self.commands.end(raw)?;
        self.raw = self.commands.begin()?;
        Ok(())
    }

    /// Everything before, on host and device, is visible to dispatches and copies after.
    pub(in crate::runtime) fn acquire(&mut self) {
        use vk::{AccessFlags as A, PipelineStageFlags as S};
        self.fence_off(
            S::HOST | S::TRANSFER | S::COMPUTE_SHADER,
            A::HOST_WRITE | A::TRANSFER_WRITE | A::SHADER_WRITE,
            S::TRANSFER | S::COMPUTE_SHADER | S::DRAW_INDIRECT,
            A::SHADER_READ
                | A::SHADER_WRITE
                | A::UNIFORM_READ
                | A::TRANSFER_READ
                | A::TRANSFER_WRITE
                | A::INDIRECT_COMMAND_READ,
        );
    }

    /// Writes of dispatches before are visible to dispatches after, and reads before are done (Vulkan 1.3, section
    /// 7.6).
    pub(in crate::runtime) fn barrier(&mut self) {
        use vk::{AccessFlags as A, PipelineStageFlags as S};
        self.fence_off(S::COMPUTE_SHADER, A::SHADER_WRITE, S::COMPUTE_SHADER, A::SHADER_READ | A::SHADER_WRITE);
    }

    /// Writes before are visible to the host once the fence is signalled, and to whatever is submitted later.
    pub(in crate::runtime) fn release(&mut self) {
        use vk::{AccessFlags as A, PipelineStageFlags as S};
        self.fence_off(
            S::TRANSFER | S::COMPUTE_SHADER,
            A::TRANSFER_WRITE | A::SHADER_WRITE,
            S::HOST | S::TRANSFER | S::COMPUTE_SHADER,
            A::HOST_READ | A::TRANSFER_READ | A::TRANSFER_WRITE | A::SHADER_READ | A::SHADER_WRITE | A::UNIFORM_READ,
        );
    }

    fn fence_off(
        &mut self,
        from: vk::PipelineStageFlags,
        made: vk::AccessFlags,
        to: vk::PipelineStageFlags,
        seen: vk::AccessFlags,
    ) {
        let memory = [vk::MemoryBarrier::default().src_access_mask(made).dst_access_mask(seen)];
        // SAFETY: the command buffer is being recorded, here and in every method below; the masks fit each other.
        unsafe {
            self.device().cmd_pipeline_barrier(self.raw, from, to, vk::DependencyFlags::empty(), &memory, &[], &[])
        };
    }

    /// One dispatch.
    pub(in crate::runtime) fn dispatch(&mut self, bound: &Bound) {
        let device = self.device();
        // SAFETY: pipeline, layout and set are live ones of this device that belong together: `Pipelines` made them for
        // one dispatch.
        unsafe { device.cmd_bind_pipeline(self.raw, vk::PipelineBindPoint::COMPUTE, bound.pipeline) };
        if bound.set != vk::DescriptorSet::null() {
            // SAFETY: as above.
            unsafe {
                device.cmd_bind_descriptor_sets(
                    self.raw,
                    vk::PipelineBindPoint::COMPUTE,
                    bound.layout,
                    0,
                    &[bound.set],
                    &[],
                )
            };
        }
        match bound.groups {
            // SAFETY: everything that the pipeline reads is bound; the counts are within the device's limits, as
            // `check_limits` holds.
            Groups::Given([x, y, z]) => unsafe { device.cmd_dispatch(self.raw, x, y, z) },
            // SAFETY: as above; the buffer has the usage, the offset is a multiple of 4, and 12 bytes from it are
            // inside, as `Program::check` holds. The counts that are written there are evaluated within the bounds that
            // `check_limits` looked at.
            Groups::At(buffer, offset) => unsafe { device.cmd_dispatch_indirect(self.raw, buffer, offset) },
        }
    }

    /// Copies bytes between buffers. Both ranges were checked against the buffers' sizes.
    pub(in crate::runtime) fn copy(
        &mut self,
        from: (&Buffer, u64),
        to: (&Buffer, u64),
        bytes: u64,
    ) -> Result<(), RuntimeError> {
        let inside =
            |(buffer, offset): (&Buffer, u64)| offset.checked_add(bytes).is_some_and(|end| end <= buffer.bytes());
        if bytes == 0 || !inside(from) || !inside(to) {
            let what = format!(
                "a copy of {bytes} bytes from {} of {} to {} of {}",
                from.1,
                from.0.bytes(),
                to.1,
                to.0.bytes()
            );
            return Err(RuntimeError::Unsupported { what });
        }
        let region = [vk::BufferCopy { src_offset: from.1, dst_offset: to.1, size: bytes }];
        // SAFETY: both buffers are live ones of this device with transfer usage, and the ranges are in them.
        unsafe { self.device().cmd_copy_buffer(self.raw, from.0.raw(), to.0.raw(), &region) };
        Ok(())
    }

    /// Forgets the queries' results, before they are written again.
    pub(in crate::runtime) fn reset(&mut self, queries: &Queries) {
        // SAFETY: the pool is a live one of this device with that many queries.
        unsafe { self.device().cmd_reset_query_pool(self.raw, queries.raw, 0, queries.n) };
    }

    /// Writes the time at which everything before has ended.
    pub(in crate::runtime) fn timestamp(&mut self, queries: &Queries, index: u32) {
        if index < queries.n {
            // SAFETY: the pool is a live one of this device, the query was reset, and the queue family has timestamps.
            unsafe {
                self.device().cmd_write_timestamp(self.raw, vk::PipelineStageFlags::BOTTOM_OF_PIPE, queries.raw, index)
            };
        }
    }

    fn device(&self) -> &ash::Device {
        self.commands.context.device()
    }
}

/// Timestamps.
pub(in crate::runtime) struct Queries {
    raw: vk::QueryPool,
    n: u32,
    context: VkContext,
}

impl Queries {
    /// `n` timestamps; `None` where the queue has none.
    pub(in crate::runtime) fn new(context: &VkContext, n: u32) -> Result<Option<Queries>, RuntimeError> {
        if context.inner().probe.timestamp_bits == 0 || n == 0 {
            return Ok(None);
        }
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(n);
        // SAFETY: the device is live and the structure complete.
        let raw =
            context.attempt("vkCreateQueryPool", || unsafe { context.device().create_query_pool(&info, None) })?;
        Ok(Some(Queries { raw, n, context: context.clone() }))
    }

    /// The timestamps in ticks of the device's clock, once what writes them has been waited for.
    pub(in crate::runtime) fn ticks(&self) -> Result<Vec<u64>, RuntimeError> {
        let mut ticks = vec![0u64; self.n as usize];
        // SAFETY: the pool is live, and the slice holds one 64-bit result for each of its queries.
        self.context.attempt("vkGetQueryPoolResults", || unsafe {
            self.context.device().get_query_pool_results(self.raw, 0, &mut ticks, vk::QueryResultFlags::TYPE_64)
        })?;
        Ok(ticks)
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        // SAFETY: it was made from this device; executors drop, and wait for, what uses it first.
        unsafe { self.context.device().destroy_query_pool(self.raw, None) };
    }
}
