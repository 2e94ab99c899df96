//! A logical device with one compute queue.

use super::call;
use super::fault::Faults;
use super::instance::Instance;
use super::probe::{DeviceInfo, DeviceKind, Probe, granularity};
use crate::runtime::RuntimeError;
use crate::targets::{Features, Mask, Target};
use ash::vk::{self, Handle};
use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one wait for a fence lasts at most, in nanoseconds, and how many of them are tried: half an hour in all,
/// because a software device may take minutes for one submission.
const WAIT_NS: u64 = 5_000_000_000;
const WAITS: u32 = 360;
/// How long a thread looks at a fence itself before it sleeps until that is signalled.
const LOOK: Duration = Duration::from_millis(5);

/// What surrounds a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the validation layers watch, and `validation_errors` counts.
    pub validation: bool,
    /// What they check besides the core checks, as [`Options::from_env`] spells it.
    pub checks: Option<String>,
    /// What makes the device behave as a weaker one: a [`Mask`], or the name of a JSON file of a target where an
    /// element of it ends in `.json`.
    pub mask: Option<String>,
    /// The folder of pipeline caches; `None` for nowhere.
    pub cache_dir: Option<PathBuf>,
    /// A call of the instance or the device that shall fail, for tests. Written `CALL:K=RESULT`: the K-th (from 1) of
    /// the calls named `CALL` (`vkAllocateMemory`, say), or of `any`, gives `device-memory`
    /// (`VK_ERROR_OUT_OF_DEVICE_MEMORY`), `host-memory` (`VK_ERROR_OUT_OF_HOST_MEMORY`), `initialization`
    /// (`VK_ERROR_INITIALIZATION_FAILED`) or `lost` (`VK_ERROR_DEVICE_LOST`, as then does every later call). Every
    /// instance counts anew; the first of a process also counts the calls for the bare one that keeps the drivers
    /// loaded.
    pub fault: Option<String>,
}

impl Options {
    /// `NYXC_VALIDATION` turns validation on: `1` or `core` for the core checks, `sync` and `gpu`, after a comma, for
    /// synchronization and GPU-assisted validation too; empty and `0` for none. `NYXC_MASK` makes every device behave
    /// as a weaker one ([`Mask`]). Caches are in `NYXC_CACHE` (nowhere where that is empty), else
    /// `$XDG_CACHE_HOME/nyxc`, else `~/.cache/nyxc`. `NYXC_FAULT` lets a call fail ([`Options::fault`]).
    pub fn from_env() -> Options {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let cache_dir = match std::env::var_os("NYXC_CACHE") {
            Some(dir) if dir.is_empty() => None,
            Some(dir) => Some(PathBuf::from(dir)),
            None => set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|h| PathBuf::from(h).join(".cache")))
                .map(|d| d.join("nyxc")),
        };
        let text = |name: &str| set(name).map(|v| v.to_string_lossy().into_owned());
        let checks = text("NYXC_VALIDATION").filter(|checks| checks != "0");
        Options { validation: checks.is_some(), checks, mask: text("NYXC_MASK"), cache_dir, fault: text("NYXC_FAULT") }
    }

    /// The mask, where there is one.
    pub(super) fn mask(&self) -> Result<Option<Mask>, RuntimeError> {
        let file = |name: &str| {
            name.ends_with(".json").then(|| {
                let json = std::fs::read_to_string(name).map_err(|e| format!("{name}: {e}"))?;
                Target::from_json(name, &json).map_err(|e| e.to_string())
            })
        };
        Ok(self.mask.as_deref().map(|text| Mask::parse_with(text, &file)).transpose()?)
    }

    /// The count of calls, with the one that shall fail.
    pub(super) fn faults(&self) -> Result<Faults, RuntimeError> {
        self.fault.as_deref().map(str::parse).transpose().map(Faults::new).map_err(RuntimeError::Fault)
    }

    /// What the validation layers check besides the core: synchronization, and shaders at work.
    pub(super) fn checks(&self) -> Result<(bool, bool), RuntimeError> {
        let (mut sync, mut gpu) = (false, false);
        for word in self.checks.iter().flat_map(|checks| checks.split(',')).map(str::trim) {
            match word {
                "1" | "core" => {}
                "sync" => sync = true,
                "gpu" => gpu = true,
                _ => return Err(RuntimeError::Checks { word: word.to_owned() }),
            }
        }
        Ok((sync, gpu))
    }
}

/// A device that programs run on. Clones share it; it goes when the last clone and the last executor on it have gone.
#[derive(Clone)]
pub struct VkContext(Arc<Inner>);

