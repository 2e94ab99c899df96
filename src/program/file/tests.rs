use super::{FileError, open, read, to_bytes, write};
use crate::ir::{DType, Dim, Source, Tensor, TensorType};
use crate::program::*;
use crate::targets::Target;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A compute shader with `main`, two bindings, and a parameter block that does nothing.
fn spirv() -> Vec<u32> {
    let mut words = vec![0x0723_0203, 0x0001_0300, 0, 8, 0];
    words.extend([2 << 16 | 17, 1]);
    words.extend([5 << 16 | 15, 5, 1, u32::from_le_bytes(*b"main"), 0]);
    words.extend([6 << 16 | 16, 1, 17, 64, 1, 1]);
    for binding in 0..3 {
        words.extend([4 << 16 | 71, 2 + binding, 34, 0]);
        words.extend([4 << 16 | 71, 2 + binding, 33, binding]);
    }
    words
}

pub(crate) fn small() -> Program {
    let weights = Tensor::from_f32s(DType::F32, &[3], &[1.0, 2.0, 3.0]).unwrap();
    let packed = Tensor::from_bytes(crate::ir::text::parse_type("i4<g16:f16>[2,16]").unwrap(), vec![0x21; 20]).unwrap();
    let shader = Shader { name: "add_f32".to_owned(), spirv: spirv() };
    let region = |allocation, offset, bytes| Region { allocation, offset, bytes };
    let port = |name: &str, offset| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        device_dtype: DType::F32,
        shape: vec![Dim::Known(3)],
        region: region(1, offset, 12),
    };
    let dispatch = Dispatch {
        node: "y".to_owned(),
        shader: shader.hash(),
        bindings: vec![region(1, 0, 12), region(1, 64, 12)],
        writes: vec![1],
        params: vec![3.into()],
        params_offset: 0,
        groups: [1, 1, 1].map(Dim::from),
        loop_iterations: 0,
        barrier: false,
        check: None,
        result_slice: None,
    };
    let allocation = |kind, bytes| Allocation { kind, bytes };
    let plan = Plan {
        policy: "budget".to_owned(),
        budget_bytes: 4096,
        reserve_bytes: 16,
        planned_peak_bytes: 64 + 128 + 64,
        ledger: Ledger { weights: 64, constants: 64, activations: 128, reserve: 16, ..Ledger::default() },
        lower_bound_bytes: 1,
        min_feasible_bytes: 256,
        f32_bytes: 256,
        certificate: Certificate { objective: 0.75, gap: 0.125, ..Certificate::default() },
        nodes: vec![],
        graph: "graph small kernel\n".to_owned(),
        allocations: vec![
            allocation(AllocationKind::Weights, 64),
            allocation(AllocationKind::Arena, 128),
            allocation(AllocationKind::Params, 64),
        ],
        uploads: vec![
            Upload { constant: hex(weights.hash()), region: region(0, 0, 12) },
            Upload { constant: hex(packed.hash()), region: region(0, 16, 20) },
        ],
        states: vec![],
        entries: vec![Entry {
            name: "main".to_owned(),
            sizes: vec![],
            inputs: vec![port("x", 0)],
            defaults: BTreeMap::new(),
            fixed: BTreeMap::new(),
            outputs: vec![port("y", 64)],
            steps: vec![Step::Device(vec![dispatch])],
        }],
    };
    Program {
        model: "small \"model\"".to_owned(),
        target: Target::shipped("lavapipe").unwrap(),
        plans: vec![plan],
        constants: [(packed.hash(), packed), (weights.hash(), weights)].into_iter().collect(),
        shaders: [(shader.hash(), shader)].into_iter().collect(),
    }
}

fn reread(bytes: &[u8]) -> Result<Program, FileError> {
    read(Arc::new(bytes.to_vec()))
}

#[test]
fn what_is_written_reads_back_and_has_the_same_bytes() {
    let program = small();
    let bytes = to_bytes(&program).unwrap();
    let back = reread(&bytes).unwrap();
    assert_eq!(back.constants, program.constants);
    assert_eq!(back.shaders, program.shaders);
    assert_eq!(back.model, program.model);
    assert_eq!(back.target, program.target);
    assert_eq!(to_bytes(&back).unwrap(), bytes);
    let known = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(known.len(), 3);
}

#[test]
fn constants_are_views_of_the_file() {
    let source: Source = Arc::new(to_bytes(&small()).unwrap());
    let program = read(source.clone()).unwrap();
    let file = (*source).as_ref().as_ptr_range();
    assert!(program.constants.values().all(|t| file.contains(&t.bytes().unwrap().as_ptr())));
}

