//! The pipeline cache on disk: BLAKE3 of the data, then the data as the driver gave it. Whatever is unusable is ignored.

use super::VkContext;
use crate::runtime::RuntimeError;
use ash::vk;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Larger caches are neither read nor written, in bytes.
const MAX_BYTES: u64 = 256 << 20;
const HASH_BYTES: usize = 32;

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
        let path = context.inner().cache_dir.as_ref().map(|dir| dir.join(file_name(context)));
        let data = path.as_ref().and_then(|path| read(context, path)).unwrap_or_default();
        let info = vk::PipelineCacheCreateInfo::default().initial_data(&data);
        // SAFETY: the device is live; the data has the header of this device and driver and the hash under which we wrote it.
        let raw = context.attempt("vkCreatePipelineCache", || unsafe { context.device().create_pipeline_cache(&info, None) })?;
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
        let hash = blake3::hash(&data);
        if hash == self.before || !valid(&self.context, &data) || data.len() as u64 > MAX_BYTES {
            return;
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let beside = path.with_extension(format!("{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            std::fs::write(&beside, [hash.as_bytes().as_slice(), &data].concat())?;
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

fn file_name(context: &VkContext) -> String {
    let (vendor, device, version, uuid) = context.inner().probe.identity;
    let uuid: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("pipelines-{vendor:08x}-{device:08x}-{version:08x}-{uuid}.bin")
}

fn read(context: &VkContext, path: &std::path::Path) -> Option<Vec<u8>> {
    let meta = std::fs::metadata(path).ok()?;
    // A pipe would block.
    if !meta.is_file() || meta.len() > MAX_BYTES + HASH_BYTES as u64 {
        return None;
    }
    let file = std::fs::read(path).ok()?;
    let (hash, data) = file.split_at_checked(HASH_BYTES)?;
    (blake3::hash(data).as_bytes() == hash && valid(context, data)).then(|| data.to_vec())
}

/// Whether this begins as `VkPipelineCacheHeaderVersionOne` of this device (Vulkan 1.3, section 10.9.4).
fn valid(context: &VkContext, data: &[u8]) -> bool {
    let (vendor, device, _, uuid) = context.inner().probe.identity;
    let word = |i: usize| data.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    word(0).is_some_and(|n| n >= 32) && word(1) == Some(1) && word(2) == Some(vendor) && word(3) == Some(device) && data.get(16..32) == Some(&uuid)
}
