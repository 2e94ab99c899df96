//! Programs on a device.

use crate::arrays;
use crate::errors::{raise, raised};
use crate::program::Program;
use nyxc::runtime::DeviceKind;
use nyxc::session::{DeviceChoice, Outcome};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::Mutex;

/// A program loaded on a device. Threads may share it: runs take turns.
#[pyclass(frozen, module = "nyxc._nyxc", name = "Session")]
pub(crate) struct Session {
    session: Mutex<nyxc::session::Session>,
    device: String,
}

/// What `--device` takes.
fn choice(text: &str) -> Result<DeviceChoice, nyxc::failure::Failure> {
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
    fn lock(&self) -> std::sync::MutexGuard<'_, nyxc::session::Session> {
        self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

    /// Runs once: outputs by name as arrays, and `(device_ms, host_nodes)`.
    fn run<'py>(
        &self,
        py: Python<'py>,
        feeds: &Bound<'py, PyDict>,
        wanted: Option<Vec<String>>,
    ) -> PyResult<(Bound<'py, PyList>, Option<f64>, Vec<String>)> {
        let inputs = arrays::tensors(py, feeds)?;
        let (names, outcome): (Vec<String>, Outcome) = py
            .detach(|| {
                let mut session = self.lock();
                let entry = session.program().entry();
                let names = entry.map(|e| e.outputs.iter().map(|port| port.name.clone()).collect()).unwrap_or_default();
                session.run_named(inputs).map(|outcome| (names, outcome))
            })
            .map_err(raise(py))?;
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
