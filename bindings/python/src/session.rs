//! Programs on a device.

use crate::arrays;
use crate::errors::{raise, raised};
use crate::program::Program;
use nyxc::failure::Failure;
use nyxc::ir::Tensor;
use nyxc::runtime::DeviceKind;
use nyxc::session::{DeviceChoice, Outcome};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// A program loaded on a device. Threads may share it: runs take turns.
#[pyclass(frozen, module = "nyxc._nyxc", name = "Session")]
pub(crate) struct Session {
    session: Mutex<nyxc::session::Session>,
    device: String,
}

/// What `--device` takes.
fn choice(text: &str) -> Result<DeviceChoice, Failure> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "vulkan" => Ok(DeviceChoice::Vulkan),
        "vulkan,cpu" => Ok(DeviceChoice::VulkanOrCpu),
        "cpu" => Ok(DeviceChoice::Cpu),
        _ => text.parse().map(DeviceChoice::Index).map_err(|_| {
            arrays::usage(format!("device {text:?} is not one of auto, vulkan, \"vulkan,cpu\", cpu and an index"))
        }),
    }
}

impl Session {
    /// The session, also where a run on another thread ended in a panic: each run begins anew.
    fn lock(&self) -> MutexGuard<'_, nyxc::session::Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an entry: the names of the outputs that are not kept, and what it gave.
    fn call(
        &self,
        entry: Option<String>,
        inputs: BTreeMap<String, Tensor>,
        given: &[(String, Py<DeviceTensor>)],
        kept: &[(String, Py<DeviceTensor>)],
    ) -> Result<(Vec<String>, Outcome), Failure> {
        let mut session = self.lock();
        let name = entry_of(&session, entry);
        let entries = session.program().plans.first().map(|plan| plan.entries.as_slice()).unwrap_or_default();
        let is_kept = |output: &str| kept.iter().any(|(name, _)| name == output);
        let names = entries.iter().find(|entry| entry.name == name).into_iter().flat_map(|entry| &entry.outputs);
        let names = names.map(|port| port.name.clone()).filter(|output| !is_kept(output)).collect();
        let read = given.iter().map(|(name, tensor)| Ok((name, tensor.get().held(name)?)));
        let read = read.collect::<Result<Vec<_>, Failure>>()?;
        let written = kept.iter().map(|(name, tensor)| Ok((name, tensor.get().held(name)?)));
        let mut written = written.collect::<Result<Vec<_>, Failure>>()?;
        let mut call = session.entry(&name)?;
        for (name, tensor) in &read {
            call = call.give(name, tensor)?;
        }
        for (name, tensor) in &mut written {
            call = call.keep(name, tensor)?;
        }
        Ok((names, call.run_named(inputs)?))
    }
}

/// The entry of this name; the first where none is named.
fn entry_of(session: &nyxc::session::Session, entry: Option<String>) -> String {
    entry.unwrap_or_else(|| session.entries().next().unwrap_or_default().to_owned())
}

/// A tensor that stays where a session runs.
#[pyclass(frozen, module = "nyxc._nyxc", name = "DeviceTensor")]
pub(crate) struct DeviceTensor {
    tensor: Mutex<nyxc::session::DeviceTensor>,
}

impl DeviceTensor {
    /// The tensor, for one run: one that another run has, or this one under another name, is refused.
    fn held(&self, port: &str) -> Result<MutexGuard<'_, nyxc::session::DeviceTensor>, Failure> {
        match self.tensor.try_lock() {
            Ok(held) => Ok(held),
            Err(TryLockError::Poisoned(held)) => Ok(held.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(arrays::usage(format!("the tensor for {port:?} is in use: a run reads or writes it already")))
            }
        }
    }
}

#[pymethods]
impl DeviceTensor {
    /// Element type and sizes; `None` before a run wrote it.
    #[getter]
    fn ty(&self, py: Python<'_>) -> Option<(String, Vec<i64>)> {
        let ty = py.detach(|| self.tensor.lock().unwrap_or_else(PoisonError::into_inner).ty())?;
        Some((ty.dtype.to_string(), ty.shape.0.iter().filter_map(|size| size.known()).collect()))
    }
}

