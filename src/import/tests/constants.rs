//! Where the data of constants comes from.

use super::*;
use crate::ir::DType;
use std::path::PathBuf;
use tract_onnx::pb::StringStringEntryProto;

fn constant(tensor: TensorProto) -> Result<Tensor, ImportError> {
    let x = vec![info("x", F32, &["2"])];
    let name = tensor.name.clone();
    let (graph, _) = run(21, graph(x, vec![tensor], vec![relu("x", "y")], &["y", &name]), &[])?;
    Ok(graph.constant(graph.outputs()[1].value).unwrap().clone())
}

#[test]
fn raw_bytes_are_moved_and_not_copied() {
    let raw_data: Vec<u8> = (0..4000).map(|i| i as u8).collect();
    let at = raw_data.as_ptr();
    let tensor = constant(TensorProto { raw_data, float_data: vec![], ..floats("w", &[10, 100], &[]) }).unwrap();
    assert_eq!(tensor.bytes().unwrap().as_ptr(), at);
}

#[test]
fn typed_fields_hold_every_type() {
    let narrow = |data_type, n: i64, int32_data: &[i32]| {
        let proto = TensorProto {
            int32_data: int32_data.to_vec(),
            data_type,
            dims: vec![n],
            name: "w".to_owned(),
            ..Default::default()
        };
        constant(proto).unwrap()
    };
    // 1.0 and -2.0 as f16 and as bf16.
    assert_eq!(narrow(10, 2, &[0x3c00, 0xc000]).to_f32s().unwrap().as_ref(), [1.0, -2.0]);
    assert_eq!(narrow(16, 2, &[0x3f80, 0xc000]).to_f32s().unwrap().as_ref(), [1.0, -2.0]);
    assert_eq!(narrow(3, 2, &[-1, 5]).to_i64s().unwrap(), [-1, 5]);
    assert_eq!(narrow(BOOL, 2, &[1, 0]).to_i64s().unwrap(), [1, 0]);
    // Three 4-bit integers in two numbers.
    assert_eq!(narrow(22, 3, &[0x78, 0x0f]).to_i64s().unwrap(), [-8, 7, -1]);
    assert_eq!(narrow(17, 1, &[0x38]).dtype(), DType::F8E4M3);
    assert_eq!(narrow(26, 5, &[0xe4, 1]).bytes().unwrap(), [0xe4, 1]);
    let wide = TensorProto {
        uint64_data: vec![7, u64::from(u32::MAX)],
        data_type: 12,
        dims: vec![2],
        name: "w".to_owned(),
        ..Default::default()
    };
    assert_eq!(constant(wide).unwrap().to_i64s().unwrap(), [7, i64::from(u32::MAX)]);
    let double = TensorProto {
        double_data: vec![0.5],
        data_type: 11,
        dims: vec![1],
        name: "w".to_owned(),
        ..Default::default()
    };
    assert_eq!(constant(double).unwrap().to_f32s().unwrap().as_ref(), [0.5]);
    assert_eq!(constant(floats("w", &[0], &[])).unwrap().dims(), [0]);
}

