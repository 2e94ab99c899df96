use super::call::Node;
use super::settings::of;
use super::*;
use crate::ir::{Attrs, Expr, Op, Shape};
use crate::kernels::key::Flag;
use crate::ops::core::{matmul, pointwise};
use crate::targets::shipped_names;

fn one(def: &'static crate::ir::OpDef, attrs: Attrs, types: &[TensorType]) -> (Graph, NodeId) {
    let mut graph = Graph::new("g", crate::ir::Level::Kernel);
    let operands: Vec<_> = types.iter().map(|ty| Some(graph.add_input("x", ty.clone()))).collect();
    let node = graph.add_op("node", Op::new(def, attrs), &operands, &["y".to_owned()]).unwrap();
    (graph, node)
}

#[test]
fn sizes_on_a_device_are_whole_words() {
    let bytes = |dtype, dims: &[usize]| device_bytes(&TensorType::of(dtype, dims));
    assert_eq!(bytes(DType::F16, &[3]), Some(8));
    assert_eq!(bytes(DType::I64, &[3]), Some(24));
    assert_eq!(bytes(DType::U32, &[3]), Some(12));
    assert_eq!(bytes(DType::I8, &[3]), Some(12));
    assert_eq!(bytes(DType::Bool, &[]), Some(4));
    assert_eq!(bytes(DType::BF16, &[2]), Some(8));
    assert_eq!(bytes(DType::Str, &[2]), None);
    let symbolic = TensorType::new(DType::F32, Shape(vec![crate::ir::Dim::symbol("n")]));
    assert_eq!((storage(&symbolic), device_bytes(&symbolic)), (Some(Storage::F32), None));
}

