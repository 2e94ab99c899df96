//! All that touches Vulkan, and all `unsafe` code of the runtime. Each object destroys itself when dropped and keeps
//! what it was made from alive.

mod buffer;
mod cache;
mod commands;
mod context;
mod fault;
mod instance;
mod pipelines;
mod probe;

pub(super) use buffer::{Buffer, Meter, Place, heap};
pub(super) use commands::{Commands, Fence, Queries, Tally};
pub use context::{Options, RawDevice, VkContext};
pub use instance::validation_errors;
pub(super) use pipelines::{Bound, Pipelines};
pub use probe::{DeviceInfo, DeviceKind, devices};

use super::RuntimeError;
use ash::vk;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while an instance or a device is made or destroyed, and while the loader looks a device up, as it does for a
/// name or a function of it. Layers forget a handle only after the driver gave it back, when another thread may have
/// been given the same: the validation layers then take its device for unknown. The loader looks through a list of all
/// devices, from which it takes and frees those that go without a lock (Vulkan-Loader #2018).
pub(super) fn handles() -> MutexGuard<'static, ()> {
    static HANDLES: Mutex<()> = Mutex::new(());
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a shader is made under GPU-assisted validation. Layers as of 1.4.309 keep in a static variable which
/// function they link into a shader, so that of two threads one may get the other's number for it, and then hands
/// SPIR-V that is not valid to the driver (Vulkan-ValidationLayers #9809).
pub(super) fn instrumenting() -> MutexGuard<'static, ()> {
    static INSTRUMENTING: Mutex<()> = Mutex::new(());
    INSTRUMENTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the call that failed.
fn call(name: &'static str) -> impl Fn(vk::Result) -> RuntimeError {
    move |code| match code {
        vk::Result::ERROR_DEVICE_LOST => RuntimeError::DeviceLost,
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => {
            RuntimeError::NoDevice { reason: "no Vulkan driver is installed".to_owned() }
        }
        _ => RuntimeError::Vulkan { call: name, code: code.as_raw() },
    }
}

/// A name in one of Vulkan's fixed arrays; empty where it has no end.
fn cstr(array: &[c_char]) -> &CStr {
    let bytes: &[u8] = bytemuck::cast_slice(array);
    CStr::from_bytes_until_nul(bytes).unwrap_or(c"")
}