/// A `VkDevice` that the caller made and keeps, for [`VkContext::from_raw`].
#[derive(Clone, Debug)]
pub struct RawDevice {
    /// `VkInstance`, as an integer.
    pub instance: u64,
    /// `VkApplicationInfo::apiVersion` of the instance.
    pub api_version: u32,
    /// `VkPhysicalDevice`, as an integer.
    pub physical_device: u64,
    /// `VkDevice`, as an integer.
    pub device: u64,
    /// The family of `queue`, which has compute.
    pub queue_family: u32,
    /// `VkQueue`, as an integer.
    pub queue: u64,
    /// What was enabled when the device was made.
    pub enabled: Features,
}

pub(super) struct Inner {
    pub(super) device: ash::Device,
    queue: Mutex<vk::Queue>,
    pub(super) probe: Probe,
    pub(super) enabled: Features,
    pub(super) cache_dir: Option<PathBuf>,
    names: Option<ash::ext::debug_utils::Device>,
    owned: bool,
    // Last, so that it outlives the device.
    pub(super) instance: Instance,
}

impl VkContext {
    /// Whether both are clones of one context.
    pub fn is_same(&self, other: &VkContext) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Opens the device of this number with those of the `asked` features that it has.
    ///
    /// # Errors
    /// There is no such device, its driver fails, or an option is none.
    pub fn open(index: usize, asked: &Features, options: &Options) -> Result<VkContext, RuntimeError> {
        let mask = options.mask()?;
        let instance = Instance::new(options)?;
        let physical = instance.physical_devices()?;
        let Some(&chosen) = physical.get(index) else {
            return Err(RuntimeError::NoDevice {
                reason: format!("device {index} was asked, there are {}", physical.len()),
            });
        };
        let mut probe = Probe::read(&instance, chosen, index)?;
        probe.mask(mask.as_ref());
        let enabled = asked.meet(&probe.info.target.features);
        let device = create(&instance, &probe, &enabled)?;
        probe.granularity(granularity(&device));
        // SAFETY: the device was made with one queue of this family.
        let queue = unsafe { device.get_device_queue(probe.family, 0) };
        let names = instance.debug.then(|| {
            let _alone = super::handles();
            ash::ext::debug_utils::Device::new(&instance.raw, &device)
        });
        let cache_dir = options.cache_dir.clone();
        Ok(VkContext(Arc::new(Inner {
            device,
            queue: Mutex::new(queue),
            probe,
            enabled,
            cache_dir,
            names,
            owned: true,
            instance,
        })))
    }

    /// A context on a device that the caller owns. It is not destroyed with the context.
    ///
    /// # Errors
    /// The loader is missing, the device is no device of Vulkan 1.1 with compute, or an option is none.
    ///
    /// # Safety
    /// The handles are live and belong together, came from the loader that this process finds by its usual name, and
    /// outlive every clone of the context and every executor on it. `enabled` says nothing that was not enabled. Nobody
    /// else submits to `queue` during a call on an executor.
    pub unsafe fn from_raw(raw: &RawDevice, options: &Options) -> Result<VkContext, RuntimeError> {
        let faults = options.faults()?;
        // SAFETY: the caller's promise.
        let instance = unsafe { Instance::borrowed(vk::Instance::from_raw(raw.instance), raw.api_version, faults)? };
        let physical = vk::PhysicalDevice::from_raw(raw.physical_device);
        let mut probe = Probe::read(&instance, physical, 0)?;
        probe.mask(options.mask()?.as_ref());
        // SAFETY: the caller's promise: the physical device is one of the instance's.
        let families = unsafe { instance.raw.get_physical_device_queue_family_properties(physical) };
        let family =
            families.get(raw.queue_family as usize).filter(|f| f.queue_flags.contains(vk::QueueFlags::COMPUTE));
        let Some(family) = family else {
            return Err(RuntimeError::Unsupported { what: format!("compute on queue family {}", raw.queue_family) });
        };
        (probe.family, probe.timestamp_bits) = (raw.queue_family, family.timestamp_valid_bits);
        // Which extensions were enabled is not known, so none that the core does not have is used.
        probe.extensions.clear();
        let alone = super::handles();
        // SAFETY: the caller's promise.
        let device = unsafe { ash::Device::load(instance.raw.fp_v1_0(), vk::Device::from_raw(raw.device)) };
        drop(alone);
        probe.granularity(granularity(&device));
        let queue = Mutex::new(vk::Queue::from_raw(raw.queue));
        let enabled = raw.enabled.meet(&probe.info.target.features);
        let cache_dir = options.cache_dir.clone();
        Ok(VkContext(Arc::new(Inner { device, queue, probe, enabled, cache_dir, names: None, owned: false, instance })))
    }

