//! The Vulkan loader, the instance, and what the validation layers say.

use super::fault::Faults;
use super::{Options, cstr};
use crate::runtime::RuntimeError;
use ash::vk;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

static ERRORS: AtomicU64 = AtomicU64::new(0);

/// How many ERROR messages the validation layers have sent in this process.
pub fn validation_errors() -> u64 {
    ERRORS.load(Ordering::Relaxed)
}

const VALIDATION: &CStr = c"VK_LAYER_KHRONOS_validation";
/// Layers before may write invalid SPIR-V when they instrument a loop of one block; of those known to us 1.3.239 does
/// and 1.4.309 does not.
const GPU_ASSISTED_SINCE: u32 = vk::make_api_version(0, 1, 4, 0);

/// A `VkInstance`, and the loader that it came from.
pub(super) struct Instance {
    pub(super) entry: ash::Entry,
    pub(super) raw: ash::Instance,
    /// The version that devices of this instance may use at most.
    pub(super) version: u32,
    /// Whether `VK_EXT_debug_utils` is enabled.
    pub(super) debug: bool,
    /// Whether the validation layers instrument shaders.
    pub(super) gpu_assisted: bool,
    /// Whether they look for accesses that nothing orders.
    pub(super) sync: bool,
    /// Which of its calls, and those of its device, shall fail.
    pub(super) faults: Faults,
    messenger: Option<(ash::ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    owned: bool,
}

impl Instance {
    /// Loads Vulkan and makes an instance of at most the version that the mask leaves, so that the validation layers
    /// know it too.
    pub(super) fn new(options: &Options) -> Result<Instance, RuntimeError> {
        let validation = options.validation;
        let (sync, gpu) = options.checks()?;
        let most = match options.mask()?.map(|mask| mask.vulkan()) {
            Some([1, minor]) => vk::make_api_version(0, 1, minor.min(3), 0),
            _ => vk::API_VERSION_1_3,
        };
        let faults = options.faults()?;
        let entry = load(&faults)?;
        // SAFETY: the loader is loaded; the call takes nothing.
        let version =
            faults.attempt("vkEnumerateInstanceVersion", || unsafe { entry.try_enumerate_instance_version() })?;
        let version = version.unwrap_or(vk::API_VERSION_1_0).min(vk::API_VERSION_1_3).min(most);
        if version < vk::API_VERSION_1_1 {
            return Err(RuntimeError::Unsupported { what: "Vulkan 1.1: the loader has 1.0".to_owned() });
        }
        let extensions = extensions(&entry, &faults)?;
        // SAFETY: as above.
        let layers = faults
            .attempt("vkEnumerateInstanceLayerProperties", || unsafe { entry.enumerate_instance_layer_properties() })?;
        if validation && !layers.iter().any(|l| cstr(&l.layer_name) == VALIDATION) {
            return Err(RuntimeError::Unsupported {
                what: "NYXC_VALIDATION: VK_LAYER_KHRONOS_validation is not installed".to_owned(),
            });
        }
        let old = layers
            .iter()
            .find(|l| cstr(&l.layer_name) == VALIDATION && l.spec_version < GPU_ASSISTED_SINCE)
            .filter(|_| validation && gpu);
        if let Some(version) = old.map(|l| l.spec_version) {
            let (minor, patch) = (vk::api_version_minor(version), vk::api_version_patch(version));
            let what = format!(
                "NYXC_VALIDATION=gpu: validation layers of version 1.{minor}.{patch} break loops in shaders, those of 1.4 do not"
            );
            return Err(RuntimeError::Unsupported { what });
        }
        let debug = has(&extensions, ash::ext::debug_utils::NAME) || validation;
        let (mut names, flags) = all_drivers(&extensions);
        names.extend(debug.then_some(ash::ext::debug_utils::NAME.as_ptr()));
        let layers = if validation { vec![VALIDATION.as_ptr()] } else { Vec::new() };
        let application =
            vk::ApplicationInfo::default().application_name(c"nyxc").engine_name(c"nyxc").api_version(version);
        let mut messages = messages();
        let wanted = [
            (sync, vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION),
            (gpu, vk::ValidationFeatureEnableEXT::GPU_ASSISTED),
            (gpu, vk::ValidationFeatureEnableEXT::GPU_ASSISTED_RESERVE_BINDING_SLOT),
        ];
        let enabled: Vec<_> = wanted.into_iter().filter_map(|(on, feature)| on.then_some(feature)).collect();
        let mut features = vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
        let checking = validation && !enabled.is_empty();
        // The layer itself has this extension, whatever the driver has.
        names.extend(checking.then_some(ash::ext::validation_features::NAME.as_ptr()));
        let mut info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_extension_names(&names)
            .enabled_layer_names(&layers)
            .flags(flags);
        if validation {
            info = info.push_next(&mut messages);
        }
        if checking {
            info = info.push_next(&mut features);
        }
        let alone = super::handles();
        // SAFETY: every pointer in `info` is to a local or a static that outlives the call; the layers and extensions
        // were enumerated.
        let raw = faults.attempt("vkCreateInstance", || unsafe { entry.create_instance(&info, None) })?;
        drop(alone);
        let mut instance = Instance {
            entry,
            raw,
            version,
            debug,
            gpu_assisted: validation && gpu,
            sync: validation && sync,
            faults,
            messenger: None,
            owned: true,
        };
        if validation {
            let functions = ash::ext::debug_utils::Instance::new(&instance.entry, &instance.raw);
            // SAFETY: the extension is enabled; the callback is a function of this module that needs no user data.
            let create = || unsafe { functions.create_debug_utils_messenger(&self::messages(), None) };
            let raw = instance.faults.attempt("vkCreateDebugUtilsMessengerEXT", create)?;
            instance.messenger = Some((functions, raw));
        }
        Ok(instance)
    }

