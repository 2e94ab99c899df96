//! `--tuning`: the table that chooses among kernels.

use super::{Failure, load};
use crate::kernels;
use crate::targets::{Target, Tuning};
use std::path::Path;
use std::sync::Arc;

/// Reads a table from a file.
///
/// # Errors
/// It is none, or names a variant that this version does not have.
pub(super) fn read(path: &Path) -> Result<Tuning, Failure> {
    let text = load::utf8(path)?;
    let tuning = Tuning::parse(&path.display().to_string(), &text).map_err(|e| {
        Failure::file(std::error::Error::source(&e).map_or(e.to_string(), |source| format!("{e}: {source}")))
    })?;
    match kernels::unknown_way(&tuning) {
        Some((case, way)) => {
            Err(Failure::file(format!("{}: case {case}: there is no variant {way:?}", path.display())))
        }
        None => Ok(tuning),
    }
}

/// Has a target choose by the table that is asked for: a file, none, or where nothing is asked the one that it has.
///
/// # Errors
/// As for [`read`].
pub(super) fn choose(asked: Option<&str>, target: &mut Target) -> Result<(), Failure> {
    match asked {
        None => {}
        Some("none") => target.tuning = None,
        Some(path) => target.tuning = Some(Arc::new(read(Path::new(path))?)),
    }
    Ok(())
}
