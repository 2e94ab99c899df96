//! Masks: what makes a strong device behave as a weak one, so that what a weak device runs can be tested without it.
//!
//! A mask is the name of a shipped target, or a comma list of those and of single masks (`no-f16`, `shared=16K` and so
//! on; the message of [`MaskError`] lists them). What it leaves of a device is the meet of both: of every limit the
//! lower, of every alignment the higher, of the features those that both have.
//!
//! It does not change what no program can make a driver do: whether host and device share memory, the size of a
//! subgroup, the driver's own rounding of allocations below the mask's, and speed. Nor can a mask lower what the Vulkan
//! specification guarantees.

use super::{Features, MatrixShape, Target, TargetError};
use std::collections::BTreeSet;

/// What a target leaves of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    text: String,
    ceiling: Target,
}

/// Why a text is no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no mask of a device: {fault}")]
pub struct MaskError {
    text: String,
    fault: String,
}

/// Where a feature is noted.
type Feature = fn(&mut Features) -> &mut bool;

/// Single masks that take no number, and the feature that each removes.
const WORDS: &[(&str, Feature)] = &[
    ("no-f16", |f| &mut f.f16_arithmetic),
    ("no-int8", |f| &mut f.int8_arithmetic),
    ("no-16bit-storage", |f| &mut f.storage_16bit),
    ("no-8bit-storage", |f| &mut f.storage_8bit),
    ("no-dot", |f| &mut f.integer_dot_product),
    ("no-fast-dot", |f| &mut f.integer_dot_product_accelerated),
    ("no-matrix", |f| &mut f.cooperative_matrix),
    ("no-subgroup", |f| &mut f.subgroup_arithmetic),
];

/// Single masks that take a number.
const NUMBERS: [&str; 9] =
    ["shared", "invocations", "range", "allocation", "align", "buffers", "loops", "heap", "vulkan"];

impl Mask {
    /// Reads a comma list of shipped targets and single masks.
    ///
    /// # Errors
    /// An element is neither, a number is none, or the mask is below what every Vulkan device has.
    pub fn parse(text: &str) -> Result<Mask, MaskError> {
        Mask::parse_with(text, &|_| None)
    }

    /// The same, where `file` gives the target of an element that names a file; `None` where it names none.
    ///
    /// # Errors
    /// As [`Mask::parse`], or `file` says what is wrong with the file.
    pub fn parse_with(text: &str, file: &dyn Fn(&str) -> Option<Result<Target, String>>) -> Result<Mask, MaskError> {
        let refuse = |fault: String| MaskError { text: text.to_owned(), fault };
        let mut ceiling = strongest().map_err(|e| refuse(e.to_string()))?;
        for element in text.split(',').map(str::trim) {
            let target = match (Target::shipped(element), file(element)) {
                (Ok(target), _) | (_, Some(Ok(target))) => Some(target),
                (_, Some(Err(fault))) => return Err(refuse(fault)),
                (Err(_), None) => None,
            };
            match target {
                Some(target) => ceiling = ceiling.meet(&target),
                None => single(&mut ceiling, element).map_err(refuse)?,
            }
        }
        ceiling.name = "mask".to_owned();
        ceiling.check().map_err(|e| refuse(e.to_string()))?;
        Ok(Mask { text: text.to_owned(), ceiling })
    }

    /// What the mask leaves of a device.
    pub fn apply(&self, device: &Target) -> Target {
        let mut left = device.meet(&self.ceiling);
        left.description = format!("{}, masked by {}", device.description, self.text);
        for source in left.sources.values_mut() {
            *source = format!("{source}, masked by {}", self.text);
        }
        left
    }

    /// The Vulkan version that it leaves, major and minor.
    pub fn vulkan(&self) -> [u32; 2] {
        self.ceiling.vulkan
    }

