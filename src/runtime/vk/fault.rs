//! Faults on demand: one call of Vulkan that may fail does, so that tests show what happens then.

use super::call;
use crate::runtime::RuntimeError;
use ash::vk;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Which call fails, and how, as [`super::Options::fault`] spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    call: String,
    at: u64,
    code: vk::Result,
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Fault, String> {
        let wrong = || {
            format!(
                "{text:?} is no fault: expected CALL:K=RESULT, with K from 1 and a RESULT of device-memory, host-memory, initialization or lost"
            )
        };
        let (place, code) = text.split_once('=').ok_or_else(wrong)?;
        let (call, at) = place.split_once(':').ok_or_else(wrong)?;
        let code = match code {
            "device-memory" => vk::Result::ERROR_OUT_OF_DEVICE_MEMORY,
            "host-memory" => vk::Result::ERROR_OUT_OF_HOST_MEMORY,
            "initialization" => vk::Result::ERROR_INITIALIZATION_FAILED,
            "lost" => vk::Result::ERROR_DEVICE_LOST,
            _ => return Err(wrong()),
        };
        let at = at.parse().ok().filter(|&at| at > 0 && (call == "any" || call.starts_with("vk"))).ok_or_else(wrong)?;
        Ok(Fault { call: call.to_owned(), at, code })
    }
}

/// Counts the calls of an instance and its device, and lets one fail.
#[derive(Debug, Default)]
pub(super) struct Faults {
    wanted: Option<Fault>,
    seen: AtomicU64,
    is_lost: AtomicBool,
}

impl Faults {
    pub(super) fn new(wanted: Option<Fault>) -> Faults {
        Faults { wanted, ..Faults::default() }
    }

    /// What the call `name`, about to be made, fails with.
    pub(super) fn strike(&self, name: &str) -> Option<vk::Result> {
        if self.is_lost.load(Ordering::Relaxed) {
            return Some(vk::Result::ERROR_DEVICE_LOST);
        }
        let wanted = self.wanted.as_ref();
        if wanted.is_some_and(|fault| fault.call != name && fault.call != "any") {
            return None;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = wanted.filter(|fault| fault.at == seen)?;
        self.is_lost.store(fault.code == vk::Result::ERROR_DEVICE_LOST, Ordering::Relaxed);
        Some(fault.code)
    }

    /// Makes a call that may fail, and names it where it did.
    pub(super) fn attempt<T>(
        &self,
        name: &'static str,
        f: impl FnOnce() -> Result<T, vk::Result>,
    ) -> Result<T, RuntimeError> {
        self.strike(name).map_or_else(f, Err).map_err(call(name))
    }

    /// How many calls were counted.
    #[cfg(test)]
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_that_was_named_fails_once_and_a_lost_device_stays_lost() {
        let faults = Faults::new(Some("vkMapMemory:2=host-memory".parse().unwrap()));
        let struck: Vec<_> = ["vkMapMemory", "vkCreateFence", "vkMapMemory", "vkMapMemory"]
            .iter()
            .map(|name| faults.strike(name))
            .collect();
        assert_eq!(struck, [None, None, Some(vk::Result::ERROR_OUT_OF_HOST_MEMORY), None]);
        let faults = Faults::new(Some("any:2=lost".parse().unwrap()));
        assert_eq!(faults.strike("vkCreateFence"), None);
        for _ in 0..3 {
            assert_eq!(faults.strike("vkQueueSubmit"), Some(vk::Result::ERROR_DEVICE_LOST));
        }
        for text in ["", "any", "any:0=lost", "any:1=gone", "any=lost", "any:x=lost", ":1=lost", "QueueSubmit:1=lost"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
