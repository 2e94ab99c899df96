//! Pipelines, one for each shader, and descriptor sets, one for each set of regions.

use super::cache::Cache;
use super::{Buffer, VkContext};
use crate::program::spirv::Interface;
use crate::program::{Dispatch, Region, Shader, ShaderHash};
use crate::runtime::RuntimeError;
use ash::vk;
use indexmap::IndexMap;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Storage buffers, and whether a uniform buffer follows.
type Layout = (u32, bool);

/// What a dispatch binds.
type SetKey<'a> = (&'a [Region], Option<(u64, u64)>);

/// A dispatch, ready to be recorded.
#[derive(Clone, Copy)]
pub(in crate::runtime) struct Bound {
    pub(super) pipeline: vk::Pipeline,
    pub(super) layout: vk::PipelineLayout,
    pub(super) set: vk::DescriptorSet,
    pub(super) groups: Groups,
}

/// How many workgroups a dispatch has.
#[derive(Clone, Copy)]
pub(in crate::runtime) enum Groups {
    /// So many along x, y, z.
    Given([u32; 3]),
    /// What the three words at this offset say when it is dispatched.
    At(vk::Buffer, u64),
}

/// Everything that dispatches bind. It must outlive what was recorded with it.
pub(in crate::runtime) struct Pipelines {
    layouts: BTreeMap<Layout, (vk::DescriptorSetLayout, vk::PipelineLayout)>,
    pipelines: BTreeMap<(ShaderHash, Layout), vk::Pipeline>,
    pool: vk::DescriptorPool,
    context: VkContext,
}

impl Pipelines {
    /// Makes what `dispatches` of a checked plan need, and says what each binds. `params` is the index of the buffer
    /// for parameters.
    pub(in crate::runtime) fn new(
        context: &VkContext,
        shaders: &IndexMap<ShaderHash, Shader>,
        dispatches: &[&Dispatch],
        buffers: &[Option<Buffer>],
        params: Option<usize>,
    ) -> Result<(Pipelines, Vec<Bound>), RuntimeError> {
        let mut made = Pipelines {
            layouts: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            pool: vk::DescriptorPool::null(),
            context: context.clone(),
        };
        for dispatch in dispatches {
            made.layout(layout(dispatch))?;
        }
        made.compile(shaders, dispatches)?;
        let sets = made.sets(dispatches, buffers, params)?;
        let lost = |what: &str| RuntimeError::Unsupported { what: format!("a dispatch without {what}") };
        let bound = dispatches.iter().map(|d| {
            let key = layout(d);
            Ok(Bound {
                pipeline: *made.pipelines.get(&(d.shader.clone(), key)).ok_or_else(|| lost("pipeline"))?,
                layout: made.layouts.get(&key).ok_or_else(|| lost("layout"))?.1,
                set: *sets.get(&set_key(d)).ok_or_else(|| lost("descriptors"))?,
                groups: groups(d, params.and_then(|i| buffers.get(i)).and_then(Option::as_ref))
                    .ok_or_else(|| lost("workgroups"))?,
            })
        });
        let bound = bound.collect::<Result<_, RuntimeError>>()?;
        Ok((made, bound))
    }

