//! nyxc for Python: what `python/nyxc` builds on. Names, documentation and types are there; here is what needs Rust.
//!
//! Whatever takes time (compile, load, run) runs without the GIL. Arrays are read where they are: a contiguous array of
//! the input's type is not copied on its way to the device.

mod arrays;
#[cfg(feature = "codegen")]
mod compile;
mod errors;
#[cfg(feature = "codegen")]
mod export;
#[cfg(feature = "codegen")]
mod graph;
mod program;
mod session;

use pyo3::prelude::*;

/// What the package `nyxc` is made of.
#[pymodule]
fn _nyxc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("CAN_COMPILE", cfg!(feature = "codegen"))?;
    module.add_class::<program::Program>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<session::DeviceTensor>()?;
    module.add_function(wrap_pyfunction!(session::devices, module)?)?;
    #[cfg(feature = "codegen")]
    {
        module.add_class::<graph::Graph>()?;
        module.add_class::<graph::Edit>()?;
        module.add_class::<export::Exported>()?;
        module.add_function(wrap_pyfunction!(export::export, module)?)?;
        module.add_function(wrap_pyfunction!(compile::compile, module)?)?;
        module.add_function(wrap_pyfunction!(compile::compare, module)?)?;
        module.add_function(wrap_pyfunction!(compile::budget_bounds, module)?)?;
        module.add_function(wrap_pyfunction!(compile::targets, module)?)?;
        module.add_function(wrap_pyfunction!(compile::describe, module)?)?;
        module.add_function(wrap_pyfunction!(graph::run_passes, module)?)?;
    }
    Ok(())
}
