//! The container: what the package wrote is read, what is written is read again.

use trimtab_io::Bytes;
use trimtab_io::gguf::{self, GgufArray, GgufType, GgufValue, GgufWriter};

use super::fixtures;

#[test]
fn a_file_of_the_package() {
    let file = gguf::open(fixtures().join("tiny.gguf")).unwrap();
    let expected: [(&str, GgufValue); 12] = [
        ("general.architecture", "test".into()),
        ("v.u8", GgufValue::U8(200)),
        ("v.i8", GgufValue::I8(-3)),
        ("v.u16", GgufValue::U16(60000)),
        ("v.i16", GgufValue::I16(-300)),
        ("v.u32", GgufValue::U32(4_000_000_000)),
        ("v.i32", GgufValue::I32(-70000)),
        ("v.f32", GgufValue::F32(1e-5)),
        ("v.u64", GgufValue::U64(1 << 40)),
        ("v.i64", GgufValue::I64(-(1 << 40))),
        ("v.f64", GgufValue::F64(0.1)),
        ("v.bool", GgufValue::Bool(true)),
    ];
    for (key, value) in expected {
        assert_eq!(file.get(key), Some(&value), "{key}");
    }
    assert_eq!(file.get("v.string").unwrap().as_str(), Some("grün"));
    assert_eq!(file.get("v.strings").unwrap().as_strings().unwrap(), ["a", "", "ü b"]);
    assert_eq!(file.get("v.ints").unwrap().as_integers(), Some(vec![1, -2, 3]));
    assert_eq!(file.get("v.floats"), Some(&GgufValue::Array(GgufArray::F32(vec![0.5, -1.5]))));
    assert_eq!(file.get("v.bools"), Some(&vec![true, false].into()));

    let matrix = file.info("matrix").unwrap();
    assert_eq!((&matrix.shape[..], matrix.ty), (&[2, 3][..], GgufType::F16));
    assert_eq!(file.tensor("matrix").unwrap().dequantize(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(file.tensor("vector").unwrap().dequantize(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(file.info("cube").unwrap().shape, [2, 3, 4]);
    let packed = file.tensor("packed").unwrap();
    assert_eq!((packed.ty, packed.rows, packed.cols), (GgufType::Q8_0, 3, 64));
    assert!(file.tensor("matrx").unwrap_err().to_string().contains("nearest: \"matrix\""));
}

#[test]
fn what_is_written_is_read() {
    let original = gguf::open(fixtures().join("tiny.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.gguf");
    let mut writer = GgufWriter::create(&path).unwrap();
    for info in original.tensors() {
        writer.append(&info.name, &info.shape, info.ty, &original.tensor(&info.name).unwrap().data).unwrap();
    }
    // Parts in any order become one tensor with a dimension more.
    for part in [1, 0] {
        writer.append_part("parts", (part, 2), &[1, 32], GgufType::Q8_0, &[part as u8; 34]).unwrap();
    }
    let written = writer.finish(original.keys()).unwrap();
    assert_eq!(written.name, "copy.gguf");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");

    let copy = gguf::open(&path).unwrap();
    assert_eq!(copy.keys(), original.keys());
    for (a, b) in original.tensors().iter().zip(copy.tensors()) {
        assert_eq!((&a.name, &a.shape, a.ty), (&b.name, &b.shape, b.ty));
        assert_eq!(original.tensor(&a.name).unwrap().data[..], copy.tensor(&a.name).unwrap().data[..]);
        assert_eq!(b.range.start % 32, 0);
    }
    assert_eq!(copy.info("parts").unwrap().shape, [2, 1, 32]);
    assert_eq!(copy.tensor("parts").unwrap().data[..], [[0u8; 34], [1; 34]].concat());
    // Without the extra tensor the bytes are those of the package.
    let mut writer = GgufWriter::create(&path).unwrap();
    for info in original.tensors() {
        writer.append(&info.name, &info.shape, info.ty, &original.tensor(&info.name).unwrap().data).unwrap();
    }
    writer.finish(original.keys()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(fixtures().join("tiny.gguf")).unwrap());
}

#[test]
fn the_writer_refuses_what_could_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let new = || GgufWriter::create(&path).unwrap();
    let mut writer = new();
    let mut refuse = |name: &str, shape: &[usize], ty, bytes: usize| {
        writer.append(name, shape, ty, &vec![0; bytes]).unwrap_err().to_string()
    };
    assert!(refuse(&"n".repeat(64), &[1], GgufType::F32, 4).contains("1 to 63 bytes"));
    assert!(refuse("a", &[], GgufType::F32, 4).contains("1 to 4 dimensions"));
    assert!(refuse("a", &[48], GgufType::Q8_0, 51).contains("choose a type whose block divides 48"));
    assert!(refuse("a", &[2, 2], GgufType::F32, 4).contains("takes 16 bytes, found 4"));
    writer.append("a", &[1], GgufType::F32, &[0; 4]).unwrap();
    assert!(
        writer.append("a", &[1], GgufType::F32, &[0; 4]).unwrap_err().to_string().contains("added twice")
    );
    writer.append_part("e", (0, 2), &[1], GgufType::F32, &[0; 4]).unwrap();
    let other = writer.append_part("e", (1, 2), &[1], GgufType::F16, &[0; 2]).unwrap_err().to_string();
    assert!(other.contains("earlier ones are [1] of F32"), "{other}");
    assert!(writer.finish(&[]).unwrap_err().to_string().contains("part 1 of 2 is missing"));
    let twice = [("k".to_owned(), GgufValue::U8(1)), ("k".to_owned(), GgufValue::U8(1))];
    assert!(new().finish(&twice).unwrap_err().to_string().contains("\"k\" is there twice"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a failed file leaves nothing");
}

/// A header with these parts, then `data` zero bytes.
fn build(version: u32, tensors: &[Vec<u8>], keys: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    keys.iter().chain(tensors).for_each(|part| out.extend(part));
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn key(name: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
    [&string(name)[..], &type_id.to_le_bytes(), value].concat()
}

fn info(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(type_id.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

#[test]
fn each_defect_is_named_with_its_numbers() {
    let refuse = |bytes: Vec<u8>| gguf::parse(&Bytes::from(bytes)).unwrap_err().to_string();
    let tensors = |tensors: &[Vec<u8>], data| refuse(build(3, tensors, &[], data));
    let keys = |keys: &[Vec<u8>]| refuse(build(3, &[], keys, 0));
    assert!(gguf::parse(&Bytes::from(build(3, &[info("a", &[8], 0, 0)], &[], 32))).is_ok());

    assert!(refuse(b"GGML....".to_vec()).contains("not a GGUF file"));
    assert!(refuse(build(2, &[], &[], 0)).contains("version 2 of GGUF; only version 3"));
    assert!(refuse(build(3u32.swap_bytes(), &[], &[], 0)).contains("big-endian"));
    let mut many = build(3, &[], &[], 0);
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refuse(many).contains("18446744073709551615 tensors"));

    let a = || info("a", &[8], 0, 0);
    assert!(tensors(&[a(), a()], 64).contains("is there twice"));
    assert!(tensors(&[a(), info("b", &[8], 0, 16)], 64).contains("no multiple of 32"));
    assert!(tensors(&[a(), info("b", &[8], 0, 0)], 64).contains("overlap"));
    assert!(tensors(&[info("a", &[9], 0, 0)], 32).contains("ends at byte 36 of the data, the file has 32"));
    assert!(tensors(&[info("a", &[48], 8, 0)], 64).contains("no whole blocks of 32 of type Q8_0"));
    assert!(tensors(&[info("a", &[8], 17, 0)], 32).contains("type IQ2_XS (17) is not read"));
    assert!(tensors(&[info("a", &[8], 999, 0)], 32).contains("type number 999"));
    assert!(tensors(&[info("a", &[0, 1 << 60], 0, 0)], 32).contains("a dimension of length 0"));
    assert!(tensors(&[info("a", &[1; 5], 0, 0)], 32).contains("5 dimensions"));
    assert!(tensors(&[info("a", &[1 << 40, 1 << 40], 0, 0)], 32).contains("larger than the address space"));
    assert!(tensors(&[info("a", &[8], 0, u64::MAX - 31)], 32).contains("larger than the address space"));
    assert!(tensors(&[info(&"n".repeat(64), &[8], 0, 0)], 32).contains("at most 63"));

    let one = || key("k", 0, &[1]);
    assert!(keys(&[one(), one()]).contains("\"k\" is there twice"));
    assert!(keys(&[key("k", 13, &[1])]).contains("unknown type 13"));
    assert!(keys(&[key("k", 7, &[2])]).contains("truth value 2"));
    assert!(
        keys(&[key("k", 8, &[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat())]).contains("not valid UTF-8")
    );
    assert!(keys(&[key("k", 9, &[&9u32.to_le_bytes()[..], &[0; 8]].concat())]).contains("array of arrays"));
    let huge = [&4u32.to_le_bytes()[..], &(1u64 << 60).to_le_bytes()].concat();
    assert!(keys(&[key("k", 9, &huge)]).contains("1152921504606846976 values"));
    let aligned = |alignment: u32| keys(&[key("general.alignment", 4, &alignment.to_le_bytes())]);
    assert!(aligned(24).contains("power of two") && aligned(0).contains("power of two"));
    assert!(keys(&[key("general.alignment", 0, &[32])]).contains("must be a u32"));
}
