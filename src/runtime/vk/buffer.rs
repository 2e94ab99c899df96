//! Device memory with one buffer over all of it, counted to the byte.

use super::VkContext;
use crate::runtime::RuntimeError;
use ash::vk;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every buffer may be used for: any region of an arena is bound, copied from and copied to.
pub(super) const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::UNIFORM_BUFFER.as_raw()
        | vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

/// Memory types that no buffer of ours may use.
const NEVER: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::PROTECTED.as_raw()
        | vk::MemoryPropertyFlags::LAZILY_ALLOCATED.as_raw()
        | vk::MemoryPropertyFlags::DEVICE_COHERENT_AMD.as_raw(),
);

/// Counts the bytes of `VkMemoryAllocateInfo::allocationSize` in the heaps that the budget is about: device-local ones,
/// or all on unified memory.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Meter {
    held: AtomicU64,
    peak: AtomicU64,
}

impl Meter {
    /// The most bytes that were ever held at once.
    pub(in crate::runtime) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The bytes that are held now.
    pub(in crate::runtime) fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }
}

/// Who reaches the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Place {
    /// The device alone, as far as we ask.
    Device,
    /// The device, and the host through a map.
    Shared,
    /// The host through a map, and the device in copies.
    Staging,
}

/// One `VkDeviceMemory` and one `VkBuffer` over it.
pub(in crate::runtime) struct Buffer {
    raw: vk::Buffer,
    memory: vk::DeviceMemory,
    /// Size of the buffer.
    bytes: u64,
    /// Bytes that the meter holds for it.
    metered_bytes: u64,
    mapped: Option<NonNull<u8>>,
    meter: Arc<Meter>,
    context: VkContext,
}

// SAFETY: the map is plain memory that this struct alone points to, writes need `&mut`, and Vulkan handles may be used
// from any thread.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` the map is only read, and the device writes it only between a submission and the wait for
// it.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Makes a buffer whose memory takes at most `planned` bytes, of which the program uses the first `used`. With
    /// `is_indirect` the device reads numbers of workgroups from it.
    pub(in crate::runtime) fn new(
        context: &VkContext,
        meter: &Arc<Meter>,
        (planned, used): (u64, u64),
        place: Place,
        is_indirect: bool,
        name: &str,
    ) -> Result<Buffer, RuntimeError> {
        let device = context.device();
        let usage = if is_indirect { USAGE | vk::BufferUsageFlags::INDIRECT_BUFFER } else { USAGE };
        let mut asked = 0;
        // A driver that rounds more than the target said still fits where the end of the plan's allocation is unused.
        for bytes in [planned, used.clamp(1, planned)] {
            let info =
                vk::BufferCreateInfo::default().size(bytes).usage(usage).sharing_mode(vk::SharingMode::EXCLUSIVE);
            // SAFETY: the device is live and the structure complete.
            let raw = context.attempt("vkCreateBuffer", || unsafe { device.create_buffer(&info, None) })?;
            let (context, meter, memory) = (context.clone(), meter.clone(), vk::DeviceMemory::null());
            let mut buffer = Buffer { raw, memory, bytes, metered_bytes: 0, mapped: None, meter, context };
            // SAFETY: the buffer was just made from this device.
            let needs = unsafe { device.get_buffer_memory_requirements(raw) };
            if needs.size <= planned {
                buffer.allocate(&needs, place)?;
                buffer.context.name(raw, name);
                return Ok(buffer);
            }
            asked = needs.size;
        }
        Err(RuntimeError::Unsupported {
            what: format!("the plan's {planned} bytes for {name}: the driver asks {asked}"),
        })
    }

    fn allocate(&mut self, needs: &vk::MemoryRequirements, place: Place) -> Result<(), RuntimeError> {
        let context = self.context.clone();
        let (device, probe) = (context.device(), &context.inner().probe);
        let Some((type_idx, heap_idx)) = choose(&probe.memory, needs.memory_type_bits, place) else {
            let what = match place {
                Place::Device => "device-local memory for buffers",
                Place::Shared => {
                    "device-local memory that the host reaches, for which the program was compiled (a target with unified memory)"
                }
                Place::Staging => "memory that the host reaches",
            };
            return Err(RuntimeError::Unsupported { what: what.to_owned() });
        };
        let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(type_idx);
        // SAFETY: the device is live; type and size are ones that it named.
        let memory = context.attempt("vkAllocateMemory", || unsafe { device.allocate_memory(&info, None) }).map_err(
            |error| match error {
                error if error.is_out_of_memory() => {
                    RuntimeError::OutOfMemory { asked_bytes: needs.size, free_bytes: context.free_bytes(heap_idx) }
                }
                error => error,
            },
        )?;
        self.memory = memory;
        let local = probe
            .memory
            .memory_heaps_as_slice()
            .get(heap_idx as usize)
            .is_some_and(|h| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
        if local || probe.info.target.memory.unified {
            self.metered_bytes = needs.size;
            self.meter.add(needs.size);
        }
        // SAFETY: both are of this device, neither is bound yet, and the memory has the size and a type that the buffer
        // needs.
        context.attempt("vkBindBufferMemory", || unsafe { device.bind_buffer_memory(self.raw, memory, 0) })?;
        if place != Place::Device {
            // SAFETY: the memory is host-visible, not mapped yet, and stays mapped until it is freed.
            let map = context.attempt("vkMapMemory", || unsafe {
                device.map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
            })?;
            self.mapped = NonNull::new(map.cast());
        }
        Ok(())
    }

    pub(super) fn raw(&self) -> vk::Buffer {
        self.raw
    }

    /// Size in bytes.
    pub(in crate::runtime) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the map, to be written. Nothing that is submitted may use them.
    pub(in crate::runtime) fn bytes_mut(&mut self, offset: u64, len: u64) -> Result<&mut [u8], RuntimeError> {
        let at = self.at(offset, len)?;
        // SAFETY: `at` checked that the range is in the map; `&mut self` and the rule above keep everybody else away.
        // Mapped memory holds bytes.
        Ok(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len as usize) })
    }

    /// Bytes of the map, to be read. Nothing that is submitted may write them.
    pub(in crate::runtime) fn bytes_at(&self, offset: u64, len: u64) -> Result<&[u8], RuntimeError> {
        let at = self.at(offset, len)?;
        // SAFETY: as in `bytes_mut`; the memory is coherent, and a fence was waited for since the device last wrote it.
        Ok(unsafe { std::slice::from_raw_parts(at.as_ptr(), len as usize) })
    }

    fn at(&self, offset: u64, len: u64) -> Result<NonNull<u8>, RuntimeError> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.bytes);
        match self.mapped {
            // SAFETY: the offset is in the mapped object, or one past its end where the length is 0.
            Some(map) if inside => Ok(unsafe { map.add(offset as usize) }),
            _ => Err(RuntimeError::Unsupported {
                what: format!("host access to {len} bytes at {offset} of a buffer of {}", self.bytes),
            }),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let device = self.context.device();
        // SAFETY: both were made from this device and are destroyed once; executors drop what was submitted, and wait
        // for it, before buffers.
        unsafe { device.destroy_buffer(self.raw, None) };
        // SAFETY: as above; freeing unmaps, and freeing the null handle does nothing.
        unsafe { device.free_memory(self.memory, None) };
        self.meter.held.fetch_sub(self.metered_bytes, Ordering::Relaxed);
    }
}

