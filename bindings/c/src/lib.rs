//! nyxc for C, and for every language that calls C: `include/nyxc.h` is made of this.
//!
//! Handles are opaque. Each call that can fail returns a status, the exit code of the command line, and leaves its
//! failure as JSON for its thread. No panic crosses the edge. Options are led by their size, so that they may grow.

mod error;
mod program;
mod session;

pub use error::{nyxc_last_error, nyxc_status};
pub use program::*;
pub use session::*;

/// The version of this interface: a library serves callers of the same version.
pub const NYXC_ABI_VERSION: u32 = 1;

/// [`NYXC_ABI_VERSION`] of the library.
#[unsafe(no_mangle)]
pub extern "C" fn nyxc_abi_version() -> u32 {
    NYXC_ABI_VERSION
}
