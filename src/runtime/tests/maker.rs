//! Programs made by hand, and kernels for them.

use crate::ir::{DType, Dim, Tensor};
use crate::program::*;
use crate::targets::Target;

pub(super) const AFFINE: &str = "#version 450
layout(local_size_x = 64) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) writeonly buffer Y { float y[]; };
layout(binding = 2, std140) uniform P { uint n; float a; float b; };
void main() { uint i = gl_GlobalInvocationID.x; if (i < n) y[i] = a * x[i] + b; }";

pub(super) const ADD_CONSTANT: &str = "#version 450
layout(local_size_x = 64) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) readonly buffer W { float w[]; };
layout(binding = 2, std430) writeonly buffer Y { float y[]; };
void main() { uint i = gl_GlobalInvocationID.x; if (i < x.length()) y[i] = x[i] + w[i]; }";

pub(super) const DOUBLE_HALVES: &str = "#version 450
layout(local_size_x = 64) in;
layout(binding = 0, std430) readonly buffer X { uint x[]; };
layout(binding = 1, std430) writeonly buffer Y { uint y[]; };
void main() { uint i = gl_GlobalInvocationID.x; if (i < x.length()) y[i] = packHalf2x16(2.0 * unpackHalf2x16(x[i])); }";

pub(super) const DOUBLE_INTS: &str = "#version 450
layout(local_size_x = 64) in;
layout(binding = 0, std430) readonly buffer X { int x[]; };
layout(binding = 1, std430) writeonly buffer Y { int y[]; };
void main() { uint i = gl_GlobalInvocationID.x; if (i < x.length()) y[i] = 2 * x[i]; }";

pub(super) const NEEDS_F16: &str = "#version 450
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
layout(local_size_x = 64) in;
layout(binding = 0, std430) readonly buffer X { float x[]; };
layout(binding = 1, std430) writeonly buffer Y { float y[]; };
void main() { uint i = gl_GlobalInvocationID.x; if (i < x.length()) y[i] = float(float16_t(x[i]) * float16_t(2.0)); }";

pub(super) fn shader(name: &str, glsl: &str) -> Shader {
    let compiler = shaderc::Compiler::new().unwrap();
    let mut options = shaderc::CompileOptions::new().unwrap();
    options.set_target_env(shaderc::TargetEnv::Vulkan, shaderc::EnvVersion::Vulkan1_1 as u32);
    let made = compiler.compile_into_spirv(glsl, shaderc::ShaderKind::Compute, name, "main", Some(&options)).unwrap();
    Shader { name: name.to_owned(), spirv: made.as_binary().to_vec() }
}

/// A program under construction: weights in allocation 0, arena in 1, parameters in 2, perhaps the ring in 3.
pub(super) struct Maker {
    pub(super) program: Program,
}

impl Maker {
    pub(super) fn new(target: &Target, arena_bytes: u64) -> Maker {
        let sizes = [
            (AllocationKind::Weights, 1 << 16),
            (AllocationKind::Arena, arena_bytes),
            (AllocationKind::Params, 1 << 20),
        ];
        let plan = Plan {
            policy: "budget".to_owned(),
            allocations: sizes.into_iter().map(|(kind, bytes)| Allocation { kind, bytes }).collect(),
            entries: vec![Entry { name: "main".to_owned(), ..Entry::default() }],
            ..Plan::default()
        };
        let (constants, shaders) = Default::default();
        Maker {
            program: Program {
                model: "test".to_owned(),
                target: target.clone(),
                plans: vec![plan],
                constants,
                shaders,
            },
        }
    }

    pub(super) fn plan(&mut self) -> &mut Plan {
        &mut self.program.plans[0]
    }

    pub(super) fn main(&mut self) -> &mut Entry {
        &mut self.plan().entries[0]
    }

    pub(super) fn staging(mut self, bytes: u64) -> Maker {
        self.plan().allocations.push(Allocation { kind: AllocationKind::Staging, bytes });
        self
    }

    pub(super) fn constant(&mut self, tensor: Tensor, offset: u64) -> Region {
        let region = Region { allocation: 0, offset, bytes: tensor.ty().bytes().unwrap() };
        self.plan().uploads.push(Upload { constant: hex(tensor.hash()), region });
        self.program.constants.insert(tensor.hash(), tensor);
        region
    }

    pub(super) fn input(&mut self, port: Port) {
        self.main().inputs.push(port);
    }

    pub(super) fn output(&mut self, port: Port) {
        self.main().outputs.push(port);
    }

    pub(super) fn dispatch(&mut self, shader: &Shader, bindings: Vec<Region>, params: &[u32], n: u32, barrier: bool) {
        let hash = shader.hash();
        self.program.shaders.insert(hash.clone(), shader.clone());
        let steps = &mut self.main().steps;
        if !matches!(steps.last(), Some(Step::Device(_))) {
            steps.push(Step::Device(vec![]));
        }
        let Some(Step::Device(dispatches)) = steps.last_mut() else { unreachable!() };
        let (writes, at) = (vec![bindings.len() as u32 - 1], dispatches.len());
        let (node, params) = (format!("node{at}"), params.to_vec());
        let params_offset = 256 * at as u64;
        dispatches.push(Dispatch {
            node,
            shader: hash,
            bindings,
            writes,
            params: params.into_iter().map(|w| u64::from(w).into()).collect(),
            params_offset,
            groups: [u64::from(n.div_ceil(64)), 1, 1].map(Into::into),
            loop_iterations: 0,
            barrier,
            check: None,
            result_slice: None,
        });
    }

    pub(super) fn finish(mut self) -> Program {
        let unified = self.program.target.memory.unified;
        let plan = self.plan();
        let counts = |a: &&Allocation| unified || a.kind != AllocationKind::Staging;
        let peak = plan.allocations.iter().filter(counts).map(|a| a.bytes).sum();
        (plan.planned_peak_bytes, plan.budget_bytes, plan.ledger.activations) = (peak, peak, peak);
        self.program
    }
}

pub(super) fn port(name: &str, (dtype, device_dtype): (DType, DType), n: usize, offset: u64) -> Port {
    let bytes = device_dtype.bytes(n as u64).unwrap().next_multiple_of(4);
    let shape = vec![Dim::from(n)];
    Port { name: name.to_owned(), dtype, device_dtype, shape, region: Region { allocation: 1, offset, bytes } }
}

pub(super) const FLOATS: (DType, DType) = (DType::F32, DType::F32);
pub(super) const N: usize = 1000;

pub(super) fn floats(n: usize) -> (Tensor, Vec<f32>) {
    let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 7.0).collect();
    (Tensor::from_f32s(DType::F32, &[n], &values).unwrap(), values)
}
