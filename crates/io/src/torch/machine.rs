//! The pickle machine that only builds.
//!
//! It has the opcodes that `torch.save` emits at protocols 2 to 5. It has no way to call anything: `GLOBAL` names one of
//! [`Global`], and `REDUCE` of one builds a value of this crate (`build.rs`). There is no recursion, each value is a few
//! bytes, and copies of values are counted like opcodes, so time and memory are bounded by the length of the file.

use std::collections::HashMap;

use super::opcode as op;
use super::value::{Global, Heap, Text, Value};
use crate::error::{Error, Result};

/// Most opcodes of one pickle; a tensor takes about 30.
const MAX_STEPS: usize = 4_000_000;
const HINT: &str = "hint: save only the tensors, torch.save(model.state_dict(), ...), or write safetensors";

/// What a pickle built.
#[derive(Debug)]
pub struct Built {
    pub heap: Heap,
    pub root: Value,
    /// First byte after the pickle.
    pub end: usize,
}

pub struct Machine<'a> {
    /// How messages call the file.
    pub label: &'a str,
    pub heap: Heap,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    /// Place of the current opcode.
    pub(super) opcode_at: usize,
    pub(super) stack: Vec<Value>,
    /// Heights of the stack at each open mark; nothing below the last one can be popped.
    pub(super) marks: Vec<usize>,
    pub(super) memo: HashMap<u32, Value>,
    steps: usize,
}

/// Runs the pickle that begins at byte `start` of `bytes`.
pub fn run(label: &str, bytes: &[u8], start: usize) -> Result<Built> {
    // Places are kept in 32 bits. No pickle of tensors is that long, though its file may be.
    let bytes = &bytes[..bytes.len().min(u32::MAX as usize)];
    let mut machine = Machine {
        label,
        heap: Heap::default(),
        bytes,
        at: start,
        opcode_at: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        steps: 0,
    };
    let root = machine.run()?;
    Ok(Built { heap: machine.heap, root, end: machine.at })
}

