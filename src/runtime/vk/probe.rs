//! What a device is and can do, as a [`Target`].

use super::instance::Instance;
use super::{Options, cstr};
use crate::runtime::RuntimeError;
use crate::targets::{Features, Limits, Mask, MatrixShape, MatrixTypes, Memory, Target};
use ash::vk;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};

/// What kind of device it is (`VkPhysicalDeviceType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Vulkan's")]
pub enum DeviceKind {
    Discrete,
    Integrated,
    Virtual,
    Cpu,
    Other,
}

/// A device that programs can run on.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its number, 0-based, in the order of the driver: what [`super::VkContext::open`] takes.
    pub index: usize,
    /// Its name, as the driver gives it.
    pub name: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// Name and version of the driver.
    pub driver: String,
    /// What it can do: as much as its mask leaves.
    pub target: Target,
    /// The mask that makes it behave as a weaker device, as it was spelled.
    pub mask: Option<String>,
}

/// Every device of at least Vulkan 1.1 with a compute queue that can be opened, in the driver's order; none where there
/// is no driver. `NYXC_MASK` makes them weaker ([`Options::from_env`]).
///
/// # Errors
/// The loader is missing, or has only Vulkan 1.0, or a call fails for every device, or an option of the environment is
/// none.
pub fn devices() -> Result<Vec<DeviceInfo>, RuntimeError> {
    let options = Options { validation: false, ..Options::from_env() };
    let mask = options.mask()?;
    let instance = match Instance::new(&options) {
        Err(RuntimeError::NoDevice { reason }) if reason.contains("driver") => return Ok(Vec::new()),
        other => other?,
    };
    let (mut found, mut failed) = (Vec::new(), None);
    for (index, physical) in instance.physical_devices()?.into_iter().enumerate() {
        let opened = Probe::read(&instance, physical, index).and_then(|mut probe| {
            probe.mask(mask.as_ref());
            Ok((super::context::bare(&instance, &probe)?, probe))
        });
        let (device, mut probe) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                failed = failed
                    .or(Some(error).filter(|e| matches!(e, RuntimeError::Vulkan { .. } | RuntimeError::DeviceLost)));
                continue;
            }
        };
        probe.granularity(granularity(&device));
        let _alone = super::handles();
        // SAFETY: it was made for this question alone, and `granularity` leaves nothing of it.
        unsafe { device.destroy_device(None) };
        found.push(probe.info);
    }
    failed.filter(|_| found.is_empty()).map_or(Ok(found), Err)
}

/// Operations of subgroups that kernels of a target with `subgroup_arithmetic` have.
const ARITHMETIC: vk::SubgroupFeatureFlags = vk::SubgroupFeatureFlags::from_raw(
    vk::SubgroupFeatureFlags::BASIC.as_raw() | vk::SubgroupFeatureFlags::ARITHMETIC.as_raw(),
);
/// Mesa 22.3 to 26.1, `LP_MAX_TGSI_LOOP_ITERATIONS`: see [`Limits::max_loop_iterations`].
const LLVMPIPE_LOOP_ITERATIONS: u64 = 65535;

/// A device's description with what only the runtime needs.
pub(super) struct Probe {
    pub(super) info: DeviceInfo,
    pub(super) physical: vk::PhysicalDevice,
    /// The Vulkan version that instance and device share.
    pub(super) version: u32,
    /// A queue family with compute, preferably one without graphics.
    pub(super) family: u32,
    /// Valid bits of a timestamp of that family; 0 where it has none.
    pub(super) timestamp_bits: u32,
    /// Nanoseconds of a timestamp's tick.
    pub(super) timestamp_period: f32,
    pub(super) subgroup_operations: vk::SubgroupFeatureFlags,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    pub(super) extensions: Vec<CString>,
    /// Identifies device and driver: vendor, device, driver version, `pipelineCacheUUID`.
    pub(super) identity: (u32, u32, u32, [u8; 16]),
}

