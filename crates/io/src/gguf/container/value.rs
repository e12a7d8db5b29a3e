//! Values of the keys of a GGUF file.

use std::fmt;

/// Calls a macro with every scalar type of the format: variant, Rust type, number in a file.
macro_rules! with_types {
    ($callback:ident) => {
        $callback! {
            (U8, u8, 0) (I8, i8, 1) (U16, u16, 2) (I16, i16, 3) (U32, u32, 4) (I32, i32, 5) (F32, f32, 6)
            (Bool, bool, 7) (String, String, 8) (U64, u64, 10) (I64, i64, 11) (F64, f64, 12)
        }
    };
}
pub(super) use with_types;

/// Number of the type "array".
pub(super) const ARRAY: u32 = 9;

macro_rules! define {
    ($(($variant:ident, $type:ty, $id:literal))*) => {
        /// The value of a key.
        #[derive(Clone, Debug, PartialEq)]
        pub enum GgufValue {
            $(#[allow(missing_docs)] $variant($type),)*
            /// Several values of one type.
            Array(GgufArray),
        }

        /// Several values of one type. Arrays of arrays are not part of the format as engines read it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum GgufArray {
            $(#[allow(missing_docs)] $variant(Vec<$type>),)*
        }

        impl GgufValue {
            /// Number of the type in a file.
            pub const fn type_id(&self) -> u32 {
                match self {
                    $(Self::$variant(_) => $id,)*
                    Self::Array(_) => ARRAY,
                }
            }
        }

        impl GgufArray {
            /// Number of the type of the elements in a file.
            pub const fn type_id(&self) -> u32 {
                match self { $(Self::$variant(_) => $id,)* }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(values) => values.len(),)* }
            }
        }

        $(
            impl From<$type> for GgufValue {
                fn from(value: $type) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$type>> for GgufValue {
                fn from(values: Vec<$type>) -> Self {
                    Self::Array(GgufArray::$variant(values))
                }
            }
        )*
    };
}
with_types!(define);

impl From<&str> for GgufValue {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl GgufArray {
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl GgufValue {
    /// A whole number of any integer type; `None` for others and for negative numbers.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A floating-point number; a single is widened by its shortest decimal form, so that 1e-5 is 1e-5 again.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => v.to_string().parse().ok(),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// The elements of an array of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Array(GgufArray::String(v)) => Some(v),
            _ => None,
        }
    }

    /// Whole numbers: of an array of 32-bit integers.
    pub fn as_integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Array(GgufArray::I32(v)) => Some(v.iter().map(|&v| v.into()).collect()),
            Self::Array(GgufArray::U32(v)) => Some(v.iter().map(|&v| v.into()).collect()),
            _ => None,
        }
    }

    /// The elements of an array of single-precision numbers.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match self {
            Self::Array(GgufArray::F32(v)) => Some(v),
            _ => None,
        }
    }
}

impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        macro_rules! show {
            ($(($variant:ident, $type:ty, $id:literal))*) => {
                match self {
                    Self::Array(array) => write!(f, "{} values of type {}", array.len(), array.type_id()),
                    $(Self::$variant(value) => write!(f, "{value:?}"),)*
                }
            };
        }
        with_types!(show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_are_read_as_one() {
        for value in [GgufValue::U8(7), GgufValue::I16(7), GgufValue::U64(7), GgufValue::I32(7)] {
            assert_eq!(value.as_u64(), Some(7));
        }
        assert_eq!(GgufValue::I32(-1).as_u64(), None);
        assert_eq!(GgufValue::F32(7.0).as_u64(), None);
        assert_eq!(GgufValue::F32(1e-5).as_f64(), Some(1e-5), "not 9.99999974e-6");
    }
}