    /// The handles, for callers that use the device themselves. They live as long as the context.
    pub fn raw(&self) -> RawDevice {
        let Inner { instance, probe, device, queue, enabled, .. } = &*self.0;
        RawDevice {
            instance: instance.raw.handle().as_raw(),
            api_version: instance.version,
            physical_device: probe.physical.as_raw(),
            device: device.handle().as_raw(),
            queue_family: probe.family,
            queue: queue.lock().unwrap_or_else(PoisonError::into_inner).as_raw(),
            enabled: enabled.clone(),
        }
    }

    /// What the device is and can do.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.probe.info
    }

    /// The features that are enabled.
    pub fn enabled(&self) -> &Features {
        &self.0.enabled
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(super) fn device(&self) -> &ash::Device {
        &self.0.device
    }

    /// Bytes free in a heap: what `VK_EXT_memory_budget` says, or the heap's size where that is not there; no more than
    /// a mask leaves.
    pub(in crate::runtime) fn free_bytes(&self, heap: u32) -> u64 {
        let Inner { instance, probe, .. } = &*self.0;
        let size = probe
            .memory
            .memory_heaps_as_slice()
            .get(heap as usize)
            .map_or(0, |h| h.size)
            .min(probe.info.target.memory.heap_bytes);
        if !probe.has(ash::ext::memory_budget::NAME) {
            return size;
        }
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: the device is this live instance's and has the extension of the chained structure.
        unsafe { instance.raw.get_physical_device_memory_properties2(probe.physical, &mut all) };
        let at = heap as usize;
        let free = |b: &vk::PhysicalDeviceMemoryBudgetPropertiesEXT<'_>| {
            Some(b.heap_budget.get(at)?.saturating_sub(*b.heap_usage.get(at)?))
        };
        free(&budget).map_or(size, |free| free.min(size))
    }

    /// Names an object for debuggers, where `VK_EXT_debug_utils` is there.
    pub(super) fn name(&self, object: impl Handle, name: &str) {
        let (Some(functions), Ok(name)) = (&self.0.names, CString::new(name)) else { return };
        let info = vk::DebugUtilsObjectNameInfoEXT::default().object_handle(object).object_name(&name);
        let _alone = super::handles();
        // SAFETY: the object was made from this device and is live; nobody else uses it yet. A name that is refused
        // changes nothing.
        let _ = unsafe { functions.set_debug_utils_object_name(&info) };
    }

    /// Makes a call that may fail, and names it where it did.
    pub(super) fn attempt<T>(
        &self,
        name: &'static str,
        f: impl FnOnce() -> Result<T, vk::Result>,
    ) -> Result<T, RuntimeError> {
        self.0.instance.faults.attempt(name, f)
    }

    /// How many calls that may fail were made.
    #[cfg(test)]
    pub(in crate::runtime) fn n_calls(&self) -> u64 {
        self.0.instance.faults.seen()
    }

    /// Whether synchronization is validated: layers take a binding that is written for written as a whole, so that
    /// writers of different elements of it need a barrier between them to please them.
    pub(in crate::runtime) fn sees_bindings(&self) -> bool {
        self.inner().instance.sync
    }

    /// Whether the compute queue has timestamps.
    pub(in crate::runtime) fn has_timestamps(&self) -> bool {
        self.inner().probe.timestamp_bits != 0
    }

    /// Milliseconds from one timestamp of the queue to a later one.
    pub(in crate::runtime) fn ms(&self, from: u64, to: u64) -> f64 {
        let probe = &self.inner().probe;
        let mask = 1u64.checked_shl(probe.timestamp_bits).map_or(u64::MAX, |bit| bit - 1);
        (to.wrapping_sub(from) & mask) as f64 * f64::from(probe.timestamp_period) / 1e6
    }

    /// Submits command buffers in order; `fence` is signalled when the last has ended.
    pub(super) fn submit(&self, commands: &[vk::CommandBuffer], fence: vk::Fence) -> Result<(), RuntimeError> {
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let submit = vk::SubmitInfo::default().command_buffers(commands);
        // SAFETY: the callers, all in this module tree, pass recorded command buffers and an unsignalled fence of this
        // device, and keep both and all they use until they waited for the fence or the device is idle. The lock keeps
        // other threads off the queue.
        self.attempt("vkQueueSubmit", || unsafe { self.device().queue_submit(*queue, &[submit], fence) })
    }

    /// Waits for a fence that was submitted, and resets it.
    pub(super) fn wait(&self, fence: vk::Fence) -> Result<(), RuntimeError> {
        let mut last = vk::Result::TIMEOUT;
        for i in 0..WAITS {
            let waited = match self.0.instance.faults.strike("vkWaitForFences") {
                Some(code) => Err(code),
                None if i == 0 && self.wait_awake(fence).map_err(call("vkWaitForFences"))? => Ok(()),
                // SAFETY: the fence is a live one of this device.
                None => unsafe { self.device().wait_for_fences(&[fence], true, WAIT_NS) },
            };
            match waited {
                // SAFETY: it is signalled, so no queue uses it any more.
                Ok(()) => return self.attempt("vkResetFences", || unsafe { self.device().reset_fences(&[fence]) }),
                Err(vk::Result::TIMEOUT) => {}
                Err(code) => {
                    last = code;
                    break;
                }
            }
        }
        Err(call("vkWaitForFences")(last))
    }

    /// Looks at the fence for a while, as a thread that sleeps is woken late; whether it is signalled. A device that
    /// computes on the CPU needs this thread's time itself.
    fn wait_awake(&self, fence: vk::Fence) -> Result<bool, vk::Result> {
        let start = Instant::now();
        while self.info().kind != DeviceKind::Cpu && start.elapsed() < LOOK {
            // SAFETY: the fence is a live one of this device.
            if unsafe { self.device().get_fence_status(fence) }? {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        Ok(false)
    }

    /// Waits until the device has nothing left to do. A lost device has not.
    pub(in crate::runtime) fn idle(&self) {
        let _queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.owned {
            // SAFETY: the device is live, and the lock keeps other threads off its one queue.
            let _ = unsafe { self.device().device_wait_idle() };
        } else {
            // SAFETY: the same for the one queue that we may use of a device that is not ours.
            let _ = unsafe { self.device().queue_wait_idle(*_queue) };
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.owned {
            let _alone = super::handles();
            // SAFETY: every object of the device holds a `VkContext`, so none is left when the last of them drops this.
            unsafe { self.device.destroy_device(None) };
        }
    }
}

/// A device without features or extensions, for questions. The caller destroys it.
pub(super) fn bare(instance: &Instance, probe: &Probe) -> Result<ash::Device, RuntimeError> {
    let nothing = Features {
        f16_arithmetic: false,
        int8_arithmetic: false,
        storage_16bit: false,
        storage_8bit: false,
        integer_dot_product: false,
        integer_dot_product_accelerated: false,
        cooperative_matrix: false,
        matrix_shapes: Vec::new(),
        subgroup_arithmetic: false,
    };
    create(instance, probe, &nothing)
}

fn create(instance: &Instance, probe: &Probe, enabled: &Features) -> Result<ash::Device, RuntimeError> {
    let mut names: Vec<&CStr> = Vec::new();
    let mut need = |wanted: bool, core_since: u32, name: &'static CStr| {
        if wanted && probe.version < core_since && probe.has(name) {
            names.push(name);
        }
        wanted
    };
    let arithmetic = need(
        enabled.f16_arithmetic || enabled.int8_arithmetic,
        vk::API_VERSION_1_2,
        ash::khr::shader_float16_int8::NAME,
    );
    let bytes = need(enabled.storage_8bit, vk::API_VERSION_1_2, ash::khr::_8bit_storage::NAME);
    let dots = need(enabled.integer_dot_product, vk::API_VERSION_1_3, ash::khr::shader_integer_dot_product::NAME);
    let matrix = need(enabled.cooperative_matrix, u32::MAX, ash::khr::cooperative_matrix::NAME);
    need(matrix, vk::API_VERSION_1_2, ash::khr::vulkan_memory_model::NAME);
    need(true, u32::MAX, ash::khr::portability_subset::NAME);
    let mut arithmetic_features = vk::PhysicalDeviceShaderFloat16Int8Features::default()
        .shader_float16(enabled.f16_arithmetic)
        .shader_int8(enabled.int8_arithmetic);
    let mut storage16 = vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(true);
    let mut storage8 = vk::PhysicalDevice8BitStorageFeatures::default().storage_buffer8_bit_access(true);
    let mut dot_features =
        vk::PhysicalDeviceShaderIntegerDotProductFeatures::default().shader_integer_dot_product(true);
    let mut matrix_features = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    let mut model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default()
        .vulkan_memory_model(true)
        .vulkan_memory_model_device_scope(true);
    let names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(probe.family).queue_priorities(&[1.0])];
    let mut info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
    if arithmetic {
        info = info.push_next(&mut arithmetic_features);
    }
    if enabled.storage_16bit {
        info = info.push_next(&mut storage16);
    }
    if bytes {
        info = info.push_next(&mut storage8);
    }
    if dots {
        info = info.push_next(&mut dot_features);
    }
    if matrix {
        info = info.push_next(&mut matrix_features).push_next(&mut model);
    }
    let _alone = super::handles();
    // SAFETY: every pointer in `info` is to a local or a static that outlives the call; features and extensions are
    // ones that the probe found.
    instance.faults.attempt("vkCreateDevice", || unsafe { instance.raw.create_device(probe.physical, &info, None) })
}