    fn layout(&mut self, key: Layout) -> Result<(), RuntimeError> {
        if self.layouts.contains_key(&key) {
            return Ok(());
        }
        let device = self.context.device();
        let bindings: Vec<_> = (0..key.0 + u32::from(key.1))
            .map(|binding| {
                let ty = if binding < key.0 {
                    vk::DescriptorType::STORAGE_BUFFER
                } else {
                    vk::DescriptorType::UNIFORM_BUFFER
                };
                let all =
                    vk::DescriptorSetLayoutBinding::default().binding(binding).descriptor_type(ty).descriptor_count(1);
                all.stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is live and the structure complete, here and below.
        let set = self
            .context
            .attempt("vkCreateDescriptorSetLayout", || unsafe { device.create_descriptor_set_layout(&info, None) })?;
        let places = self.layouts.entry(key).or_insert((set, vk::PipelineLayout::null()));
        let sets = [set];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        // SAFETY: as above.
        places.1 =
            self.context.attempt("vkCreatePipelineLayout", || unsafe { device.create_pipeline_layout(&info, None) })?;
        Ok(())
    }

    fn compile(
        &mut self,
        shaders: &IndexMap<ShaderHash, Shader>,
        dispatches: &[&Dispatch],
    ) -> Result<(), RuntimeError> {
        let mut wanted: BTreeMap<(&ShaderHash, Layout), &Shader> = BTreeMap::new();
        for dispatch in dispatches {
            if let Some(shader) = shaders.get(&dispatch.shader) {
                wanted.insert((&dispatch.shader, layout(dispatch)), shader);
            }
        }
        let cache = Cache::open(&self.context)?;
        let layouts = &self.layouts;
        let make = |(key, shader): ((&ShaderHash, Layout), &Shader)| {
            let layout = layouts.get(&key.1)?.1;
            Some(((key.0.clone(), key.1), pipeline(&self.context, shader, layout, cache.raw())))
        };
        // In order where they are instrumented: what is added numbers the shaders of a device, and the driver keeps
        // what it compiled by all their words.
        let made: Vec<_> = if self.context.inner().instance.gpu_assisted {
            wanted.into_iter().filter_map(make).collect()
        } else {
            wanted.into_par_iter().filter_map(make).collect()
        };
        let mut failed = Ok(());
        for (key, pipeline) in made {
            // All that were made are kept first, so that they are destroyed where one failed.
            match pipeline {
                Ok(pipeline) => drop(self.pipelines.insert(key, pipeline)),
                Err(e) => failed = Err(e),
            }
        }
        failed?;
        cache.save();
        Ok(())
    }

    fn sets<'a>(
        &mut self,
        dispatches: &[&'a Dispatch],
        buffers: &[Option<Buffer>],
        params: Option<usize>,
    ) -> Result<BTreeMap<SetKey<'a>, vk::DescriptorSet>, RuntimeError> {
        let mut sets: BTreeMap<SetKey<'a>, vk::DescriptorSet> = BTreeMap::new();
        for dispatch in dispatches {
            sets.insert(set_key(dispatch), vk::DescriptorSet::null());
        }
        let n_storage: usize = sets.keys().map(|(regions, _)| regions.len()).sum();
        let n_uniform = sets.keys().filter(|(_, params)| params.is_some()).count();
        let count =
            |n: usize| u32::try_from(n).map_err(|_| RuntimeError::Unsupported { what: format!("{n} descriptors") });
        let mut sizes = vec![vk::DescriptorPoolSize {
            ty: vk::DescriptorType::STORAGE_BUFFER,
            descriptor_count: count(n_storage)?,
        }];
        sizes.push(vk::DescriptorPoolSize {
            ty: vk::DescriptorType::UNIFORM_BUFFER,
            descriptor_count: count(n_uniform)?,
        });
        sizes.retain(|size| size.descriptor_count > 0);
        if sizes.is_empty() {
            return Ok(sets);
        }
        let device = self.context.device();
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(count(sets.len())?).pool_sizes(&sizes);
        // SAFETY: the device is live and the structure complete.
        self.pool =
            self.context.attempt("vkCreateDescriptorPool", || unsafe { device.create_descriptor_pool(&info, None) })?;
        for ((regions, uniform), set) in &mut sets {
            let key = (regions.len() as u32, uniform.is_some());
            let layouts = [self.layouts.get(&key).map_or(vk::DescriptorSetLayout::null(), |l| l.0)];
            let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(self.pool).set_layouts(&layouts);
            // SAFETY: `layout` was called for every dispatch, so the layout is there; the pool was made for exactly
            // these sets.
            let new = self
                .context
                .attempt("vkAllocateDescriptorSets", || unsafe { device.allocate_descriptor_sets(&info) })?;
            *set = new.first().copied().unwrap_or_default();
            let mut infos = Vec::with_capacity(regions.len() + 1);
            for region in *regions {
                infos.push(describe(buffers, region.allocation as usize, region.offset, region.bytes)?);
            }
            if let (Some((offset, bytes)), Some(params)) = (*uniform, params) {
                infos.push(describe(buffers, params, offset, bytes)?);
            }
            let writes: Vec<_> = infos
                .iter()
                .zip(0u32..)
                .map(|(info, binding)| {
                    let ty = if binding < key.0 {
                        vk::DescriptorType::STORAGE_BUFFER
                    } else {
                        vk::DescriptorType::UNIFORM_BUFFER
                    };
                    let write =
                        vk::WriteDescriptorSet::default().dst_set(*set).dst_binding(binding).descriptor_type(ty);
                    write.buffer_info(std::slice::from_ref(info))
                })
                .collect();
            // SAFETY: set, buffers and ranges are live and of this device, `describe` checked the ranges, and nothing
            // uses the set yet.
            unsafe { device.update_descriptor_sets(&writes, &[]) };
        }
        Ok(sets)
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        let device = self.context.device();
        for &pipeline in self.pipelines.values() {
            // SAFETY: it was made from this device; executors drop, and wait for, what uses it first. So it is with the
            // rest.
            unsafe { device.destroy_pipeline(pipeline, None) };
        }
        // SAFETY: as above; destroying the null handle does nothing.
        unsafe { device.destroy_descriptor_pool(self.pool, None) };
        for &(set, layout) in self.layouts.values() {
            // SAFETY: as above.
            unsafe { device.destroy_pipeline_layout(layout, None) };
            // SAFETY: as above.
            unsafe { device.destroy_descriptor_set_layout(set, None) };
        }
    }
}

fn layout(dispatch: &Dispatch) -> Layout {
    (dispatch.bindings.len() as u32, !dispatch.params.is_empty())
}

fn set_key(dispatch: &Dispatch) -> SetKey<'_> {
    (
        &dispatch.bindings,
        (!dispatch.params.is_empty()).then_some((dispatch.params_offset, dispatch.params.len() as u64 * 4)),
    )
}

