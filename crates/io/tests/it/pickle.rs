//! Pickles, zip archives and old PyTorch files made by hand, as hostile tests need them.

/// A pickle that grows opcode by opcode.
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.op(b"J").op(&value.to_le_bytes())
    }

    fn tuple(self, values: &[i32]) -> Self {
        values.iter().fold(self.op(b"("), |p, &value| p.int(value)).op(b"t")
    }

    /// A tensor of f32 over the storage `key` of `numel` elements.
    pub fn tensor(self, key: &str, numel: i32, shape: &[i32], strides: &[i32], offset: i32) -> Self {
        let p = self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage");
        let p = p.global("torch", "FloatStorage").text(key).text("cpu").int(numel).op(b"tQ").int(offset);
        p.tuple(shape).tuple(strides).op(b"\x89").global("collections", "OrderedDict").op(b")RtR")
    }

    /// A whole state dict: four numbers under each name, all in storage 0.
    pub fn state(self, names: &[&str]) -> Vec<u8> {
        let p =
            names.iter().fold(self.op(b"}"), |p, name| p.text(name).tensor("0", 4, &[4], &[1], 0).op(b"s"));
        p.op(b".").bytes()
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A PyTorch file since 1.6.
pub fn zip(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let storages: Vec<(String, &[u8])> =
        storages.iter().map(|(key, bytes)| (format!("a/data/{key}"), *bytes)).collect();
    let mut files = vec![("a/data.pkl", pickle), ("a/byteorder", b"little")];
    files.extend(storages.iter().map(|(name, bytes)| (name.as_str(), *bytes)));
    archive(&files)
}

/// A zip archive of stored entries, without checksums.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let offset = out.len() as u32;
        let (name_len, len) = ((name.len() as u16).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
        out.extend(b"PK\x03\x04");
        out.extend([0; 14]);
        out.extend([len, len].concat());
        out.extend([name_len, [0; 2]].concat());
        out.extend(name.as_bytes());
        out.extend(*bytes);
        central.extend(b"PK\x01\x02");
        central.extend([0; 16]);
        central.extend([len, len].concat());
        central.extend(name_len);
        central.extend([0; 12]);
        central.extend(offset.to_le_bytes());
        central.extend(name.as_bytes());
    }
    let (start, size, count) = (out.len() as u32, central.len() as u32, (files.len() as u16).to_le_bytes());
    out.extend(central);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    out.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    out.extend([0; 2]);
    out
}

/// A PyTorch file before 1.6: `keys` is the pickled list of storages, each of which has 4-byte elements.
pub fn legacy(object: &[u8], keys: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    out.extend(Pickle::new().op(b"}").text("little_endian").op(b"\x88s.").bytes());
    out.extend(object);
    out.extend(keys);
    for storage in storages {
        out.extend((storage.len() as u64 / 4).to_le_bytes());
        out.extend(*storage);
    }
    out
}
