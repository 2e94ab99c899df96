//! Models as files, for the commands that write one.

use super::{Failure, write};
use crate::export::Model;
use std::path::Path;

/// Refuses a file that is no model by its name.
///
/// # Errors
/// It is none.
pub(super) fn is_named_model(flag: &str, path: &Path) -> Result<(), Failure> {
    if path.extension().is_some_and(|e| e == "onnx") {
        return Ok(());
    }
    Err(Failure::usage(format!("{flag} {}: a model is written as .onnx", path.display())))
}

/// Writes a model. One of 2 GiB has its data in `FILE.data` beside it, which is written first.
///
/// # Errors
/// A file cannot be written.
pub(super) fn save(model: &Model, path: &Path) -> Result<(), Failure> {
    let data = model.needs_data_file().then(|| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}.data")
    });
    if let Some(name) = &data {
        write::file(&path.with_file_name(name), |out| model.write_data(out))?;
    }
    write::file(path, |out| model.write(data.as_deref(), out))
}
