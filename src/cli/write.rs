//! Output: whole files or none, standard output that may be a closed pipe.

use super::Failure;
use crate::failure::EXIT_INTERRUPTED;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Files that are being written, to be removed when interrupted.
static PARTIAL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Makes an interrupt remove half-written files and end the process.
pub fn remove_partial_files_on_interrupt() {
    // Without a handler an interrupt ends the process all the same; only a temporary file could be left then.
    let _ = ctrlc::set_handler(|| {
        remove_partial_files();
        // At once: destructors of C++ statics would pull the ground from under the threads that compile shaders.
        signal_hook::low_level::exit(i32::from(EXIT_INTERRUPTED));
    });
}

/// Removes half-written files, for a process about to end. Waits for nobody.
pub fn remove_partial_files() {
    if let Ok(files) = PARTIAL.try_lock() {
        files.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

/// Refuses an output that is one of the files that the command reads.
///
/// # Errors
/// It is.
pub fn spares<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    let Ok(place) = output.canonicalize() else { return Ok(()) };
    match inputs.into_iter().find(|input| input.canonicalize().is_ok_and(|input| input == place)) {
        Some(input) => Err(Failure::usage(format!(
            "{}: would be written over {}, which is read",
            output.display(),
            input.display()
        ))),
        None => Ok(()),
    }
}

/// Writes a file whole: beside its place first, then renamed into it. A link stays one, what it leads to is replaced; a
/// device or a pipe is written to.
///
/// # Errors
/// The file cannot be written; nothing is left behind.
pub fn file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let write = || {
            let mut out = io::BufWriter::new(std::fs::OpenOptions::new().write(true).open(path)?);
            fill(&mut out)?;
            out.flush()
        };
        return write().map_err(|error| Failure::io(path, error));
    }
    let place = if path.is_symlink() {
        path.canonicalize().map_err(|error| Failure::io(path, error))?
    } else {
        path.to_owned()
    };
    let path = place.as_path();
    let name = path.file_name().ok_or_else(|| Failure::io(path, "is no file name"))?;
    let partial = path.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
        return Err(Failure::io(folder, "there is no such folder"));
    }
    if let Ok(mut files) = PARTIAL.lock() {
        files.push(partial.clone());
    }
    let write = || -> io::Result<()> {
        let mut out = io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&partial)?);
        fill(&mut out)?;
        out.into_inner()?.sync_all()?;
        std::fs::rename(&partial, path)
    };
    let result = write().map_err(|error| Failure::io(path, error));
    if result.is_err() {
        drop(std::fs::remove_file(&partial));
    }
    if let Ok(mut files) = PARTIAL.lock() {
        files.retain(|p| *p != partial);
    }
    result
}

/// Writes bytes to standard output.
///
/// # Errors
/// Standard output cannot be written, or its reader went away.
pub fn stdout_bytes(fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    fill(&mut out).and_then(|()| out.flush()).map_err(|error| Failure::io(Path::new("standard output"), error))
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
///
/// # Errors
/// Standard output cannot be written.
pub fn stdout(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io(Path::new("standard output"), error))
        }
        _ => Ok(()),
    }
}
