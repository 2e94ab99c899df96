//! Compiled shaders on disk, by content: a compilation that happened once on this machine is not repeated. What cannot
//! be read or written is compiled anew; the cache never fails anything.

use crate::program::spirv::Interface;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything that the words depend on besides the text, which the target's features are in. nyxc's version stands for
/// how it calls shaderc.
const OPTIONS: &str =
    concat!("vulkan1.1 spirv1.3 performance compute main; shaderc 0.10.1; cache 2; nyxc ", env!("CARGO_PKG_VERSION"));

/// A file is a BLAKE3 hash, of its own name and its words, then the words, little-endian.
const HASH_BYTES: usize = 32;
/// Larger files are not read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The path of one shader, if it is cached.
pub(super) struct Entry {
    path: Option<PathBuf>,
}

impl Entry {
    /// In the folder given, or in that of the user.
    pub(super) fn of(glsl: &str, given: Option<&Path>) -> Entry {
        let (version, revision) = shaderc::get_spirv_version();
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{OPTIONS} {version:x} {revision}\n").as_bytes());
        hasher.update(glsl.as_bytes());
        let name = format!("{}.spv", hasher.finalize().to_hex());
        Entry { path: given.map(Path::to_path_buf).or_else(folder).map(|folder| folder.join(name)) }
    }

    /// The words, if they are there and whole.
    pub(super) fn read(&self) -> Option<Vec<u32>> {
        let path = self.path.as_ref()?;
        // Not a pipe, which would block, and no more than a shader takes, whoever put it there.
        if !std::fs::metadata(path).ok().is_some_and(|meta| meta.is_file() && meta.len() <= MAX_BYTES) {
            return None;
        }
        let bytes = std::fs::read(path).ok()?;
        let (hash, words) = bytes.split_at_checked(HASH_BYTES)?;
        if seal(path, words).as_bytes() != hash || words.len() % 4 != 0 {
            return None;
        }
        let words: Vec<u32> = words.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Interface::read(&words).is_ok().then_some(words)
    }

    /// Keeps the words: written beside, then renamed, so that no reader sees half a file.
    pub(super) fn write(&self, words: &[u32]) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(path) = &self.path else { return };
        let Some(folder) = path.parent() else { return };
        let words: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut bytes = seal(path, &words).as_bytes().to_vec();
        bytes.extend(&words);
        let beside =
            path.with_extension(format!("{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
    }
}

/// What stands before the words: a shader that was copied over another's is not taken for it.
fn seal(path: &Path, words: &[u8]) -> blake3::Hash {
    let name = path.file_stem().unwrap_or_default();
    blake3::Hasher::new().update(name.as_encoded_bytes()).update(words).finalize()
}

/// `NYXC_CACHE` (none where it is empty), or `nyxc/shaders` in the user's cache folder.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(value) = std::env::var_os("NYXC_CACHE") {
        return (!value.is_empty()).then(|| PathBuf::from(value));
    }
    let base =
        set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("nyxc").join("shaders"))
}
