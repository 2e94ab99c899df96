//! Sizes that follow from others or from data, and those that are refused.

use super::*;

#[test]
fn parts_begin_and_end_where_other_sizes_say() {
    let body = "  %pos = input : f32[2,past+seq]
  %x = input : f32[2,seq]
  %old = input : f32[2,past]
  %p = sizes() {dtype=i64, value=d[past]} : i64[1]
  %s = sizes() {dtype=i64, value=d[seq]} : i64[1]
  %zero = const [0] : i64[1]
  %one = const [1] : i64[1]
  %minus = const [-1] : i64[1]
  %end = const [9223372036854775807] : i64[1]
  %start = const [-9223372036854775808] : i64[1]
  %table = const [1.0,2.0,3.0,4.0,5.0] : f32[5]
  %new = slice(%pos, %p, %end, %one) : f32[2,seq]
  %y = add(%new, %x) : f32[2,seq]
  %before = slice(%pos, %zero, %p, %one) : f32[2,past]
  %z = mul(%before, %old) : f32[2,past]
  %back = slice(%pos, %end, %start, %one, %minus) : f32[2,past+seq]
  %w = add(%back, %pos) : f32[2,past+seq]
  %last = slice(%pos, %minus, %end, %one) : f32[2,1]
  %v = sub(%y, %last) : f32[2,seq]
  %rows = slice(%table, %zero, %s) : f32[min(5,seq)]
  %r = relu(%rows) : f32[min(5,seq)]
  output %v
  output %z
  output %w
  output %r
";
    let sizes: &[At] = &[
        &[("past", 0), ("seq", 3)],
        &[("past", 9), ("seq", 7)],
        &[("past", 4), ("seq", 1)],
        &[("past", 1), ("seq", 6)],
    ];
    check(&[("past", 0, 9), ("seq", 1, 7)], body, sizes, &ALL[..2]);
}

#[test]
fn parts_repetitions_and_numbers_that_are_counted_from_sizes() {
    let body = "  %x = input : f32[seq,6]
  %zero = const [0] : i64[]
  %one = const [1] : i64[]
  %ends = const [-1] : i64[1]
  %starts = const [1] : i64[1]
  %axes = const [0] : i64[1]
  %five = const [5] : i64[1]
  %n = sizes() {dtype=i64, scalar=1, value=d[seq]} : i64[]
  %s = sizes() {dtype=i64, value=d[2*seq,6]} : i64[2]
  %to = sizes() {dtype=i64, value=d[3,seq,6]} : i64[3]
  %i = range(%zero, %n, %one) : i64[seq]
  %f = cast(%i) {to=f32} : f32[seq]
  %u = unsqueeze(%f, %ends) : f32[seq,1]
  %b = add(%x, %u) : f32[seq,6]
  %c = concat(%b, %x) {axis=0} : f32[2*seq,6]
  %e = expand(%b, %to) : f32[3,seq,6]
  %p = slice(%b, %starts, %five, %axes) : f32[max(min(5,seq)-1,0),6]
  %r = reshape(%c, %s) : f32[2*seq,6]
  %q = reduce_sum(%e, %axes) {keepdims=0} : f32[seq,6]
  %z = gather(%x, %i) {axis=0} : f32[seq,6]
  %len = cast(%n) {to=f32} : f32[]
  %scaled = div(%z, %len) : f32[seq,6]
  output %p
  output %r
  output %q
  output %scaled
  output %i
  output %s
";
    check(&[("seq", 1, 300)], body, &[&[("seq", 1)], &[("seq", 4)], &[("seq", 300)], &[("seq", 67)]], F32);
}