    /// The mask as it was spelled.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Target {
    /// The weaker of two targets in everything that a program may rely on. Names, sources, rates, the kind of memory
    /// and the size of a subgroup are this target's.
    pub fn meet(&self, other: &Target) -> Target {
        let mut all = self.clone();
        all.vulkan = self.vulkan.min(other.vulkan);
        let (l, o) = (&mut all.limits, &other.limits);
        let low = |a: &mut u64, b: u64| *a = b.min(*a);
        low(&mut l.max_storage_buffer_range, o.max_storage_buffer_range);
        low(&mut l.max_memory_allocation_size, o.max_memory_allocation_size);
        low(&mut l.max_uniform_buffer_range, o.max_uniform_buffer_range);
        low(&mut all.memory.heap_bytes, other.memory.heap_bytes);
        let low = |a: &mut u32, b: u32| *a = b.min(*a);
        low(&mut l.max_per_stage_descriptor_storage_buffers, o.max_per_stage_descriptor_storage_buffers);
        low(&mut l.max_compute_shared_memory_size, o.max_compute_shared_memory_size);
        low(&mut l.max_compute_work_group_invocations, o.max_compute_work_group_invocations);
        low(&mut l.max_push_constants_size, o.max_push_constants_size);
        l.max_loop_iterations = l.max_loop_iterations.into_iter().chain(o.max_loop_iterations).min();
        for axis in 0..3 {
            low(&mut l.max_compute_work_group_size[axis], o.max_compute_work_group_size[axis]);
            low(&mut l.max_compute_work_group_count[axis], o.max_compute_work_group_count[axis]);
        }
        // Powers of two: a multiple of the larger is one of the smaller.
        let high = |a: &mut u64, b: u64| *a = b.max(*a);
        high(&mut l.min_storage_buffer_offset_alignment, o.min_storage_buffer_offset_alignment);
        high(&mut l.min_uniform_buffer_offset_alignment, o.min_uniform_buffer_offset_alignment);
        high(&mut all.memory.allocation_granularity, other.memory.allocation_granularity);
        all.features = self.features.meet(&other.features);
        all
    }
}

impl Features {
    /// What both have.
    pub fn meet(&self, other: &Features) -> Features {
        Features {
            f16_arithmetic: self.f16_arithmetic && other.f16_arithmetic,
            int8_arithmetic: self.int8_arithmetic && other.int8_arithmetic,
            storage_16bit: self.storage_16bit && other.storage_16bit,
            storage_8bit: self.storage_8bit && other.storage_8bit,
            integer_dot_product: self.integer_dot_product && other.integer_dot_product,
            integer_dot_product_accelerated: self.integer_dot_product_accelerated
                && other.integer_dot_product_accelerated,
            cooperative_matrix: self.cooperative_matrix && other.cooperative_matrix,
            matrix_shapes: {
                let both = self.matrix_shapes.iter().filter(|shape| other.matrix_shapes.contains(shape));
                both.copied().collect::<BTreeSet<_>>().into_iter().collect()
            },
            subgroup_arithmetic: self.subgroup_arithmetic && other.subgroup_arithmetic,
        }
    }
}

/// A target that masks nothing: a shipped one with everything at its strongest.
fn strongest() -> Result<Target, TargetError> {
    let mut all = Target::shipped("vulkan-min")?;
    all.vulkan = [u32::MAX; 2];
    let l = &mut all.limits;
    for most in [
        &mut l.max_storage_buffer_range,
        &mut l.max_memory_allocation_size,
        &mut l.max_uniform_buffer_range,
        &mut all.memory.heap_bytes,
    ] {
        *most = u64::MAX;
    }
    for least in [
        &mut l.min_storage_buffer_offset_alignment,
        &mut l.min_uniform_buffer_offset_alignment,
        &mut all.memory.allocation_granularity,
    ] {
        *least = 1;
    }
    l.max_per_stage_descriptor_storage_buffers = u32::MAX;
    l.max_compute_shared_memory_size = u32::MAX;
    l.max_compute_work_group_invocations = u32::MAX;
    l.max_push_constants_size = u32::MAX;
    l.max_loop_iterations = None;
    l.max_compute_work_group_size = [u32::MAX; 3];
    l.max_compute_work_group_count = [u32::MAX; 3];
    for (_, feature) in WORDS {
        *feature(&mut all.features) = true;
    }
    all.features.matrix_shapes = MatrixShape::every();
    Ok(all)
}

