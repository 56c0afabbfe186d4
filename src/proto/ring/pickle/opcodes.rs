//! The opcodes of a pickle: which are executed, and which are refused and why.
//!
//! For: two tables. [`argument`] lists every opcode that is executed, with the form of its argument; [`refusal`] names all
//! others, which import or call something, or build a type that no message has. Not for: executing.
//!
//! Invariant: an opcode stands in one of the two tables at most; a byte in neither is no opcode.

use crate::proto::ring::encoding::Refusal;

/// The highest protocol there is (Python 3.8).
pub(in crate::proto::ring) const PROTOCOL_MAX: u8 = 5;

pub(in crate::proto::ring) const PROTO: u8 = 0x80;
pub(in crate::proto::ring) const MARK: u8 = b'(';
pub(in crate::proto::ring) const TUPLE: u8 = b't';
pub(in crate::proto::ring) const LIST: u8 = b'l';
pub(in crate::proto::ring) const NONE: u8 = b'N';
pub(super) const STOP: u8 = b'.';
pub(super) const FRAME: u8 = 0x95;

/// What follows an opcode.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    None,
    /// So many bytes.
    Fixed(usize),
    /// All up to a line feed.
    Line,
    /// A little-endian length of so many bytes, and then so many bytes.
    Counted(usize),
}

/// What follows opcode `op`, if it is executed.
pub(super) fn argument(op: u8) -> Result<Argument, Refusal> {
    Ok(match op {
        b'(' | b')' | b'.' | b'N' | b']' | b'a' | b'e' | b'l' | b't' | 0x85..=0x89 | 0x94 => {
            Argument::None
        }
        b'K' | b'q' | b'h' | PROTO => Argument::Fixed(1),
        b'M' => Argument::Fixed(2),
        b'J' | b'r' | b'j' => Argument::Fixed(4),
        b'G' | FRAME => Argument::Fixed(8),
        b'F' | b'I' | b'L' | b'S' | b'V' | b'g' | b'p' => Argument::Line,
        b'U' | b'C' | 0x8a | 0x8c => Argument::Counted(1),
        b'T' | b'X' | b'B' | 0x8b => Argument::Counted(4),
        0x8d | 0x8e => Argument::Counted(8),
        _ => return Err(unknown(op)),
    })
}

/// What the refused opcode `op` would do, and whether that imports or calls something; `None` for one that is executed or
/// does not exist.
const fn refusal(op: u8) -> Option<(&'static str, bool)> {
    Some(match op {
        b'c' => ("pickle opcode GLOBAL, which imports a name", true),
        0x93 => ("pickle opcode STACK_GLOBAL, which imports a name", true),
        b'i' => ("pickle opcode INST, which makes an object", true),
        b'o' => ("pickle opcode OBJ, which makes an object", true),
        b'R' => ("pickle opcode REDUCE, which calls a function", true),
        b'b' => ("pickle opcode BUILD, which changes an object", true),
        0x81 => ("pickle opcode NEWOBJ, which makes an object", true),
        0x92 => ("pickle opcode NEWOBJ_EX, which makes an object", true),
        0x82 => ("pickle opcode EXT1, which imports a name", true),
        0x83 => ("pickle opcode EXT2, which imports a name", true),
        0x84 => ("pickle opcode EXT4, which imports a name", true),
        b'P' => ("pickle opcode PERSID, which calls a function", true),
        b'Q' => ("pickle opcode BINPERSID, which calls a function", true),
        b'd' => ("pickle opcode DICT", false),
        b'}' => ("pickle opcode EMPTY_DICT", false),
        b's' => ("pickle opcode SETITEM", false),
        b'u' => ("pickle opcode SETITEMS", false),
        0x8f => ("pickle opcode EMPTY_SET", false),
        0x90 => ("pickle opcode ADDITEMS", false),
        0x91 => ("pickle opcode FROZENSET", false),
        0x96 => ("pickle opcode BYTEARRAY8", false),
        0x97 => ("pickle opcode NEXT_BUFFER", false),
        0x98 => ("pickle opcode READONLY_BUFFER", false),
        b'0' => ("pickle opcode POP", false),
        b'1' => ("pickle opcode POP_MARK", false),
        b'2' => ("pickle opcode DUP", false),
        _ => return None,
    })
}

pub(super) fn unknown(op: u8) -> Refusal {
    match refusal(op) {
        Some((what, _)) => Refusal::Opcode(what),
        None => Refusal::Malformed("pickle opcode that does not exist"),
    }
}

/// Whether a pickle may have `op` at all, executed by us or not.
pub(in crate::proto::ring) fn is_opcode(op: u8) -> bool {
    argument(op).is_ok() || refusal(op).is_some()
}

/// What executing `op` would import or call.
pub(in crate::proto::ring) fn call(op: u8) -> Option<&'static str> {
    refusal(op).and_then(|(what, calls)| calls.then_some(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opcode_is_executed_or_refused_and_not_both() {
        let executed = |op: &u8| argument(*op).is_ok();
        let refused = |op: &u8| refusal(*op).is_some();
        assert!(!(0..=u8::MAX).any(|op| executed(&op) && refused(&op)));
        // All that protocol 5 has.
        assert_eq!((0..=u8::MAX).filter(is_op).count(), 68);
        fn is_op(op: &u8) -> bool {
            is_opcode(*op)
        }
        for op in *b"cioRbPQ\x81\x82\x83\x84\x92\x93" {
            assert!(call(op).is_some(), "{op:#x} imports or calls");
        }
    }
}