impl Probe {
    pub(super) fn read(instance: &Instance, physical: vk::PhysicalDevice, index: usize) -> Result<Probe, RuntimeError> {
        let raw = &instance.raw;
        // SAFETY: `physical` is a device of this live instance, here and in every call below.
        let properties = unsafe { raw.get_physical_device_properties(physical) };
        let version = properties.api_version.min(instance.version);
        // SAFETY: as above.
        let extensions = instance.faults.attempt("vkEnumerateDeviceExtensionProperties", || unsafe {
            raw.enumerate_device_extension_properties(physical)
        })?;
        let extensions: Vec<CString> = extensions.iter().map(|e| cstr(&e.extension_name).to_owned()).collect();
        let core = |at_least: u32, name: &CStr| version >= at_least || extensions.iter().any(|e| e.as_c_str() == name);
        let driver_known = core(vk::API_VERSION_1_2, ash::khr::driver_properties::NAME);
        let dot = core(vk::API_VERSION_1_3, ash::khr::shader_integer_dot_product::NAME);

        let (mut subgroup, mut maintenance) =
            (vk::PhysicalDeviceSubgroupProperties::default(), vk::PhysicalDeviceMaintenance3Properties::default());
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut dots = vk::PhysicalDeviceShaderIntegerDotProductProperties::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut subgroup).push_next(&mut maintenance);
        if driver_known {
            all = all.push_next(&mut driver);
        }
        if dot {
            all = all.push_next(&mut dots);
        }
        // SAFETY: every structure in the chain is core in 1.1 or known to this device, as just checked.
        unsafe { raw.get_physical_device_properties2(physical, &mut all) };
        // SAFETY: as above.
        let memory = unsafe { raw.get_physical_device_memory_properties(physical) };
        // SAFETY: as above.
        let families = unsafe { raw.get_physical_device_queue_family_properties(physical) };
        let compute = |graphics: bool| {
            families.iter().zip(0u32..).find(|(f, _)| {
                f.queue_flags.contains(vk::QueueFlags::COMPUTE)
                    && f.queue_flags.contains(vk::QueueFlags::GRAPHICS) == graphics
                    && f.queue_count > 0
            })
        };
        let name = cstr(properties.device_name.as_slice()).to_string_lossy().into_owned();
        let Some((family, family_idx)) = compute(false).or_else(|| compute(true)) else {
            return Err(RuntimeError::Unsupported { what: format!("{name}: no queue family has compute") });
        };
        let kind = match properties.device_type {
            vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::Discrete,
            vk::PhysicalDeviceType::INTEGRATED_GPU => DeviceKind::Integrated,
            vk::PhysicalDeviceType::VIRTUAL_GPU => DeviceKind::Virtual,
            vk::PhysicalDeviceType::CPU => DeviceKind::Cpu,
            _ => DeviceKind::Other,
        };
        let driver_id = driver.driver_id;
        let driver = match (cstr(&driver.driver_name).to_string_lossy(), cstr(&driver.driver_info).to_string_lossy()) {
            (name, _) if name.is_empty() => format!("driver {:#x}", properties.driver_version),
            (name, info) => format!("{name} {info}"),
        };
        // By its name too: a driver of Vulkan 1.1 need not say which it is.
        let is_llvmpipe = driver_id == vk::DriverId::MESA_LLVMPIPE || name.starts_with("llvmpipe");
        let max_loop_iterations = is_llvmpipe.then_some(LLVMPIPE_LOOP_ITERATIONS);
        let memory_profile = profile(&memory, kind);
        let features = features(
            instance,
            physical,
            &core,
            dot && dots.integer_dot_product4x8_bit_packed_signed_accelerated == vk::TRUE,
            &subgroup,
        );
        let source = format!("read from the device by nyxc, driver {driver}");
        let (rates, tuning) = Target::measured(&slug(&name));
        let target = Target {
            name: slug(&name),
            description: format!("{name}, {driver}"),
            sources: ["limits", "features", "memory"]
                .into_iter()
                .map(|group| (group.to_owned(), source.clone()))
                .collect::<BTreeMap<_, _>>(),
            vulkan: [vk::api_version_major(version), vk::api_version_minor(version)],
            limits: limits(&properties.limits, &maintenance, subgroup.subgroup_size, max_loop_iterations),
            features,
            memory: memory_profile,
            rates,
            tuning,
        };
        Ok(Probe {
            info: DeviceInfo { index, name, kind, driver, target, mask: None },
            physical,
            version,
            family: family_idx,
            timestamp_bits: family.timestamp_valid_bits,
            timestamp_period: properties.limits.timestamp_period,
            subgroup_operations: subgroup.supported_operations,
            memory,
            extensions,
            identity: (
                properties.vendor_id,
                properties.device_id,
                properties.driver_version,
                properties.pipeline_cache_uuid,
            ),
        })
    }

    /// Makes the device behave as a weaker one. Of the operations of subgroups the basic ones remain, which every
    /// device of Vulkan 1.1 has, and those of the features that the mask leaves.
    pub(super) fn mask(&mut self, mask: Option<&Mask>) {
        let Some(mask) = mask else { return };
        self.info.target = mask.apply(&self.info.target);
        self.info.mask = Some(mask.text().to_owned());
        let features = &self.info.target.features;
        let mut left = vk::SubgroupFeatureFlags::BASIC;
        if features.subgroup_arithmetic {
            left |= ARITHMETIC;
        }
        if features.cooperative_matrix {
            left |= vk::SubgroupFeatureFlags::SHUFFLE;
        }
        self.subgroup_operations &= left;
    }

    /// Notes to what the driver rounds, where a mask does not round to more.
    pub(super) fn granularity(&mut self, bytes: u64) {
        let known = &mut self.info.target.memory.allocation_granularity;
        *known = bytes.max(*known);
    }

    pub(super) fn has(&self, name: &CStr) -> bool {
        self.extensions.iter().any(|e| e.as_c_str() == name)
    }
}

