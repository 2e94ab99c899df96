//! Failures of the library as exceptions of the package.

use nyxc::failure::Failure;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception of a failure: the class that `nyxc.errors` has for its kind, with its fields.
pub(crate) fn raised(py: Python<'_>, failure: &Failure) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let fields = PyDict::new(py);
        fields.set_item("node", &failure.node)?;
        fields.set_item("needed_bytes", failure.bytes.needed)?;
        fields.set_item("budget_bytes", failure.bytes.budget)?;
        fields.set_item("min_feasible_bytes", failure.bytes.min_feasible)?;
        fields.set_item("free_bytes", failure.bytes.free)?;
        let errors = py.import("nyxc.errors")?;
        errors.call_method("of_kind", (failure.kind.name(), &failure.message), Some(&fields))
    };
    make().map_or_else(|error| error, PyErr::from_value)
}

/// The same for any error of the library.
pub(crate) fn raise<E: Into<Failure>>(py: Python<'_>) -> impl Fn(E) -> PyErr {
    move |error| raised(py, &error.into())
}
