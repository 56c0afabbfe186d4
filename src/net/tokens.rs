//! What the poll's tokens say: whose event it is.
//!
//! ```text
//!   63          32 31     28 27        0
//!   | generation  | service |   slot   |     a connection
//!   | number      | service |   ones   |     a listener
//!   |      0      |   15    |  other   |     the loop's own
//! ```

use mio::Token;

use crate::engine::ConnId;

/// Services of one reactor; the number above is the loop's own.
pub(super) const SERVICES_MAX: usize = 15;

const SLOT_BITS: u32 = 28;

/// A slot beyond every connection's.
const SLOT_LISTENER: u32 = (1 << SLOT_BITS) - 1;

/// Connections of one service. Slots are fewer than twice as many: a dial over the limit takes one for a turn.
pub(super) const CONNS_MAX: usize = 1 << (SLOT_BITS - 1);

pub(super) const WAKER: Token = Token(u32::MAX as usize - 1);
pub(super) const SIGNALS: Token = Token(u32::MAX as usize - 2);

/// What of a service an event is about.
pub(super) enum Of {
    Conn(ConnId),
    Listener(usize),
}

pub(super) fn of_conn(service: usize, id: ConnId) -> Token {
    assert!(
        id.slot() < SLOT_LISTENER as usize,
        "slots are kept in bounds"
    );
    Token(id.to_token() as usize | service << SLOT_BITS)
}

pub(super) fn of_listener(service: usize, number: usize) -> Token {
    Token(number << 32 | service << SLOT_BITS | SLOT_LISTENER as usize)
}

pub(super) fn service(Token(token): Token) -> usize {
    (token as u32 >> SLOT_BITS) as usize
}

pub(super) fn what(Token(token): Token) -> Of {
    let (upper, slot) = (token >> 32, token as u32 & SLOT_LISTENER);
    match slot {
        SLOT_LISTENER => Of::Listener(upper),
        _ => Of::Conn(ConnId::from_token((upper << 32) as u64 | u64::from(slot))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_what_they_are_of() {
        for number in 0..SERVICES_MAX {
            for word in [0, 7 << 32 | 9, u64::MAX << 32 | (1 << 27)] {
                let token = of_conn(number, ConnId::from_token(word));
                assert_eq!(service(token), number);
                assert!(matches!(what(token), Of::Conn(id) if id.to_token() == word));
            }
            let token = of_listener(number, 3);
            assert_eq!(service(token), number);
            assert!(matches!(what(token), Of::Listener(3)));
        }
        assert_eq!([service(WAKER), service(SIGNALS)], [SERVICES_MAX; 2]);
    }
}
