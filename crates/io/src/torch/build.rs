//! What the machine builds in place of the calls that a pickle of tensors asks for.

use super::machine::Machine;
use super::value::{Global, Id, Storage, Tensor, Value, dtype};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

impl Machine<'_> {
    /// The value that `function(*args)` stands for.
    pub fn reduce(&mut self, function: Global, args: Id) -> Result<Value> {
        let args: &[Value] = &self.heap.tuples[args as usize];
        match (function, args) {
            (Global::OrderedDict, []) => Ok(self.dict(Vec::new())),
            (Global::OrderedDict, &[Value::List(pairs)]) => self.ordered(pairs),
            (Global::Size, &[Value::Tuple(sizes)]) => Ok(Value::Tuple(sizes)),
            (Global::Device | Global::Encode, _) => Ok(Value::Opaque),
            // A parameter is its tensor.
            (Global::Parameter, &[Value::Tensor(tensor), ..]) => Ok(Value::Tensor(tensor)),
            (Global::Tensor, &[storage, offset, shape, strides, ..]) => {
                self.tensor(storage, offset, shape, strides, None)
            }
            (
                Global::TypedTensor,
                &[storage, offset, shape, strides, _, _, Value::Global(Global::Type(number)), ..],
            ) => self.tensor(storage, offset, shape, strides, Some(number)),
            // A class that may be named, but of which nothing is made here.
            (Global::Storage(_) | Global::UntypedStorage | Global::Type(_), _) => {
                Err(self.code("REDUCE", &function.name()))
            }
            _ => Err(self
                .wrong(format!("REDUCE of {} with other arguments than torch.save gives", function.name()))),
        }
    }

    /// Python 2 gives the items of an `OrderedDict` as a list of pairs.
    fn ordered(&mut self, pairs: Id) -> Result<Value> {
        let pairs = &self.heap.lists[pairs as usize];
        let count = pairs.len();
        let pair = |&value: &Value| {
            let items = match value {
                Value::List(id) => &self.heap.lists[id as usize],
                Value::Tuple(id) => &self.heap.tuples[id as usize],
                _ => return None,
            };
            match items[..] {
                [key, value] => Some((key, value)),
                _ => None,
            }
        };
        let items: Option<Vec<(Value, Value)>> = pairs.iter().map(pair).collect();
        let items =
            items.ok_or_else(|| self.wrong("OrderedDict of something that is no list of pairs".into()))?;
        self.spend(count)?;
        Ok(self.dict(items))
    }

    fn tensor(
        &mut self,
        storage: Value,
        offset: Value,
        shape: Value,
        strides: Value,
        number: Option<&'static str>,
    ) -> Result<Value> {
        let (Value::Storage(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides)) =
            (storage, offset, shape, strides)
        else {
            let message = "a tensor needs a storage, an offset, a shape and strides; found";
            let found = [storage, offset, shape, strides].map(Value::kind).join(", ");
            return Err(self.wrong(format!("{message} {found}")));
        };
        let storage = self.heap.storages[storage as usize];
        let dtype = match number {
            Some(number) => self.known(number)?,
            None => storage.dtype,
        };
        self.heap.tensors.push(Tensor { storage, dtype, offset, shape, strides });
        Ok(Value::Tensor(self.heap.tensors.len() as u32 - 1))
    }

    /// The storage of a persistent identifier: `("storage", class, key, location, numel[, part])`.
    pub fn persistent(&mut self, id: Value) -> Result<Value> {
        let unknown = |machine: &Self| {
            machine.wrong("BINPERSID of something that is no storage as torch.save describes it".into())
        };
        let Value::Tuple(id) = id else { return Err(unknown(self)) };
        let fields = &self.heap.tuples[id as usize];
        let &[Value::Str(kind), Value::Global(class), Value::Str(key), _, Value::Int(numel), ref rest @ ..] =
            &fields[..]
        else {
            return Err(unknown(self));
        };
        if self.text(kind) != "storage" {
            return Err(unknown(self));
        }
        let part = match *rest {
            [] | [Value::None] => None,
            [Value::Tuple(part)] => match self.heap.tuples[part as usize][..] {
                [_, Value::Int(offset @ 0..), Value::Int(numel @ 0..)] => Some((offset as u64, numel as u64)),
                _ => return Err(unknown(self)),
            },
            _ => return Err(unknown(self)),
        };
        let dtype = match class {
            Global::Storage(number) => self.known(number)?,
            Global::UntypedStorage => Dtype::U8,
            _ => return Err(unknown(self)),
        };
        let numel = u64::try_from(numel).map_err(|_| self.wrong(format!("a storage of {numel} elements")))?;
        self.heap.storages.push(Storage { key, dtype, numel, part });
        Ok(Value::Storage(self.heap.storages.len() as u32 - 1))
    }

    fn known(&self, number: &str) -> Result<Dtype, Error> {
        dtype(number).ok_or_else(|| {
            let known = Dtype::ALL.map(Dtype::name).join(", ");
            self.wrong(format!("numbers of type torch.{number} are not read; known are {known}"))
        })
    }
}