    /// An instance that the caller made and keeps.
    ///
    /// # Safety
    /// `raw` is a live instance of the loader that [`ash::Entry::load`] finds, of at least `version`, and outlives the
    /// result.
    pub(super) unsafe fn borrowed(raw: vk::Instance, version: u32, faults: Faults) -> Result<Instance, RuntimeError> {
        let entry = load(&faults)?;
        // SAFETY: the caller's promise.
        let raw = unsafe { ash::Instance::load(entry.static_fn(), raw) };
        Ok(Instance {
            entry,
            raw,
            version,
            debug: false,
            gpu_assisted: false,
            sync: false,
            faults,
            messenger: None,
            owned: false,
        })
    }

    /// Devices of at least Vulkan 1.1, in the driver's order.
    pub(super) fn physical_devices(&self) -> Result<Vec<vk::PhysicalDevice>, RuntimeError> {
        // SAFETY: the instance is live.
        let all =
            self.faults.attempt("vkEnumeratePhysicalDevices", || unsafe { self.raw.enumerate_physical_devices() })?;
        // SAFETY: the devices are this instance's.
        Ok(all
            .into_iter()
            .filter(|&d| unsafe { self.raw.get_physical_device_properties(d) }.api_version >= vk::API_VERSION_1_1)
            .collect())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some((functions, messenger)) = &self.messenger {
            // SAFETY: it was made from this instance and nothing else destroys it.
            unsafe { functions.destroy_debug_utils_messenger(*messenger, None) };
        }
        if self.owned {
            let _alone = super::handles();
            // SAFETY: every device holds this struct behind an `Arc`, so all are destroyed by now.
            unsafe { self.raw.destroy_instance(None) };
        }
    }
}

/// The loader and a bare instance, which keep it and the drivers loaded for as long as the process runs.
static LOADED: Mutex<Option<(ash::Entry, ash::Instance)>> = Mutex::new(None);

/// The Vulkan loader. The last instance to go takes the drivers out of the process with it, and a thread that ends
/// after that calls what a driver had registered for the end of threads (`pthread_key_create`), at an address where
/// nothing is: NVIDIA's 580 ends the process so. One instance stays.
fn load(faults: &Faults) -> Result<ash::Entry, RuntimeError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((entry, _)) = &*loaded {
        return Ok(entry.clone());
    }
    // SAFETY: loading the Vulkan loader runs its initialisers; it is the system's own library, and `LOADED` keeps it
    // loaded.
    let entry = unsafe { ash::Entry::load() };
    let entry =
        entry.map_err(|e| RuntimeError::NoDevice { reason: format!("the Vulkan loader is not installed ({e})") })?;
    let (names, flags) = all_drivers(&extensions(&entry, faults)?);
    let info = vk::InstanceCreateInfo::default().enabled_extension_names(&names).flags(flags);
    let alone = super::handles();
    // SAFETY: every pointer in `info` is to a local or a static that outlives the call; the extensions were enumerated.
    let kept = faults.attempt("vkCreateInstance", || unsafe { entry.create_instance(&info, None) })?;
    drop(alone);
    *loaded = Some((entry.clone(), kept));
    Ok(entry)
}

fn extensions(entry: &ash::Entry, faults: &Faults) -> Result<Vec<vk::ExtensionProperties>, RuntimeError> {
    // SAFETY: the loader is loaded; the call takes nothing.
    faults.attempt("vkEnumerateInstanceExtensionProperties", || unsafe {
        entry.enumerate_instance_extension_properties(None)
    })
}

fn has(extensions: &[vk::ExtensionProperties], wanted: &CStr) -> bool {
    extensions.iter().any(|e| cstr(&e.extension_name) == wanted)
}

/// What makes an instance list every driver, those that are not quite Vulkan (MoltenVK) too.
fn all_drivers(extensions: &[vk::ExtensionProperties]) -> (Vec<*const c_char>, vk::InstanceCreateFlags) {
    if has(extensions, ash::khr::portability_enumeration::NAME) {
        (vec![ash::khr::portability_enumeration::NAME.as_ptr()], vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR)
    } else {
        (Vec::new(), vk::InstanceCreateFlags::empty())
    }
}

fn messages() -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
    vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR)
        .message_type(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION)
        .pfn_user_callback(Some(on_message))
}

unsafe extern "system" fn on_message(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _types: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    _user: *mut c_void,
) -> vk::Bool32 {
    ERRORS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the layer passes a valid structure whose message, where set, is a C string, both alive during the
    // callback.
    let text = unsafe {
        data.as_ref().filter(|d| !d.p_message.is_null()).map(|d| CStr::from_ptr(d.p_message).to_string_lossy())
    };
    // Writing may fail where standard error is closed; a callback must not unwind into C.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("vulkan validation: {}\n", text.unwrap_or_default()),
    );
    vk::FALSE
}
