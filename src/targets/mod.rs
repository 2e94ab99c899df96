//! Targets: what a device can do, read from the device or from a JSON file, so that one can compile for a GPU that is
//! not here.

mod mask;
mod matrix;
pub mod tuning;

pub use mask::{Mask, MaskError};
pub use matrix::{MatrixShape, MatrixTypes};
pub use tuning::Tuning;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Invocations of a subgroup up to which a device is taken for a CPU.
const NARROW_SUBGROUP: u32 = 8;

/// A device profile. Every byte count is in bytes, every limit as Vulkan names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Short name, as `--target` takes it.
    pub name: String,
    /// What device this is, for people.
    pub description: String,
    /// Where each figure comes from: field, or group of fields, to source.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Vulkan version, major and minor.
    pub vulkan: [u32; 2],
    /// Sizes that must not be exceeded.
    pub limits: Limits,
    /// What shaders may use.
    pub features: Features,
    /// Heaps.
    pub memory: Memory,
    /// Rates measured on such a device; absent where nobody measured.
    #[serde(default)]
    pub rates: Option<Rates>,
    /// How long kernels took on such a device: what chooses among them. No part of the profile's text.
    #[serde(skip)]
    pub tuning: Option<Arc<Tuning>>,
}

/// `VkPhysicalDeviceLimits` and its kin, as far as kernels and plans depend on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are Vulkan's, Vulkan 1.3 section 43 'Limits'")]
pub struct Limits {
    pub max_storage_buffer_range: u64,
    pub max_memory_allocation_size: u64,
    pub min_storage_buffer_offset_alignment: u64,
    pub min_uniform_buffer_offset_alignment: u64,
    pub max_uniform_buffer_range: u64,
    pub max_per_stage_descriptor_storage_buffers: u32,
    pub max_compute_shared_memory_size: u32,
    pub max_compute_work_group_invocations: u32,
    pub max_compute_work_group_size: [u32; 3],
    pub max_compute_work_group_count: [u32; 3],
    pub max_push_constants_size: u32,
    pub subgroup_size: u32,
    /// Not of Vulkan: how often an invocation may come to the end of a loop's body, all loops counted together, before
    /// the driver ends loops early and silently, as Mesa's llvmpipe does (`LP_MAX_TGSI_LOOP_ITERATIONS`). `None` where
    /// no such number is known.
    #[serde(default)]
    pub max_loop_iterations: Option<u64>,
}

/// What shaders may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// `shaderFloat16`.
    pub f16_arithmetic: bool,
    /// `shaderInt8`.
    pub int8_arithmetic: bool,
    /// `storageBuffer16BitAccess`.
    pub storage_16bit: bool,
    /// `storageBuffer8BitAccess`.
    pub storage_8bit: bool,
    /// `shaderIntegerDotProduct`.
    pub integer_dot_product: bool,
    /// `integerDotProduct4x8BitPackedSignedAccelerated`.
    pub integer_dot_product_accelerated: bool,
    /// `VK_KHR_cooperative_matrix` with f16 operands.
    pub cooperative_matrix: bool,
    /// What subgroups multiply with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matrix_shapes: Vec<MatrixShape>,
    /// `VK_SUBGROUP_FEATURE_ARITHMETIC_BIT` in compute shaders, of `VkPhysicalDeviceSubgroupProperties`.
    pub subgroup_arithmetic: bool,
}

impl Features {
    /// The shape for these types that multiplies most at a time, square where there is a choice; `None` where there is
    /// none.
    pub fn matrix_shape(&self, types: MatrixTypes) -> Option<MatrixShape> {
        let of_types = self.matrix_shapes.iter().filter(|shape| self.cooperative_matrix && shape.types == types);
        of_types.copied().max_by_key(|s| (s.m * s.n * s.k, std::cmp::Reverse(s.m.abs_diff(s.n)), s.m))
    }

    /// The feature of this name; `None` where there is none.
    pub fn named(&self, name: &str) -> Option<bool> {
        Some(match name {
            "f16_arithmetic" => self.f16_arithmetic,
            "int8_arithmetic" => self.int8_arithmetic,
            "storage_16bit" => self.storage_16bit,
            "storage_8bit" => self.storage_8bit,
            "integer_dot_product" => self.integer_dot_product,
            "integer_dot_product_accelerated" => self.integer_dot_product_accelerated,
            "cooperative_matrix" => self.cooperative_matrix,
            "subgroup_arithmetic" => self.subgroup_arithmetic,
            _ => return None,
        })
    }
}

/// The memory that programs are planned for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Whether host and device share one heap: then staging counts, and buffers can be written in place.
    pub unified: bool,
    /// Size of the largest device-local heap.
    pub heap_bytes: u64,
    /// To what multiple the driver rounds the size of a buffer's memory.
    pub allocation_granularity: u64,
}

/// Measured rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Bytes read and written by a copy, per second.
    pub copy_bytes_per_s: f64,
    /// f32 multiply-adds of a matrix product, times two, per second.
    pub f32_flops: f64,
    /// The same in f16 with f32 accumulation.
    pub f16_flops: f64,
    /// The same for INT8 with i32 accumulation.
    pub i8_ops: f64,
    /// Parts of the device that run workgroups side by side: SMs, compute units, cores.
    pub compute_units: u32,
}