#[test]
fn a_parameter_that_is_missing_or_does_not_fit_is_refused() {
    let target = Target::shipped("vulkan-min").unwrap();
    let ty = TensorType::of(DType::F32, &[4]);
    let (graph, id) = one(&pointwise::DEF, pointwise::attrs(Expr::Arg(0), DType::F32), &[ty]);
    let node = Node::new(&graph, id, graph.node(id).op().unwrap(), &target).unwrap();
    let refused = |call: settings::Call<'_, of::Pointwise>| call.workgroups(1).unwrap_err().to_string();
    let missing = refused(node.call(of::Pointwise).vector(0));
    assert!(missing.ends_with("parameter n is missing (this is a bug)"), "{missing}");
    let other = refused(node.call(of::Pointwise).vector(3).n(4));
    assert!(other.ends_with("flag vector is 3, not one of [0, 2, 4, 8] (this is a bug)"), "{other}");
    let large = refused(node.call(of::Pointwise).vector(0).n(1u64 << 32));
    assert_eq!(large, r#"node "node": no kernel for a size beyond 32 bits"#);
}

#[test]
fn every_target_computes_a_product_and_refuses_what_no_binding_spans() {
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        let types = [TensorType::of(DType::F32, &[100, 64]), TensorType::of(DType::F16, &[200, 64])];
        let (graph, id) = one(&matmul::DEF, matmul::attrs(true), &types);
        let calls = dispatches(&graph, id, &target).unwrap();
        let (kernel, groups) = match target.features.cooperative_matrix {
            true => (
                "matmul_mma_f32_f16_f32_flushk64_fragk16_fragm16_fragn16_subgroup32_transb_turns_vector4_whole_v32x32x64_16x16_1",
                4 * 7,
            ),
            false => ("matmul_f32_f16_f32_transb_t64x64x16", 2 * 4),
        };
        assert_eq!(calls[0].key.name(), kernel);
        assert_eq!(
            (calls.len(), calls[0].groups.clone(), calls[0].params.len() % 4),
            (1, [groups, 1, 1].map(Dim::from), 0)
        );
        assert!(calls[0].operands.len() <= max_operands(&target) + 1);
    }
    let target = Target::shipped("vulkan-min").unwrap();
    let types = [TensorType::of(DType::F32, &[1, 8192]), TensorType::of(DType::F32, &[8192, 8192])];
    let (graph, id) = one(&matmul::DEF, matmul::attrs(false), &types);
    let refused = dispatches(&graph, id, &target).unwrap_err().to_string();
    assert_eq!(refused, r#"node "node": "x.2" has 268435456 bytes, a binding may span 134217728"#);
    let (graph, id) = one(&matmul::DEF, matmul::attrs(true), &types);
    let slices = dispatches(&graph, id, &target).unwrap();
    assert_eq!(slices.len(), 3);
    assert!(
        slices
            .iter()
            .all(|c| c.operands.iter().all(|o| o.offset_bytes % target.alignment() == 0 && o.bytes <= 134_217_728))
    );
}

#[test]
fn what_has_no_elements_needs_no_dispatch() {
    let target = Target::shipped("vulkan-min").unwrap();
    let (graph, id) =
        one(&pointwise::DEF, pointwise::attrs(Expr::Arg(0), DType::F32), &[TensorType::of(DType::F32, &[0, 3])]);
    assert_eq!(dispatches(&graph, id, &target), Ok(vec![]));
}

#[test]
fn products_are_taken_in_order_and_sums_in_parts() {
    let target = Target::shipped("vulkan-min").unwrap();
    for (kind, expected) in [("sum", 1), ("max", 1), ("prod", 0)] {
        let types = [TensorType::of(DType::F32, &[3, 1000])];
        let (graph, id) =
            one(&crate::ops::core::reduce::DEF, crate::ops::core::reduce::attrs(kind, &[1], true), &types);
        let calls = dispatches(&graph, id, &target).unwrap();
        assert_eq!((calls.len(), calls[0].key.flags[&Flag::Wide]), (1, expected), "{kind}");
    }
}

#[test]
fn a_kernel_has_no_more_loop_iterations_than_the_target_runs() {
    let refused = |name: &str, depth: crate::ir::Dim| {
        let target = Target::shipped(name).unwrap();
        let types = [vec![10.into(), depth.clone()], vec![depth.clone(), 3.into()]]
            .map(|dims| TensorType::new(DType::F32, Shape(dims)));
        let (graph, id) = one(&matmul::DEF, matmul::attrs(false), &types);
        match dispatches(&graph, id, &target) {
            Ok(calls) => {
                let limit = target.limits.max_loop_iterations.unwrap_or(u64::MAX);
                assert!(calls.iter().all(|call| call.loop_iterations() <= limit), "{name} {depth}");
                None
            }
            Err(error) => Some(error.to_string()),
        }
    };
    let (known, ranged) = (|n: i64| crate::ir::Dim::Known(n), |n: i64| crate::ir::Dim::ranged("k", 1, n));
    for depth in [known(260_000), ranged(260_000)] {
        assert_eq!(refused("lavapipe", depth.clone()), None);
        assert_eq!(refused("h200", depth), None);
    }
    // The upper end of a range counts.
    for depth in [known(2_200_000), ranged(2_200_000)] {
        assert_eq!(refused("h200", depth.clone()), None);
        let what = refused("vulkan-min", depth).unwrap();
        assert!(
            what.contains("412518 loop iterations of matmul_f32_f32_f32_deep2_t32x32 where the target runs 65535"),
            "{what}"
        );
    }
    // A loop of the epilogue runs for every element that an invocation puts.
    let target = Target::shipped("lavapipe").unwrap();
    let types = [TensorType::of(DType::F32, &[3, 5000]), TensorType::of(DType::F32, &[1])];
    let attrs = Attrs::new().with_int("axis", 1).with_expr("epilogue", Expr::parse("fmod(x0,x1)").unwrap());
    let (graph, id) = one(&crate::ops::core::softmax::DEF, attrs, &types);
    let call = &dispatches(&graph, id, &target).unwrap()[0];
    assert_eq!(call.loop_iterations(), 3 * 41 + 40 * 33, "{:?}", call.loops);
}

#[test]
fn convolutions_of_many_terms_have_kernels_in_either_layout() {
    let target = Target::shipped("vulkan-min").unwrap();
    let kernel = |x: &[usize], w: &[usize], layout: &str| {
        let attrs = Attrs::new().with_ints("kernel", [3, 3]).with_str("layout", layout);
        let types = [TensorType::of(DType::F32, x), TensorType::of(DType::F32, w)];
        let (graph, id) = one(&crate::ops::core::conv::DEF, attrs, &types);
        dispatches(&graph, id, &target).unwrap()[0].key.clone()
    };
    for (channels, deep) in [(16, 0), (512, 1), (8192, 2)] {
        let first = kernel(&[1, channels, 5, 5], &[8, channels, 3, 3], "nchw");
        let last = kernel(&[1, 5, 5, channels], &[8, 3, 3, channels], "nhwc");
        assert_eq!((first.flag(Flag::Deep), last.flag(Flag::Deep)), (deep, deep));
        assert_eq!((first.template, last.template), (key::Template::Conv, key::Template::ConvNhwc));
    }
}