fn describe(
    buffers: &[Option<Buffer>],
    index: usize,
    offset: u64,
    bytes: u64,
) -> Result<vk::DescriptorBufferInfo, RuntimeError> {
    match buffers.get(index) {
        Some(Some(buffer)) if bytes > 0 && offset.checked_add(bytes).is_some_and(|end| end <= buffer.bytes()) => {
            Ok(vk::DescriptorBufferInfo { buffer: buffer.raw(), offset, range: bytes })
        }
        _ => Err(RuntimeError::Unsupported { what: format!("{bytes} bytes at offset {offset} of allocation {index}") }),
    }
}

/// The workgroups of a dispatch of a checked plan.
fn groups(dispatch: &Dispatch, params: Option<&Buffer>) -> Option<Groups> {
    if dispatch.is_indirect() {
        return Some(Groups::At(params?.raw(), dispatch.params_offset + dispatch.params.len() as u64 * 4));
    }
    let count = |i: usize| u32::try_from(dispatch.groups.get(i)?.known()?).ok();
    Some(Groups::Given([count(0)?, count(1)?, count(2)?]))
}

/// Compiles one shader.
fn pipeline(
    context: &VkContext,
    shader: &Shader,
    layout: vk::PipelineLayout,
    cache: vk::PipelineCache,
) -> Result<vk::Pipeline, RuntimeError> {
    subgroups(context, shader)?;
    let device = context.device();
    let _alone = context.inner().instance.gpu_assisted.then(super::instrumenting);
    let info = vk::ShaderModuleCreateInfo::default().code(&shader.spirv);
    // SAFETY: the words are a SPIR-V module by its header and instruction lengths, with the hash under which the
    // compiler wrote it, and use only capabilities that are enabled: `Program::check` and `check_limits` hold that.
    let module = context.attempt("vkCreateShaderModule", || unsafe { device.create_shader_module(&info, None) })?;
    let stage =
        vk::PipelineShaderStageCreateInfo::default().stage(vk::ShaderStageFlags::COMPUTE).module(module).name(c"main");
    let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout);
    // A pipeline that could not be made is the null handle: there is nothing to destroy.
    let made = context.attempt("vkCreateComputePipelines", || {
        // SAFETY: all handles are live and of this device; the module has a compute entry point `main` and reads no
        // binding that the layout lacks, as `Program::check` holds. A cache without the external-synchronization flag
        // may be shared by threads.
        unsafe { device.create_compute_pipelines(cache, &[info], None) }.map_err(|(_, code)| code)
    });
    // SAFETY: the pipeline does not need the module any more.
    unsafe { device.destroy_shader_module(module, None) };
    let pipeline = made?.first().copied().unwrap_or_default();
    context.name(pipeline, &shader.name);
    Ok(pipeline)
}

/// Checks the operations of subgroups (`VkSubgroupFeatureFlagBits`), of which targets describe arithmetic only.
fn subgroups(context: &VkContext, shader: &Shader) -> Result<(), RuntimeError> {
    use vk::SubgroupFeatureFlags as F;
    const NEEDED: [(u32, &str, F); 8] = [
        (61, "basic", F::BASIC),
        (62, "vote", F::VOTE),
        (63, "arithmetic", F::ARITHMETIC),
        (64, "ballot", F::BALLOT),
        (65, "shuffle", F::SHUFFLE),
        (66, "relative shuffle", F::SHUFFLE_RELATIVE),
        (67, "clustered", F::CLUSTERED),
        (68, "quad", F::QUAD),
    ];
    let interface = Interface::read(&shader.spirv)
        .map_err(|e| RuntimeError::Unsupported { what: format!("shader {:?}: {e}", shader.name) })?;
    let has = context.inner().probe.subgroup_operations;
    match NEEDED
        .iter()
        .find(|(capability, _, flag)| interface.capabilities.contains(capability) && !has.contains(*flag))
    {
        None => Ok(()),
        Some((_, name, _)) => Err(RuntimeError::Unsupported {
            what: format!("{name} operations in subgroups, which shader {:?} uses", shader.name),
        }),
    }
}