/// The shipped profiles.
const SHIPPED: &[(&str, &str)] = &[
    ("h200", include_str!("h200.json")),
    ("iris-xe", include_str!("iris-xe.json")),
    ("lavapipe", include_str!("lavapipe.json")),
    ("rx580", include_str!("rx580.json")),
    ("vulkan-min", include_str!("vulkan-min.json")),
];

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum TargetError {
    #[error("target {name}: {source}")]
    Json { name: String, source: serde_json::Error },
    #[error("target {name}: {field} is {given}, must be {must}")]
    Value { name: String, field: &'static str, given: u64, must: &'static str },
    #[error("no target named {name:?}; shipped are {}, or give a JSON file", shipped_names().join(", "))]
    Unknown { name: String },
}

/// The names of the shipped profiles.
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

impl Target {
    /// The shipped profile of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn shipped(name: &str) -> Result<Target, TargetError> {
        let (name, json) =
            SHIPPED.iter().find(|(n, _)| *n == name).ok_or_else(|| TargetError::Unknown { name: name.to_owned() })?;
        Target::from_json(name, json)
    }

    /// Reads a profile and checks that its figures make sense.
    ///
    /// # Errors
    /// It is no JSON of a profile, or a figure is below the floor of the Vulkan specification where kernels rely on
    /// that.
    pub fn from_json(name: &str, json: &str) -> Result<Target, TargetError> {
        let mut target: Target =
            serde_json::from_str(json).map_err(|source| TargetError::Json { name: name.to_owned(), source })?;
        target.check_as(name)?;
        target.tuning = Tuning::shipped(&target.name);
        Ok(target)
    }

    /// What is shipped of measurements on a device of this name: the rates of the profile that has its tuning table,
    /// and the table.
    pub fn measured(device: &str) -> (Option<Rates>, Option<Arc<Tuning>>) {
        let Some(tuning) = Tuning::shipped(device) else { return (None, None) };
        let mut profiles = tuning.devices.iter().filter_map(|name| Target::shipped(name).ok());
        (profiles.find_map(|profile| profile.rates), Some(tuning))
    }

    /// Checks that the figures make sense.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), TargetError> {
        self.check_as(&self.name)
    }

    /// Checks, and calls the profile by the name that its reader knows.
    fn check_as(&self, name: &str) -> Result<(), TargetError> {
        let refuse = |field, given: u64, must| Err(TargetError::Value { name: name.to_owned(), field, given, must });
        let l = &self.limits;
        for (field, given) in [
            ("min_storage_buffer_offset_alignment", l.min_storage_buffer_offset_alignment),
            ("min_uniform_buffer_offset_alignment", l.min_uniform_buffer_offset_alignment),
            ("allocation_granularity", self.memory.allocation_granularity),
        ] {
            if !given.is_power_of_two() || given > 1 << 20 {
                return refuse(field, given, "a power of two of at most 1 MiB");
            }
        }
        if l.max_compute_work_group_size.contains(&0) {
            return refuse("max_compute_work_group_size", 0, "at least 1 along each axis");
        }
        let floors = [
            ("max_storage_buffer_range", l.max_storage_buffer_range, 1 << 27, "at least 128 MiB (134217728)"),
            ("max_memory_allocation_size", l.max_memory_allocation_size, 1 << 27, "at least 128 MiB (134217728)"),
            ("max_uniform_buffer_range", l.max_uniform_buffer_range, 16384, "at least 16384"),
            (
                "max_per_stage_descriptor_storage_buffers",
                u64::from(l.max_per_stage_descriptor_storage_buffers),
                4,
                "at least 4",
            ),
            ("max_compute_shared_memory_size", u64::from(l.max_compute_shared_memory_size), 16384, "at least 16384"),
            (
                "max_compute_work_group_invocations",
                u64::from(l.max_compute_work_group_invocations),
                128,
                "at least 128",
            ),
            (
                "max_compute_work_group_count",
                u64::from(l.max_compute_work_group_count.into_iter().min().unwrap_or(0)),
                65535,
                "at least 65535",
            ),
            ("heap_bytes", self.memory.heap_bytes, 1, "at least 1"),
        ];
        for (field, given, least, must) in floors {
            if given < least {
                return refuse(field, given, must);
            }
        }
        Ok(())
    }

    /// To what offsets in a buffer are aligned: what bindings need, and 16 bytes at least.
    pub fn alignment(&self) -> u64 {
        self.limits.min_storage_buffer_offset_alignment.max(16)
    }

    /// Whether convolutions are faster with the channels of a pixel side by side: the device multiplies matrices, and
    /// not on a CPU, as lavapipe does.
    pub fn prefers_channels_last(&self) -> bool {
        self.features.cooperative_matrix && !self.is_cpu()
    }

    /// Whether it is taken for a CPU, as lavapipe is one: it takes the invocations of a workgroup in turn, and kernels
    /// that are made for many at a time are no faster there.
    pub fn is_cpu(&self) -> bool {
        self.limits.subgroup_size <= NARROW_SUBGROUP
    }

    /// The budget where none is given: 90 % of the heap, in whole MiB.
    pub fn default_budget_bytes(&self) -> u64 {
        (self.memory.heap_bytes / 10).saturating_mul(9) >> 20 << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_profile_reads_and_names_its_sources() {
        for name in shipped_names() {
            let target = Target::shipped(name).unwrap();
            assert_eq!(target.name, name);
            for group in ["limits", "features", "memory"] {
                assert!(target.sources.contains_key(group), "{name} does not say where its {group} come from");
            }
        }
    }

    #[test]
    fn a_profile_below_the_floor_of_the_specification_is_refused() {
        let mut target = Target::shipped("vulkan-min").unwrap();
        target.limits.max_storage_buffer_range = 1 << 26;
        assert!(target.check().unwrap_err().to_string().contains("67108864"));
    }
}