fn limits(
    l: &vk::PhysicalDeviceLimits,
    maintenance: &vk::PhysicalDeviceMaintenance3Properties<'_>,
    subgroup_size: u32,
    max_loop_iterations: Option<u64>,
) -> Limits {
    Limits {
        max_storage_buffer_range: u64::from(l.max_storage_buffer_range),
        max_memory_allocation_size: maintenance.max_memory_allocation_size,
        min_storage_buffer_offset_alignment: l.min_storage_buffer_offset_alignment,
        min_uniform_buffer_offset_alignment: l.min_uniform_buffer_offset_alignment,
        max_uniform_buffer_range: u64::from(l.max_uniform_buffer_range),
        max_per_stage_descriptor_storage_buffers: l
            .max_per_stage_descriptor_storage_buffers
            .min(l.max_descriptor_set_storage_buffers),
        max_compute_shared_memory_size: l.max_compute_shared_memory_size,
        max_compute_work_group_invocations: l.max_compute_work_group_invocations,
        max_compute_work_group_size: l.max_compute_work_group_size,
        max_compute_work_group_count: l.max_compute_work_group_count,
        max_push_constants_size: l.max_push_constants_size,
        subgroup_size,
        max_loop_iterations,
    }
}

fn profile(memory: &vk::PhysicalDeviceMemoryProperties, kind: DeviceKind) -> Memory {
    let heaps = &memory.memory_heaps_as_slice();
    let local =
        |heap: u32| heaps.get(heap as usize).is_some_and(|h| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
    let shared = memory.memory_types_as_slice().iter().all(|t| local(t.heap_index));
    let largest =
        heaps.iter().filter(|h| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL)).map(|h| h.size).max().unwrap_or(0);
    // The granularity is found by asking a logical device, later.
    Memory {
        unified: shared || matches!(kind, DeviceKind::Cpu | DeviceKind::Integrated),
        heap_bytes: largest,
        allocation_granularity: 1,
    }
}

