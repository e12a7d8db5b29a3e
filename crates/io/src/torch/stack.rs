//! What the opcodes of the machine are made of: reading the pickle, the stack, the memo, and containers.

use super::machine::Machine;
use super::value::{Text, Value};
use crate::error::Result;

impl Machine<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.wrong("truncated".into())),
        }
    }

    /// Bytes behind their length, an unsigned integer of `N` bytes.
    pub(super) fn span<const N: usize>(&mut self) -> Result<Text> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(&self.take::<N>()?);
        let (length, start) = (u64::from_le_bytes(length), self.at);
        if length > (self.bytes.len() - start) as u64 {
            return Err(
                self.wrong(format!("truncated: {length} bytes announced, {} left", self.bytes.len() - start))
            );
        }
        self.at += length as usize;
        Ok(Text { start: start as u32, len: length as u32 })
    }

    /// A line, without its end.
    pub(super) fn line(&mut self) -> Result<Text> {
        let start = self.at;
        let length = self.bytes[start..].iter().position(|&byte| byte == b'\n');
        let Some(length) = length else { return Err(self.wrong("truncated: a line without end".into())) };
        if std::str::from_utf8(&self.bytes[start..start + length]).is_err() {
            return Err(self.wrong("a name that is not UTF-8".into()));
        }
        self.at += length + 1;
        Ok(Text { start: start as u32, len: length as u32 })
    }

    pub(super) fn raw(&self, text: Text) -> &[u8] {
        &self.bytes[text.start as usize..][..text.len as usize]
    }

    pub(super) fn unicode<const N: usize>(&mut self) -> Result<()> {
        let span = self.span::<N>()?;
        if std::str::from_utf8(self.raw(span)).is_err() {
            return Err(self.wrong("a string that is not UTF-8".into()));
        }
        self.stack.push(Value::Str(span));
        Ok(())
    }

    /// A string of Python 2, which may be bytes.
    pub(super) fn string<const N: usize>(&mut self) -> Result<()> {
        let span = self.span::<N>()?;
        let is_text = std::str::from_utf8(self.raw(span)).is_ok();
        self.stack.push(if is_text { Value::Str(span) } else { Value::Opaque });
        Ok(())
    }

    pub(super) fn opaque_bytes<const N: usize>(&mut self) -> Result<()> {
        self.span::<N>()?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    /// A little-endian integer in two's complement.
    pub(super) fn long(&self, digits: Text) -> Value {
        let bytes = self.raw(digits);
        if bytes.len() > 8 {
            return Value::Long(digits);
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Value::Int(i64::from_le_bytes(wide))
    }

    pub(super) fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Result<Value> {
        match self.stack.last() {
            Some(&value) if self.stack.len() > self.floor() => Ok(value),
            _ => Err(self.wrong("takes a value from an empty stack".into())),
        }
    }

    pub(super) fn pop(&mut self) -> Result<Value> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    pub(super) fn pop_mark(&mut self) -> Result<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.wrong("goes back to a mark that is not there".into())),
        }
    }

    pub(super) fn put(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    pub(super) fn get(&mut self, index: u32) -> Result<()> {
        let Some(&value) = self.memo.get(&index) else {
            return Err(self.wrong(format!("memo {index} is empty")));
        };
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) {
        self.heap.tuples.push(items);
        self.stack.push(Value::Tuple(self.heap.tuples.len() as u32 - 1));
    }

    pub(super) fn list(&mut self, items: Vec<Value>) {
        self.heap.lists.push(items);
        self.stack.push(Value::List(self.heap.lists.len() as u32 - 1));
    }

    pub(super) fn dict(&mut self, items: Vec<(Value, Value)>) -> Value {
        self.heap.dicts.push(items);
        Value::Dict(self.heap.dicts.len() as u32 - 1)
    }

    pub(super) fn append(&mut self, items: Vec<Value>) -> Result<()> {
        let top = self.top()?;
        let Value::List(list) = top else {
            return Err(self.wrong(format!("appends to {}", top.kind())));
        };
        self.heap.lists[list as usize].extend(items);
        Ok(())
    }

    pub(super) fn set_items(&mut self, items: Vec<Value>) -> Result<()> {
        let top = self.top()?;
        let (Value::Dict(dict), (pairs, [])) = (top, items.as_chunks::<2>()) else {
            return Err(self.wrong(format!("sets {} keys and values of {}", items.len(), top.kind())));
        };
        self.heap.dicts[dict as usize].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }
}
