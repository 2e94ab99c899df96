//! The device that a compilation is for, as people name it.

use crate::targets::{Target, TargetError};
use std::path::Path;

/// Why there is no such target.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum NoTarget {
    #[error(transparent)]
    Profile(#[from] TargetError),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}: {source}")]
    Text { path: String, source: std::str::Utf8Error },
    #[cfg(feature = "runtime")]
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
}

/// A target, and whether it is that of a device here.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The profile.
    pub target: Target,
    /// Whether `auto` found no device, so that the profile is that of a driver that computes on the CPU.
    pub is_fallback: bool,
}

/// The profile that `text` means: `auto` (the best device here, GPUs before drivers that compute on the CPU; where
/// there is none, the profile of such a driver, whose programs run on the CPU reference), `cpu` (the same profile), a
/// shipped name, the path of a `.json` file, or its text.
///
/// # Errors
/// There is no such profile, it is bad, or Vulkan fails.
pub fn choose(text: &str) -> Result<Chosen, NoTarget> {
    let chosen = |target| Chosen { target, is_fallback: false };
    match text {
        "auto" => match here()? {
            Some(target) => Ok(chosen(target)),
            None => Ok(Chosen { target: Target::shipped(ON_CPU)?, is_fallback: true }),
        },
        "cpu" => Ok(chosen(Target::shipped(ON_CPU)?)),
        _ if text.trim_start().starts_with('{') => Ok(chosen(Target::from_json("given", text)?)),
        _ if text.ends_with(".json") => {
            let io = |source| NoTarget::Io { path: text.to_owned(), source };
            let bytes = std::fs::read(Path::new(text)).map_err(io)?;
            let bad = |source| NoTarget::Text { path: text.to_owned(), source };
            Ok(chosen(Target::from_json(text, std::str::from_utf8(&bytes).map_err(bad)?)?))
        }
        _ => Ok(chosen(Target::shipped(text)?)),
    }
}

/// The profile that was made for CPUs.
const ON_CPU: &str = "lavapipe";

#[cfg(feature = "runtime")]
fn here() -> Result<Option<Target>, NoTarget> {
    use crate::runtime::RuntimeError;
    match super::best_device() {
        Ok(device) => Ok(device.map(|device| device.target)),
        // Without a loader there is no device either.
        Err(RuntimeError::NoDevice { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(feature = "runtime"))]
fn here() -> Result<Option<Target>, NoTarget> {
    Ok(None)
}