/// Type and heap for a buffer: (index of the type, index of its heap).
fn choose(memory: &vk::PhysicalDeviceMemoryProperties, allowed: u32, place: Place) -> Option<(u32, u32)> {
    use vk::MemoryPropertyFlags as F;
    let heaps = memory.memory_heaps_as_slice();
    let needed = match place {
        Place::Device => F::DEVICE_LOCAL,
        Place::Shared => F::DEVICE_LOCAL | F::HOST_VISIBLE | F::HOST_COHERENT,
        Place::Staging => F::HOST_VISIBLE | F::HOST_COHERENT,
    };
    let usable = memory.memory_types_as_slice().iter().zip(0u32..).filter(|(t, i)| {
        allowed & (1 << i) != 0 && t.property_flags.contains(needed) && !t.property_flags.intersects(NEVER)
    });
    let score = |t: &vk::MemoryType| {
        let (local, visible, cached) = (F::DEVICE_LOCAL, F::HOST_VISIBLE, F::HOST_CACHED);
        let has = |flag| t.property_flags.contains(flag);
        match place {
            // The small window of device memory that the host sees is left to others.
            Place::Device => (u8::from(!has(visible)), false),
            // Results are read back through the map, which is slow where it is not cached.
            Place::Shared => (u8::from(has(cached)), false),
            // Staging in a device-local heap would count.
            Place::Staging => (u8::from(!has(local)), has(cached)),
        }
    };
    let size = |t: &vk::MemoryType| heaps.get(t.heap_index as usize).map_or(0, |h| h.size);
    // The last maximum wins, so the order is reversed: drivers list the better type first.
    let best = usable.max_by_key(|(t, i)| match place {
        Place::Staging => (0, score(t), std::cmp::Reverse(*i)),
        _ => (size(t), score(t), std::cmp::Reverse(*i)),
    });
    best.map(|(t, i)| (i, t.heap_index))
}

/// The heap of device allocations, for questions about what is free.
pub(in crate::runtime) fn heap(context: &VkContext, place: Place) -> Option<u32> {
    choose(&context.inner().probe.memory, u32::MAX, place).map(|(_, heap)| heap)
}
