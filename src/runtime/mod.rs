//! Runs programs on Vulkan devices. It sees a [`crate::program::Program`], never a graph.
//!
//! ```no_run
//! use nyxc::{program::file, runtime::{Executor, Options, VkContext}};
//!
//! let program = file::open("model.nyx".as_ref())?;
//! let context = VkContext::open(0, &program.target.features, &Options::from_env())?;
//! let mut executor = Executor::load(&program, 0, &context)?;
//! assert!(executor.measured_peak_bytes() <= executor.planned_peak_bytes());
//! let run = executor.run(&[])?;
//! println!("{:?} in {:?} ms", run.outputs, run.device_ms);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod convert;
mod error;
mod executor;
mod fetch;
mod memory;
mod params;
mod pool;
mod ring;
mod run;
mod segment;
mod states;
mod tensor;
#[cfg(all(test, feature = "codegen"))]
mod tests;
mod timeline;
mod vk;

pub use crate::program::profile::Work;
pub use error::{HostError, RuntimeError};
pub use executor::{Executor, HostFn, RunOutput};
pub use tensor::{DeviceTensor, Given};
pub use vk::{DeviceInfo, DeviceKind, Options, RawDevice, VkContext, devices, validation_errors};