fn single(ceiling: &mut Target, element: &str) -> Result<(), String> {
    if let Some((_, feature)) = WORDS.iter().find(|(word, _)| *word == element) {
        *feature(&mut ceiling.features) = false;
        // What is not there is not fast either.
        ceiling.features.integer_dot_product_accelerated &= ceiling.features.integer_dot_product;
        if !ceiling.features.cooperative_matrix {
            ceiling.features.matrix_shapes.clear();
        }
        return Ok(());
    }
    let unknown = || {
        let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
        let numbers = NUMBERS.map(|name| format!("{name}=N")).join(", ");
        let targets = super::shipped_names().join(", ");
        format!(
            "{element:?} is none of the targets {targets}, no JSON file of one, and none of {}, {numbers}",
            words.join(", ")
        )
    };
    let (name, value) = element.split_once('=').ok_or_else(unknown)?;
    let l = &mut ceiling.limits;
    if name == "vulkan" {
        let version = value.split_once('.').and_then(|(major, minor)| Some([major.parse().ok()?, minor.parse().ok()?]));
        let version = version
            .filter(|v| *v >= [1, 1])
            .ok_or_else(|| format!("{element:?}: give a version of at least 1.1, for example 1.1"))?;
        ceiling.vulkan = version.min(ceiling.vulkan);
        return Ok(());
    }
    let n =
        number(value).ok_or_else(|| format!("{element:?}: {value:?} is no number; K, M and G are powers of 1024"))?;
    let small = || u32::try_from(n).map_err(|_| format!("{element:?} is more than {}", u32::MAX));
    match name {
        "shared" => l.max_compute_shared_memory_size = small()?.min(l.max_compute_shared_memory_size),
        "invocations" => {
            let most = small()?;
            l.max_compute_work_group_invocations = most.min(l.max_compute_work_group_invocations);
            l.max_compute_work_group_size = l.max_compute_work_group_size.map(|axis| axis.min(most));
        }
        "range" => l.max_storage_buffer_range = n.min(l.max_storage_buffer_range),
        "allocation" => l.max_memory_allocation_size = n.min(l.max_memory_allocation_size),
        "align" => {
            l.min_storage_buffer_offset_alignment = n.max(l.min_storage_buffer_offset_alignment);
            l.min_uniform_buffer_offset_alignment = n.max(l.min_uniform_buffer_offset_alignment);
        }
        "buffers" => {
            l.max_per_stage_descriptor_storage_buffers = small()?.min(l.max_per_stage_descriptor_storage_buffers)
        }
        "loops" => l.max_loop_iterations = Some(l.max_loop_iterations.map_or(n, |most| most.min(n))),
        "heap" => ceiling.memory.heap_bytes = n.min(ceiling.memory.heap_bytes),
        _ => return Err(unknown()),
    }
    Ok(())
}