#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    let refused = |dims: &[i64], n: usize| constant(floats("w", dims, &vec![0.0; n])).unwrap_err().to_string();
    assert_eq!(refused(&[3], 2), r#"tensor "w": f32[3] needs 12 bytes, 8 given"#);
    assert_eq!(refused(&[-1], 0), r#"tensor "w": its dimension -1 is no size"#);
    assert_eq!(refused(&[i64::MAX, 4], 0), r#"tensor "w": f32[9223372036854775807,4] does not fit the address space"#);
    assert_eq!(refused(&[1 << 40], 0), r#"tensor "w": f32[1099511627776] needs 4398046511104 bytes, 0 given"#);
    let complex = TensorProto { data_type: 14, ..floats("w", &[1], &[]) };
    assert_eq!(constant(complex).unwrap_err().to_string(), r#"tensor "w": element type 14 is not supported"#);
}

#[test]
fn constant_nodes_are_constants_of_every_kind() {
    let nodes = vec![
        node("Constant", &[], &["a"], vec![float("value_float", 2.0)]),
        node(
            "Constant",
            &[],
            &["b"],
            vec![AttributeProto { floats: vec![1.0, 2.0], ..attr("value_floats", AttributeType::Floats) }],
        ),
        node(
            "Constant",
            &[],
            &["c"],
            vec![AttributeProto { t: Some(floats("", &[2], &[3.0, 4.0])), ..attr("value", AttributeType::Tensor) }],
        ),
        node("Constant", &[], &["unused"], vec![int("value_int", 1)]),
        node("Sum", &["x", "a", "b", "c"], &["y"], vec![]),
    ];
    let result = good(13, graph(vec![info("x", F32, &["2"])], vec![], nodes, &["y"]));
    assert_eq!(result.n_nodes(), 5);
    assert_eq!(operators(&result), ["%y = sum(%x, %a, %b, %c) : f32[2] 8B"]);
    let texts = vec![node("Constant", &[], &["a"], vec![text("value_string", "hello")])];
    let refused = refusal(13, graph(vec![info("x", F32, &["2"])], vec![], texts, &["x"]));
    assert_eq!(
        refused,
        r#"node "a" (Constant, opset 13): attribute "value_string" is a constant of text, which is not supported"#
    );
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("nyxc-import-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("model/inner")).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let external_data =
        entries.iter().map(|(k, v)| StringStringEntryProto { key: (*k).to_owned(), value: (*v).to_owned() }).collect();
    TensorProto { data_location: Some(1), external_data, ..floats("w", &[2], &[]) }
}

#[test]
fn external_data_is_read_inside_the_models_folder_only() {
    let folder = Folder::new("external");
    let dir = folder.0.join("model");
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.join("inner/weights.bin"), &bytes).unwrap();
    std::fs::write(folder.0.join("secret.bin"), &bytes).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.0.join("secret.bin"), dir.join("link.bin")).unwrap();
    let read = |entries: &[(&str, &str)]| {
        let nodes = vec![node("Add", &["x", "w"], &["y"], vec![])];
        let model = model(13, graph(vec![info("x", F32, &["2"])], vec![external(entries)], nodes, &["y"]));
        import_proto(model.into(), Some(&dir), &ImportOptions::default(), &bodies::registry())
    };
    let (graph, _) = read(&[("location", "inner/weights.bin"), ("offset", "4"), ("length", "8")]).unwrap();
    let w = graph.constant(graph.value_named("w").unwrap()).unwrap();
    assert_eq!(w.to_f32s().unwrap().as_ref(), [2.0, 3.0]);

    // A length of 0 and none at all are what the tensor needs; no offset is the beginning.
    for (entries, values) in [
        (&[("location", "inner/weights.bin"), ("offset", "4"), ("length", "0")][..], [2.0, 3.0]),
        (&[("location", "inner/weights.bin"), ("offset", "4")], [2.0, 3.0]),
        (&[("location", "inner/weights.bin"), ("offset", ""), ("length", "")], [1.0, 2.0]),
        (&[("location", "inner/weights.bin")], [1.0, 2.0]),
    ] {
        let (graph, _) = read(entries).unwrap();
        assert_eq!(graph.constant(graph.value_named("w").unwrap()).unwrap().to_f32s().unwrap().as_ref(), values);
    }

    let refused = |entries: &[(&str, &str)]| read(entries).unwrap_err().to_string();
    let file = ("location", "inner/weights.bin");
    assert_eq!(
        refused(&[file, ("offset", "8")]),
        r#"tensor "w": 8 bytes from byte 8 of "inner/weights.bin": the file has 12 bytes"#
    );
    assert!(refused(&[file, ("offset", "18446744073709551615")]).ends_with("the file has 12 bytes"));
    assert!(refused(&[file, ("offset", "-4")]).ends_with(r#"its offset is "-4", expected a number of bytes"#));
    assert!(refused(&[file, ("length", "4")]).ends_with("its length is 4 bytes, f32[2] needs 8"));
    assert!(refused(&[("location", "../secret.bin")]).ends_with("only paths inside the model's folder are read"));
    assert!(
        refused(&[("location", folder.0.join("secret.bin").to_str().unwrap())])
            .ends_with("only paths inside the model's folder are read")
    );
    assert!(refused(&[]).ends_with("only paths inside the model's folder are read"));
    assert!(refused(&[("location", "inner")]).ends_with("not a file"));
    #[cfg(unix)]
    assert!(refused(&[("location", "link.bin")]).ends_with("the link leads out of the model's folder"));
    assert!(refused(&[("location", "absent.bin")]).contains(r#"8 bytes from byte 0 of "absent.bin""#));
    assert!(
        run(13, super::graph(vec![], vec![external(&[file])], vec![], &["w"]), &[])
            .unwrap_err()
            .to_string()
            .ends_with("the model came without a folder")
    );
}