fn features(
    instance: &Instance,
    physical: vk::PhysicalDevice,
    core: &dyn Fn(u32, &CStr) -> bool,
    dot_accelerated: bool,
    subgroup: &vk::PhysicalDeviceSubgroupProperties<'_>,
) -> Features {
    let mut storage16 = vk::PhysicalDevice16BitStorageFeatures::default();
    let mut arithmetic = vk::PhysicalDeviceShaderFloat16Int8Features::default();
    let mut storage8 = vk::PhysicalDevice8BitStorageFeatures::default();
    let mut dot = vk::PhysicalDeviceShaderIntegerDotProductFeatures::default();
    let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
    let mut model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default();
    let has_matrix = core(u32::MAX, ash::khr::cooperative_matrix::NAME);
    let mut all = vk::PhysicalDeviceFeatures2::default().push_next(&mut storage16);
    if core(vk::API_VERSION_1_2, ash::khr::shader_float16_int8::NAME) {
        all = all.push_next(&mut arithmetic);
    }
    if core(vk::API_VERSION_1_2, ash::khr::_8bit_storage::NAME) {
        all = all.push_next(&mut storage8);
    }
    if core(vk::API_VERSION_1_3, ash::khr::shader_integer_dot_product::NAME) {
        all = all.push_next(&mut dot);
    }
    if core(vk::API_VERSION_1_2, ash::khr::vulkan_memory_model::NAME) {
        all = all.push_next(&mut model);
    }
    if has_matrix {
        all = all.push_next(&mut matrix);
    }
    // SAFETY: `physical` is a device of this live instance, and every structure in the chain is one that it knows, as
    // just checked.
    unsafe { instance.raw.get_physical_device_features2(physical, &mut all) };
    let on = |b: vk::Bool32| b == vk::TRUE;
    let mut matrix_shapes = if has_matrix { matrix_shapes(instance, physical) } else { Vec::new() };
    // With the memory model on, the atomics that store emulated f16 need its device scope
    // (VUID-RuntimeSpirv-vulkanMemoryModel-06265).
    let cooperative_matrix = on(matrix.cooperative_matrix)
        && on(model.vulkan_memory_model)
        && on(model.vulkan_memory_model_device_scope)
        && matrix_shapes.iter().any(|shape| shape.types == MatrixTypes::F16);
    matrix_shapes.retain(|_| cooperative_matrix);
    Features {
        f16_arithmetic: on(arithmetic.shader_float16),
        int8_arithmetic: on(arithmetic.shader_int8),
        storage_16bit: on(storage16.storage_buffer16_bit_access),
        storage_8bit: on(storage8.storage_buffer8_bit_access),
        integer_dot_product: on(dot.shader_integer_dot_product),
        integer_dot_product_accelerated: on(dot.shader_integer_dot_product) && dot_accelerated,
        cooperative_matrix,
        matrix_shapes,
        subgroup_arithmetic: subgroup.supported_stages.contains(vk::ShaderStageFlags::COMPUTE)
            && subgroup.supported_operations.contains(ARITHMETIC),
    }
}

/// What subgroups of the device, which has the extension, multiply, in order: of the types that are used here, without
/// saturation.
fn matrix_shapes(instance: &Instance, physical: vk::PhysicalDevice) -> Vec<MatrixShape> {
    let functions = ash::khr::cooperative_matrix::Instance::new(&instance.entry, &instance.raw);
    // SAFETY: the device has the extension.
    let all = unsafe { functions.get_physical_device_cooperative_matrix_properties(physical) }.unwrap_or_default();
    let shapes = all.iter().filter_map(|s| {
        let types = match (s.a_type, s.result_type) {
            (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32) => MatrixTypes::F16,
            (vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT32) => MatrixTypes::I8,
            _ => return None,
        };
        let is_plain = s.a_type == s.b_type
            && s.c_type == s.result_type
            && s.saturating_accumulation == vk::FALSE
            && s.scope == vk::ScopeKHR::SUBGROUP;
        let shape = MatrixShape { types, m: s.m_size, n: s.n_size, k: s.k_size };
        // Sides that have no name are not used.
        (is_plain && MatrixShape::try_from(shape.to_string()).is_ok()).then_some(shape)
    });
    shapes.collect::<BTreeSet<_>>().into_iter().collect()
}

/// To what multiple the driver rounds: the sizes asked are one byte above a power of two, so the lowest bit of each
/// answer is that multiple.
pub(super) fn granularity(device: &ash::Device) -> u64 {
    let mut largest = 1;
    for power in [17, 18, 20, 22, 24, 26] {
        let info = vk::BufferCreateInfo::default().size((1 << power) + 1).usage(super::buffer::USAGE);
        // SAFETY: the device is live, the structure complete; the buffer is destroyed below and never used.
        let asked = unsafe { device.create_buffer(&info, None) }.map(|buffer| {
            // SAFETY: as above.
            let bytes = unsafe { device.get_buffer_memory_requirements(buffer) }.size;
            // SAFETY: as above.
            unsafe { device.destroy_buffer(buffer, None) };
            bytes
        });
        if let Ok(bytes) = asked {
            largest = largest.max(1 << bytes.trailing_zeros().min(20));
        }
    }
    largest
}

fn slug(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