#[test]
fn a_mapped_file_reads_and_a_missing_one_does_not() {
    let path = std::env::temp_dir().join(format!("nyxc-file-{}.nyx", std::process::id()));
    write(&small(), std::fs::File::create(&path).unwrap()).unwrap();
    assert_eq!(open(&path).unwrap().plans.len(), 1);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(&path), Err(FileError::Io(_))));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = to_bytes(&small()).unwrap();
    for n in 0..bytes.len() {
        assert!(reread(&bytes[..n]).is_err(), "the first {n} of {} bytes were read", bytes.len());
    }
    assert!(reread(&[bytes.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = to_bytes(&small()).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % (bytes.len() * 8);
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(reread(&flipped).is_err(), "bit {} of byte {} flipped and the file still reads", at % 8, at / 8);
    }
}

#[test]
fn a_foreign_safetensors_file_is_refused() {
    let foreign = b"\x3b\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}      ab";
    let refused = reread(foreign).unwrap_err().to_string();
    assert!(refused.contains("nyxc_format") || refused.contains("no .nyx file"), "{refused}");
    assert!(reread(b"").is_err());
    assert!(reread(&[255; 64]).is_err());
}

fn refused(change: impl FnOnce(&mut Program)) -> String {
    let mut program = small();
    change(&mut program);
    program.check().unwrap_err().to_string()
}

fn first(program: &mut Program) -> &mut Dispatch {
    match &mut program.plans[0].entries[0].steps[0] {
        Step::Device(dispatches) => &mut dispatches[0],
        Step::Host(_) => unreachable!(),
    }
}

#[test]
fn constants_without_elements_lie_at_one_place() {
    let mut program = small();
    for dims in [&[0][..], &[2, 0], &[0, 3], &[5, 0, 1], &[7, 0]] {
        let empty = Tensor::from_f32s(DType::F32, dims, &[]).unwrap();
        program.constants.insert(empty.hash(), empty);
    }
    let bytes = Arc::new(to_bytes(&program).unwrap());
    // The order in which a reader meets them is another each time.
    for _ in 0..32 {
        assert_eq!(read(bytes.clone()).unwrap().constants.len(), 7);
    }
}

#[test]
fn a_program_that_breaks_its_rules_is_refused_with_the_numbers() {
    let plan = |p: &mut Program, f: fn(&mut Plan)| f(&mut p.plans[0]);
    let cases: Vec<(String, &str)> = vec![
        (refused(|p| p.plans.clear()), "no plan"),
        (refused(|p| plan(p, |p| p.budget_bytes = 271)), "exceed the budget of 271"),
        (refused(|p| plan(p, |p| p.planned_peak_bytes = 255)), "hold 256 bytes, its planned peak is 255"),
        (refused(|p| plan(p, |p| p.ledger.weights = 63)), "adds up to 255"),
        (refused(|p| plan(p, |p| p.allocations[0].bytes = u64::MAX)), "overflow"),
        (refused(|p| plan(p, |p| p.uploads[0].region.bytes = 11)), "needs 12 bytes, its region has 11"),
        (refused(|p| plan(p, |p| p.uploads[0].constant = "00".repeat(32))), "there is no constant"),
        (refused(|p| plan(p, |p| p.entries.clear())), "there is no entry"),
        (refused(|p| plan(p, |p| p.entries[0].inputs[0].region.offset = u64::MAX - 3)), "leave allocation 1"),
        (
            refused(|p| plan(p, |p| p.entries[0].inputs[0].shape = vec![Dim::Known(i64::MAX), Dim::Known(2)])),
            "no known size",
        ),
        (refused(|p| plan(p, |p| p.entries[0].inputs[0].shape = vec![Dim::symbol("n")])), "no known size"),
        (refused(|p| plan(p, |p| p.entries[0].inputs[0].device_dtype = DType::I32)), "cannot be on the device as i32"),
        (refused(|p| first(p).groups[1] = 65536.into()), "65536 workgroups along axis 1"),
        (refused(|p| first(p).groups[2] = 0.into()), "0 workgroups along axis 2"),
        (refused(|p| first(p).writes = vec![2]), "writes binding 2 of 2"),
        (refused(|p| first(p).bindings[0].allocation = 7), "no allocation 7 of 3"),
        (refused(|p| first(p).bindings[0].offset = 4), "offset 4, which is no multiple of 16"),
        (refused(|p| first(p).bindings[0].bytes = 129), "leave allocation 1 of 128 bytes"),
        (refused(|p| first(p).bindings.truncate(1)), "reads binding 2, 2 are given"),
        (refused(|p| first(p).params_offset = 8), "no multiple of 16"),
        (refused(|p| first(p).params_offset = 64), "leave allocation 2"),
        (refused(|p| first(p).shader = "x".to_owned()), "there is no shader x"),
        (refused(|p| p.shaders[0].spirv.push(1)), "has the hash"),
        (
            refused(|p| p.constants[0] = Tensor::absent(TensorType::of(DType::F32, &[3]), crate::ir::Hash([0; 32]))),
            "absent",
        ),
        (refused(|p| p.target.limits.max_compute_work_group_size = [32, 1, 1]), "64 invocations along axis 0"),
    ];
    for (given, wanted) in cases {
        assert!(given.contains(wanted), "{given:?} does not say {wanted:?}");
    }
}

#[test]
fn dispatches_may_share_parameters_but_not_overlap() {
    let mut program = small();
    let twin = first(&mut program).clone();
    let Step::Device(dispatches) = &mut program.plans[0].entries[0].steps[0] else { unreachable!() };
    dispatches.push(twin);
    program.check().unwrap();
    let Step::Device(dispatches) = &mut program.plans[0].entries[0].steps[0] else { unreachable!() };
    dispatches[1].params = vec![4.into()];
    assert!(program.check().unwrap_err().to_string().contains("overlap"));
}

#[test]
fn a_shader_that_needs_what_the_target_lacks_is_refused() {
    let mut program = small();
    let mut shader = program.shaders[0].clone();
    shader.spirv.splice(5..5, [2 << 16 | 17, 9]);
    let hash = shader.hash();
    first(&mut program).shader = hash.clone();
    program.shaders = [(hash, shader)].into_iter().collect();
    program.check().unwrap();
    program.target.features.f16_arithmetic = false;
    assert!(program.check().unwrap_err().to_string().contains("Float16"));
}

#[test]
fn a_shader_with_more_shared_memory_than_the_target_has_is_refused() {
    let mut program = small();
    let mut shader = program.shaders[0].clone();
    // A struct of `vec3` and `float[8184]` in storage class 4 (Workgroup), the length a constant.
    shader.spirv.extend([3 << 16 | 22, 20, 32, 4 << 16 | 21, 21, 32, 0, 4 << 16 | 43, 21, 22, 8184]);
    shader.spirv.extend([4 << 16 | 28, 23, 20, 22, 4 << 16 | 23, 24, 20, 3, 4 << 16 | 30, 25, 24, 23]);
    shader.spirv.extend([4 << 16 | 32, 26, 4, 25, 4 << 16 | 59, 26, 27, 4]);
    let hash = shader.hash();
    first(&mut program).shader = hash.clone();
    program.shaders = [(hash, shader)].into_iter().collect();
    program.target.limits.max_compute_shared_memory_size = 32748;
    program.check().unwrap();
    program.target.limits.max_compute_shared_memory_size = 32747;
    assert!(
        program.check().unwrap_err().to_string().contains("32748 bytes of shared memory, at most 32747 are allowed")
    );
}

/// The small program with two states of one element each, one of them filled.
fn with_states() -> Program {
    let mut program = small();
    let one = Tensor::from_f32s(DType::F32, &[], &[1.5]).unwrap();
    let plan = &mut program.plans[0];
    plan.allocations.push(Allocation { kind: AllocationKind::State, bytes: 512 });
    let place = |name: &str, offset: u64| StateTensor {
        port: Port {
            name: name.to_owned(),
            dtype: DType::F32,
            device_dtype: DType::F32,
            shape: vec![Dim::Known(3)],
            region: Region { allocation: 3, offset, bytes: 12 },
        },
        initial: hex(one.hash()),
    };
    plan.states = vec![place("a", 0), place("b", 16)];
    plan.ledger.state = 512;
    plan.planned_peak_bytes += 512;
    plan.budget_bytes += 512;
    program.constants.insert(one.hash(), one);
    program
}

#[test]
fn states_travel_in_the_file_and_have_places_of_their_own() {
    let program = with_states();
    let again = read(Arc::new(to_bytes(&program).unwrap())).unwrap();
    assert_eq!(again.plans[0].states, program.plans[0].states);
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut program = with_states();
        change(&mut program.plans[0]);
        program.check().unwrap_err().to_string()
    };
    let cases: [(String, &str); 7] = [
        (refused(&|p| p.states[1].port.region.offset = 8), "two states are in"),
        (refused(&|p| p.states[1].port.name = "a".to_owned()), "is listed twice"),
        (refused(&|p| p.states[0].port.region.allocation = 1), "is in memory for Some(Arena)"),
        (refused(&|p| p.states[0].port.region.offset = 508), "leave allocation 3"),
        (refused(&|p| p.states[0].initial = "00".repeat(32)), "there is no constant"),
        (refused(&|p| p.states[0].port.shape = vec![Dim::symbol("n")]), "no known size"),
        (refused(&|p| p.states[0].initial = p.uploads[1].constant.clone()), "or one element is wanted"),
    ];
    for (given, wanted) in cases {
        assert!(given.contains(wanted), "{given:?} does not say {wanted:?}");
    }
}
