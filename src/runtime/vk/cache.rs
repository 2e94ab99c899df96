//! The pipeline cache on disk, one file for each device and driver: BLAKE3 of the file's own name and the data, then
//! the data as the driver gave it. What is damaged, or was written by another driver, version or device, is not used,
//! and replaced.

use super::VkContext;
use crate::runtime::RuntimeError;
use ash::vk;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Larger caches are neither read nor written, in bytes.
const MAX_BYTES: u64 = 256 << 20;
const HASH_BYTES: usize = 32;

/// Vendor, device, driver version, `pipelineCacheUUID`.
type Identity = (u32, u32, u32, [u8; 16]);

/// A `VkPipelineCache`, filled from disk where there is something.
pub(super) struct Cache {
    raw: vk::PipelineCache,
    path: Option<PathBuf>,
    /// What was read.
    before: blake3::Hash,
    context: VkContext,
}

impl Cache {
    pub(super) fn open(context: &VkContext) -> Result<Cache, RuntimeError> {
        let identity = &context.inner().probe.identity;
        let path = context.inner().cache_dir.as_ref().map(|dir| dir.join(file_name(identity)));
        let data = path.as_ref().and_then(|path| read(identity, path)).unwrap_or_default();
        let info = vk::PipelineCacheCreateInfo::default().initial_data(&data);
        // SAFETY: the device is live; the data has the header of this device and driver and the hash under which we
        // wrote it.
        let raw = context
            .attempt("vkCreatePipelineCache", || unsafe { context.device().create_pipeline_cache(&info, None) })?;
        Ok(Cache { raw, path, before: blake3::hash(&data), context: context.clone() })
    }

    pub(super) fn raw(&self) -> vk::PipelineCache {
        self.raw
    }

    /// Writes the cache where it changed. A failure costs the next load some time, nothing else.
    pub(super) fn save(&self) {
        let Some(path) = &self.path else { return };
        // SAFETY: the cache is a live one of this device.
        let Ok(data) = (unsafe { self.context.device().get_pipeline_cache_data(self.raw) }) else { return };
        if blake3::hash(&data) == self.before
            || !valid(&self.context.inner().probe.identity, &data)
            || data.len() as u64 > MAX_BYTES
        {
            return;
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let beside =
            path.with_extension(format!("{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            std::fs::write(&beside, [seal(path, &data).as_bytes().as_slice(), &data].concat())?;
            std::fs::rename(&beside, path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // SAFETY: it was made from this device, and pipelines do not need it once they are made.
        unsafe { self.context.device().destroy_pipeline_cache(self.raw, None) };
    }
}

fn file_name((vendor, device, version, uuid): &Identity) -> String {
    let uuid: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("pipelines-{vendor:08x}-{device:08x}-{version:08x}-{uuid}.bin")
}

/// What stands before the data: a file that was copied or renamed to that of another driver is not taken for its own.
fn seal(path: &Path, data: &[u8]) -> blake3::Hash {
    let name = path.file_stem().unwrap_or_default();
    blake3::Hasher::new().update(name.as_encoded_bytes()).update(data).finalize()
}

fn read(identity: &Identity, path: &Path) -> Option<Vec<u8>> {
    let meta = std::fs::metadata(path).ok()?;
    // A pipe would block.
    if !meta.is_file() || meta.len() > MAX_BYTES + HASH_BYTES as u64 {
        return None;
    }
    let file = std::fs::read(path).ok()?;
    let (hash, data) = file.split_at_checked(HASH_BYTES)?;
    (seal(path, data).as_bytes() == hash && valid(identity, data)).then(|| data.to_vec())
}

/// Whether this begins as `VkPipelineCacheHeaderVersionOne` of this device (Vulkan 1.3, section 10.9.4).
fn valid((vendor, device, _, uuid): &Identity, data: &[u8]) -> bool {
    let word = |i: usize| data.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let length = word(0).is_some_and(|n| n >= 32 && n as usize <= data.len());
    length
        && word(1) == Some(1)
        && word(2) == Some(*vendor)
        && word(3) == Some(*device)
        && data.get(16..32) == Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: Identity = (0x1002, 0x67df, 0x0240_0001, [7; 16]);

    fn data((vendor, device, _, uuid): &Identity) -> Vec<u8> {
        let words = [32, 1, *vendor, *device].map(u32::to_le_bytes);
        [words.as_flattened(), uuid, b"what the driver keeps"].concat()
    }

    #[test]
    fn a_cache_of_another_device_driver_or_version_is_not_read() {
        let dir = std::env::temp_dir().join(format!("nyxc-pipeline-cache-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(file_name(&MINE));
        let put =
            |data: &[u8]| std::fs::write(&path, [seal(&path, data).as_bytes().as_slice(), data].concat()).unwrap();
        let mine = data(&MINE);
        put(&mine);
        assert_eq!(read(&MINE, &path), Some(mine.clone()));
        // What each field of the header says, with a right seal.
        for (byte, what) in [
            (0, "header's length"),
            (4, "header's version"),
            (8, "vendor"),
            (12, "device"),
            (16, "UUID"),
            (31, "UUID's end"),
        ] {
            let mut other = mine.clone();
            other[byte] ^= 0x80;
            put(&other);
            assert_eq!(read(&MINE, &path), None, "{what}");
        }
        // The same header of another driver version, copied to the name of this one.
        let older = (MINE.0, MINE.1, MINE.2 - 1, MINE.3);
        assert_ne!(file_name(&older), file_name(&MINE));
        let beside = dir.join(file_name(&older));
        std::fs::write(&beside, [seal(&beside, &mine).as_bytes().as_slice(), &mine].concat()).unwrap();
        assert_eq!(read(&older, &beside), Some(mine.clone()));
        std::fs::copy(&beside, &path).unwrap();
        assert_eq!(read(&MINE, &path), None, "driver version");
        // Content, and length.
        for damaged in [&mine[..mine.len() - 1], &mine[..16], &[]] {
            std::fs::write(&path, [seal(&path, &mine).as_bytes().as_slice(), damaged].concat()).unwrap();
            assert_eq!(read(&MINE, &path), None, "{} bytes", damaged.len());
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