#[pymethods]
impl Session {
    #[new]
    fn new(py: Python<'_>, program: &Program, device: &str) -> PyResult<Session> {
        let choice = choice(device).map_err(|failure| raised(py, &failure))?;
        let program = program.program.clone();
        let session = py.detach(|| nyxc::session::Session::of((*program).clone(), choice)).map_err(raise(py))?;
        Ok(Session { device: session.device(), session: Mutex::new(session) })
    }

    /// Runs an entry once, the first where none is named: outputs by name as arrays, and `(device_ms, host_nodes)`.
    /// `given` are inputs that lie on the device, `kept` outputs that stay there.
    #[pyo3(signature = (feeds, wanted, entry=None, given=Vec::new(), kept=Vec::new()))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        feeds: &Bound<'py, PyDict>,
        wanted: Option<Vec<String>>,
        entry: Option<String>,
        given: Vec<(String, Py<DeviceTensor>)>,
        kept: Vec<(String, Py<DeviceTensor>)>,
    ) -> PyResult<(Bound<'py, PyList>, Option<f64>, Vec<String>)> {
        let inputs = arrays::tensors(py, feeds)?;
        let (names, outcome) = py.detach(|| self.call(entry, inputs, &given, &kept)).map_err(raise(py))?;
        let find = |name: &String| {
            names.iter().position(|own| own == name).ok_or_else(|| {
                raised(py, &arrays::usage(format!("the program has no output {name:?}; it has {names:?}")))
            })
        };
        let places: Vec<usize> = match &wanted {
            Some(wanted) => wanted.iter().map(find).collect::<PyResult<_>>()?,
            None => (0..outcome.outputs.len()).collect(),
        };
        let outputs = PyList::empty(py);
        for place in places {
            outputs.append(arrays::array(py, &outcome.outputs[place])?)?;
        }
        Ok((outputs, outcome.device_ms, outcome.host_nodes))
    }

    /// A tensor that stays on the device and holds an output of an entry, the first where none is named.
    fn tensor(&self, py: Python<'_>, output: String, entry: Option<String>) -> PyResult<DeviceTensor> {
        let made = py.detach(|| {
            let mut session = self.lock();
            let entry = entry_of(&session, entry);
            session.tensor(&entry, &output)
        });
        Ok(DeviceTensor { tensor: Mutex::new(made.map_err(raise(py))?) })
    }

    /// Makes all states what they were before the first run.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.lock().reset()).map_err(raise(py))
    }

    /// The device that it was loaded on.
    #[getter]
    fn device(&self) -> &str {
        &self.device
    }

    /// The most device memory held so far, in bytes; 0 on the CPU reference.
    #[getter]
    fn measured_peak_bytes(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.lock().measured_peak_bytes())
    }

    /// What went another way than asked, and why.
    #[getter]
    fn fallbacks(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.lock().fallbacks().to_vec())
    }
}

/// Index, name, kind, driver, bytes of the heap.
type DeviceRow = (usize, String, &'static str, String, u64);

/// The Vulkan devices: `(index, name, kind, driver, heap_bytes)` each; empty where there is no Vulkan.
#[pyfunction]
pub(crate) fn devices(py: Python<'_>) -> PyResult<Vec<DeviceRow>> {
    let kind = |kind| match kind {
        DeviceKind::Discrete => "discrete",
        DeviceKind::Integrated => "integrated",
        DeviceKind::Virtual => "virtual",
        DeviceKind::Cpu => "cpu",
        DeviceKind::Other => "other",
    };
    let found = match py.detach(nyxc::runtime::devices) {
        Ok(found) => found,
        Err(nyxc::runtime::RuntimeError::NoDevice { .. }) => Vec::new(),
        Err(error) => return Err(raise(py)(error)),
    };
    Ok(found.into_iter().map(|d| (d.index, d.name, kind(d.kind), d.driver, d.target.memory.heap_bytes)).collect())
}