/// `16K`, `128M`, `2G`, or a plain number.
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    if !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::shipped_names;

    #[test]
    fn a_masked_device_is_the_weaker_of_both_in_everything() {
        let device = Target::shipped("h200").unwrap();
        let left = Mask::parse("rx580").unwrap().apply(&device);
        assert_eq!((left.name.as_str(), left.vulkan), ("h200", [1, 3]));
        let l = &left.limits;
        assert_eq!(
            (l.max_memory_allocation_size, l.max_compute_shared_memory_size, l.min_uniform_buffer_offset_alignment),
            (1 << 31, 49152, 64)
        );
        assert_eq!(left.memory.heap_bytes, 8_321_499_136);
        assert!(!left.features.f16_arithmetic && !left.features.integer_dot_product && left.features.storage_16bit);
        assert!(left.description.ends_with("masked by rx580") && left.sources["limits"].ends_with("masked by rx580"));
        // The kind of memory and the subgroup are the device's.
        assert_eq!((left.memory.unified, l.subgroup_size), (false, 32));
    }

    #[test]
    fn meeting_is_idempotent_and_agrees_whichever_comes_first() {
        for a in shipped_names() {
            for b in shipped_names() {
                let (a, b) = (Target::shipped(a).unwrap(), Target::shipped(b).unwrap());
                let (mut ab, ba) = (a.meet(&b), b.meet(&a));
                assert_eq!(ab.meet(&b), ab);
                assert_eq!(
                    (ab.vulkan, &ab.features, ab.memory.heap_bytes),
                    (ba.vulkan, &ba.features, ba.memory.heap_bytes)
                );
                ab.limits.subgroup_size = ba.limits.subgroup_size;
                assert_eq!(ab.limits, ba.limits, "{} and {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn single_masks_take_away_what_they_name_and_nothing_else() {
        let device = Target::shipped("h200").unwrap();
        for (word, feature) in WORDS {
            let mut left = Mask::parse(word).unwrap().apply(&device).features;
            assert!(!*feature(&mut left), "{word}");
            let mut wanted = device.features.clone();
            *feature(&mut wanted) = false;
            wanted.integer_dot_product_accelerated &= wanted.integer_dot_product;
            wanted.matrix_shapes.retain(|_| wanted.cooperative_matrix);
            assert_eq!(left, wanted, "{word}");
        }
        let text =
            "no-f16, shared=16K,invocations=128,range=128M,allocation=1G,align=256,buffers=4,heap=64M,vulkan=1.1";
        let left = Mask::parse(text).unwrap().apply(&device);
        let l = &left.limits;
        assert_eq!((l.max_compute_shared_memory_size, l.max_compute_work_group_invocations), (16384, 128));
        assert_eq!((l.max_storage_buffer_range, l.max_memory_allocation_size), (1 << 27, 1 << 30));
        assert_eq!((l.min_storage_buffer_offset_alignment, l.min_uniform_buffer_offset_alignment), (256, 256));
        assert_eq!(
            (l.max_per_stage_descriptor_storage_buffers, left.memory.heap_bytes, left.vulkan),
            (4, 64 << 20, [1, 1])
        );
        assert_eq!(l.max_compute_work_group_size, [128, 128, 64]);
        // The lower of two, in either order, and never more than the device has.
        for text in ["shared=32K,shared=16K", "shared=16K,shared=1G", "vulkan-min,shared=1G"] {
            assert_eq!(
                Mask::parse(text).unwrap().apply(&device).limits.max_compute_shared_memory_size,
                16384,
                "{text}"
            );
        }
        assert_eq!(Mask::parse("shared=1G,heap=999G").unwrap().apply(&device).limits, device.limits);
    }

    #[test]
    fn what_is_no_mask_is_refused_with_what_there_is() {
        for (text, part) in [
            ("", "iris-xe"),
            ("rx590", "no-f16"),
            ("no-f16,,no-dot", "shared=N"),
            ("shared", "shared=N"),
            ("shared=", "is no number"),
            ("shared=16KB", "is no number"),
            ("shared=-1", "is no number"),
            ("shared=99999999999G", "is no number"),
            ("shared=8G", "more than"),
            ("shared=4K", "at least 16384"),
            ("invocations=64", "at least 128"),
            ("range=1M", "at least 128 MiB"),
            ("align=48", "power of two"),
            ("heap=0", "at least 1"),
            ("vulkan=1.0", "at least 1.1"),
            ("vulkan=2", "at least 1.1"),
        ] {
            let refused = Mask::parse(text).unwrap_err().to_string();
            assert!(refused.contains(part) && refused.contains(&format!("{text:?}")), "{refused}");
        }
    }

    #[test]
    fn a_file_stands_for_its_target() {
        let file = |name: &str| match name {
            "weak.json" => Some(Target::shipped("vulkan-min").map_err(|e| e.to_string())),
            "bad.json" => Some(Err("bad.json: no JSON".to_owned())),
            _ => None,
        };
        let device = Target::shipped("h200").unwrap();
        let mask = Mask::parse_with("weak.json", &file).unwrap();
        assert_eq!(mask.apply(&device).limits.max_compute_work_group_invocations, 128);
        assert!(Mask::parse_with("no-f16,bad.json", &file).unwrap_err().to_string().contains("no JSON"));
    }
}