#[test]
fn what_holds_at_some_sizes_alone_is_refused() {
    let refused = |body: &str| {
        let text = format!("graph g onnx where n in 1..4\n{body}  output %y\n");
        text::parse(&text, &registry(), &|_, _| None).unwrap().verify().unwrap_err().to_string()
    };
    for (body, because) in [
        ("  %x = input : f32[n,3]\n  %y = squeeze(%x) : f32[3]\n", "axes to be given: n may be 1, or not"),
        ("  %a = const [0] : i64[1]\n  %x = input : f32[n,3]\n  %y = squeeze(%x, %a) : f32[3]\n", "axes of size 1"),
        ("  %x = input : f32[2,n]\n  %w = input : f32[3,2]\n  %y = matmul(%x, %w) : f32[2,2]\n", "n rows to multiply"),
        (
            "  %x = input : f32[2,1,3]\n  %s = input : f32[1]\n  %b = input : f32[n]\n  %y = instance_normalization(%x, %s, %b) : f32[2,1,3]\n",
            "operand 2 is f32[n], expected [1]",
        ),
        (
            "  %x = input : i8[2,n]\n  %s = const [1.0,2.0,3.0] : f32[3]\n  %y = dequantize_linear(%x, %s) {axis=1} : f32[2,n]\n",
            "scales along attribute axis of [2,n]",
        ),
        (
            "  %x = input : i8[n]\n  %s = const [1.0,2.0] : f32[2]\n  %y = dequantize_linear(%x, %s) {axis=0, block_size=2} : f32[n]\n",
            "scales along attribute axis of [n]",
        ),
        (
            "  %q = input : f32[1,2,3,4]\n  %k = input : f32[1,2,n,4]\n  %v = input : f32[1,2,n,4]\n  %m = input : f32[3,2]\n  %y = attention(%q, %k, %v, %m) : f32[1,2,3,4]\n",
            "operand 3 is f32[3,2], expected at most as many keys as there are, n, at all sizes",
        ),
        (
            "  %x = input : f32[2,3]\n  %i = input : i64[n,1]\n  %y = gather_elements(%x, %i) {axis=1} : f32[n,1]\n",
            "none longer but axis 1",
        ),
    ] {
        let error = refused(body);
        assert!(error.contains(because), "{error}");
    }
    let negative = read(
        " where n in 1..4",
        "  %x = input : f32[n,3]\n  %a = const [2] : i64[1]\n  %b = const [0] : i64[1]\n  %p = const [-2,0] : i64[2]\n  %y = pad(%x, %p, _, %b) : f32[n-2,3]\n  output %y\n",
    );
    let options = Compile { settings: Settings::default(), target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    let refused = compile(&negative, &options, &|_, _, _| {}, None).unwrap_err().to_string();
    assert!(refused.contains("f32[n-2,3], of which an axis would have -1 elements"), "{refused}");
}

#[test]
fn shapes_out_of_range_or_that_contradict_each_other_are_refused_with_the_numbers() {
    let graph = read(
        &where_(&[("past", 0, 8), ("seq", 2, 4)]),
        "  %a = input : f32[past+seq,2]
  %b = input : f32[seq,2]
  %c = input : f32[past,2]
  %y = concat(%b, %c) {axis=0} : f32[past+seq,2]
  %z = add(%a, %y) : f32[past+seq,2]
  output %z
",
    );
    let mut session =
        Session::of(compiled(&graph, "uniform:f32", &Target::shipped("lavapipe").unwrap()), DeviceChoice::Cpu).unwrap();
    let tensor = |n: usize| Tensor::from_f32s(DType::F32, &[n, 2], &vec![1.0; n * 2]).unwrap();
    assert!(session.run(&[tensor(5), tensor(3), tensor(2)]).is_ok());
    for (shapes, expected) in [
        ([6, 5, 1], "input \"b\": axis 0 has 5, which makes seq 5; this program takes 2 to 4"),
        ([6, 3, 2], "input \"a\": [6, 2] given, [past+seq, 2] wanted with past = 2, seq = 3"),
    ] {
        let refused = session.run(&shapes.map(tensor)).unwrap_err().to_string();
        assert_eq!(refused, expected);
    }
}

#[test]
fn data_dependent_sizes_reach_kernels_and_lists() {
    // The list of positions depends on how many rows are kept, and on nothing that is computed.
    let body = "  %zero = const [0] : i64[]
  %one = const [1] : i64[]
  %ones = const [1] : i64[1]
  %x = input : f32[seq,6]
  %m = input : i64[seq]
  %w = input : f32[6,5]
  %rows = compress(%x, %m) {axis=0, count=d[kept]} : f32[kept,6]
  %p = matmul(%rows, %w) : f32[kept,5]
  %n = sizes() {dtype=i64, scalar=1, value=d[kept]} : i64[]
  %i = range(%zero, %n, %one) : i64[kept]
  %f = cast(%i) {to=f32} : f32[kept]
  %y = reduce_sum(%p, %ones) {keepdims=0} : f32[kept]
  %z = add(%y, %f) : f32[kept]
  output %z
  output %i
";
    let sizes: [At; 5] = [&[("seq", 5)], &[("seq", 70)], &[("seq", 1)], &[("seq", 33)], &[("seq", 70)]];
    check(&[("kept", 0, 70), ("seq", 1, 70)], body, &sizes, ALL);
    let graph = read(&where_(&[("kept", 0, 70), ("seq", 1, 70)]), body);
    let place =
        |order: &[nyxc::ir::NodeId], name: &str| order.iter().position(|id| graph.node(*id).name == name).unwrap();
    for order in [graph.order(), graph.file_order()] {
        assert!(place(&order, "rows") < place(&order, "n") && place(&order, "rows") < place(&order, "i"), "{graph}");
    }
}

#[test]
fn what_tells_a_size_stays_while_the_size_is_used() {
    let body = "  %x = input : f32[4,3]
  %places = non_zero(%x) {count=d[k]} : i64[2,k]
  %n = sizes() {dtype=i64, value=d[k]} : i64[1]
  %y = identity(%n) : i64[1]
  output %y
";
    let mut graph = read(&where_(&[("k", 0, 12)]), body);
    assert_eq!(graph.remove_dead(), 0);
    let mut session =
        Session::of(compiled(&graph, "uniform:f32", &Target::shipped("lavapipe").unwrap()), DeviceChoice::Cpu).unwrap();
    let x = Tensor::from_f32s(DType::F32, &[4, 3], &[0., 1., 0., 0., -2., 0., f32::NAN, 0., 0., 0., 0., -0.]).unwrap();
    assert_eq!(session.run(&[x]).unwrap().outputs[0].to_i64s().unwrap(), [3]);
    let mut unused =
        read(&where_(&[("k", 0, 12)]), &body.replace("  output %y\n", "  %z = relu(%x) : f32[4,3]\n  output %z\n"));
    assert_eq!(unused.remove_dead(), 3, "{unused}");
    for (text, expected) in [
        (body.replace("f32[4,3]", "f32[4,k]"), "the size \"k\" is defined more than once"),
        (
            body.replace("  %n =", "  %more = non_zero(%x) {count=d[k]} : i64[2,k]\n  %n ="),
            "the size \"k\" is defined more than once",
        ),
        (body.replace("count=d[k]", "count=d[2*k]"), "attribute count is [2*k], not one symbol"),
        (
            body.replace("  %places", "  %more = constant_of_shape(%n) : f32[k]\n  %places")
                .replace("non_zero(%x)", "non_zero(%more)")
                .replace("[2,k]", "[1,k]"),
            "%n is not defined above",
        ),
    ] {
        let read = text::parse(&format!("graph g onnx where k in 0..12\n{text}"), &registry(), &|_, _| None);
        let refused = match read {
            Ok(graph) => graph.verify().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(refused.contains(expected), "{refused}\n{text}");
    }
}

#[test]
fn ranges_are_given_by_name_by_axis_and_in_expressions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ppocr-cls.onnx");
    let load = |dims: &[&str]| {
        let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap_or_else(|e| panic!("{e}"))).collect();
        import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).map(|(graph, _)| graph)
    };
    let graph = load(&["x.0=1..4", "x.2=48", "x.3=64*w", "w=1..3"]).unwrap();
    assert_eq!(
        graph.ranges().into_iter().map(|(name, range)| (name, *range.end())).collect::<Vec<_>>(),
        [("w".to_owned(), 3), ("x.0".to_owned(), 4)]
    );
    assert_eq!(graph.ty(graph.inputs()[0].out(0)).to_string(), "f32[\"x.0\",3,48,64*w]");
    let at_least = load(&["x.0=1", "x.2=48", "x.3=max(64,32*w)", "w=0..3"]).unwrap();
    assert_eq!(at_least.ty(at_least.inputs()[0].out(0)).to_string(), "f32[1,3,48,max(64,32*w)]");
    let open = load(&["x.2=48"]).unwrap();
    let options = Compile { settings: Settings::default(), target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    let refused = compile(&open, &options, &|_, _, _| {}, None).unwrap_err().to_string();
    assert_eq!(refused, "nothing says how large x.3 may be: give --dim x.3=N or --dim x.3=1..N");
    assert!(load(&["x.0=1", "x.2=48", "x.3=64*w"]).unwrap_err().to_string().contains("--dim w=1..N"));
    assert!(load(&["x.0=1", "x.2=48", "x.3=w-2", "w=1..3"]).unwrap_err().to_string().contains("-1 to 1"));
    assert!(load(&["x.0=1", "x.2=48", "nothing=1..3"]).unwrap_err().to_string().contains("nothing"));
    for text in ["x=5..2", "x=..", "x=-1..4", "x=1..", "x=1..99999999999"] {
        assert!(DimBinding::parse(text).is_err(), "{text}");
    }
}