/// The text of a pickle at `text`; it was checked when it was read.
pub fn text(bytes: &[u8], text: Text) -> &str {
    let range = text.start as usize..text.start as usize + text.len as usize;
    bytes.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value> {
        loop {
            self.opcode_at = self.at;
            self.spend(1)?;
            let [opcode] = self.take()?;
            if opcode == op::STOP {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            op::PROTO => match self.take()? {
                [2..=5] => {}
                [found] => {
                    return Err(self.wrong(format!("pickle protocol {found} is not read, 2 to 5 are")));
                }
            },
            op::FRAME => drop(self.take::<8>()?),

            op::NONE => self.stack.push(Value::None),
            op::NEWTRUE => self.stack.push(Value::Bool(true)),
            op::NEWFALSE => self.stack.push(Value::Bool(false)),
            op::BININT => {
                let value = i32::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(value.into()));
            }
            op::BININT1 => {
                let [value] = self.take()?;
                self.stack.push(Value::Int(value.into()));
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(value.into()));
            }
            op::INT => {
                let line = self.line()?;
                let value =
                    text(self.bytes, line).parse().map_err(|_| self.wrong("INT is no integer".into()));
                self.stack.push(Value::Int(value?));
            }
            op::LONG1 | op::LONG4 => {
                let digits = if opcode == op::LONG1 { self.span::<1>()? } else { self.span::<4>()? };
                self.stack.push(self.long(digits));
            }
            op::BINFLOAT => {
                self.take::<8>()?;
                self.stack.push(Value::Opaque);
            }

            op::SHORT_BINUNICODE => self.unicode::<1>()?,
            op::BINUNICODE => self.unicode::<4>()?,
            op::BINUNICODE8 => self.unicode::<8>()?,
            op::SHORT_BINSTRING => self.string::<1>()?,
            op::BINSTRING => self.string::<4>()?,
            op::SHORT_BINBYTES => self.opaque_bytes::<1>()?,
            op::BINBYTES => self.opaque_bytes::<4>()?,
            op::BINBYTES8 | op::BYTEARRAY8 => self.opaque_bytes::<8>()?,

            op::MARK => self.marks.push(self.stack.len()),
            op::POP => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            op::POP_MARK => drop(self.pop_mark()?),
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }
            op::BINPUT => {
                let [index] = self.take()?;
                self.put(index.into())?;
            }
            op::LONG_BINPUT => {
                let index = u32::from_le_bytes(self.take()?);
                self.put(index)?;
            }
            op::MEMOIZE => self.put(self.memo.len() as u32)?,
            op::BINGET => {
                let [index] = self.take()?;
                self.get(index.into())?;
            }
            op::LONG_BINGET => {
                let index = u32::from_le_bytes(self.take()?);
                self.get(index)?;
            }

            op::EMPTY_TUPLE => self.tuple(Vec::new()),
            op::TUPLE => {
                let items = self.pop_mark()?;
                self.tuple(items);
            }
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0..=opcode - op::TUPLE1 {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.tuple(items);
            }
            op::EMPTY_LIST => self.list(Vec::new()),
            op::LIST => {
                let items = self.pop_mark()?;
                self.list(items);
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            op::APPENDS => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            op::EMPTY_DICT => {
                let dict = self.dict(Vec::new());
                self.stack.push(dict);
            }
            op::DICT => {
                let items = self.pop_mark()?;
                let dict = self.dict(Vec::new());
                self.stack.push(dict);
                self.set_items(items)?;
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            op::SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            op::EMPTY_SET => self.stack.push(Value::Opaque),
            op::ADDITEMS => {
                self.pop_mark()?;
                if self.top()? != Value::Opaque {
                    return Err(self.wrong("ADDITEMS to something that is no set".into()));
                }
            }
            op::FROZENSET => {
                self.pop_mark()?;
                self.stack.push(Value::Opaque);
            }

            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.global("GLOBAL", module, name)?;
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Str(module), Value::Str(name)) = (module, name) else {
                    return Err(self.wrong("STACK_GLOBAL needs two strings".into()));
                };
                self.global("STACK_GLOBAL", module, name)?;
            }
            op::REDUCE => {
                let (args, function) = (self.pop()?, self.pop()?);
                let (Value::Global(function), Value::Tuple(args)) = (function, args) else {
                    return Err(self.code("REDUCE", &function.kind()));
                };
                let value = self.reduce(function, args)?;
                self.stack.push(value);
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let storage = self.persistent(id)?;
                self.stack.push(storage);
            }
            op::BUILD => {
                // An OrderedDict of a module has its `_metadata` as an attribute.
                let (state, object) = (self.pop()?, self.top()?);
                if !matches!((state, object), (Value::Dict(_), Value::Dict(_))) {
                    return Err(self.code("BUILD", &object.kind()));
                }
            }
            other => return Err(self.refusal(other)),
        }
        Ok(())
    }

    /// The error for an opcode that is not run.
    fn refusal(&mut self, opcode: u8) -> Error {
        let Some(name) = op::refused(opcode) else {
            return self.wrong(format!("0x{opcode:02x} is not an opcode of pickle"));
        };
        let global = match opcode {
            op::INST => match (self.line(), self.line()) {
                (Ok(module), Ok(name)) => {
                    format!("{}.{}", text(self.bytes, module), text(self.bytes, name))
                }
                _ => "of an unreadable name".into(),
            },
            // The class lies below its arguments.
            op::OBJ => self
                .marks
                .last()
                .and_then(|&mark| self.stack.get(mark))
                .map_or_else(String::new, |v| v.kind()),
            op::NEWOBJ | op::NEWOBJ_EX => {
                let below = if opcode == op::NEWOBJ { 2 } else { 3 };
                let class = self.stack.len().checked_sub(below).map(|i| self.stack[i]);
                class.map_or_else(String::new, |v| v.kind())
            }
            0x82..=0x84 => "of the extension registry".into(),
            _ => {
                let message = format!("opcode {name} is not written by torch.save at protocols 2 to 5");
                return self.wrong(message);
            }
        };
        self.code(name, &global)
    }

    fn global(&mut self, opcode: &str, module: Text, name: Text) -> Result<()> {
        let (module, name) = (text(self.bytes, module), text(self.bytes, name));
        match Global::find(module, name) {
            Some(global) => self.stack.push(Value::Global(global)),
            None => return Err(self.code(opcode, &format!("{module}.{name}"))),
        }
        Ok(())
    }

    /// Counts work, so that a short file cannot cause much of it.
    pub fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            return Err(self.wrong(format!("the pickle takes more than {MAX_STEPS} steps")));
        }
        Ok(())
    }

    /// The error for something that only running code could do.
    pub fn code(&self, opcode: &str, global: &str) -> Error {
        // Names come from the file: control characters would let it write to the terminal.
        let global: String = global.chars().take(200).flat_map(char::escape_default).collect();
        let what = if global.is_empty() { opcode.to_owned() } else { format!("{opcode} {global}") };
        let at = self.opcode_at;
        let message =
            format!("{what} at byte {at}: this file would execute code; only tensors are read\n{HINT}");
        Error::malformed(self.label, message)
    }

    /// The error for a pickle that is not sound.
    pub fn wrong(&self, message: String) -> Error {
        Error::malformed(self.label, format!("pickle at byte {}: {message}", self.opcode_at))
    }

    pub fn text(&self, at: Text) -> &str {
        text(self.bytes, at)
    }
}
