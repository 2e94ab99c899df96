//! The device that tests run on.

use nyxc::runtime::devices;
use nyxc::targets::Target;
use std::sync::OnceLock;

/// The first Vulkan device here, as NYXC_MASK leaves it; lavapipe where there is none.
pub fn target() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let first = || devices().unwrap_or_default().into_iter().next().map(|device| device.target);
    TARGET.get_or_init(|| first().unwrap_or_else(|| Target::shipped("lavapipe").unwrap())).clone()
}
