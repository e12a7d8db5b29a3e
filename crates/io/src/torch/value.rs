//! What a pickle can build here.

use crate::dtype::Dtype;

/// A value: a few bytes, however large what it stands for. Containers lie in the [`Heap`] and are shared by number, so
/// that neither a deep nor a repeated structure costs more than the opcodes that made it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, as its little-endian bytes.
    Long(Text),
    Str(Text),
    Global(Global),
    List(Id),
    Tuple(Id),
    Dict(Id),
    Storage(Id),
    Tensor(Id),
    /// Harmless and not looked at: floats, bytes, sets, devices.
    Opaque,
}

/// A range of bytes of the pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Text {
    pub start: u32,
    pub len: u32,
}

/// Place of a container in its part of the [`Heap`].
pub type Id = u32;

/// The containers of one pickle.
#[derive(Debug, Default)]
pub struct Heap {
    pub lists: Vec<Vec<Value>>,
    pub tuples: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<Tensor>,
}

/// What a persistent identifier stands for: numbers that lie outside the pickle.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    pub key: Text,
    pub dtype: Dtype,
    /// Number of elements of the whole storage.
    pub numel: u64,
    /// First element and number of elements of the part that is meant; only in old files.
    pub part: Option<(u64, u64)>,
}

/// A tensor over a storage. Its lengths are looked at only if the tensor is among those that are read.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub storage: Storage,
    pub dtype: Dtype,
    /// First element.
    pub offset: i64,
    /// A tuple.
    pub shape: Id,
    /// A tuple.
    pub strides: Id,
}

/// The globals that may be named. None of them is called: each stands for something that the machine builds itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    OrderedDict,
    Size,
    Device,
    /// `_codecs.encode`, how protocol 2 writes bytes.
    Encode,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`.
    Tensor,
    /// `_rebuild_tensor_v3`, which names the type of the numbers.
    TypedTensor,
    /// `_rebuild_parameter` and `_rebuild_parameter_with_state`.
    Parameter,
    /// A storage of numbers of this type, under PyTorch's name.
    Storage(&'static str),
    UntypedStorage,
    /// The type of numbers of this name.
    Type(&'static str),
}

/// Storage classes and the names of their types.
const STORAGES: [(&str, &str); 15] = [
    ("FloatStorage", "float32"),
    ("DoubleStorage", "float64"),
    ("HalfStorage", "float16"),
    ("BFloat16Storage", "bfloat16"),
    ("LongStorage", "int64"),
    ("IntStorage", "int32"),
    ("ShortStorage", "int16"),
    ("CharStorage", "int8"),
    ("ByteStorage", "uint8"),
    ("BoolStorage", "bool"),
    ("ComplexFloatStorage", "complex64"),
    ("ComplexDoubleStorage", "complex128"),
    ("QInt8Storage", "qint8"),
    ("QUInt8Storage", "quint8"),
    ("QInt32Storage", "qint32"),
];

/// PyTorch's names of types and those of safetensors. Which of them are read is up to [`Dtype`].
const TYPES: [(&str, &str); 19] = [
    ("float32", "F32"),
    ("float64", "F64"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    ("int64", "I64"),
    ("int32", "I32"),
    ("int16", "I16"),
    ("int8", "I8"),
    ("uint8", "U8"),
    ("bool", "BOOL"),
    ("uint16", "U16"),
    ("uint32", "U32"),
    ("uint64", "U64"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
    ("float8_e4m3fnuz", "F8_E4M3FNUZ"),
    ("float8_e5m2fnuz", "F8_E5M2FNUZ"),
    ("complex64", "C64"),
    ("complex128", "C128"),
];

impl Global {
    /// The global of this name; `None` for every one that is not known to be harmless.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("_codecs", "encode") => Self::Encode,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::Tensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::TypedTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::Parameter,
            ("torch" | "torch.storage", "UntypedStorage") => Self::UntypedStorage,
            ("torch" | "torch.cuda", name) => {
                let storage = STORAGES.iter().find(|(class, _)| *class == name);
                let number = TYPES.iter().find(|(number, _)| module == "torch" && *number == name);
                match (storage, number) {
                    (Some((_, number)), _) => Self::Storage(number),
                    (None, Some((number, _))) => Self::Type(number),
                    (None, None) => return None,
                }
            }
            _ => return None,
        })
    }

    /// How messages call it.
    pub fn name(self) -> String {
        match self {
            Self::OrderedDict => "collections.OrderedDict".into(),
            Self::Size => "torch.Size".into(),
            Self::Device => "torch.device".into(),
            Self::Encode => "_codecs.encode".into(),
            Self::Tensor => "torch._utils._rebuild_tensor_v2".into(),
            Self::TypedTensor => "torch._utils._rebuild_tensor_v3".into(),
            Self::Parameter => "torch._utils._rebuild_parameter".into(),
            Self::Storage(number) => format!("torch storage of {number}"),
            Self::UntypedStorage => "torch.UntypedStorage".into(),
            Self::Type(number) => format!("torch.{number}"),
        }
    }
}

/// The type of PyTorch's name; `None` if it is not read.
pub fn dtype(number: &str) -> Option<Dtype> {
    TYPES.iter().find(|(name, _)| *name == number).and_then(|(_, name)| Dtype::from_name(name))
}

impl Value {
    /// How messages call it.
    pub fn kind(self) -> String {
        match self {
            Self::None => "None".into(),
            Self::Bool(_) => "a bool".into(),
            Self::Int(_) | Self::Long(_) => "an integer".into(),
            Self::Str(_) => "a string".into(),
            Self::Global(global) => global.name(),
            Self::List(_) => "a list".into(),
            Self::Tuple(_) => "a tuple".into(),
            Self::Dict(_) => "a dictionary".into(),
            Self::Storage(_) => "a storage".into(),
            Self::Tensor(_) => "a tensor".into(),
            Self::Opaque => "another value".into(),
        }
    }
}
