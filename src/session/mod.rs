//! The whole way: a graph to a program, a program to results.

mod calibrate;
mod call;
pub mod compare;
#[cfg(feature = "codegen")]
mod compile;
mod cpu;
#[cfg(feature = "codegen")]
mod explain;
mod inputs;
#[cfg(feature = "codegen")]
mod module;
pub mod npz;
mod report;
mod run;
mod samples;
mod sensitivity;
pub mod size;
pub mod target;

pub use calibrate::{CalibrateError, calibrate};
#[cfg(feature = "codegen")]
pub use calibrate::{calibrate_for, sensitivities_for};
pub use call::{Call, DeviceTensor};
#[cfg(feature = "codegen")]
pub use compile::{Compile, CompileError, Compiled, Progress, budget_bounds, compile, compile_with, kernels_of};
pub use cpu::{CpuError, Reference, States, Tap};
pub use inputs::InputError;
#[cfg(feature = "codegen")]
pub use module::compile_module;
pub use run::{DeviceChoice, NodeProgress, Outcome, Session, SessionError};
#[cfg(feature = "runtime")]
pub use run::{best_device, is_of_device};
pub use samples::{SampleError, Samples};
pub use sensitivity::{Divergence, sensitivities};
