//! Tensors on a device outside of programs: what one run leaves for another without the host in between.

use super::RuntimeError;
use super::convert::device_bytes;
use super::vk::{Buffer, VkContext};
use crate::ir::{DType, Dim, Shape, Tensor, TensorType};
use crate::program::Port;

/// A tensor on a device. It lives as long as its owner keeps it, and counts against the budget of the program whose
/// executor made it. Any executor on the same device may read and write it.
pub struct DeviceTensor {
    pub(super) buffer: Buffer,
    context: VkContext,
    dtype: DType,
    device_dtype: DType,
    /// Its sizes since the last run that wrote it; `None` before the first.
    shape: Option<Vec<usize>>,
}

/// An input of a run.
#[derive(Clone, Copy)]
pub enum Given<'a> {
    /// A tensor of the host, in the model's type.
    Host(&'a Tensor),
    /// One that is on the device.
    Device(&'a DeviceTensor),
}

impl Given<'_> {
    /// Its sizes; none of a tensor that no run wrote yet.
    pub(super) fn dims(&self) -> Vec<usize> {
        match self {
            Given::Host(tensor) => tensor.dims(),
            Given::Device(tensor) => tensor.shape.clone().unwrap_or_default(),
        }
    }
}

impl DeviceTensor {
    pub(super) fn new(buffer: Buffer, context: &VkContext, port: &Port) -> DeviceTensor {
        let (dtype, device_dtype) = (port.dtype, port.device_dtype);
        DeviceTensor { buffer, context: context.clone(), dtype, device_dtype, shape: None }
    }

    /// Its type; `None` before a run wrote it.
    pub fn ty(&self) -> Option<TensorType> {
        self.shape.as_ref().map(|shape| TensorType::of(self.dtype, shape))
    }

    /// Whether it may be an input at `port`, whose sizes are known.
    pub(super) fn check_input(&self, port: &Port, context: &VkContext) -> Result<(), RuntimeError> {
        let wanted = TensorType::new(port.dtype, Shape(port.shape.clone()));
        match self.ty() {
            None => Err(refuse(port, "a tensor on the device that no run has written".to_owned())),
            Some(ty) if ty != wanted || self.device_dtype != port.device_dtype => Err(refuse(
                port,
                format!("{ty} given as {}, {wanted} as {} wanted", self.device_dtype, port.device_dtype),
            )),
            Some(_) => self.check_device(port, context),
        }
    }

    /// Whether an output at `port`, whose sizes are known, may be kept in it.
    pub(super) fn check_output(&self, port: &Port, context: &VkContext) -> Result<(), RuntimeError> {
        let needed = device_bytes(port) as u64;
        if (self.dtype, self.device_dtype) != (port.dtype, port.device_dtype) || needed > self.buffer.bytes() {
            let (here, bytes) = (self.dtype, self.buffer.bytes());
            return Err(refuse(port, format!("{needed} bytes of {} kept in {bytes} of {here}", port.dtype)));
        }
        self.check_device(port, context)
    }

    fn check_device(&self, port: &Port, context: &VkContext) -> Result<(), RuntimeError> {
        let is_same = self.context.is_same(context);
        if is_same { Ok(()) } else { Err(refuse(port, "a tensor on another device".to_owned())) }
    }

    /// A run is about to write it: until that is done nobody reads it.
    pub(super) fn forget(&mut self) {
        self.shape = None;
    }

    /// A run has written it.
    pub(super) fn set_shape(&mut self, port: &Port) {
        let size = |dim: &Dim| dim.known().and_then(|n| usize::try_from(n).ok());
        self.shape = port.shape.iter().map(size).collect();
    }
}

fn refuse(port: &Port, fault: String) -> RuntimeError {
    RuntimeError::Input { name: port.name.clone(), fault }
}
