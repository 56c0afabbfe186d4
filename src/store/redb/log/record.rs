//! How the changes of a commit are written in its record of the log.
//!
//! ```text
//! record = VERSION item*          bytes = length (u32, little-endian), so many bytes
//! item   = TABLE bytes            the name of the table of the changes that follow
//!        | PUT bytes bytes        key, value
//!        | REMOVE bytes           key
//!        | DIRECT bytes           key; its value is in the table
//! ```

use bytes::Bytes;

use super::{Bounds, Logged};
use crate::store::{Change, KEY_BYTES_MAX, Key, VALUE_BYTES_MAX};

const VERSION: u8 = 1;

const TABLE: u8 = 0;
const PUT: u8 = 1;
const REMOVE: u8 = 2;
const DIRECT: u8 = 3;

const _: () = assert!(VALUE_BYTES_MAX <= u32::MAX as usize && KEY_BYTES_MAX <= VALUE_BYTES_MAX);

/// Writes a record. Also returns the positions of the direct changes, ascending.
pub(super) fn write(changes: &[Change], bounds: Bounds) -> (Vec<u8>, Vec<usize>) {
    let (mut record, mut direct, mut table) = (vec![VERSION], Vec::new(), None);
    for (at, change) in changes.iter().enumerate() {
        if table != Some(change.table) {
            record.push(TABLE);
            put_bytes(&mut record, change.table.name().as_bytes());
            table = Some(change.table);
        }
        let key = change.key.as_slice();
        match &change.value {
            Some(value) if is_direct(value, record.len(), bounds) => {
                direct.push(at);
                record.push(DIRECT);
                put_bytes(&mut record, key);
            }
            Some(value) => {
                record.push(PUT);
                put_bytes(&mut record, key);
                put_bytes(&mut record, value);
            }
            None => {
                record.push(REMOVE);
                put_bytes(&mut record, key);
            }
        }
    }
    (record, direct)
}

fn is_direct(value: &Bytes, record_bytes: usize, bounds: Bounds) -> bool {
    let beside = bounds.record_bytes_max.saturating_sub(record_bytes);
    value.len() > bounds.logged_bytes_max.min(beside)
}

/// Hands over the changes of a record: table, key and logged value, `None` for a direct change. Returns `None` if this is
/// not a record; what was handed over until then is void.
pub(super) fn read(
    mut record: &[u8],
    mut each: impl FnMut(&str, (Key, Option<Logged>)),
) -> Option<()> {
    let rest = &mut record;
    let mut table = None;
    if take(rest, 1)? != [VERSION] {
        return None;
    }
    while let Some(&kind) = rest.split_off_first() {
        let bytes = take_bytes(rest)?;
        let logged = match kind {
            TABLE => {
                table = Some(str::from_utf8(bytes).ok()?);
                continue;
            }
            PUT => Some(Some(Bytes::copy_from_slice(take_bytes(rest)?))),
            REMOVE => Some(None),
            DIRECT => None,
            _ => return None,
        };
        each(table?, (Key::from(bytes), logged));
    }
    Some(())
}

fn put_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys, values and names have limits");
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take(rest, 4)?.try_into().ok()?;
    take(rest, usize::try_from(u32::from_le_bytes(len)).ok()?)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    rest.split_off(..len)
}
